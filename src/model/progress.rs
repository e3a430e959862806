//! What the controller is doing, for people: `demo`, `status` and the admin port show it.

use std::sync::Arc;
use std::time::Duration;

use super::server::ServerId;

/// The controller's last look at the cluster, replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// In the order of the topology.
    pub(crate) servers: Vec<ServerProgress>,
    /// What keeps the cluster as a whole from being right; empty when nothing does.
    pub(crate) problems: Vec<Arc<str>>,
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

impl Progress {
    pub(crate) fn all_serving(&self) -> bool {
        !self.servers.is_empty() && self.servers.iter().all(|server| server.serving)
    }
}
