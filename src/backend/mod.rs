//! Connections to servers: opened as the client's user, pooled per server, made to look like the session they serve.

pub(crate) mod connect;
pub(crate) mod connection;
mod open;
pub(crate) mod pool;
pub(crate) mod reset;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::config;
use crate::model::server::{Address, ServerId};
use crate::model::settings::{Beginning, Settings, Trackers};
use crate::model::topology::{Server, Topology, Writer};

use connect::{ConnectError, Connector};
use connection::{Connection, Identity};
use pool::{Defaults, Lease, LeaseError, Pool, PoolCounts};

/// All pools, by server. A server that gets another address gets another pool.
#[derive(Debug)]
pub(crate) struct Pools {
    limits: config::Pool,
    connector: Arc<Connector>,
    defaults: Arc<Defaults>,
    by_server: ArcSwap<HashMap<ServerId, (Address, Arc<Pool>), rapidhash::fast::RandomState>>,
    /// Making a pool is rare; this keeps two from being made for one server.
    making: Mutex<()>,
    /// Writers of an older epoch are refused.
    epoch: AtomicU64,
}

impl Pools {
    pub(crate) fn new(limits: config::Pool, connector: Connector) -> Self {
        Self {
            limits,
            connector: Arc::new(connector),
            defaults: Arc::default(),
            by_server: ArcSwap::default(),
            making: Mutex::default(),
            epoch: AtomicU64::new(0),
        }
    }

    pub(crate) fn prepared_per_connection(&self) -> usize {
        self.limits.prepared_per_connection
    }

    pub(crate) fn linger(&self) -> Duration {
        self.limits.linger
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.limits.connect_timeout
    }

    /// The session changes that clients are told of which have asked for nothing.
    pub(crate) fn default_trackers(&self) -> Arc<Trackers> {
        self.defaults.trackers()
    }

    /// Follows the topology: remembers the epoch, closes the pools of servers that left or moved.
    pub(crate) fn follow(&self, topology: &Topology) {
        self.epoch.store(topology.epoch, Ordering::Release);
        let stays = |id: &ServerId, address: &Address| {
            topology.server(id).is_some_and(|server| server.address == *address)
        };
        if self.by_server.load().iter().all(|(id, (address, _))| stays(id, address)) {
            return;
        }
        let _making = self.making.lock();
        let mut pools = (**self.by_server.load()).clone();
        pools.retain(|id, (address, pool)| {
            let keep = stays(id, address);
            if !keep {
                pool.close();
            }
            keep
        });
        self.by_server.store(Arc::new(pools));
    }

    /// A connection to the primary that the snapshot of this writer named.
    pub(crate) async fn lease_writer(
        &self,
        writer: &Writer,
        identity: &Arc<Identity>,
        settings: &Arc<Settings>,
    ) -> Result<Lease, LeaseError> {
        if writer.epoch() != self.epoch.load(Ordering::Acquire) {
            return Err(LeaseError::StaleWriter(writer.server().id.clone()));
        }
        self.lease(writer.server(), identity, settings).await
    }

    /// A connection to this server, for reads.
    pub(crate) async fn lease(
        &self,
        server: &Arc<Server>,
        identity: &Arc<Identity>,
        settings: &Arc<Settings>,
    ) -> Result<Lease, LeaseError> {
        let pools = self.by_server.load();
        if let Some((address, pool)) = pools.get(&server.id)
            && *address == server.address
        {
            let pool = Arc::clone(pool);
            drop(pools);
            return pool.lease(server, identity, settings).await;
        }
        drop(pools);
        self.make(server).lease(server, identity, settings).await
    }

    /// Logs in to the server anew, whatever is pooled, and pools the connection: proof that the password is right. Returns what
    /// a session begins with there.
    pub(crate) async fn check_login(
        &self,
        server: &Arc<Server>,
        identity: &Arc<Identity>,
        settings: &Arc<Settings>,
    ) -> Result<Arc<Beginning>, LeaseError> {
        let mut lease = self.make(server).lease_new(server, identity, settings).await?;
        let beginning = Arc::clone(&lease.connection().beginning);
        if lease.connection().doubtful {
            // The password has expired: what was opened before may serve nobody any more.
            for (_, pool) in self.by_server.load().values() {
                pool.close_idle_of(&identity.credentials.user);
            }
        }
        lease.release(Instant::now());
        Ok(beginning)
    }

    /// Ends a statement (or its whole connection) by its thread id, as the user it belongs to.
    pub(crate) async fn kill(
        &self,
        server: &Arc<Server>,
        identity: &Arc<Identity>,
        thread_id: u32,
        whole_connection: bool,
    ) -> Result<(), ConnectError> {
        /// KILL itself returns at once.
        const DEADLINE: Duration = Duration::from_secs(5);
        let settings = Settings::default();
        // Beside the pool: a full pool must not keep a statement alive.
        let mut connection = open::open(&self.connector, server, identity, &settings).await?;
        let what = if whole_connection { "CONNECTION" } else { "QUERY" };
        let sql = format!("KILL {what} {thread_id}");
        timeout(DEADLINE, open::query(&mut connection, &sql))
            .await
            .map_err(|_| ConnectError::timed_out())??;
        Ok(())
    }

    /// Closes what was idle too long; called now and then.
    pub(crate) fn close_idle(&self, now: Instant) {
        for (_, pool) in self.by_server.load().values() {
            pool.close_idle(now);
        }
    }

    /// Rights have changed: no connection that is open now serves another session, for servers look up some rights only
    /// at a login.
    pub(crate) fn retire(&self) {
        for (_, pool) in self.by_server.load().values() {
            pool.retire();
        }
    }

    pub(crate) fn counts(&self) -> Vec<(ServerId, PoolCounts)> {
        let pools = self.by_server.load();
        let mut counts: Vec<_> = pools.iter().map(|(id, (_, pool))| (id.clone(), pool.counts())).collect();
        counts.sort_by(|a, b| a.0.cmp(&b.0));
        counts
    }

    fn make(&self, server: &Server) -> Arc<Pool> {
        let _making = self.making.lock();
        let pools = self.by_server.load();
        if let Some((address, pool)) = pools.get(&server.id)
            && *address == server.address
        {
            return Arc::clone(pool);
        }
        let pool =
            Arc::new(Pool::new(self.limits.clone(), Arc::clone(&self.connector), Arc::clone(&self.defaults)));
        let mut changed = (**pools).clone();
        if let Some((_, old)) = changed.insert(server.id.clone(), (server.address.clone(), Arc::clone(&pool)))
        {
            old.close();
        }
        self.by_server.store(Arc::new(changed));
        pool
    }
}

/// Asks a leased connection for nothing, within a deadline; the payload of its OK packet, which tells of the session's changes
/// that no answer has told. Leaves all that SHOW WARNINGS shows.
pub(crate) async fn ping(connection: &mut Connection, deadline: Duration) -> Result<Vec<u8>, ConnectError> {
    connection.asked = true;
    timeout(deadline, open::ping(connection)).await.map_err(|_| ConnectError::timed_out())?
}

/// The same where a server only tells when something changes (MariaDB): a variable is given the value that it has, while that is
/// no change of state. Wipes away what SHOW WARNINGS shows. (Seen in 10.11 and 11.8.)
pub(crate) async fn change_nothing(
    connection: &mut Connection,
    deadline: Duration,
) -> Result<Vec<u8>, ConnectError> {
    let change = format!("SET SESSION session_track_state_change=OFF, SESSION {UNUSED}=@@SESSION.{UNUSED}");
    let packets = query(connection, &change, deadline).await?;
    query(connection, "SET SESSION session_track_state_change=ON", deadline).await?;
    packets.into_iter().next().ok_or_else(|| ConnectError::protocol("a SET is answered by OK"))
}

/// A variable of which we are told, and that nobody sets: what is told of it is of [`change_nothing`].
pub(crate) const UNUSED: &str = "aria_repair_threads";

/// Runs one statement of our own on a leased connection, within a deadline; the payloads of its answer's packets.
pub(crate) async fn query(
    connection: &mut Connection,
    sql: &str,
    deadline: Duration,
) -> Result<Vec<Vec<u8>>, ConnectError> {
    connection.asked = true;
    timeout(deadline, open::query(connection, sql)).await.map_err(|_| ConnectError::timed_out())?
}
