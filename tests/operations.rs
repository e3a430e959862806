//! What operators see and do while the proxy runs over real servers: /metrics, /status, the admin SQL port, KILL, SIGTERM,
//! and what it says when it cannot start.

use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use support::cluster::{APP, Cluster, ROOT, connect};
use support::proxy::{ADMIN, Proxy, http_get};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

mod support;

const PATIENCE: Duration = Duration::from_secs(60);

/// The cells of one column of an admin table, as text.
async fn column(admin: &mut Conn, sql: &str, name: &str) -> Vec<String> {
    let rows: Vec<Row> = admin.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let text = |row: &Row| match row.get::<mysql_async::Value, _>(name) {
        Some(mysql_async::Value::Bytes(bytes)) => String::from_utf8(bytes).expect("UTF-8"),
        Some(mysql_async::Value::NULL) => "NULL".to_owned(),
        Some(other) => other.as_sql(true),
        None => panic!("{sql} has no column {name}"),
    };
    rows.iter().map(text).collect()
}

fn readwright(arguments: &[&str]) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_readwright")).args(arguments).output().expect("cargo built it");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("UTF-8"))
}

#[test]
fn limits_that_a_server_has_for_its_applications_do_not_make_it_look_dead() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        for ordinal in 0..2 {
            let mut root = cluster.connect(ordinal, ROOT).await;
            for limit in
                ["max_join_size = 1", "sql_big_selects = 0", "sql_select_limit = 1", "sql_safe_updates = 1"]
            {
                root.query_drop(format!("SET GLOBAL {limit}")).await.expect("root may");
            }
        }
        let proxy = Proxy::start(&cluster, "").await;
        let mut admin = connect(proxy.sql().port(), ADMIN).await.expect("the admin port lets us in");
        assert_eq!(column(&mut admin, "SHOW SERVERS", "health").await, ["up", "up"]);
        let mut client = proxy.connect(APP).await;
        client.query_drop("CREATE DATABASE d").await.expect("the primary takes it");
    });
}

#[test]
fn what_operators_see() {
    support::run(async {
        let cluster = Cluster::shared().await;
        let proxy = Proxy::start(cluster, "").await;
        let mut admin = connect(proxy.sql().port(), ADMIN).await.expect("the admin port lets us in");
        let mut client = proxy.connect(APP).await;
        client.query_drop("SELECT GET_LOCK('operations', 1)").await.expect("a lock");
        client.query_drop("SELECT nothing FROM nowhere.nothing").await.expect_err("there is none");
        // A statement is counted when its client has the answer, and before the client's next one.
        client.ping().await.expect("it answers");

        assert_eq!(column(&mut admin, "SHOW SERVERS", "role").await, ["primary", "replica", "replica"]);
        assert_eq!(column(&mut admin, "SHOW SERVERS", "health").await, ["up", "up", "up"]);
        assert_eq!(column(&mut admin, "SHOW PINS", "statement").await, ["SELECT GET_LOCK(?, ?)"]);
        assert_eq!(column(&mut admin, "SHOW PINS", "server").await, ["mysql-0"]);
        assert_eq!(column(&mut admin, "SHOW CLIENTS", "user").await, [APP.user]);
        assert!(column(&mut admin, "SHOW POOLS", "server").await.contains(&"mysql-0".to_owned()));
        let settings = column(&mut admin, "SHOW CONFIG", "value").await;
        assert!(
            !settings.iter().any(|value| value.contains("password") && !value.contains('/')),
            "{settings:?}"
        );

        for part in [
            "readwright_statements_total{target=\"primary\",reason=\"lock-function\",outcome=\"answered\"} 1",
            "outcome=\"refused\"} 1",
            "readwright_server_up{server=\"mysql-2\",role=\"replica\"} 1",
            "readwright_server_lag_seconds{server=\"mysql-1\"}",
            "readwright_pool_connections{server=\"mysql-0\",state=\"used\"} 1",
            "readwright_ready 1",
        ] {
            // The connection that the login was checked on goes back behind the answer.
            let patience = Instant::now() + PATIENCE;
            while !proxy.page("/metrics").contains(part) {
                assert!(Instant::now() < patience, "{part}\n{}", proxy.page("/metrics"));
                sleep(Duration::from_millis(20)).await;
            }
        }
        let http = proxy.http().to_string();
        let (code, text) = readwright(&["status", "--address", &http]);
        assert!(code == Some(0) && text.contains("is ready (serving)") && text.contains("mysql-2"), "{text}");
        let (code, text) = readwright(&["status", "-o", "json", "--address", &http]);
        assert!(code == Some(0) && text.contains("\"primary\": \"mysql-0\""), "{text}");
    });
}

#[test]
fn the_admin_port_ends_statements_and_clients() {
    support::run(async {
        let cluster = Cluster::shared().await;
        let proxy = Proxy::start(cluster, "").await;
        let mut admin = connect(proxy.sql().port(), ADMIN).await.expect("the admin port lets us in");
        let mut client = proxy.connect(APP).await;
        let id = column(&mut admin, "SHOW CLIENTS", "id").await.remove(0);
        let mut root = cluster.connect(0, ROOT).await;
        let kill_it = async {
            let running =
                "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DO%SLEEP(600)'";
            while root.query_first::<u8, _>(running).await.expect("it answers") == Some(0) {
                sleep(Duration::from_millis(20)).await;
            }
            admin.query_drop(format!("KILL QUERY {id}")).await.expect("it is there");
        };
        let sleeping = client.query_drop("DO /* readwright: primary */ SLEEP(600)");
        let both = async { tokio::join!(sleeping, kill_it) };
        let _ = timeout(PATIENCE, both).await.expect("it ends");
        client.query_drop("SELECT 1").await.expect("the session goes on");
        admin.query_drop(format!("KILL {id}")).await.expect("it is there");
        let gone = async {
            while !column(&mut admin, "SHOW CLIENTS", "id").await.is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the client is gone");
        client.query_drop("SELECT 1").await.expect_err("closed");
        admin.query_drop("KILL 1").await.expect_err("no such client");
    });
}

/// As many clients as a large application starts with: the system drops none before it is accepted.
#[test]
fn many_clients_connect_while_none_is_accepted() {
    support::run(async {
        let cluster = Cluster::shared().await;
        let proxy = Proxy::start(cluster, "").await;
        proxy.freeze();
        let streams = join_all((0..500).map(|_| TcpStream::connect(("127.0.0.1", proxy.port()))));
        let streams = timeout(PATIENCE, streams).await.expect("in time");
        let streams: Vec<_> = streams.into_iter().map(|stream| stream.expect("it listens")).collect();
        let patience = Instant::now() + PATIENCE;
        while not_accepted(proxy.port()) < 500 {
            assert!(Instant::now() < patience, "{} have a place", not_accepted(proxy.port()));
            sleep(Duration::from_millis(20)).await;
        }
        proxy.thaw();
        for mut stream in streams {
            timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("a greeting");
        }
    });
}

/// How many connections to this port wait to be accepted, as the system counts them.
fn not_accepted(port: u16) -> u32 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let listener = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // The state is that of listening.
        (fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "0A").then(|| fields[4].to_owned())
    });
    let queues = listener.expect("the proxy listens");
    u32::from_str_radix(queues.split_once(':').expect("two numbers").1, 16).expect("in hex")
}

#[test]
fn a_drain_lets_a_transaction_end() {
    support::run(async {
        let cluster = Cluster::shared().await;
        let mut proxy = Proxy::start(cluster, "").await;
        let mut client = proxy.connect(APP).await;
        client.query_drop("BEGIN").await.expect("a transaction");
        client.query_drop("SELECT 1").await.expect("a statement");
        proxy.terminate();
        let draining = async {
            while http_get(proxy.http(), "/readyz").is_none_or(|(status, _)| status != 503) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, draining).await.expect("it says that it drains");
        assert_eq!(http_get(proxy.http(), "/healthz").map(|(status, _)| status), Some(200));
        let closed = async {
            while TcpStream::connect(("127.0.0.1", proxy.port())).await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, closed).await.expect("no new clients");
        client.query_drop("COMMIT").await.expect("it may end");
        let status = proxy.ended(PATIENCE).await.expect("it ends when the last client has");
        assert!(status.success(), "{status}\n{}", proxy.log());
    });
}

#[test]
fn what_is_in_the_way_of_a_start() {
    support::run(async {
        let cluster = Cluster::shared().await;
        let proxy = Proxy::start(cluster, "").await;
        let taken = format!("127.0.0.1:{}", proxy.port());
        let mut second = Proxy::launch(cluster, &format!("listen: {{address: \"{taken}\"}}"));
        let status = second.ended(PATIENCE).await.expect("it cannot start");
        assert_eq!(status.code(), Some(1));
        let log = second.log();
        assert!(log.contains("listen.address") && log.contains(&taken) && log.contains("in use"), "{log}");

        // Somebody's file is nobody's stale socket.
        let file = cluster.folder().join("not-a-socket");
        std::fs::write(&file, "precious").expect("the folder is ours");
        let mut third = Proxy::launch(cluster, &format!("listen: {{socket: \"{}\"}}", file.display()));
        let status = third.ended(PATIENCE).await.expect("it cannot start");
        assert_eq!(status.code(), Some(1));
        assert!(third.log().contains("listen.socket"), "{}", third.log());
        assert_eq!(std::fs::read_to_string(&file).expect("it is still there"), "precious");

        let mut bad = Proxy::launch(cluster, "pool: {wait: 5s}\nlimits: {clients: -1}");
        let status = bad.ended(PATIENCE).await.expect("it cannot start");
        assert_eq!(status.code(), Some(2));
        assert_eq!(bad.log().lines().count(), 2, "{}", bad.log());

        let nobody = "topology: {servers: [{name: mysql-0, address: \"127.0.0.1:1\"}]}\nrouting: {primary_wait_ms: 1000}";
        let alone = Proxy::launch(cluster, nobody);
        alone.logs("no primary").await;
        let log = alone.log();
        assert!(log.contains("127.0.0.1:1"), "{log}");
        assert_eq!(http_get(alone.http(), "/readyz").map(|(status, _)| status), Some(503), "{log}");
        let http = alone.http().to_string();
        assert_eq!(readwright(&["status", "--address", &http]).0, Some(1));
        let refused = alone.try_connect(APP).await.expect_err("nobody could say who that is").to_string();
        assert!(refused.contains("no MySQL server") && refused.contains("127.0.0.1:1"), "{refused}");
    });
}
