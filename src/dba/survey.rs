//! What the controller asks of a server beyond the probe: whose data it has, what a clone is doing to it, and what a
//! clone needs to be alike on both sides. Two round trips.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::probe::{Probe, ThreadError, probe};
use super::session::{Fields, Session, first};
use crate::model::gtid::GtidSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    pub(crate) probe: Probe,
    /// Schemas that are neither the server's nor ours.
    pub(crate) user_schemas: u32,
    /// Names of the active plugins and their kinds, sorted.
    pub(crate) plugins: Vec<Arc<str>>,
    /// The settings that clone compares, as text: character set, collation, page size, system tablespace.
    pub(crate) layout: Arc<str>,
    /// The last clone *into* this server; None when there was none, or no plugin.
    pub(crate) clone: Option<CloneRun>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloneRun {
    pub(crate) state: CloneState,
    pub(crate) error: Option<ThreadError>,
    /// The donor as the server writes it.
    pub(crate) source: Arc<str>,
    pub(crate) stage: Arc<str>,
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

const SURVEY: &str = "\
SELECT (SELECT COUNT(*) FROM information_schema.schemata \
 WHERE schema_name NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema', 'ctl')), \
 CONCAT_WS(' ', @@global.character_set_server, @@global.collation_server, @@global.innodb_page_size, \
 @@global.innodb_data_file_path);
SELECT CONCAT(plugin_name, ' (', plugin_type, ')') FROM information_schema.plugins \
 WHERE plugin_status = 'ACTIVE' ORDER BY 1;
SELECT s.STATE, EXISTS (SELECT 1 FROM performance_schema.processlist p WHERE p.ID = s.PID), s.ERROR_NO, s.ERROR_MESSAGE, \
 s.SOURCE, s.GTID_EXECUTED, \
 CAST(TIMESTAMPDIFF(MICROSECOND, s.BEGIN_TIME, IFNULL(s.END_TIME, SYSDATE(3))) / 1000 AS SIGNED), \
 (SELECT CAST(SUM(DATA) AS UNSIGNED) FROM performance_schema.clone_progress), \
 (SELECT CAST(SUM(ESTIMATE) AS UNSIGNED) FROM performance_schema.clone_progress), \
 (SELECT CAST(MAX(DATA_SPEED) AS UNSIGNED) FROM performance_schema.clone_progress WHERE STATE = 'In Progress'), \
 (SELECT MAX(STAGE) FROM performance_schema.clone_progress WHERE STATE = 'In Progress'), s.PID \
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
    let [facts, plugins, rest @ ..] = &sets[..] else {
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
        plugins: plugins
            .iter()
            .map(|row| session.fields(row).text(0).map(Arc::from))
            .collect::<Result<_, _>>()?,
        clone,
    })
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
    })
}
