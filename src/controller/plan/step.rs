//! What a plan may hold: steps that act on a server, and changes of the record. Only data; who may do what when is said by
//! the planner, and held by `verify`.

use std::sync::Arc;

use crate::controller::world::Handover;
use crate::model::gtid::GtidSet;
use crate::model::server::ServerId;

/// One thing to do. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sets the first primary up: accounts, marker, writes. Only ever once in a cluster's life.
    Initialise {
        server: ServerId,
        cluster: Arc<str>,
    },
    /// Takes a cluster that is there already into our record.
    Adopt {
        server: ServerId,
        cluster: Arc<str>,
    },
    /// Creates our accounts on the primary, which has lost or never had them.
    CreateAccounts {
        server: ServerId,
    },
    AllowWrites {
        server: ServerId,
    },
    ForbidWrites {
        server: ServerId,
    },
    /// Overwrites `server` with a copy of `donor`.
    Clone {
        server: ServerId,
        donor: ServerId,
    },
    /// Ends a copy to `server` that does not move.
    StopCopy {
        server: ServerId,
        process: u64,
    },
    /// Forgets the channel it has, with what it received and has not applied, and replicates from `source`.
    Follow {
        server: ServerId,
        source: ServerId,
    },
    /// Starts replication with the channel it has.
    Start {
        server: ServerId,
    },
    /// From now on it replicates after a restart only when it is told to.
    StayStopped {
        server: ServerId,
    },
    /// Gives it another `server_id`.
    SetServerId {
        server: ServerId,
        number: u32,
    },
    StopReceiving {
        server: ServerId,
    },
    /// Forgets a channel that should not be.
    DropChannel {
        server: ServerId,
    },
    /// Takes the primary's writes away for a switchover, when open transactions have ended. `impatient` ends those that
    /// do not end by themselves.
    Fence {
        server: ServerId,
        impatient: bool,
    },
    /// Waits a moment until `server` has these.
    AwaitExecuted {
        server: ServerId,
        executed: GtidSet,
    },
}

/// A step of a switchover in the record alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Begin {
        handover: Handover,
    },
    /// `server` is the primary from now on. It has `executed`, which is all that the old one ever had.
    Appoint {
        server: ServerId,
        uuid: Arc<str>,
        executed: GtidSet,
    },
    /// `server` is the primary from now on, because people give `from` up. It has `executed`; `lost` is what is known to have
    /// been committed, and is not in that.
    GiveUp {
        id: Arc<str>,
        from: ServerId,
        server: ServerId,
        uuid: Arc<str>,
        executed: GtidSet,
        lost: GtidSet,
    },
    /// The new primary takes writes.
    End,
    /// The old primary stays.
    Abandon {
        why: Arc<str>,
    },
    /// A wish that cannot be fulfilled.
    Refuse {
        id: Arc<str>,
        why: Arc<str>,
    },
}

impl Step {
    /// The server that the step acts on.
    pub(crate) fn server(&self) -> &ServerId {
        match self {
            Self::Initialise { server, .. }
            | Self::Adopt { server, .. }
            | Self::CreateAccounts { server }
            | Self::AllowWrites { server }
            | Self::ForbidWrites { server }
            | Self::Clone { server, .. }
            | Self::StopCopy { server, .. }
            | Self::Follow { server, .. }
            | Self::Start { server }
            | Self::StayStopped { server }
            | Self::SetServerId { server, .. }
            | Self::StopReceiving { server }
            | Self::Fence { server, .. }
            | Self::AwaitExecuted { server, .. }
            | Self::DropChannel { server } => server,
        }
    }
}
