//! A real primary and its replicas, replicating by GTID, the way the controller leaves them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::mysqld::{AfterDeath, Home, Installation, Instance, Server, State};

/// `mysql-0` is the primary, the others replicate from it.
pub(crate) struct Cluster {
    servers: Vec<Instance>,
    home: Home,
}

/// A MySQL account that every server of a [`Cluster`] has. All use caching_sha2_password.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
}

/// All rights, for setting scenes up. Logs in to a server, not through a proxy.
pub(crate) const ROOT: Account = Account { user: "root", password: "root-password" };
/// An application.
pub(crate) const APP: Account = Account { user: "app", password: "app-password" };
/// The proxy's own.
pub(crate) const MONITOR: Account = Account { user: "monitor", password: "monitor-password" };
const REPLICATION: Account = Account { user: "replication", password: "replication-password" };

impl Cluster {
    /// The cluster that all tests of a binary share: a primary and two replicas. For tests that change no server's state.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(2)).await
    }

    /// A cluster of the test's own, some seconds. It ends when dropped.
    pub(crate) async fn start(replicas: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("cluster-{}-{count}", std::process::id()));
        let installation = Installation::find().await.expect("there is a MySQL to test with");
        let home = Home::open(installation, folder, AfterDeath::Remove).await.expect("the folder is ours");
        let starts = (0..=replicas).map(|ordinal| home.start(server(ordinal)));
        let servers =
            join_all(starts).await.into_iter().collect::<Result<Vec<_>, _>>().expect("servers start");
        let cluster = Self { servers, home };
        for ordinal in 1..=replicas as usize {
            cluster.replicate(ordinal).await;
        }
        cluster
    }

    /// By ordinal; 0 is the primary.
    pub(crate) fn server(&self, ordinal: usize) -> &Instance {
        &self.servers[ordinal]
    }

    pub(crate) fn servers(&self) -> &[Instance] {
        &self.servers
    }

    /// Where its servers run; further ones may be started there.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Ends all servers and removes the folder, at once rather than when the process ends.
    pub(crate) async fn close(self) {
        drop(self.servers);
        self.home.close().await.expect("the folder is ours");
    }

    /// A folder for files of a test; goes with the cluster.
    pub(crate) fn folder(&self) -> &Path {
        self.home.folder()
    }

    /// A connection to one server, past any proxy.
    pub(crate) async fn connect(&self, ordinal: usize, account: Account) -> Conn {
        connect(self.server(ordinal).port(), account).await.expect("the server accepts this account")
    }

    /// Points a replica at the primary and starts it, which is also needed after a restart of it.
    pub(crate) async fn replicate(&self, ordinal: usize) {
        let mut replica = self.connect(ordinal, ROOT).await;
        for statement in [
            "STOP REPLICA".to_owned(),
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, SOURCE_USER='{}', \
                 SOURCE_PASSWORD='{}', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, \
                 SOURCE_HEARTBEAT_PERIOD=1, SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=86400",
                self.server(0).port(),
                REPLICATION.user,
                REPLICATION.password,
            ),
            "START REPLICA".to_owned(),
            "SET GLOBAL super_read_only=ON".to_owned(),
        ] {
            replica.query_drop(&statement).await.expect("replication can be configured");
        }
    }

    /// Waits until every replica has applied what the primary has committed by now.
    pub(crate) async fn caught_up(&self) {
        let mut primary = self.connect(0, ROOT).await;
        let executed: String =
            primary.query_first("SELECT @@gtid_executed").await.expect("it can be asked").expect("one row");
        for ordinal in 1..self.servers.len() {
            let mut replica = self.connect(ordinal, ROOT).await;
            let overdue: Option<u8> = replica
                .exec_first("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 300)", (&executed,))
                .await
                .expect("it can be asked");
            assert_eq!(overdue, Some(0), "mysql-{ordinal} does not catch up with {executed}");
        }
    }

    /// Runs statements on the primary as the `mysql` client does (DELIMITER and comments included), as root, then waits
    /// for the replicas.
    pub(crate) async fn script(&self, sql: &str) {
        let file = self.folder().join(format!("script-{}.sql", NEXT_SCRIPT.fetch_add(1, Ordering::Relaxed)));
        std::fs::write(&file, sql).expect("the folder is ours");
        let client = self.home.installation().client("mysql").expect("the client comes with the server");
        let run = Command::new(client)
            .args(["--no-defaults", "--protocol=TCP", "--host=127.0.0.1", "--default-character-set=utf8mb4"])
            .arg(format!("--port={}", self.server(0).port()))
            .arg(format!("--user={}", ROOT.user))
            .arg(format!("--password={}", ROOT.password))
            .stdin(std::fs::File::open(&file).expect("just written"))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(Duration::from_secs(300), run).await.expect("in time").expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.caught_up().await;
    }
}

/// Waits until a server that ends by itself, as after CLONE, runs again: no longer as this process.
pub(crate) async fn comes_back(server: &Instance, process: u32) {
    let mut state = server.state();
    let again = state.wait_for(|state| matches!(state, State::Ready(now) if *now != process));
    timeout(Duration::from_secs(300), again).await.expect("in time").expect("it runs");
}

/// The process of a server that accepts connections.
pub(crate) fn process(server: &Instance) -> u32 {
    match *server.state().borrow() {
        State::Ready(process) => process,
        ref other => panic!("{} is {other:?}", server.name()),
    }
}

/// Logs in over TCP without TLS.
pub(crate) async fn connect(port: u16, account: Account) -> Result<Conn, mysql_async::Error> {
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some(account.user))
        .pass(Some(account.password))
        // Else it looks for a Unix socket and prefers that, past a proxy.
        .prefer_socket(false);
    timeout(Duration::from_secs(180), Conn::new(options)).await.expect("a login ends in time")
}

fn server(ordinal: u32) -> Server {
    let create = |account: Account, rights: &str| {
        let Account { user, password } = account;
        format!("CREATE USER '{user}'@'%' IDENTIFIED BY '{password}';\nGRANT {rights} TO '{user}'@'%';\n")
    };
    let first_statements = [
        // The same accounts everywhere, and no transaction of a server's own.
        "SET sql_log_bin=0;\n".to_owned(),
        format!("ALTER USER 'root'@'localhost' IDENTIFIED BY '{}';\n", ROOT.password),
        create(APP, "ALL ON *.*"),
        create(MONITOR, "REPLICATION CLIENT, PROCESS, SELECT, SHOW VIEW, TRIGGER ON *.*"),
        create(REPLICATION, "REPLICATION SLAVE ON *.*"),
    ];
    Server {
        name: format!("mysql-{ordinal}"),
        id: 100 + ordinal,
        port: None,
        read_only: ordinal != 0,
        options: [
            "general_log=ON",
            "general_log_file=general.log",
            // Statements as they came: those that do not parse, several at once, with passwords.
            "log_raw=ON",
            // Tests end by removing the data.
            "sync_binlog=0",
            "innodb_flush_log_at_trx_commit=0",
        ]
        .map(str::to_owned)
        .to_vec(),
        first_statements: first_statements.concat(),
    }
}

static NEXT_SCRIPT: AtomicU32 = AtomicU32::new(0);
