//! Stored functions, procedures and triggers, as far as they matter to a statement that runs them: whether they only read, and
//! whether they may take a named lock, let one go, or give a user variable a value in a way that no session tracker tells of.
//! Pure. What a routine declares of itself (READS SQL DATA) the server does not enforce, so its body is read as well.

use std::collections::HashMap;

use super::expression::Findings;
use super::names::Folded;
use super::scan::TokenKind;
use super::variables::{self, Assigned};
use super::walk::Walk;
use super::{Cause, Dialect, Effect, Kind, Reason, Release, Statement};

/// A routine as `information_schema.ROUTINES` shows it, or a trigger as `information_schema.TRIGGERS` does.
/// <https://dev.mysql.com/doc/refman/9.7/en/information-schema-routines-table.html>
#[derive(Clone, Copy, Debug)]
pub(crate) struct Routine<'a> {
    /// Nobody calls it by its name.
    pub(crate) is_trigger: bool,
    pub(crate) schema: &'a str,
    pub(crate) name: &'a str,
    /// A function that declares NO SQL or READS SQL DATA.
    pub(crate) declares_reading: bool,
    pub(crate) sql_mode: &'a str,
    /// None where it may not be seen or is too long.
    pub(crate) body: Option<&'a str>,
}

/// What is known of all routines of a server. Names without a schema stand for every routine of that name: which one a
/// session means depends on where it is.
#[derive(Debug, Default)]
pub(crate) struct Routines {
    by_name: HashMap<Box<[u8]>, Traits>,
    /// There is a trigger that may take a named lock. Which tables a statement writes nobody asks: their views, foreign keys
    /// and routines have triggers behind them too.
    triggers_lock: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Traits {
    only_reads: bool,
    may_lock: bool,
    may_unlock: bool,
    /// GET DIAGNOSTICS into user variables.
    diagnoses: bool,
}

/// What a routine does by itself, and whom it calls.
#[derive(Debug)]
struct Own {
    is_trigger: bool,
    names: [Box<[u8]>; 2],
    traits: Traits,
    calls: Vec<Box<[u8]>>,
}

impl Routines {
    /// `dialect` is how the server reads a text; each routine has the `sql_mode` that it was made with.
    pub(crate) fn new<'a>(routines: impl Iterator<Item = Routine<'a>>, dialect: Dialect) -> Self {
        let mut known: Vec<Own> = routines.map(|routine| Own::of(routine, dialect)).collect();
        // What a routine does, whoever calls it does: until nothing changes. Each round settles one routine at least.
        loop {
            let all = Self::named(&known);
            let mut changed = false;
            for own in &mut known {
                let traits = Traits {
                    only_reads: own.traits.only_reads && own.calls.iter().all(|name| all.only_reads(name)),
                    may_lock: own.traits.may_lock || own.calls.iter().any(|name| all.may_lock(name)),
                    may_unlock: own.traits.may_unlock || own.calls.iter().any(|name| all.may_unlock(name)),
                    diagnoses: own.traits.diagnoses || own.calls.iter().any(|name| all.diagnoses(name)),
                };
                changed |= traits != own.traits;
                own.traits = traits;
            }
            if !changed {
                return all;
            }
        }
    }

    fn named(known: &[Own]) -> Self {
        let mut by_name: HashMap<Box<[u8]>, Traits> = HashMap::with_capacity(2 * known.len());
        let triggers_lock = known.iter().any(|own| own.is_trigger && own.traits.may_lock);
        for Own { names, traits, .. } in known.iter().filter(|own| !own.is_trigger) {
            for name in names {
                let all = by_name.entry(name.clone()).or_insert(*traits);
                all.only_reads &= traits.only_reads;
                all.may_lock |= traits.may_lock;
                all.may_unlock |= traits.may_unlock;
                all.diagnoses |= traits.diagnoses;
            }
        }
        Self { by_name, triggers_lock }
    }

    fn only_reads(&self, name: &[u8]) -> bool {
        self.by_name.get(name).is_some_and(|traits| traits.only_reads)
    }

    fn may_lock(&self, name: &[u8]) -> bool {
        self.by_name.get(name).is_some_and(|traits| traits.may_lock)
    }

    fn may_unlock(&self, name: &[u8]) -> bool {
        self.by_name.get(name).is_some_and(|traits| traits.may_unlock)
    }

    fn diagnoses(&self, name: &[u8]) -> bool {
        self.by_name.get(name).is_some_and(|traits| traits.diagnoses)
    }

    /// Adds to a verdict what is known of the routines that the statement calls.
    pub(super) fn refine(&self, statement: &mut Statement) {
        if self.triggers_lock && statement.may_hide() {
            statement.effects.push(Effect::Pin(Cause::NamedLock(None)));
        }
        if statement.calls.is_empty() {
            return;
        }
        if statement.calls.iter().any(|name| self.may_lock(name)) {
            statement.effects.push(Effect::Pin(Cause::NamedLock(None)));
        } else if statement.calls.iter().any(|name| self.may_unlock(name)) {
            statement.effects.push(Effect::Release(Release::NamedLock(None)));
        }
        if statement.calls.iter().any(|name| self.diagnoses(name)) {
            statement.effects.push(Effect::Pin(Cause::UserVariable(None)));
        }
        let only_calls = statement.reason == Reason::UnknownFunction
            && statement.effects.is_empty()
            && !statement.several
            && !statement.needs.previous;
        if only_calls && statement.calls.iter().all(|name| self.only_reads(name)) {
            (statement.kind, statement.reason) = (Kind::Read, Reason::StoredFunction);
        }
    }
}

impl Own {
    fn of(routine: Routine<'_>, dialect: Dialect) -> Self {
        let name = routine.name.to_ascii_lowercase();
        let qualified = format!("{}.{name}", routine.schema.to_ascii_lowercase());
        let mut dialect = Dialect { charset: super::Charset::AsciiSafe, ..dialect };
        dialect.read_sql_mode(routine.sql_mode.as_bytes());
        let (traits, calls) = match routine.body {
            Some(body) => judge(body.as_bytes(), routine.declares_reading, dialect),
            None => {
                (Traits { only_reads: false, may_lock: true, may_unlock: true, diagnoses: false }, Vec::new())
            }
        };
        let is_trigger = routine.is_trigger;
        Self {
            is_trigger,
            names: [name, qualified].map(|name| name.into_bytes().into_boxed_slice()),
            traits,
            calls,
        }
    }
}

/// Reads a body. In doubt it does more than read.
fn judge(body: &[u8], declares_reading: bool, dialect: Dialect) -> (Traits, Vec<Box<[u8]>>) {
    let mut walk = Walk::of_routine(body, dialect);
    let mut findings = Findings::default();
    let (mut writes, mut diagnoses) = (false, false);
    while let Some(token) = walk.next_of_routine() {
        match Folded::keyword(&token).as_str() {
            "call" => {
                walk.take();
                let name = walk.table();
                walk.calls.push(name);
                writes = true;
            }
            "set" => {
                walk.take();
                writes |= walk.sets_more_than_locals(&mut findings);
            }
            "get" => {
                walk.take();
                diagnoses |= walk.next_diagnoses();
                writes = true;
            }
            "create" | "drop" | "alter" | "truncate" | "rename" | "prepare" | "execute" | "lock"
            | "unlock" | "grant" | "revoke" | "flush" | "start" | "commit" | "rollback" | "savepoint"
            | "xa" | "kill" => {
                walk.take();
                // TRUNCATE(x, 2)
                writes |= !walk.next_is_sign(b'(');
            }
            // Words of the routine's own, with an expression behind them that may be in parentheses.
            "return" | "while" | "until" | "elseif" | "do" => drop(walk.take()),
            // DECLARE .. HANDLER FOR is none.
            "handler" => {
                walk.take();
                writes |= !walk.next_is("for");
            }
            _ => walk.expression_token(&mut findings),
        }
    }
    let is_lock = |effect: &Effect| matches!(effect, Effect::Pin(Cause::NamedLock(_)));
    let may_lock = walk.effects.iter().any(is_lock);
    let is_unlock =
        |effect: &Effect| matches!(effect, Effect::Release(Release::NamedLock(_) | Release::AllNamedLocks));
    let may_unlock = walk.effects.iter().any(is_unlock);
    let harmless = findings.write().is_none_or(|reason| reason == Reason::UnknownFunction)
        && walk.effects.is_empty()
        && !walk.needs.user_variables
        && !walk.needs.previous
        && !walk.needs.last_insert_id
        && !walk.reads_system_variables
        && !walk.is_malformed();
    let only_reads = declares_reading && harmless && !writes;
    (Traits { only_reads, may_lock, may_unlock, diagnoses }, walk.calls)
}

impl<'a> Walk<'a> {
    /// Behind GET in a routine: true when a user variable is given a value.
    fn next_diagnoses(&mut self) -> bool {
        let mut found = false;
        while self.peek().is_some_and(|token| !token.is_sign(b';')) {
            let token = self.take();
            found |=
                token.is_some_and(|token| token.kind == TokenKind::UserVariable) && self.next_is_sign(b'=');
        }
        found
    }

    /// Behind SET in a routine: true unless every name may be a variable of the routine's own.
    fn sets_more_than_locals(&mut self, findings: &mut Findings<'a>) -> bool {
        let mut more = false;
        loop {
            let Some(name) = self.take() else { return true };
            more |= !name.is_name() || variables::assigned(Folded::name(&name).as_str()) != Assigned::Unknown;
            more |= !self.peek().is_some_and(|token| token.is_assignment());
            self.walk_on(findings, true);
            if !self.accept_sign(b',') {
                return more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Classifier, Route};
    use super::*;

    /// Functions that declare to read, by `schema.name`, and their bodies.
    fn routines(bodies: &[(&'static str, &'static str)]) -> Routines {
        let routine = |&(name, body): &(&'static str, &'static str)| {
            let (schema, name) = name.split_once('.').expect("schema.name");
            let is_trigger = schema == "trigger";
            Routine { is_trigger, schema, name, declares_reading: true, sql_mode: "", body: Some(body) }
        };
        Routines::new(bodies.iter().map(routine), Dialect::for_tests())
    }

    fn check(bodies: &[(&'static str, &'static str)], statements: &[(&str, Route)]) {
        let classifier = Classifier::new(10);
        for (sql, _) in statements {
            assert_ne!(
                classifier.classify(sql.as_bytes(), Dialect::for_tests()).route(),
                Route::Read,
                "{sql}"
            );
        }
        classifier.learn_routines(routines(bodies));
        for (sql, expected) in statements {
            let found = classifier.classify(sql.as_bytes(), Dialect::for_tests()).route();
            assert_eq!(found, *expected, "{sql} with {bodies:?}");
        }
    }

    /// One function `f` with this body, called by a read.
    fn only_reads(body: &'static str) -> bool {
        routines(&[("d.f", body)]).only_reads(b"f")
    }

    #[test]
    fn bodies_that_only_read() {
        for body in [
            "RETURN CONCAT('Hello, ', s, '!')",
            "BEGIN DECLARE n INT DEFAULT 0; SELECT COUNT(*) INTO n FROM t WHERE a = p; RETURN n; END",
            "BEGIN DECLARE x, y DECIMAL(10,2); SET x = 1, y = x + 2; IF x > y THEN RETURN x; END IF; RETURN y; END",
            "BEGIN DECLARE done INT DEFAULT FALSE; DECLARE c CURSOR FOR SELECT a FROM t; \
             DECLARE CONTINUE HANDLER FOR NOT FOUND SET done = TRUE; OPEN c; FETCH c INTO x; CLOSE c; RETURN x; END",
            "RETURN TRUNCATE(REPLACE(a, 'insert', 'GET_LOCK'), 2)",
        ] {
            assert!(only_reads(body), "{body}");
        }
    }

    #[test]
    fn bodies_that_do_more() {
        for body in [
            "BEGIN INSERT INTO t VALUES (1); RETURN 1; END",
            "BEGIN UPDATE t SET a = 1; RETURN 1; END",
            "BEGIN DECLARE n INT; SELECT a INTO n FROM t LIMIT 1 FOR UPDATE; RETURN n; END",
            "BEGIN SET @n = 1; RETURN 1; END",
            "BEGIN SELECT 1 INTO @n; RETURN 1; END",
            "RETURN @n",
            "RETURN @@server_id",
            "BEGIN SET sql_mode = ''; RETURN 1; END",
            "BEGIN SET a = 1, SESSION b = 2; RETURN 1; END",
            "BEGIN CREATE TEMPORARY TABLE x (a INT); RETURN 1; END",
            "RETURN GET_LOCK('a', 1)",
            "RETURN LAST_INSERT_ID()",
            "RETURN FOUND_ROWS()",
            "RETURN CONNECTION_ID()",
            "RETURN nobody_knows(1)",
            "BEGIN CALL p(); RETURN 1; END",
            "BEGIN DECLARE n INT; GET DIAGNOSTICS n = NUMBER; RETURN n; END",
            "RETURN 'text without an end",
        ] {
            assert!(!only_reads(body), "{body}");
        }
    }

    #[test]
    fn statements_that_call_them() {
        let bodies = [
            ("d.reads", "RETURN (SELECT MAX(a) FROM t)"),
            ("d.calls", "RETURN reads() + 1"),
            ("d.locks", "RETURN get_lock('x', 1)"),
            ("d.hidden", "BEGIN CALL locks_too; RETURN 1; END"),
            ("d.locks_too", "DO d.locks()"),
            ("d.shared_name", "RETURN 1"),
            ("e.shared_name", "BEGIN DELETE FROM t; RETURN 1; END"),
            (
                "d.says_why",
                "BEGIN DECLARE EXIT HANDLER FOR SQLEXCEPTION GET STACKED DIAGNOSTICS CONDITION 1 @w = MESSAGE_TEXT; INSERT INTO t VALUES (1); END",
            ),
            ("d.says_why_too", "BEGIN CALL says_why(); END"),
            (
                "d.knows_why",
                "BEGIN DECLARE w TEXT; GET DIAGNOSTICS CONDITION 1 w = MESSAGE_TEXT; SELECT w; END",
            ),
        ];
        check(
            &bodies,
            &[
                ("SELECT reads()", Route::Read),
                ("SELECT a FROM t WHERE d.`Reads`() > 1", Route::Read),
                ("SELECT calls(), reads()", Route::Read),
                ("SELECT reads() FROM t FOR UPDATE", Route::Write),
                ("SELECT reads(), unknown()", Route::Write),
                ("SELECT reads(); DELETE FROM t", Route::Write),
                ("SELECT reads() INTO @a", Route::Pin),
                ("SELECT shared_name()", Route::Write),
                ("SELECT d.shared_name()", Route::Read),
                ("SELECT e.shared_name()", Route::Write),
                ("SELECT locks()", Route::Pin),
                ("DO hidden()", Route::Pin),
                ("CALL locks_too", Route::Pin),
                ("CALL d.locks_too()", Route::Pin),
                ("INSERT INTO t VALUES (locks())", Route::Pin),
                ("CALL reads()", Route::Write),
                ("SET sql_mode = reads()", Route::Write),
                ("PREPARE s FROM 'DO locks()'", Route::Pin),
                ("CALL says_why()", Route::Pin),
                ("CALL d.says_why_too()", Route::Pin),
                ("CALL knows_why()", Route::Write),
            ],
        );
    }

    #[test]
    fn locks_that_triggers_take() {
        let check = |bodies: &[(&'static str, &'static str)], writes: Route| {
            let classifier = Classifier::new(10);
            classifier.learn_routines(routines(bodies));
            for (sql, expected) in
                [("CALL p()", writes), ("INSERT INTO t VALUES (1)", writes), ("SELECT a FROM t", Route::Read)]
            {
                let found = classifier.classify(sql.as_bytes(), Dialect::for_tests()).route();
                assert_eq!(found, expected, "{sql} with {bodies:?}");
            }
        };
        check(&[("trigger.t", "SET NEW.a = 1")], Route::Write);
        check(&[("trigger.t", "SET NEW.a = GET_LOCK('a', 1)")], Route::Pin);
        check(&[("trigger.t", "CALL d.l()"), ("d.l", "DO GET_LOCK('a', 1)")], Route::Pin);
    }

    #[test]
    fn locks_that_they_let_go() {
        let classifier = Classifier::new(10);
        classifier.learn_routines(routines(&[
            ("d.lets_go", "DO RELEASE_LOCK(name)"),
            ("d.lets_all_go", "BEGIN CALL lets_go('a'); DO RELEASE_ALL_LOCKS(); END"),
            ("d.passes", "BEGIN DO GET_LOCK('a', 1); CALL lets_go('a'); END"),
            ("d.nothing", "RETURN IS_FREE_LOCK('a')"),
        ]));
        let release = Effect::Release(Release::NamedLock(None));
        for (sql, effects) in [
            ("CALL lets_go('a')", vec![release.clone()]),
            ("CALL d.lets_all_go()", vec![release]),
            ("CALL passes()", vec![Effect::Pin(Cause::NamedLock(None))]),
            ("SELECT nothing()", Vec::new()),
        ] {
            let statement = classifier.classify(sql.as_bytes(), Dialect::for_tests());
            assert_eq!(statement.effects, effects, "{sql}");
        }
    }
}
