//! The data path: accepts clients, logs them in, serves their sessions, drains at the end. What all sessions share is
//! here; what one session has is in `session`.

mod after;
mod begun;
mod command;
mod dry_run;
mod errors;
mod forward;
mod frame;
mod hand;
mod hold;
mod insert_id;
mod kill;
mod leave;
pub(crate) mod login;
mod mend;
mod patience;
mod position;
mod prepared;
mod relay;
mod reply;
mod run;
mod session;
mod statements;
pub(crate) mod users;
mod work;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::Pools;
use crate::backend::connect::{is_access_denied, is_limit};
use crate::backend::connection::Identity;
use crate::backend::pool::LeaseError;
use crate::config;
use crate::model::health::{SessionDefaults, Up};
use crate::model::server::ServerId;
use crate::model::settings::{Beginning, Interner, Settings};
use crate::model::topology::{Server, Topology};
use crate::model::version::Version;
use crate::monitor::ProbeNow;
use crate::monitor::routines::RoutinesNow;
use crate::routing::{self, session::charset_of_collation};
use crate::sql::{Charset, Classifier, Dialect};
use crate::telemetry::clients::{Clients, Registration, Signals};
use crate::telemetry::metrics::Metrics;
use crate::wire::buffer::Buffer;
use crate::wire::flags::Capabilities;
use crate::wire::packet::push_packet;
use crate::wire::proxied::{self, HeaderError};
use crate::wire::stream::{Stream, tune};

use command::Verdicts;
use forward::ClientEnd;
use hold::Hold;
use login::{Check, CheckError, Introduction, LoggedIn, LoginContext, LoginError, ServerLogin};
use session::{ClientSession, End};

/// What the data path is given; `server` makes it.
pub(crate) struct Parts {
    pub(crate) pools: Arc<Pools>,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) probe: ProbeNow,
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) routines: RoutinesNow,
    /// Whose word on their clients is believed.
    pub(crate) load_balancers: Vec<IpNet>,
    pub(crate) login: LoginContext,
    pub(crate) routing: config::Routing,
    pub(crate) limits: config::Limits,
    pub(crate) metrics: Metrics,
    pub(crate) clients: Clients,
}

/// What all sessions share.
struct Shared {
    pools: Arc<Pools>,
    topology: watch::Receiver<Arc<Topology>>,
    probe: ProbeNow,
    load_balancers: Vec<IpNet>,
    login: LoginContext,
    limits: config::Limits,
    policy: routing::Policy,
    metrics: Metrics,
    clients: Clients,
    classifier: Arc<Classifier>,
    routines: RoutinesNow,
    settings: Interner,
    /// By the text of a SET and the schema: values that no tracker reports.
    values: quick_cache::sync::Cache<Box<[u8]>, Arc<[Box<[u8]>]>>,
    verdicts: Verdicts,
    hold: Hold,
    /// Kibibytes of statements larger than a buffer.
    statement_memory: Arc<Semaphore>,
    /// For statements of our own on a client's connections.
    server_deadline: Duration,
    killers: Arc<Semaphore>,
    tasks: TaskTracker,
    draining: AtomicBool,
    seed: u64,
}

/// The data path. Made once; [`Proxy::run`] serves until it is stopped.
pub(crate) struct Proxy(Arc<Shared>);

/// The sockets clients come to.
pub(crate) struct Listeners {
    pub(crate) tcp: Option<TcpListener>,
    pub(crate) unix: Option<UnixListener>,
}

/// KILLs under way at once; each is a short connection of its own.
const KILLERS: usize = 32;
/// What a server without a known version is taken for: the oldest series that is promised to work.
const OLDEST: Version = Version::mysql(8, 0, 17);

impl Proxy {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { pools, topology, probe, classifier, routines, .. } = parts;
        let Parts { load_balancers, login, routing, limits, metrics, clients, .. } = parts;
        let kibibytes = usize::try_from(limits.statement_memory / 1024).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared {
            policy: routing::Policy { consistency: routing.consistency, gtid_wait: routing.gtid_wait },
            hold: Hold::new(&routing),
            statement_memory: Arc::new(Semaphore::new(kibibytes.min(Semaphore::MAX_PERMITS))),
            server_deadline: pools.connect_timeout(),
            killers: Arc::new(Semaphore::new(KILLERS)),
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
            seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
            classifier,
            routines,
            settings: Interner::default(),
            values: quick_cache::sync::Cache::new(256),
            verdicts: Verdicts::default(),
            pools,
            topology,
            probe,
            load_balancers,
            login,
            limits,
            metrics,
            clients,
        }))
    }

    /// Serves clients until `stop`; then drains: no new clients, idle ones are closed, transactions may end until the
    /// deadline, then what is left is cut.
    pub(crate) async fn run(&self, listeners: Listeners, stop: CancellationToken) {
        let shared = &self.0;
        let places = Arc::new(Semaphore::new(shared.limits.clients as usize));
        let watcher = shared.tasks.spawn(watch_servers(Arc::clone(shared), stop.clone()));
        shared.tasks.spawn(keep_time(shared.pools.linger(), stop.clone()));
        tokio::join!(
            accept_tcp(shared, listeners.tcp, &places, &stop),
            accept_unix(shared, listeners.unix, &places, &stop),
        );
        shared.draining.store(true, Ordering::Release);
        shared.clients.signal_all(Signals::DRAIN);
        shared.tasks.close();
        if timeout(shared.limits.drain, shared.tasks.wait()).await.is_err() {
            tracing::warn!(clients = shared.clients.count(), "the time to drain is up: cutting what is left");
            shared.clients.signal_all(Signals::KILL_CONNECTION);
            let _ = timeout(LAST_WORDS, shared.tasks.wait()).await;
        }
        watcher.abort();
    }
}

/// After the drain's deadline: what a cut session gets to end its statement on the server.
const LAST_WORDS: Duration = Duration::from_secs(5);

async fn accept_tcp(
    shared: &Arc<Shared>,
    listener: Option<TcpListener>,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) {
    let Some(listener) = listener else { return stop.cancelled().await };
    // Accepted sockets inherit the options.
    if let Err(error) = tune(&listener) {
        tracing::warn!(%error, "the listener's socket options could not be set");
    }
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => welcome_tcp(shared, stream, peer, places),
            Err(error) => refused_by_the_system(&error).await,
        }
    }
}

fn welcome_tcp(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, places: &Arc<Semaphore>) {
    welcome(shared, Stream::tcp(stream), Some(peer), places);
}

async fn accept_unix(
    shared: &Arc<Shared>,
    listener: Option<UnixListener>,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) {
    let Some(listener) = listener else { return stop.cancelled().await };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => welcome(shared, Stream::unix(stream), None, places),
            Err(error) => refused_by_the_system(&error).await,
        }
    }
}

/// Out of file descriptors, say: accepting at once again would only burn CPU.
async fn refused_by_the_system(error: &std::io::Error) {
    tracing::warn!(%error, "a client could not be accepted");
    sleep(Duration::from_millis(50)).await;
}

fn welcome(shared: &Arc<Shared>, stream: Stream, peer: Option<SocketAddr>, places: &Arc<Semaphore>) {
    match Arc::clone(places).try_acquire_owned() {
        Ok(place) => {
            shared.tasks.spawn(client(Arc::clone(shared), stream, peer, place));
        }
        Err(_) => {
            shared.metrics.login_refused("full");
            let limit = shared.limits.client_write.min(LAST_WORDS);
            let mut stream = stream;
            shared.tasks.spawn(async move {
                let mut out = Vec::new();
                push_packet(&mut out, 0, &reply::too_many_clients().encode(Capabilities::NONE));
                let _ = forward::send(&mut stream, &out, limit).await;
            });
        }
    }
}

/// One client from its accept to its end.
async fn client(
    shared: Arc<Shared>,
    mut stream: Stream,
    mut peer: Option<SocketAddr>,
    place: OwnedSemaphorePermit,
) {
    if let Some(from) = peer.filter(|peer| shared.is_load_balancer(*peer)) {
        let Some(client) = Box::pin(read_header(&shared, &mut stream, from)).await else { return };
        peer = Some(client);
    }
    let registration = shared.clients.register(peer);
    // The login needs much that the session does not: it is boxed and gone before the session begins.
    let Some(session) = Box::pin(log_in(&shared, stream, registration)).await else { return };
    drop(shared);
    let end = session.run().await;
    match end {
        End::ClientGone(error) => tracing::debug!(%error, "a client is gone in the middle of something"),
        end => tracing::debug!(?end, "a client is gone"),
    }
    drop(place);
}

/// The client that a load balancer brings, or the load balancer itself. None for one that does not say.
async fn read_header(shared: &Shared, stream: &mut Stream, from: SocketAddr) -> Option<SocketAddr> {
    match timeout(shared.limits.login, proxied::read_header(stream)).await {
        Ok(Ok(None)) => Some(from),
        Ok(Ok(Some(client))) => {
            stream.brings(client);
            Some(client)
        }
        Ok(Err(HeaderError::Nothing)) => None,
        Ok(Err(error)) => {
            shared.metrics.login_refused("broken");
            tracing::info!(%from, %error, "a connection of listen.proxy_protocol_from was closed");
            None
        }
        Err(_) => {
            shared.metrics.login_refused("timeout");
            tracing::info!(%from, "no PROXY header came in time from listen.proxy_protocol_from");
            None
        }
    }
}

async fn log_in(
    shared: &Arc<Shared>,
    stream: Stream,
    registration: Registration,
) -> Option<Box<ClientSession>> {
    let version = primary_version(&shared.topology.borrow());
    let shown = format!("{version}-readwright");
    let introduction = Introduction {
        server_version: &shown,
        server_capabilities: offered(version),
        collation: if version.mariadb { MARIADB_COLLATION } else { DEFAULT_COLLATION },
        connection_id: registration.id(),
    };
    let check = shared.check();
    let peer = stream.peer();
    let logged_in =
        timeout(shared.limits.login, login::login(stream, &shared.login, introduction, &check)).await;
    match logged_in {
        Ok(Ok(logged_in)) => {
            shared.metrics.login();
            Some(Box::new(shared.session(logged_in, registration)))
        }
        Ok(Err(error)) => {
            if error.is_noteworthy() {
                let why = if matches!(error, LoginError::Refused(_)) { "refused" } else { "broken" };
                shared.metrics.login_refused(why);
                tracing::info!(client = %peer, %error, "a client was not logged in");
            }
            None
        }
        Err(_) => {
            shared.metrics.login_refused("timeout");
            None
        }
    }
}

/// utf8mb4_0900_ai_ci, the default of every server since 8.0.
const DEFAULT_COLLATION: u8 = 255;
/// utf8mb4_general_ci: MariaDB has not the other.
const MARIADB_COLLATION: u8 = 45;

/// Keeps the runtime's next timer nearer than any session's linger alarm. Else setting that alarm is the earliest event
/// and wakes the runtime's own poll by a system call, once for every short connection.
async fn keep_time(linger: Duration, stop: CancellationToken) {
    let tick = (linger / 2).max(Duration::from_millis(10));
    while timeout(tick, stop.cancelled()).await.is_err() {}
}

/// Wakes sessions when a server that they may wait for is gone, and closes what was idle too long.
async fn watch_servers(shared: Arc<Shared>, stop: CancellationToken) {
    const ROUND: Duration = Duration::from_secs(1);
    let mut topology = shared.topology.clone();
    let mut known_down = HashSet::new();
    // Snapshots follow one another faster than this: a sleep begun anew with each would never end.
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        shared.pools.follow(&topology.borrow_and_update());
        tokio::select! {
            () = stop.cancelled() => return,
            changed = topology.changed() => {
                if changed.is_err() {
                    return;
                }
                let topology = topology.borrow();
                let down: HashSet<ServerId> =
                    topology.servers.iter().filter(|server| server.health.up().is_none()).map(|server| server.id.clone()).collect();
                if !down.is_subset(&known_down) {
                    shared.clients.signal_all(Signals::LOOK);
                }
                known_down = down;
            }
            _ = rounds.tick() => shared.pools.close_idle(Instant::now()),
        }
    }
}

impl Shared {
    fn session(self: &Arc<Self>, logged_in: LoggedIn, registration: Registration) -> ClientSession {
        let LoggedIn { stream, capabilities, identity: claimed } = logged_in;
        let identity = Arc::new(Identity {
            credentials: claimed.credentials,
            capabilities,
            collation: claimed.collation,
            attributes: claimed.attributes,
        });
        let schema = claimed.schema.as_deref().map(String::from_utf8_lossy);
        registration.logged_in(&identity.credentials.user, schema.as_deref());
        let defaults =
            primary(&self.topology.borrow()).map_or_else(SessionDefaults::default, |up| up.sessions);
        let client = ClientEnd {
            stream,
            inbox: Buffer::default(),
            registration,
            tracks: capabilities.contains(Capabilities::SESSION_TRACK).then(|| self.pools.default_trackers()),
            taken: false,
            frames: 1,
            write_limit: self.limits.client_write,
            max_packet: self.limits.max_packet.min(defaults.max_allowed_packet),
            nonce: claimed.nonce,
        };
        let beginning = claimed.beginning;
        let settings = beginning.login.in_schema(claimed.schema.map(Arc::from));
        let dialect = self.dialect(&identity, &beginning.login_charset);
        let patience = match capabilities.contains(Capabilities::INTERACTIVE) {
            true => defaults.interactive_timeout,
            false => defaults.wait_timeout,
        };
        ClientSession::new(Arc::clone(self), client, identity, settings, beginning, dialect, patience)
    }

    /// How a session of this identity reads SQL before it has set anything, its sql_mode apart. `charset`: of its texts, empty
    /// where that is not known.
    fn dialect(&self, identity: &Identity, charset: &[u8]) -> Dialect {
        let version = primary_version(&self.topology.borrow());
        Dialect {
            charset: match charset {
                b"" => charset_of_collation(identity.collation),
                name => Charset::named(name),
            },
            multi_statements: identity.capabilities.contains(Capabilities::MULTI_STATEMENTS),
            ignore_space: identity.capabilities.contains(Capabilities::IGNORE_SPACE),
            ..Dialect::plain(version.comment_number(), version.mariadb)
        }
    }

    fn check(self: &Arc<Self>) -> impl Check + use<> {
        AskServer(Arc::clone(self))
    }

    /// Whether a server would refuse who logged in as this.
    async fn refuses(self: &Arc<Self>, identity: &Identity) -> bool {
        let login = ServerLogin {
            credentials: &identity.credentials,
            capabilities: identity.capabilities,
            collation: identity.collation,
            schema: None,
            attributes: &identity.attributes,
        };
        matches!(login::ask(&self.login.users, login, &self.check()).await,
            Err(CheckError::Refused(error)) if is_access_denied(&error))
    }

    fn is_load_balancer(&self, peer: SocketAddr) -> bool {
        // A socket for IPv6 shows IPv4 in its own clothes.
        let address = peer.ip().to_canonical();
        self.load_balancers.iter().any(|network| network.contains(&address))
    }

    fn probe_now(&self, server: &ServerId) {
        self.probe.probe(server);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Ends a statement on a server, in a task of its own: the client may be gone.
    fn kill(
        self: &Arc<Self>,
        server: &Arc<Server>,
        identity: &Arc<Identity>,
        thread_id: u32,
        whole: bool,
    ) -> JoinHandle<()> {
        let (shared, server, identity) = (Arc::clone(self), Arc::clone(server), Arc::clone(identity));
        // They queue: a proxy that loses a thousand clients at once must not leave their statements running.
        self.tasks.spawn(async move {
            let permit = Arc::clone(&shared.killers).acquire_owned().await;
            if let Err(error) = shared.pools.kill(&server, &identity, thread_id, whole).await {
                tracing::info!(server = %server.id, thread_id, %error, "a statement could not be ended");
            }
            drop(permit);
        })
    }
}

/// Asks the primary, or while there is none any server that serves reads, whether it lets somebody in. While the primary is
/// silent, who serves reads may let somebody in, and refuses nobody. While there is neither, or those there were do not
/// answer, it waits as a statement does, and leaves time to say that nobody came.
struct AskServer(Arc<Shared>);

impl Check for AskServer {
    async fn check(&self, login: ServerLogin<'_>) -> Result<Arc<Beginning>, CheckError> {
        let mut snapshots = self.0.topology.clone();
        let somebody = |topology: &Arc<Topology>| topology.primary.is_some() || !topology.readers.is_empty();
        let patience = Instant::now() + self.0.hold.wait.min(self.0.limits.login / 2);
        let identity = Arc::new(Identity {
            credentials: Arc::clone(login.credentials),
            capabilities: login.capabilities,
            collation: login.collation,
            attributes: login.attributes.clone(),
        });
        let settings = Settings::with_schema(login.schema.map(Arc::from));
        let settings = self.0.settings.intern(&Arc::new(settings));
        let mut why = None;
        let mut limit = None;
        loop {
            let _ = timeout_at(patience, snapshots.wait_for(somebody)).await;
            let topology = Arc::clone(&snapshots.borrow_and_update());
            let primary = topology.writer().map(|writer| Arc::clone(writer.server()));
            let mut silent = true;
            for server in primary.iter().chain(topology.readers()) {
                let mut word = pin!(self.0.pools.check_login(server, &identity, &settings));
                let said = match timeout(SILENT, &mut word).await {
                    Ok(said) => said,
                    Err(_) => {
                        self.0.probe_now(&server.id);
                        let others = topology.readers().filter(|other| other.id != server.id);
                        tokio::select! {
                            said = &mut word => said,
                            beginning = self.let_in_by(others, &identity, &settings) => Ok(beginning),
                        }
                    }
                };
                match said {
                    Ok(beginning) => return Ok(beginning),
                    Err(LeaseError::Connect(_, error)) if !error.retry_elsewhere() => {
                        return Err(error.into());
                    }
                    Err(error) => {
                        self.0.probe_now(&server.id);
                        let said = match &error {
                            LeaseError::Connect(_, error) => Some(error.server_error()),
                            _ => None,
                        };
                        silent &= matches!(said, Some(None));
                        limit = said.flatten().filter(|error| is_limit(error)).cloned().or(limit);
                        why = Some(error.to_string());
                    }
                }
            }
            // One that is silent may be known to be away by now, and others serve.
            if !silent || !matches!(timeout_at(patience, snapshots.changed()).await, Ok(Ok(()))) {
                if let Some(limit) = limit {
                    return Err(CheckError::Refused(limit));
                }
                let unproven = || topology.unproven().map(|(id, problem)| format!("{id}: {problem}"));
                let why = why.or_else(unproven);
                return Err(CheckError::Unavailable(
                    why.unwrap_or_else(|| "no server is known to be up".into()),
                ));
            }
        }
    }
}

impl AskServer {
    /// Returns when one of the servers lets this client in, and never when none does.
    async fn let_in_by<'a>(
        &self,
        servers: impl Iterator<Item = &'a Arc<Server>>,
        identity: &Arc<Identity>,
        settings: &Arc<Settings>,
    ) -> Arc<Beginning> {
        for server in servers {
            if let Ok(beginning) = self.0.pools.check_login(server, identity, settings).await {
                return beginning;
            }
        }
        std::future::pending().await
    }
}

/// A server that has not let somebody in, nor refused to, within this time may be about to be given up.
const SILENT: Duration = Duration::from_millis(500);

/// The primary, or while there is none any server that is up.
fn primary(topology: &Topology) -> Option<&Up> {
    let primary = topology.primary.and_then(|at| topology.servers.get(at));
    primary.into_iter().chain(&topology.servers).find_map(|server| server.health.up())
}

fn primary_version(topology: &Topology) -> Version {
    primary(topology).map_or(OLDEST, |up| up.version)
}

/// What a server of this version offers, of all that we relay.
fn offered(version: Version) -> Capabilities {
    let mut offered = login::RELAYED | login::COMPRESSION;
    if version.mariadb || version < Version::mysql(8, 0, 23) {
        offered = offered.without(Capabilities::QUERY_ATTRIBUTES);
    }
    if version.mariadb || version < Version::mysql(8, 0, 18) {
        offered = offered.without(Capabilities::ZSTD);
    }
    if version.mariadb || version < Version::mysql(8, 0, 3) {
        offered = offered.without(Capabilities::OPTIONAL_RESULTSET_METADATA);
    }
    offered
}
