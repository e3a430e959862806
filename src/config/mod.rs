//! The configuration as the rest of the program sees it: typed, complete and checked. What is written in YAML, in the
//! environment and in flags is `raw`; `resolve` turns it into this or into every problem at once.

mod keys;
pub(crate) mod raw;
pub(crate) mod resolve;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub(crate) use crate::model::access::{Account, CertificateFiles, Secret, ServerTls, TlsMode};
use crate::model::server::{Address, ServerId};

/// Everything `readwright run` needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) listen: Listen,
    pub(crate) topology: Topology,
    /// The account of our own statements: probes.
    pub(crate) account: KeptAccount,
    pub(crate) controller: Controller,
    pub(crate) users: Users,
    pub(crate) routing: Routing,
    pub(crate) pool: Pool,
    pub(crate) limits: Limits,
    pub(crate) monitor: Monitor,
    pub(crate) server_tls: ServerTls,
    pub(crate) client_tls: ClientTls,
    pub(crate) admin: Admin,
    pub(crate) log: Log,
    /// Worker threads of the data plane; None leaves the choice to `server`.
    pub(crate) workers: Option<usize>,
    /// Every key with its value in force, for `SHOW CONFIG`; secrets appear by their file or variable only.
    pub(crate) settings: Vec<Setting>,
}

/// One key of the configuration as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) origin: raw::Origin,
}

#[derive(Clone, Debug)]
pub(crate) struct Listen {
    pub(crate) tcp: Option<SocketAddr>,
    pub(crate) socket: Option<PathBuf>,
    /// Connections from there begin with a PROXY header.
    pub(crate) proxy_protocol_from: Vec<IpNet>,
}

#[derive(Clone, Debug)]
pub(crate) enum Topology {
    /// A list of servers; the primary is the one named, else ordinal 0, else the first.
    Fixed { servers: Vec<FixedServer>, primary: Option<ServerId> },
    /// A headless Service: SRV or A records give the pods; ordinal 0 is the primary.
    Dns { service: String, port: u16, refresh: Duration },
    /// The API server says where the pods of a headless Service are.
    Kubernetes(Kubernetes),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kubernetes {
    pub(crate) service: String,
    /// Used where the Service names no port.
    pub(crate) port: u16,
    /// None: the pod's own.
    pub(crate) namespace: Option<String>,
    /// The Service that selects the primary, for who may not read the record.
    pub(crate) primary_service: Option<String>,
}

/// The embedded controller, and the accounts it works with. Who creates no server needs none of it.
#[derive(Clone, Debug)]
pub(crate) struct Controller {
    pub(crate) enabled: bool,
    /// This process's pod, as the Lease is to name it.
    pub(crate) pod: String,
    /// Name of the ConfigMap with the record; those who do not act follow it too.
    pub(crate) state: String,
    /// Name of the Lease whose holder acts.
    pub(crate) lease: String,
    pub(crate) diverged: Diverged,
    /// What a copy may take of its donor and of the network, in MiB/s; None is all.
    pub(crate) clone_bandwidth: Option<NonZeroU32>,
    /// How often it looks at every server.
    pub(crate) interval: Duration,
    /// Its own account on the servers: it creates it.
    pub(crate) account: KeptAccount,
    /// The replicas' account on their source: it creates it.
    pub(crate) replication: KeptAccount,
    /// The account that a new server has from its image.
    pub(crate) installation: KeptAccount,
    /// How long an old password stays good after every server has the new one: other proxies have files of their own.
    pub(crate) keep_old: Duration,
}

/// What to do with a replica that has transactions of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Diverged {
    /// Leave it to people.
    Hold,
    /// Overwrite it with a copy of a good server.
    Reclone,
}

/// An account as it was at the start, and the file whose content is its password from then on.
#[derive(Clone, Debug)]
pub(crate) struct KeptAccount {
    pub(crate) account: Account,
    pub(crate) file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub(crate) struct FixedServer {
    pub(crate) id: ServerId,
    pub(crate) address: Address,
    pub(crate) zone: Option<String>,
}

/// Users whose passwords are known beforehand; all others are learned at their first login.
#[derive(Clone, Debug, Default)]
pub(crate) struct Users {
    pub(crate) known: Vec<Account>,
    /// How long a login may rely on the last check of that user against a server.
    pub(crate) recheck: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Routing {
    pub(crate) consistency: Consistency,
    /// How long a read may wait on a replica for the session's last write before it goes to the primary.
    pub(crate) gtid_wait: Duration,
    /// A replica that lags more serves no reads.
    pub(crate) max_lag: Duration,
    /// How long statements for a primary that is down are held before they fail.
    pub(crate) primary_wait: Duration,
    /// At most so many statements are held.
    pub(crate) primary_wait_statements: u32,
    /// At most so many bytes of statements are held.
    pub(crate) primary_wait_bytes: u64,
    /// Replicas of this zone are preferred while there are any that qualify.
    pub(crate) prefer_zone: Option<Zone>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    Named(String),
    /// That of the servers on this node: it is this process's own.
    OfNode(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// A session sees its own writes.
    Session,
    /// Any replica within `max_lag`.
    Eventual,
    /// A read sees everything that was committed on the primary before it began.
    Global,
}

#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// Connections to one server, all users together.
    pub(crate) max_per_server: u32,
    /// Statements that may wait for a connection to one server.
    pub(crate) max_waiters: u32,
    pub(crate) wait: Duration,
    /// Connections unused for so long are closed.
    pub(crate) idle: Duration,
    /// How long a session keeps its last connection for statements about the previous one (LAST_INSERT_ID, warnings).
    pub(crate) linger: Duration,
    pub(crate) connect_timeout: Duration,
    /// Prepared statements kept on one server connection.
    pub(crate) prepared_per_connection: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) clients: u32,
    /// From accept to the end of the login.
    pub(crate) login: Duration,
    /// A client that sends nothing for so long is closed.
    pub(crate) client_idle: Duration,
    /// A client that takes no byte of an answer for so long is closed.
    pub(crate) client_write: Duration,
    /// The largest statement, in bytes (`max_allowed_packet`).
    pub(crate) max_packet: u64,
    /// Statements held in memory while they are judged, all clients together, in bytes.
    pub(crate) statement_memory: u64,
    /// From SIGTERM until open transactions are cut.
    pub(crate) drain: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// Probes that must fail in a row before a server counts as down.
    pub(crate) failures: u32,
    /// How long a server must be well before it serves reads again.
    pub(crate) damping: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct ClientTls {
    /// None: a self-signed certificate is made at start.
    pub(crate) certificate: Option<CertificateFiles>,
    /// Whoever shows a certificate must have it from this CA.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) mode: ClientTlsMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientTlsMode {
    Disabled,
    Preferred,
    Required,
    /// TLS, and a certificate of the client's.
    VerifyCa,
}

#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// `/metrics`, `/healthz`, `/readyz`, `/status`.
    pub(crate) http: Option<SocketAddr>,
    /// The admin SQL port; needs a password.
    pub(crate) sql: Option<SocketAddr>,
    pub(crate) account: Option<Account>,
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// As `tracing-subscriber`'s `EnvFilter` reads it.
    pub(crate) filter: String,
    pub(crate) json: bool,
}

/// The password that the bytes of a file or a variable are; None when they can be none. The last line end of a file is
/// not part of it.
pub(crate) fn password(bytes: Vec<u8>) -> Option<Secret> {
    let text = String::from_utf8(bytes).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let usable = !text.is_empty() && text.len() <= 1024 && !text.contains('\0');
    usable.then(|| Secret::new(text.to_owned()))
}
