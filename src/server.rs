//! The composition root: builds every part, connects them, owns the order of start and stop. Decides nothing.

mod controller;
mod passwords;

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Source};
use crate::backend::Pools;
use crate::backend::connect::Connector;
use crate::config::{self, ClientTls, ClientTlsMode, Config};
use crate::k8s::client::{Access, AccessError};
use crate::model::appointment::Appointment;
use crate::model::claims::Claim;
use crate::model::health::Health;
use crate::model::pod::Pod;
use crate::model::report::{PoolReport, State};
use crate::model::server::Endpoint;
use crate::model::topology::Topology;
use crate::model::wishes::Wishes;
use crate::monitor::routines::{self, RoutinesNow, RoutinesRequests};
use crate::monitor::{self, ProbeNow, ProbeRequests};
use crate::proxy::login::LoginContext;
use crate::proxy::users::Users;
use crate::proxy::{Listeners, Parts, Proxy};
use crate::sql::Classifier;
use crate::telemetry::clients::Clients;
use crate::telemetry::metrics::Metrics;
use crate::topology;
use crate::wire::auth::{CryptoError, RsaKey};
use crate::wire::tls::{Acceptor, PemFiles, TlsError};

/// Everything built and every socket bound; nothing runs yet.
pub(crate) struct Server {
    config: Config,
    proxy: Proxy,
    pools: Arc<Pools>,
    listeners: Listeners,
    http: Option<TcpListener>,
    sql: Option<TcpListener>,
    tls: Option<Acceptor>,
    source: Arc<Source>,
    state: watch::Sender<State>,
    snapshots: watch::Sender<Arc<Topology>>,
    requests: ProbeRequests,
    classifier: Arc<Classifier>,
    routines: (RoutinesNow, RoutinesRequests),
    /// Who is the primary by a controller's record, where discovery brings no such word itself.
    appointments: Option<watch::Receiver<Appointment>>,
    /// None where the controller is off.
    controller: Option<controller::Outputs>,
}

/// Why the proxy did not start; each says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("{key}: cannot listen on {address}: {error}; {remedy}")]
    Listen { key: &'static str, address: String, error: io::Error, remedy: &'static str },
    #[error("TLS: {0}; check the files that client_tls and server_tls name")]
    Tls(#[source] TlsError),
    #[error("{0}; is there a source of randomness?")]
    Crypto(#[source] CryptoError),
    #[error("topology.service: {0}; check the resolver of this machine (/etc/resolv.conf)")]
    Dns(#[source] topology::dns::Error),
    #[error("topology.kind kubernetes: {0}")]
    Kubernetes(#[source] AccessError),
    #[error("the runtime cannot be started: {0}")]
    Runtime(#[source] io::Error),
}

/// Where a started server is to be found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) tcp: Option<SocketAddr>,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) sql: Option<SocketAddr>,
}

/// Verdicts of that many statement shapes are remembered.
const SHAPES: usize = 16 << 10;
/// How long the first probes may take before clients are let in all the same.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Runs the proxy until SIGTERM or SIGINT, and drains. The control plane (probes, discovery, admin) has a thread of its
/// own, so that neither can delay the other.
///
/// # Errors
/// When it cannot start; nothing is left running then.
pub(crate) fn run(config: Config) -> Result<(), StartError> {
    let control = ControlThread::start()?;
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_name("readwright-data");
    builder.worker_threads(config.workers.unwrap_or_else(default_workers));
    let data = builder.build().map_err(StartError::Runtime)?;
    let stop = CancellationToken::new();
    data.block_on(async {
        let server = Server::bind(config).await?;
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Runtime)?;
        // On a worker, not on this thread: an accept loop beside the workers wakes one for every client.
        let mut serving = data.spawn(server.run(control.handle.clone(), stop.clone()));
        let signalled = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping: no new clients; open transactions may end");
            stop.cancel();
        };
        let ended = tokio::select! {
            ended = &mut serving => ended,
            () = signalled => serving.await,
        };
        ended.unwrap_or_else(|panicked| Err(StartError::Runtime(io::Error::other(panicked))))
    })
}

/// Half of the processors this process may use. A statement costs system calls, not computing: more threads than that
/// wake one another more than they work (measured: a quarter more CPU per statement with two on two processors), and
/// servers or an application on the same machine need the rest.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2))
}

/// A runtime of one thread for everything that is not the data path.
pub(crate) struct ControlThread {
    pub(crate) handle: Handle,
    stop: CancellationToken,
}

impl ControlThread {
    pub(crate) fn start() -> Result<Self, StartError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let body = move || runtime.block_on(stopped.cancelled());
        std::thread::Builder::new()
            .name(String::from("readwright-ctl"))
            .spawn(body)
            .map_err(StartError::Runtime)?;
        Ok(Self { handle, stop })
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    /// Builds all parts and binds all sockets.
    pub(crate) async fn bind(config: Config) -> Result<Self, StartError> {
        let ClientTls { certificate, ca, mode } = &config.client_tls;
        let tls = match (mode, certificate) {
            (ClientTlsMode::Disabled, _) => None,
            (_, Some(files)) => {
                let own = PemFiles::new(&files.certificate, &files.key);
                Some(Acceptor::from_files(own, ca.as_deref()).map_err(StartError::Tls)?)
            }
            (_, None) => Some(Acceptor::self_signed(ca.as_deref()).map_err(StartError::Tls)?),
        };
        let connector =
            Connector::new(&config.server_tls, config.pool.connect_timeout).map_err(StartError::Tls)?;
        let listeners = Listeners {
            tcp: listen("listen.address", config.listen.tcp)?,
            unix: config.listen.socket.as_deref().map(listen_unix).transpose()?,
        };
        let http = listen("admin.http", config.admin.http)?;
        let sql = listen("admin.sql", config.admin.sql)?;

        let pools = Arc::new(Pools::new(config.pool.clone(), connector));
        let (snapshots, topology) = watch::channel(Arc::new(Topology::default()));
        let (probe, requests) = ProbeNow::channel();
        let (changed, routines) = RoutinesNow::channel();
        let classifier = Arc::new(Classifier::new(SHAPES));
        let (metrics, clients) = (Metrics::new(), Clients::default());
        let (state, states) = watch::channel(State::Starting);
        let (outputs, told) = config.controller.enabled.then(controller::Outputs::new).unzip();
        let source = Arc::new(Source {
            started: Instant::now(),
            state: states,
            topology: topology.clone(),
            controller: told,
            pools: pool_reports(&pools, config.pool.max_per_server),
            clients: clients.clone(),
            max_clients: config.limits.clients,
            metrics: metrics.clone(),
            settings: config.settings.clone(),
        });
        let proxy = Proxy::new(Parts {
            pools: Arc::clone(&pools),
            topology,
            probe,
            classifier: Arc::clone(&classifier),
            routines: changed.clone(),
            load_balancers: config.listen.proxy_protocol_from.clone(),
            login: LoginContext {
                tls: tls.clone(),
                tls_is_needed: matches!(mode, ClientTlsMode::Required | ClientTlsMode::VerifyCa),
                certificate_is_needed: *mode == ClientTlsMode::VerifyCa,
                rsa: RsaKey::generate().map_err(StartError::Crypto)?,
                users: Users::new(&config.users),
            },
            routing: config.routing.clone(),
            limits: config.limits.clone(),
            metrics,
            clients,
        });
        let appointments = None;
        Ok(Self {
            config,
            proxy,
            pools,
            listeners,
            http,
            sql,
            tls,
            source,
            state,
            snapshots,
            requests,
            classifier,
            routines: (changed, routines),
            appointments,
            controller: outputs,
        })
    }

    /// The primary is whom this says, not whom discovery names.
    pub(crate) fn appointed_by(mut self, appointments: watch::Receiver<Appointment>) -> Self {
        self.appointments = Some(appointments);
        self
    }

    pub(crate) fn addresses(&self) -> Addresses {
        let address = |listener: &Option<TcpListener>| listener.as_ref()?.local_addr().ok();
        Addresses { tcp: address(&self.listeners.tcp), http: address(&self.http), sql: address(&self.sql) }
    }

    /// What is known of the running server, for status and for the demo.
    pub(crate) fn source(&self) -> Arc<Source> {
        Arc::clone(&self.source)
    }

    /// Serves until `stop`, then drains. `control` runs everything but the data path.
    pub(crate) async fn run(self, control: Handle, stop: CancellationToken) -> Result<(), StartError> {
        let addresses = self.addresses();
        // What must go on while clients drain: probes, topology, status.
        let last = CancellationToken::new();
        let tasks = TaskTracker::new();
        let mut topology = self.snapshots.subscribe();
        let account = passwords::follow(&self.config.account, (&control, &tasks), &last);
        let prober = monitor::Prober { account: account.clone(), tls: self.config.server_tls.clone() };
        let policy = topology::Policy {
            max_lag: self.config.routing.max_lag,
            damping: self.config.monitor.damping,
            needs_gtids: self.config.routing.consistency != config::Consistency::Eventual,
            zone: self.config.routing.prefer_zone.clone(),
        };
        let Discovered { endpoints, appointments, kubernetes } =
            discover(&self.config, &control, &tasks, &last).await?;
        if let (Some(outputs), Some(kubernetes)) = (self.controller, kubernetes) {
            // Ends when no new clients are let in: another one is to act while ours drain.
            let parts = controller::Parts {
                outputs,
                kubernetes,
                endpoints: endpoints.clone(),
                topology: self.snapshots.subscribe(),
                probes: account,
            };
            controller::start(&self.config, parts, (&control, &tasks), stop.clone());
        }
        let appointments = self.appointments.unwrap_or(appointments);
        // Reports of all servers wait here for the one writer of snapshots; it takes them at once.
        let (reports, reported) = mpsc::channel(64);
        let monitor = self.config.monitor.clone();
        let (routines, asked) = self.routines;
        let knowing =
            routines::run(self.snapshots.subscribe(), prober.clone(), self.classifier, asked, last.clone());
        tasks.spawn_on(knowing, &control);
        let probes = monitor::run(endpoints.clone(), monitor, prober, reports, self.requests, last.clone());
        tasks.spawn_on(probes, &control);
        let merging = topology::run(policy, endpoints, appointments, reported, self.snapshots, last.clone());
        tasks.spawn_on(merging, &control);
        tasks.spawn_on(self.source.metrics.clone().keep(last.clone()), &control);
        if let Some(tls) = self.tls.clone() {
            tasks.spawn_on(tls.follow_files(last.clone()), &control);
        }
        if let Some(listener) = self.http {
            let listener = on_control(listener, &control)?;
            tasks.spawn_on(admin::http::serve(listener, Arc::clone(&self.source), last.clone()), &control);
        }
        if let (Some(listener), Some(account)) = (self.sql, self.config.admin.account.clone()) {
            let listener = on_control(listener, &control)?;
            let door = admin::sql::Door { account, tls: self.tls };
            tasks.spawn_on(
                admin::sql::serve(listener, door, Arc::clone(&self.source), last.clone()),
                &control,
            );
        }
        first_look(&mut topology, &stop).await;
        routines.look().await;
        self.state.send_replace(State::Serving);
        tracing::info!(
            address = ?addresses.tcp, socket = ?self.config.listen.socket, http = ?addresses.http, sql = ?addresses.sql,
            "serving"
        );
        let draining = async {
            stop.cancelled().await;
            self.state.send_replace(State::Draining);
        };
        tokio::join!(self.proxy.run(self.listeners, stop.clone()), draining);
        last.cancel();
        tasks.close();
        let _ = timeout(FIRST_LOOK, tasks.wait()).await;
        if let Some(path) = &self.config.listen.socket {
            let _ = std::fs::remove_file(path);
        }
        drop(self.pools);
        tracing::info!("stopped");
        Ok(())
    }
}

/// What discovery tells, and goes on to tell until it is stopped.
struct Discovered {
    endpoints: watch::Receiver<Arc<[Endpoint]>>,
    appointments: watch::Receiver<Appointment>,
    /// What only kind kubernetes has.
    kubernetes: Option<Kubernetes>,
}

struct Kubernetes {
    access: Access,
    wishes: watch::Receiver<Wishes>,
    pods: watch::Receiver<Arc<[Pod]>>,
    claims: watch::Receiver<Arc<[Claim]>>,
}

/// Starts discovery; the first answer may be empty where there is none yet.
async fn discover(
    config: &Config,
    control: &Handle,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Discovered, StartError> {
    match &config.topology {
        config::Topology::Fixed { servers, primary } => {
            let (sender, endpoints) = watch::channel(topology::fixed::endpoints(servers, primary.as_ref()));
            let appointments = nobody_appointed(control, tasks, stop, sender);
            Ok(Discovered { endpoints, appointments, kubernetes: None })
        }
        config::Topology::Kubernetes(kubernetes) => {
            let hosts = hosts(config);
            let settings = topology::kubernetes::Settings::new(kubernetes, &config.controller.state, hosts);
            let namespace = kubernetes.namespace.clone();
            // There, so that the client's own tasks stay off the data plane.
            let finding = control.spawn(async move { Access::find(namespace.as_deref()).await });
            let access = finding.await.map_err(|ended| StartError::Runtime(io::Error::other(ended)))?;
            let access = access.map_err(StartError::Kubernetes)?;
            let (sender, endpoints) = watch::channel(Arc::from([]));
            let (appoints, appointments) = watch::channel(Appointment::default());
            let (wanted, wishes) = watch::channel(Wishes::default());
            let (stand, pods) = watch::channel(Arc::from([]));
            let (claimed, claims) = watch::channel(Arc::from([]));
            let outputs = topology::kubernetes::Outputs {
                endpoints: sender,
                appointments: appoints,
                wishes: wanted,
                pods: stand,
                claims: config.controller.enabled.then_some(claimed),
            };
            let running = topology::kubernetes::run(access.clone(), settings, outputs, stop.clone());
            tasks.spawn_on(running, control);
            let kubernetes = Some(Kubernetes { access, wishes, pods, claims });
            Ok(Discovered { endpoints, appointments, kubernetes })
        }
        config::Topology::Dns { service, port, refresh } => {
            let (service, hosts) = (service.clone(), hosts(config));
            let settings = topology::dns::Settings { service, port: *port, refresh: *refresh, hosts };
            let finder = topology::dns::Finder::new(settings).map_err(StartError::Dns)?;
            let first = match finder.find().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, "no server is known yet; discovery goes on");
                    Arc::new([])
                }
            };
            let (sender, endpoints) = watch::channel(first);
            tasks.spawn_on(finder.run(sender, stop.clone()), control);
            let appointments = nobody_appointed(control, tasks, stop, ());
            Ok(Discovered { endpoints, appointments, kubernetes: None })
        }
    }
}

/// A certificate that is checked for the server's name needs the name.
fn hosts(config: &Config) -> topology::dns::Hosts {
    match config.server_tls.mode {
        config::TlsMode::VerifyIdentity => topology::dns::Hosts::Names,
        _ => topology::dns::Hosts::Addresses,
    }
}

/// Where there is no record, discovery's own word on the primary holds. Keeps what else lives as long as the proxy.
fn nobody_appointed<T: Send + 'static>(
    control: &Handle,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    kept: T,
) -> watch::Receiver<Appointment> {
    let (sender, appointments) = watch::channel(Appointment::default());
    let stop = stop.clone();
    tasks.spawn_on(
        async move {
            stop.cancelled().await;
            drop((sender, kept));
        },
        control,
    );
    appointments
}

/// Waits until every server was probed once, so that the first clients find a primary where there is one.
async fn first_look(topology: &mut watch::Receiver<Arc<Topology>>, stop: &CancellationToken) {
    let looked = topology.wait_for(|topology| {
        let all = topology.servers.iter().all(|server| server.health != Health::Unknown);
        all && (topology.primary.is_some() || !topology.servers.is_empty())
    });
    tokio::select! {
        () = stop.cancelled() => return,
        _ = timeout(FIRST_LOOK, looked) => {}
    }
    let topology = topology.borrow();
    if topology.primary.is_none() {
        for server in &topology.servers {
            let problem = match &server.health {
                Health::Down(why) => why.to_string(),
                Health::Unknown => String::from("it has not answered yet"),
                Health::Up(_) => server.excluded.as_deref().unwrap_or("up").to_owned(),
            };
            tracing::warn!(server = %server.id, address = %server.address, problem, "server");
        }
        tracing::warn!("no primary is known: statements for it wait, then fail, until one is there");
    }
}

fn pool_reports(pools: &Arc<Pools>, max: u32) -> Box<dyn Fn() -> Vec<PoolReport> + Send + Sync> {
    let pools = Arc::clone(pools);
    Box::new(move || {
        let report = |(id, counts): (crate::model::server::ServerId, crate::backend::pool::PoolCounts)| {
            let crate::backend::pool::PoolCounts { open, idle, waiting, opened, failed } = counts;
            PoolReport { server: id.to_string(), open, idle, waiting, max, opened, failed }
        };
        pools.counts().into_iter().map(report).collect()
    })
}

fn listen(key: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let failed = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "another process has the port: stop it, or choose another one",
            io::ErrorKind::PermissionDenied => "a port below 1024 needs rights: choose another one",
            _ => "give an address that this machine has",
        };
        StartError::Listen { key, address: address.to_string(), error, remedy }
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(failed)?;
    socket.set_reuseaddr(true).and_then(|()| socket.bind(address)).map_err(failed)?;
    socket.listen(BACKLOG).map(Some).map_err(failed)
}

/// Clients that have connected and are not accepted yet. Many connect at once when an application starts. One for whom there
/// is no room may be dropped without a word, and waits for a greeting that comes late or never. The system may allow
/// fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// A socket file that nobody listens on any more is in the way of a restart; one that somebody listens on is theirs.
fn listen_unix(path: &Path) -> Result<UnixListener, StartError> {
    let failed = |error| StartError::Listen {
        key: "listen.socket",
        address: PathBuf::from(path).display().to_string(),
        error,
        remedy: "remove the file if nothing listens on it, and check the rights of its folder",
    };
    let is_socket = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let is_silent = || {
        std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if is_socket && is_silent() {
        std::fs::remove_file(path).map_err(failed)?;
    }
    let bound = UnixSocket::new_stream().and_then(|socket| {
        socket.bind(path)?;
        socket.listen(BACKLOG)
    });
    let listener = bound.map_err(failed)?;
    // As mysqld's own: containers of one pod run as different users, and who may come in is asked at the login.
    std::fs::set_permissions(path, Permissions::from_mode(0o777)).map_err(failed)?;
    Ok(listener)
}

/// Moves a bound listener to the control thread's reactor.
fn on_control(listener: TcpListener, control: &Handle) -> Result<TcpListener, StartError> {
    let listener = listener.into_std().map_err(StartError::Runtime)?;
    let _entered = control.enter();
    TcpListener::from_std(listener).map_err(StartError::Runtime)
}
