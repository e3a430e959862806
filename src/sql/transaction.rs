//! Statements that begin and end transactions, XA included.

use super::names::Folded;
use super::walk::{Judgement, Walk};
use super::{Access, Cause, Effect, Kind, Reason, Release};

impl Walk<'_> {
    pub(super) fn begin(&mut self) -> Judgement {
        self.accept("work");
        if self.peek().is_some() {
            // A compound statement of MariaDB: BEGIN NOT ATOMIC ... END.
            self.skip_body(1);
            return (Kind::Write, Reason::UnknownStatement);
        }
        (Kind::Begin(Access::Unspecified), Reason::OpensTransaction)
    }

    pub(super) fn start(&mut self) -> Judgement {
        if !self.accept("transaction") {
            return (Kind::Write, Reason::Administration);
        }
        let mut access = Access::Unspecified;
        while let Some(token) = self.take() {
            if token.is("read") {
                access = if self.accept("only") { Access::ReadOnly } else { Access::ReadWrite };
            } else if token.is("snapshot") {
                self.effects.push(Effect::TakesSnapshot);
            }
        }
        let reason = match access {
            Access::ReadOnly => Reason::OpensReadOnly,
            _ => Reason::OpensTransaction,
        };
        (Kind::Begin(access), reason)
    }

    /// COMMIT and ROLLBACK, without ROLLBACK TO.
    pub(super) fn end_transaction(&mut self) -> Judgement {
        let mut no = false;
        let mut judgement = (Kind::Anywhere, Reason::EndsTransaction);
        while let Some(token) = self.take() {
            if token.is("chain") && !no {
                self.begins();
                judgement = (Kind::Write, Reason::OpensTransaction);
            } else if token.is("release") && !no {
                self.effects.push(Effect::Disconnects);
            }
            no = token.is("no");
        }
        judgement
    }

    pub(super) fn rollback(&mut self) -> Judgement {
        self.accept("work");
        if self.next_is("to") {
            return (Kind::Write, Reason::TransactionPart);
        }
        self.end_transaction()
    }

    pub(super) fn xa(&mut self) -> Judgement {
        let verb = self.take().map(|token| Folded::keyword(&token)).unwrap_or_default();
        let mut one_phase = false;
        while let Some(token) = self.take() {
            one_phase |= token.is("phase");
        }
        match verb.as_str() {
            "start" | "begin" => self.pin(Cause::Xa),
            "prepare" | "rollback" => self.release(Release::Xa),
            "commit" if one_phase => self.release(Release::Xa),
            _ => {}
        }
        (Kind::Write, Reason::Xa)
    }
}
