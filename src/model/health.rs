//! What the monitor knows of one server.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::gtid::{GtidSet, Watermark};
use super::server::{Address, ServerId};
use super::version::Version;

/// The result of the last probes of one server, as one value: never changed, only replaced.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Health {
    /// No probe has finished yet.
    Unknown,
    /// The server answers.
    Up(Up),
    /// The server does not answer, or refuses; the text says why, for people.
    Down(Arc<str>),
}

/// What was learned of one server.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) id: ServerId,
    /// Where it was asked; a report of an address that is no longer the server's is void.
    pub(crate) address: Address,
    pub(crate) health: Health,
}

/// What a server that answers said of itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Up {
    pub(crate) version: Version,
    /// `@@server_uuid`; empty on a server without one (MariaDB).
    pub(crate) uuid: Arc<str>,
    pub(crate) server_id: u32,
    pub(crate) read_only: bool,
    pub(crate) super_read_only: bool,
    /// The marker of the cluster whose data this is; None when there is no marker table.
    pub(crate) cluster: Option<Arc<str>>,
    /// It numbers its transactions (`gtid_mode` is ON).
    pub(crate) gtids: bool,
    pub(crate) sessions: SessionDefaults,
    pub(crate) executed: Arc<GtidSet>,
    /// Grows until the next probe; shared by all snapshots that have this one.
    pub(crate) waited: Arc<Waited>,
    pub(crate) replication: Replication,
}

/// The server's global values that its new sessions begin with, as far as they bind clients and not statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionDefaults {
    /// How long a client may be idle.
    pub(crate) wait_timeout: Duration,
    /// The same for a client that said that a person sits behind it (CLIENT_INTERACTIVE).
    pub(crate) interactive_timeout: Duration,
    /// The largest statement, in bytes.
    pub(crate) max_allowed_packet: u64,
}

impl Default for SessionDefaults {
    /// As a server has them that nobody has told otherwise.
    fn default() -> Self {
        let eight_hours = Duration::from_secs(28_800);
        Self { wait_timeout: eight_hours, interactive_timeout: eight_hours, max_allowed_packet: 64 << 20 }
    }
}

/// What reads have waited for on a server, with success, since it was probed: newer than the probe's word.
#[derive(Debug, Default)]
pub(crate) struct Waited(ArcSwapOption<Watermark>);

/// Two reports of a server that say the same are the same, whoever has read there since.
impl PartialEq for Waited {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What a server replicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Replication {
    /// No channel is configured.
    None,
    /// Both threads run. `lag` is how old the oldest change is that was received and is not applied yet; zero when
    /// all is applied. `silence` is how long the source has not been heard of although it should have been (by a
    /// heartbeat at least): what the server may lack is then unknown.
    Running { lag: Duration, silence: Duration },
    /// Nothing is received, for no fault of the server's: it was told to stop, or its source is away. All that it
    /// received is applied. The text says what does not run.
    Paused(Arc<str>),
    /// A thread does not run; the text says which, and its last error.
    Stopped(Arc<str>),
}

impl Up {
    /// Whether the server is known to have applied the watermark.
    pub(crate) fn has_applied(&self, watermark: &Watermark) -> bool {
        watermark.is_applied_in(&self.executed)
            || self.waited.0.load().as_ref().is_some_and(|waited| waited.covers(watermark))
    }

    /// Notes that a read has found the watermark applied. Of two that note at once one may be lost: it is waited for
    /// again.
    pub(crate) fn note_applied(&self, watermark: &Watermark) {
        if !self.has_applied(watermark) {
            self.waited.0.store(Some(Arc::new(watermark.clone())));
        }
    }
}

impl Health {
    pub(crate) fn up(&self) -> Option<&Up> {
        match self {
            Self::Up(up) => Some(up),
            Self::Unknown | Self::Down(_) => None,
        }
    }

    /// How old the data may be; None when the server is down or replicates nothing.
    pub(crate) fn lag(&self) -> Option<Duration> {
        match self.up()?.replication {
            Replication::Running { lag, silence } => Some(lag.max(silence)),
            Replication::None | Replication::Paused(_) | Replication::Stopped(_) => None,
        }
    }
}
