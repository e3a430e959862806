//! The probe of a MySQL server. One round trip.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::probe::{Applier, Channel, NO_MARKER, Probe, Receiver, ThreadError, ThreadState};
use super::session::{Fields, Micros, Session, first};
use crate::model::health::SessionDefaults;
use crate::model::version::Version;

/// `<https://dev.mysql.com/doc/refman/9.7/en/performance-schema-replication-tables.html>`. The marker comes last: on a
/// server without the table it fails, which ends the batch.
const PROBE: &str = "\
SELECT @@global.version, @@global.server_uuid, @@global.server_id, @@global.read_only, @@global.super_read_only, \
 @@global.gtid_mode, @@global.gtid_executed, @@global.gtid_purged, \
 CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS UNSIGNED), \
 @@global.wait_timeout, @@global.interactive_timeout, @@global.max_allowed_packet;
SELECT c.HOST, c.PORT, c.AUTO_POSITION = '1', s.SERVICE_STATE, s.LAST_ERROR_NUMBER, s.LAST_ERROR_MESSAGE, s.SOURCE_UUID, \
 CAST(UNIX_TIMESTAMP(GREATEST(s.LAST_HEARTBEAT_TIMESTAMP, s.LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP)) * 1000000 \
 AS UNSIGNED), \
 CAST(c.HEARTBEAT_INTERVAL * 1000 AS UNSIGNED), \
 CAST(UNIX_TIMESTAMP(s.LAST_QUEUED_TRANSACTION_ORIGINAL_COMMIT_TIMESTAMP) * 1000000 AS UNSIGNED), \
 GTID_SUBSET(s.RECEIVED_TRANSACTION_SET, @@global.gtid_executed) \
 FROM performance_schema.replication_connection_status s \
 JOIN performance_schema.replication_connection_configuration c USING (CHANNEL_NAME) \
 WHERE CHANNEL_NAME NOT LIKE 'group_replication%' ORDER BY CHANNEL_NAME;
SELECT a.SERVICE_STATE = 'ON', w.LAST_ERROR_NUMBER, w.LAST_ERROR_MESSAGE, \
 CAST(UNIX_TIMESTAMP(w.APPLYING_TRANSACTION_ORIGINAL_COMMIT_TIMESTAMP) * 1000000 AS UNSIGNED), \
 CAST(UNIX_TIMESTAMP(w.LAST_APPLIED_TRANSACTION_ORIGINAL_COMMIT_TIMESTAMP) * 1000000 AS UNSIGNED), \
 o.LAST_ERROR_NUMBER, o.LAST_ERROR_MESSAGE \
 FROM performance_schema.replication_applier_status a \
 LEFT JOIN performance_schema.replication_applier_status_by_worker w USING (CHANNEL_NAME) \
 LEFT JOIN performance_schema.replication_applier_status_by_coordinator o USING (CHANNEL_NAME) \
 WHERE CHANNEL_NAME NOT LIKE 'group_replication%';
SELECT id FROM ctl.cluster LIMIT 1";

/// Asks the server once.
pub(super) async fn probe(session: &mut Session) -> Result<Probe, Error> {
    let (sets, failure) = session.many(PROBE).await?;
    let address = session.address().clone();
    let [identity, channels, workers, rest @ ..] = &sets[..] else {
        return Err(match failure {
            Some(error) => Error::Server { address, code: error.code, message: error.message },
            None => Error::Unexpected(address, "too few results".to_owned()),
        });
    };
    let cluster = match (rest.first(), failure) {
        (Some(rows), None) => match rows.first() {
            Some(row) => Some(Arc::from(session.fields(row).text(0)?)),
            None => None,
        },
        (_, Some(error)) if NO_MARKER.contains(&error.code) => None,
        (_, Some(error)) => return Err(Error::Server { address, code: error.code, message: error.message }),
        (None, None) => return Err(Error::Unexpected(address, "too few results".to_owned())),
    };
    let channel = match channels.first() {
        None => None,
        Some(row) => {
            let applier = workers.iter().map(|row| session.fields(row));
            Some(channel(&session.fields(row), applier)?)
        }
    };
    let identity = session.fields(first(identity, &address)?);
    Ok(Probe {
        version: identity.parsed(0, Version::parse)?,
        uuid: Arc::from(identity.text(1)?),
        server_id: identity.value(2)?,
        read_only: identity.value(3)?,
        super_read_only: identity.value(4)?,
        gtid_mode: identity.text(5)? == "ON",
        executed: identity.gtids(6)?,
        purged: identity.gtids(7)?,
        clock: identity.value(8)?,
        sessions: SessionDefaults {
            wait_timeout: Duration::from_secs(identity.value(9)?),
            interactive_timeout: Duration::from_secs(identity.value(10)?),
            max_allowed_packet: identity.value(11)?,
        },
        channel,
        channels: u32::try_from(channels.len()).unwrap_or(u32::MAX),
        cluster,
    })
}

fn channel<'a>(row: &Fields<'_>, workers: impl Iterator<Item = Fields<'a>>) -> Result<Channel, Error> {
    let mut applier = Applier { running: false, error: None, applying: None, applied: None };
    for worker in workers {
        applier.running = worker.value(0)?;
        for (code, message) in [(1, 2), (5, 6)] {
            applier.error = applier.error.or(thread_error(&worker, code, message)?);
        }
        applier.applying = [applier.applying, moment(&worker, 3)?].into_iter().flatten().min();
        applier.applied = applier.applied.max(moment(&worker, 4)?);
    }
    let state = match row.text(3)?.as_str() {
        "ON" => ThreadState::On,
        "CONNECTING" => ThreadState::Connecting,
        _ => ThreadState::Off,
    };
    Ok(Channel {
        host: Arc::from(row.text(0)?),
        port: row.value(1)?,
        auto_position: row.value(2)?,
        receiver: Receiver {
            state,
            error: thread_error(row, 4, 5)?,
            source_uuid: Arc::from(row.text(6)?),
            heard: moment(row, 7)?,
            heartbeat: Duration::from_millis(row.value(8)?),
            queued: moment(row, 9)?,
            applied_all: row.optional(10)?.unwrap_or(false),
        },
        applier,
    })
}

/// A moment that never came reads as zero.
fn moment(row: &Fields<'_>, column: usize) -> Result<Option<Micros>, Error> {
    Ok(row.optional::<Micros>(column)?.filter(|&micros| micros > 0))
}

fn thread_error(row: &Fields<'_>, code: usize, message: usize) -> Result<Option<ThreadError>, Error> {
    let code: u32 = row.optional(code)?.unwrap_or(0);
    if code == 0 {
        return Ok(None);
    }
    Ok(Some(ThreadError { code, message: Arc::from(row.text(message)?) }))
}
