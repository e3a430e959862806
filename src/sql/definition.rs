//! CREATE and DROP: what is one session's alone, and what is everybody's.

use super::expression::Findings;
use super::names::{Folded, table_name};
use super::walk::{Judgement, Walk};
use super::{Cause, Effect, Kind, Reason, Release};

impl Walk<'_> {
    pub(super) fn create(&mut self) -> Judgement {
        let mut temporary = false;
        while let Some(token) = self.take() {
            match Folded::keyword(&token).as_str() {
                "temporary" => temporary = true,
                "definer" => {
                    self.accept_sign(b'=');
                    self.take();
                }
                "table" | "sequence" => {
                    return self.create_table(temporary);
                }
                "user" | "role" => return self.accounts(),
                "procedure" | "function" | "trigger" | "event" | "package" => {
                    self.effects.push(Effect::RoutinesChange);
                    self.skip_body(0);
                    break;
                }
                "view" => {
                    self.effects.push(Effect::RoutinesChange);
                    break;
                }
                "index" | "database" | "schema" | "server" | "tablespace" | "undo" | "logfile"
                | "resource" | "library" | "instance" => break,
                _ => {}
            }
        }
        (Kind::Write, Reason::ChangesSchema)
    }

    /// ALTER is like CREATE, but that a temporary table may get another name.
    pub(super) fn alter(&mut self) -> Judgement {
        while self.accept("online") || self.accept("ignore") {}
        if !self.accept("table") {
            return self.create();
        }
        self.skip_condition();
        let from = self.table();
        let mut findings = Findings::default();
        while self.peek().is_some() {
            if !self.accept("rename") {
                self.expression_token(&mut findings);
            } else if !["column", "index", "key"].iter().any(|part| self.next_is(part)) {
                let _ = self.accept("to") || self.accept("as") || self.accept_sign(b'=');
                let to = self.table();
                self.effects.push(Effect::RenamesTable { from: from.clone(), to });
            }
        }
        (Kind::Write, Reason::ChangesSchema)
    }

    fn create_table(&mut self, temporary: bool) -> Judgement {
        if temporary {
            self.skip_condition();
            let name = self.table();
            self.pin(Cause::TemporaryTable(name));
        }
        self.expression(false);
        let reason = if temporary { Reason::TemporaryTable } else { Reason::ChangesSchema };
        (Kind::Write, reason)
    }

    pub(super) fn drop(&mut self) -> Judgement {
        if self.next_is("prepare") {
            return self.deallocate();
        }
        if self.next_is("user") || self.next_is("role") {
            return self.accounts();
        }
        let temporary = self.accept("temporary");
        if self.accept("table") || self.accept("tables") || self.accept("sequence") {
            self.skip_condition();
            let mut names = vec![self.table()];
            while self.accept_sign(b',') {
                names.push(self.table());
            }
            self.release(Release::TemporaryTables(names));
        }
        if ["function", "procedure", "trigger", "view"].iter().any(|kind| self.next_is(kind)) {
            self.effects.push(Effect::RoutinesChange);
        }
        // Unlike any other DROP it commits nothing.
        (Kind::Write, if temporary { Reason::TemporaryTable } else { Reason::ChangesSchema })
    }

    /// IF EXISTS, IF NOT EXISTS.
    pub(super) fn skip_condition(&mut self) {
        if self.accept("if") {
            self.accept("not");
            self.accept("exists");
        }
    }

    pub(super) fn table(&mut self) -> Box<[u8]> {
        let first = self.take();
        let second = if self.accept_sign(b'.') { self.take() } else { None };
        table_name(first.as_ref(), second.as_ref())
    }
}
