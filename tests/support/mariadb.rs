//! A real MariaDB primary and its replicas, replicating by GTID. The servers come from the distribution's packages, see
//! `scripts/mysql-tree`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::{Instant, sleep};

use super::cluster::{APP, Account, MONITOR, ROOT, connect};
use super::mysqld::free_port;

/// Which of the distribution's packages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Of this machine's release: 10.11 in Debian 12.
    Own,
    /// 11.8 or later.
    Newest,
}

/// `mariadb-0` is the primary, the others replicate from it. Ends when dropped.
pub(crate) struct MariaDb {
    servers: Vec<Server>,
    folder: PathBuf,
    tree: PathBuf,
}

struct Server {
    name: String,
    port: u16,
    child: Child,
}

impl MariaDb {
    pub(crate) async fn start(release: Release, replicas: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("mariadb-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder can be made");
        let tree = tree(release);
        let servers = (0..=replicas).map(|ordinal| launch(&tree, &folder, ordinal)).collect();
        let cluster = Self { servers, folder, tree };
        for ordinal in 0..cluster.servers.len() {
            let mut root = cluster.reachable(ordinal).await;
            if ordinal > 0 {
                let source = format!(
                    "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='{}', MASTER_PASSWORD='{}', \
                     MASTER_USE_GTID=slave_pos, MASTER_HEARTBEAT_PERIOD=1, MASTER_CONNECT_RETRY=1",
                    cluster.servers[0].port, ROOT.user, ROOT.password
                );
                for statement in [&source, "START SLAVE", "SET GLOBAL read_only = ON"] {
                    root.query_drop(statement).await.expect("replication can be configured");
                }
            }
        }
        cluster
    }

    /// As (name, port).
    pub(crate) fn servers(&self) -> Vec<(&str, u16)> {
        self.servers.iter().map(|server| (server.name.as_str(), server.port)).collect()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A program of the packages, such as `mariadb`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.tree.join("bin").join(name)
    }

    /// Where the client's plugins are.
    pub(crate) fn client_plugins(&self) -> PathBuf {
        let libraries = fs::read_dir(self.tree.join("usr/lib")).expect("the packages have it");
        let plugins =
            libraries.filter_map(Result::ok).map(|library| library.path().join("libmariadb3/plugin"));
        plugins.into_iter().find(|plugins| plugins.exists()).expect("the packages have them")
    }

    /// A connection to one server, past any proxy.
    pub(crate) async fn connect(&self, ordinal: usize, account: Account) -> Conn {
        connect(self.servers[ordinal].port, account).await.expect("the server accepts this account")
    }

    async fn reachable(&self, ordinal: usize) -> Conn {
        let patience = Instant::now() + Duration::from_secs(300);
        loop {
            match connect(self.servers[ordinal].port, ROOT).await {
                Ok(conn) => return conn,
                Err(error) if Instant::now() > patience => {
                    let log = self.folder.join(&self.servers[ordinal].name).join("log");
                    panic!("{error}\n{}", fs::read_to_string(log).unwrap_or_default());
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.child.kill();
            let _ = server.child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn tree(release: Release) -> PathBuf {
    let output = Command::new("scripts/mysql-tree")
        .arg(match release {
            Release::Own => "--mariadb",
            Release::Newest => "--mariadb-newest",
        })
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("tests run in the package's folder");
    assert!(output.status.success(), "there is no MariaDB to test with");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A data folder of its own, filled as mariadb-install-db does, and a server on it.
fn launch(tree: &Path, folder: &Path, ordinal: u32) -> Server {
    let name = format!("mariadb-{ordinal}");
    let folder = folder.join(&name);
    let data = folder.join("data");
    // A server that starts clears away the temporary tables of all whose folder for them it shares.
    let temporary = folder.join("tmp");
    for folder in [&data, &temporary] {
        fs::create_dir_all(folder).expect("the folder is ours");
    }
    // What 10.11 calls mysql is called mariadb later.
    let called = if tree.join("usr/share/mariadb").exists() { "mariadb" } else { "mysql" };
    let share = tree.join("usr/share").join(called);
    let run = |more: &[String]| {
        // The server goes with the test, in whatever way that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(tree.join("bin/mariadbd"))
            .args([
                "--no-defaults",
                "--user=root",
                "--innodb-buffer-pool-size=16M",
                "--innodb-log-file-size=8M",
            ])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--tmpdir={}", temporary.display()))
            .arg(format!("--lc-messages-dir={}", share.display()))
            .arg(format!("--character-sets-dir={}", share.join("charsets").display()))
            .arg(format!("--plugin-dir={}", tree.join("usr/lib/mysql/plugin").display()))
            .args(more);
        command
    };
    let log = || File::create(folder.join("log")).expect("the folder is ours");
    let mut bootstrap = run(&["--bootstrap".to_owned()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log())
        .spawn()
        .expect("setpriv is a part of util-linux");
    let mut input = bootstrap.stdin.take().expect("asked for above");
    let mut statements = b"create database mysql;\nuse mysql;\n".to_vec();
    for part in ["system_tables", "performance_tables", "system_tables_data"] {
        let file = share.join(format!("{called}_{part}.sql"));
        statements.extend(fs::read(file).expect("the packages have it"));
    }
    statements.extend_from_slice(b"FLUSH PRIVILEGES;\n");
    for (account, rights) in
        [(ROOT, "ALL ON *.*"), (APP, "ALL ON *.*"), (MONITOR, "REPLICA MONITOR, PROCESS, SELECT ON *.*")]
    {
        let Account { user, password } = account;
        writeln!(statements, "CREATE USER '{user}'@'%' IDENTIFIED BY '{password}';").expect("into memory");
        writeln!(statements, "GRANT {rights} TO '{user}'@'%' WITH GRANT OPTION;").expect("into memory");
    }
    // Else they stand before ours for who comes from this machine.
    writeln!(statements, "DELETE FROM global_priv WHERE Host <> '%' AND User <> 'mariadb.sys';")
        .expect("into memory");
    input.write_all(&statements).expect("it reads");
    drop(input);
    let ended = bootstrap.wait().expect("it ends");
    assert!(ended.success(), "{}", fs::read_to_string(folder.join("log")).unwrap_or_default());

    let port = free_port().expect("there is a free port");
    let options = [
        format!("--port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--socket={}", folder.join("socket").display()),
        format!("--pid-file={}", folder.join("pid").display()),
        format!("--server-id={}", 100 + ordinal),
        "--log-bin=bin".to_owned(),
        "--gtid-strict-mode=ON".to_owned(),
        "--innodb-flush-log-at-trx-commit=0".to_owned(),
        "--character-set-server=utf8mb4".to_owned(),
    ];
    let child = run(&options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log()).spawn();
    Server { name, port, child: child.expect("it ran a moment ago") }
}
