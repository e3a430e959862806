//! MariaDB servers behind the proxy: probes, own writes on replicas, and MariaDB's own SQL.

use std::collections::HashMap;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use support::cluster::{APP, Account, ROOT};
use support::mariadb::MariaDb;
use support::proxy::Proxy;
use support::raw::{Raw, USUAL, flag};
use tokio::time::{Instant, sleep};

mod support;

/// Waits until the status says this of a server.
async fn until(proxy: &Proxy, server: &str, what: impl Fn(&serde_json::Value) -> bool) {
    let patience = Instant::now() + Duration::from_secs(40);
    loop {
        let status: serde_json::Value = serde_json::from_str(&proxy.page("/status")).expect("JSON");
        let servers = status["servers"].as_array().expect("a list");
        let found = servers.iter().find(|found| found["name"] == server).expect("it is configured");
        if what(found) {
            return;
        }
        assert!(Instant::now() < patience, "{server}: {found}\n{}", proxy.log());
        sleep(Duration::from_millis(50)).await;
    }
}

/// On which server this ran.
async fn server_of(conn: &mut Conn, sql: &str) -> u32 {
    conn.query_first(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")).expect("a row")
}

#[test]
fn a_primary_and_two_replicas() {
    support::run(async {
        let cluster = MariaDb::start(2).await;
        let overrides =
            "routing: {max_lag_ms: 1500, gtid_wait_ms: 300}\nmonitor: {timeout_ms: 10000, failures: 3}";
        let proxy = Proxy::start_over(cluster.folder(), &cluster.servers(), overrides).await;
        for replica in ["mariadb-1", "mariadb-2"] {
            until(&proxy, replica, |server| server["serves_reads"] == true).await;
        }
        let mut conn = proxy.connect(APP).await;
        for sql in
            ["CREATE DATABASE d", "USE d", "CREATE TABLE t (i INT PRIMARY KEY, t TEXT)", "CREATE SEQUENCE s"]
        {
            conn.query_drop(sql).await.expect("the primary may");
        }
        by_ed25519(&cluster, &proxy).await;
        own_writes_are_seen(&mut conn).await;
        its_own_sql(&mut conn).await;
        sessions(&mut conn).await;

        // A replica that stops, and one that lags.
        let mut replica = cluster.connect(1, ROOT).await;
        replica.query_drop("STOP SLAVE SQL_THREAD").await.expect("root may");
        until(&proxy, "mariadb-1", |server| {
            server["problem"].as_str().is_some_and(|why| why.contains("applier"))
        })
        .await;
        replica.query_drop("START SLAVE").await.expect("root may");
        until(&proxy, "mariadb-1", |server| server["serves_reads"] == true).await;
        replica.query_drop("FLUSH TABLES WITH READ LOCK").await.expect("root may");
        conn.query_drop("INSERT INTO t VALUES (1000, 'behind')").await.expect("the primary may");
        until(&proxy, "mariadb-1", |server| {
            server["serves_reads"] == false && server["lag_ms"].as_u64().is_some_and(|lag| lag >= 1000)
        })
        .await;
        replica.query_drop("UNLOCK TABLES").await.expect("root may");
        until(&proxy, "mariadb-1", |server| server["serves_reads"] == true).await;

        // Nobody is fresh enough in time: the primary answers.
        let mut locked = Vec::new();
        for ordinal in [1, 2] {
            let mut replica = cluster.connect(ordinal, ROOT).await;
            replica.query_drop("FLUSH TABLES WITH READ LOCK").await.expect("root may");
            locked.push(replica);
        }
        conn.query_drop("INSERT INTO t VALUES (1001, 'unseen')").await.expect("the primary may");
        assert_eq!(server_of(&mut conn, "SELECT @@server_id FROM t WHERE i = 1001").await, 100);
        drop(locked);
        primary_goes(&cluster, &proxy).await;
    });
}

/// A user whose password the servers know as a key only.
async fn by_ed25519(cluster: &MariaDb, proxy: &Proxy) {
    for ordinal in 0..3 {
        let mut root = cluster.connect(ordinal, ROOT).await;
        root.query_drop("INSTALL SONAME 'auth_ed25519'").await.expect("the package has it");
    }
    let mut root = cluster.connect(0, ROOT).await;
    root.query_drop("CREATE USER ed IDENTIFIED VIA ed25519 USING PASSWORD('secret')")
        .await
        .expect("root may");
    root.query_drop("GRANT SELECT ON d.* TO ed").await.expect("root may");
    let account = Account { user: "ed", password: "secret" };
    for _ in 0..5 {
        let mut conn = proxy.connect(account).await;
        assert!(server_of(&mut conn, "SELECT @@server_id FROM (SELECT COUNT(*) FROM d.t) AS t").await >= 100);
    }
    let denied =
        proxy.try_connect(Account { password: "wrong", ..account }).await.expect_err("another password");
    assert!(denied.to_string().contains("1045"), "{denied}");
}

/// Each read right after a write, most of them on replicas.
async fn own_writes_are_seen(conn: &mut Conn) {
    let mut seen: HashMap<u32, u32> = HashMap::new();
    for i in 0..200 {
        conn.query_drop(format!("INSERT INTO t VALUES ({i}, 'row')")).await.expect("the primary may");
        let row: Option<(u32, u32)> = conn
            .query_first(format!("SELECT @@server_id, COUNT(*) FROM t WHERE i = {i}"))
            .await
            .expect("it answers");
        let (server, count) = row.expect("a row");
        assert_eq!(count, 1, "row {i} on server {server}");
        *seen.entry(server).or_default() += 1;
    }
    assert!(seen.contains_key(&101) && seen.contains_key(&102), "{seen:?}");
}

async fn its_own_sql(conn: &mut Conn) {
    for (sql, server) in [
        ("SELECT @@server_id FROM (SELECT NEXTVAL(s)) AS n", 100),
        ("INSERT INTO t VALUES (500, 'x') RETURNING @@server_id", 100),
        ("DELETE FROM t WHERE i = 500 RETURNING @@server_id", 100),
        ("EXECUTE IMMEDIATE 'SELECT @@server_id'", 100),
        ("SET STATEMENT max_statement_time = 5 FOR SELECT @@server_id", 100),
        ("SELECT @@server_id FROM t WHERE i = 1 FOR UPDATE", 100),
    ] {
        assert_eq!(server_of(conn, sql).await, server, "{sql}");
    }
}

async fn sessions(conn: &mut Conn) {
    conn.query_drop("SET SESSION sql_mode = 'ANSI_QUOTES', @mine = 5").await.expect("it may");
    for _ in 0..10 {
        let row: Option<(String, i32)> =
            conn.query_first("SELECT @@sql_mode, @mine").await.expect("it answers");
        assert_eq!(row, Some(("ANSI_QUOTES".to_owned(), 5)));
        let row: Option<(i32, String)> =
            conn.exec_first("SELECT i, t FROM t WHERE i = ?", (7,)).await.expect("it answers");
        assert_eq!(row, Some((7, "row".to_owned())));
    }
    conn.query_drop("START TRANSACTION").await.expect("it may");
    conn.query_drop("INSERT INTO t VALUES (600, 'rolled back')").await.expect("it may");
    assert_eq!(server_of(conn, "SELECT COUNT(*) FROM t WHERE i = 600").await, 1);
    conn.query_drop("ROLLBACK").await.expect("it may");
    assert_eq!(server_of(conn, "SELECT COUNT(*) FROM t WHERE i = 600").await, 0);
    conn.query_drop("CREATE TEMPORARY TABLE mine (i INT)").await.expect("it may");
    assert_eq!(server_of(conn, "SELECT COUNT(*) FROM mine").await, 0);
    conn.query_drop("DROP TEMPORARY TABLE mine").await.expect("it may");
}

/// Reads go on, and the greeting is MariaDB's.
async fn primary_goes(cluster: &MariaDb, proxy: &Proxy) {
    let raw = Raw::connect(proxy.port(), APP, USUAL | flag::QUERY_ATTRIBUTES | flag::ZSTD).await;
    assert!(raw.server_version.contains("MariaDB"), "{}", raw.server_version);
    assert_eq!(raw.server_capabilities & (flag::QUERY_ATTRIBUTES | flag::ZSTD), 0, "MariaDB has neither");
    for replica in ["mariadb-1", "mariadb-2"] {
        until(proxy, replica, |server| server["serves_reads"] == true).await;
    }
    let mut fresh = proxy.connect(APP).await;
    let mut primary = cluster.connect(0, ROOT).await;
    primary.query_drop("SHUTDOWN").await.ok();
    for _ in 0..5 {
        assert!(server_of(&mut fresh, "SELECT @@server_id FROM d.t WHERE i = 1").await > 100);
    }
}
