//! Probes every known server, each in a task of its own over one connection, and reports what it learns. Decides when a
//! server counts as down, and nothing else.

mod lag;
pub(crate) mod routines;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Monitor as Settings;
use crate::dba::{self, Login, Probe, Session};
use crate::model::access::{Credential, ServerTls};
use crate::model::health::{Health, Report, Up};
use crate::model::server::{Address, Endpoint, ServerId};

/// As whom the servers are asked.
#[derive(Clone, Debug)]
pub(crate) struct Prober {
    pub(crate) account: watch::Receiver<Credential>,
    pub(crate) tls: ServerTls,
}

/// Asks for a probe at once, because a connection failed. Cheap to clone; asking too often does no harm.
#[derive(Clone, Debug)]
pub(crate) struct ProbeNow(mpsc::Sender<ServerId>);

/// The other end of [`ProbeNow`], for [`run`].
#[derive(Debug)]
pub(crate) struct ProbeRequests(mpsc::Receiver<ServerId>);

impl ProbeNow {
    pub(crate) fn channel() -> (Self, ProbeRequests) {
        // When it is full, probes are on their way already.
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), ProbeRequests(receiver))
    }

    pub(crate) fn probe(&self, id: &ServerId) {
        let _ = self.0.try_send(id.clone());
    }
}

/// Probes the servers that `endpoints` names, until `stop`.
pub(crate) async fn run(
    endpoints: watch::Receiver<Arc<[Endpoint]>>,
    settings: Settings,
    prober: Prober,
    reports: mpsc::Sender<Report>,
    requests: ProbeRequests,
    stop: CancellationToken,
) {
    let deadline = settings.timeout;
    let connect = move |address: &Address| Connection {
        address: address.clone(),
        prober: prober.clone(),
        deadline,
        session: None,
    };
    run_with(connect, endpoints, &settings.clone(), reports, requests, stop).await;
}

/// Where probes come from: a server, or a script in a test.
trait Ask: Send + 'static {
    fn ask(&mut self) -> impl Future<Output = Result<Probe, dba::Error>> + Send;
}

struct Connection {
    address: Address,
    prober: Prober,
    deadline: Duration,
    session: Option<Session>,
}

impl Ask for Connection {
    async fn ask(&mut self) -> Result<Probe, dba::Error> {
        let mut session = match self.session.take().filter(Session::usable) {
            Some(session) => session,
            None => {
                let credential = self.prober.account.borrow().clone();
                let login = Login::new(credential, &self.prober.tls, self.deadline);
                Session::open_for_probes(&self.address, &login).await?
            }
        };
        let probe = dba::probe(&mut session).await?;
        self.session = Some(session);
        Ok(probe)
    }
}

/// One server under watch.
struct Watched {
    address: Address,
    wake: Arc<Notify>,
    stop: CancellationToken,
}

async fn run_with<A: Ask>(
    connect: impl Fn(&Address) -> A,
    mut endpoints: watch::Receiver<Arc<[Endpoint]>>,
    settings: &Settings,
    reports: mpsc::Sender<Report>,
    mut requests: ProbeRequests,
    stop: CancellationToken,
) {
    let clocks = Arc::new(Mutex::new(lag::Clocks::default()));
    let mut watched: HashMap<ServerId, Watched> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let known = Arc::clone(&endpoints.borrow_and_update());
        watched.retain(|id, server| {
            let stays = known.iter().any(|e| e.id == *id && e.address == server.address);
            if !stays {
                server.stop.cancel();
            }
            stays
        });
        for endpoint in known.iter() {
            watched.entry(endpoint.id.clone()).or_insert_with(|| {
                let server = Watched {
                    address: endpoint.address.clone(),
                    wake: Arc::new(Notify::new()),
                    stop: stop.child_token(),
                };
                let watch = Watch {
                    id: endpoint.id.clone(),
                    address: endpoint.address.clone(),
                    settings: settings.clone(),
                    clocks: Arc::clone(&clocks),
                    wake: Arc::clone(&server.wake),
                };
                let run = watch.run(connect(&endpoint.address), reports.clone());
                let cancelled = server.stop.clone().cancelled_owned();
                tasks.spawn(async move {
                    tokio::select! {
                        () = run => {}
                        () = cancelled => {}
                    }
                });
                server
            });
        }
        tokio::select! {
            changed = endpoints.changed() => if changed.is_err() { break },
            Some(id) = requests.0.recv() => {
                if let Some(server) = watched.get(&id) {
                    server.wake.notify_one();
                }
            }
            Some(_) = tasks.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    tasks.shutdown().await;
}

struct Watch {
    id: ServerId,
    address: Address,
    settings: Settings,
    clocks: Arc<Mutex<lag::Clocks>>,
    wake: Arc<Notify>,
}

impl Watch {
    async fn run(self, mut server: impl Ask, reports: mpsc::Sender<Report>) {
        let mut verdict = Verdict::new(self.settings.failures);
        loop {
            let began = wall_clock();
            let outcome = server.ask().await.map(|probe| self.health(&probe, began));
            let health = verdict.judge(outcome);
            let pause = verdict.pause(self.settings.interval);
            if let Some(health) = health {
                let report = Report { id: self.id.clone(), address: self.address.clone(), health };
                if reports.send(report).await.is_err() {
                    return;
                }
            }
            // Either way it is time for the next probe.
            let _ = timeout(pause, self.wake.notified()).await;
        }
    }

    fn health(&self, probe: &Probe, began: u64) -> Up {
        let ours = began.midpoint(wall_clock());
        let mut clocks = self.clocks.lock();
        clocks.note(&probe.uuid, probe.clock, ours);
        Up {
            version: probe.version,
            uuid: Arc::clone(&probe.uuid),
            server_id: probe.server_id,
            read_only: probe.read_only,
            super_read_only: probe.super_read_only,
            cluster: probe.cluster.clone(),
            gtids: probe.gtid_mode,
            sessions: probe.sessions,
            executed: Arc::new(probe.executed.clone()),
            waited: Arc::default(),
            replication: lag::replication(probe, &clocks),
        }
    }
}

/// Turns outcomes of probes into health. One failure is no news while the server was up: the last word stands until
/// `limit` probes failed in a row. A refusal is certain at once.
struct Verdict {
    limit: u32,
    failures: u32,
    up: bool,
}

impl Verdict {
    fn new(limit: u32) -> Self {
        Self { limit: limit.max(1), failures: 0, up: false }
    }

    /// None when there is nothing new to say.
    fn judge(&mut self, outcome: Result<Up, dba::Error>) -> Option<Health> {
        match outcome {
            Ok(up) => {
                (self.failures, self.up) = (0, true);
                Some(Health::Up(up))
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if self.up && error.no_answer() && self.failures < self.limit {
                    return None;
                }
                self.up = false;
                Some(Health::Down(Arc::from(error.to_string())))
            }
        }
    }

    /// A doubt is settled sooner than the next round.
    fn pause(&self, interval: Duration) -> Duration {
        if self.up && self.failures > 0 { (interval / 4).max(SHORTEST_PAUSE) } else { interval }
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// Microseconds since 1970.
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gtid::GtidSet;
    use crate::model::health::SessionDefaults;
    use crate::model::server::Role;
    use crate::model::version::Version;
    use tokio::time::Instant;

    /// Answers by a script; the last word is repeated.
    struct Script(std::vec::IntoIter<bool>, bool);

    impl Ask for Script {
        async fn ask(&mut self) -> Result<Probe, dba::Error> {
            self.1 = self.0.next().unwrap_or(self.1);
            if self.1 {
                return Ok(probe());
            }
            Err(dba::Error::Timeout("db:1".parse().expect("an address"), Duration::from_secs(1)))
        }
    }

    fn probe() -> Probe {
        Probe {
            version: Version::mysql(9, 7, 4),
            uuid: Arc::from("u"),
            server_id: 1,
            read_only: false,
            super_read_only: false,
            gtid_mode: true,
            sessions: SessionDefaults::default(),
            executed: GtidSet::default(),
            purged: GtidSet::default(),
            clock: 0,
            channel: None,
            channels: 0,
            cluster: None,
        }
    }

    fn endpoint(address: &str) -> Endpoint {
        Endpoint {
            id: ServerId::new("mysql-0"),
            address: address.parse().expect("an address"),
            name: address.parse().expect("an address"),
            zone: None,
            node: None,
            ready: true,
            uid: None,
            terminating: false,
            role: Role::Primary,
        }
    }

    fn settings() -> Settings {
        Settings {
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            failures: 3,
            damping: Duration::from_secs(5),
        }
    }

    /// The reports as (up, milliseconds since the start).
    async fn check(script: &[bool], ask_at: Option<u64>, expected: &[(bool, u64)]) {
        let (_endpoints, receiver) = watch::channel(Arc::from([endpoint("db:1")]));
        let (reports, mut received) = mpsc::channel(8);
        let (now, requests) = ProbeNow::channel();
        let stop = CancellationToken::new();
        let script = script.to_vec();
        let start = Instant::now();
        let settings = settings();
        let connect = move |_: &Address| Script(script.clone().into_iter(), true);
        let run = run_with(connect, receiver, &settings, reports, requests, stop.clone());
        let read = async {
            let mut seen = Vec::new();
            while seen.len() < expected.len() {
                let report = tokio::select! {
                    report = received.recv() => report.expect("the monitor runs"),
                    () = async {
                        match ask_at {
                            Some(at) => tokio::time::sleep_until(start + Duration::from_millis(at)).await,
                            None => std::future::pending().await,
                        }
                    }, if ask_at.is_some_and(|at| start + Duration::from_millis(at) > Instant::now()) => {
                        now.probe(&ServerId::new("mysql-0"));
                        continue;
                    }
                };
                let at = u64::try_from((Instant::now() - start).as_millis()).expect("a short test");
                seen.push((report.health.up().is_some(), at));
            }
            stop.cancel();
            seen
        };
        let ((), seen) = tokio::join!(run, read);
        assert_eq!(seen, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_probed_every_interval() {
        check(&[true], None, &[(true, 0), (true, 2000), (true, 4000)]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_failure_is_no_news_and_three_are() {
        check(&[true, false, true], None, &[(true, 0), (true, 2500)]).await;
        check(&[true, false, false, false, true], None, &[(true, 0), (false, 3000), (true, 5000)]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answered_is_down_at_once() {
        check(&[false, true], None, &[(false, 0), (true, 2000)]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_answered_at_once() {
        check(&[true], Some(300), &[(true, 0), (true, 300), (true, 2300)]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_moved_is_asked_at_its_new_address() {
        let (endpoints, receiver) = watch::channel(Arc::from([endpoint("db:1")]));
        let (reports, mut received) = mpsc::channel(8);
        let (_now, requests) = ProbeNow::channel();
        let stop = CancellationToken::new();
        let settings = settings();
        let connect = |_: &Address| Script(Vec::new().into_iter(), true);
        let run = run_with(connect, receiver, &settings, reports, requests, stop.clone());
        let read = async {
            let mut addresses = vec![received.recv().await.expect("a report").address];
            endpoints.send_replace(Arc::from([endpoint("db:2")]));
            addresses.push(received.recv().await.expect("a report").address);
            stop.cancel();
            addresses
        };
        let ((), addresses) = tokio::join!(run, read);
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["db:1", "db:2"]);
    }
}
