//! SET in full: assignments to system and user variables, names and character sets, transactions, roles, passwords.

use crate::model::settings::is_access_mode;

use super::expression::Findings;
use super::names::{Folded, literal_value, lower_name};
use super::scan::{Token, TokenKind};
use super::variables::{self, Assigned};
use super::walk::{Judgement, Walk};
use super::{Access, Cause, Effect, Isolation, Kind, Reason, Release};

/// Longer literals are not kept for replay.
const MAX_LITERAL: usize = 4096;

/// What a whole SET does, gathered over its assignments.
#[derive(Default)]
struct Assignments {
    /// GLOBAL or PERSIST was the last scope word; it holds for the names behind it.
    global: bool,
    write: Option<Reason>,
    previous: bool,
    variables: Vec<Box<str>>,
}

/// The value of an assignment when it is one literal or one word.
struct Value {
    /// As written.
    written: Vec<u8>,
    /// What it says, in lower case.
    says: Vec<u8>,
    is_word: bool,
}

impl<'a> Walk<'a> {
    /// Behind SET.
    pub(super) fn set(&mut self) -> Judgement {
        let Some(first) = self.peek() else {
            return (Kind::Write, Reason::UnknownStatement);
        };
        let second = self.second();
        let assigns = second.is_some_and(|second| second.is_sign(b'=') || second.kind == TokenKind::Assign);
        let then = |word: &str| second.is_some_and(|second| second.is(word));
        match Folded::keyword(&first).as_str() {
            "transaction" if !assigns => self.next_transaction(),
            "session" | "local" if then("transaction") => self.session_transaction(),
            "global" if then("transaction") => (Kind::Write, Reason::ServerSetting),
            "password" => self.set_accounts(),
            "default" if then("role") => self.set_accounts(),
            "role" if !assigns => {
                self.pin(Cause::Role);
                (Kind::Write, Reason::Role)
            }
            "resource" if then("group") => self.resource_group(),
            "statement" if self.dialect.mariadb || !assigns => (Kind::Write, Reason::UnknownStatement),
            "session" if then("authorization") => (Kind::Write, Reason::UnknownStatement),
            _ => self.assignments(),
        }
    }

    fn set_accounts(&mut self) -> Judgement {
        self.effects.push(Effect::AccountsChange);
        (Kind::Write, Reason::ChangesAccounts)
    }

    fn resource_group(&mut self) -> Judgement {
        let mut for_others = false;
        while let Some(token) = self.take() {
            for_others |= token.is("for");
        }
        if !for_others {
            self.pin(Cause::ResourceGroup);
        }
        (Kind::Write, Reason::ResourceGroup)
    }

    fn next_transaction(&mut self) -> Judgement {
        let (access, isolation) = self.characteristics();
        self.isolates(isolation);
        self.needs.access_mode |= access.is_some();
        self.effects.push(Effect::NextTransaction { access, isolation });
        (Kind::Anywhere, Reason::SessionState)
    }

    fn session_transaction(&mut self) -> Judgement {
        let (access, isolation) = self.characteristics();
        self.isolates(isolation);
        let mut names: Vec<Box<str>> = Vec::new();
        if isolation.is_some() {
            names.push(self.transaction_variable("isolation"));
        }
        if access.is_some() {
            self.needs.access_mode = true;
            names.push(self.transaction_variable("read_only"));
        }
        self.effects.push(Effect::SetVariables(names));
        (Kind::Anywhere, Reason::SessionState)
    }

    fn isolates(&mut self, isolation: Option<Isolation>) {
        if isolation == Some(Isolation::Serializable) {
            self.claim_reads(true);
        }
    }

    fn transaction_variable(&self, what: &str) -> Box<str> {
        let old = variables::has_old_transaction_names(self.dialect.version, self.dialect.mariadb);
        format!("{}_{what}", if old { "tx" } else { "transaction" }).into_boxed_str()
    }

    fn characteristics(&mut self) -> (Option<Access>, Option<Isolation>) {
        let (mut access, mut isolation) = (None, None);
        let mut before: Option<Token<'_>> = None;
        while let Some(token) = self.take() {
            let after_read = before.is_some_and(|before| before.is("read"));
            match Folded::keyword(&token).as_str() {
                "only" if after_read => access = Some(Access::ReadOnly),
                "write" if after_read => access = Some(Access::ReadWrite),
                "committed" if after_read => isolation = Some(Isolation::ReadCommitted),
                "uncommitted" if after_read => isolation = Some(Isolation::ReadUncommitted),
                "repeatable" => isolation = Some(Isolation::RepeatableRead),
                "serializable" => isolation = Some(Isolation::Serializable),
                _ => {}
            }
            before = Some(token);
        }
        (access, isolation)
    }

    fn assignments(&mut self) -> Judgement {
        let mut done = Assignments::default();
        loop {
            self.assignment(&mut done);
            if !self.accept_sign(b',') {
                break;
            }
        }
        self.flush_variables(&mut done);
        match done {
            Assignments { write: Some(reason), .. } => (Kind::Write, reason),
            Assignments { previous: true, .. } => (Kind::Previous, Reason::PreviousStatement),
            _ => (Kind::Anywhere, Reason::SessionState),
        }
    }

    /// Puts the variables so far among the effects, where the order of the text wants them.
    fn flush_variables(&mut self, done: &mut Assignments) {
        if !done.variables.is_empty() {
            self.lexer_changed |= done
                .variables
                .iter()
                .any(|name| matches!(&**name, "sql_mode" | "character_set_client" | "collation_connection"));
            self.effects.push(Effect::SetVariables(std::mem::take(&mut done.variables)));
        }
    }

    fn assignment(&mut self, done: &mut Assignments) {
        let Some(token) = self.peek() else {
            done.write.get_or_insert(Reason::UnknownStatement);
            return;
        };
        match token.kind {
            TokenKind::UserVariable => self.assign_user_variable(done),
            TokenKind::SystemMark => {
                self.take();
                let Some(mut name) = self.take() else {
                    done.write.get_or_insert(Reason::UnknownStatement);
                    return;
                };
                let (mut global, mut scoped) = (false, false);
                if self.accept_sign(b'.') {
                    scoped = true;
                    global = !(name.is("session") || name.is("local"));
                    name = self.take().unwrap_or(name);
                }
                self.assign_variable(&name, global, scoped, done);
            }
            _ => self.assign_named(token, done),
        }
    }

    fn assign_named(&mut self, token: Token<'a>, done: &mut Assignments) {
        let second = self.second();
        let assigns = second.is_some_and(|second| second.is_sign(b'=') || second.kind == TokenKind::Assign);
        let word = Folded::keyword(&token);
        self.take();
        match word.as_str() {
            "names" if !assigns => self.assign_charset(NAMES, done),
            "charset" if !assigns => self.assign_charset(CHARACTER_SET, done),
            "character" | "char" if self.next_is("set") => {
                self.take();
                self.assign_charset(CHARACTER_SET, done);
            }
            scope @ ("global" | "persist" | "persist_only" | "session" | "local") if !assigns => {
                done.global = !matches!(scope, "session" | "local");
                match self.take() {
                    Some(name) => self.assign_variable(&name, done.global, true, done),
                    None => {
                        done.write.get_or_insert(Reason::UnknownStatement);
                    }
                }
            }
            // The mode that a scope word has left, or the session's.
            _ => self.assign_variable(&token, done.global, true, done),
        }
    }

    fn assign_charset(&mut self, names: &[&str], done: &mut Assignments) {
        done.variables.extend(names.iter().map(|name| Box::from(*name)));
        self.right_hand_side(done);
    }

    /// `scoped` is false for `@@name` alone, which for two variables means the next transaction only.
    fn assign_variable(&mut self, name: &Token<'a>, global: bool, scoped: bool, done: &mut Assignments) {
        let component = if self.accept_sign(b'.') { self.take() } else { None };
        if !self.accept_sign(b'=') && self.peek().is_none_or(|token| token.kind != TokenKind::Assign) {
            done.write.get_or_insert(Reason::UnknownStatement);
            self.right_hand_side(done);
            return;
        }
        if self.peek().is_some_and(|token| token.kind == TokenKind::Assign) {
            self.take();
        }
        let value = self.value();
        if global {
            done.write.get_or_insert(Reason::ServerSetting);
            self.right_hand_side(done);
            return;
        }
        let folded = Folded::name(name);
        match (folded.as_str(), component) {
            (of, Some(name)) => {
                done.variables.push(format!("{of}.{}", Folded::name(&name).as_str()).into_boxed_str());
                done.write.get_or_insert(Reason::ConnectionVariable);
            }
            (
                name @ ("transaction_isolation" | "tx_isolation" | "transaction_read_only" | "tx_read_only"),
                None,
            ) if !scoped
                && variables::is_transaction_name(name, self.dialect.version, self.dialect.mariadb) =>
            {
                self.assign_next_transaction(name, value, done);
            }
            (name @ ("transaction_isolation" | "transaction_read_only"), None) if self.dialect.mariadb => {
                let told = name.replace("transaction_", "tx_");
                self.assign_session_variable(&told, value, done);
            }
            (name, None) => self.assign_session_variable(name, value, done),
        }
        self.right_hand_side(done);
    }

    fn assign_next_transaction(&mut self, name: &str, value: Option<Value>, done: &mut Assignments) {
        self.varies = true;
        let says = value.map(|value| value.says).unwrap_or_default();
        let (mut access, mut isolation) = (None, None);
        match (name.ends_with("read_only"), says.as_slice()) {
            (true, b"1" | b"on" | b"true") => access = Some(Access::ReadOnly),
            (true, b"0" | b"off" | b"false") => access = Some(Access::ReadWrite),
            (false, b"read-uncommitted" | b"0") => isolation = Some(Isolation::ReadUncommitted),
            (false, b"read-committed" | b"1") => isolation = Some(Isolation::ReadCommitted),
            (false, b"repeatable-read" | b"2") => isolation = Some(Isolation::RepeatableRead),
            (false, b"serializable" | b"3") => isolation = Some(Isolation::Serializable),
            _ => {
                done.write.get_or_insert(Reason::ConnectionVariable);
                let name = if name.ends_with("read_only") {
                    "transaction_read_only"
                } else {
                    "transaction_isolation"
                };
                self.pin(Cause::Variable(name));
                return;
            }
        }
        self.isolates(isolation);
        self.needs.access_mode |= access.is_some();
        self.effects.push(Effect::NextTransaction { access, isolation });
    }

    fn assign_session_variable(&mut self, name: &str, value: Option<Value>, done: &mut Assignments) {
        match variables::assigned(name) {
            Assigned::Replayable => {
                self.needs.access_mode |= is_access_mode(name.as_bytes());
                if let Some(harmless) = variables::values_that_claim_no_reads(name) {
                    let says = value.map(|value| value.says).unwrap_or_default();
                    self.claim_reads(!harmless.iter().any(|harmless| harmless.as_bytes() == says));
                }
                done.variables.push(Box::from(name));
                done.variables.extend(variables::companion(name).map(Box::from));
            }
            Assigned::Bound(bound) => {
                self.varies = true;
                let neutral = value.is_some_and(|value| {
                    (value.is_word && value.says == b"default")
                        || bound.neutral.iter().any(|neutral| neutral.as_bytes() == value.says)
                });
                if neutral && bound.neutral_is_replayable {
                    done.variables.push(Box::from(name));
                    self.release(Release::Variable(bound.name));
                    return;
                }
                self.flush_variables(done);
                // From here on the number is on this connection.
                self.needs.last_insert_id |= matches!(bound.name, "last_insert_id" | "identity");
                let cause = Cause::Variable(bound.name);
                self.effects.push(if neutral { Effect::Restore(cause) } else { Effect::Pin(cause) });
                done.write.get_or_insert(Reason::ConnectionVariable);
            }
            Assigned::Tracker => {
                self.needs.trackers = true;
                done.variables.push(Box::from(name));
            }
            // Whether it can be replayed depends on whether the tracker reports it; until then it is no read.
            Assigned::Unknown => {
                done.variables.push(Box::from(name));
                done.write.get_or_insert(Reason::ConnectionVariable);
            }
        }
    }

    fn assign_user_variable(&mut self, done: &mut Assignments) {
        let Some(variable) = self.take() else {
            return;
        };
        let name = lower_name(&variable);
        if !self.accept_sign(b'=') {
            self.take();
        }
        self.flush_variables(done);
        self.needs.user_variables = true;
        let literal = self.value().filter(|value| {
            let word = matches!(value.says.as_slice(), b"null" | b"true" | b"false");
            value.written.len() <= MAX_LITERAL && (word || !value.is_word)
        });
        let literal = literal.and_then(|literal| replayable(literal.written));
        match literal {
            Some(literal) => {
                self.varies = true;
                self.effects.push(Effect::SetUserVariable { name, literal });
                self.right_hand_side(done);
            }
            None => {
                self.right_hand_side(done);
                self.pin(Cause::UserVariable(Some(name)));
                done.write.get_or_insert(Reason::UserVariable);
            }
        }
    }

    /// What is assigned, when it is one literal or word: looked at, not taken.
    fn value(&self) -> Option<Value> {
        let mut lexer = self.lookahead();
        let mut token = self.peek()?;
        let mut written = Vec::new();
        let mut sign = &b""[..];
        if token.is_sign(b'-') || token.is_sign(b'+') {
            sign = token.text;
            written.extend_from_slice(sign);
            token = lexer.next().filter(|token| token.kind == TokenKind::Number)?;
        }
        let introduced = token.kind == TokenKind::Word && token.text.first() == Some(&b'_');
        if introduced {
            written.extend_from_slice(token.text);
            token = lexer.next().filter(|token| token.kind == TokenKind::Text)?;
        }
        if !matches!(token.kind, TokenKind::Text | TokenKind::Number | TokenKind::Word) {
            return None;
        }
        let next = lexer.next();
        if next.is_some_and(|next| !next.is_sign(b',') && !next.is_sign(b';')) {
            return None;
        }
        written.extend_from_slice(token.text);
        let mut says = sign.to_vec();
        says.extend(literal_value(&token, self.dialect).to_ascii_lowercase());
        Some(Value { written, says, is_word: token.kind == TokenKind::Word })
    }

    /// Walks over what is assigned, which may itself do things.
    fn right_hand_side(&mut self, done: &mut Assignments) {
        let mut findings = Findings::of_assignment();
        self.walk_on(&mut findings, true);
        match findings.judgement() {
            (Kind::Write, reason) => {
                done.write.get_or_insert(reason);
            }
            (Kind::Previous, _) => done.previous = true,
            // A subquery reads tables, and only the primary's are certain to be up to date.
            (Kind::Read, _) if findings.reads_tables() => {
                done.write.get_or_insert(Reason::ConnectionVariable);
            }
            _ => {}
        }
    }
}

/// The literal in a form that means the same under every sql_mode and character set. None: there is none.
fn replayable(mut literal: Vec<u8>) -> Option<Box<[u8]>> {
    if literal.iter().any(|byte| !byte.is_ascii() || *byte == b'\\') {
        return None;
    }
    // Under ANSI_QUOTES it would be a name.
    let quote = literal.iter().position(|byte| matches!(byte, b'"' | b'\''));
    if let Some(start) = quote.filter(|&at| literal[at] == b'"') {
        if literal.contains(&b'\'') || literal[start + 1..].windows(2).any(|pair| pair == b"\"\"") {
            return None;
        }
        for byte in literal.iter_mut().filter(|byte| **byte == b'"') {
            *byte = b'\'';
        }
    }
    Some(literal.into_boxed_slice())
}

const NAMES: &[&str] =
    &["character_set_client", "character_set_connection", "character_set_results", "collation_connection"];

/// SET CHARACTER SET takes the connection's set from the schema.
const CHARACTER_SET: &[&str] =
    &["character_set_client", "character_set_connection", "character_set_results", "collation_connection"];
