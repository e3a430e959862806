//! One immutable picture of the cluster. A decision is made on one snapshot, from its first look to its last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::health::Health;
use super::server::{Address, Role, ServerId};

/// The cluster as `topology`, its one writer, last saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    /// Counts changes of the primary. A [`Writer`] of an older epoch is refused.
    pub(crate) epoch: u64,
    /// In a stable order (by ordinal, then by name).
    pub(crate) servers: Vec<Arc<Server>>,
    /// Index of the primary; None while nothing is proven to be it.
    pub(crate) primary: Option<usize>,
    /// Indexes of the replicas that may serve reads now: ready, reachable, replicating, fresh enough, past damping.
    pub(crate) readers: Vec<usize>,
    /// Replicas of this zone are preferred, unless they have clearly more to do than the others.
    pub(crate) zone: Option<Arc<str>>,
}

/// One server in a snapshot.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) id: ServerId,
    pub(crate) address: Address,
    /// What discovery takes it for; whether it is the primary is [`Topology::primary`]'s word.
    pub(crate) role: Role,
    /// Failure domain, where discovery knows it.
    pub(crate) zone: Option<Arc<str>>,
    /// What discovery says; a server that is not ready serves no reads.
    pub(crate) ready: bool,
    pub(crate) health: Health,
    /// Why the server serves no reads at the moment, for people; None when it does or is the primary.
    pub(crate) excluded: Option<Arc<str>>,
    /// Shared by all snapshots that have this server.
    pub(crate) load: Arc<Load>,
}

/// Statements on one server, from this process: in flight, and ever begun.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: AtomicU32,
    begun: AtomicU64,
}

/// Proof that a snapshot named this server as the primary. Only [`Topology::writer`] makes one.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    epoch: u64,
    server: Arc<Server>,
}

impl Topology {
    pub(crate) fn writer(&self) -> Option<Writer> {
        let server = self.primary.and_then(|at| self.servers.get(at))?;
        Some(Writer { epoch: self.epoch, server: Arc::clone(server) })
    }

    /// Whom discovery takes for the primary, and why it is not.
    pub(crate) fn unproven(&self) -> Option<(&ServerId, &str)> {
        let named = self.servers.iter().find(|server| server.role == Role::Primary)?;
        Some((&named.id, named.excluded.as_deref()?))
    }

    pub(crate) fn server(&self, id: &ServerId) -> Option<&Arc<Server>> {
        self.servers.iter().find(|server| server.id == *id)
    }

    pub(crate) fn readers(&self) -> impl ExactSizeIterator<Item = &Arc<Server>> {
        self.readers.iter().map(|&at| &self.servers[at])
    }

    /// True when reads may go to a replica on which an account with enough rights could write.
    pub(crate) fn trusts_accounts(&self) -> bool {
        self.readers().any(|server| !server.refuses_writes())
    }

    pub(crate) fn is_primary(&self, id: &ServerId) -> bool {
        self.primary.is_some_and(|at| self.servers[at].id == *id)
    }
}

impl Server {
    /// True when it lets nobody write, whatever rights the account has (`super_read_only`, which MariaDB has not).
    pub(crate) fn refuses_writes(&self) -> bool {
        self.health.up().is_some_and(|up| up.super_read_only)
    }
}

impl Writer {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }
}

impl Load {
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Statements sent there since this process knows the server.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Counts one statement until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// Counts one statement in flight; dropping it counts down.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
