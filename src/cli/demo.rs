//! `readwright demo`: starts the servers, lets the controller bring them up, starts the proxy in front of them, and shows
//! what happens until it is told to stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::configuration::chain;
use super::{DemoArguments, Failure, output};
use crate::admin::Source;
use crate::config::Diverged;
use crate::controller::{self, Logins, Record, SaveError, Store, Tools};
use crate::demo::mysqld::AfterDeath;
use crate::demo::screen::{Screen, Traffic, progress_lines};
use crate::demo::{self, Demo, Memory, Options, statements};
use crate::model::progress::Progress;
use crate::server::{ControlThread, Server, StartError};
use crate::telemetry::logging;

pub(super) fn run(arguments: &DemoArguments) -> Result<(), Failure> {
    logging::start(&arguments.log, false).map_err(failed)?;
    let control = ControlThread::start().map_err(failed)?;
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    let outcome = runtime.block_on(run_demo(arguments, control.handle.clone()));
    // What a second signal leaves behind must not hold the process up; the servers are ended from outside.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// The whole life of a demo. Whatever happens in it, the servers are stopped at its end.
async fn run_demo(arguments: &DemoArguments, control: Handle) -> Result<(), Failure> {
    let options = Options {
        folder: arguments.data.clone(),
        fresh: arguments.fresh,
        replicas: arguments.replicas,
        port: arguments.port,
        after: AfterDeath::Keep,
    };
    let interrupted = Interrupts::new()?;
    let mut screen = Screen::new();
    screen.say("Starting MySQL servers ...");
    let Some(demo) = interrupted.or(Demo::start(&options)).await? else { return Ok(()) };
    let mut demo = demo.map_err(failed)?;
    screen.say(&format!("Their data is in {}", demo.folder().display()));
    let mut controlled = Controlled::start(&demo)?;
    let outcome = async {
        if interrupted.or(controlled.serving(&mut screen)).await?.is_none() {
            return Ok(());
        }
        serve(arguments, &mut demo, control, &interrupted, &mut screen).await
    }
    .await;
    screen.say("Stopping ...");
    let stopping = async {
        controlled.end().await;
        demo.stop().await.map_err(failed)
    };
    // A second signal does not wait for anything.
    let stopped = interrupted.or(stopping).await?;
    outcome.and(stopped.unwrap_or(Ok(())))
}

/// Runs the proxy in front of the servers, for the statements of `--exec` or until a signal comes.
async fn serve(
    arguments: &DemoArguments,
    demo: &mut Demo,
    control: Handle,
    interrupted: &Interrupts,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let config = demo.config().map_err(Failure::Configuration)?;
    let server = Server::bind(config).await.map_err(failed)?;
    let demo = &*demo;
    let source = server.source();
    let stop = CancellationToken::new();
    let mut serving: JoinSet<Result<(), StartError>> = JoinSet::new();
    let (proxy_control, proxy_stop) = (control, stop.clone());
    serving.spawn(async move { server.run(proxy_control, proxy_stop).await });
    let used = async {
        ready(&source, demo.endpoints().len() - 1).await?;
        match &arguments.exec {
            Some(sql) => execute(demo, sql).await,
            None => {
                output::print(format!("{}\n", demo.client_line()).as_bytes())?;
                watch_traffic(&source, screen).await
            }
        }
    };
    let outcome = tokio::select! {
        outcome = interrupted.or(used) => outcome?.unwrap_or(Ok(())),
        Some(ended) = serving.join_next() => match ended {
            Ok(ended) => ended.map_err(failed),
            Err(error) => Err(failed(error)),
        },
    };
    stop.cancel();
    let drained = async { while serving.join_next().await.is_some() {} };
    interrupted.or(drained).await?;
    outcome
}

/// Waits until the proxy knows the primary and all replicas.
async fn ready(source: &Source, replicas: usize) -> Result<(), Failure> {
    let mut topology = source.topology.clone();
    let complete =
        topology.wait_for(|topology| topology.primary.is_some() && topology.readers.len() == replicas);
    match timeout(Duration::from_secs(30), complete).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            let servers = &source.topology.borrow().servers;
            let excluded = servers
                .iter()
                .find_map(|server| Some(format!("{}: {}", server.id, server.excluded.as_deref()?)));
            let why = excluded.unwrap_or_else(|| "no server is known".to_owned());
            Err(Failure::Failed(format!("the proxy does not see all servers well ({why})")))
        }
    }
}

async fn execute(demo: &Demo, sql: &str) -> Result<(), Failure> {
    let Some((account, schema)) = demo.accounts().application else {
        return Err(Failure::Failed("the demo has no application account".to_owned()));
    };
    let application = demo.login(account);
    let root = demo.login(demo.root());
    let mut text = Vec::new();
    let ran =
        statements::run(sql, &demo.proxy(), (&application, &schema), &demo.endpoints(), &root, &mut text)
            .await;
    output::print(&text)?;
    match ran {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Silent),
        Err(error) => Err(failed(error)),
    }
}

/// Shows where statements go, until the future is dropped.
async fn watch_traffic(source: &Source, screen: &mut Screen) -> Result<(), Failure> {
    screen.say("Paste that line into another terminal. Ctrl-C ends the demo.\n");
    let (mut before, mut at) = (Traffic::read(&source.scrape()), Instant::now());
    loop {
        let now = Traffic::read(&source.scrape());
        // Off a terminal only what changed is worth a line.
        if screen.is_terminal() || now != before {
            screen.draw(now.lines(&before, at.elapsed()));
        }
        (before, at) = (now, Instant::now());
        sleep(Duration::from_secs(1)).await;
    }
}

/// SIGINT and SIGTERM. Each ends what is being waited for at that moment.
struct Interrupts(watch::Receiver<u32>, #[expect(dead_code, reason = "ends with this")] JoinSet<()>);

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let (sender, receiver) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(receiver, task))
    }

    /// What `work` gives; None when a signal comes first.
    async fn or<T>(&self, work: impl Future<Output = T>) -> Result<Option<T>, Failure> {
        let mut signals = self.0.clone();
        signals.mark_unchanged();
        tokio::select! {
            done = work => Ok(Some(done)),
            _ = signals.changed() => Ok(None),
        }
    }
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::Failed(chain(&error))
}

/// The controller's record, kept in the demo's own file.
struct Kept(Memory);

impl Store for Kept {
    async fn save(&mut self, record: &Record) -> Result<(), SaveError> {
        self.0.set_record(record.to_text()).map_err(|error| SaveError(error.to_string()))
    }
}

/// The controller at work on the demo's servers.
struct Controlled {
    progress: watch::Receiver<Arc<Progress>>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Controlled {
    fn start(demo: &Demo) -> Result<Self, Failure> {
        let record = match demo.memory().record() {
            None => Record::default(),
            Some(text) => Record::from_text(&text).map_err(|error| Failure::Failed(error.to_string()))?,
        };
        let accounts = demo.accounts();
        let logins =
            Logins { ours: accounts.ours.clone(), installation: Some(demo.root()), tls: demo::tls() };
        let settings = controller::Settings {
            tools: Tools { logins, accounts, deadline: Duration::from_secs(30) },
            interval: Duration::from_millis(500),
            look_deadline: Duration::from_secs(2),
            diverged: Diverged::Hold,
            fresh_cluster: Arc::from(demo::random_uuid()),
        };
        let (sender, progress) = watch::channel(Arc::default());
        let (known, endpoints) = watch::channel(demo.endpoints());
        let stop = CancellationToken::new();
        let store = Kept(demo.memory().clone());
        let mut tasks = JoinSet::new();
        let run = controller::run(settings, endpoints, record, store, sender, stop.clone());
        tasks.spawn(async move {
            run.await;
            drop(known);
        });
        Ok(Self { progress, tasks, stop })
    }

    /// Shows what the controller does until every server serves.
    async fn serving(&mut self, screen: &mut Screen) {
        let began = Instant::now();
        loop {
            let progress = Arc::clone(&self.progress.borrow_and_update());
            let mut lines = progress_lines(&progress);
            if screen.is_terminal() {
                lines.push(format!("  {:.0} s", began.elapsed().as_secs_f64()));
            }
            screen.draw(lines);
            if progress.all_serving() {
                return;
            }
            let _ = timeout(Duration::from_millis(500), self.progress.changed()).await;
        }
    }

    async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dba::{Answer, Session};

    const LONG: Duration = Duration::from_secs(180);

    async fn start(name: &str, replicas: u32) -> Demo {
        let folder = std::env::temp_dir().join(format!("readwright-{name}-{}", std::process::id()));
        let options =
            Options { folder: Some(folder), fresh: true, replicas, port: None, after: AfterDeath::Remove };
        Demo::start(&options).await.expect("servers start")
    }

    async fn ask(demo: &Demo, server: usize, sql: &str) -> String {
        let endpoint = &demo.endpoints()[server];
        let mut session =
            Session::open(&endpoint.address, &demo.login(demo.root())).await.expect("root gets in");
        let answer = session.ask(sql).await;
        session.close().await;
        match answer {
            Ok(Answer::Rows { rows, .. }) => {
                rows.into_iter().flatten().map(|cell| cell.unwrap_or_default()).collect::<Vec<_>>().join(" ")
            }
            Ok(Answer::Done { .. }) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    /// Waits until the controller says this of the servers, in order.
    async fn reach(controlled: &mut Controlled, states: &str) {
        let fits = |progress: &Arc<Progress>| {
            let seen: Vec<&str> = progress.servers.iter().map(|server| server.state).collect();
            seen.join(" ") == states
        };
        let reached = timeout(LONG, controlled.progress.wait_for(fits)).await.map(|found| found.is_ok());
        let last = controlled.progress.borrow().clone();
        assert_eq!(reached, Ok(true), "not {states}: {last:#?}");
    }

    /// From three empty servers to a cluster, and back to one after a server was lost, a crash, and a stop by hand.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_controller_brings_servers_up_and_keeps_them_right() {
        let mut demo = start("controller", 2).await;
        let mut controlled = Controlled::start(&demo).expect("nothing on record");
        reach(&mut controlled, "Primary Serving Serving").await;

        let donor = "SELECT SOURCE FROM performance_schema.clone_status";
        for server in [1, 2] {
            let source = ask(&demo, server, donor).await;
            let before = demo.endpoints()[server - 1].address.to_string();
            assert_eq!(source, before, "each is copied from the one before it");
            assert_eq!(ask(&demo, server, "SELECT @@super_read_only").await, "1");
        }
        ask(&demo, 0, "CREATE TABLE demo.t (id INT PRIMARY KEY)").await;
        ask(&demo, 0, "INSERT INTO demo.t VALUES (1)").await;

        // Whoever stops replication or opens a replica by hand finds it as it was, a moment later.
        ask(&demo, 2, "STOP REPLICA").await;
        ask(&demo, 1, "SET GLOBAL read_only = OFF").await;
        sleep(Duration::from_secs(2)).await;
        reach(&mut controlled, "Primary Serving Serving").await;
        assert_eq!(ask(&demo, 1, "SELECT @@super_read_only").await, "1");
        assert_eq!(ask(&demo, 2, "SELECT COUNT(*) FROM demo.t").await, "1");

        // The primary crashes: it comes back read-only, and takes writes again.
        demo.servers()[0].kill().await;
        reach(&mut controlled, "Unreachable Serving Serving").await;
        demo.servers()[0].start_again().await.expect("it starts");
        reach(&mut controlled, "Primary Serving Serving").await;
        assert_eq!(ask(&demo, 0, "SELECT @@read_only").await, "0");

        // A replica loses its disk, and is copied anew.
        demo.lose(2).await;
        reach(&mut controlled, "Primary Serving Blank").await;
        reach(&mut controlled, "Primary Serving Serving").await;
        assert_eq!(ask(&demo, 2, "SELECT COUNT(*) FROM demo.t").await, "1");

        // The primary loses its disk. Replicas would accept the empty one without any error; nobody may follow it.
        demo.lose(0).await;
        reach(&mut controlled, "PrimaryLost Serving Serving").await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(ask(&demo, 0, "SELECT @@super_read_only").await, "1");
        for server in [1, 2] {
            let receiver = "SELECT SERVICE_STATE FROM performance_schema.replication_connection_status";
            assert_eq!(ask(&demo, server, receiver).await, "OFF");
            assert_eq!(ask(&demo, server, "SELECT COUNT(*) FROM demo.t").await, "1");
        }

        controlled.end().await;
        demo.stop().await.expect("it stops");
    }
}
