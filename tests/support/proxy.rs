//! The built program in front of a cluster, as a process of its own.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mysql_async::Conn;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_yaml_ng::Value;
use tokio::time::{Instant, sleep};

use super::cluster::{Account, Cluster, MONITOR, connect};
use super::mysqld::free_port;

/// A running `readwright run`. Killed when dropped.
pub(crate) struct Proxy {
    child: Child,
    folder: PathBuf,
    port: u16,
    http: SocketAddr,
    sql: SocketAddr,
}

/// Names and ports of a cluster's servers.
fn of(cluster: &Cluster) -> Vec<(&str, u16)> {
    cluster.servers().iter().map(|server| (server.name(), server.port())).collect()
}

/// The build that is tested.
const PROGRAM: &str = env!("CARGO_BIN_EXE_readwright");

/// The account of the admin SQL port.
pub(crate) const ADMIN: Account = Account { user: "admin", password: "admin-password" };

impl Proxy {
    /// Starts it over a fixed list of the cluster's servers and waits until it is ready. `overrides` is YAML that is laid
    /// over the configuration, for example `routing: {consistency: eventual}`; empty for none.
    pub(crate) async fn start(cluster: &Cluster, overrides: &str) -> Self {
        Self::start_over(cluster.folder(), &of(cluster), overrides).await
    }

    /// The same with another build of it, for comparing two of them.
    pub(crate) async fn start_build(program: &Path, cluster: &Cluster, overrides: &str) -> Self {
        Self::started(program, cluster.folder(), &of(cluster), overrides).await
    }

    /// The same over servers of any kind, as (name, port); its own folder is made in `folder`.
    pub(crate) async fn start_over(folder: &Path, servers: &[(&str, u16)], overrides: &str) -> Self {
        Self::started(Path::new(PROGRAM), folder, servers, overrides).await
    }

    async fn started(program: &Path, folder: &Path, servers: &[(&str, u16)], overrides: &str) -> Self {
        for _ in 0..4 {
            let mut proxy = Self::launched(program, folder, servers, overrides);
            match proxy.ready(Duration::from_secs(90)).await {
                Ok(()) => return proxy,
                // Another process was faster at taking the port.
                Err(reason) if reason.contains("in use") => {}
                Err(reason) => panic!("the proxy is not ready: {reason}"),
            }
        }
        panic!("no free port for the proxy");
    }

    /// Starts it and does not wait.
    pub(crate) fn launch(cluster: &Cluster, overrides: &str) -> Self {
        Self::launched(Path::new(PROGRAM), cluster.folder(), &of(cluster), overrides)
    }

    fn launched(program: &Path, folder: &Path, servers: &[(&str, u16)], overrides: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = folder.join(format!("proxy-{count}"));
        fs::create_dir_all(&folder).expect("the folder is ours");
        let password_file = |account: Account| -> PathBuf {
            let path = folder.join(format!("{}.password", account.user));
            fs::write(&path, account.password).expect("the folder is ours");
            path
        };
        let [port, http, sql] = [(); 3].map(|()| free_port().expect("there is a free port"));
        let servers: Vec<String> = servers
            .iter()
            .map(|(name, port)| format!("{{name: {name}, address: \"127.0.0.1:{port}\"}}"))
            .collect();
        let base = format!(
            "listen: {{address: \"127.0.0.1:{port}\"}}\n\
             topology: {{kind: fixed, servers: [{}]}}\n\
             account: {{user: {}, password_file: \"{}\"}}\n\
             {PATIENT}\
             admin: {{http: \"127.0.0.1:{http}\", sql: \"127.0.0.1:{sql}\", user: {}, password_file: \"{}\"}}\n",
            servers.join(", "),
            MONITOR.user,
            password_file(MONITOR).display(),
            ADMIN.user,
            password_file(ADMIN).display(),
        );
        let mut config: Value = serde_yaml_ng::from_str(&base).expect("written above");
        if !overrides.trim().is_empty() {
            lay_over(&mut config, serde_yaml_ng::from_str(overrides).expect("the test gives YAML"));
        }
        let path = folder.join("config.yaml");
        fs::write(&path, serde_yaml_ng::to_string(&config).expect("it came from YAML")).expect("it is ours");
        let log = File::create(folder.join(LOG)).expect("the folder is ours");
        let child = Command::new(program)
            .arg("run")
            // By this spelling the watchdog knows it as ours.
            .arg(format!("--config={}", path.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("an open file"))
            .stderr(log)
            .spawn()
            .expect("cargo built it");
        let on = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { child, folder, port, http: on(http), sql: on(sql) }
    }

    /// Waits for `/readyz` to say so, and until every server was asked once, which a busy machine may put off. An error is
    /// what the log says.
    pub(crate) async fn ready(&mut self, within: Duration) -> Result<(), String> {
        let patience = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return Err(format!("it ended ({status}):\n{}", self.log()));
            }
            if http_get(self.http, "/readyz").is_some_and(|(status, _)| status == 200) && self.has_asked_all()
            {
                return Ok(());
            }
            if Instant::now() > patience {
                return Err(format!("not within {} s:\n{}", within.as_secs(), self.log()));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn has_asked_all(&self) -> bool {
        let status: Value = serde_yaml_ng::from_str(&self.page("/status")).expect("JSON is YAML");
        let servers = status["servers"].as_sequence().expect("a list");
        servers.iter().all(|server| server["health"] != "unknown")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where `/metrics` and its like are.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where the admin SQL port is; see [`ADMIN`].
    pub(crate) fn sql(&self) -> SocketAddr {
        self.sql
    }

    /// Holds `config.yaml` and the log.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it has printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join(LOG)).unwrap_or_default()
    }

    /// Waits until it has printed this: a client has its answer before the log says so.
    pub(crate) async fn logs(&self, text: &str) {
        let patience = Instant::now() + Duration::from_secs(60);
        while !self.log().contains(text) {
            assert!(Instant::now() < patience, "{text:?} is not in the log:\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Logs in through it.
    pub(crate) async fn connect(&self, account: Account) -> Conn {
        self.try_connect(account).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    pub(crate) async fn try_connect(&self, account: Account) -> Result<Conn, mysql_async::Error> {
        connect(self.port, account).await
    }

    /// The body of a page of its HTTP port; panics when there is none.
    pub(crate) fn page(&self, path: &str) -> String {
        http_get(self.http, path).unwrap_or_else(|| panic!("{path} is not answered\n{}", self.log())).1
    }

    /// Asks it to end, as Kubernetes does.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Stops it where it is, until [`thaw`](Self::thaw). Returns when all of its threads have stopped: the signal goes to one of
    /// them, and the others run on until that one runs.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&self.child)), stopped).expect("it is our child");
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our child");
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let patience = Instant::now() + within;
        while Instant::now() < patience {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return Some(status);
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the proxy ---\n{}", self.log());
        }
    }
}

/// Status and body. None when nobody answers.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let deadline = Duration::from_secs(30);
    let mut stream = TcpStream::connect_timeout(&address, deadline).ok()?;
    stream.set_read_timeout(Some(deadline)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Mapping(below), Value::Mapping(above)) => {
            for (key, value) in above {
                lay_over(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

const LOG: &str = "readwright.log";

/// A machine that is busy with other things must neither make a server look dead, nor send a read to the primary, nor cost a
/// client its turn. What a limit does is shown by the tests that set it.
const PATIENT: &str = "\
    limits: {login_s: 60}\n\
    pool: {connect_timeout_ms: 30000, wait_ms: 60000}\n\
    monitor: {interval_ms: 100, timeout_ms: 10000, failures: 3, damping_ms: 300}\n\
    routing: {gtid_wait_ms: 20000, max_lag_ms: 600000}\n";
