//! Stored functions, procedures, triggers and views, as far as they matter to a statement that comes to run them: whether they
//! only read, and whether they may take a named lock, let one go, or leave something in the session. Pure. What a routine
//! declares of itself (READS SQL DATA) the server does not enforce, so its body is read as well. A view is to whoever reads it what
//! a function is to whoever calls it.

use std::collections::{BTreeMap, HashMap};
use std::ops::BitOr;

use super::expression::Findings;
use super::names::Folded;
use super::scan::TokenKind;
use super::variables::{self, Assigned};
use super::walk::Walk;
use super::{Cause, Dialect, Effect, Kind, Reason, Release, Statement};
use crate::model::routine::{Routine, RoutineKind};

/// Views by their names, as in [`Statement::calls`]; true for those that are known to do more than read tables.
pub(super) type Views = BTreeMap<Box<[u8]>, bool>;

/// There are none, or nobody knows of them.
pub(super) static NO_VIEWS: Views = Views::new();

/// What is known of all routines of a server. Names without a schema stand for every routine of that name: which one a
/// session means depends on where it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Routines {
    by_name: HashMap<Box<[u8]>, Traits>,
    /// Views that come to run a routine or do more than read, or may. All others are tables to whoever reads them.
    views: Views,
    /// What triggers do. Which tables a statement writes nobody asks: their views, foreign keys and routines have triggers behind
    /// them too.
    triggers: Traits,
    /// No trigger and no view is missing.
    complete: bool,
}

/// What a routine may do, by itself or by those it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traits(u8);

impl Traits {
    /// It does more than read.
    const WRITES: Self = Self(1);
    /// It changes rows, and so runs triggers.
    const CHANGES: Self = Self(1 << 1);
    /// It takes a named lock.
    const LOCKS: Self = Self(1 << 2);
    const UNLOCKS: Self = Self(1 << 3);
    /// GET DIAGNOSTICS into user variables, of which servers do not tell.
    const DIAGNOSES: Self = Self(1 << 4);
    /// It leaves something in the session.
    const LEAVES: Self = Self(1 << 5);
    /// It asks for LAST_INSERT_ID().
    const INSERT_ID: Self = Self(1 << 6);
    /// It is no view, or a view that runs routines.
    const RUNS: Self = Self(1 << 7);

    /// Of what is not known: a loadable function, most likely.
    const UNKNOWN: Self = Self(Self::WRITES.0 | Self::CHANGES.0 | Self::LEAVES.0 | Self::RUNS.0);

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn only(self, found: bool) -> Self {
        if found { self } else { Self::default() }
    }
}

impl BitOr for Traits {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a routine does by itself, and whom it runs.
#[derive(Debug)]
struct Own {
    kind: RoutineKind,
    names: [Box<[u8]>; 2],
    traits: Traits,
    calls: Vec<Box<[u8]>>,
}

impl Routines {
    /// `dialect` is how the server reads a text; each routine has the `sql_mode` that it was made with. `complete`: no trigger and
    /// no view is missing.
    pub(crate) fn new(routines: &[Routine], complete: bool, dialect: Dialect) -> Self {
        // Where views may be hidden, none of those that show no body is worth a thought: they are tables until a replica refuses.
        let known =
            routines.iter().filter(|one| complete || one.kind != RoutineKind::View || one.body.is_some());
        let views = known.clone().filter(|one| one.kind == RoutineKind::View).flat_map(names);
        let views = views.map(|name| (name, true)).collect();
        let mut known: Vec<Own> = known.map(|routine| Own::of(routine, &views, dialect)).collect();
        // What a routine does, whoever runs it does: until nothing changes. Each round settles one routine at least.
        loop {
            let all = Self::named(&known, complete);
            let mut changed = false;
            for own in &mut known {
                let traits = own.traits | all.of_all(&own.calls);
                changed |= traits != own.traits;
                own.traits = traits;
            }
            if !changed {
                return all;
            }
        }
    }

    fn named(known: &[Own], complete: bool) -> Self {
        let mut all = Self { complete, ..Self::default() };
        for Own { kind, names, traits, .. } in known {
            match kind {
                RoutineKind::Trigger => {
                    all.triggers = all.triggers | *traits;
                    continue;
                }
                RoutineKind::View if *traits != Traits::default() => {
                    let does_more = traits.has(Traits::WRITES | Traits::RUNS);
                    for name in names {
                        *all.views.entry(name.clone()).or_default() |= does_more;
                    }
                }
                RoutineKind::View | RoutineKind::Called => {}
            }
            for name in names {
                let found = all.by_name.entry(name.clone()).or_default();
                *found = *found | *traits;
            }
        }
        all
    }

    /// What all of these do together.
    fn of_all(&self, names: &[Box<[u8]>]) -> Traits {
        let of = |name| self.by_name.get(name).copied().unwrap_or(Traits::UNKNOWN);
        names.iter().fold(Traits::default(), |all, name| all | of(name))
    }

    /// Views that a statement does not just read.
    pub(super) fn views(&self) -> &Views {
        &self.views
    }

    /// Adds to a verdict what is known of the routines that the statement runs.
    pub(super) fn refine(&self, statement: &mut Statement) {
        let traits = self.of_all(&statement.calls);
        let changes = statement.reason == Reason::ChangesData || traits.has(Traits::CHANGES);
        if traits.has(Traits::LOCKS) || self.triggers.has(Traits::LOCKS) && statement.may_hide() {
            statement.effects.push(Effect::Pin(Cause::NamedLock(None)));
        } else if traits.has(Traits::UNLOCKS) {
            statement.effects.push(Effect::Release(Release::NamedLock(None)));
        }
        if traits.has(Traits::DIAGNOSES) {
            statement.effects.push(Effect::Pin(Cause::UserVariable(None)));
        }
        statement.needs.last_insert_id |= traits.has(Traits::INSERT_ID);
        let only_calls = statement.reason == Reason::UnknownFunction
            && statement.effects.is_empty()
            && !statement.several
            && !statement.needs.previous;
        if only_calls && !traits.has(Traits::WRITES) {
            (statement.kind, statement.reason) = (Kind::Read, Reason::StoredFunction);
        }
        // Where nothing is known to run, a change of state says that something unknown has run.
        let known = match statement.reason {
            Reason::StoredFunction => true,
            Reason::ChangesData | Reason::CallsProcedure | Reason::UnknownFunction => {
                self.complete && !statement.several && !statement.calls.is_empty()
            }
            _ => false,
        };
        statement.leaves_nothing =
            known && !traits.has(Traits::LEAVES) && !(changes && self.triggers.has(Traits::LEAVES));
    }
}

/// `name` and `schema.name`, in lower case.
fn names(routine: &Routine) -> [Box<[u8]>; 2] {
    let name = routine.name.to_ascii_lowercase();
    let qualified = format!("{}.{name}", routine.schema.to_ascii_lowercase());
    [name, qualified].map(|name| name.into_bytes().into_boxed_slice())
}

impl Own {
    fn of(routine: &Routine, views: &Views, dialect: Dialect) -> Self {
        let mut dialect = Dialect { charset: super::Charset::AsciiSafe, ..dialect };
        dialect.read_sql_mode(routine.sql_mode.as_bytes());
        let (traits, calls) = match &routine.body {
            Some(body) => judge(body.as_bytes(), views, dialect),
            // A replica refuses what writes, and the server tells that something is left.
            None if routine.kind == RoutineKind::View => (Traits::LEAVES, Vec::new()),
            None => (Traits::UNKNOWN | Traits::LOCKS | Traits::UNLOCKS, Vec::new()),
        };
        let traits = traits
            | Traits::WRITES.only(!routine.declares_reading)
            | Traits::RUNS.only(routine.kind != RoutineKind::View);
        Self { kind: routine.kind, names: names(routine), traits, calls }
    }
}

/// Reads a body. In doubt it does more than read.
fn judge(body: &[u8], views: &Views, dialect: Dialect) -> (Traits, Vec<Box<[u8]>>) {
    let mut walk = Walk::of_routine(body, views, dialect);
    let mut findings = Findings::default();
    // What changes more than rows.
    let (mut acts, mut diagnoses) = (false, false);
    let mut calls = false;
    while let Some(token) = walk.next_of_routine() {
        match Folded::keyword(&token).as_str() {
            "call" => {
                walk.take();
                let name = walk.table();
                walk.calls.push(name);
                calls = true;
            }
            "set" => {
                walk.take();
                acts |= walk.sets_more_than_locals(&mut findings);
            }
            "get" => {
                walk.take();
                diagnoses |= walk.next_diagnoses();
                acts = true;
            }
            "create" | "drop" | "alter" | "truncate" | "rename" | "prepare" | "execute" | "lock"
            | "unlock" | "grant" | "revoke" | "flush" | "start" | "commit" | "rollback" | "savepoint"
            | "xa" | "kill" => {
                walk.take();
                // TRUNCATE(x, 2)
                acts |= !walk.next_is_sign(b'(');
            }
            // Words of the routine's own, with an expression behind them that may be in parentheses.
            "return" | "while" | "until" | "elseif" | "do" => drop(walk.take()),
            // DECLARE .. HANDLER FOR is none.
            "handler" => {
                walk.take();
                acts |= !walk.next_is("for");
            }
            _ => walk.expression_token(&mut findings),
        }
    }
    let is_lock = |effect: &Effect| matches!(effect, Effect::Pin(Cause::NamedLock(_)));
    let may_lock = walk.effects.iter().any(is_lock);
    let is_unlock =
        |effect: &Effect| matches!(effect, Effect::Release(Release::NamedLock(_) | Release::AllNamedLocks));
    let may_unlock = walk.effects.iter().any(is_unlock);
    let changes = findings.write().is_some_and(|reason| reason != Reason::UnknownFunction);
    let leaves = acts || !walk.effects.is_empty() || walk.needs.user_variables || walk.is_malformed();
    let asks = walk.needs.previous || walk.needs.last_insert_id || walk.reads_system_variables;
    let traits = Traits::WRITES.only(calls || changes || leaves || asks)
        | Traits::CHANGES.only(changes)
        | Traits::LOCKS.only(may_lock)
        | Traits::UNLOCKS.only(may_unlock)
        | Traits::DIAGNOSES.only(diagnoses)
        | Traits::LEAVES.only(leaves)
        | Traits::INSERT_ID.only(walk.needs.last_insert_id);
    (traits, walk.calls)
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
            let Some(mut name) = self.take() else { return true };
            // A column of the row that a trigger is about.
            if name.is("new") && self.accept_sign(b'.') {
                name = self.take().unwrap_or(name);
            }
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

    /// Functions that declare to read, by `schema.name`, and their bodies; views, whose bodies are in lower case.
    fn routines(bodies: &[(&'static str, &'static str)]) -> Routines {
        let routine = |&(name, body): &(&'static str, &'static str)| {
            let (schema, name) = name.split_once('.').expect("schema.name");
            let kind = match (schema, body) {
                ("trigger", _) => RoutineKind::Trigger,
                (_, body) if body.starts_with("select ") => RoutineKind::View,
                _ => RoutineKind::Called,
            };
            let [schema, name, body] = [schema, name, body].map(str::to_owned);
            Routine { kind, schema, name, declares_reading: true, sql_mode: String::new(), body: Some(body) }
        };
        let routines: Vec<Routine> = bodies.iter().map(routine).collect();
        Routines::new(&routines, true, Dialect::for_tests())
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
        !routines(&[("d.f", body)]).of_all(&[Box::from(*b"f")]).has(Traits::WRITES)
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
    fn views_that_statements_read() {
        let bodies = [
            ("d.plain", "select `d`.`t`.`a` AS `a` from `d`.`t`"),
            ("d.over_plain", "select `plain`.`a` AS `a` from `d`.`plain`"),
            ("d.locking", "select get_lock('a',1) AS `g`"),
            ("d.over_locking", "select 1 AS `one` from (`d`.`t` join `d`.`locking` on((`d`.`t`.`a` = 1)))"),
            ("d.writing", "select `d`.`writes`() AS `a`"),
            ("d.writes", "BEGIN INSERT INTO t VALUES (1); RETURN 1; END"),
            ("d.reading", "select `d`.`reads`() AS `a`"),
            ("d.reads", "RETURN (SELECT MAX(a) FROM plain)"),
            ("d.reads_locking", "RETURN (SELECT g FROM locking)"),
            ("d.unknown", "select `d`.`nobody_knows`() AS `a`"),
            (
                "d.local",
                "select `performance_schema`.`threads`.`NAME` AS `n` from `performance_schema`.`threads`",
            ),
            ("d.insert_id", "select last_insert_id() AS `i`"),
            ("d.locks_rows", "select `d`.`t`.`a` AS `a` from `d`.`t` for update"),
        ];
        let cases = [
            ("SELECT a FROM over_plain", Route::Read),
            ("SELECT * FROM t, d.`Locking`", Route::Pin),
            ("TABLE locking", Route::Pin),
            ("SELECT 1 FROM t WHERE a IN (SELECT g FROM (t2, locking))", Route::Pin),
            (
                "SELECT (SELECT 1 FROM t WHERE a = 1), g FROM t USE INDEX FOR ORDER BY (a), locking",
                Route::Pin,
            ),
            ("WITH x AS (SELECT a FROM t UNION SELECT g FROM locking) SELECT * FROM x", Route::Pin),
            ("SELECT 1 FROM over_locking", Route::Pin),
            ("INSERT INTO t SELECT g FROM locking", Route::Pin),
            ("DO (SELECT g FROM locking)", Route::Pin),
            ("SELECT reads_locking()", Route::Pin),
            ("PREPARE s FROM 'SELECT * FROM locking'", Route::Pin),
            ("CREATE TABLE n SELECT * FROM locking", Route::Pin),
            ("CREATE VIEW n AS SELECT * FROM locking", Route::Write),
            ("SHOW COLUMNS FROM locking", Route::Read),
            ("SHOW INDEX IN locking IN d WHERE Key_name = 'a'", Route::Read),
            ("DESCRIBE locking", Route::Read),
            ("SELECT locking, a.writing FROM t a WHERE a > 1 ORDER BY a, writing", Route::Read),
            ("SELECT a FROM t AS writing", Route::Read),
            ("SELECT a FROM writing w JOIN t", Route::Write),
            ("SELECT a FROM t STRAIGHT_JOIN writing", Route::Write),
            ("SELECT a FROM reading", Route::Read),
            ("SELECT reads(), a FROM reading", Route::Read),
            ("SELECT a FROM reading FOR UPDATE", Route::Write),
            ("SELECT a FROM `unknown`", Route::Write),
            ("SELECT n FROM local", Route::Write),
            ("SELECT a FROM locks_rows", Route::Write),
        ];
        let classifier = Classifier::new(10);
        classifier.learn_routines(routines(&bodies));
        for (sql, expected) in cases {
            let found = classifier.classify(sql.as_bytes(), Dialect::for_tests()).route();
            assert_eq!(found, expected, "{sql}");
        }
        let asks = classifier.classify(b"SELECT i FROM insert_id", Dialect::for_tests());
        assert!(asks.needs.last_insert_id && asks.kind == Kind::Write);
    }

    #[test]
    fn what_is_left_in_the_session() {
        let bodies = [
            ("d.plain", "select 1 AS `a`"),
            ("d.sets", "BEGIN SET @a = 1; RETURN 1; END"),
            ("d.setting", "select `d`.`sets`() AS `a`"),
            ("d.reads", "RETURN (SELECT a FROM t)"),
            ("d.inserts", "INSERT INTO t VALUES (1)"),
            ("d.calls", "BEGIN CALL inserts(); IF 1 THEN CALL reads(); END IF; END"),
            ("d.prepares", "BEGIN PREPARE s FROM 'SELECT 1'; END"),
            ("d.passes", "CALL reads(@a)"),
            ("trigger.t", "SET NEW.a = d.reads()"),
        ];
        let cases = [
            ("SELECT a FROM plain", false),
            ("INSERT INTO t VALUES (1)", false),
            ("SELECT reads()", true),
            ("SELECT a FROM setting", false),
            ("SELECT unknown()", false),
            ("CALL calls()", true),
            ("CALL prepares()", false),
            ("CALL passes()", false),
            ("CALL inserts(); CALL sets()", false),
            ("INSERT INTO t VALUES (reads())", true),
            ("INSERT INTO t SELECT a FROM setting", false),
        ];
        let check = |routines: Routines, of_writes: bool, all: bool| {
            let classifier = Classifier::new(10);
            classifier.learn_routines(routines);
            for (sql, expected) in cases {
                let found = classifier.classify(sql.as_bytes(), Dialect::for_tests());
                let expected = match found.kind {
                    Kind::Read => expected && (all || found.reason == Reason::StoredFunction),
                    _ => expected && all && of_writes,
                };
                assert_eq!(found.leaves_nothing, expected, "{sql}");
            }
        };
        check(routines(&bodies), true, true);
        let mut with_trigger = bodies.to_vec();
        with_trigger.push(("trigger.u", "SET @a = NEW.a"));
        check(routines(&with_trigger), false, true);
        check(Routines { complete: false, ..routines(&bodies) }, false, false);
        let unseen = Routine {
            kind: RoutineKind::View,
            schema: "d".to_owned(),
            name: "unseen".to_owned(),
            declares_reading: true,
            sql_mode: String::new(),
            body: None,
        };
        let classifier = Classifier::new(10);
        classifier.learn_routines(Routines::new(&[unseen], true, Dialect::for_tests()));
        let found = classifier.classify(b"SELECT a FROM unseen", Dialect::for_tests());
        assert!(found.kind == Kind::Read && !found.leaves_nothing);
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
