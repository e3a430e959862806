//! What one probe of a server tells: what it is, whether it takes writes, what it has, and how its replication runs.

use std::sync::Arc;
use std::time::Duration;

use super::session::Micros;
use crate::model::gtid::GtidSet;
use crate::model::health::SessionDefaults;
use crate::model::version::Version;

/// What a server said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) version: Version,
    pub(crate) uuid: Arc<str>,
    pub(crate) server_id: u32,
    pub(crate) read_only: bool,
    pub(crate) super_read_only: bool,
    /// False when the server numbers no transactions (`gtid_mode` is not ON).
    pub(crate) gtid_mode: bool,
    pub(crate) sessions: SessionDefaults,
    pub(crate) executed: GtidSet,
    /// What the binary logs no longer have.
    pub(crate) purged: GtidSet,
    /// The server's clock when it answered.
    pub(crate) clock: Micros,
    /// The first replication channel that is not group replication's.
    pub(crate) channel: Option<Channel>,
    pub(crate) channels: u32,
    /// The cluster whose data this is; None without a marker table, or when we may not read it.
    pub(crate) cluster: Option<Arc<str>>,
}

/// One replication channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) auto_position: bool,
    pub(crate) receiver: Receiver,
    pub(crate) applier: Applier,
}

/// The thread that takes transactions from the source (`replication_connection_status`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receiver {
    pub(crate) state: ThreadState,
    pub(crate) error: Option<ThreadError>,
    /// Empty until the source was reached once.
    pub(crate) source_uuid: Arc<str>,
    /// When a heartbeat or a transaction last came, by the replica's clock; None when nothing has come yet.
    pub(crate) heard: Option<Micros>,
    pub(crate) heartbeat: Duration,
    /// When the last transaction that was received was committed, by the clock of the server that committed it.
    pub(crate) queued: Option<Micros>,
    /// Every GTID that was received is executed. Says nothing without `gtid_mode`.
    pub(crate) applied_all: bool,
}

/// The threads that apply (`replication_applier_status`, its workers and coordinator).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applier {
    pub(crate) running: bool,
    pub(crate) error: Option<ThreadError>,
    /// When the oldest transaction that is being applied was committed, by the clock of the server that committed it.
    pub(crate) applying: Option<Micros>,
    /// The same of the newest that is applied.
    pub(crate) applied: Option<Micros>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadState {
    On,
    Off,
    Connecting,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ThreadError {
    pub(crate) code: u32,
    pub(crate) message: Arc<str>,
}

impl ThreadError {
    /// The source, or the way to it, is away: the server itself tries again, until it is told to stop. The error stays.
    pub(crate) fn is_of_absence(&self) -> bool {
        AWAY.contains(&self.code)
    }
}

/// ER_CON_COUNT_ERROR, ER_SERVER_SHUTDOWN, ER_HOST_IS_BLOCKED, ER_TOO_MANY_USER_CONNECTIONS, ER_SERVER_OFFLINE_MODE, and the
/// CR_ codes from no socket to a lost connection.
const AWAY: [u32; 11] = [1040, 1053, 1129, 1203, 3032, 2002, 2003, 2005, 2006, 2012, 2013];

/// ER_BAD_DB_ERROR, ER_NO_SUCH_TABLE, and what one hears without the right to see either: ER_DBACCESS_DENIED_ERROR,
/// ER_TABLEACCESS_DENIED_ERROR.
pub(super) const NO_MARKER: [u16; 4] = [1049, 1146, 1044, 1142];
