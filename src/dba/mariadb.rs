//! The probe of a MariaDB server. It has no replication timestamps: how far a replica is behind is told in whole seconds,
//! and whether its source is alive only by what it received since it was last asked.
//! <https://mariadb.com/kb/en/show-replica-status/>

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::probe::{Applier, Channel, NO_MARKER, Probe, Receiver, ThreadError, ThreadState};
use super::session::{Fields, Micros, Session, first};
use crate::model::gtid::GtidSet;
use crate::model::health::SessionDefaults;

/// The marker comes last: on a server without the table it fails, which ends the batch.
const PROBE: &str = "\
SELECT @@global.server_uid, @@global.server_id, @@global.read_only, @@global.log_bin, @@global.gtid_slave_pos, \
 @@global.gtid_binlog_pos, CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS UNSIGNED), \
 @@global.wait_timeout, @@global.interactive_timeout, @@global.max_allowed_packet;
SHOW ALL SLAVES STATUS;
SELECT id FROM ctl.cluster LIMIT 1";

/// Asks the server once.
pub(super) async fn probe(session: &mut Session) -> Result<Probe, Error> {
    let (sets, failure) = session.many(PROBE).await?;
    let address = session.address().clone();
    let refused = |code, message| Error::Server { address: address.clone(), code, message };
    let [identity, channels, rest @ ..] = &sets[..] else {
        return Err(match failure {
            Some(error) => refused(error.code, error.message),
            None => Error::Unexpected(address, "too few results".to_owned()),
        });
    };
    let cluster = match (rest.first().and_then(|rows| rows.first()), failure) {
        (_, Some(error)) if !NO_MARKER.contains(&error.code) => {
            return Err(refused(error.code, error.message));
        }
        (Some(row), None) => Some(Arc::from(session.fields(row).text(0)?)),
        _ => None,
    };
    let identity = session.fields(first(identity, &address)?);
    let clock = identity.value(6)?;
    let (applied, written) = (identity.gtids(4)?, identity.gtids(5)?);
    let has_log: bool = identity.value(3)?;
    let read_only = identity.value(2)?;
    let sessions = SessionDefaults {
        wait_timeout: Duration::from_secs(identity.value(7)?),
        interactive_timeout: Duration::from_secs(identity.value(8)?),
        max_allowed_packet: identity.value(9)?,
    };
    let (uuid, server_id) = (Arc::from(identity.text(0)?), identity.value(1)?);
    let channel = match channels.first() {
        None => None,
        Some(row) => {
            let (channel, signs) = channel(&session.fields(row), clock)?;
            Some(heard(session, channel, signs, clock))
        }
    };
    // What a replica wrote itself must not pass for what it applied.
    let executed = match &channel {
        Some(_) => applied,
        None => {
            let mut all = applied;
            all.union(&written);
            all
        }
    };
    Ok(Probe {
        version: session.version(),
        uuid,
        server_id,
        read_only,
        // There is no such thing: whoever has the right READ_ONLY ADMIN may write.
        super_read_only: false,
        gtid_mode: channel.as_ref().map_or(has_log, |channel| channel.auto_position),
        sessions,
        executed,
        purged: GtidSet::default(),
        clock,
        channel,
        channels: u32::try_from(channels.len()).unwrap_or(u32::MAX),
        cluster,
    })
}

/// Fills in when the source was last heard of: when something was received that was not there at the last probe.
fn heard(session: &mut Session, mut channel: Channel, signs: String, clock: Micros) -> Channel {
    channel.receiver.heard = match channel.receiver.state {
        ThreadState::On => Some(session.heard(signs, clock)),
        ThreadState::Off | ThreadState::Connecting => session.last_heard(),
    };
    channel
}

/// The channel, and what changes with everything that is received.
fn channel(row: &Fields<'_>, clock: Micros) -> Result<(Channel, String), Error> {
    let text = |name: &str| row.text(row.column(name)?);
    let error = |code: &str, message: &str| -> Result<Option<ThreadError>, Error> {
        let code: u32 = row.value(row.column(code)?)?;
        Ok((code != 0).then_some(ThreadError { code, message: Arc::from(text(message)?) }))
    };
    let received = row.gtids(row.column("Gtid_IO_Pos")?)?;
    let applied = row.gtids(row.column("Gtid_Slave_Pos")?)?;
    let behind: Option<u64> = row.optional(row.column("Seconds_Behind_Master")?)?;
    let heartbeat: f64 = row.value(row.column("Slave_heartbeat_period")?)?;
    let state = match text("Slave_IO_Running")?.as_str() {
        "Yes" => ThreadState::On,
        "No" => ThreadState::Off,
        _ => ThreadState::Connecting,
    };
    let signs = ["Slave_received_heartbeats", "Master_Log_File", "Read_Master_Log_Pos"]
        .map(|name| text(name).unwrap_or_default())
        .join(" ");
    let channel = Channel {
        host: Arc::from(text("Master_Host")?),
        port: row.value(row.column("Master_Port")?)?,
        auto_position: text("Using_Gtid")? != "No",
        receiver: Receiver {
            state,
            error: error("Last_IO_Errno", "Last_IO_Error")?,
            // The server itself takes the difference of the clocks out of its seconds.
            source_uuid: Arc::from(""),
            heard: None,
            heartbeat: Duration::from_secs_f64(heartbeat.clamp(0.0, 4_294_967.0)),
            queued: None,
            applied_all: applied.contains_all(&received),
        },
        applier: Applier {
            running: text("Slave_SQL_Running")? == "Yes",
            error: error("Last_SQL_Errno", "Last_SQL_Error")?,
            applying: behind
                .filter(|seconds| *seconds > 0)
                .map(|seconds| clock.saturating_sub(seconds.saturating_mul(1_000_000))),
            applied: None,
        },
    };
    Ok((channel, signs))
}
