//! The named locks that another connection has.

use super::error::Error;
use super::session::{Session, first};

/// How many locks of GET_LOCK() the connection with this id has; each counts once, however often it was taken. None where the
/// server does not keep account of them, or has not of all.
/// <https://dev.mysql.com/doc/refman/9.7/en/performance-schema-metadata-locks-table.html>
///
/// # Errors
/// When the server does not answer, or the account may not look at `performance_schema`.
pub(crate) async fn named_locks(session: &mut Session, connection: u32) -> Result<Option<u64>, Error> {
    let sql = format!(
        "SELECT IF(EXISTS (SELECT * FROM performance_schema.setup_instruments \
         WHERE NAME = 'wait/lock/metadata/sql/mdl' AND ENABLED = 'YES') \
         AND (SELECT VARIABLE_VALUE FROM performance_schema.global_status \
         WHERE VARIABLE_NAME = 'Performance_schema_metadata_lock_lost') = 0, \
         (SELECT COUNT(*) FROM performance_schema.metadata_locks JOIN performance_schema.threads ON THREAD_ID = OWNER_THREAD_ID \
         WHERE OBJECT_TYPE = 'USER LEVEL LOCK' AND PROCESSLIST_ID = {connection}), NULL)"
    );
    let rows = session.rows(&sql).await?;
    session.fields(first(&rows, session.address())?).optional(0)
}
