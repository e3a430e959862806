//! The task around [`merge`]: what wakes it, with the clock paused.

use std::time::Duration;

use super::*;
use crate::model::health::{Replication, Up};
use crate::model::server::Role;
use crate::model::version::Version;

fn endpoint(name: &str, host: &str) -> Endpoint {
    Endpoint {
        id: ServerId::new(name),
        address: Address { host: Arc::from(host), port: 3306 },
        name: Address { host: Arc::from(name), port: 3306 },
        zone: None,
        node: None,
        ready: true,
        uid: None,
        terminating: false,
        role: if name == "mysql-0" { Role::Primary } else { Role::Replica },
    }
}

fn report(name: &str, host: &str, up: bool) -> Report {
    let replication = if name == "mysql-0" {
        Replication::None
    } else {
        Replication::Running { lag: Duration::ZERO, silence: Duration::ZERO }
    };
    let health = if up {
        Health::Up(Up {
            version: Version::mysql(9, 7, 4),
            uuid: Arc::from(name),
            server_id: 1,
            read_only: name != "mysql-0",
            super_read_only: name != "mysql-0",
            gtids: true,
            sessions: crate::model::health::SessionDefaults::default(),
            cluster: None,
            executed: Arc::default(),
            waited: Arc::default(),
            replication,
        })
    } else {
        Health::Down("no answer".into())
    };
    Report { id: ServerId::new(name), address: Address { host: Arc::from(host), port: 3306 }, health }
}

struct Running {
    endpoints: watch::Sender<Arc<[Endpoint]>>,
    appointments: watch::Sender<Appointment>,
    reports: mpsc::Sender<Report>,
    snapshots: watch::Receiver<Arc<Topology>>,
    stop: CancellationToken,
    task: tokio::task::JoinSet<()>,
}

impl Running {
    fn start() -> Self {
        let (endpoints, known) =
            watch::channel(Arc::from([endpoint("mysql-0", "a"), endpoint("mysql-1", "b")]));
        let (reports, received) = mpsc::channel(8);
        let (sender, snapshots) = watch::channel(Arc::default());
        let (appointments, appointed) = watch::channel(Appointment::default());
        let stop = CancellationToken::new();
        let policy = Policy {
            max_lag: Duration::from_secs(10),
            damping: Duration::from_secs(5),
            zone: None,
            needs_gtids: true,
        };
        let mut task = tokio::task::JoinSet::new();
        task.spawn(run(policy, known, appointed, received, sender, stop.clone()));
        Self { endpoints, appointments, reports, snapshots, stop, task }
    }

    async fn tell(&self, report: Report) {
        self.reports.send(report).await.expect("the task runs");
    }

    /// Waits until the snapshot has so many readers, and says whether there is a primary.
    async fn readers(&mut self, count: usize) -> bool {
        let topology = self.snapshots.wait_for(|topology| topology.readers.len() == count);
        topology.await.expect("the task runs").primary.is_some()
    }
}

#[tokio::test(start_paused = true)]
async fn reports_make_snapshots_and_damping_ends_by_itself() {
    let mut running = Running::start();
    running.tell(report("mysql-0", "a", true)).await;
    running.tell(report("mysql-1", "b", true)).await;
    assert!(running.readers(1).await);
    running.tell(report("mysql-1", "b", false)).await;
    assert!(running.readers(0).await);
    let left = Instant::now();
    running.tell(report("mysql-1", "b", true)).await;
    assert!(running.readers(1).await);
    assert_eq!((Instant::now() - left).as_secs(), 5);
    running.stop.cancel();
    while running.task.join_next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_server_that_moved_is_not_judged_by_what_it_was() {
    let mut running = Running::start();
    running.tell(report("mysql-0", "a", true)).await;
    running.tell(report("mysql-1", "b", true)).await;
    assert!(running.readers(1).await);
    running.endpoints.send_replace(Arc::from([endpoint("mysql-0", "a"), endpoint("mysql-1", "c")]));
    assert!(running.readers(0).await);
    running.tell(report("mysql-1", "b", true)).await;
    running.tell(report("mysql-1", "c", true)).await;
    assert!(running.readers(1).await);
}

#[tokio::test(start_paused = true)]
async fn an_appointment_makes_a_snapshot_at_once() {
    let mut running = Running::start();
    running.tell(report("mysql-0", "a", true)).await;
    running.tell(report("mysql-1", "b", true)).await;
    assert!(running.readers(1).await);
    let before = running.snapshots.borrow().writer().expect("a primary").epoch();
    running.appointments.send_replace(Appointment { handover: true, ..Appointment::default() });
    let held =
        running.snapshots.wait_for(|topology| topology.primary.is_none()).await.expect("the task runs");
    assert!(held.epoch > before);
}
