//! The forms of SHOW, one by one: about the data, about one server, about the session, or about the statement before.

use crate::model::settings::ACCESS_MODE;

use super::names::{Folded, literal_value};
use super::scan::TokenKind;
use super::variables;
use super::walk::{Judgement, Walk};
use super::{Counts, Kind, Reason};

const CATALOG: Judgement = (Kind::Read, Reason::Catalog);
const PER_SERVER: Judgement = (Kind::Write, Reason::PerServerView);
const PREVIOUS: Judgement = (Kind::Previous, Reason::PreviousStatement);

impl Walk<'_> {
    /// Behind SHOW.
    pub(super) fn show(&mut self) -> Judgement {
        while self.accept("full") || self.accept("extended") {}
        let Some(what) = self.take() else {
            return (Kind::Write, Reason::UnknownStatement);
        };
        self.finds = found(Folded::keyword(&what).as_str());
        let follows = |word: &str| self.next_is(word);
        match Folded::keyword(&what).as_str() {
            "databases" | "schemas" | "tables" | "columns" | "fields" | "index" | "indexes" | "keys"
            | "triggers" | "events" | "collation" | "charset" | "character" => self.with_condition(CATALOG),
            "table" if follows("status") => self.with_condition(CATALOG),
            "table" if follows("types") => CATALOG,
            "function" | "procedure" | "package" | "library" if !follows("code") => {
                self.with_condition(CATALOG)
            }
            "create" | "engines" | "storage" | "privileges" | "grants" | "authors" | "contributors" => {
                CATALOG
            }
            // No statement of any server.
            "route" if self.peek().is_none() => (Kind::AskRoute, Reason::AsksRoute),
            // SHOW SLAVE 'connection' STATUS is MariaDB's.
            "replica" | "slave"
                if follows("status") || self.second().is_some_and(|word| word.is("status")) =>
            {
                CATALOG
            }
            "all" if follows("slaves") || follows("replicas") => CATALOG,
            "warnings" | "errors" | "profile" | "profiles" => PREVIOUS,
            "count" => PREVIOUS,
            "session" | "local" if follows("variables") || follows("status") => {
                if self.accept("status") {
                    self.with_condition(PREVIOUS)
                } else {
                    self.variables()
                }
            }
            // Counters of the connection that ran the statement before.
            "status" => self.with_condition(PREVIOUS),
            "variables" => self.variables(),
            _ => self.with_condition(PER_SERVER),
        }
    }

    /// A form that may end in WHERE with any expression.
    fn with_condition(&mut self, plain: Judgement) -> Judgement {
        // Of the tables that are named here it tells how they are made.
        while self.accept("from") || self.accept("in") {
            self.table();
        }
        let findings = self.expression(false);
        findings.write().map_or(plain, |reason| (Kind::Write, reason))
    }

    /// `SHOW [SESSION] VARIABLES`: about the session, unless the pattern asks who the server is.
    fn variables(&mut self) -> Judgement {
        let mut lexer = self.lookahead();
        let mut next = self.peek();
        let all = next.is_none_or(|token| !token.is("like"));
        self.needs.trackers |= all;
        self.needs.access_mode |= all;
        while let Some(token) = next.filter(|token| !token.is_sign(b';')) {
            if token.kind == TokenKind::Text {
                self.varies = true;
                let pattern = literal_value(&token, self.dialect).to_ascii_lowercase();
                let pattern = String::from_utf8_lossy(&pattern);
                if variables::pattern_asks_identity(&pattern) {
                    return PER_SERVER;
                }
                self.needs.trackers |= variables::pattern_finds(&pattern, variables::TRACKERS);
                self.needs.access_mode |=
                    ACCESS_MODE.iter().any(|name| variables::pattern_finds(&pattern, name));
            }
            next = lexer.next();
        }
        let findings = self.expression(false);
        findings.write().map_or((Kind::Anywhere, Reason::SessionState), |reason| (Kind::Write, reason))
    }
}

/// What SHOW of this leaves for FOUND_ROWS(): queries of the catalog count (seen in 9.7.4).
fn found(what: &str) -> Counts {
    match what {
        "create" | "warnings" | "errors" | "grants" | "processlist" | "privileges" | "profiles"
        | "binary" | "master" | "replica" | "slave" | "replicas" => Counts::Nothing,
        "databases" | "schemas" | "tables" | "columns" | "fields" | "index" | "indexes" | "keys"
        | "triggers" | "events" | "collation" | "charset" | "character" | "engines" | "plugins"
        | "variables" | "status" | "count" | "function" | "procedure" | "table" | "open" | "storage" => {
            Counts::Rows
        }
        _ => Counts::Unknown,
    }
}
