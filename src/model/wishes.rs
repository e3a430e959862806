//! What people want of the controller. It reads them, and answers in its record; it never writes them.

use std::sync::Arc;

use super::server::ServerId;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Look and report, and change nothing.
    pub(crate) paused: bool,
    pub(crate) switchover: Option<Wish>,
}

/// Another server shall be the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// By this the answer is known; a wish that has been answered is over.
    pub(crate) id: Arc<str>,
    /// None: the best replica.
    pub(crate) to: Option<ServerId>,
    /// Also when the primary is dead, and with it what only it has.
    pub(crate) force: bool,
}
