//! The connections to one server, all users together: how many there may be, which are free, who waits for one.
//! A [`Lease`] is a connection taken out; dropping it without [`Lease::release`] closes it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::config;
use crate::model::server::ServerId;
use crate::model::settings::{Settings, Trackers};
use crate::model::topology::Server;

use super::connect::{ConnectError, Connector};
use super::connection::{Connection, Identity};
use super::open;

/// The pool of one server at one address.
#[derive(Debug)]
pub(crate) struct Pool {
    limits: config::Pool,
    connector: Arc<Connector>,
    defaults: Arc<Defaults>,
    state: Mutex<State>,
    waiting: AtomicU32,
    opened: AtomicU64,
    failed: AtomicU64,
}

/// What new sessions are told on the servers, as the connection opened last saw it.
#[derive(Debug, Default)]
pub(crate) struct Defaults {
    trackers: ArcSwap<Trackers>,
}

/// A connection taken out of its pool.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
    server: Arc<Server>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    #[error("{0}: too many statements already wait for a connection")]
    TooManyWaiters(ServerId),
    #[error("{0}: no connection became free in time")]
    TimedOut(ServerId),
    #[error("{0}: {1}")]
    Connect(ServerId, #[source] ConnectError),
    /// The snapshot that named this primary is no longer the newest; take the new one.
    #[error("{0} is no longer the primary")]
    StaleWriter(ServerId),
}

/// Numbers for reports and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolCounts {
    pub(crate) open: u32,
    pub(crate) idle: u32,
    pub(crate) waiting: u32,
    /// Connections ever opened, and tries that failed.
    pub(crate) opened: u64,
    pub(crate) failed: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Most recently used last.
    #[expect(clippy::vec_box, reason = "a connection is large, and a lease takes the box as it is")]
    idle: Vec<Box<Connection>>,
    /// Idle, leased and being opened.
    open: u32,
    waiters: VecDeque<oneshot::Sender<Handover>>,
    /// The server is gone: nothing is pooled any more.
    closed: bool,
    /// Connections of an older generation are closed instead of pooled.
    generation: u64,
}

/// What a waiter gets. A waiter that is gone by then drops it, and it goes to the next.
#[derive(Debug)]
enum Handover {
    Lease(Lease),
    Slot(Slot),
}

/// The right to have one connection open; given back when dropped.
#[derive(Debug)]
struct Slot(Option<Arc<Pool>>);

impl Pool {
    pub(crate) fn new(limits: config::Pool, connector: Arc<Connector>, defaults: Arc<Defaults>) -> Self {
        Self {
            limits,
            connector,
            defaults,
            state: Mutex::default(),
            waiting: AtomicU32::new(0),
            opened: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// True when somebody waits for a connection, so that none should be kept for convenience.
    pub(crate) fn is_pressed(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn counts(&self) -> PoolCounts {
        let state = self.state.lock();
        let idle = u32::try_from(state.idle.len()).unwrap_or(u32::MAX);
        PoolCounts {
            open: state.open,
            idle,
            waiting: self.waiting.load(Ordering::Relaxed),
            opened: self.opened.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Takes a connection that suits, opens one where the limit allows, else waits.
    ///
    /// Cancel safety: a connection that was handed over meanwhile is closed, the count stays right.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        server: &Arc<Server>,
        identity: &Arc<Identity>,
        settings: &Arc<Settings>,
    ) -> Result<Lease, LeaseError> {
        match self.take(identity, settings) {
            Taken::Connection(connection) => Ok(self.leased(server, connection)),
            Taken::Slot => self.open(server, identity, settings, Slot(Some(Arc::clone(self)))).await,
            // The rare way is boxed so that the future of the usual one stays small.
            Taken::Place(place) => Box::pin(self.wait(server, identity, settings, place)).await,
        }
    }

    /// Opens a connection of its own accord, whatever is idle: a login that must be checked by the server. It counts
    /// against the limit like any other and is pooled afterwards.
    pub(crate) async fn lease_new(
        self: &Arc<Self>,
        server: &Arc<Server>,
        identity: &Arc<Identity>,
        settings: &Arc<Settings>,
    ) -> Result<Lease, LeaseError> {
        let place = {
            let mut state = self.state.lock();
            (!self.makes_room(&mut state)).then(|| self.place(&mut state))
        };
        match place {
            None => self.open(server, identity, settings, Slot(Some(Arc::clone(self)))).await,
            Some(place) => self.wait(server, identity, settings, place).await,
        }
    }

    /// Closes connections that were idle too long; called now and then.
    pub(crate) fn close_idle(&self, now: Instant) {
        let mut closed = Vec::new();
        let mut state = self.state.lock();
        let limit = self.limits.idle;
        state.idle.retain_mut(|connection| {
            let keep = now.duration_since(connection.idle_since) < limit && connection.stream.is_quiet();
            if !keep {
                closed.push(connection.thread_id);
            }
            keep
        });
        state.open -= u32::try_from(closed.len()).unwrap_or(0).min(state.open);
    }

    /// Closes what is idle of one user.
    pub(crate) fn close_idle_of(&self, user: &str) {
        let closed: Vec<_> = {
            let mut state = self.state.lock();
            let closed: Vec<_> = state
                .idle
                .extract_if(.., |connection| *connection.identity.credentials.user == *user)
                .collect();
            state.open -= u32::try_from(closed.len()).unwrap_or(0).min(state.open);
            closed
        };
        drop(closed);
    }

    /// Closes what is idle and pools nothing more: the server is gone, or it has another address now.
    pub(crate) fn close(&self) {
        let idle = {
            let mut state = self.state.lock();
            state.closed = true;
            let idle = std::mem::take(&mut state.idle);
            state.open -= u32::try_from(idle.len()).unwrap_or(0).min(state.open);
            idle
        };
        drop(idle);
    }

    /// Closes what is idle; what is in use is closed instead of pooled.
    pub(crate) fn retire(&self) {
        let idle = {
            let mut state = self.state.lock();
            state.generation += 1;
            let idle = std::mem::take(&mut state.idle);
            state.open -= u32::try_from(idle.len()).unwrap_or(0).min(state.open);
            idle
        };
        drop(idle);
    }

    fn leased(self: &Arc<Self>, server: &Arc<Server>, connection: Box<Connection>) -> Lease {
        Lease { connection: Some(connection), pool: Arc::clone(self), server: Arc::clone(server) }
    }

    fn take(&self, identity: &Arc<Identity>, settings: &Arc<Settings>) -> Taken<'_> {
        let mut state = self.state.lock();
        loop {
            // From the most recently used: one that already looks like the session, else the first that suits.
            let mut found = None;
            for (at, connection) in state.idle.iter().enumerate().rev() {
                if connection.suits(identity, settings) {
                    if Arc::ptr_eq(&connection.applied, settings) {
                        found = Some(at);
                        break;
                    }
                    found.get_or_insert(at);
                }
            }
            let Some(at) = found else { break };
            let mut connection = state.idle.remove(at);
            // Input on an idle connection is the server's good-bye.
            if connection.stream.is_quiet() {
                return Taken::Connection(connection);
            }
            state.open -= 1;
        }
        if self.makes_room(&mut state) { Taken::Slot } else { Taken::Place(self.place(&mut state)) }
    }

    /// Counts one more as open where the limit allows, or closes the oldest idle one for it.
    fn makes_room(&self, state: &mut State) -> bool {
        if state.open < self.limits.max_per_server {
            state.open += 1;
        } else if state.idle.is_empty() {
            return false;
        } else {
            state.idle.remove(0);
        }
        true
    }

    /// A place at the end of the queue; None when it is full. Taken under the lock under which nothing was found, so that
    /// nothing given back in between is missed.
    fn place(&self, state: &mut State) -> Option<Place<'_>> {
        let live = self.waiting.load(Ordering::Relaxed);
        if live >= self.limits.max_waiters {
            return None;
        }
        // Those that gave up are passed over by whoever gives something back; here only when they pile up.
        if state.waiters.len() > 2 * live as usize + UNTIDY {
            state.waiters.retain(|waiter| !waiter.is_closed());
        }
        let (sender, receiver) = oneshot::channel();
        state.waiters.push_back(sender);
        Some(Place { receiver, _waiting: Waiting::enter(&self.waiting) })
    }

    async fn wait(
        self: &Arc<Self>,
        server: &Arc<Server>,
        identity: &Arc<Identity>,
        settings: &Arc<Settings>,
        place: Option<Place<'_>>,
    ) -> Result<Lease, LeaseError> {
        let Some(mut place) = place else { return Err(LeaseError::TooManyWaiters(server.id.clone())) };
        let handover = timeout_at(Instant::now() + self.limits.wait, &mut place.receiver).await;
        // Who opens a connection now no longer waits for one.
        drop(place);
        match handover {
            Ok(Ok(Handover::Lease(mut lease))) => {
                let connection = lease.connection();
                if connection.suits(identity, settings) && connection.stream.is_quiet() {
                    return Ok(lease);
                }
                self.open(server, identity, settings, lease.into_slot()).await
            }
            Ok(Ok(Handover::Slot(slot))) => self.open(server, identity, settings, slot).await,
            // Only places of those that gave up are cleared away, so that this is the deadline.
            Ok(Err(_)) | Err(_) => Err(LeaseError::TimedOut(server.id.clone())),
        }
    }

    async fn open(
        self: &Arc<Self>,
        server: &Arc<Server>,
        identity: &Arc<Identity>,
        settings: &Arc<Settings>,
        mut slot: Slot,
    ) -> Result<Lease, LeaseError> {
        let generation = self.state.lock().generation;
        let opened = Box::pin(open::open(&self.connector, server, identity, settings)).await;
        let counter = if opened.is_ok() { &self.opened } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut connection = opened.map_err(|error| LeaseError::Connect(server.id.clone(), error))?;
        connection.generation = generation;
        slot.0 = None;
        if !connection.doubtful {
            self.defaults.learn(&connection);
        }
        Ok(self.leased(server, Box::new(connection)))
    }

    fn put_back(&self, lease: Lease) {
        let mut state = self.state.lock();
        let mut handover = Handover::Lease(lease);
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.send(handover) {
                Ok(()) => return,
                Err(returned) => handover = returned,
            }
        }
        if let Handover::Lease(mut lease) = handover
            && let Some(connection) = lease.connection.take()
        {
            if state.closed {
                state.open -= 1;
            } else {
                state.idle.push(connection);
            }
        }
    }

    fn give_slot_back(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let mut handover = Handover::Slot(Slot(Some(Arc::clone(self))));
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.send(handover) {
                Ok(()) => return,
                Err(returned) => handover = returned,
            }
        }
        if let Handover::Slot(mut slot) = handover {
            // Disarmed: the count goes down here, not by dropping it.
            slot.0 = None;
        }
        state.open -= 1;
    }
}

impl Defaults {
    pub(crate) fn trackers(&self) -> Arc<Trackers> {
        self.trackers.load_full()
    }

    fn learn(&self, connection: &Connection) {
        let mut trackers = Trackers::default();
        for (name, value) in connection.initial.iter() {
            trackers.set(name.as_bytes(), value);
        }
        if **self.trackers.load() != trackers {
            self.trackers.store(Arc::new(trackers));
        }
    }
}

/// Waiters that gave up and are still in the queue before it is tidied.
const UNTIDY: usize = 64;

enum Taken<'a> {
    Connection(Box<Connection>),
    Slot,
    /// None: too many wait already.
    Place(Option<Place<'a>>),
}

/// A place in the queue.
struct Place<'a> {
    receiver: oneshot::Receiver<Handover>,
    _waiting: Waiting<'a>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            pool.give_slot_back();
        }
    }
}

/// Counts a waiter until it is dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    pub(crate) fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a lease has its connection until it is released")
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(crate) fn is_spoiled(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.spoiled)
    }

    /// Puts the connection back; it must be between statements, outside a transaction and without pins.
    pub(crate) fn release(mut self, now: Instant) {
        let connection = self.connection();
        if connection.spoiled || connection.doubtful {
            return;
        }
        connection.idle_since = now;
        let pool = Arc::clone(&self.pool);
        if self.connection().generation == pool.state.lock().generation {
            pool.put_back(self);
        }
    }

    /// Closes the connection and keeps its right to be open.
    fn into_slot(mut self) -> Slot {
        self.connection = None;
        Slot(Some(Arc::clone(&self.pool)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.connection.take().is_some() {
            self.pool.give_slot_back();
        }
    }
}
