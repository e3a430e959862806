//! The stored functions and procedures of a server, for the verdict on statements that call them.

use super::error::Error;
use super::session::{Session, first};

/// Bodies longer than this, in bytes, are not read.
const LONGEST_BODY: u32 = 64 << 10;
/// More routines than this are not read: those beyond are as unknown as loadable functions.
const MOST: u32 = 5_000;
/// Schemas of the server's own. Its functions are about one server, or write.
const FOREIGN: &str = "ROUTINE_SCHEMA NOT IN ('sys', 'mysql', 'information_schema', 'performance_schema')";

/// Triggers, as far as the account has the TRIGGER privilege for their tables. MariaDB opens every table to tell of them.
/// <https://dev.mysql.com/doc/refman/9.7/en/information-schema-triggers-table.html>
const TRIGGERS: &str = "(SELECT TRIGGER_SCHEMA AS ROUTINE_SCHEMA, TRIGGER_NAME, SQL_MODE, ACTION_STATEMENT \
                        FROM information_schema.TRIGGERS) AS TRIGGERS";

/// A stored function or procedure, or a trigger.
#[derive(Clone, Debug)]
pub(crate) struct StoredRoutine {
    pub(crate) is_trigger: bool,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// A function that declares NO SQL or READS SQL DATA.
    pub(crate) declares_reading: bool,
    pub(crate) sql_mode: String,
    /// None where the account may not see it or it is too long.
    pub(crate) body: Option<String>,
}

/// A number that changes when a routine does. Bodies stay on the server.
///
/// # Errors
/// When the server does not answer, or not with a number.
pub(crate) async fn routines_mark(session: &mut Session) -> Result<u64, Error> {
    let triggers = match session.version().mariadb {
        true => String::new(),
        false => format!(
            " + (SELECT IFNULL(SUM(CRC32(CONCAT_WS(',', ROUTINE_SCHEMA, TRIGGER_NAME, SQL_MODE, ACTION_STATEMENT))), 0) \
             + COUNT(*) FROM {TRIGGERS} WHERE {FOREIGN})"
        ),
    };
    let sql = format!(
        "SELECT CAST(IFNULL(SUM(CRC32(CONCAT_WS(',', ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_TYPE, SQL_DATA_ACCESS, \
         SQL_MODE, ROUTINE_DEFINITION))), 0) + COUNT(*){triggers} AS UNSIGNED) FROM information_schema.ROUTINES WHERE {FOREIGN}"
    );
    let rows = session.rows(&sql).await?;
    session.fields(first(&rows, session.address())?).value(0)
}

/// All of them. Which a server shows depends on the account: MySQL shows the bodies to whoever has SELECT on everything.
/// <https://dev.mysql.com/doc/refman/9.7/en/information-schema-routines-table.html>
///
/// # Errors
/// When the server does not answer, or not with rows of this form.
pub(crate) async fn routines(session: &mut Session) -> Result<Vec<StoredRoutine>, Error> {
    let triggers = match session.version().mariadb {
        true => String::new(),
        false => format!(
            "(SELECT ROUTINE_SCHEMA, TRIGGER_NAME, 0, SQL_MODE, \
             IF(LENGTH(ACTION_STATEMENT) <= {LONGEST_BODY}, ACTION_STATEMENT, NULL), 1 FROM {TRIGGERS} WHERE {FOREIGN} LIMIT {MOST}) \
             UNION ALL "
        ),
    };
    let sql = format!(
        "{triggers}(SELECT ROUTINE_SCHEMA, ROUTINE_NAME, \
         ROUTINE_TYPE = 'FUNCTION' AND SQL_DATA_ACCESS IN ('NO SQL', 'READS SQL DATA'), SQL_MODE, \
         IF(LENGTH(ROUTINE_DEFINITION) <= {LONGEST_BODY}, ROUTINE_DEFINITION, NULL), 0 \
         FROM information_schema.ROUTINES WHERE {FOREIGN} LIMIT {MOST})"
    );
    let rows = session.rows(&sql).await?;
    let routine = |row| {
        let fields = session.fields(row);
        Ok(StoredRoutine {
            schema: fields.text(0)?,
            name: fields.text(1)?,
            declares_reading: fields.value(2)?,
            sql_mode: fields.text(3)?,
            body: fields.optional(4)?,
            is_trigger: fields.value(5)?,
        })
    };
    rows.iter().map(routine).collect()
}
