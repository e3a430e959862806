//! The other proxies, as processes of ours: HAProxy in TCP mode and MySQL Router, plain and splitting.
//!
//! Router splits only for a cluster that it finds described in a schema, which MySQL Shell writes. That schema is written
//! here by hand, as a replica set: the few tables and columns that Router 9.7 asks for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::measure::support::cluster::{APP, Account, Cluster, ROOT, connect};
use crate::measure::support::mysqld::free_port;

/// A running proxy of another make. Killed when dropped.
pub(crate) struct Rival {
    child: Child,
    pub(crate) port: u16,
}

/// Router splits over a plain connection only for an account whose password it need not know.
pub(crate) const NO_PASSWORD: Account = Account { user: "nopass", password: "" };

impl Rival {
    /// HAProxy knows no SQL: everything goes to the primary.
    pub(crate) async fn haproxy(cluster: &Cluster) -> Result<Self, String> {
        let port = free_port().map_err(|error| error.to_string())?;
        let config = format!(
            "global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
             listen mysql\n  bind 127.0.0.1:{port}\n  server primary 127.0.0.1:{}\n",
            cluster.server(0).port()
        );
        let path = write(cluster, "haproxy.cfg", &config);
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(path);
        Self::start(command, cluster, "haproxy", port, APP).await
    }

    /// Router as a relay to the primary.
    pub(crate) async fn router(cluster: &Cluster, tree: &Path) -> Result<Self, String> {
        let port = free_port().map_err(|error| error.to_string())?;
        let routing = format!(
            "[routing:plain]\nbind_address=127.0.0.1\nbind_port={port}\ndestinations=127.0.0.1:{}\n\
             routing_strategy=first-available\nmax_connections=4000\n{CLASSIC}",
            cluster.server(0).port()
        );
        let folder = router_folder(cluster, "router");
        let path = folder.join("router.conf");
        fs::write(&path, router_base(&folder, tree) + &routing).expect("the folder is ours");
        let mut command = Command::new(tree.join("bin/mysqlrouter"));
        command.arg(format!("--config={}", path.display()));
        Self::start(command, cluster, "router", port, APP).await
    }

    /// Router sending reads to replicas and writes to the primary.
    pub(crate) async fn router_splitting(cluster: &Cluster, tree: &Path) -> Result<Self, String> {
        describe_cluster(cluster).await;
        let folder = router_folder(cluster, "router-splitting");
        let keyring = folder.join("keyring");
        for arguments in [vec!["init"], vec!["set"]] {
            let mut command = Command::new(tree.join("bin/mysqlrouter_keyring"));
            command.args(&arguments).arg(&keyring);
            if arguments == ["set"] {
                command.args([APP.user, "password", APP.password]);
            }
            command.arg(format!("--master-key-file={}", folder.join("key").display()));
            let output = command.output().await.map_err(|error| error.to_string())?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
        }
        let servers: Vec<String> = cluster
            .servers()
            .iter()
            .map(|server| format!("\"mysql://127.0.0.1:{}\"", server.port()))
            .collect();
        let state = format!(
            "{{\"version\":\"1.0.0\",\"metadata-cache\":{{\"group-replication-id\":\"bench\",\
             \"cluster-metadata-servers\":[{}]}}}}",
            servers.join(",")
        );
        fs::write(folder.join("state.json"), state).expect("the folder is ours");
        let port = free_port().map_err(|error| error.to_string())?;
        let config = format!(
            "{}keyring_path={}\nmaster_key_path={}\ndynamic_state={}\n\
             [metadata_cache:bench]\ncluster_type=rs\nrouter_id=1\nuser={}\nmetadata_cluster=bench\nttl=5\n\
             [routing:split]\nbind_address=127.0.0.1\nbind_port={port}\n\
             destinations=metadata-cache://bench/?role=PRIMARY_AND_SECONDARY\nrouting_strategy=round-robin\n\
             connection_sharing=1\naccess_mode=auto\nmax_connections=4000\n{CLASSIC}",
            router_base(&folder, tree),
            keyring.display(),
            folder.join("key").display(),
            folder.join("state.json").display(),
            APP.user,
        );
        let path = folder.join("router.conf");
        fs::write(&path, config).expect("the folder is ours");
        let mut command = Command::new(tree.join("bin/mysqlrouter"));
        command.arg(format!("--config={}", path.display()));
        Self::start(command, cluster, "router-splitting", port, NO_PASSWORD).await
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits until one can log in through it.
    async fn start(
        mut command: Command,
        cluster: &Cluster,
        name: &str,
        port: u16,
        account: Account,
    ) -> Result<Self, String> {
        let path = cluster.folder().join(format!("{name}.log"));
        let log = File::create(&path).expect("the folder is ours");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("an open file"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot run it: {error}"))?;
        let rival = Self { child, port };
        let patience = Instant::now() + Duration::from_secs(15);
        while Instant::now() < patience {
            if let Ok(connection) = connect(port, account).await {
                let _ = timeout(Duration::from_secs(5), connection.disconnect()).await;
                return Ok(rival);
            }
            sleep(Duration::from_millis(200)).await;
        }
        Err(format!("it accepts no login:\n{}", fs::read_to_string(&path).unwrap_or_default()))
    }
}

/// Clear text on both sides, as in all lanes of the comparison.
const CLASSIC: &str = "protocol=classic\nclient_ssl_mode=DISABLED\nserver_ssl_mode=DISABLED\n";

fn router_base(folder: &Path, tree: &Path) -> String {
    let folder = folder.display();
    format!(
        "[DEFAULT]\nruntime_folder={folder}\ndata_folder={folder}\nlogging_folder={folder}\nplugin_folder={}\n\
         user=root\nmax_total_connections=4000\n",
        tree.join("usr/lib/mysqlrouter/plugin").display()
    )
}

fn router_folder(cluster: &Cluster, name: &str) -> PathBuf {
    let folder = cluster.folder().join(name);
    fs::create_dir_all(&folder).expect("the folder is ours");
    folder
}

fn write(cluster: &Cluster, name: &str, text: &str) -> PathBuf {
    let path = cluster.folder().join(name);
    fs::write(&path, text).expect("the folder is ours");
    path
}

async fn describe_cluster(cluster: &Cluster) {
    let mut members = Vec::new();
    for (ordinal, server) in cluster.servers().iter().enumerate() {
        let mut connection = cluster.connect(ordinal, ROOT).await;
        let uuid: Option<String> =
            connection.query_first("SELECT @@server_uuid").await.expect("it can be asked");
        let uuid = uuid.expect("one row");
        let role = if ordinal == 0 { "PRIMARY" } else { "SECONDARY" };
        let address = format!("127.0.0.1:{}", server.port());
        members.push(format!(
            "INSERT INTO v2_ar_members VALUES (1, 'bench', {ordinal}, '{uuid}', '{role}');\n\
             INSERT INTO v2_instances VALUES ({ordinal}, 'bench', '{uuid}', '{address}', '{address}', NULL, '{{}}', '');\n"
        ));
    }
    cluster
        .script(&format!(
            "CREATE DATABASE mysql_innodb_cluster_metadata; USE mysql_innodb_cluster_metadata;\n\
             CREATE TABLE schema_version AS SELECT 2 AS major, 2 AS minor, 0 AS patch;\n\
             CREATE TABLE v2_this_instance AS SELECT 'bench' AS cluster_id, 0 AS instance_id,\n\
               'bench' AS cluster_name, 'ar' AS cluster_type;\n\
             CREATE TABLE v2_ar_clusters AS SELECT 'bench' AS cluster_id, 'bench' AS cluster_name,\n\
               JSON_OBJECT() AS router_options, JSON_OBJECT() AS attributes;\n\
             CREATE TABLE v2_clusters AS SELECT * FROM v2_ar_clusters;\n\
             CREATE TABLE v2_router_options AS SELECT 1 AS router_id, JSON_OBJECT() AS router_options;\n\
             CREATE TABLE v2_ar_members (view_id INT, cluster_id VARCHAR(40), instance_id INT,\n\
               member_id VARCHAR(40), member_role VARCHAR(10));\n\
             CREATE TABLE v2_instances (instance_id INT, cluster_id VARCHAR(40), mysql_server_uuid VARCHAR(40),\n\
               address VARCHAR(60), endpoint VARCHAR(60), xendpoint VARCHAR(60), attributes JSON, label VARCHAR(60));\n\
             CREATE TABLE v2_routers (router_id INT, cluster_id VARCHAR(40), address VARCHAR(60),\n\
               router_name VARCHAR(60), product_name VARCHAR(60), options JSON, attributes JSON,\n\
               version VARCHAR(20), last_check_in DATETIME);\n\
             INSERT INTO v2_routers VALUES (1, 'bench', '127.0.0.1', 'bench', '', '{{}}', '{{}}', NULL, NULL);\n\
             {}\
             CREATE USER '{user}'@'%' IDENTIFIED BY ''; GRANT ALL ON *.* TO '{user}'@'%';\n",
            members.concat(),
            user = NO_PASSWORD.user,
        ))
        .await;
}
