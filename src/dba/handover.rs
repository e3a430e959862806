//! What a planned switchover asks of servers: who still has a transaction open, no writes from a moment on, and whether
//! a replica has everything. Each call is bounded on the server too, so that nothing of it happens later.

use std::time::Duration;

use super::error::Error;
use super::session::{Session, first, quoted};
use crate::model::gtid::GtidSet;

/// Transactions of clients that are open on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenTransactions {
    /// The sessions whose transaction has written, or has locked what it will write.
    pub(crate) writing: Vec<u64>,
    /// How many have begun and only read so far; they may still write.
    pub(crate) begun: u32,
}

/// The second result fails where the performance schema is off; what has written is known all the same.
/// <https://dev.mysql.com/doc/refman/9.7/en/information-schema-innodb-trx-table.html>
/// <https://dev.mysql.com/doc/refman/9.7/en/performance-schema-events-transactions-current-table.html>
const OPEN: &str = "\
SELECT trx_mysql_thread_id FROM information_schema.innodb_trx \
 WHERE trx_mysql_thread_id NOT IN (0, CONNECTION_ID()) \
 AND (trx_rows_modified > 0 OR trx_rows_locked > 0 OR trx_tables_locked > 0);
SELECT COUNT(*) FROM performance_schema.events_transactions_current e \
 JOIN performance_schema.threads t USING (THREAD_ID) \
 WHERE e.STATE = 'ACTIVE' AND e.ACCESS_MODE = 'READ WRITE' AND e.AUTOCOMMIT = 'NO' \
 AND t.TYPE = 'FOREGROUND' AND t.PROCESSLIST_ID <> CONNECTION_ID()";

pub(crate) async fn open_transactions(session: &mut Session) -> Result<OpenTransactions, Error> {
    let (sets, failure) = session.many(OPEN).await?;
    let address = session.address().clone();
    let Some(writing) = sets.first() else {
        return Err(match failure {
            Some(error) => Error::Server { address, code: error.code, message: error.message },
            None => Error::Unexpected(address, "too few results".to_owned()),
        });
    };
    let writing = writing.iter().map(|row| session.fields(row).value(0)).collect::<Result<_, _>>()?;
    let begun = match sets.get(1) {
        Some(rows) => session.fields(first(rows, &address)?).value(0)?,
        None => 0,
    };
    Ok(OpenTransactions { writing, begun })
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
