//! `readwright demo`: starts the servers, lets the controller bring them up, starts the proxy in front of them, and shows
//! what happens until it is told to stop.

use std::future::Future;
use std::num::NonZeroU32;
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
use crate::model::appointment::Appointment;
use crate::model::leadership::Mandate;
use crate::model::progress::Progress;
use crate::model::wishes::Wishes;
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
    let mut controlled = Controlled::start(&demo, arguments.clone_bandwidth_mib)?;
    let outcome = async {
        if interrupted.or(controlled.serving(&mut screen)).await?.is_none() {
            return Ok(());
        }
        let appointments = controlled.appointments.clone();
        serve(arguments, &mut demo, appointments, control, &interrupted, &mut screen).await
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
    appointments: watch::Receiver<Appointment>,
    control: Handle,
    interrupted: &Interrupts,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let config = demo.config().map_err(Failure::Configuration)?;
    let server = Server::bind(config).await.map_err(failed)?.appointed_by(appointments);
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
struct Kept {
    memory: Memory,
    appointments: watch::Sender<Appointment>,
}

impl Store for Kept {
    async fn save(&mut self, record: &Record) -> Result<(), SaveError> {
        self.memory.set_record(record.to_text()).map_err(|error| SaveError(error.to_string()))?;
        self.appointments.send_replace(record.appointment());
        Ok(())
    }
}

/// The controller at work on the demo's servers.
struct Controlled {
    progress: watch::Receiver<Arc<Progress>>,
    /// Whom the record names; the proxy follows it.
    appointments: watch::Receiver<Appointment>,
    #[cfg(test)]
    memory: Memory,
    #[cfg_attr(not(test), expect(dead_code, reason = "keeps the channel; nobody wishes anything yet"))]
    wishes: watch::Sender<Wishes>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Controlled {
    /// `clone_bandwidth` is in MiB/s.
    fn start(demo: &Demo, clone_bandwidth: Option<NonZeroU32>) -> Result<Self, Failure> {
        let record = match demo.memory().record() {
            None => Record::default(),
            Some(text) => Record::from_text(&text).map_err(|error| Failure::Failed(error.to_string()))?,
        };
        let accounts = demo.accounts();
        let logins = Logins {
            ours: accounts.ours.clone().into(),
            installation: Some(demo.root().into()),
            tls: demo::tls(),
            mandate: Mandate::Unlimited,
        };
        let settings = controller::Settings {
            tools: Tools { logins, accounts, deadline: Duration::from_secs(30), clone_bandwidth },
            interval: Duration::from_millis(500),
            look_deadline: Duration::from_secs(2),
            diverged: Diverged::Hold,
            claims: watch::channel(Arc::from([])).1,
            fresh_cluster: Arc::from(demo::random_uuid()),
            troubles: watch::channel(Vec::new()).1,
        };
        let (sender, progress) = watch::channel(Arc::default());
        let (known, endpoints) = watch::channel(demo.endpoints());
        let (wishes, wanted) = watch::channel(Wishes::default());
        let stop = CancellationToken::new();
        let (sender_of_appointments, appointments) = watch::channel(record.appointment());
        let store = Kept { memory: demo.memory().clone(), appointments: sender_of_appointments };
        let (mut tasks, stopped) = (JoinSet::new(), stop.clone());
        tasks.spawn(async move {
            let run = controller::run(settings, endpoints, wanted, record, store, &sender, stopped);
            if let Err(error) = run.await {
                tracing::error!(%error, "the controller has ended; start the demo again");
            }
            drop(known);
        });
        Ok(Self {
            progress,
            appointments,
            #[cfg(test)]
            memory: demo.memory().clone(),
            wishes,
            tasks,
            stop,
        })
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

    #[cfg(test)]
    fn record(&self) -> Record {
        let text = self.memory.record();
        text.map_or_else(Record::default, |text| Record::from_text(&text).expect("we wrote it"))
    }

    async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod repairs;
#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    use parking_lot::Mutex;

    use crate::controller::passwords::Passwords;
    use crate::dba::{self, AccountPlan, Answer, Session};
    use crate::model::access::{Account, Credential, Secret};
    use crate::model::wishes::Wish;

    pub(super) const LONG: Duration = Duration::from_secs(180);
    const PROMPT: Duration = Duration::from_secs(120);

    pub(super) async fn start(name: &str, replicas: u32) -> Demo {
        let folder = std::env::temp_dir().join(format!("readwright-{name}-{}", std::process::id()));
        let options =
            Options { folder: Some(folder), fresh: true, replicas, port: None, after: AfterDeath::Remove };
        Demo::start(&options).await.expect("servers start")
    }

    pub(super) async fn ask(demo: &Demo, server: usize, sql: &str) -> String {
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

    /// Waits until a server answers like this.
    pub(super) async fn answers(demo: &Demo, server: usize, sql: &str, expected: &str) {
        let began = Instant::now();
        loop {
            let answer = ask(demo, server, sql).await;
            if answer == expected {
                return;
            }
            assert!(began.elapsed() < LONG, "{sql}: {answer}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the controller says this of the servers, in order.
    pub(super) async fn reach(controlled: &mut Controlled, states: &str) {
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
        let mut controlled = Controlled::start(&demo, None).expect("nothing on record");
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
        answers(&demo, 1, "SELECT @@super_read_only", "1").await;
        answers(&demo, 2, "SELECT COUNT(*) FROM demo.t", "1").await;
        reach(&mut controlled, "Primary Serving Serving").await;

        // The primary crashes: it comes back read-only, and takes writes again.
        demo.servers()[0].kill().await;
        reach(&mut controlled, "Unreachable Serving Serving").await;
        demo.servers()[0].start_again().await.expect("it starts");
        reach(&mut controlled, "Primary Serving Serving").await;
        assert_eq!(ask(&demo, 0, "SELECT @@read_only").await, "0");

        // A replica loses its disk, and is copied anew.
        demo.lose(2).await;
        let missed = controlled.progress.wait_for(|progress| !progress.all_serving());
        timeout(LONG, missed).await.expect("in time").expect("the controller runs");
        reach(&mut controlled, "Primary Serving Serving").await;
        assert_eq!(ask(&demo, 2, "SELECT COUNT(*) FROM demo.t").await, "1");

        // The primary loses its disk. Replicas would accept the empty one without any error; nobody may follow it.
        demo.lose(0).await;
        reach(&mut controlled, "PrimaryLost Serving Serving").await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(ask(&demo, 0, "SELECT @@super_read_only").await, "1");
        for server in [1, 2] {
            let receiver = "SELECT SERVICE_STATE FROM performance_schema.replication_connection_status";
            answers(&demo, server, receiver, "OFF").await;
            assert_eq!(ask(&demo, server, "SELECT COUNT(*) FROM demo.t").await, "1");
        }

        controlled.end().await;
        demo.stop().await.expect("it stops");
    }

    /// New passwords reach every server and every channel, and the old ones are good until then.
    #[tokio::test(flavor = "multi_thread")]
    async fn passwords_change_while_servers_serve() {
        let demo = start("passwords", 1).await;
        let mut controlled = Controlled::start(&demo, None).expect("nothing on record");
        reach(&mut controlled, "Primary Serving").await;
        let old = demo.accounts();
        let new = |account: &Account| Account {
            user: account.user.clone(),
            password: Secret::new(format!("new {}", account.user)),
        };
        let probes = Account { user: "probes".to_owned(), password: Secret::new("p".to_owned()) };
        let accounts = AccountPlan {
            ours: new(&old.ours),
            replication: new(&old.replication),
            probes: Some(probes),
            application: None,
        };
        let ours = Credential { account: accounts.ours.clone(), before: Some(old.ours.password.clone()) };
        let logins = Logins { ours, installation: None, tls: demo::tls(), mandate: Mandate::Unlimited };
        let tools = Tools {
            logins,
            accounts: accounts.clone(),
            deadline: Duration::from_secs(30),
            clone_bandwidth: None,
        };
        let (_known, endpoints) = watch::channel(demo.endpoints());
        let (sender, problems) = watch::channel(Vec::new());
        let (progress, keep_old) = (controlled.progress.clone(), Duration::ZERO);
        let passwords = Passwords { tools, endpoints, progress, problems: sender, keep_old };
        let mut work = JoinSet::new();
        work.spawn(async move { match passwords.run().await {} });

        let logs_in = async |server: usize, account: &Account| {
            let address = &demo.endpoints()[server].address;
            dba::logs_in(address, account, &demo::tls(), PROMPT).await.expect("it answers")
        };
        let began = Instant::now();
        // The old one goes last.
        while logs_in(0, &old.replication).await || logs_in(1, &old.ours).await {
            assert!(began.elapsed() < LONG, "{:?}", *problems.borrow());
            sleep(Duration::from_millis(100)).await;
        }
        for account in accounts.own() {
            assert!(logs_in(0, account).await && logs_in(1, account).await, "{account:?}");
        }
        let known = "SELECT User_password FROM mysql.slave_master_info";
        assert_eq!(ask(&demo, 1, known).await, accounts.replication.password.reveal());
        let receiver = "SELECT SERVICE_STATE FROM performance_schema.replication_connection_status";
        answers(&demo, 1, receiver, "ON").await;
        assert_eq!(*problems.borrow(), []);

        work.shutdown().await;
        controlled.end().await;
        demo.stop().await.expect("it stops");
    }

    /// Clients at work through the proxy, until told to stop.
    struct Clients {
        tasks: JoinSet<Vec<String>>,
        stop: CancellationToken,
        /// Rows whose transaction was acknowledged.
        acknowledged: Arc<Mutex<Vec<u64>>>,
        longest: Arc<Mutex<Duration>>,
    }

    impl Clients {
        /// Each of `works` is what one client says over and over; `{}` is a new number.
        fn start(demo: &Demo, works: &'static [&'static [&'static str]]) -> Self {
            let (account, schema) = demo.accounts().application.expect("the demo has one");
            let (stop, next) = (CancellationToken::new(), Arc::new(AtomicU64::new(1)));
            let acknowledged: Arc<Mutex<Vec<u64>>> = Arc::default();
            let longest: Arc<Mutex<Duration>> = Arc::default();
            let mut tasks = JoinSet::new();
            for work in works {
                let (login, schema, proxy) = (demo.login(account.clone()), schema.clone(), demo.proxy());
                let (stop, next) = (stop.clone(), Arc::clone(&next));
                let (acknowledged, longest) = (Arc::clone(&acknowledged), Arc::clone(&longest));
                tasks.spawn(async move {
                    let mut errors = Vec::new();
                    let mut session =
                        Session::guest(&proxy, &login, &schema).await.expect("the proxy lets in");
                    while !stop.is_cancelled() && errors.len() < 10 {
                        let (number, began) = (next.fetch_add(1, Ordering::Relaxed), Instant::now());
                        let mut failed = false;
                        for statement in *work {
                            let sql = statement.replace("{}", &number.to_string());
                            if let Err(error) = session.ask(&sql).await {
                                errors.push(format!("{sql}: {error}"));
                                failed = true;
                                break;
                            }
                        }
                        let mut longest = longest.lock();
                        *longest = longest.max(began.elapsed());
                        if !failed && work.iter().any(|statement| statement.starts_with("INSERT")) {
                            acknowledged.lock().push(number);
                        }
                    }
                    errors
                });
            }
            Self { tasks, stop, acknowledged, longest }
        }

        /// Waits until so many more rows are acknowledged, and gives the longest that anybody waited.
        async fn go_on(&self, rows: usize) -> Duration {
            let enough = self.acknowledged.lock().len() + rows;
            let began = Instant::now();
            while self.acknowledged.lock().len() < enough && began.elapsed() < LONG {
                sleep(Duration::from_millis(5)).await;
            }
            assert!(self.acknowledged.lock().len() >= enough, "clients do not get on");
            std::mem::take(&mut *self.longest.lock())
        }

        async fn end(mut self) -> (Vec<u64>, Vec<String>) {
            self.stop.cancel();
            let mut errors = Vec::new();
            while let Some(ended) = self.tasks.join_next().await {
                errors.extend(ended.expect("a client does not panic"));
            }
            (self.acknowledged.lock().clone(), errors)
        }
    }

    /// Wishes for a switchover and waits until it has ended; gives who the primary is then.
    async fn switch(controlled: &mut Controlled, to: Option<&str>, id: &str) -> (String, Option<String>) {
        let wish = Wish { id: id.into(), to: to.map(crate::model::server::ServerId::new), force: false };
        controlled.wishes.send_replace(Wishes { paused: false, switchover: Some(wish) });
        let began = Instant::now();
        loop {
            let record = controlled.record();
            if let Some(ended) = record.ended.filter(|ended| *ended.id == *id) {
                let primary = record.primary.expect("there is one").to_string();
                return (primary, ended.failure.map(|why| why.to_string()));
            }
            assert!(began.elapsed() < PROMPT, "not answered: {:#?}", *controlled.progress.borrow());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Clients write and read while the primary moves, back and forth, and while it cannot.
    #[tokio::test(flavor = "multi_thread")]
    async fn clients_see_no_error_of_a_switchover() {
        let mut demo = start("switchover", 2).await;
        let mut controlled = Controlled::start(&demo, None).expect("nothing on record");
        reach(&mut controlled, "Primary Serving Serving").await;
        ask(&demo, 0, "CREATE TABLE demo.t (id BIGINT PRIMARY KEY)").await;
        let mut config = demo.config().expect("it is right");
        // A busy machine takes longer than applications would like.
        config.routing.primary_wait = LONG;
        config.monitor.timeout = PROMPT;
        let server =
            Server::bind(config).await.expect("it binds").appointed_by(controlled.appointments.clone());
        let (source, stop) = (server.source(), CancellationToken::new());
        let control = ControlThread::start().expect("a thread");
        let mut serving = JoinSet::new();
        let (handle, stopped) = (control.handle.clone(), stop.clone());
        serving.spawn(async move { server.run(handle, stopped).await });
        ready(&source, 2).await.map_err(|failure| format!("{failure:?}")).expect("it is ready");

        const WORKS: &[&[&str]] = &[
            &["INSERT INTO t VALUES ({})"],
            &["INSERT INTO t VALUES ({})"],
            &["BEGIN", "INSERT INTO t VALUES ({})", "SELECT COUNT(*) FROM t", "COMMIT"],
            &["SET autocommit = 0", "INSERT INTO t VALUES ({})", "COMMIT"],
            &["SELECT COUNT(*) FROM t"],
            &["SELECT MAX(id) FROM t"],
        ];
        let clients = Clients::start(&demo, WORKS);
        clients.go_on(100).await;
        for (to, states) in
            [(1, "Serving Primary Serving"), (2, "Serving Serving Primary"), (0, "Primary Serving Serving")]
        {
            let (name, id) = (format!("mysql-{to}"), format!("to {to}"));
            assert_eq!(switch(&mut controlled, Some(&name), &id).await, (name, None));
            let pause = clients.go_on(100).await;
            println!("to mysql-{to}: nobody waited longer than {} ms", pause.as_millis());
            for server in 0..3 {
                let expected = if server == to { "0" } else { "1" };
                assert_eq!(ask(&demo, server, "SELECT @@read_only").await, expected, "mysql-{server}");
            }
            // The clients' own transactions make any replica a look behind.
            settled(&mut controlled, states).await;
        }

        // A transaction that does not end keeps the primary where it is, and others wait only so long.
        let (account, schema) = demo.accounts().application.expect("the demo has one");
        let mut stuck = Session::guest(&demo.proxy(), &demo.login(account), &schema).await.expect("let in");
        for sql in ["BEGIN", "INSERT INTO t VALUES (0)"] {
            stuck.ask(sql).await.expect("it writes");
        }
        let (primary, failure) = switch(&mut controlled, None, "stuck").await;
        assert_eq!(primary, "mysql-0");
        assert!(failure.as_ref().is_some_and(|why| why.contains("did not end")), "{failure:?}");
        println!("tried in vain: nobody waited longer than {} ms", clients.go_on(100).await.as_millis());
        stuck.ask("COMMIT").await.expect("it may end");

        // One that is open when the switchover begins goes on while others wait, and is seen to have ended.
        for sql in ["BEGIN", "INSERT INTO t VALUES (1000000000000)"] {
            stuck.ask(sql).await.expect("it writes");
        }
        let mut appointments = controlled.appointments.clone();
        let goes_on = async {
            appointments.wait_for(|appointment| appointment.handover).await.expect("the controller runs");
            // Meanwhile the controller sees it open.
            sleep(Duration::from_millis(500)).await;
            for sql in ["INSERT INTO t VALUES (1000000000001)", "SELECT COUNT(*) FROM t", "COMMIT"] {
                stuck.ask(sql).await.expect("nothing of it waits");
            }
        };
        let (switched, ()) = tokio::join!(switch(&mut controlled, Some("mysql-1"), "open"), goes_on);
        assert_eq!(switched, ("mysql-1".to_owned(), None));

        let (acknowledged, errors) = clients.end().await;
        assert!(errors.is_empty(), "{errors:#?}");
        let there = ask(&demo, 1, "SELECT id FROM demo.t").await;
        let there: std::collections::BTreeSet<u64> =
            there.split(' ').map(|id| id.parse().expect("a number")).collect();
        let lost: Vec<&u64> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "{lost:?} of {}", acknowledged.len());

        stop.cancel();
        while serving.join_next().await.is_some() {}
        controlled.end().await;
        demo.stop().await.expect("it stops");
    }

    /// As [`reach`], where replicas may be a moment behind.
    async fn settled(controlled: &mut Controlled, states: &str) {
        let fits = |progress: &Arc<Progress>| {
            let seen = progress.servers.iter().map(|server| server.state.replace("CatchingUp", "Serving"));
            seen.collect::<Vec<_>>().join(" ") == states
        };
        let reached = timeout(LONG, controlled.progress.wait_for(fits)).await.map(|found| found.is_ok());
        assert_eq!(reached, Ok(true), "not {states}: {:#?}", *controlled.progress.borrow());
    }
}
