//! What a planned switchover asks of servers: who still has a transaction open, no writes from a moment on, and whether
//! a replica has everything. Each call is bounded on the server too, so that nothing of it happens later.

use std::time::Duration;

use super::error::Error;
use super::session::{Session, first, quoted};
use crate::model::gtid::GtidSet;

/// How many transactions of clients have begun, whether they have written or may still write; 0 where the performance
/// schema is off. Always of this moment.
/// <https://dev.mysql.com/doc/refman/9.7/en/performance-schema-events-transactions-current-table.html>
pub(crate) async fn begun_transactions(session: &mut Session) -> Result<u32, Error> {
    const BEGUN: &str = "\
SELECT COUNT(*) FROM performance_schema.events_transactions_current e \
 JOIN performance_schema.threads t USING (THREAD_ID) \
 WHERE e.STATE = 'ACTIVE' AND e.ACCESS_MODE = 'READ WRITE' AND e.AUTOCOMMIT = 'NO' \
 AND t.TYPE = 'FOREGROUND' AND t.PROCESSLIST_ID <> CONNECTION_ID()";
    match session.rows(BEGUN).await {
        Ok(rows) => session.fields(first(&rows, session.address())?).value(0),
        Err(Error::Server { .. }) => Ok(0),
        Err(error) => Err(error),
    }
}

/// INNODB_TRX shows a snapshot, and takes a new one only when nobody has read it for 0.1 s: who asks more often is
/// told the same for ever.
/// <https://dev.mysql.com/doc/refman/9.7/en/innodb-information-schema-internal-data.html>
pub(crate) const SNAPSHOT_OF_WRITING: Duration = Duration::from_millis(110);

/// The sessions whose transaction has written, or has locked what it will write. To be asked again no sooner than after
/// [`SNAPSHOT_OF_WRITING`].
/// <https://dev.mysql.com/doc/refman/9.7/en/information-schema-innodb-trx-table.html>
pub(crate) async fn writing_sessions(session: &mut Session) -> Result<Vec<u64>, Error> {
    const WRITING: &str = "\
SELECT trx_mysql_thread_id FROM information_schema.innodb_trx \
 WHERE trx_mysql_thread_id NOT IN (0, CONNECTION_ID()) \
 AND (trx_rows_modified > 0 OR trx_rows_locked > 0 OR trx_tables_locked > 0)";
    let rows = session.rows(WRITING).await?;
    rows.iter().map(|row| session.fields(row).value(0)).collect()
}

/// Ends a session with all it has open. One that has gone by itself is no error (ER_NO_SUCH_THREAD).
pub(crate) async fn end_session(session: &mut Session, id: u64) -> Result<(), Error> {
    match session.execute(&format!("KILL CONNECTION {id}")).await {
        Err(error) if error.code() == Some(1094) => Ok(()),
        outcome => outcome,
    }
}

/// Refuses all writes from now on, or fails after `patience` and has changed nothing: the server waits for statements
/// that write, and everybody else then waits for it. When it succeeds, what is executed no longer grows.
/// <https://dev.mysql.com/doc/refman/9.7/en/server-system-variables.html#sysvar_super_read_only>
pub(crate) async fn fence_within(session: &mut Session, patience: Duration) -> Result<(), Error> {
    let seconds = patience.as_secs().max(1);
    session.execute(&format!("SET SESSION lock_wait_timeout = {seconds}")).await?;
    session.execute("SET GLOBAL super_read_only = ON").await
}

/// Waits until the server has executed all of these; false when it has not within `patience`.
/// <https://dev.mysql.com/doc/refman/9.7/en/gtid-functions.html>
pub(crate) async fn await_executed(
    session: &mut Session,
    executed: &GtidSet,
    patience: Duration,
) -> Result<bool, Error> {
    let (set, seconds) = (quoted(&executed.to_string()), patience.as_secs_f64());
    let rows = session.rows(&format!("SELECT WAIT_FOR_EXECUTED_GTID_SET({set}, {seconds})")).await?;
    let overdue: u8 = session.fields(first(&rows, session.address())?).value(0)?;
    Ok(overdue == 0)
}
