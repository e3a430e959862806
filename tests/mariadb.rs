//! MariaDB servers behind the proxy: probes, own writes on replicas, MariaDB's own SQL, logins and clients.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use support::cluster::{APP, Account, ROOT};
use support::mariadb::{MariaDb, Release};
use support::mysqld::free_port;
use support::proxy::Proxy;
use support::raw::{Outcome, Raw, USUAL, flag};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

mod support;

/// Waits until the status says this of a server.
async fn until(proxy: &Proxy, server: &str, what: impl Fn(&serde_json::Value) -> bool) {
    let patience = Instant::now() + Duration::from_secs(120);
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
    behind_the_proxy(Release::Own);
}

#[test]
fn a_primary_and_two_replicas_of_the_newest_release() {
    behind_the_proxy(Release::Newest);
}

fn behind_the_proxy(release: Release) {
    support::run(async {
        let cluster = MariaDb::start(release, 2).await;
        let proxy = Proxy::start_over(cluster.folder(), &cluster.servers(), "").await;
        for replica in ["mariadb-1", "mariadb-2"] {
            until(&proxy, replica, |server| server["serves_reads"] == true).await;
        }
        let mut conn = proxy.connect(APP).await;
        for sql in
            ["CREATE DATABASE d", "USE d", "CREATE TABLE t (i INT PRIMARY KEY, t TEXT)", "CREATE SEQUENCE s"]
        {
            conn.query_drop(sql).await.expect("the primary may");
        }
        let plugins = add_users(&cluster, release).await;
        for plugin in &plugins {
            log_in(&proxy, plugin).await;
        }
        // (Without TLS caching_sha2_password has to have a key, which MariaDB makes none of by itself.)
        let open =
            Proxy::start_over(cluster.folder(), &cluster.servers(), "server_tls: {mode: disabled}").await;
        for plugin in plugins.iter().filter(|plugin| **plugin != "caching_sha2_password") {
            log_in(&open, plugin).await;
        }
        drop(open);
        own_writes_are_seen(&mut conn).await;
        its_own_sql(&mut conn).await;
        sessions(&proxy, &mut conn).await;
        isolation(&proxy, release).await;
        beginnings(&proxy).await;
        no_write_on_a_replica(&cluster, &proxy).await;
        failures_tell_later(&proxy).await;

        // A replica that stops, and one that lags.
        let strict = "routing: {max_lag_ms: 1500, gtid_wait_ms: 300}";
        let strict = Proxy::start_over(cluster.folder(), &cluster.servers(), strict).await;
        let mut conn = strict.connect(APP).await;
        conn.query_drop("USE d").await.expect("it may");
        let mut replica = cluster.connect(1, ROOT).await;
        replica.query_drop("STOP SLAVE SQL_THREAD").await.expect("root may");
        until(&strict, "mariadb-1", |server| {
            server["problem"].as_str().is_some_and(|why| why.contains("applier"))
        })
        .await;
        replica.query_drop("START SLAVE").await.expect("root may");
        until(&strict, "mariadb-1", |server| server["serves_reads"] == true).await;
        replica.query_drop("FLUSH TABLES WITH READ LOCK").await.expect("root may");
        conn.query_drop("INSERT INTO t VALUES (1000, 'behind')").await.expect("the primary may");
        until(&strict, "mariadb-1", |server| {
            server["serves_reads"] == false && server["lag_ms"].as_u64().is_some_and(|lag| lag >= 1000)
        })
        .await;
        replica.query_drop("UNLOCK TABLES").await.expect("root may");
        until(&strict, "mariadb-1", |server| server["serves_reads"] == true).await;

        // Nobody is fresh enough in time: the primary answers.
        let mut locked = Vec::new();
        for ordinal in [1, 2] {
            let mut replica = cluster.connect(ordinal, ROOT).await;
            replica.query_drop("FLUSH TABLES WITH READ LOCK").await.expect("root may");
            locked.push(replica);
        }
        conn.query_drop("INSERT INTO t VALUES (1001, 'unseen')").await.expect("the primary may");
        assert_eq!(server_of(&mut conn, "SELECT @@server_id FROM t WHERE i = 1001").await, 100);
        drop((locked, conn, strict));
        let mut reader = proxy.connect(APP).await;
        primary_goes(&cluster, &proxy).await;
        replica_goes(&cluster, &mut reader).await;
    });
}

/// A user for each of the plugins that are MariaDB's own or that it has learned since, called as the plugin is.
async fn add_users(cluster: &MariaDb, release: Release) -> Vec<&'static str> {
    let plugins = match release {
        Release::Own => vec![("ed25519", "auth_ed25519")],
        Release::Newest => vec![
            ("ed25519", "auth_ed25519"),
            ("parsec", "auth_parsec"),
            ("caching_sha2_password", "auth_mysql_sha2"),
        ],
    };
    for ordinal in 0..3 {
        let mut root = cluster.connect(ordinal, ROOT).await;
        for (_, library) in &plugins {
            root.query_drop(format!("INSTALL SONAME '{library}'")).await.expect("the package has it");
        }
    }
    let mut root = cluster.connect(0, ROOT).await;
    for (plugin, _) in &plugins {
        for sql in [
            format!("CREATE USER {plugin} IDENTIFIED VIA {plugin} USING PASSWORD('secret')"),
            format!("GRANT SELECT ON d.* TO {plugin}"),
        ] {
            root.query_drop(sql).await.expect("root may");
        }
    }
    plugins.into_iter().map(|(plugin, _)| plugin).collect()
}

async fn log_in(proxy: &Proxy, plugin: &'static str) {
    let account = Account { user: plugin, password: "secret" };
    for _ in 0..5 {
        let mut conn = proxy.connect(account).await;
        assert!(server_of(&mut conn, "SELECT @@server_id FROM (SELECT COUNT(*) FROM d.t) AS t").await >= 100);
    }
    let denied =
        proxy.try_connect(Account { password: "wrong", ..account }).await.expect_err("another password");
    assert!(denied.to_string().contains("1045"), "{plugin}: {denied}");
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

async fn sessions(proxy: &Proxy, conn: &mut Conn) {
    conn.query_drop("SET SESSION sql_mode = 'ANSI_QUOTES', @mine = 5").await.expect("it may");
    for _ in 0..10 {
        let row: Option<(String, i32)> =
            conn.query_first("SELECT @@sql_mode, @mine").await.expect("it answers");
        assert_eq!(row, Some(("ANSI_QUOTES".to_owned(), 5)));
        let row: Option<(i32, String)> =
            conn.exec_first("SELECT i, t FROM t WHERE i = ?", (7,)).await.expect("it answers");
        assert_eq!(row, Some((7, "row".to_owned())));
    }
    for sets in SPEECH {
        speech_goes_along(proxy, sets).await;
    }
    // What servers tell of a KILL is the client's to hear, where the connection is still there.
    conn.query_drop("CREATE FUNCTION cut() RETURNS INT NO SQL BEGIN SIGNAL SQLSTATE '70100' SET MYSQL_ERRNO = 1927; RETURN 1; END")
        .await
        .expect("the primary may");
    for _ in 0..5 {
        match conn.query_drop("SELECT cut() FROM t WHERE i = 7").await {
            Err(mysql_async::Error::Server(error)) => {
                assert_eq!((error.code, &*error.state), (1927, "70100"))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server_of(conn, "SELECT i FROM t WHERE i = 7").await, 7);
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

/// What would see the newest rows, and lock them, does so at the primary; by whatever name it is asked for.
async fn isolation(proxy: &Proxy, release: Release) {
    let conn = &mut proxy.connect(APP).await;
    conn.query_drop("USE d").await.expect("it may");
    let mut sets = vec![
        ("SET SESSION TRANSACTION ISOLATION LEVEL", "SERIALIZABLE", "REPEATABLE READ"),
        ("SET SESSION tx_isolation =", "'SERIALIZABLE'", "'REPEATABLE-READ'"),
    ];
    if release == Release::Newest {
        sets.push(("SET SESSION transaction_isolation =", "'SERIALIZABLE'", "'REPEATABLE-READ'"));
    }
    const WHERE: &str = "SELECT @@server_id FROM t WHERE i = 7";
    for (set, strict, usual) in sets {
        conn.query_drop(format!("{set} {strict}")).await.expect("it may");
        for _ in 0..4 {
            assert_eq!(server_of(conn, WHERE).await, 100, "{set}");
        }
        conn.query_drop(format!("{set} {usual}")).await.expect("it may");
        let mut servers = HashMap::new();
        for _ in 0..20 {
            servers.insert(server_of(conn, WHERE).await, ());
        }
        assert!(servers.keys().any(|server| *server > 100), "{set}: {servers:?}");
    }
    if release == Release::Own {
        let unknown = conn.query_drop("SET @@transaction_isolation = 'READ-COMMITTED'").await;
        assert!(unknown.expect_err("10.11 has none").to_string().contains("1193"));
    }
}

/// What a procedure has left of its session before it failed is that session's and nobody else's, although the server tells of it
/// only when something changes.
async fn failures_tell_later(proxy: &Proxy) {
    let mut conn = proxy.connect(APP).await;
    for sql in [
        "CREATE PROCEDURE d.sets() BEGIN SET @left = 5; SIGNAL SQLSTATE '45000'; END",
        "CREATE PROCEDURE d.makes() BEGIN CREATE TEMPORARY TABLE d.left_there (i INT); SIGNAL SQLSTATE '45000'; END",
        "CREATE PROCEDURE d.chooses() BEGIN SET SESSION max_error_count = 7; SIGNAL SQLSTATE '45000'; END",
    ] {
        conn.query_drop(sql).await.expect("it may");
    }
    for (call, ask, stays) in [
        ("CALL d.sets()", "SELECT IFNULL(@left, 0) FROM d.t WHERE i = 7", 5),
        ("CALL d.makes()", "SELECT COUNT(*) FROM d.left_there", 0),
        ("CALL d.chooses()", "SELECT @@max_error_count FROM d.t WHERE i = 7", 7),
    ] {
        for warns in [false, true] {
            let mut conn = proxy.connect(APP).await;
            conn.query_drop(call).await.expect_err("it fails");
            if warns {
                let shown: Vec<mysql_async::Row> = conn.query("SHOW WARNINGS").await.expect("it answers");
                assert!(!shown.is_empty(), "{call}: its error is to be shown");
            }
            for _ in 0..3 {
                assert_eq!(server_of(&mut conn, ask).await, stays, "{call}, then {ask}");
            }
            let mut conn = proxy.connect(APP).await;
            conn.query_drop(call).await.expect_err("it fails");
        }
        for _ in 0..3 {
            let mut conn = proxy.connect(APP).await;
            conn.query_drop("UPDATE d.t SET t = 'row' WHERE i = 7").await.expect("it may");
            let found: Result<Option<u32>, _> = conn.query_first(ask).await;
            assert!(
                !matches!(found, Ok(Some(found)) if found == stays),
                "{call} was another session's: {found:?}"
            );
        }
    }
}

/// `read_only` stops no account that has READ_ONLY ADMIN, as that of these tests has; what writes behind the back of a read is
/// refused by the replica all the same, and runs on the primary.
async fn no_write_on_a_replica(cluster: &MariaDb, proxy: &Proxy) {
    let conn = &mut proxy.connect(APP).await;
    for sql in [
        "USE d",
        "CREATE TABLE written (i INT AUTO_INCREMENT PRIMARY KEY)",
        "CREATE TABLE unsafely_written (i INT) ENGINE = MyISAM",
        "CREATE FUNCTION writes() RETURNS INT DETERMINISTIC BEGIN INSERT INTO written VALUES (); RETURN 1; END",
        "CREATE FUNCTION writes_unsafely() RETURNS INT DETERMINISTIC BEGIN INSERT INTO unsafely_written VALUES (1); RETURN 1; END",
        "CREATE FUNCTION rights_itself() RETURNS INT DETERMINISTIC BEGIN SET SESSION tx_read_only = OFF; RETURN 1; END",
        "CREATE PROCEDURE ends_and_writes() BEGIN COMMIT; INSERT INTO written VALUES (); END",
        "CREATE VIEW writing AS SELECT writes() AS i FROM t WHERE i = 7",
        "CREATE VIEW writing_unsafely AS SELECT writes_unsafely() AS i FROM t WHERE i = 7",
        "CREATE VIEW drawing AS SELECT NEXTVAL(s) AS i",
        "CREATE VIEW righting AS SELECT rights_itself() AS i FROM t WHERE i = 7",
    ] {
        conn.query_drop(sql).await.expect("it may");
    }
    let read = "SELECT i FROM t WHERE i = 7";
    let mut written = 0;
    for round in 0..8 {
        // Other names are other statements: what a replica has refused once is a write from then on.
        for sql in [
            format!("SELECT i AS text_{round} FROM writing"),
            format!("SELECT 1; SELECT i AS several_{round} FROM writing"),
            format!("SELECT @@tx_read_only, i AS beside_{round} FROM writing"),
            format!("SET TRANSACTION READ WRITE; SELECT i AS then_{round} FROM writing"),
            format!("SELECT i AS rightly_{round} FROM writing"),
        ] {
            // Some of them bind their session.
            let mut conn = proxy.connect(APP).await;
            conn.query_drop("USE d").await.expect("it may");
            let begin = if sql.contains("rightly") { "SELECT i FROM righting" } else { read };
            conn.query_drop(begin).await.expect("it answers");
            conn.query_drop(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            written += 1;
        }
        conn.query_drop("SET TRANSACTION READ WRITE").await.expect("it may");
        let sql = format!("SELECT i AS prepared_{round} FROM writing WHERE ? = 1");
        let row: Option<u32> = conn.exec_first(&sql, (1,)).await.expect("the primary may");
        assert_eq!(row, Some(1));
        written += 1;
        for view in ["writing_unsafely", "drawing"] {
            conn.query_drop(format!("SELECT i AS text_{round} FROM {view}")).await.expect("the primary may");
        }
    }
    wrote_nothing(cluster).await;
    // Transactions that stay on their replica, and whose procedure ends them.
    let patience = Instant::now() + Duration::from_secs(120);
    let mut at_replicas = 0;
    while at_replicas < 3 {
        assert!(Instant::now() < patience, "no transaction is on a replica");
        let mut conn = proxy.connect(APP).await;
        conn.query_drop("START TRANSACTION READ ONLY").await.expect("it may");
        let server = server_of(&mut conn, "SELECT @@server_id FROM d.t WHERE i = 7").await;
        assert_eq!(server_of(&mut conn, "SELECT @@tx_read_only").await, 0, "the session's own");
        match conn.query_drop("CALL d.ends_and_writes()").await.map_err(|error| error.to_string()) {
            Ok(()) if server == 100 => written += 1,
            Err(refused) if server > 100 && refused.contains("1792") => at_replicas += 1,
            Err(unknown) if server > 100 && unknown.contains("1305") => {}
            other => panic!("at {server}: {other:?}"),
        }
    }
    assert_eq!(server_of(conn, "SELECT COUNT(*) FROM written").await, written);
    wrote_nothing(cluster).await;
    access_mode(conn, read).await;
}

/// No replica has a transaction of its own.
async fn wrote_nothing(cluster: &MariaDb) {
    for ordinal in [1, 2] {
        let mut replica = cluster.connect(ordinal, ROOT).await;
        let made: Option<String> =
            replica.query_first("SELECT @@gtid_binlog_state").await.expect("it answers");
        let made = made.expect("a row");
        assert!(!made.contains(&format!("-{}-", 100 + ordinal)), "mariadb-{ordinal} wrote: {made}");
    }
}

/// What a session sets and reads of its transactions' access mode is its own.
async fn access_mode(conn: &mut Conn, read: &str) {
    let write = "INSERT INTO written VALUES ()";
    for set in ["SET SESSION TRANSACTION READ ONLY", "SET SESSION tx_read_only = 1", "SET tx_read_only = ON"]
    {
        for (name, value) in [("SELECT @@tx_read_only", 0), ("SELECT @@SESSION.tx_read_only", 0)] {
            assert_eq!(server_of(conn, read).await, 7);
            assert_eq!(server_of(conn, name).await, value);
        }
        conn.query_drop(set).await.expect("it may");
        assert_eq!(server_of(conn, "SELECT @@tx_read_only").await, 1, "{set}");
        assert_eq!(server_of(conn, read).await, 7);
        let refused = conn.query_drop(write).await.expect_err("it may not write").to_string();
        assert!(refused.contains("1792"), "{refused}");
        assert_eq!(server_of(conn, read).await, 7);
        conn.query_drop("START TRANSACTION READ WRITE").await.expect("it may");
        conn.query_drop(write).await.expect("so it may write");
        conn.query_drop("COMMIT").await.expect("it may");
        assert_eq!(server_of(conn, read).await, 7);
        conn.query_drop("SET SESSION TRANSACTION READ WRITE").await.expect("it may");
        assert_eq!(server_of(conn, read).await, 7);
        let shown: Option<(String, String)> =
            conn.query_first("SHOW VARIABLES LIKE 'tx_read%'").await.expect("it answers");
        assert_eq!(shown.map(|(_, value)| value).as_deref(), Some("OFF"), "{set}");
        conn.query_drop(write).await.expect("it may write again");
    }
}

/// A session begins as on a server of its own, whoever had the connection before; and is told what it asks to be told.
async fn beginnings(proxy: &Proxy) {
    let usual = USUAL | flag::SESSION_TRACK;
    for _ in 0..5 {
        let mut before = Raw::connect(proxy.port(), APP, usual).await;
        assert!(matches!(before.query("SELECT nope FROM d.t").await, Outcome::Refused(_)));
        drop(before);
        let mut after = Raw::connect(proxy.port(), APP, usual).await;
        match after.query("SHOW ERRORS").await {
            Outcome::Rows { rows, .. } => assert!(rows.is_empty(), "{rows:?}"),
            other => panic!("{other:?}"),
        }
        let mut fresh = Raw::connect(proxy.port(), APP, usual).await;
        assert_eq!(fresh.text("SELECT FOUND_ROWS()").await, "1", "so it is on MariaDB");
    }
    let mut raw = Raw::connect(proxy.port(), APP, usual).await;
    let mut changes = async |sql: &str| match raw.query(sql).await {
        Outcome::Done(done) => done.changes,
        other => panic!("{sql}: {other:?}"),
    };
    changes("SET SESSION session_track_transaction_info = 'STATE'").await;
    assert_eq!(changes("START TRANSACTION").await, [(5, b"\x08T_______".to_vec())]);
    changes("COMMIT").await;
    changes("SET SESSION session_track_system_variables = 'max_error_count', session_track_transaction_info = 'OFF'")
        .await;
    assert_eq!(changes("SET SESSION max_error_count = 7").await, [(0, b"\x0fmax_error_count\x017".to_vec())]);
    assert_eq!(changes("SET SESSION time_zone = '+03:00'").await, [], "nobody has asked");
    match raw.query("KILL CONNECTION_ID()").await {
        Outcome::Refused(refusal) => assert_eq!((refusal.code, &*refusal.state), (1927, "70100")),
        other => panic!("{other:?}"),
    }
}

/// MariaDB takes the numbers of few collations.
const SPEECH: [&[&str]; 5] = [
    &["SET NAMES latin1 COLLATE latin1_bin", "SET character_set_client = utf8mb4"],
    &["SET NAMES utf8mb4"],
    &["SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci"],
    &["SET character_set_results = latin1"],
    &["SET character_set_connection = ucs2"],
];

/// What the session speaks is the same on every connection that serves it, and the collation that results have.
async fn speech_goes_along(proxy: &Proxy, sets: &[&str]) {
    let mut conn = proxy.connect(APP).await;
    for sql in ["USE d"].iter().chain(sets) {
        conn.query_drop(*sql).await.expect("it may");
    }
    let sql = "SELECT @@server_id, HEX(CONCAT_WS(' ', @@character_set_client, @@character_set_connection, \
               @@character_set_results, @@collation_connection)), 'x' FROM t WHERE i = 7";
    let mut first = None;
    let mut at_replicas = 0;
    for _ in 0..10 {
        // Writes leave their connection; the read finds another.
        conn.query_drop("UPDATE t SET t = 'row' WHERE i = 7").await.expect("the primary may");
        let row: Option<mysql_async::Row> = conn.query_first(sql).await.expect("it answers");
        let mut row = row.expect("a row");
        let collation = row.columns_ref()[2].character_set();
        at_replicas += u32::from(row.take::<u32, _>(0).is_some_and(|server| server > 100));
        let seen = (row.take::<Vec<u8>, _>(1), collation);
        assert_eq!(&seen, first.get_or_insert_with(|| seen.clone()), "{sets:?}");
    }
    assert!(at_replicas > 0, "{sets:?}: every replica refused what makes the session");
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

/// A read's connection is cut off by KILL, or because its server stops: another replica answers, also without a primary.
async fn replica_goes(cluster: &MariaDb, conn: &mut Conn) {
    for statement in ["KILL SOFT", "KILL", "SHUTDOWN"] {
        let mut locks = Vec::new();
        for ordinal in [1, 2] {
            let mut root = cluster.connect(ordinal, ROOT).await;
            root.query_drop("LOCK TABLES d.t WRITE").await.expect("root may");
            locks.push((ordinal, root, cluster.connect(ordinal, ROOT).await));
        }
        let mut read = std::pin::pin!(conn.query_first::<String, _>("SELECT t FROM d.t WHERE i = 7"));
        let find = "SELECT id FROM information_schema.processlist WHERE user = 'app' AND state LIKE 'Waiting for%lock'";
        let patience = Instant::now() + Duration::from_secs(40);
        let (at, thread) = loop {
            tokio::select! {
                answer = &mut read => panic!("it does not wait: {answer:?}"),
                () = sleep(Duration::from_millis(20)) => {}
            }
            assert!(Instant::now() < patience, "the read is nowhere");
            let mut found = None;
            for (ordinal, _, root) in &mut locks {
                let thread: Option<u64> = root.query_first(find).await.expect("it answers");
                found = found.or(thread.map(|thread| (*ordinal, thread)));
            }
            if let Some(found) = found {
                break found;
            }
        };
        locks.retain(|(ordinal, ..)| *ordinal == at);
        let (_, _, root) = &mut locks[0];
        let cut = if statement.starts_with("KILL") {
            format!("{statement} {thread}")
        } else {
            statement.to_owned()
        };
        root.query_drop(cut).await.expect("root may");
        assert_eq!(read.await.expect("another replica answers").as_deref(), Some("row"), "{statement}");
    }
}

/// Since 11.4 servers have a certificate of their own making, and clients check that of everybody who is not on loopback.
#[test]
fn tls_on_both_sides() {
    support::run(async {
        let cluster = MariaDb::start(Release::Newest, 0).await;
        let mut root = cluster.connect(0, ROOT).await;
        for sql in [
            "INSTALL SONAME 'auth_parsec'",
            "INSTALL SONAME 'auth_mysql_sha2'",
            "CREATE USER parsec IDENTIFIED VIA parsec USING PASSWORD('secret') REQUIRE SSL",
            "CREATE USER sha2 IDENTIFIED VIA caching_sha2_password USING PASSWORD('secret') REQUIRE SSL",
        ] {
            root.query_drop(sql).await.expect("root may");
        }
        let address = Ipv4Addr::new(127, 0, 0, 2);
        certify(cluster.folder(), address);
        let (folder, port) = (cluster.folder().display(), free_port().expect("there is a free port"));
        let overrides = format!(
            "listen: {{address: \"{address}:{port}\"}}\nserver_tls: {{mode: required}}\n\
             client_tls: {{certificate_file: \"{folder}/certificate.pem\", key_file: \"{folder}/key.pem\"}}"
        );
        let proxy = Proxy::start_over(cluster.folder(), &cluster.servers(), &overrides).await;
        let sql = "SELECT VARIABLE_VALUE <> '' FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'";
        let parsec = Account { user: "parsec", password: "secret" };
        let sha2 = Account { user: "sha2", password: "secret" };
        for account in [APP, parsec, sha2] {
            for again in 0..2 {
                let answer = client(&cluster, (address, port), account, &["--ssl-ca", "ca.pem"], sql).await;
                assert_eq!(answer.as_deref(), Ok("1\n"), "{account:?} {again}\n{}", proxy.log());
            }
        }
        let answer =
            client(&cluster, (address, port), APP, &[], sql).await.expect_err("a CA that it does not know");
        assert!(answer.contains("TLS/SSL error"), "{answer}");
    });
}

/// Writes `ca.pem`, `certificate.pem` for this address, and `key.pem`.
fn certify(folder: &Path, address: Ipv4Addr) {
    let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With one name for both the certificate would look as if it had signed itself.
    parameters.distinguished_name.push(DnType::CommonName, "the CA");
    let ca = CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let parameters = CertificateParams::new(vec![address.to_string()]).expect("an address");
    let certificate = parameters.signed_by(&key, &ca).expect("a certificate");
    for (name, pem) in
        [("ca.pem", ca.pem()), ("certificate.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), pem).expect("the folder is ours");
    }
}

/// What MariaDB's own client prints, or what it complains of.
async fn client(
    cluster: &MariaDb,
    (host, port): (Ipv4Addr, u16),
    account: Account,
    options: &[&str],
    sql: &str,
) -> Result<String, String> {
    let run = Command::new(cluster.program("mariadb"))
        .args(["--no-defaults", "--skip-column-names", "--batch"])
        .args([format!("--host={host}"), format!("--port={port}"), format!("--user={}", account.user)])
        .arg(format!("--password={}", account.password))
        .arg(format!("--plugin-dir={}", cluster.client_plugins().display()))
        .args(options)
        .arg(format!("--execute={sql}"))
        .current_dir(cluster.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(120), run).await.expect("in time").expect("it runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
