//! Real MySQL servers on this machine: finds an installation, fills data folders from a template, runs mysqld and runs it
//! again when it stops by itself (as it does after CLONE). Used by the demo and, included by path, by the integration
//! tests, so it imports nothing of ours. Never touches a server or a folder that it did not make, and leaves no server
//! running when this process ends in whatever way.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

pub(crate) use installation::{Installation, Version};
use installation::{OLDEST, SMALL, complaints, copy_folder, file, remove_folder, write_options};

mod installation;

/// A folder in which servers run. Only one process has it at a time.
#[derive(Debug)]
pub(crate) struct Home {
    folder: PathBuf,
    installation: Installation,
    after: AfterDeath,
    tasks: TaskTracker,
    /// Ends the servers when this process is gone; sees that by the end of its standard input.
    watchdog: Child,
    /// Held until dropped.
    _lock: File,
}

/// What happens to a [`Home`] when its process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterDeath {
    /// Servers are stopped, data is kept for the next start.
    Keep,
    /// Servers are killed and the folder is removed.
    Remove,
}

/// What a server is to be like. It listens on 127.0.0.1 only.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Also its folder's name below [`Home`].
    pub(crate) name: String,
    /// `server_id`, unique among servers that replicate from one another.
    pub(crate) id: u32,
    /// None: a free one is chosen, and kept for restarts.
    pub(crate) port: Option<u16>,
    pub(crate) read_only: bool,
    /// Further lines of its option file, `name=value`; later ones win.
    pub(crate) options: Vec<String>,
    /// Statements, one a line, that a new data folder begins with. Written to the binary log unless they switch it off.
    pub(crate) first_statements: String,
}

/// A running (or stopped) server. It is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Instance {
    name: String,
    folder: PathBuf,
    port: u16,
    wanted: watch::Sender<Wanted>,
    state: watch::Receiver<State>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    /// It accepts connections; the process's id.
    Ready(u32),
    Stopped,
    /// It keeps ending before it accepts connections; nothing is tried any more. The reason, for people.
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Up,
    Down(Signal),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no MySQL to run: {0}")]
    Missing(String),
    #[error("{} is {found}; MySQL {}.{}.{} or newer is needed (put one on PATH, or set READWRIGHT_MYSQL_TREE)",
        program.display(), OLDEST.0, OLDEST.1, OLDEST.2)]
    Unfit { program: PathBuf, found: String },
    #[error("cannot {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot run {}", program.display())]
    Run {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is in use by another process", .0.display())]
    Busy(PathBuf),
    #[error("making a data folder failed: {0}")]
    Initialise(String),
    #[error("{name} did not start: {reason}")]
    Start { name: String, reason: String },
    #[error("{name} does not accept connections after {} s; see {}", within.as_secs(), log.display())]
    Late { name: String, within: Duration, log: PathBuf },
}

impl Home {
    /// Takes a folder for servers, making it when needed. Ends what an earlier process left running in it.
    pub(crate) async fn open(
        installation: Installation,
        folder: PathBuf,
        after: AfterDeath,
    ) -> Result<Self, Error> {
        fs::create_dir_all(&folder).map_err(file("create", &folder))?;
        let folder = folder.canonicalize().map_err(file("resolve", &folder))?;
        let lock_path = folder.join("lock");
        let lock = File::create(&lock_path).map_err(file("create", &lock_path))?;
        if lock.try_lock().is_err() {
            return Err(Error::Busy(folder));
        }
        end_leftovers(&folder).await;
        let signal = match after {
            AfterDeath::Keep => "TERM",
            AfterDeath::Remove => "KILL",
        };
        let shell = PathBuf::from("sh");
        let watchdog = Command::new(&shell)
            .args(["-c", WATCHDOG, "readwright-watchdog"])
            .arg(&folder)
            .arg(signal)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of the terminal's Ctrl-C.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Run { program: shell, source })?;
        Ok(Self { folder, installation, after, tasks: TaskTracker::new(), watchdog, _lock: lock })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Starts a server, on its data from before when there is any, and waits until it accepts connections.
    pub(crate) async fn start(&self, server: Server) -> Result<Instance, Error> {
        let folder = self.folder.join(&server.name);
        let data = folder.join("data");
        if !data.is_dir() {
            let template = self.installation.template().await?;
            let making = folder.join("data.making");
            remove_folder(&making)?;
            copy_folder(&template, &making).map_err(file("copy", &template))?;
            fs::rename(&making, &data).map_err(file("rename", &making))?;
        }
        // Between choosing a free port and taking it, another process may have been faster.
        for _ in 0..4 {
            let instance = self.launch(&server, &folder)?;
            match instance.ready(START).await {
                Err(Error::Start { reason, .. }) if server.port.is_none() && reason.contains(PORT_TAKEN) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    fs::write(folder.join("started"), "").map_err(file("write", &folder.join("started")))?;
                    return Ok(instance);
                }
            }
        }
        Err(Error::Start { name: server.name, reason: "found no free port".to_owned() })
    }

    /// Writes the option file and spawns the task that runs mysqld.
    fn launch(&self, server: &Server, folder: &Path) -> Result<Instance, Error> {
        let port = match server.port {
            Some(port) => port,
            None => free_port().map_err(|source| Error::Start {
                name: server.name.clone(),
                reason: format!("found no free port: {source}"),
            })?,
        };
        let mut options = self.installation.locations();
        options.extend(standard_options(server, port, folder, self.installation.version()));
        if !server.first_statements.is_empty() && !folder.join("started").exists() {
            let statements = folder.join("first.sql");
            fs::write(&statements, &server.first_statements).map_err(file("write", &statements))?;
            options.push(format!("init_file=\"{}\"", statements.display()));
        }
        options.extend(server.options.iter().cloned());
        write_options(&folder.join("my.cnf"), &options)?;

        let (wanted, wanted_receiver) = watch::channel(Wanted::Up);
        let (state_sender, state) = watch::channel(State::Starting);
        let supervisor = Supervisor {
            mysqld: self.installation.mysqld.clone(),
            folder: folder.to_owned(),
            wanted: wanted_receiver,
            state: state_sender,
        };
        self.tasks.spawn(supervisor.run());
        Ok(Instance { name: server.name.clone(), folder: folder.to_owned(), port, wanted, state })
    }

    /// Waits for servers that were dropped or stopped to end, then removes the folder if that is what was asked for.
    pub(crate) async fn close(mut self) -> Result<(), Error> {
        self.tasks.close();
        let _ = timeout(STOP * 2, self.tasks.wait()).await;
        // The watchdog finds nothing left to stop, removes the folder if told so, and ends.
        drop(self.watchdog.stdin.take());
        let _ = timeout(STOP * 2, self.watchdog.wait()).await;
        match self.after {
            AfterDeath::Keep => Ok(()),
            AfterDeath::Remove => remove_folder(&self.folder),
        }
    }
}

impl Instance {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The server's own folder: `data`, `my.cnf`, `mysqld.log`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What mysqld prints.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join(LOG)
    }

    /// The Unix socket, when its path is short enough to be used (107 bytes).
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        let socket = self.folder.join("data").join(SOCKET);
        (socket.as_os_str().len() <= 107).then_some(socket)
    }

    /// Changes whenever the server comes or goes.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until it accepts connections.
    pub(crate) async fn ready(&self, within: Duration) -> Result<(), Error> {
        let mut state = self.state.clone();
        let wait = state.wait_for(|state| matches!(state, State::Ready(_) | State::Failed(_)));
        match timeout(within, wait).await {
            Ok(Ok(state)) => match &*state {
                State::Failed(reason) => {
                    Err(Error::Start { name: self.name.clone(), reason: reason.clone() })
                }
                _ => Ok(()),
            },
            Ok(Err(_)) => {
                Err(Error::Start { name: self.name.clone(), reason: "its task has ended".to_owned() })
            }
            Err(_) => Err(Error::Late { name: self.name.clone(), within, log: self.log() }),
        }
    }

    /// Shuts it down in order, by force when that takes too long, and leaves it down.
    pub(crate) async fn stop(&self) {
        self.down(Signal::TERM).await;
    }

    /// Ends it as a crash or a power cut does, and leaves it down.
    pub(crate) async fn kill(&self) {
        self.down(Signal::KILL).await;
    }

    async fn down(&self, signal: Signal) {
        self.wanted.send_replace(Wanted::Down(signal));
        let mut state = self.state.clone();
        let _ = timeout(STOP * 2, state.wait_for(|state| *state == State::Stopped)).await;
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`], and waits until it accepts connections.
    pub(crate) async fn start_again(&self) -> Result<(), Error> {
        self.wanted.send_replace(Wanted::Up);
        let mut state = self.state.clone();
        let _ = timeout(START, state.wait_for(|state| *state != State::Stopped)).await;
        self.ready(START).await
    }

    /// Makes it hang: it keeps its connections and answers nothing. Returns when all of its threads have stopped: the signal
    /// goes to one of them, and the others run on until that one runs.
    pub(crate) fn freeze(&self) {
        if let Some(process) = self.signal(Signal::STOP) {
            let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            // An error: it has ended, and somebody has noticed.
            let _ = waitid(WaitId::Pid(process), stopped);
        }
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// The process that was sent it.
    fn signal(&self, signal: Signal) -> Option<Pid> {
        let State::Ready(process) = *self.state.borrow() else { return None };
        send(process, signal)
    }
}

/// Runs one mysqld for as long as it is wanted.
struct Supervisor {
    mysqld: PathBuf,
    folder: PathBuf,
    wanted: watch::Receiver<Wanted>,
    state: watch::Sender<State>,
}

/// How one run of mysqld ended.
enum End {
    /// By itself. With what it complained about.
    Exited { was_ready: bool, why: String },
    /// On demand.
    Stopped,
    /// On demand, and nobody is left to ask for another.
    Dropped,
}

impl Supervisor {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let up = *self.wanted.borrow_and_update() == Wanted::Up;
            if !up {
                failures = 0;
                self.state.send_replace(State::Stopped);
                if self.wanted.wait_for(|wanted| *wanted == Wanted::Up).await.is_err() {
                    return;
                }
            }
            self.state.send_replace(State::Starting);
            match self.run_once().await {
                End::Dropped => return,
                End::Stopped => {}
                End::Exited { was_ready: true, .. } => failures = 0,
                End::Exited { was_ready: false, why } => {
                    failures += 1;
                    if failures >= ATTEMPTS || why.contains(PORT_TAKEN) {
                        self.state.send_replace(State::Failed(why));
                        if self.wanted.wait_for(|wanted| *wanted != Wanted::Up).await.is_err() {
                            return;
                        }
                    }
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn run_once(&mut self) -> End {
        let log = self.folder.join(LOG);
        let before = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let mut child = match self.spawn(&log) {
            Ok(child) => child,
            Err(why) => return End::Exited { was_ready: false, why: why.to_string() },
        };
        let process = child.id().unwrap_or_default();
        let mut was_ready = false;
        loop {
            tokio::select! {
                status = child.wait() => {
                    let why = describe_exit(status, &read_from(&log, before));
                    return End::Exited { was_ready, why };
                }
                changed = self.wanted.changed() => {
                    let wanted = if changed.is_err() { Wanted::Down(Signal::TERM) } else { *self.wanted.borrow() };
                    if let Wanted::Down(signal) = wanted {
                        // A frozen process takes SIGTERM only when it goes on.
                        send(process, signal);
                        send(process, Signal::CONT);
                        if timeout(STOP, child.wait()).await.is_err() {
                            let _ = child.kill().await;
                        }
                        return if changed.is_err() { End::Dropped } else { End::Stopped };
                    }
                }
                () = sleep(Duration::from_millis(25)), if !was_ready => {
                    if read_from(&log, before).contains(ACCEPTS) {
                        was_ready = true;
                        self.state.send_replace(State::Ready(process));
                    }
                }
            }
        }
    }

    fn spawn(&self, log: &Path) -> io::Result<Child> {
        let output = File::options().create(true).append(true).open(log)?;
        Command::new(&self.mysqld)
            .arg(format!("{DEFAULTS_FILE}{}", self.folder.join("my.cnf").display()))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// What every server of ours has: ready to replicate by GTID and to be cloned, small, and private to this machine.
fn standard_options(server: &Server, port: u16, folder: &Path, version: Version) -> Vec<String> {
    // 8.0.26 gave these their new names.
    let (updates, skip, order) = if version >= (8, 0, 26) {
        ("log_replica_updates", "skip_replica_start", "replica_preserve_commit_order")
    } else {
        ("log_slave_updates", "skip_slave_start", "slave_preserve_commit_order")
    };
    let data = folder.join("data");
    let mut options = vec![
        format!("datadir=\"{}\"", data.display()),
        // Relative to the data folder, so that a long path does no harm.
        format!("socket={SOCKET}"),
        format!("secure_file_priv=\"{}\"", data.display()),
        format!("server_id={}", server.id),
        format!("port={port}"),
        "bind_address=127.0.0.1".to_owned(),
        "report_host=127.0.0.1".to_owned(),
        format!("report_port={port}"),
        format!("read_only={}", if server.read_only { "ON" } else { "OFF" }),
        format!("{updates}=ON"),
        format!("{skip}=ON"),
        format!("loose_{order}=ON"),
        "user=root".to_owned(),
    ];
    options.extend(REPLICATION.iter().chain(SMALL).map(|line| (*line).to_owned()));
    options
}

/// A port that nothing listens on, below the range that outgoing connections take theirs from.
pub(crate) fn free_port() -> io::Result<u16> {
    // The hasher's random keys are the standard library's only source of chance. Nobody here is given a port twice, for who
    // was given it may not listen there yet.
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| {
        AtomicU64::new(
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id()) >> 1,
        )
    });
    let mut last = None;
    for _ in 0..200 {
        let number = NEXT.fetch_add(37, Ordering::Relaxed);
        let port = 20_000 + u16::try_from(number % 12_000).unwrap_or_default();
        match std::net::TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
}

/// Ends servers that an earlier process left in this folder, which we hold the lock of.
async fn end_leftovers(folder: &Path) {
    let marker = format!("{DEFAULTS_FILE}{}/", folder.display()).into_bytes();
    let running = || -> Vec<u32> {
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|process| {
                fs::read(format!("/proc/{process}/cmdline"))
                    .is_ok_and(|line| line.windows(marker.len()).any(|part| part == marker))
            })
            .collect()
    };
    let patience = Instant::now() + STOP;
    loop {
        let processes = running();
        if processes.is_empty() || Instant::now() > patience + Duration::from_secs(5) {
            return;
        }
        let signal = if Instant::now() > patience { Signal::KILL } else { Signal::TERM };
        for process in processes {
            send(process, signal);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// None: there is no such process.
fn send(process: u32, signal: Signal) -> Option<Pid> {
    let pid = Pid::from_raw(i32::try_from(process).ok()?)?;
    kill_process(pid, signal).ok().map(|()| pid)
}

fn describe_exit(status: io::Result<ExitStatus>, log: &str) -> String {
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    format!("mysqld ended ({status})\n{}", complaints(log))
}

/// What was added to a log since it had `start` bytes; the first 256 KiB of it.
fn read_from(path: &Path, start: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut log = File::open(path)?;
        log.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        log.take(256 * 1024).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

const LOG: &str = "mysqld.log";
const SOCKET: &str = "mysql.sock";
/// By this argument, with a folder of ours, a process is known to be a server of ours.
const DEFAULTS_FILE: &str = "--defaults-file=";
/// The log line "ready for connections" of the classic protocol.
const ACCEPTS: &str = "[MY-010931]";
const PORT_TAKEN: &str = "Address already in use";
/// Runs that may end before the server accepts connections, in a row.
const ATTEMPTS: u32 = 3;
/// Crash recovery on a slow, busy disk included.
const START: Duration = Duration::from_secs(90);
/// From SIGTERM to SIGKILL.
const STOP: Duration = Duration::from_secs(20);

/// See the manual's pages on GTIDs and on the clone plugin.
const REPLICATION: &[&str] = &[
    "gtid_mode=ON",
    "enforce_gtid_consistency=ON",
    "binlog_format=ROW",
    "relay_log_recovery=ON",
    "plugin_load_add=mysql_clone.so",
    // Else CREATE FUNCTION needs SUPER, and an applier stops at one.
    "log_bin_trust_function_creators=1",
    "performance_schema=ON",
    // All of them come from one address here.
    "max_connect_errors=1000000",
    "max_connections=400",
];

/// `sh -c WATCHDOG NAME FOLDER SIGNAL`: waits for the end of standard input, which comes when the process that holds its
/// other end is gone, then signals every process that was given an option file below FOLDER (mysqld by --defaults-file=, a
/// proxy under test by --config=) until there is none. KILL also means that FOLDER goes.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
ours() { printf '%s\n' "--defaults-file=$folder/" "--config=$folder/" | grep -laFf - /proc/[0-9]*/cmdline 2>/dev/null; }
folder=$1 signal=$2 round=0
# grep's status says nothing here: a process that ends while it looks is an error to it.
while found=$(ours) || true; [ -n "$found" ]; do
  for process in $found; do process=${process#/proc/}; kill -s "$signal" "${process%/cmdline}" 2>/dev/null; done
  round=$((round + 1))
  [ "$round" -lt 200 ] || signal=KILL
  [ "$round" -lt 300 ] || break
  sleep 0.1
done
[ "$2" != KILL ] || rm -rf -- "$folder"
"#;
