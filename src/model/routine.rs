//! What of a server's own runs behind the statements of others: stored routines, triggers, views.

/// A stored routine, a trigger or a view, as `information_schema` shows it.
/// <https://dev.mysql.com/doc/refman/9.7/en/information-schema-routines-table.html>
#[derive(Clone, Debug)]
pub(crate) struct Routine {
    pub(crate) kind: RoutineKind,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// A function that declares NO SQL or READS SQL DATA, or a view.
    pub(crate) declares_reading: bool,
    /// The one that it was made with.
    pub(crate) sql_mode: String,
    /// None where the account may not see it or it is too long.
    pub(crate) body: Option<String>,
}

/// How a statement comes to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoutineKind {
    /// By calling it.
    Called,
    /// By writing to its table.
    Trigger,
    /// By reading it.
    View,
}
