//! Verbs about locks, connections and servers: LOCK, FLUSH, BACKUP, HANDLER, KILL, CHECKSUM and their like.

use super::names::lower_name;
use super::scan::{Token, TokenKind};
use super::walk::{Judgement, Walk};
use super::{Cause, Kind, Reason, Release};

impl Walk<'_> {
    /// Verbs about locks, connections and servers.
    pub(super) fn administration(&mut self, verb: &str) -> Judgement {
        match verb {
            "lock" => {
                let instance = self.accept("instance");
                self.pin(if instance { Cause::InstanceLock } else { Cause::TableLocks });
                (Kind::Write, Reason::TableLock)
            }
            "unlock" => {
                let instance = self.accept("instance");
                self.release(if instance { Release::Instance } else { Release::Tables });
                (Kind::Write, Reason::TableLock)
            }
            "backup" if self.dialect.mariadb => self.backup(),
            "flush" => self.flush(),
            "handler" => self.handler(),
            "xa" => self.xa(),
            "kill" => self.kill(),
            "get" => self.get_diagnostics(),
            "reset" if self.next_is("persist") => (Kind::Write, Reason::ServerSetting),
            "analyze" | "optimize" | "repair" | "check" | "cache" | "binlog" | "change" | "reset"
            | "purge" | "stop" | "install" | "uninstall" | "import" | "clone" | "restart" | "shutdown" => {
                (Kind::Write, Reason::Administration)
            }
            _ => (Kind::Write, Reason::UnknownStatement),
        }
    }

    pub(super) fn checksum(&mut self) -> Judgement {
        let mut extended = false;
        while let Some(token) = self.take() {
            extended |= token.is("extended");
        }
        // It reads every row of the tables and may take long: not beside the reads of others.
        if extended { (Kind::Write, Reason::Administration) } else { (Kind::Read, Reason::PlainRead) }
    }

    fn flush(&mut self) -> Judgement {
        let mut before: Option<Token<'_>> = None;
        while let Some(token) = self.take() {
            let after = |word: &str| before.is_some_and(|before| before.is(word));
            if (token.is("lock") && after("read")) || (token.is("export") && after("for")) {
                self.pin(Cause::FlushLock);
                return (Kind::Write, Reason::TableLock);
            }
            if token.is("privileges") {
                return self.accounts();
            }
            before = Some(token);
        }
        (Kind::Write, Reason::Administration)
    }

    fn backup(&mut self) -> Judgement {
        let mut ends = false;
        while let Some(token) = self.take() {
            ends |= token.is("end") || token.is("unlock");
        }
        if ends {
            self.release(Release::Instance)
        } else {
            self.pin(Cause::InstanceLock)
        }
        (Kind::Write, Reason::TableLock)
    }

    fn handler(&mut self) -> Judgement {
        let Some(mut name) = self.take() else {
            return (Kind::Write, Reason::TableHandler);
        };
        if self.accept_sign(b'.') {
            name = self.take().unwrap_or(name);
        }
        if self.accept("open") {
            self.accept("as");
            let alias = self.take().unwrap_or(name);
            self.pin(Cause::Handler(lower_name(&alias)));
        } else if self.accept("close") {
            self.release(Release::Handler(lower_name(&name)));
        } else {
            self.expression(false);
        }
        (Kind::Write, Reason::TableHandler)
    }

    fn kill(&mut self) -> Judgement {
        self.varies = true;
        let whole_connection = !self.accept("query");
        if whole_connection {
            self.accept("connection");
        }
        let id = if self.accept("connection_id") {
            (self.accept_sign(b'(') && self.accept_sign(b')')).then_some(None)
        } else {
            let number = self.take().filter(|token| token.kind == TokenKind::Number);
            number.and_then(|token| std::str::from_utf8(token.text).ok()?.parse().ok()).map(Some)
        };
        match id.filter(|_| self.peek().is_none()) {
            Some(id) => (Kind::Kill { id, whole_connection }, Reason::Kill),
            None => (Kind::Write, Reason::Kill),
        }
    }
}
