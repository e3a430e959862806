//! An application at work through the proxy while a scenario goes on: one writer that looks at once for what it wrote, and
//! readers. Counts what an application would complain about: errors, writes that were confirmed and are gone, reads that
//! do not see the session's own write, and how long it had to wait.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::scene::{Scene, connect};

pub(crate) struct Traffic {
    doors: Vec<String>,
    tally: Arc<Mutex<Tally>>,
    stop: CancellationToken,
    work: JoinSet<()>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// By writer, the number of confirmed INSERTs.
    pub(crate) written: BTreeMap<u64, u64>,
    /// Numbers whose INSERT was confirmed.
    pub(crate) confirmed: Vec<u64>,
    /// The outcome is not known: the connection broke after the INSERT was sent.
    pub(crate) unknown: Vec<u64>,
    pub(crate) write_errors: Vec<String>,
    pub(crate) reads: u64,
    pub(crate) read_errors: Vec<String>,
    /// Reads of the writer that did not find what it had written just before.
    pub(crate) stale: u64,
    /// The longest time from one confirmed write to the next.
    pub(crate) longest_pause: Duration,
    /// The same for reads, without the logins between them.
    pub(crate) longest_read_pause: Duration,
    /// The longest time from a reader's first try to log in until it was let in.
    pub(crate) longest_login: Duration,
}

/// The application's account, and the table that it writes to.
pub(crate) struct Application {
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
}

pub(crate) const APPLICATION: Application = Application { user: "app", password: "app-password" };

/// Makes the account and the table.
pub(crate) async fn create_shop(primary: &mut Conn) {
    let Application { user, password } = APPLICATION;
    for statement in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.orders (id BIGINT PRIMARY KEY)",
        &format!("CREATE USER {user} IDENTIFIED BY '{password}'"),
        &format!("GRANT ALL ON shop.* TO {user}"),
    ] {
        primary.query_drop(statement).await.expect("the primary takes writes");
    }
}

impl Traffic {
    /// `doors`: the pods in which Readwright runs, by the beginning of their names. Each of as many `writers` and `readers`
    /// takes one in turn, and goes to the next when it loses its connection.
    pub(crate) fn start(scene: &Scene, doors: &[&str], writers: u64, readers: usize) -> Self {
        let doors: Vec<String> = doors.iter().map(|&door| door.to_owned()).collect();
        let (tally, stop) = (Arc::new(Mutex::new(Tally::default())), CancellationToken::new());
        let mut work = JoinSet::new();
        let client = |number: usize| Client {
            kubelet: Arc::downgrade(&scene.kubelet),
            doors: doors.clone(),
            next: number,
            connection: None,
            begun: Instant::now(),
        };
        for number in 0..writers {
            tally.lock().written.insert(number, 0);
            let writer = client(usize::try_from(number).unwrap_or(0));
            let (tally, stop) = (Arc::clone(&tally), stop.clone());
            work.spawn(async move { write(writer, number, &tally, &stop).await });
        }
        for number in 0..readers {
            let (tally, stop, reader) = (Arc::clone(&tally), stop.clone(), client(number));
            work.spawn(async move { read(reader, &tally, &stop).await });
        }
        Self { doors, tally, stop, work }
    }

    pub(crate) fn so_far(&self) -> Tally {
        self.tally.lock().clone()
    }

    /// Waits until every door sends reads to exactly these replicas for some time.
    pub(crate) async fn reads_go_to(&self, scene: &Scene, expected: &[&str], within: Duration) {
        crate::scene::until(&format!("reads go to {expected:?}"), within, async || {
            let before = self.statements(scene).await?;
            sleep(Duration::from_millis(1500)).await;
            let after = self.statements(scene).await?;
            for (door, now) in &after {
                let then = before.get(door).ok_or("another Readwright is there")?;
                let used: Vec<&str> = now
                    .iter()
                    .filter(|(server, count)| **count > then.get(*server).copied().unwrap_or(0))
                    .map(|(name, _)| &**name)
                    .collect();
                if used != expected {
                    return Err(format!("from {door} they go to {used:?}; {}", self.tally.lock()));
                }
            }
            Ok(())
        })
        .await;
    }

    /// By door and replica, the statements that were sent there.
    async fn statements(&self, scene: &Scene) -> Result<BTreeMap<String, BTreeMap<String, u64>>, String> {
        let mut all = BTreeMap::new();
        for door in scene.kubelet.ready(&self.doors) {
            let status = scene.status(&door).await?;
            let servers = status["servers"].as_array().ok_or("no servers")?;
            let replicas = servers.iter().filter(|server| server["role"] == "replica");
            let count =
                |server: &Value| Some((server["name"].as_str()?.to_owned(), server["statements"].as_u64()?));
            all.insert(door, replicas.filter_map(count).collect());
        }
        match all.is_empty() {
            true => Err("no Readwright is ready".to_owned()),
            false => Ok(all),
        }
    }

    /// Waits until so many more writes of every writer have been confirmed.
    pub(crate) async fn writes(&self, more: u64, within: Duration) {
        let before = self.tally.lock().written.clone();
        crate::scene::until("the application writes", within, async || {
            let tally = self.tally.lock();
            match tally.written.iter().all(|(writer, count)| *count >= before[writer] + more) {
                true => Ok(()),
                false => Err(format!("{:?} after {before:?}; {}", tally.written, *tally)),
            }
        })
        .await;
    }

    /// Ends the clients, and looks on the primary for every confirmed write. Lost ones are a panic.
    pub(crate) async fn finish(mut self, primary: &mut Conn) -> Tally {
        self.stop.cancel();
        while self.work.join_next().await.is_some() {}
        let mut tally = self.tally.lock().clone();
        tally.confirmed.sort_unstable();
        let there: Vec<u64> =
            primary.query("SELECT id FROM shop.orders ORDER BY id").await.expect("the primary answers");
        let lost: Vec<&u64> = tally.confirmed.iter().filter(|id| there.binary_search(id).is_err()).collect();
        assert!(lost.is_empty(), "confirmed and gone: {lost:?}\n{tally}");
        let ours = |id: &&u64| tally.confirmed.binary_search(id).is_err() && !tally.unknown.contains(id);
        let surplus: Vec<&u64> = there.iter().filter(ours).collect();
        assert!(surplus.is_empty(), "refused and yet there: {surplus:?}\n{tally}");
        tally
    }
}

impl Tally {
    /// Nothing that an application would notice but time.
    pub(crate) fn assert_no_errors(&self) {
        assert!(self.write_errors.is_empty() && self.read_errors.is_empty(), "{self}");
        self.assert_fresh();
    }

    fn note(&mut self, id: u64, trouble: Trouble) {
        let (Trouble::Refused(why) | Trouble::Broken(why)) = &trouble;
        self.write_errors.push(why.clone());
        if matches!(trouble, Trouble::Broken(_)) {
            self.unknown.push(id);
        }
    }

    pub(crate) fn assert_fresh(&self) {
        assert_eq!(self.stale, 0, "{self}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |errors: &[String]| errors.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        write!(
            f,
            "{} writes, {} unknown, {} write errors [{}], {} reads, {} read errors [{}], {} stale, \
             longest pause {:.1} s (reads {:.1} s, logins {:.1} s)",
            self.confirmed.len(),
            self.unknown.len(),
            self.write_errors.len(),
            some(&self.write_errors),
            self.reads,
            self.read_errors.len(),
            some(&self.read_errors),
            self.stale,
            self.longest_pause.as_secs_f64(),
            self.longest_read_pause.as_secs_f64(),
            self.longest_login.as_secs_f64(),
        )
    }
}

/// A connection that is made again when it breaks.
struct Client {
    kubelet: std::sync::Weak<crate::kubelet::Kubelet>,
    doors: Vec<String>,
    next: usize,
    connection: Option<(String, Conn)>,
    begun: Instant,
}

impl Client {
    /// The connection and its door, logged in anew if need be.
    async fn connection(&mut self) -> Result<&mut (String, Conn), String> {
        if self.connection.is_none() {
            let kubelet = self.kubelet.upgrade().ok_or("the scene is over")?;
            let doors = kubelet.ready(&self.doors);
            let door = doors.get(self.next % doors.len().max(1)).ok_or("login: no Readwright is ready")?;
            self.next += 1;
            let address = kubelet.address(door).ok_or_else(|| format!("login: {door} is not there"))?;
            drop(kubelet);
            let made =
                connect(SocketAddr::from((address, 3306)), APPLICATION.user, APPLICATION.password).await;
            let made = made.map_err(|why| format!("login at {door}: {why}"))?;
            self.connection = Some((door.clone(), made));
        }
        self.connection.as_mut().ok_or_else(|| "no connection".to_owned())
    }

    /// Runs one statement. After an error that is not the server's word on the statement, the connection is given up.
    async fn ask<T: mysql_async::prelude::FromRow + Send + 'static>(
        &mut self,
        sql: &str,
    ) -> Result<Option<T>, Trouble> {
        let begun = self.begun;
        let (door, connection) = self.connection().await.map_err(Trouble::Refused)?;
        let answer = timeout(PATIENCE, connection.query_first::<T, _>(sql)).await;
        let told = |why: String| format!("{:.1} s, {door}: {why}", begun.elapsed().as_secs_f64());
        let trouble = match answer {
            Ok(Ok(row)) => return Ok(row),
            // ER_SERVER_SHUTDOWN and ER_QUERY_INTERRUPTED come in the middle of a statement, too.
            Ok(Err(mysql_async::Error::Server(error))) if !matches!(error.code, 1053 | 1317) => {
                return Err(Trouble::Refused(told(error.to_string())));
            }
            Ok(Err(error)) => Trouble::Broken(told(error.to_string())),
            Err(_) => Trouble::Broken(told(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        self.connection = None;
        Err(trouble)
    }
}

enum Trouble {
    /// It did not run.
    Refused(String),
    /// It may have run.
    Broken(String),
}

async fn write(mut client: Client, writer: u64, tally: &Mutex<Tally>, stop: &CancellationToken) {
    let mut last = Instant::now();
    for number in 1_u64.. {
        if stop.is_cancelled() {
            return;
        }
        let id = number * WRITERS + writer;
        match client.ask::<u8>(&format!("INSERT INTO shop.orders (id) VALUES ({id})")).await {
            Ok(_) => {
                let mut tally = tally.lock();
                tally.confirmed.push(id);
                *tally.written.entry(writer).or_default() += 1;
                tally.longest_pause = tally.longest_pause.max(last.elapsed());
                last = Instant::now();
            }
            Err(trouble) => {
                tally.lock().note(id, trouble);
                sleep(PACE).await;
                continue;
            }
        }
        match client.ask::<u64>(&format!("SELECT id FROM shop.orders WHERE id = {id}")).await {
            Ok(Some(_)) => {}
            Ok(None) => tally.lock().stale += 1,
            Err(Trouble::Refused(why) | Trouble::Broken(why)) => tally.lock().read_errors.push(why),
        }
        sleep(PACE).await;
    }
}

async fn read(mut client: Client, tally: &Mutex<Tally>, stop: &CancellationToken) {
    let mut last = Instant::now();
    for number in 1_u32.. {
        if stop.is_cancelled() {
            return;
        }
        // A session that never rests keeps the server it has as long as that is not busier than another.
        if number.is_multiple_of(20)
            && let Some((_, connection)) = client.connection.take()
        {
            let _ = connection.disconnect().await;
        }
        if client.connection.is_none() {
            let login = Instant::now();
            let outcome = client.connection().await.map(drop);
            last += login.elapsed();
            {
                let mut tally = tally.lock();
                tally.longest_login = tally.longest_login.max(login.elapsed());
                tally.read_errors.extend(outcome.as_ref().err().cloned());
            }
            if outcome.is_err() {
                sleep(PACE).await;
                continue;
            }
        }
        match client.ask::<u64>("SELECT COUNT(*) FROM shop.orders").await {
            Ok(_) => {
                let mut tally = tally.lock();
                tally.reads += 1;
                tally.longest_read_pause = tally.longest_read_pause.max(last.elapsed());
                last = Instant::now();
            }
            Err(Trouble::Refused(why) | Trouble::Broken(why)) => tally.lock().read_errors.push(why),
        }
        sleep(PACE).await;
    }
}

/// Several servers and clients share two processors: a steady trickle, not a load.
const PACE: Duration = Duration::from_millis(20);
/// At most; their numbers do not meet.
const WRITERS: u64 = 8;
/// Longer than any wait that the proxy promises.
const PATIENCE: Duration = Duration::from_secs(60);
