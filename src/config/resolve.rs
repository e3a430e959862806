//! Turns what was written into a [`Config`], or into every problem at once. The defaults of all keys are here and
//! nowhere else. Pure: the environment is inside [`Raw`] and files are read through [`Files`].

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::Path;

use ipnet::IpNet;

use super::keys::{Files, Keys};
use super::raw::{Problem, Raw};
use super::{
    Account, Admin, CertificateFiles, ClientTls, ClientTlsMode, Config, Consistency, Controller, Diverged,
    FixedServer, KeptAccount, Kubernetes, Limits, Listen, Log, Monitor, Pool, Routing, Secret, ServerTls,
    TlsMode, Topology, Users, Zone,
};
use crate::model::server::{Address, ServerId};
use crate::telemetry::logging;

/// Reads the file, the environment and `--set` flags. Without a path the defaults are the file.
///
/// # Errors
/// Every problem of the configuration at once.
pub(crate) fn load(path: Option<&Path>, flags: &[String]) -> Result<Config, Vec<Problem>> {
    let yaml = match path {
        None => String::new(),
        Some(path) => {
            let unreadable = |wrong: String| {
                vec![Problem::new(path.display().to_string(), wrong, "give the path of a readable YAML file")]
            };
            let bytes = read_file(path).map_err(|error| unreadable(format!("cannot be read ({error})")))?;
            String::from_utf8(bytes).map_err(|_| unreadable("is not UTF-8 text".to_owned()))?
        }
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    resolve(Raw::read(&yaml, environment, flags), &read_file)
}

/// The configuration of this YAML text with these variables as its environment, for callers that write their own.
///
/// # Errors
/// Every problem of the configuration at once.
pub(crate) fn from_yaml(yaml: &str, environment: BTreeMap<String, String>) -> Result<Config, Vec<Problem>> {
    resolve(Raw::read(yaml, environment, &[]), &read_file)
}

/// # Errors
/// Every problem of the configuration at once, in the order of the keys.
pub(crate) fn resolve(raw: Raw, files: Files<'_>) -> Result<Config, Vec<Problem>> {
    let mut keys = Keys::new(raw, files);
    let config = Config {
        listen: listen(&mut keys),
        topology: topology(&mut keys),
        account: kept_account(&mut keys, "account.", "root"),
        controller: controller(&mut keys),
        users: users(&mut keys),
        routing: routing(&mut keys),
        pool: pool(&mut keys),
        monitor: monitor(&mut keys),
        server_tls: server_tls(&mut keys),
        client_tls: client_tls(&mut keys),
        admin: admin(&mut keys),
        log: log(&mut keys),
        workers: match keys.number("limits.workers", 0, 0..=1024) {
            0 => None,
            workers => Some(workers as usize),
        },
        limits: limits(&mut keys),
        settings: Vec::new(),
    };
    check_together(&config, &mut keys);
    Ok(Config { settings: keys.finish()?, ..config })
}

fn listen(keys: &mut Keys<'_>) -> Listen {
    Listen {
        tcp: keys.address("listen.address", Some("0.0.0.0:3306")),
        socket: keys.path("listen.socket"),
        proxy_protocol_from: networks(keys, "listen.proxy_protocol_from"),
    }
}

/// A list of `10.0.0.0/8` or `10.0.0.1`, or the same as one text with commas.
fn networks(keys: &mut Keys<'_>, list: &str) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for (key, text) in keys.words(list) {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        match text.parse::<IpNet>().or_else(|_| address()) {
            Ok(network) => networks.push(network),
            Err(_) => {
                keys.problem(&key, format!("`{text}` is no network"), "write for example 10.0.0.0/8");
            }
        }
    }
    networks
}

fn topology(keys: &mut Keys<'_>) -> Topology {
    #[derive(Clone, Copy, PartialEq)]
    enum Of {
        Fixed,
        Dns,
        Kubernetes,
    }
    let kinds = [("fixed", Of::Fixed), ("dns", Of::Dns), ("kubernetes", Of::Kubernetes)];
    let kind = keys.choice("topology.kind", Of::Dns, &kinds);
    let servers = fixed_servers(keys);
    let primary = keys.text("topology.primary", None).map(|name| ServerId::new(&name));
    let service = keys.text("topology.service", Some("mysql")).unwrap_or_default();
    let port = keys.number("topology.port", 3306, 1..=65535) as u16;
    let refresh = keys.duration("topology.refresh_ms", 5000, 100..=3_600_000);
    let namespace = keys.text("topology.namespace", None);
    let primary_service = keys.text("topology.primary_service", Some("mysql-primary"));
    if kind != Of::Fixed && !servers.is_empty() {
        keys.problem(
            "topology.servers",
            "is not used by this kind of topology",
            "set topology.kind to fixed, or remove the list",
        );
    }
    match kind {
        Of::Fixed => {
            if servers.is_empty() {
                keys.problem("topology.servers", "is empty", "list at least one `{name, address}`");
            }
            if let Some(primary) = &primary
                && !servers.iter().any(|server| server.id == *primary)
            {
                keys.problem(
                    "topology.primary",
                    format!("`{primary}` is not among topology.servers"),
                    "name one of them",
                );
            }
            Topology::Fixed { servers, primary }
        }
        Of::Dns => Topology::Dns { service, port, refresh },
        Of::Kubernetes => {
            let names = [
                ("topology.service", Some(&service)),
                ("topology.namespace", namespace.as_ref()),
                ("topology.primary_service", primary_service.as_ref()),
            ];
            for (key, name) in names {
                object_name(keys, key, name.map_or("x", String::as_str));
            }
            Topology::Kubernetes(Kubernetes { service, port, namespace, primary_service })
        }
    }
}

/// A name that an object of the API can have; a Service of another namespace is no name.
fn object_name(keys: &mut Keys<'_>, key: &str, name: &str) {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.len() > 63 || !name.chars().all(legal) || !ends(name.chars().next()) || !ends(name.chars().last())
    {
        keys.problem(
            key,
            format!("`{}` is no name of a Kubernetes object", name.chars().take(80).collect::<String>()),
            "write the name alone: at most 63 lower-case letters, digits and `-`",
        );
    }
}

/// A list of `{name, address, zone}`, or from the environment and flags `name=host:port,name=host:port`.
fn fixed_servers(keys: &mut Keys<'_>) -> Vec<FixedServer> {
    let list = "topology.servers";
    let mut servers: Vec<FixedServer> = Vec::new();
    let mut written: Vec<(String, String, String, Option<String>)> = Vec::new();
    if let Some(text) = keys.text(list, None) {
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((name, address)) => {
                    written.push((list.to_owned(), name.to_owned(), address.to_owned(), None));
                }
                None => keys.problem(
                    list,
                    format!("`{part}` is not NAME=HOST:PORT"),
                    "write for example mysql-0=10.0.0.1:3306",
                ),
            }
        }
    }
    for index in 0..keys.items(list, &["name", "address", "zone"]) {
        let item = format!("{list}[{index}]");
        let zone = keys.text(&format!("{item}.zone"), None);
        let name = keys.required(&format!("{item}.name"), "give the server a name such as mysql-0");
        let address = keys.required(&format!("{item}.address"), "give HOST:PORT");
        if let (Some(name), Some(address)) = (name, address) {
            written.push((item, name, address, zone));
        }
    }
    for (key, name, address, zone) in written {
        let id = ServerId::new(name.trim());
        if id.as_str().is_empty() || id.as_str().len() > 253 {
            keys.problem(&key, "has a name that is empty or too long", "use 1 to 253 characters");
        } else if servers.iter().any(|server| server.id == id) {
            keys.problem(&key, format!("`{id}` is there twice"), "give every server a name of its own");
        }
        match address.trim().parse::<Address>() {
            Ok(address) => servers.push(FixedServer { id, address, zone }),
            Err(error) => keys.problem(&key, error.to_string(), "write for example mysql-0.mysql:3306"),
        }
    }
    servers
}

fn controller(keys: &mut Keys<'_>) -> Controller {
    let enabled = keys.choice("controller.enabled", false, &[("true", true), ("false", false)]);
    let policies = [("hold", Diverged::Hold), ("reclone", Diverged::Reclone)];
    let controller = Controller {
        enabled,
        pod: pod(keys),
        state: keys.text("controller.state", Some("readwright")).unwrap_or_default(),
        lease: keys.text("controller.lease", Some("readwright")).unwrap_or_default(),
        diverged: keys.choice("controller.diverged", Diverged::Hold, &policies),
        clone_bandwidth: u32::try_from(keys.number("controller.clone_bandwidth_mib", 0, 0..=1_048_576))
            .ok()
            .and_then(NonZeroU32::new),
        interval: keys.duration("controller.interval_ms", 1000, 100..=60_000),
        account: kept_account(keys, "controller.", "readwright_controller"),
        replication: kept_account(keys, "controller.replication_", "readwright_replication"),
        installation: kept_account(keys, "controller.installation_", "root"),
        keep_old: keys.duration("controller.old_passwords_s", 300, 1..=604_800),
    };
    object_name(keys, "controller.state", &controller.state);
    object_name(keys, "controller.lease", &controller.lease);
    for (kept, key) in [
        (&controller.account, "controller.password_file"),
        (&controller.replication, "controller.replication_password_file"),
    ] {
        if enabled && kept.account.password.reveal().is_empty() {
            keys.problem(
                key,
                "is missing",
                "the controller creates this account: give its password, by file or _env",
            );
        }
    }
    controller
}

/// A container's host name is its pod's.
fn pod(keys: &Keys<'_>) -> String {
    let names = ["READWRIGHT_POD", "HOSTNAME"].map(|name| keys.variable(name));
    names.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or("readwright").to_owned()
}

/// A user without a password logs in with the empty one, as `root` does in the Kubernetes tutorial.
fn kept_account(keys: &mut Keys<'_>, prefix: &str, user: &str) -> KeptAccount {
    let user = keys.text(&format!("{prefix}user"), Some(user)).unwrap_or_default();
    let (password, file) = keys.password_and_file(prefix);
    let password = password.unwrap_or_else(|| Secret::new(String::new()));
    KeptAccount { account: Account { user, password }, file }
}

fn users(keys: &mut Keys<'_>) -> Users {
    let mut known: Vec<Account> = Vec::new();
    for index in 0..keys.items("users.known", &["user", "password_file", "password_env"]) {
        let item = format!("users.known[{index}]");
        let user = keys.required(&format!("{item}.user"), "name the MySQL user");
        let password = keys.password(&format!("{item}."));
        match (user, password) {
            (Some(user), _) if known.iter().any(|account| account.user == user) => {
                keys.problem(&item, format!("`{user}` is there twice"), "keep one of them");
            }
            (Some(user), Some(password)) => known.push(Account { user, password }),
            (_, None) => keys.problem(&item, "has no password", "give password_file or password_env"),
            (None, _) => {}
        }
    }
    Users { known, recheck: keys.duration("users.recheck_ms", 1000, 0..=3_600_000) }
}

fn routing(keys: &mut Keys<'_>) -> Routing {
    let consistencies = [
        ("session", Consistency::Session),
        ("eventual", Consistency::Eventual),
        ("global", Consistency::Global),
    ];
    Routing {
        consistency: keys.choice("routing.consistency", Consistency::Session, &consistencies),
        gtid_wait: keys.duration("routing.gtid_wait_ms", 1000, 0..=60_000),
        max_lag: keys.duration("routing.max_lag_ms", 5000, 0..=86_400_000),
        primary_wait: keys.duration("routing.primary_wait_ms", 10_000, 0..=600_000),
        primary_wait_statements: keys.number("routing.primary_wait_statements", 1000, 0..=1_000_000) as u32,
        primary_wait_bytes: keys.number("routing.primary_wait_mib", 64, 0..=65_536) * MIB,
        prefer_zone: prefer_zone(keys),
    }
}

/// `auto` is this process's own zone, as its pod's manifest hands it in: by name, or by the node it runs on.
fn prefer_zone(keys: &mut Keys<'_>) -> Option<Zone> {
    let key = "routing.prefer_zone";
    let zone = keys.text(key, None)?;
    if zone != "auto" {
        return Some(Zone::Named(zone));
    }
    let (named, node) = (keys.variable("READWRIGHT_ZONE"), keys.variable("READWRIGHT_NODE"));
    if named.is_none() && node.is_none() {
        keys.problem(
            key,
            "is `auto`, and neither READWRIGHT_ZONE nor READWRIGHT_NODE is set",
            "have the pod's manifest set READWRIGHT_NODE from spec.nodeName, or name the zone here",
        );
        return None;
    }
    // A node without the label hands in an empty name.
    let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    text(named).map(Zone::Named).or_else(|| text(node).map(Zone::OfNode))
}

fn pool(keys: &mut Keys<'_>) -> Pool {
    Pool {
        max_per_server: keys.number("pool.max_per_server", 200, 1..=100_000) as u32,
        max_waiters: keys.number("pool.max_waiters", 1000, 0..=1_000_000) as u32,
        wait: keys.duration("pool.wait_ms", 5000, 1..=600_000),
        idle: keys.duration("pool.idle_s", 15, 1..=86_400),
        linger: keys.duration("pool.linger_ms", 100, 0..=60_000),
        connect_timeout: keys.duration("pool.connect_timeout_ms", 3000, 1..=600_000),
        prepared_per_connection: keys.number("pool.prepared_per_connection", 256, 1..=1_000_000) as usize,
    }
}

fn limits(keys: &mut Keys<'_>) -> Limits {
    Limits {
        clients: keys.number("limits.clients", 10_000, 1..=1_000_000) as u32,
        login: keys.duration("limits.login_s", 10, 1..=3600),
        client_idle: keys.duration("limits.client_idle_s", 28_800, 1..=31_536_000),
        client_write: keys.duration("limits.client_write_s", 60, 1..=86_400),
        max_packet: keys.number("limits.max_packet_mib", 64, 1..=1024) * MIB,
        statement_memory: keys.number("limits.statement_memory_mib", 256, 1..=1_048_576) * MIB,
        drain: keys.duration("limits.drain_s", 20, 0..=86_400),
    }
}

fn monitor(keys: &mut Keys<'_>) -> Monitor {
    Monitor {
        interval: keys.duration("monitor.interval_ms", 500, 10..=3_600_000),
        timeout: keys.duration("monitor.timeout_ms", 2000, 10..=600_000),
        failures: keys.number("monitor.failures", 2, 1..=1000) as u32,
        damping: keys.duration("monitor.damping_ms", 2000, 0..=3_600_000),
    }
}

fn server_tls(keys: &mut Keys<'_>) -> ServerTls {
    let modes = [
        ("disabled", TlsMode::Disabled),
        ("preferred", TlsMode::Preferred),
        ("required", TlsMode::Required),
        ("verify-ca", TlsMode::VerifyCa),
        ("verify-identity", TlsMode::VerifyIdentity),
    ];
    let mode = keys.choice("server_tls.mode", TlsMode::Preferred, &modes);
    let ca = keys.pem("server_tls.ca_file");
    if ca.is_none() && matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyIdentity) {
        keys.problem(
            "server_tls.ca_file",
            "is missing",
            "verify-ca and verify-identity need the CA certificate",
        );
    }
    ServerTls { mode, ca, certificate: certificate(keys, "server_tls") }
}

/// A certificate and its key, or neither.
fn certificate(keys: &mut Keys<'_>, section: &str) -> Option<CertificateFiles> {
    let (certificate_key, key_key) = (format!("{section}.certificate_file"), format!("{section}.key_file"));
    match (keys.pem(&certificate_key), keys.pem(&key_key)) {
        (Some(certificate), Some(key)) => Some(CertificateFiles { certificate, key }),
        (None, None) => None,
        (certificate, _) => {
            let missing = if certificate.is_some() { &key_key } else { &certificate_key };
            keys.problem(missing, "is missing", "give the certificate and its key, or neither");
            None
        }
    }
}

fn client_tls(keys: &mut Keys<'_>) -> ClientTls {
    let modes = [
        ("disabled", ClientTlsMode::Disabled),
        ("preferred", ClientTlsMode::Preferred),
        ("required", ClientTlsMode::Required),
        ("verify-ca", ClientTlsMode::VerifyCa),
    ];
    let mode = keys.choice("client_tls.mode", ClientTlsMode::Preferred, &modes);
    let certificate = certificate(keys, "client_tls");
    let ca = keys.pem("client_tls.ca_file");
    if ca.is_none() && mode == ClientTlsMode::VerifyCa {
        keys.problem(
            "client_tls.ca_file",
            "is missing",
            "verify-ca needs the CA that signs clients' certificates",
        );
    }
    ClientTls { certificate, ca, mode }
}

/// Without a password the admin SQL port stays closed.
fn admin(keys: &mut Keys<'_>) -> Admin {
    let http = keys.address("admin.http", Some("0.0.0.0:9090"));
    let sql = keys.address("admin.sql", Some("127.0.0.1:6032"));
    let user = keys.text("admin.user", Some("admin")).unwrap_or_default();
    let account = keys.password("admin.").map(|password| Account { user, password });
    Admin { http, sql: sql.filter(|_| account.is_some()), account }
}

fn log(keys: &mut Keys<'_>) -> Log {
    let filter = keys.text("log.filter", Some("info")).unwrap_or_default();
    if let Err(error) = logging::check(&filter) {
        keys.problem(
            "log.filter",
            error.to_string(),
            "write a level such as info, or target=level,target=level",
        );
    }
    Log { filter, json: keys.choice("log.format", false, &[("text", false), ("json", true)]) }
}

/// What no key shows alone.
fn check_together(config: &Config, keys: &mut Keys<'_>) {
    if config.listen.tcp.is_none() && config.listen.socket.is_none() {
        keys.problem("listen", "has neither address nor socket", "give one of them");
    }
    let ports = [
        ("listen.address", config.listen.tcp),
        ("admin.http", config.admin.http),
        ("admin.sql", config.admin.sql),
    ];
    for (at, (key, address)) in ports.iter().enumerate() {
        for (other_key, other) in &ports[..at] {
            if let (Some(address), Some(other)) = (address, other)
                && address.port() != 0
                && address.port() == other.port()
                && (address.ip() == other.ip()
                    || address.ip().is_unspecified()
                    || other.ip().is_unspecified())
            {
                keys.problem(key, format!("has the port of {other_key}"), "give each a port of its own");
            }
        }
    }
    if config.controller.enabled && !matches!(config.topology, Topology::Kubernetes(_)) {
        keys.problem(
            "controller.enabled",
            "needs the API server, for its lease and its record",
            "set topology.kind to kubernetes, or controller.enabled to false",
        );
    }
    if config.limits.statement_memory < config.limits.max_packet {
        keys.problem(
            "limits.statement_memory_mib",
            "is less than limits.max_packet_mib",
            "one statement of the largest size must fit",
        );
    }
}

/// The file as bytes; a configuration or a secret is never large.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MIB + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MIB {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 1 MiB"));
    }
    Ok(bytes)
}

const MIB: u64 = 1024 * 1024;

#[cfg(test)]
mod tests;
