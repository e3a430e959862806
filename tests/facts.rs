//! What the controller takes for granted of MySQL, asked of real servers: when CLONE refuses, what a copy that is cut off
//! leaves behind, and by which numbers replication says what is wrong. A new version of MySQL that does otherwise fails here.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use support::cluster::{APP, Account, Cluster, ROOT, comes_back, process};
use support::mysqld::Instance;
use tokio::time::{Instant, sleep};

mod support;

const PATIENCE: Duration = Duration::from_secs(120);

/// The first column of all rows, with commas; an error as `error NUMBER`.
async fn ask(server: &mut Conn, sql: &str) -> String {
    let rows: Vec<Row> = match server.query(sql).await {
        Ok(rows) => rows,
        Err(mysql_async::Error::Server(error)) => return format!("error {}", error.code),
        Err(error) => return error.to_string(),
    };
    let cell = |row: Row| row.get::<Option<String>, _>(0).flatten().unwrap_or_default();
    rows.into_iter().map(cell).collect::<Vec<_>>().join(",")
}

async fn run(server: &mut Conn, statements: &[&str]) {
    for sql in statements {
        server.query_drop(*sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Asks until the answer fits, and gives it.
async fn until(server: &mut Conn, sql: &str, fits: impl Fn(&str) -> bool) -> String {
    let began = Instant::now();
    loop {
        let answer = ask(server, sql).await;
        if fits(&answer) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{sql}: {answer}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A copy of 48 MiB at 4 MiB/s, so that there is time to disturb it.
async fn fill(cluster: &Cluster) {
    let mut primary = cluster.connect(0, ROOT).await;
    run(
        &mut primary,
        &["CREATE DATABASE d", "CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB)"],
    )
    .await;
    for _ in 0..12 {
        run(&mut primary, &["INSERT INTO d.t (b) VALUES (REPEAT('x', 4194304))"]).await;
    }
    cluster.caught_up().await;
}

fn clone_statement(donor: &Instance, account: Account) -> String {
    let Account { user, password } = account;
    format!("CLONE INSTANCE FROM '{user}'@'127.0.0.1':{} IDENTIFIED BY '{password}'", donor.port())
}

/// A recipient as the controller prepares it.
async fn open_for(recipient: &mut Conn, donor: &Instance) {
    let donors = format!("SET GLOBAL clone_valid_donor_list = '127.0.0.1:{}'", donor.port());
    let statements =
        ["STOP REPLICA", "SET GLOBAL super_read_only = OFF", "SET GLOBAL read_only = ON", &donors];
    run(recipient, &statements).await;
}

async fn slowly(recipient: &mut Conn) {
    let settings = [
        "SET GLOBAL clone_autotune_concurrency = OFF",
        "SET GLOBAL clone_max_concurrency = 1",
        "SET GLOBAL clone_max_data_bandwidth = 4",
    ];
    run(recipient, &settings).await;
}

/// Clones and waits until the recipient has ended by itself and is back.
async fn clone(recipient: &Instance, server: &mut Conn, donor: &Instance) {
    let process = process(recipient);
    assert_eq!(ask(server, &clone_statement(donor, APP)).await, "error 3707", "nobody supervises it");
    comes_back(recipient, process).await;
}

const STATE: &str = "SELECT STATE FROM performance_schema.clone_status";
const DROPPED: &str = "SELECT STATE FROM performance_schema.clone_progress WHERE STAGE = 'DROP DATA'";
const SCHEMAS: &str = "SELECT GROUP_CONCAT(SCHEMA_NAME ORDER BY 1) FROM information_schema.schemata \
                       WHERE SCHEMA_NAME NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema')";
const EXECUTED: &str = "SELECT @@gtid_executed";

#[test]
fn clone_refuses_before_it_drops_anything_but_for_one_cause() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        cluster.script("CREATE DATABASE d; CREATE DATABASE fixed").await;
        let donor = cluster.server(0);
        let (mut primary, mut recipient) = (cluster.connect(0, ROOT).await, cluster.connect(1, ROOT).await);
        open_for(&mut recipient, donor).await;
        let executed = ask(&mut recipient, EXECUTED).await;

        let fine = clone_statement(donor, APP);
        let wrong = clone_statement(donor, Account { user: APP.user, password: "wrong" });
        for (name, here, there, statement, error) in [
            ("super_read_only", "SET GLOBAL super_read_only = ON", "DO 0", &fine, "error 1290"),
            ("a small packet here", "SET GLOBAL max_allowed_packet = 1048576", "DO 0", &fine, "error 3957"),
            ("a small packet there", "DO 0", "SET GLOBAL max_allowed_packet = 1048576", &fine, "error 3862"),
            ("no redo log there", "DO 0", "ALTER INSTANCE DISABLE INNODB REDO_LOG", &fine, "error 3862"),
            ("another password", "DO 0", "DO 0", &wrong, "error 3862"),
        ] {
            run(&mut recipient, &[here]).await;
            run(&mut primary, &[there]).await;
            assert_eq!(ask(&mut recipient, statement).await, error, "{name}");
            assert_eq!(ask(&mut recipient, STATE).await, "Failed", "{name}");
            assert_eq!(ask(&mut recipient, SCHEMAS).await, "d,fixed", "{name}");
            assert_eq!(ask(&mut recipient, EXECUTED).await, executed, "{name}");
            let back = ["SET GLOBAL super_read_only = OFF", "SET GLOBAL max_allowed_packet = 67108864"];
            run(&mut recipient, &back).await;
            run(
                &mut primary,
                &["SET GLOBAL max_allowed_packet = 67108864", "ALTER INSTANCE ENABLE INNODB REDO_LOG"],
            )
            .await;
        }
        // Of this one CLONE takes note only when it comes to it: what is before it is gone, and the GTIDs say nothing of it.
        run(&mut recipient, &["SET sql_log_bin = 0", "ALTER SCHEMA fixed READ ONLY = 1"]).await;
        assert_eq!(ask(&mut recipient, &fine).await, "error 3989");
        assert_eq!(ask(&mut recipient, SCHEMAS).await, "fixed");
        assert_eq!(ask(&mut recipient, EXECUTED).await, executed);
        cluster.close().await;
    });
}

/// What the copy brings, and what stays the recipient's own.
#[test]
fn what_a_copy_brings() {
    support::run(async {
        let cluster = Cluster::start(2).await;
        cluster.script("CREATE DATABASE d").await;
        let (donor, recipient) = (cluster.server(1), cluster.server(2));
        let mut giver = cluster.connect(1, ROOT).await;
        // The recipient need not have the donor's plugins; it has to be able to load them.
        run(
            &mut giver,
            &[
                "SET GLOBAL super_read_only = OFF",
                "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'",
            ],
        )
        .await;
        run(&mut giver, &["SET GLOBAL super_read_only = ON"]).await;
        let mut taker = cluster.connect(2, ROOT).await;
        let uuid = ask(&mut taker, "SELECT @@server_uuid").await;
        open_for(&mut taker, donor).await;
        run(
            &mut taker,
            &["RESET REPLICA ALL", "SET PERSIST server_id = 555", "SET PERSIST_ONLY skip_replica_start = ON"],
        )
        .await;
        assert_eq!(ask(&mut taker, "INSTALL PLUGIN clone SONAME 'mysql_clone.so'").await, "error 1125");
        run(&mut taker, &["SET GLOBAL clone_max_data_bandwidth = 100"]).await;
        clone(recipient, &mut taker, donor).await;

        let mut taker = cluster.connect(2, ROOT).await;
        for (sql, expected) in [
            ("SELECT @@server_uuid", uuid.as_str()),
            ("SELECT @@server_id", "555"),
            ("SELECT @@skip_replica_start", "1"),
            ("SELECT @@super_read_only", "0"),
            ("SELECT @@read_only", "1"),
            ("SELECT @@clone_valid_donor_list", ""),
            ("SELECT @@clone_max_data_bandwidth", "0"),
            (STATE, "Completed"),
            ("SELECT SERVICE_STATE FROM performance_schema.replication_connection_status", "OFF"),
        ] {
            assert_eq!(ask(&mut taker, sql).await, expected, "{sql}");
        }
        let port = cluster.server(0).port().to_string();
        let channel = "SELECT PORT FROM performance_schema.replication_connection_configuration";
        assert_eq!(ask(&mut taker, channel).await, port, "the donor's channel came along");
        let copied = ask(&mut taker, "SELECT GTID_EXECUTED FROM performance_schema.clone_status").await;
        assert_eq!(ask(&mut taker, EXECUTED).await, copied);
        cluster.close().await;
    });
}

#[test]
fn what_a_copy_that_is_cut_off_leaves() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        fill(&cluster).await;
        let (donor, recipient) = (cluster.server(0), cluster.server(1));

        // Killed while it copies: "In Progress" for ever, and nobody does it.
        let mut server = cluster.connect(1, ROOT).await;
        open_for(&mut server, donor).await;
        slowly(&mut server).await;
        let mut watcher = cluster.connect(1, ROOT).await;
        let (statement, copying) = (
            clone_statement(donor, APP),
            "SELECT DATA > 1000000 FROM performance_schema.clone_progress WHERE STAGE = 'FILE COPY'",
        );
        let cut = tokio::join!(ask(&mut server, &statement), async {
            until(&mut watcher, copying, |moved| moved == "1").await;
            assert_eq!(ask(&mut watcher, &statement).await, "error 3634", "one at a time");
            recipient.kill().await;
        });
        assert!(!cut.0.is_empty());
        recipient.start_again().await.expect("it starts");
        let mut server = cluster.connect(1, ROOT).await;
        assert_eq!(ask(&mut server, STATE).await, "In Progress");
        let alive = "SELECT COUNT(*) FROM performance_schema.clone_status s \
                     JOIN performance_schema.threads t ON t.PROCESSLIST_ID = s.PID";
        assert_eq!(ask(&mut server, alive).await, "0");
        assert_eq!(ask(&mut server, DROPPED).await, "Completed");
        assert_eq!(ask(&mut server, SCHEMAS).await, "");
        assert_eq!(ask(&mut server, EXECUTED).await, "");

        // Ended by us.
        open_for(&mut server, donor).await;
        slowly(&mut server).await;
        let mut watcher = cluster.connect(1, ROOT).await;
        let ended = tokio::join!(ask(&mut server, &statement), async {
            until(&mut watcher, copying, |moved| moved == "1").await;
            let process = ask(&mut watcher, "SELECT PID FROM performance_schema.clone_status").await;
            run(&mut watcher, &[&format!("KILL QUERY {process}")]).await;
        });
        // Interrupted, or the connection to the donor was, which it then says instead.
        assert!(["error 1317", "error 1158"].contains(&&*ended.0), "{}", ended.0);
        assert_eq!(ask(&mut server, STATE).await, "Failed");
        assert_eq!(ask(&mut server, EXECUTED).await, "");

        // Killed while it still drops what was there: it comes back with its GTIDs, and a part of its tables.
        let mut tables = String::from("SET sql_log_bin = 0; CREATE DATABASE old; USE old;\n");
        (0..1000)
            .for_each(|number| tables.push_str(&format!("CREATE TABLE t{number} (id INT PRIMARY KEY);\n")));
        clone(recipient, &mut server, donor).await;
        let mut server = cluster.connect(1, ROOT).await;
        server.query_drop(&tables).await.expect("made");
        open_for(&mut server, donor).await;
        let executed = ask(&mut server, EXECUTED).await;
        let mut watcher = cluster.connect(1, ROOT).await;
        let left = "SELECT COUNT(*) FROM information_schema.tables WHERE TABLE_SCHEMA = 'old'";
        tokio::join!(ask(&mut server, &statement), async {
            until(&mut watcher, left, |left| left.parse().is_ok_and(|left: u32| left < 1000)).await;
            recipient.kill().await;
        });
        recipient.start_again().await.expect("it starts");
        let mut server = cluster.connect(1, ROOT).await;
        let left: u32 = ask(&mut server, left).await.parse().expect("a number");
        assert!(0 < left && left < 1000, "{left}");
        assert_eq!(ask(&mut server, EXECUTED).await, executed);
        // Only one that was copied to before knows of it; the first time nothing is written down so early.
        assert_eq!(ask(&mut server, STATE).await, "In Progress");
        assert_ne!(ask(&mut server, DROPPED).await, "Not Started");
        cluster.close().await;
    });
}

const RECEIVER: &str = "SELECT CONCAT(SERVICE_STATE, ' ', LAST_ERROR_NUMBER) FROM performance_schema.replication_connection_status";
const APPLIER: &str = "SELECT MAX(LAST_ERROR_NUMBER) FROM (SELECT LAST_ERROR_NUMBER \
                       FROM performance_schema.replication_applier_status_by_coordinator UNION ALL \
                       SELECT LAST_ERROR_NUMBER FROM performance_schema.replication_applier_status_by_worker) e";

#[test]
fn how_replication_says_what_is_wrong() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        cluster.script("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)").await;
        let (mut primary, mut replica) = (cluster.connect(0, ROOT).await, cluster.connect(1, ROOT).await);
        run(&mut replica, &["SET GLOBAL super_read_only = OFF", "SET sql_log_bin = 0"]).await;
        let receiver = async |replica: &mut Conn, state: &str| {
            until(replica, RECEIVER, |now| now == state).await;
        };
        let applier = async |replica: &mut Conn, code: &str| {
            // The number is there before the threads have ended, and START does nothing to one that still runs.
            until(replica, APPLIER, |now| now == code).await;
            let running = "SELECT SERVICE_STATE FROM performance_schema.replication_applier_status";
            until(replica, running, |now| now == "OFF").await;
        };

        run(&mut replica, &["STOP REPLICA", "SET GLOBAL server_id = 100", "START REPLICA"]).await;
        receiver(&mut replica, "OFF 13117").await;
        run(&mut replica, &["SET PERSIST server_id = 101", "START REPLICA"]).await;
        receiver(&mut replica, "ON 0").await;

        run(&mut replica, &["INSERT INTO d.t VALUES (1)"]).await;
        run(&mut primary, &["INSERT INTO d.t VALUES (1)"]).await;
        applier(&mut replica, "1062").await;
        run(&mut replica, &["DELETE FROM d.t", "START REPLICA"]).await;
        cluster.caught_up().await;

        // Relay logs that are damaged or gone, and are fetched again.
        let logs = || {
            let folder = cluster.server(1).folder().join("data");
            let entries =
                std::fs::read_dir(folder).expect("there").map(|entry| entry.expect("readable").path());
            let mut logs: Vec<_> =
                entries.filter(|path| path.to_string_lossy().contains("-relay-bin.0")).collect();
            logs.sort();
            logs
        };
        for (first, code) in [(200, "13121"), (300, "13117")] {
            run(&mut replica, &["STOP REPLICA SQL_THREAD"]).await;
            let rows: Vec<String> = (first..first + 50).map(|id| format!("({id})")).collect();
            run(&mut primary, &[&format!("INSERT INTO d.t VALUES {}", rows.join(","))]).await;
            let executed = ask(&mut primary, EXECUTED).await.replace('\n', "");
            let received = format!(
                "SELECT GTID_SUBSET('{executed}', CONCAT(RECEIVED_TRANSACTION_SET, ',', @@gtid_executed)) \
                 FROM performance_schema.replication_connection_status"
            );
            until(&mut replica, &received, |all| all == "1").await;
            run(&mut replica, &["STOP REPLICA"]).await;
            if code == "13121" {
                let last = logs().pop().expect("there is one");
                let mut bytes = std::fs::read(&last).expect("readable");
                let end = bytes.len();
                bytes[end - 120..end - 20].fill(0xAB);
                std::fs::write(&last, bytes).expect("writable");
            } else {
                logs().iter().for_each(|log| std::fs::remove_file(log).expect("ours"));
            }
            let _ = ask(&mut replica, "START REPLICA").await;
            applier(&mut replica, code).await;
            run(&mut replica, &["STOP REPLICA", "RESET REPLICA", "START REPLICA"]).await;
            cluster.caught_up().await;
        }

        // A password that is retained lets channels in until it is discarded; those that are in stay.
        let change = "STOP REPLICA IO_THREAD; START REPLICA IO_THREAD";
        run(&mut primary, &["ALTER USER replication@'%' IDENTIFIED BY 'new' RETAIN CURRENT PASSWORD"]).await;
        replica.query_drop(change).await.expect("it starts");
        receiver(&mut replica, "ON 0").await;
        run(&mut primary, &["ALTER USER replication@'%' DISCARD OLD PASSWORD"]).await;
        cluster.caught_up().await;
        receiver(&mut replica, "ON 0").await;
        replica.query_drop(change).await.expect("it starts");
        receiver(&mut replica, "CONNECTING 1045").await;
        run(&mut primary, &["ALTER USER replication@'%' IDENTIFIED BY 'replication-password'"]).await;
        receiver(&mut replica, "ON 0").await;

        // Logs that are gone. The number is that of other things too. What is still sent from is not purged, and a thread that
        // sends learns by a heartbeat that nobody is there.
        run(&mut replica, &["STOP REPLICA"]).await;
        let senders = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";
        until(&mut primary, senders, |senders| senders == "0").await;
        run(
            &mut primary,
            &[
                "INSERT INTO d.t VALUES (5)",
                "FLUSH BINARY LOGS",
                "INSERT INTO d.t VALUES (6)",
                "FLUSH BINARY LOGS",
            ],
        )
        .await;
        let last =
            ask(&mut primary, "SHOW BINARY LOGS").await.rsplit(',').next().map(str::to_owned).expect("one");
        run(&mut primary, &[&format!("PURGE BINARY LOGS TO '{last}'")]).await;
        run(&mut replica, &["START REPLICA"]).await;
        receiver(&mut replica, "OFF 13114").await;
        cluster.close().await;
    });
}

/// The reason for the controller's marker and watermark: nothing in replication itself tells.
#[test]
fn a_fresh_primary_is_followed_without_any_error() {
    support::run(async {
        let (old, new) = (Cluster::start(1).await, Cluster::start(0).await);
        old.script("CREATE DATABASE d").await;
        let mut replica = old.connect(1, ROOT).await;
        let port = new.server(0).port();
        let change = format!("CHANGE REPLICATION SOURCE TO SOURCE_PORT = {port}");
        run(&mut replica, &["STOP REPLICA", &change, "START REPLICA"]).await;
        run(&mut new.connect(0, ROOT).await, &["CREATE DATABASE other"]).await;
        until(&mut replica, SCHEMAS, |all| all == "d,other").await;
        assert_eq!(ask(&mut replica, RECEIVER).await, "ON 0");
        assert_eq!(ask(&mut replica, APPLIER).await, "0");
        new.close().await;
        old.close().await;
    });
}
