//! Queries and expressions: what any token in them can mean for the route. The rules hold at every depth, so a lock in
//! a derived table or a function in an ORDER BY counts as much as one at the top.

use crate::model::settings::is_access_mode;

use super::functions::{self, Call, Special};
use super::names::{Folded, literal_value, lower_name, table_name};
use super::scan::{Gap, Token, TokenKind};
use super::tables;
use super::variables::{self, Read};
use super::walk::{Judgement, Walk};
use super::{Cause, Counts, Effect, Kind, Reason, Release};

/// What a query or an expression turned out to do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Findings<'a> {
    /// Why it must go to the primary, if it must.
    write: Option<Reason>,
    /// It calls a function that is not built in.
    calls: bool,
    /// It asks about the statement before it.
    previous: bool,
    /// It reads tables or calls functions, so which server answers is a matter of load and not of nothing.
    computes: bool,
    /// Of that, tables.
    tables: bool,
    /// It asks about the session.
    session: bool,
    /// In an assignment, `@@global.x` is a value like any other.
    global_is_value: bool,
    before: Option<Token<'a>>,
    before_that: Option<Token<'a>>,
}

impl Findings<'_> {
    /// For what stands right of an assignment.
    pub(super) fn of_assignment() -> Self {
        Self { global_is_value: true, ..Self::default() }
    }

    fn writes(&mut self, reason: Reason) {
        self.write.get_or_insert(reason);
    }

    pub(super) fn write(&self) -> Option<Reason> {
        self.write.or(self.calls.then_some(Reason::UnknownFunction))
    }

    pub(super) fn reads_tables(&self) -> bool {
        self.tables
    }

    pub(super) fn judgement(&self) -> Judgement {
        if let Some(reason) = self.write() {
            return (Kind::Write, reason);
        }
        match *self {
            Self { previous: true, .. } => (Kind::Previous, Reason::PreviousStatement),
            Self { computes: true, .. } => (Kind::Read, Reason::PlainRead),
            Self { session: true, .. } => (Kind::Anywhere, Reason::SessionState),
            _ => (Kind::Anywhere, Reason::NoTable),
        }
    }
}

impl<'a> Walk<'a> {
    fn asks_previous(&mut self, findings: &mut Findings<'_>) {
        findings.previous = true;
        self.needs.previous = true;
    }

    pub(super) fn query(&mut self) -> Judgement {
        self.expression(false).judgement()
    }

    pub(super) fn explain(&mut self) -> Judgement {
        let mut findings = Findings::default();
        self.finds = Counts::Nothing;
        loop {
            let word = self.peek().map(|token| Folded::keyword(&token)).unwrap_or_default();
            match word.as_str() {
                "select" | "table" | "values" | "with" => break,
                "insert" | "replace" | "update" | "delete" => {
                    self.expression(false);
                    return (Kind::Write, Reason::ExplainsWrite);
                }
                "extended" | "partitions" | "analyze" => {
                    if word.as_str() == "analyze" {
                        // It runs the statement.
                        self.finds = Counts::Unknown;
                    }
                    self.take();
                }
                "format" => {
                    self.take();
                    self.accept_sign(b'=');
                    self.take();
                }
                "into" => self.expression_token(&mut findings),
                "for" => {
                    self.take();
                    if self.next_is("connection") {
                        return (Kind::Write, Reason::PerServerView);
                    }
                    // FOR SCHEMA d, FOR DATABASE d
                    self.take();
                    self.take();
                }
                _ if self.accept_sign(b'(') => {}
                // The name of a table.
                _ => {
                    self.finds = Counts::Rows;
                    return (Kind::Read, Reason::Catalog);
                }
            }
        }
        self.walk_on(&mut findings, false);
        match findings.write() {
            Some(Reason::ChangesData) => (Kind::Write, Reason::ExplainsWrite),
            Some(reason) => (Kind::Write, reason),
            None => (Kind::Read, Reason::PlanOnly),
        }
    }

    /// Everything to the end of the statement, or to the next comma outside parentheses.
    pub(super) fn expression(&mut self, until_comma: bool) -> Findings<'a> {
        let mut findings = Findings::default();
        self.walk_on(&mut findings, until_comma);
        findings
    }

    pub(super) fn walk_on(&mut self, findings: &mut Findings<'a>, until_comma: bool) {
        let mut depth = 0_usize;
        while let Some(token) = self.peek() {
            match token.kind {
                TokenKind::Sign(b'(') => depth += 1,
                TokenKind::Sign(b')') => depth = depth.saturating_sub(1),
                TokenKind::Sign(b',') if until_comma && depth == 0 => return,
                _ => {}
            }
            self.expression_token(findings);
        }
    }

    /// One token, and those that belong to it.
    pub(super) fn expression_token(&mut self, findings: &mut Findings<'a>) {
        let Some(token) = self.take() else {
            return;
        };
        match token.kind {
            TokenKind::UserVariable => self.user_variable(&token, findings),
            TokenKind::SystemMark => self.system_variable(findings),
            TokenKind::Sign(b'(') => self.outside = self.outside << 1 | u64::from(self.names_tables),
            TokenKind::Sign(b')') => {
                self.names_tables = self.outside & 1 == 1;
                // Deeper than this it may be either.
                self.outside = self.outside >> 1 | 1 << 63;
            }
            TokenKind::Word | TokenKind::Quoted => match self.peek() {
                Some(next) if next.is_sign(b'(') => self.call(&token, next.gap, findings),
                Some(next) if next.is_sign(b'.') => self.qualifier(&token, findings),
                _ if self.names_tables
                    && !findings.before.is_some_and(|before| before.is("as"))
                    && self.view(|_| lower_name(&token), findings) => {}
                _ if token.is_keyword() => self.keyword(&token, findings),
                _ => {
                    let name = Folded::name(&token);
                    // Oracle mode of MariaDB.
                    if self.dialect.mariadb && matches!(name.as_str(), "nextval" | "currval") {
                        findings.writes(Reason::Sequence);
                    }
                }
            },
            _ => {}
        }
        findings.before_that = findings.before;
        findings.before = Some(token);
    }

    fn user_variable(&mut self, token: &Token<'a>, findings: &mut Findings<'a>) {
        self.needs.user_variables = true;
        if self.peek().is_some_and(|next| next.kind == TokenKind::Assign) {
            self.pin(Cause::UserVariable(Some(lower_name(token))));
            findings.writes(Reason::UserVariable);
        }
    }

    /// Behind `@@`.
    fn system_variable(&mut self, findings: &mut Findings<'a>) {
        let Some(mut name) = self.take() else {
            return;
        };
        let mut global = false;
        if self.accept_sign(b'.') {
            let scope = Folded::name(&name);
            global = !matches!(scope.as_str(), "session" | "local");
            name = self.take().unwrap_or(name);
        }
        findings.session = true;
        self.reads_system_variables = true;
        let name = Folded::name(&name);
        self.needs.trackers |= variables::is_tracker(name.as_str());
        self.needs.access_mode |= is_access_mode(name.as_str().as_bytes());
        match variables::read(name.as_str()) {
            Read::LastInsertId => {
                self.needs.last_insert_id = true;
                findings.writes(Reason::LastInsertId);
            }
            Read::Previous => self.asks_previous(findings),
            Read::Gtid => findings.writes(Reason::GtidState),
            Read::Identity => findings.writes(Reason::ServerIdentity),
            Read::Session if global && !findings.global_is_value => findings.writes(Reason::PerServerView),
            Read::Session => {}
        }
    }

    /// A name with a dot behind it: perhaps a schema whose tables differ from server to server.
    fn qualifier(&mut self, token: &Token<'a>, findings: &mut Findings<'a>) {
        let schema = Folded::name(token);
        let table = self.second().map(|table| Folded::name(&table)).unwrap_or_default();
        if tables::is_per_server(schema.as_str(), table.as_str()) {
            self.needs.trackers |= table.as_str() == "session_variables";
            findings.writes(Reason::PerServerView);
        }
        self.view(|walk| table_name(Some(token), walk.second().as_ref()), findings);
    }

    /// Reading a view is calling what it calls.
    fn view(&mut self, name: impl FnOnce(&Self) -> Box<[u8]>, findings: &mut Findings<'a>) -> bool {
        if self.views.is_empty() {
            return false;
        }
        let name = name(self);
        let found = self.views.get(&name);
        if let Some(does_more) = found {
            findings.calls |= does_more;
            self.calls.push(name);
        }
        found.is_some()
    }

    fn keyword(&mut self, token: &Token<'a>, findings: &mut Findings<'a>) {
        let next = |walk: &Self, word: &str| walk.next_is(word);
        let word = Folded::keyword(token);
        match word.as_str() {
            "from" | "join" | "straight_join" | "table" => self.names_tables = true,
            // USE INDEX FOR ORDER BY
            _ if findings.before.is_some_and(|before| before.is("for")) => {}
            "select" | "set" | "values" | "where" | "group" | "having" | "window" | "order" | "limit" => {
                self.names_tables = false;
            }
            _ => {}
        }
        match word.as_str() {
            "from" if next(self, "dual") => {}
            "from" | "table" => {
                (findings.computes, findings.tables) = (true, true);
                self.has_query |= token.is("table");
            }
            "values" => findings.computes = true,
            "for" if next(self, "update") || next(self, "share") => {
                self.take();
                findings.writes(Reason::LockingRead);
            }
            "lock" if next(self, "in") && self.second().is_some_and(|word| word.is("share")) => {
                findings.writes(Reason::LockingRead);
            }
            "into" => self.assigned_by_into(findings),
            "update" | "delete" | "insert" | "replace" => findings.writes(Reason::ChangesData),
            "call" | "load" | "procedure" => findings.writes(Reason::UnknownStatement),
            "next" | "previous"
                if next(self, "value") && self.second().is_some_and(|word| word.is("for")) =>
            {
                findings.writes(Reason::Sequence);
            }
            "select" | "with" => self.has_query = true,
            // A DELETE of several tables.
            "using" | "join" => self.finds = Counts::Unknown,
            "offset" => self.has_offset = true,
            "limit" => self.has_offset |= self.second().is_some_and(|token| token.is_sign(b',')),
            "sql_calc_found_rows" => self.effects.push(Effect::CountsFoundRows),
            "current_user" => findings.session = true,
            "current_timestamp" | "current_date" | "current_time" | "localtime" | "localtimestamp"
            | "utc_date" | "utc_time" | "utc_timestamp" => findings.computes = true,
            _ => {}
        }
    }

    /// Behind INTO: user variables, or a file, or in a statement that writes anyway a table.
    fn assigned_by_into(&mut self, findings: &mut Findings<'a>) {
        if self.next_is("outfile") || self.next_is("dumpfile") {
            findings.writes(Reason::WritesFile);
            return;
        }
        let mut assigns = false;
        while let Some(token) = self.peek().filter(|token| token.kind == TokenKind::UserVariable) {
            self.take();
            self.needs.user_variables = true;
            self.pin(Cause::UserVariable(Some(lower_name(&token))));
            assigns = true;
            if !self.accept_sign(b',') {
                break;
            }
        }
        if self.in_routine && !assigns {
            return;
        }
        findings.writes(if assigns { Reason::UserVariable } else { Reason::UnknownStatement });
    }

    /// A name with `(` behind it.
    fn call(&mut self, token: &Token<'a>, gap: Gap, findings: &mut Findings<'a>) {
        let qualified = findings.before.is_some_and(|before| before.is_sign(b'.'));
        let name = Folded::name(token);
        let call = if qualified || token.after_dot {
            Call::Unknown
        } else {
            functions::call(name.as_str(), token.kind == TokenKind::Quoted, gap, self.dialect)
        };
        match call {
            Call::Keyword => self.keyword(token, findings),
            Call::Pure => findings.computes = true,
            Call::Session => findings.session = true,
            Call::Special(special) => self.special_call(special, findings),
            Call::PureOfSome if !self.second().is_some_and(|next| next.is_sign(b')')) => {
                findings.computes = true;
            }
            Call::Unknown | Call::PureOfSome if self.names_columns(findings) => {}
            Call::Unknown
                if findings.before.is_some_and(|before| before.is("as"))
                    && functions::is_type(name.as_str()) => {}
            Call::Unknown | Call::PureOfSome => {
                findings.calls = true;
                let schema = findings.before_that.filter(|schema| qualified && schema.is_name());
                self.calls.push(match &schema {
                    Some(schema) => table_name(Some(schema), Some(token)),
                    None => lower_name(token),
                });
            }
        }
    }

    fn special_call(&mut self, special: Special, findings: &mut Findings<'a>) {
        match special {
            Special::GetLock => {
                let name = self.literal_argument();
                self.pin(Cause::NamedLock(name));
                findings.writes(Reason::LockFunction);
            }
            Special::ReleaseLock => {
                let name = self.literal_argument();
                self.release(Release::NamedLock(name));
                findings.writes(Reason::LockFunction);
            }
            Special::ReleaseAllLocks => {
                self.release(Release::AllNamedLocks);
                findings.writes(Reason::LockFunction);
            }
            Special::AskLock => findings.writes(Reason::LockFunction),
            Special::LastInsertId => {
                self.needs.last_insert_id = true;
                findings.writes(Reason::LastInsertId);
            }
            Special::Previous => self.asks_previous(findings),
            Special::Wait => findings.writes(Reason::ReplicationWait),
            Special::LoadFile => findings.writes(Reason::ReadsServerFile),
            Special::Identity => findings.writes(Reason::ServerIdentity),
            Special::Sequence => findings.writes(Reason::Sequence),
        }
    }

    /// The first argument, in lower case, when it is one literal and nothing else. The next token is the parenthesis.
    fn literal_argument(&mut self) -> Option<Box<[u8]>> {
        self.varies = true;
        let mut lexer = self.lookahead();
        let argument =
            lexer.next().filter(|token| matches!(token.kind, TokenKind::Text | TokenKind::Number))?;
        lexer.next().filter(|token| token.is_sign(b',') || token.is_sign(b')'))?;
        // An introducer or a bit string gives a name in another form.
        let plain = !matches!(argument.text.first(), Some(b'x' | b'X' | b'b' | b'B'));
        let name = literal_value(&argument, self.dialect).to_ascii_lowercase();
        plain.then(|| name.into_boxed_slice())
    }

    /// True when the name before `(` is no function but a table: `WITH x (a, b) AS (`, `(SELECT ..) AS x (a, b)`.
    fn names_columns(&self, findings: &Findings<'a>) -> bool {
        let closed = |token: Option<Token<'_>>| token.is_some_and(|token| token.is_sign(b')'));
        let behind_as = findings.before.is_some_and(|before| before.is("as"));
        // No expression goes on with a name and a parenthesis behind a closing parenthesis.
        if closed(findings.before) || (behind_as && closed(findings.before_that)) {
            return true;
        }
        let mut lexer = self.lookahead();
        loop {
            if !lexer.next().is_some_and(|token| token.is_name()) {
                return false;
            }
            match lexer.next() {
                Some(token) if token.is_sign(b',') => {}
                Some(token) if token.is_sign(b')') => break,
                _ => return false,
            }
        }
        lexer.next().is_some_and(|token| token.is("as"))
            && lexer.next().is_some_and(|token| token.is_sign(b'('))
    }
}
