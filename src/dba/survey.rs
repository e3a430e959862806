//! What the controller asks of a server beyond the probe: whose data it has, what a clone is doing to it, and what a
//! clone needs of both sides. Two round trips.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::mysql::probe;
use super::probe::{Probe, ThreadError};
use super::session::{Fields, Session, first};
use crate::model::gtid::GtidSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    pub(crate) probe: Probe,
    /// Schemas that are neither the server's nor ours.
    pub(crate) user_schemas: u32,
    /// Schemas that may not be dropped (`READ ONLY = 1`), with commas; empty when there are none.
    pub(crate) read_only_schemas: Arc<str>,
    /// The settings that clone compares, each `name=value`, with blanks.
    pub(crate) layout: Arc<str>,
    /// `max_allowed_packet`, in bytes.
    pub(crate) packet: u64,
    pub(crate) redo_log: bool,
    /// Names of the filters that keep transactions from being applied, with commas; empty when there are none.
    pub(crate) filters: Arc<str>,
    /// After a restart it replicates before anybody has looked whom from.
    pub(crate) starts_by_itself: bool,
    /// The last clone *into* this server; None when there was none, or no plugin.
    pub(crate) clone: Option<CloneRun>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloneRun {
    pub(crate) state: CloneState,
    /// When it began, as the server writes it: tells one run from the next.
    pub(crate) began: Arc<str>,
    pub(crate) error: Option<ThreadError>,
    /// The donor as the server writes it.
    pub(crate) source: Arc<str>,
    pub(crate) stage: Arc<str>,
    /// It has begun to drop what was there. Refusals come before that.
    pub(crate) dropped: bool,
    pub(crate) bytes: u64,
    pub(crate) estimate: u64,
    pub(crate) bytes_per_second: u64,
    pub(crate) elapsed: Duration,
    /// What the copy holds; empty until it is complete.
    pub(crate) executed: GtidSet,
    /// The connection that does it, on the recipient.
    pub(crate) process: u64,
}

/// `clone_status.STATE`, with its one lie told apart: a clone that was killed reads "In Progress" for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloneState {
    Running,
    /// "In Progress", but no connection does it.
    Dead,
    Completed,
    Failed,
}

/// Version comments hold what older servers do not know. Clone itself asks for alike plugins, before it drops anything.
/// <https://dev.mysql.com/doc/refman/9.7/en/clone-plugin-remote.html>
/// <https://dev.mysql.com/doc/refman/9.7/en/information-schema-schemata-extensions-table.html>
const SURVEY: &str = "\
SELECT (SELECT COUNT(*) FROM information_schema.schemata \
 WHERE schema_name NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema', 'ctl')), \
 CONCAT_WS(' ', CONCAT('character_set_server=', @@global.character_set_server), \
 CONCAT('character_set_filesystem=', @@global.character_set_filesystem), \
 CONCAT('collation_server=', @@global.collation_server), \
 CONCAT('innodb_page_size=', @@global.innodb_page_size), \
 CONCAT('innodb_data_file_path=', @@global.innodb_data_file_path), \
 CONCAT('version_compile_machine=', @@global.version_compile_machine), \
 CONCAT('version_compile_os=', @@global.version_compile_os)), \
 @@global.max_allowed_packet, \
 IFNULL((SELECT VARIABLE_VALUE FROM performance_schema.global_status \
 WHERE VARIABLE_NAME = 'Innodb_redo_log_enabled'), 'ON') = 'ON', \
 (SELECT GROUP_CONCAT(DISTINCT FILTER_NAME) FROM performance_schema.replication_applier_filters), \
 EXISTS (SELECT 1 FROM performance_schema.global_variables \
 WHERE VARIABLE_NAME IN ('skip_replica_start', 'skip_slave_start') AND VARIABLE_VALUE = 'OFF'), \
 COALESCE(NULL /*!80022 , (SELECT GROUP_CONCAT(SCHEMA_NAME) FROM information_schema.schemata_extensions \
 WHERE OPTIONS LIKE '%READ ONLY=1%') */, '');
SELECT s.STATE, EXISTS (SELECT 1 FROM performance_schema.threads t WHERE t.PROCESSLIST_ID = s.PID), s.ERROR_NO, \
 s.ERROR_MESSAGE, s.SOURCE, s.GTID_EXECUTED, \
 CAST(TIMESTAMPDIFF(MICROSECOND, s.BEGIN_TIME, IFNULL(s.END_TIME, SYSDATE(3))) / 1000 AS SIGNED), \
 (SELECT CAST(SUM(DATA) AS UNSIGNED) FROM performance_schema.clone_progress), \
 (SELECT CAST(SUM(ESTIMATE) AS UNSIGNED) FROM performance_schema.clone_progress), \
 (SELECT CAST(MAX(DATA_SPEED) AS UNSIGNED) FROM performance_schema.clone_progress WHERE STATE = 'In Progress'), \
 (SELECT MAX(STAGE) FROM performance_schema.clone_progress WHERE STATE = 'In Progress'), s.PID, \
 EXISTS (SELECT 1 FROM performance_schema.clone_progress WHERE STAGE = 'DROP DATA' AND STATE <> 'Not Started'), \
 CAST(s.BEGIN_TIME AS CHAR) \
 FROM performance_schema.clone_status s WHERE s.SOURCE <> 'LOCAL INSTANCE' AND s.STATE <> 'Not Started'";

/// ER_NO_SUCH_TABLE: the tables come with the plugin.
const NO_PLUGIN: u16 = 1146;

pub(crate) async fn survey(session: &mut Session) -> Result<Survey, Error> {
    let probe = probe(session).await?;
    let (sets, failure) = session.many(SURVEY).await?;
    if let Some(error) = &failure
        && error.code != NO_PLUGIN
    {
        let address = session.address().clone();
        return Err(Error::Server { address, code: error.code, message: error.message.clone() });
    }
    let [facts, rest @ ..] = &sets[..] else {
        return Err(Error::Unexpected(session.address().clone(), "too few results".to_owned()));
    };
    let facts = session.fields(first(facts, session.address())?);
    let clone = match rest.first().and_then(|rows| rows.first()) {
        Some(row) => Some(clone_run(&session.fields(row))?),
        None => None,
    };
    Ok(Survey {
        probe,
        user_schemas: facts.value(0)?,
        layout: Arc::from(facts.text(1)?),
        packet: facts.value(2)?,
        redo_log: facts.value(3)?,
        filters: Arc::from(facts.text(4)?),
        starts_by_itself: facts.value(5)?,
        read_only_schemas: Arc::from(facts.text(6)?),
        clone,
    })
}

/// How many bytes a copy of the server is. Opens every tablespace's file: not for every look.
/// <https://dev.mysql.com/doc/refman/9.7/en/information-schema-innodb-tablespaces-table.html>
pub(crate) async fn data_bytes(session: &mut Session) -> Result<u64, Error> {
    let sum = "SELECT CAST(IFNULL(SUM(FILE_SIZE), 0) AS UNSIGNED) FROM information_schema.innodb_tablespaces";
    let rows = session.rows(sum).await?;
    session.fields(first(&rows, session.address())?).value(0)
}

fn clone_run(row: &Fields<'_>) -> Result<CloneRun, Error> {
    let alive: bool = row.value(1)?;
    let state = match (row.text(0)?.as_str(), alive) {
        ("In Progress", true) => CloneState::Running,
        ("In Progress", false) => CloneState::Dead,
        ("Completed", _) => CloneState::Completed,
        _ => CloneState::Failed,
    };
    let code: u32 = row.optional(2)?.unwrap_or(0);
    let message = row.text(3)?;
    Ok(CloneRun {
        state,
        error: (code != 0).then(|| ThreadError { code, message: Arc::from(message) }),
        source: Arc::from(row.text(4)?),
        executed: row.gtids(5)?,
        elapsed: Duration::from_millis(row.optional::<i64>(6)?.unwrap_or(0).max(0).unsigned_abs()),
        bytes: row.optional(7)?.unwrap_or(0),
        estimate: row.optional(8)?.unwrap_or(0),
        bytes_per_second: row.optional(9)?.unwrap_or(0),
        stage: Arc::from(row.text(10)?),
        process: row.optional(11)?.unwrap_or(0),
        dropped: row.value(12)?,
        began: Arc::from(row.text(13)?),
    })
}
