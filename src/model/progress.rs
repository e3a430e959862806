//! What the controller is doing, for people: `demo`, `status` and the admin port show it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::server::ServerId;

/// The controller's last look at the cluster, replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// In the order of the topology.
    pub(crate) servers: Vec<ServerProgress>,
    /// What keeps the cluster from being right; empty when nothing does.
    pub(crate) problems: Vec<Problem>,
}

/// Something that is not right, and that the controller waits for, or leaves to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// One word that stays while the text changes, such as `CloneImpossible`.
    pub(crate) reason: &'static str,
    /// The server that it is about; None for the cluster as a whole.
    pub(crate) server: Option<ServerId>,
    /// The cause and the remedy, for people.
    pub(crate) words: Arc<str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServerProgress {
    pub(crate) id: ServerId,
    /// One word for the state, such as `Blank` or `Serving`.
    pub(crate) state: &'static str,
    /// What is being done, or is waited for, in words.
    pub(crate) doing: Arc<str>,
    pub(crate) copy: Option<CopyProgress>,
    pub(crate) serving: bool,
}

/// How far the copying of data to one server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CopyProgress {
    pub(crate) bytes: u64,
    /// What it will be in all, as the donor estimates; grows while the donor is written to.
    pub(crate) estimate: u64,
    pub(crate) bytes_per_second: u64,
    pub(crate) elapsed: Duration,
}

impl ServerProgress {
    /// What is being done, and how far that is.
    pub(crate) fn words(&self) -> String {
        match &self.copy {
            Some(copy) => format!("{}, {copy}", self.doing),
            None => self.doing.to_string(),
        }
    }
}

impl fmt::Display for CopyProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (done, all) = (mib(self.bytes), mib(self.estimate.max(self.bytes)));
        write!(f, "{done:.1} of {all:.1} MiB, {:.0} MiB/s", mib(self.bytes_per_second))?;
        match self.left() {
            Some(left) => write!(f, ", {} s left", left.as_secs()),
            None => Ok(()),
        }
    }
}

impl CopyProgress {
    /// What is left at this rate; None while nothing moves.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = self.estimate.saturating_sub(self.bytes);
        left.checked_div(self.bytes_per_second).map(Duration::from_secs)
    }
}

impl Progress {
    pub(crate) fn all_serving(&self) -> bool {
        !self.servers.is_empty() && self.servers.iter().all(|server| server.serving)
    }
}
