//! What clients are promised while servers die, hang, lag and refuse: each acknowledged write is there, once; a transaction is
//! seen whole or not at all; a read is as fresh as `routing.consistency` says. Clients write and read while faults come by chance,
//! and each answer is held against what the clients know. `READWRIGHT_HISTORY_SECONDS=600 READWRIGHT_HISTORY_SEED=7 cargo test
//! --test history -- --nocapture` runs for longer and with other faults; what interleaves is chance all the same.

#![expect(clippy::print_stdout, reason = "it says what it has done")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use support::cluster::{APP, Cluster, ROOT, connect};
use support::proxy::Proxy;
use tokio::time::{Instant, sleep, timeout};

mod support;

/// How many clients write, each its own pair of rows. All read all of them.
const WRITERS: u64 = 6;
/// Nothing takes longer, or it hangs: a server's start after a crash is the longest.
const PATIENCE: Duration = Duration::from_secs(180);
const CONFIGURATION: &str = "monitor: {interval_ms: 100, timeout_ms: 500, failures: 2, damping_ms: 300}\n\
     pool: {connect_timeout_ms: 1000}";
const SCENE: &str = "CREATE DATABASE d; CREATE TABLE d.cell (id INT PRIMARY KEY, n BIGINT NOT NULL);
     INSERT INTO d.cell WITH RECURSIVE ids (id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM ids WHERE id < 11) SELECT id, 0 FROM ids;
     -- What a killed process has committed is in the system's hands; persisted, so that it holds after each start.
     SET PERSIST innodb_flush_log_at_trx_commit=2;";

/// What is known of a pair of rows, to which its writer adds one in each transaction.
#[derive(Default)]
struct Pair {
    /// Additions that were acknowledged.
    done: AtomicU64,
    /// The same and those that may have been carried out.
    begun: AtomicU64,
}

/// Whose writes a read has to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// The session's own: `consistency: session`.
    Own,
    /// Everybody's: `consistency: global`.
    All,
}

struct World {
    pairs: Vec<Pair>,
    over: AtomicBool,
}

struct Client {
    port: u16,
    promise: Promise,
    world: Arc<World>,
    dice: StdRng,
    /// The pair it writes.
    own: Option<usize>,
    /// What its session has written of that by now.
    seen_own: u64,
    session: Option<Conn>,
    reads: u64,
    errors: u64,
}

/// What became of an addition.
enum Outcome {
    Done,
    /// It was certainly not carried out: rolled back, or refused.
    Nothing(Option<Error>),
    InDoubt(Error),
}

/// What becomes of a server, and of the clients' statements with it.
#[derive(Clone, Copy, Debug)]
enum Fault {
    ReplicaDies,
    ReplicaHangs,
    ReplicaLags,
    /// Its applier waits: unlike one that has stopped, it goes on to serve reads.
    ReplicaStandsStill,
    PrimaryDies,
    PrimaryRestarts,
    PrimaryHangs,
    PrimaryRefusesWrites,
    ConnectionIsKilled,
}

impl World {
    fn new() -> Self {
        Self { pairs: (0..WRITERS).map(|_| Pair::default()).collect(), over: AtomicBool::new(false) }
    }
}

impl Client {
    fn new(port: u16, promise: Promise, world: &Arc<World>, own: Option<usize>, seed: u64) -> Self {
        let dice = StdRng::seed_from_u64(seed);
        let world = Arc::clone(world);
        Self { port, promise, world, dice, own, seen_own: 0, session: None, reads: 0, errors: 0 }
    }

    /// Goes on until it is over. Err: a promise was broken.
    async fn run(mut self) -> Result<Self, String> {
        while !self.world.over.load(Ordering::SeqCst) {
            let step = async {
                match self.own {
                    Some(own) if self.dice.random_ratio(1, 3) => self.write(own).await,
                    _ => self.read().await,
                }
            };
            timeout(PATIENCE, step).await.map_err(|_| "a statement hangs".to_owned())??;
            sleep(Duration::from_millis(self.dice.random_range(0..5))).await;
        }
        Ok(self)
    }

    /// Logs in where it has no session. None: not now.
    async fn session(&mut self) -> Option<&mut Conn> {
        if self.session.is_none() {
            self.session = connect(self.port, APP).await.ok();
            self.seen_own = 0;
            if self.session.is_none() {
                self.errors += 1;
                sleep(Duration::from_millis(50)).await;
            }
        }
        self.session.as_mut()
    }

    /// After a statement failed: whether the session is still there to be used.
    fn failed(&mut self, error: &Error) {
        self.errors += 1;
        // ER_SERVER_SHUTDOWN comes before the end of a connection.
        if !matches!(error, Error::Server(error) if error.code != 1053) {
            self.session = None;
        }
    }

    async fn write(&mut self, own: usize) -> Result<(), String> {
        let (world, way) = (Arc::clone(&self.world), self.dice.random_range(0..4));
        let pair = &world.pairs[own];
        let Some(session) = self.session().await else { return Ok(()) };
        pair.begun.fetch_add(1, Ordering::SeqCst);
        let ids = (2 * own, 2 * own + 1);
        let outcome = match way {
            0 => {
                let sql = format!("UPDATE d.cell SET n = n + 1 WHERE id IN ({}, {})", ids.0, ids.1);
                Outcome::of(session.query_drop(sql).await)
            }
            1 => {
                let sql = "UPDATE d.cell SET n = n + 1 WHERE id IN (?, ?)";
                Outcome::of(session.exec_drop(sql, ids).await)
            }
            2 => in_transaction(session, ids, "COMMIT").await,
            _ => in_transaction(session, ids, "ROLLBACK").await,
        };
        match &outcome {
            Outcome::Done => self.seen_own = pair.done.fetch_add(1, Ordering::SeqCst) + 1,
            Outcome::Nothing(_) => {
                pair.begun.fetch_sub(1, Ordering::SeqCst);
            }
            Outcome::InDoubt(_) => {}
        }
        if let Outcome::Nothing(Some(error)) | Outcome::InDoubt(error) = &outcome {
            self.failed(error);
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), String> {
        let at = self.dice.random_range(0..self.world.pairs.len());
        let (world, way, promise, own) =
            (Arc::clone(&self.world), self.dice.random_range(0..3), self.promise, self.own);
        let pair = &world.pairs[at];
        let Some(session) = self.session().await else { return Ok(()) };
        let done = pair.done.load(Ordering::SeqCst);
        let ids = (2 * at, 2 * at + 1);
        let read = match way {
            0 => session.query(format!("SELECT n FROM d.cell WHERE id IN ({}, {})", ids.0, ids.1)).await,
            1 => session.exec("SELECT n FROM d.cell WHERE id IN (?, ?)", ids).await,
            _ => read_twice(session, ids).await,
        };
        let begun = pair.begun.load(Ordering::SeqCst);
        let rows: Vec<u64> = match read {
            Ok(rows) => rows,
            Err(error) => {
                self.failed(&error);
                return Ok(());
            }
        };
        self.reads += 1;
        let least = match promise {
            Promise::All => done,
            Promise::Own if own == Some(at) => self.seen_own,
            Promise::Own => 0,
        };
        let told =
            || format!("pair {at} reads {rows:?}, {least} to {begun} were promised ({promise:?}, way {way})");
        let whole = rows.len() >= 2 && rows.iter().all(|n| *n == rows[0]);
        if whole && (least..=begun).contains(&rows[0]) { Ok(()) } else { Err(told()) }
    }
}

impl Outcome {
    /// Of a statement of its own.
    fn of(answer: Result<(), Error>) -> Self {
        match answer {
            Ok(()) => Self::Done,
            // ER_CONNECT_TO_FOREIGN_DATA_SOURCE: the proxy found no primary. ER_OPTION_PREVENTS_STATEMENT: it is read-only.
            Err(Error::Server(error)) if matches!(error.code, 1429 | 1290) => {
                Self::Nothing(Some(Error::Server(error)))
            }
            Err(error) => Self::InDoubt(error),
        }
    }
}

async fn in_transaction(session: &mut Conn, ids: (usize, usize), end: &str) -> Outcome {
    for sql in [
        "BEGIN".to_owned(),
        format!("UPDATE d.cell SET n = n + 1 WHERE id = {}", ids.0),
        format!("UPDATE d.cell SET n = n + 1 WHERE id = {}", ids.1),
    ] {
        if let Err(error) = session.query_drop(sql).await {
            // The session may go on, without the transaction.
            let _ = session.query_drop("ROLLBACK").await;
            return Outcome::Nothing(Some(error));
        }
    }
    let ended = session.query_drop(end).await;
    if end == "ROLLBACK" { Outcome::Nothing(ended.err()) } else { Outcome::of(ended) }
}

/// In one snapshot.
async fn read_twice(session: &mut Conn, ids: (usize, usize)) -> Result<Vec<u64>, Error> {
    session.query_drop("START TRANSACTION READ ONLY").await?;
    let mut rows: Vec<u64> = session.query(format!("SELECT n FROM d.cell WHERE id = {}", ids.0)).await?;
    sleep(Duration::from_millis(3)).await;
    rows.extend(session.query::<u64, _>(format!("SELECT n FROM d.cell WHERE id = {}", ids.1)).await?);
    session.query_drop("COMMIT").await?;
    Ok(rows)
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::ReplicaDies,
        Self::ReplicaHangs,
        Self::ReplicaLags,
        Self::PrimaryDies,
        Self::PrimaryRestarts,
        Self::PrimaryHangs,
        Self::PrimaryRefusesWrites,
        Self::ConnectionIsKilled,
    ];

    /// Comes, stays for a while, and goes.
    async fn happen(self, cluster: &Cluster, dice: &mut StdRng) {
        let replica = dice.random_range(1..cluster.servers().len());
        let a_while = Duration::from_millis(dice.random_range(100..1500));
        match self {
            Self::ReplicaDies => {
                cluster.server(replica).kill().await;
                sleep(a_while).await;
                cluster.server(replica).start_again().await.expect("it starts");
                cluster.replicate(replica).await;
            }
            Self::PrimaryDies | Self::PrimaryRestarts => {
                match self {
                    Self::PrimaryDies => cluster.server(0).kill().await,
                    _ => cluster.server(0).stop().await,
                }
                sleep(a_while).await;
                cluster.server(0).start_again().await.expect("it starts");
            }
            Self::ReplicaHangs | Self::PrimaryHangs => {
                let server = cluster.server(if matches!(self, Self::PrimaryHangs) { 0 } else { replica });
                server.freeze();
                sleep(a_while).await;
                server.thaw();
            }
            Self::ReplicaLags => {
                let mut server = cluster.connect(replica, ROOT).await;
                server.query_drop("STOP REPLICA SQL_THREAD").await.expect("root may");
                sleep(a_while).await;
                server.query_drop("START REPLICA SQL_THREAD").await.expect("root may");
            }
            Self::ReplicaStandsStill => {
                let mut server = cluster.connect(replica, ROOT).await;
                server.query_drop("FLUSH TABLES WITH READ LOCK").await.expect("root may");
                sleep(a_while).await;
                server.query_drop("UNLOCK TABLES").await.expect("root may");
            }
            Self::PrimaryRefusesWrites => {
                let mut server = cluster.connect(0, ROOT).await;
                server.query_drop("SET GLOBAL super_read_only=ON").await.expect("root may");
                sleep(a_while).await;
                server.query_drop("SET GLOBAL read_only=OFF").await.expect("root may");
            }
            Self::ConnectionIsKilled => {
                let mut server = cluster.connect(dice.random_range(0..cluster.servers().len()), ROOT).await;
                let of_clients = "SELECT id FROM performance_schema.processlist WHERE user = 'app' ORDER BY RAND() LIMIT 2";
                let ids: Vec<u64> = server.query(of_clients).await.expect("root may");
                for id in ids {
                    // It may be gone by itself.
                    let _ = server.query_drop(format!("KILL {id}")).await;
                }
            }
        }
    }
}

/// Clients of both proxies, and faults beside them. Err: the first promise that was broken.
#[expect(clippy::disallowed_methods, reason = "each of them is waited for")]
async fn history(
    cluster: &Cluster,
    proxies: &[(u16, Promise)],
    seed: u64,
    lasts: Duration,
    faults: &[Fault],
) -> Result<(), String> {
    let world = Arc::new(World::new());
    let mut clients = Vec::new();
    for (at, &(port, promise)) in proxies.iter().cycle().take(2 * WRITERS as usize).enumerate() {
        let own = (at < WRITERS as usize).then_some(at);
        clients.push(tokio::spawn(Client::new(port, promise, &world, own, seed + at as u64).run()));
    }
    let mut dice = StdRng::seed_from_u64(seed);
    let end = Instant::now() + lasts;
    while Instant::now() < end && clients.iter().all(|client| !client.is_finished()) {
        sleep(Duration::from_millis(dice.random_range(0..400))).await;
        let fault = *faults.choose(&mut dice).expect("there are some");
        timeout(PATIENCE, fault.happen(cluster, &mut dice))
            .await
            .map_err(|_| format!("{fault:?} has no end"))?;
    }
    // Whatever came last, the clients go on.
    let goals: Vec<u64> = world.pairs.iter().map(|pair| pair.done.load(Ordering::SeqCst) + 3).collect();
    let patience = Instant::now() + PATIENCE;
    while clients.iter().all(|client| !client.is_finished())
        && world.pairs.iter().zip(&goals).any(|(pair, goal)| pair.done.load(Ordering::SeqCst) < *goal)
    {
        if Instant::now() > patience {
            return Err("writers are stuck".to_owned());
        }
        sleep(Duration::from_millis(20)).await;
    }
    world.over.store(true, Ordering::SeqCst);
    let (mut reads, mut errors) = (0, 0);
    for client in clients {
        let client = client.await.expect("a client does not panic")?;
        (reads, errors) = (reads + client.reads, errors + client.errors);
    }
    let mut primary = cluster.connect(0, ROOT).await;
    let rows: Vec<u64> = primary.query("SELECT n FROM d.cell ORDER BY id").await.expect("root may");
    for (at, pair) in world.pairs.iter().enumerate() {
        let (done, begun) = (pair.done.load(Ordering::SeqCst), pair.begun.load(Ordering::SeqCst));
        if rows[2 * at] != rows[2 * at + 1] || !(done..=begun).contains(&rows[2 * at]) {
            return Err(format!("pair {at} ends with {rows:?}: {done} were acknowledged, {begun} begun"));
        }
    }
    let done: u64 = world.pairs.iter().map(|pair| pair.done.load(Ordering::SeqCst)).sum();
    println!("{done} writes acknowledged, {reads} reads held against them, {errors} errors told");
    Ok(())
}

#[test]
fn what_is_promised_is_kept_whatever_fails() {
    support::run(async {
        let number = |name: &str, usual: u64| {
            std::env::var(name).ok().map_or(usual, |value| value.parse().expect("a number"))
        };
        let (seed, lasts) = (
            number("READWRIGHT_HISTORY_SEED", 1),
            Duration::from_secs(number("READWRIGHT_HISTORY_SECONDS", 15)),
        );
        let cluster = Cluster::start(2).await;
        cluster.script(SCENE).await;
        let own = Proxy::start(&cluster, CONFIGURATION).await;
        let all = Proxy::start(&cluster, &format!("{CONFIGURATION}\nrouting: {{consistency: global}}")).await;
        let proxies = [(own.port(), Promise::Own), (all.port(), Promise::All)];
        println!("seed {seed}");
        history(&cluster, &proxies, seed, lasts, &Fault::ALL)
            .await
            .unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    });
}

/// The clients of the test above would tell: `eventual` promises less.
#[test]
fn a_stale_read_is_found() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        cluster.script(SCENE).await;
        let proxy =
            Proxy::start(&cluster, &format!("{CONFIGURATION}\nrouting: {{consistency: eventual}}")).await;
        let proxies = [(proxy.port(), Promise::Own)];
        let lasts = Duration::from_secs(180);
        let broken = history(&cluster, &proxies, 1, lasts, &[Fault::ReplicaStandsStill]).await;
        let broken = broken.expect_err("a replica that applies nothing has old rows");
        assert!(broken.contains("were promised"), "{broken}");
    });
}
