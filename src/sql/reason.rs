//! Why a statement is what it is: one word for metrics and one clause for people.

/// Why a statement is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    PlainRead,
    Catalog,
    PlanOnly,
    StoredFunction,
    NoTable,
    SessionState,
    EndsTransaction,
    TextExecute,
    Empty,
    PreviousStatement,
    OpensTransaction,
    OpensReadOnly,
    Kill,
    AsksRoute,
    ChangesData,
    ChangesSchema,
    ChangesAccounts,
    Administration,
    ServerSetting,
    CallsProcedure,
    ExplainsWrite,
    LockingRead,
    WritesFile,
    ReadsServerFile,
    UnknownFunction,
    LockFunction,
    LastInsertId,
    ReplicationWait,
    GtidState,
    ServerIdentity,
    PerServerView,
    Sequence,
    TransactionPart,
    Xa,
    TableLock,
    TemporaryTable,
    TableHandler,
    TextPrepare,
    Cursor,
    UserVariable,
    ConnectionVariable,
    Role,
    ResourceGroup,
    UnknownStatement,
    LexerChanges,
    MixedText,
    ParsersDisagree,
    Malformed,
    TooLong,
    RefusedByReplica,
    HintPrimary,
}

impl Reason {
    /// A value of the metric label `reason`; never changes once released.
    pub(crate) fn label(self) -> &'static str {
        self.pair().0
    }

    /// A clause that follows "because", for people.
    pub(crate) fn words(self) -> &'static str {
        self.pair().1
    }

    fn pair(self) -> (&'static str, &'static str) {
        match self {
            Self::PlainRead => ("plain-read", "it only reads"),
            Self::Catalog => ("catalog", "it reads the catalog, which every server has"),
            Self::PlanOnly => ("plan-only", "it asks for the plan of a read"),
            Self::StoredFunction => {
                ("stored-function", "it only reads, and so do the stored functions it calls")
            }
            Self::NoTable => ("no-table", "it touches no table"),
            Self::SessionState => {
                ("session-state", "it is about this session, which every server is told of")
            }
            Self::EndsTransaction => ("ends-transaction", "it ends a transaction and there is none"),
            Self::TextExecute => ("text-execute", "it runs a statement that PREPARE made on this connection"),
            Self::Empty => ("empty", "it says nothing"),
            Self::PreviousStatement => ("previous-statement", "it is about the statement before it"),
            Self::OpensTransaction => ("opens-transaction", "it opens a transaction"),
            Self::OpensReadOnly => ("opens-read-only", "it opens a read-only transaction"),
            Self::Kill => ("kill", "it ends another connection or its statement"),
            Self::AsksRoute => ("asks-route", "it asks where statements go"),
            Self::ChangesData => ("changes-data", "it changes rows"),
            Self::ChangesSchema => ("changes-schema", "it changes the schema"),
            Self::ChangesAccounts => ("changes-accounts", "it changes accounts or privileges"),
            Self::Administration => ("administration", "it administers a server"),
            Self::ServerSetting => ("server-setting", "it changes a setting of the whole server"),
            Self::CallsProcedure => ("calls-procedure", "a procedure may do anything"),
            Self::ExplainsWrite => ("explains-write", "a replica refuses even the plan of a write"),
            Self::LockingRead => ("locking-read", "it locks the rows that it reads"),
            Self::WritesFile => ("writes-file", "it writes a file on the server"),
            Self::ReadsServerFile => ("reads-server-file", "it reads a file of one server"),
            Self::UnknownFunction => {
                ("unknown-function", "it calls a function that is not built in and may write")
            }
            Self::LockFunction => ("lock-function", "named locks live on the primary"),
            Self::LastInsertId => {
                ("last-insert-id", "the last insert id lives on the connection that inserted")
            }
            Self::ReplicationWait => ("replication-wait", "it waits for a replication position"),
            Self::GtidState => ("gtid-state", "it asks for GTIDs, and only the primary has all of them"),
            Self::ServerIdentity => ("server-identity", "it asks who or what the server is"),
            Self::PerServerView => ("per-server-view", "each server gives another answer"),
            Self::Sequence => ("sequence", "it advances a sequence"),
            Self::TransactionPart => ("transaction-part", "it belongs to a transaction"),
            Self::Xa => ("xa", "it belongs to a distributed transaction"),
            Self::TableLock => ("table-lock", "it takes or releases locks of this connection"),
            Self::TemporaryTable => ("temporary-table", "a temporary table exists on one connection only"),
            Self::TableHandler => ("table-handler", "a HANDLER exists on one connection only"),
            Self::TextPrepare => {
                ("text-prepare", "a statement prepared by PREPARE exists on one connection only")
            }
            Self::Cursor => ("cursor", "an open cursor and long data exist on one connection only"),
            Self::UserVariable => {
                ("user-variable", "it gives a user variable a value that cannot be replayed")
            }
            Self::ConnectionVariable => {
                ("connection-variable", "it sets a variable that must stay on one connection")
            }
            Self::Role => ("role", "a role is active on one connection only"),
            Self::ResourceGroup => ("resource-group", "a resource group binds one connection only"),
            Self::UnknownStatement => {
                ("unknown-statement", "it is no statement that is known to be safe elsewhere")
            }
            Self::LexerChanges => ("lexer-changes", "it changes how the rest of its own text is read"),
            Self::MixedText => ("mixed-text", "its statements want different servers"),
            Self::ParsersDisagree => ("parsers-disagree", "a second parser does not read it as a plain read"),
            Self::Malformed => ("malformed", "its text cannot be read with certainty"),
            Self::TooLong => ("too-long", "it is too long to be read to its end"),
            Self::RefusedByReplica => ("refused-by-replica", "a replica has refused to run it"),
            Self::HintPrimary => ("hint-primary", "a hint sends this read to the primary"),
        }
    }
}
