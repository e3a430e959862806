//! How long a client may send nothing, and whose rule that is. Pure.

use std::time::Duration;

/// How long a client may send nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// `limits.client_idle_s`.
    Limits(Duration),
    /// The session's `wait_timeout`, as the server would keep to it if the session had a connection of its own.
    Session(Duration),
}

impl Patience {
    pub(super) fn duration(self) -> Duration {
        match self {
            Self::Limits(duration) | Self::Session(duration) => duration,
        }
    }
}
