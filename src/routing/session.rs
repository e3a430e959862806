//! What routing must remember of one client session: its transaction, what pins it, what it has written, how it is
//! set up. Changes only by [`Session::apply`], from what a statement says and what the server tracked; either one
//! means state.

use std::sync::Arc;

use tokio::time::Instant;

use crate::model::gtid::{BadGtidSet, Watermark};
use crate::model::settings::{Interner, RESULTS_COLLATION, Settings, Trackers};
use crate::sql::{
    Access, Cause, Charset, Dialect, Effect, Isolation, Kind, Reason, Release, Statement, binding,
    is_replayable, pins_of,
};
use crate::wire::response::Change;

/// One client session as routing sees it.
#[derive(Debug)]
pub(crate) struct Session {
    /// The server's status flags that hold until a statement changes them.
    status: u16,
    pins: Vec<Pin>,
    watermark: Watermark,
    next_transaction: NextTransaction,
    settings: Arc<Settings>,
    dialect: Dialect,
    /// The status flags do not say so where it is the global value (seen in 9.7.4).
    autocommit_off: bool,
    serializable: bool,
    read_only: bool,
}

/// Why and since when a session is bound to one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) cause: PinCause,
    pub(crate) since: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PinCause {
    /// The statement said so.
    Statement(Cause),
    /// The server's tracker reported state that no statement explains: a procedure or a function made it.
    ServerState,
    /// Something of a prepared statement lives on the connection: an open cursor or long data, by statement id.
    Prepared(u32),
    /// The session has changed its own account: nobody can log in any more as it did.
    OwnAccount,
}

/// SET TRANSACTION without a scope, waiting for the transaction it is about: the next statement that touches a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NextTransaction {
    pub(crate) access: Option<Access>,
    pub(crate) isolation: Option<Isolation>,
}

/// What the answer to a statement said of the session, all results together.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// Status flags of the last OK or EOF packet; None when there was none.
    pub(crate) status: Option<u16>,
    /// Code of the ERR packet that ended the answer.
    pub(crate) error: Option<u16>,
    /// Of the last OK packet, when it was no end of rows.
    pub(crate) affected_rows: u64,
    /// The last OK packet was an end of rows.
    pub(crate) ends_rows: bool,
    /// Rows of the last result, when it was a set of rows.
    pub(crate) rows: Option<u64>,
    pub(crate) last_insert_id: u64,
    /// More results than one had such a number; `last_insert_id` is the last.
    pub(crate) several_insert_ids: bool,
    pub(crate) warnings: u16,
    /// What the connection now has for the next transaction, if that has changed.
    pub(crate) next_transaction: Option<NextTransaction>,
    pub(crate) changes: Option<Box<Changes>>,
}

/// Session changes of OK packets; most answers have none.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) variables: Vec<(Box<[u8]>, Box<[u8]>)>,
    pub(crate) schema: Option<Box<[u8]>>,
    pub(crate) gtids: Vec<Box<[u8]>>,
    pub(crate) state: bool,
}

impl NextTransaction {
    pub(crate) fn is_said(self) -> bool {
        self != Self::default()
    }

    /// Reads what the server's tracker says: `SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET TRANSACTION READ ONLY;`,
    /// and with a transaction that is open `START TRANSACTION` behind it, of which it is.
    /// <https://dev.mysql.com/doc/refman/9.7/en/session-state-tracking.html>
    fn read(characteristics: &[u8]) -> Self {
        let mut next = Self::default();
        for statement in characteristics.split(|&byte| byte == b';') {
            match statement.trim_ascii() {
                b"SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED" => {
                    next.isolation = Some(Isolation::ReadUncommitted);
                }
                b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED" => {
                    next.isolation = Some(Isolation::ReadCommitted);
                }
                b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ" => {
                    next.isolation = Some(Isolation::RepeatableRead);
                }
                b"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE" => {
                    next.isolation = Some(Isolation::Serializable);
                }
                b"SET TRANSACTION READ ONLY" => next.access = Some(Access::ReadOnly),
                b"SET TRANSACTION READ WRITE" => next.access = Some(Access::ReadWrite),
                b"" => {}
                _ => return Self::default(),
            }
        }
        next
    }
}

impl Answered {
    /// Takes in a change of the session that an OK packet tells of.
    pub(crate) fn take_change(&mut self, change: Change<'_>) {
        match change {
            // MariaDB's way of telling them; empty before the first.
            Change::Variable { name: b"last_gtid", value } => {
                if !value.is_empty() {
                    self.changes().gtids.push(Box::from(value));
                }
            }
            // A client that wants to be told of all variables gets some that are no settings (`statement_id`).
            Change::Variable { name, value } if is_replayable(name) => {
                self.changes().variables.push((Box::from(name), Box::from(value)));
            }
            Change::Schema(schema) => self.changes().schema = Some(Box::from(schema)),
            Change::State => self.changes().state = true,
            Change::Gtids(gtids) => self.changes().gtids.push(Box::from(gtids)),
            Change::Characteristics(text) => self.next_transaction = Some(NextTransaction::read(text)),
            Change::Variable { .. } | Change::Transaction | Change::Other(_) => {}
        }
    }

    fn changes(&mut self) -> &mut Changes {
        self.changes.get_or_insert_default()
    }

    /// True when the end of the rows says that there are changes, in the old form, which cannot tell them.
    fn hides_changes(&self) -> bool {
        let says = self.status.is_some_and(|status| status & SESSION_STATE_CHANGED != 0);
        says && self.rows.is_some() && !self.ends_rows
    }
}

impl PinCause {
    /// A label of metrics, and the word SHOW PINS has.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Statement(cause) => match cause {
                Cause::NamedLock(_) => "named-lock",
                Cause::TableLocks => "table-locks",
                Cause::InstanceLock => "instance-lock",
                Cause::FlushLock => "flush-lock",
                Cause::TemporaryTable(_) => "temporary-table",
                Cause::Handler(_) => "handler",
                Cause::TextPrepared(_) => "text-prepared",
                Cause::UserVariable(_) => "user-variable",
                Cause::Variable(_) => "connection-variable",
                Cause::Role => "role",
                Cause::ResourceGroup => "resource-group",
                Cause::Xa => "xa",
            },
            Self::ServerState => "server-state",
            Self::Prepared(_) => "cursor",
            Self::OwnAccount => "own-account",
        }
    }
}

const IN_TRANSACTION: u16 = 0x0001;
const AUTOCOMMIT: u16 = 0x0002;
const NO_BACKSLASH_ESCAPES: u16 = 0x0200;
const IN_READ_ONLY_TRANSACTION: u16 = 0x2000;
const SESSION_STATE_CHANGED: u16 = 0x4000;

/// More settings than this in one session pin it instead of being replayed.
const MAX_SETTINGS: usize = 64 << 10;

impl Session {
    pub(crate) fn new(settings: Settings, dialect: Dialect) -> Self {
        let mut session = Self {
            status: AUTOCOMMIT,
            pins: Vec::new(),
            watermark: Watermark::default(),
            next_transaction: NextTransaction::default(),
            settings: Arc::new(settings),
            dialect,
            autocommit_off: false,
            serializable: false,
            read_only: false,
        };
        session.read_settings();
        // With what its server begins a session that is as bound as by a SET of its own.
        let settings = Arc::clone(&session.settings);
        for name in binding(|name| settings.variable(name.as_bytes())) {
            session.pin(PinCause::Statement(Cause::Variable(name)));
        }
        session
    }

    pub(crate) fn in_transaction(&self) -> bool {
        self.status & IN_TRANSACTION != 0
    }

    /// The transaction that is open is a read-only one.
    pub(crate) fn is_read_only(&self) -> bool {
        self.status & IN_READ_ONLY_TRANSACTION != 0
    }

    pub(crate) fn autocommit(&self) -> bool {
        self.status & AUTOCOMMIT != 0 && !self.autocommit_off
    }

    /// The status flags that a server would answer a command with that does nothing.
    pub(crate) fn status(&self) -> u16 {
        self.status | if self.dialect.no_backslash_escapes { NO_BACKSLASH_ESCAPES } else { 0 }
    }

    /// True while only the connection that is held will do.
    pub(crate) fn is_bound(&self) -> bool {
        self.in_transaction() || !self.pins.is_empty()
    }

    pub(crate) fn pins(&self) -> &[Pin] {
        &self.pins
    }

    pub(crate) fn watermark(&self) -> &Watermark {
        &self.watermark
    }

    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn is_serializable(&self) -> bool {
        self.serializable || self.next_transaction.isolation == Some(Isolation::Serializable)
    }

    pub(crate) fn next_transaction(&self) -> NextTransaction {
        self.next_transaction
    }

    /// True when a further setting may be one too many, which only the primary can be pinned for.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.settings.size() > MAX_SETTINGS / 2
    }

    /// Remembers SET TRANSACTION until the transaction it is about.
    pub(crate) fn set_next_transaction(&mut self, access: Option<Access>, isolation: Option<Isolation>) {
        let next = &mut self.next_transaction;
        *next = NextTransaction { access: access.or(next.access), isolation: isolation.or(next.isolation) };
    }

    /// The access mode a transaction opened with this word would have.
    pub(crate) fn access(&self, said: Access) -> Access {
        match (said, self.next_transaction.access) {
            (Access::Unspecified, Some(next)) => next,
            (Access::Unspecified, None) if self.read_only => Access::ReadOnly,
            (said, _) => said,
        }
    }

    /// The schema is gone, or this user's rights on it. True when there was one.
    pub(crate) fn leave_schema(&mut self) -> bool {
        Arc::make_mut(&mut self.settings).schema.take().is_some()
    }

    pub(crate) fn set_schema(&mut self, schema: &[u8]) {
        Arc::make_mut(&mut self.settings).schema = Some(Arc::from(schema));
    }

    pub(crate) fn set_multi_statements(&mut self, on: bool) {
        Arc::make_mut(&mut self.settings).multi_statements = Some(on);
        self.dialect.multi_statements = on;
    }

    /// Makes the settings the one `Arc` of all that are equal; to be called after they changed.
    pub(crate) fn intern(&mut self, interner: &Interner) {
        self.settings = interner.intern(&self.settings);
    }

    pub(crate) fn pin(&mut self, cause: PinCause) {
        if !self.pins.iter().any(|pin| pin.cause == cause) || is_counted(&cause) {
            self.pins.push(Pin { cause, since: Instant::now() });
        }
    }

    pub(crate) fn unpin(&mut self, cause: &PinCause) {
        if let Some(at) = self.pins.iter().position(|pin| pin.cause == *cause) {
            self.pins.remove(at);
        }
    }

    /// A user variable has a value that only the connection knows.
    pub(crate) fn is_pinned_by_variable(&self, name: &[u8]) -> bool {
        let is_it = |cause: &PinCause| match cause {
            PinCause::Statement(Cause::UserVariable(Some(pinned))) => **pinned == *name,
            _ => false,
        };
        self.pins.iter().any(|pin| is_it(&pin.cause))
    }

    pub(crate) fn is_pinned_by_lock(&self) -> bool {
        self.pins.iter().any(|pin| matches!(pin.cause, PinCause::Statement(Cause::NamedLock(_))))
    }

    /// Statements that PREPARE made may take named locks whenever they are executed.
    pub(crate) fn has_text_prepared(&self) -> bool {
        self.pins.iter().any(|pin| matches!(pin.cause, PinCause::Statement(Cause::TextPrepared(_))))
    }

    /// The session has no named lock, whatever its statements said.
    pub(crate) fn has_no_lock(&mut self) {
        self.release(&Release::AllNamedLocks);
    }

    /// The connection that held the session's state is gone, and the state with it.
    pub(crate) fn lose_connection(&mut self) {
        self.status &= AUTOCOMMIT;
        self.pins.clear();
    }

    /// The session has seen these transactions, and perhaps made some of them.
    pub(crate) fn has_seen(&mut self, gtids: &[u8]) -> Result<(), BadGtidSet> {
        self.watermark.advance(gtids)
    }

    /// COM_RESET_CONNECTION, COM_CHANGE_USER: everything but what was written is as after the login.
    pub(crate) fn reset(&mut self, settings: Settings, dialect: Dialect) {
        let watermark = std::mem::take(&mut self.watermark);
        *self = Self { watermark, ..Self::new(settings, dialect) };
    }

    /// Takes in what a statement did: its effects when it succeeded, and what the server tracked either way. Returns the
    /// variables that were set and not reported: their values are to be asked for, and given to
    /// [`Session::learn_variable`], before anything else runs.
    pub(crate) fn apply(&mut self, statement: &Statement, answered: &Answered) -> Vec<Box<str>> {
        self.apply_status(answered);
        let mut missing = Vec::new();
        let succeeded = answered.error.is_none();
        if matches!(statement.kind, Kind::Begin(_)) && succeeded {
            self.begin();
        }
        if statement.reason == Reason::EndsTransaction && succeeded {
            // Which connections that have been told of it say too; but it may have been told to none.
            self.next_transaction = NextTransaction::default();
        }
        if statement.effects.is_empty() && answered.changes.is_none() {
            return missing;
        }
        let mut explained = false;
        let schemas = Schemas::of(statement, answered, self.settings.schema.clone());
        for (at, effect) in statement.effects.iter().enumerate() {
            explained |= match in_schema(effect, schemas.at(at)) {
                Some(effect) => self.apply_effect(&effect, succeeded),
                None => self.apply_effect(effect, succeeded),
            };
            if let Effect::SetVariables(names) = effect {
                // What becomes of the others when a text fails in the middle, the tracker tells.
                let is_asked = |name: &str| {
                    // A text that writes keeps its connection, and its warnings, which a question would wipe away.
                    let reads = statement.kind != Kind::Write;
                    let is_silent = || {
                        Trackers::VARIABLES.contains(&name)
                            || reads && matches!(name, "collation_connection" | RESULTS_COLLATION)
                    };
                    !is_reported(name, answered) && (succeeded || statement.several && is_silent())
                };
                missing.extend(names.iter().filter(|name| is_asked(name)).cloned());
                if names.iter().any(|name| **name == *"character_set_results") && is_asked(RESULTS_COLLATION)
                {
                    missing.push(Box::from(RESULTS_COLLATION));
                }
            }
        }
        if let Some(changes) = &answered.changes {
            self.apply_changes(changes);
            // What a procedure, a function or a trigger did nobody can read from the statement. For those of another schema the
            // server reports a switch to that schema and back, which is a change of state as well.
            let opaque = match statement.kind {
                _ if statement.leaves_nothing => changes.schema.is_none(),
                Kind::Write | Kind::Read => true,
                _ => changes.variables.is_empty() && changes.schema.is_none(),
            };
            if changes.state && !explained && opaque {
                self.pin(PinCause::ServerState);
            }
        }
        missing
    }

    /// Takes in what became of the session in a statement that failed, or whose rows ended in the old form.
    pub(crate) fn apply_hidden(&mut self, heard: &Answered) {
        self.apply_status(heard);
        if let Some(changes) = &heard.changes {
            self.apply_changes(changes);
            if changes.state {
                self.pin(PinCause::ServerState);
            }
        }
    }

    /// A transaction ends LOCK TABLES, but not FLUSH TABLES WITH READ LOCK.
    /// <https://dev.mysql.com/doc/refman/9.7/en/lock-tables.html>
    fn begin(&mut self) {
        self.unpin(&PinCause::Statement(Cause::TableLocks));
    }

    /// The value of a variable that the tracker did not report.
    pub(crate) fn learn_variable(&mut self, name: &[u8], value: &[u8], defaults: &Arc<Trackers>) {
        if Trackers::VARIABLES.iter().any(|variable| variable.as_bytes() == name) {
            let settings = Arc::make_mut(&mut self.settings);
            let trackers = settings.trackers.get_or_insert_with(|| Arc::clone(defaults));
            Arc::make_mut(trackers).set(name, value);
            return;
        }
        if self.settings.variable(name) != Some(value) {
            Arc::make_mut(&mut self.settings).set_variable(name, value);
            self.read_settings();
        }
    }

    /// Takes in the status flags, the GTIDs and what is set for the next transaction; all there is of an answer that has no
    /// statement (COM_INIT_DB and its like).
    pub(crate) fn apply_status(&mut self, answered: &Answered) {
        if let Some(status) = answered.status {
            self.status = status & (IN_TRANSACTION | IN_READ_ONLY_TRANSACTION | AUTOCOMMIT);
        }
        if let Some(next) = answered.next_transaction {
            // Of a transaction that is open it says with what that began.
            self.next_transaction = if self.in_transaction() { NextTransaction::default() } else { next };
        } else if self.dialect.mariadb && answered.hides_changes() {
            // MySQL tells of it with the next answer, MariaDB never: what was said for a transaction has had it.
            self.next_transaction = NextTransaction::default();
        }
        if let Some(changes) = &answered.changes {
            for gtids in &changes.gtids {
                if let Err(error) = self.watermark.advance(gtids) {
                    tracing::warn!(%error, "a server reported a GTID that cannot be read; reads may be stale");
                }
            }
        }
    }

    /// Returns true when the effect explains a state change that the server's tracker reports.
    fn apply_effect(&mut self, effect: &Effect, succeeded: bool) -> bool {
        match effect {
            Effect::Pin(cause) => {
                // A statement that fails may have taken a lock or set a variable before it failed.
                if succeeded || survives_failure(cause) {
                    if let Cause::UserVariable(Some(name)) = cause {
                        Arc::make_mut(&mut self.settings).forget_user_variable(name);
                    }
                    self.pin(PinCause::Statement(cause.clone()));
                }
                true
            }
            Effect::Release(release) => {
                if succeeded {
                    self.release(release);
                }
                true
            }
            Effect::Restore(cause) => {
                let cause = PinCause::Statement(cause.clone());
                if succeeded && self.pins.iter().any(|pin| pin.cause == cause) {
                    self.unpin(&cause);
                } else if succeeded {
                    // Who names such a variable, be it with its neutral value, means this one connection.
                    self.pin(cause);
                }
                true
            }
            Effect::SetVariables(_) | Effect::UsesSchema => true,
            Effect::SetUserVariable { name, literal } => {
                if succeeded {
                    self.set_user_variable(name, literal);
                }
                true
            }
            Effect::Begins => {
                if succeeded {
                    self.begin();
                }
                false
            }
            Effect::RunsUnseen(variable) => {
                let literal = variable.as_ref().and_then(|name| self.settings.user_variable(name));
                let pins = literal.and_then(|literal| pins_of(literal, self.dialect));
                // What only the server has read may leave anything behind.
                let causes = pins.map_or_else(
                    || vec![PinCause::ServerState],
                    |pins| pins.into_iter().map(PinCause::Statement).collect(),
                );
                if succeeded {
                    causes.into_iter().for_each(|cause| self.pin(cause));
                }
                true
            }
            Effect::RenamesTable { from, to } => {
                let renamed = |pin: &&mut Pin| match &pin.cause {
                    PinCause::Statement(Cause::TemporaryTable(name)) => is_same_table(from, name),
                    _ => false,
                };
                if succeeded && let Some(pin) = self.pins.iter_mut().find(renamed) {
                    pin.cause = PinCause::Statement(Cause::TemporaryTable(to.clone()));
                }
                true
            }
            Effect::NextTransaction { .. }
            | Effect::TakesSnapshot
            | Effect::AccountsChange
            | Effect::RoutinesChange
            | Effect::Disconnects
            | Effect::CountsFoundRows => false,
        }
    }

    /// A user variable has this value, and any connection can be given it.
    pub(crate) fn set_user_variable(&mut self, name: &[u8], literal: &[u8]) {
        let cause = PinCause::Statement(Cause::UserVariable(Some(Box::from(name))));
        if literal.eq_ignore_ascii_case(b"NULL") && self.is_pinned_by_variable(name) {
            // It keeps a type that only its connection knows.
            return;
        }
        if self.settings.size() + name.len() + literal.len() <= MAX_SETTINGS {
            Arc::make_mut(&mut self.settings).set_user_variable(name, literal);
            self.unpin(&cause);
        } else {
            Arc::make_mut(&mut self.settings).forget_user_variable(name);
            self.pin(cause);
        }
    }

    fn apply_changes(&mut self, changes: &Changes) {
        if changes.variables.is_empty() && changes.schema.is_none() {
            return;
        }
        if let Some(schema) = &changes.schema {
            // DROP DATABASE of the current schema leaves none.
            let schema = (!schema.is_empty()).then(|| Arc::from(&**schema));
            if self.settings.schema != schema {
                Arc::make_mut(&mut self.settings).schema = schema;
            }
        }
        for (name, value) in &changes.variables {
            if self.settings.variable(name) != Some(value) {
                Arc::make_mut(&mut self.settings).set_variable(name, value);
            }
        }
        if self.settings.size() > MAX_SETTINGS {
            self.pin(PinCause::ServerState);
        }
        self.read_settings();
    }

    /// What the settings mean to routing itself.
    fn read_settings(&mut self) {
        let settings = &self.settings;
        if let Some(mode) = settings.variable(b"sql_mode") {
            self.dialect.read_sql_mode(mode);
        }
        if let Some(charset) = settings.variable(b"character_set_client") {
            self.dialect.charset = Charset::named(charset);
        }
        // MariaDB tells of them by their old names.
        let has = |names: [&[u8]; 2], values: &[&[u8]]| {
            names.iter().any(|name| settings.variable(name).is_some_and(|value| values.contains(&value)))
        };
        let serializable = has([b"transaction_isolation", b"tx_isolation"], &[b"SERIALIZABLE"]);
        let read_only = has([b"transaction_read_only", b"tx_read_only"], &[b"ON", b"1"]);
        self.autocommit_off = settings.variable(b"autocommit") == Some(b"OFF");
        (self.serializable, self.read_only) = (serializable, read_only);
    }

    fn release(&mut self, release: &Release) {
        let prepared = self.has_text_prepared();
        let gone = |cause: &Cause| match (release, cause) {
            (Release::AllNamedLocks, Cause::NamedLock(name)) => name.is_some() || !prepared,
            (Release::Tables, Cause::TableLocks | Cause::FlushLock) => true,
            (Release::Instance, Cause::InstanceLock) | (Release::Xa, Cause::Xa) => true,
            (Release::TemporaryTables(names), Cause::TemporaryTable(name)) => {
                names.iter().any(|dropped| is_same_table(dropped, name))
            }
            (Release::Handler(closed), Cause::Handler(name)) => closed == name,
            (Release::Variable(neutral), Cause::Variable(name)) => neutral == name,
            (Release::TextPrepared(dropped), Cause::TextPrepared(name)) => dropped == name,
            _ => false,
        };
        match release {
            // Named locks count: each GET_LOCK needs its RELEASE_LOCK. A name that is not known releases none.
            Release::NamedLock(Some(name)) => {
                self.unpin(&PinCause::Statement(Cause::NamedLock(Some(name.clone()))));
            }
            Release::NamedLock(None) => {}
            _ => self.pins.retain(|pin| !matches!(&pin.cause, PinCause::Statement(cause) if gone(cause))),
        }
    }
}

/// The client charset that a handshake's collation id stands for (`information_schema.COLLATIONS`).
pub(crate) fn charset_of_collation(id: u16) -> Charset {
    match id {
        1 | 84 => Charset::Big5,
        28 | 87 => Charset::Gbk,
        248..=250 => Charset::Gb18030,
        13 | 88 | 95 | 96 => Charset::Sjis,
        11 | 65 | 63 | 33 | 76 | 83 | 192..=215 | 223 | 45 | 46 | 224..=247 | 255.. => Charset::AsciiSafe,
        _ => Charset::EightBit,
    }
}

fn is_reported(name: &str, answered: &Answered) -> bool {
    let changes = answered.changes.as_ref();
    changes.is_some_and(|changes| changes.variables.iter().any(|(found, _)| **found == *name.as_bytes()))
}

fn is_counted(cause: &PinCause) -> bool {
    matches!(cause, PinCause::Statement(Cause::NamedLock(_)))
}

fn survives_failure(cause: &Cause) -> bool {
    matches!(cause, Cause::NamedLock(_) | Cause::UserVariable(_) | Cause::Variable(_))
}

/// The schema that a name without one means at each effect of a text, which may hold USE. Between two of those nobody knows.
struct Schemas {
    before: Option<Arc<[u8]>>,
    behind: Option<Arc<[u8]>>,
    /// Where among the effects the first and the last USE are.
    uses: Option<(usize, usize)>,
}

impl Schemas {
    fn of(statement: &Statement, answered: &Answered, before: Option<Arc<[u8]>>) -> Self {
        let is_use = |effect: &Effect| *effect == Effect::UsesSchema;
        let first = statement.effects.iter().position(is_use);
        let last = statement.effects.iter().rposition(is_use);
        let told = answered.changes.as_ref().and_then(|changes| changes.schema.as_deref());
        Self { before, behind: told.map(Arc::from), uses: first.zip(last) }
    }

    fn at(&self, effect: usize) -> Option<&[u8]> {
        match self.uses {
            Some((_, last)) if effect > last => self.behind.as_deref(),
            Some((first, _)) if effect > first => None,
            _ => self.before.as_deref(),
        }
    }
}

/// The same effect with the schema of its temporary tables named, when it is one that names them without.
fn in_schema(effect: &Effect, schema: Option<&[u8]>) -> Option<Effect> {
    let schema = schema?;
    let full = |name: &[u8]| match name.contains(&b'.') {
        true => Box::from(name),
        false => [&schema.to_ascii_lowercase()[..], b".", name].concat().into_boxed_slice(),
    };
    match effect {
        Effect::Pin(Cause::TemporaryTable(name)) => Some(Effect::Pin(Cause::TemporaryTable(full(name)))),
        Effect::Release(Release::TemporaryTables(names)) => {
            Some(Effect::Release(Release::TemporaryTables(names.iter().map(|name| full(name)).collect())))
        }
        Effect::RenamesTable { from, to } => Some(Effect::RenamesTable { from: full(from), to: full(to) }),
        _ => None,
    }
}

/// Unpinning too early would be wrong: both must say which schema they mean.
fn is_same_table(dropped: &[u8], created: &[u8]) -> bool {
    dropped == created && dropped.contains(&b'.')
}
