//! `cargo bench --bench bootstrap -- [--mib N] [--watch-s N] [--together]`: how long the controller takes to bring a replica up that has N MiB
//! to copy (2048), what the copy costs the donor, and what a client of the primary notices of it. First from the primary,
//! since there is no other donor, then from a replica, then from a replica within a limit. The primary and the client have the
//! first processor to themselves, as on machines of their own; `--together` has all of them share what there is. The disk they
//! always share. Prints a table; ends with 1 when a client got an error.

#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::ops::Range;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

#[path = "comparison/cost.rs"]
#[expect(dead_code, reason = "of the costs only CPU time is asked for")]
mod cost;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default, |value| value.parse().expect("a number"))
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bootstrap-{}", std::process::id()));
    let together = arguments.iter().any(|argument| argument == "--together");
    let last = std::thread::available_parallelism().expect("it is known").get() - 1;
    let others = (!together).then(|| format!("1-{last}"));
    let bench = Bench { folder, watch: Duration::from_secs(option("--watch-s", 10)), others };
    bench.keep_on("0", std::process::id());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let errors = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("a signal can be waited for");
        tokio::select! {
            errors = bench.run(option("--mib", 2048)) => errors,
            _ = terminate.recv() => 1,
            _ = tokio::signal::ctrl_c() => 1,
        }
    });
    drop(bench);
    std::process::exit(i32::from(errors > 0));
}

/// The servers' folder goes with it.
struct Bench {
    folder: PathBuf,
    /// How long the client is watched before and after a copy.
    watch: Duration,
    /// The processors of the demo and the servers beside the primary; None when all share all of them.
    others: Option<String>,
}

/// `readwright demo`. It and its servers end when this is dropped.
struct Demo(Child);

/// A client at work on the primary, and the CPU time of two servers meanwhile.
struct Watch(JoinSet<Seen>, tokio::sync::oneshot::Sender<()>);

#[derive(Default)]
struct Seen {
    /// When each turn of the client began, and what it waited.
    turns: Vec<(SystemTime, Duration)>,
    /// What the primary and the donor had used at these times, in seconds.
    used: Vec<(SystemTime, [f64; 2])>,
    error: Option<String>,
}

/// As the recipient tells it.
struct Copy {
    /// By ordinal.
    donor: usize,
    time: Range<SystemTime>,
    bytes: u64,
}

/// Of the last copy: `controller.clone_bandwidth_mib`.
const LIMIT_MIB: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(240);

impl Bench {
    /// Gives the number of clients that got an error.
    async fn run(&self, mib: u64) -> usize {
        let demo = self.demo(0, None).await;
        self.fill(mib).await;
        let mut before = self.watch().await;
        drop(demo);
        let mut errors = 0;
        for (ordinal, limit) in [(1, None), (2, None), (3, Some(LIMIT_MIB))] {
            let demo = self.demo(ordinal, limit).await;
            let began = Instant::now();
            // The copy begins a moment after this: the recipient is looked at and prepared first.
            let watch = Watch::start(self, ordinal - 1).await;
            self.replicates(ordinal).await;
            let took = began.elapsed();
            let during = watch.end().await;
            let after = self.watch().await;
            let copy = self.copy(ordinal).await;
            let seconds = copy.time.end.duration_since(copy.time.start).unwrap_or_default().as_secs_f64();
            let limit = limit.map_or_else(String::new, |limit| format!(", {limit} MiB/s at most"));
            println!(
                "mysql-{ordinal} from mysql-{}{limit}: serves after {:.1} s; {} MiB copied in {seconds:.1} s, {:.0} MiB/s",
                copy.donor,
                took.as_secs_f64(),
                copy.bytes >> 20,
                (copy.bytes >> 20) as f64 / seconds.max(0.001),
            );
            let base = before.print("before", None, None);
            during.print("copying", Some(&copy), Some(base));
            after.print("after", None, Some(base));
            errors += [&before, &during, &after].iter().filter(|seen| seen.error.is_some()).count();
            before = after;
            drop(demo);
        }
        errors
    }

    /// The client's waits and the primary's CPU time when nothing else happens.
    async fn watch(&self) -> Seen {
        let watch = Watch::start(self, 0).await;
        sleep(self.watch).await;
        watch.end().await
    }

    /// Returns when the primary takes writes.
    async fn demo(&self, replicas: usize, limit_mib: Option<u32>) -> Demo {
        let mut command = Command::new(env!("CARGO_BIN_EXE_readwright"));
        command.arg("demo").arg("--data").arg(&self.folder).arg("--replicas").arg(replicas.to_string());
        command.args(limit_mib.map(|limit| format!("--clone-bandwidth-mib={limit}")));
        // A Ctrl-C is for this program, which then ends the demo.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let demo = Demo(command.spawn().expect("it was built"));
        // Its servers are where it is, but for the primary.
        self.keep_on(self.others.as_deref().unwrap_or_default(), demo.0.id());
        self.until(0, "SELECT COUNT(*) FROM ctl.cluster WHERE NOT @@read_only").await;
        self.keep_on("0", self.process(0).await);
        demo
    }

    /// From now on the process, with all that it starts, runs on these processors only.
    fn keep_on(&self, processors: &str, process: u32) {
        if self.others.is_none() {
            return;
        }
        let moved = Command::new("taskset")
            .args(["-acp", processors, &process.to_string()])
            .stdout(Stdio::null())
            .status()
            .expect("util-linux is there");
        assert!(moved.success(), "there is a second processor (else --together)");
    }

    /// The id of a server's process.
    async fn process(&self, ordinal: usize) -> u32 {
        let file: String = self.row(ordinal, "SELECT @@pid_file").await.expect("it serves");
        let text = std::fs::read_to_string(file).expect("mysqld wrote it");
        text.trim().parse().expect("the id of a process")
    }

    /// Rows of random bytes, past the binary log: a copy brings them all the same.
    async fn fill(&self, mib: u64) {
        let mut primary = self.connect(0, "root").await.expect("it serves");
        let setup = [
            "SET SESSION sql_log_bin = 0, cte_max_recursion_depth = 100000",
            "CREATE TABLE demo.data (id BIGINT AUTO_INCREMENT PRIMARY KEY, b VARBINARY(1000) NOT NULL)",
            "CREATE TABLE demo.client (id BIGINT AUTO_INCREMENT PRIMARY KEY)",
        ];
        for sql in setup {
            primary.query_drop(sql).await.expect("root may");
        }
        for _ in 0..mib.div_ceil(64) {
            // 1000 bytes and what a row costs; pages are filled to fifteen sixteenths.
            let rows = "INSERT INTO demo.data (b) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 58000) \
                        SELECT RANDOM_BYTES(1000) FROM n";
            primary.query_drop(rows).await.expect("there is room");
        }
        let pages = "SELECT VARIABLE_VALUE < 100 FROM performance_schema.global_status \
                     WHERE VARIABLE_NAME = 'Innodb_buffer_pool_pages_dirty'";
        self.until(0, pages).await;
    }

    /// Waits until the server has all that the primary has by the time it begins to replicate.
    async fn replicates(&self, ordinal: usize) {
        let runs = "SELECT COUNT(*) FROM performance_schema.replication_connection_status \
                    WHERE SERVICE_STATE = 'ON' AND @@super_read_only";
        self.until(ordinal, runs).await;
        let executed: String = self.row(0, "SELECT @@gtid_executed").await.expect("it serves");
        self.until(ordinal, &format!("SELECT GTID_SUBSET('{executed}', @@gtid_executed)")).await;
    }

    /// The copy that made this server.
    async fn copy(&self, ordinal: usize) -> Copy {
        // From its first page to the last that is on the recipient's disk; its restart comes after.
        let sql = "SELECT SUBSTRING_INDEX(s.SOURCE, ':', -1) + 0, UNIX_TIMESTAMP(MIN(p.BEGIN_TIME)) + 0e0, \
                   UNIX_TIMESTAMP(MAX(p.END_TIME)) + 0e0, CAST(SUM(p.DATA) AS UNSIGNED) \
                   FROM performance_schema.clone_status s JOIN performance_schema.clone_progress p USING (ID) \
                   WHERE s.STATE = 'Completed' AND p.STAGE IN ('FILE COPY', 'PAGE COPY', 'REDO COPY', 'FILE SYNC') \
                   GROUP BY s.SOURCE";
        let (port, began, ended, bytes): (u16, f64, f64, u64) =
            self.row(ordinal, sql).await.expect("it was made by a copy");
        let memory = self.memory().expect("the demo runs");
        let ports = memory["ports"].as_array().expect("the demo wrote it");
        let donor = ports.iter().position(|of| of.as_u64() == Some(u64::from(port)));
        let time = |seconds: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        Copy { donor: donor.expect("a server of the demo"), time: time(began)..time(ended), bytes }
    }

    /// Waits until the server answers with a 1.
    async fn until(&self, ordinal: usize, sql: &str) {
        let began = Instant::now();
        while self.row::<u64>(ordinal, sql).await != Some(1) {
            assert!(began.elapsed() < PATIENCE, "mysql-{ordinal} is not there yet: {sql}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn row<T: FromRow + Send + 'static>(&self, ordinal: usize, sql: &str) -> Option<T> {
        let ask = async { self.connect(ordinal, "root").await?.query_first(sql).await.ok()? };
        timeout(Duration::from_secs(5), ask).await.ok()?
    }

    async fn connect(&self, ordinal: usize, user: &str) -> Option<Conn> {
        let memory = self.memory()?;
        let password = memory[if user == "root" { "root" } else { "application" }].as_str()?;
        let port = u16::try_from(memory["ports"][ordinal].as_u64()?).ok()?;
        let options = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(port).prefer_socket(false);
        Conn::new(options.user(Some(user)).pass(Some(password))).await.ok()
    }

    /// What the demo has written down.
    fn memory(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.folder.join("demo.json")).ok()?).ok()
    }
}

impl Watch {
    /// The client begins a turn every ten milliseconds, or at once when it is late: it reads a row anywhere in the data and
    /// inserts one.
    async fn start(bench: &Bench, donor: usize) -> Self {
        let processes = [bench.process(0).await, bench.process(donor).await];
        let mut session = bench.connect(0, "app").await.expect("the demo's account");
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let mut work = JoinSet::new();
        work.spawn(async move {
            let mut seen = Seen::default();
            let mut ticks = interval(Duration::from_millis(10));
            let turn = "SET @id = FLOOR(1 + RAND() * (SELECT MAX(id) FROM demo.data)); \
                        DO (SELECT LENGTH(b) FROM demo.data WHERE id = @id); \
                        INSERT INTO demo.client VALUES ()";
            while stopped.try_recv().is_err() {
                ticks.tick().await;
                if seen.turns.len() % 10 == 0 {
                    seen.used.push((SystemTime::now(), processes.map(cost::cpu_seconds)));
                }
                let (at, began) = (SystemTime::now(), Instant::now());
                match timeout(Duration::from_secs(30), session.query_drop(turn)).await {
                    Ok(Ok(())) => seen.turns.push((at, began.elapsed())),
                    Ok(Err(error)) => seen.error = Some(error.to_string()),
                    Err(_) => seen.error = Some("no answer within 30 s".to_owned()),
                }
                if seen.error.is_some() {
                    break;
                }
            }
            seen.used.push((SystemTime::now(), processes.map(cost::cpu_seconds)));
            seen
        });
        Self(work, stop)
    }

    async fn end(mut self) -> Seen {
        let _ = self.1.send(());
        self.0.join_next().await.expect("it is one task").expect("it does not panic")
    }
}

impl Seen {
    /// Prints the part that lies within the copy, or all of it. Gives its percentiles, which later ones are compared with.
    fn print(&self, when: &str, copy: Option<&Copy>, base: Option<[f64; 3]>) -> [f64; 3] {
        let within = |at: SystemTime| copy.is_none_or(|copy| copy.time.contains(&at));
        let mut waits: Vec<Duration> =
            self.turns.iter().filter(|turn| within(turn.0)).map(|turn| turn.1).collect();
        waits.sort();
        let last = waits.len().saturating_sub(1);
        let at = |percent: usize| {
            waits.get((waits.len() * percent / 100).min(last)).map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
        };
        let percentiles = [50, 95, 99].map(at);
        let columns = [0, 1, 2].map(|column| {
            let ratio = base.map(|base| format!(" ({:.2}x)", percentiles[column] / base[column].max(0.001)));
            format!(
                "{} {:.2}{}",
                ["p50", "p95", "p99"][column],
                percentiles[column],
                ratio.unwrap_or_default()
            )
        });
        let used: Vec<_> = self.used.iter().filter(|used| within(used.0)).collect();
        let cpu = used.first().zip(used.last()).map(|(first, last)| {
            let seconds = last.0.duration_since(first.0).unwrap_or_default().as_secs_f64().max(0.001);
            [0, 1].map(|server| (last.1[server] - first.1[server]) / seconds)
        });
        let [primary, donor] = cpu.unwrap_or_default();
        println!(
            "  {when:<8} {} longest {:.0} ms, {} turns; processors: primary {primary:.2}{}{}",
            columns.join(", "),
            at(100),
            waits.len(),
            copy.map_or_else(String::new, |_| format!(", donor {donor:.2}")),
            self.error.as_ref().map_or_else(String::new, |error| format!("  ERROR {error}")),
        );
        percentiles
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        // It has deadlines of its own for its servers.
        let _ = self.0.wait();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
