//! What a statement is and what it does to a session, from its bytes alone. Never touches a network, never changes
//! the text, and never guesses in favour of a replica: doubt is a write.

mod administration;
mod classify;
mod counts;
mod definition;
mod expression;
mod functions;
mod names;
mod parse;
mod prepared;
mod reason;
mod routines;
mod scan;
mod set;
mod shape;
mod show;
mod tables;
#[cfg(test)]
mod tests;
mod transaction;
mod variables;
mod walk;

pub(crate) use classify::Classifier;
pub(crate) use counts::with_counts;
pub(crate) use prepared::pins_of;
pub(crate) use reason::Reason;
pub(crate) use routines::Routines;
pub(crate) use tables::is_system_schema;
pub(crate) use variables::{REPLAYABLE, binding, is_replayable};
pub(crate) use walk::route_question;

/// How the session that sends a statement reads SQL text. Part of every cache key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dialect {
    pub(crate) no_backslash_escapes: bool,
    pub(crate) ansi_quotes: bool,
    pub(crate) ignore_space: bool,
    pub(crate) charset: Charset,
    /// `Version::comment_number` of the server, for version comments and the list of built-in functions.
    pub(crate) version: u32,
    pub(crate) mariadb: bool,
    /// The client may send several statements in one packet (CLIENT_MULTI_STATEMENTS).
    pub(crate) multi_statements: bool,
}

impl Dialect {
    /// An empty `sql_mode` on such a server, a client that speaks utf8mb4 and sends one statement at a time.
    pub(crate) const fn plain(version: u32, mariadb: bool) -> Self {
        Self {
            no_backslash_escapes: false,
            ansi_quotes: false,
            ignore_space: false,
            charset: Charset::AsciiSafe,
            version,
            mariadb,
            multi_statements: false,
        }
    }

    /// Takes in what a session's `sql_mode` means to the scanner.
    /// <https://dev.mysql.com/doc/refman/9.7/en/sql-mode.html#sql-mode-combo>
    pub(crate) fn read_sql_mode(&mut self, mode: &[u8]) {
        let has = |word: &[u8]| mode.split(|&byte| byte == b',').any(|mode| mode.eq_ignore_ascii_case(word));
        let ansi = has(b"ANSI");
        self.no_backslash_escapes = has(b"NO_BACKSLASH_ESCAPES");
        self.ansi_quotes = ansi || has(b"ANSI_QUOTES");
        self.ignore_space = ansi || has(b"IGNORE_SPACE");
    }
}

#[cfg(test)]
impl Dialect {
    /// MySQL 9.7.4 with its default sql_mode and a client that speaks utf8mb4.
    pub(crate) const fn for_tests() -> Self {
        Self { multi_statements: true, ..Self::plain(90_704, false) }
    }
}

/// Client character sets in which a byte below 0x80 may be the second byte of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Charset {
    /// utf8mb4, utf8mb3, ascii, binary.
    AsciiSafe,
    /// latin1 and all others without second bytes below 0x80; some of them have blanks above it.
    EightBit,
    Gbk,
    Gb18030,
    Big5,
    /// sjis and cp932.
    Sjis,
}

impl Charset {
    /// By the name the server gives it, as in `character_set_client`.
    pub(crate) fn named(name: &[u8]) -> Self {
        match name.to_ascii_lowercase().as_slice() {
            b"gbk" => Self::Gbk,
            b"gb18030" => Self::Gb18030,
            b"big5" => Self::Big5,
            b"sjis" | b"cp932" => Self::Sjis,
            b"utf8mb4" | b"utf8mb3" | b"utf8" | b"ascii" | b"binary" => Self::AsciiSafe,
            _ => Self::EightBit,
        }
    }
}

/// The verdict on one COM_QUERY or COM_STMT_PREPARE text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) kind: Kind,
    /// Why `kind` is what it is; a label of metrics and the word `explain` prints.
    pub(crate) reason: Reason,
    /// What it does to the session, in the order of the text.
    pub(crate) effects: Vec<Effect>,
    /// What it needs of the connection it runs on.
    pub(crate) needs: Needs,
    pub(crate) hint: Option<Hint>,
    /// It is nothing but this question, one number.
    pub(crate) asks: Option<Question>,
    pub(crate) counts: Counts,
    /// The text has several statements.
    pub(crate) several: bool,
    /// Routines that it calls, or may call, and views that do more than read tables: `schema.name` or `name`, lower case,
    /// unquoted.
    pub(crate) calls: Vec<Box<[u8]>>,
    /// It runs routines, none of which leaves anything in the session, nor does a trigger or a view behind them.
    pub(crate) leaves_nothing: bool,
    /// Whether it ends a transaction that is open.
    pub(crate) ends: Ends,
}

/// A question about the session that no server can answer when several serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// `SELECT CONNECTION_ID()`: the id that KILL takes.
    ConnectionId,
    /// `SELECT ROW_COUNT()`, about the statement before.
    RowCount,
    /// `SELECT FOUND_ROWS()`, about the last query.
    FoundRows,
}

/// What a statement leaves for FOUND_ROWS() and ROW_COUNT().
/// <https://dev.mysql.com/doc/refman/9.7/en/information-functions.html#function_found-rows>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Counts {
    /// FOUND_ROWS() stays what it was.
    #[default]
    Nothing,
    /// FOUND_ROWS() is the number of its rows.
    Rows,
    /// FOUND_ROWS() is 1: DO.
    One,
    /// Only the connection knows, and somebody may mean to ask: SQL_CALC_FOUND_ROWS, CALL.
    Unknown,
    /// Only the connection knows what came of it: rows that UPDATE looked at, or OFFSET passed over.
    Incidental,
    /// GET DIAGNOSTICS: even ROW_COUNT() stays what it was.
    NotEven,
}

/// Whether a transaction that is open goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ends {
    /// It does, or only COMMIT or ROLLBACK ends it, which are about nothing else.
    #[default]
    Nothing,
    /// It is committed before anything else runs, or the first of several statements ends it.
    /// <https://dev.mysql.com/doc/refman/9.7/en/implicit-commit.html>
    First,
    /// A later one of several statements ends it.
    Later,
}

/// Where a statement may run, before the session's state is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing; a fresh replica gives the same answer.
    Read,
    /// The primary. Also everything that is not proven to be something else.
    Write,
    /// About the session or about nothing: any server gives the same answer (SET, USE, SELECT 1, COMMIT outside a
    /// transaction).
    Anywhere,
    /// About the statement before it (SHOW WARNINGS, FOUND_ROWS): the connection that ran that one.
    Previous,
    /// Opens a transaction and does nothing else.
    Begin(Access),
    /// KILL of a connection or of its statement; `id` is as the client wrote it, None for CONNECTION_ID().
    Kill { id: Option<u64>, whole_connection: bool },
    /// EXPLAIN ROUTE, SHOW ROUTE: about our own decisions; see [`route_question`].
    AskRoute,
}

/// The access mode a transaction was opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Not said: SET TRANSACTION or `transaction_read_only` decide.
    Unspecified,
    ReadOnly,
    ReadWrite,
}

/// What a statement does to its session when it succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// State appears that lives on one connection only and cannot be made again elsewhere.
    Pin(Cause),
    /// That state goes away.
    Release(Release),
    /// Assigned back to its neutral value: the connection is as if it had never been set.
    Restore(Cause),
    /// Session system variables were assigned, names in lower case without scope. Their values come from the server's
    /// session tracker, which is silent about some that change along with another (SET NAMES and
    /// `collation_connection`): those are named too. NAMES and CHARACTER SET count as the variables they set.
    SetVariables(Vec<Box<str>>),
    /// USE, whose schema the server reports.
    UsesSchema,
    /// A user variable got a literal, which can be replayed anywhere. The name is in lower case, without `@`; the
    /// literal means the same under every sql_mode and character set.
    SetUserVariable { name: Box<[u8]>, literal: Box<[u8]> },
    /// SET TRANSACTION without a scope: the next transaction only. None: not said.
    NextTransaction { access: Option<Access>, isolation: Option<Isolation> },
    /// ALTER TABLE .. RENAME, which temporary tables know too; names as in [`Cause::TemporaryTable`].
    RenamesTable { from: Box<[u8]>, to: Box<[u8]> },
    /// PREPARE or EXECUTE IMMEDIATE of SQL that is not in the text: a user variable's, by its name as in
    /// [`Self::SetUserVariable`], or computed.
    RunsUnseen(Option<Box<[u8]>>),
    /// START TRANSACTION WITH CONSISTENT SNAPSHOT: what the transaction reads is fixed from now on.
    TakesSnapshot,
    /// A transaction begins as a part of a longer text (`BEGIN; SELECT 1`, ROLLBACK AND CHAIN).
    Begins,
    /// Accounts, passwords or privileges change: what is known of users must be checked again.
    AccountsChange,
    /// A routine, trigger or view is made, altered or dropped: what is known of them must be asked again.
    RoutinesChange,
    /// The server closes the connection after this (COMMIT RELEASE).
    Disconnects,
    /// SQL_CALC_FOUND_ROWS: the next FOUND_ROWS() must run on this connection.
    CountsFoundRows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// Why a session must stay on one connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// GET_LOCK of this name in lower case; None when the name is no literal.
    NamedLock(Option<Box<[u8]>>),
    TableLocks,
    InstanceLock,
    /// FLUSH TABLES WITH READ LOCK, FLUSH TABLES ... FOR EXPORT: until UNLOCK TABLES.
    FlushLock,
    /// `schema.table` or `table`, lower case, unquoted.
    TemporaryTable(Box<[u8]>),
    Handler(Box<[u8]>),
    /// Text PREPARE of this name, lower case.
    TextPrepared(Box<[u8]>),
    /// A user variable whose value cannot be replayed; None when its name is not known.
    UserVariable(Option<Box<[u8]>>),
    /// A session variable that must never be pooled or replayed: sql_log_bin, gtid_next, insert_id, timestamp, ...
    Variable(&'static str),
    Role,
    ResourceGroup,
    /// From XA START to XA PREPARE, XA COMMIT ... ONE PHASE or XA ROLLBACK.
    Xa,
}

/// What a statement lets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    NamedLock(Option<Box<[u8]>>),
    AllNamedLocks,
    /// UNLOCK TABLES: table locks and flush locks.
    Tables,
    Instance,
    /// `DROP [TEMPORARY] TABLE` of these names, as in [`Cause::TemporaryTable`].
    TemporaryTables(Vec<Box<[u8]>>),
    Handler(Box<[u8]>),
    TextPrepared(Box<[u8]>),
    /// A variable that binds its session has a value that any connection can be given.
    Variable(&'static str),
    Xa,
}

/// What a statement needs of the connection that runs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// It reads LAST_INSERT_ID(), @@last_insert_id or @@identity, or may change it without a word (CALL, LOAD DATA).
    pub(crate) last_insert_id: bool,
    /// It mentions user variables.
    pub(crate) user_variables: bool,
    /// It looks at session_track_* variables, or sets them.
    pub(crate) trackers: bool,
    /// It looks at the access mode of transactions, or sets it: `transaction_read_only`, SET TRANSACTION READ WRITE.
    pub(crate) access_mode: bool,
    /// It asks about the statement before it, whatever else it does: `INSERT INTO t VALUES (ROW_COUNT())`.
    pub(crate) previous: bool,
}

/// A wish of the application: `/* readwright: primary */` or `/* readwright: replica */`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    Primary,
    Replica,
}

/// Where a statement would go on a fresh session: what `readwright explain` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A replica may serve it.
    Read,
    /// The primary.
    Write,
    /// The primary, and the session stays on that connection.
    Pin,
    /// Any server.
    Either,
}

impl Route {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Pin => "pin",
            Self::Either => "either",
        }
    }
}

impl Statement {
    /// True when it may run routines or triggers, or is several statements that write: it may change the session before it
    /// fails.
    pub(crate) fn may_hide(&self) -> bool {
        self.reason == Reason::ChangesData || self.may_commit()
    }

    /// True when what SET TRANSACTION has said before may be about this statement. (About COMMIT it is never.)
    pub(crate) fn may_use_next_transaction(&self) -> bool {
        match self.kind {
            Kind::Previous => false,
            Kind::Anywhere => {
                let sets = |effect: &Effect| matches!(effect, Effect::NextTransaction { .. });
                self.reason == Reason::TextExecute || self.effects.iter().any(sets)
            }
            _ => true,
        }
    }

    /// True when it may have committed something although it fails.
    pub(crate) fn may_commit(&self) -> bool {
        let runs_others = matches!(
            self.reason,
            Reason::CallsProcedure | Reason::UnknownFunction | Reason::RefusedByReplica | Reason::TextExecute
        );
        runs_others || self.several && self.kind == Kind::Write
    }

    /// Where it would go on a fresh session with autocommit and no transaction, and why.
    pub(crate) fn verdict(&self) -> (Route, Reason) {
        let follows_hint = matches!(self.kind, Kind::Read | Kind::Anywhere | Kind::Begin(Access::ReadOnly));
        match self.route() {
            Route::Read | Route::Either if follows_hint && self.hint == Some(Hint::Primary) => {
                (Route::Write, Reason::HintPrimary)
            }
            route => (route, self.reason),
        }
    }

    /// The same without the application's hint.
    pub(crate) fn route(&self) -> Route {
        // A restored variable counts too: whoever names sql_log_bin or gtid_next owns the connection for that moment.
        let pins = |effect: &Effect| matches!(effect, Effect::Pin(_) | Effect::Restore(_) | Effect::Begins);
        if self.effects.iter().any(pins) {
            return Route::Pin;
        }
        match self.kind {
            Kind::Read | Kind::Begin(Access::ReadOnly) => Route::Read,
            Kind::Write | Kind::Kill { .. } => Route::Write,
            Kind::Begin(_) => Route::Pin,
            Kind::Anywhere | Kind::Previous | Kind::AskRoute => Route::Either,
        }
    }
}
