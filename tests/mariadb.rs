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
use support::raw::{Raw, USUAL, flag};
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
        let plugins: &[_] = match release {
            Release::Own => &["ed25519"],
            Release::Newest => &["ed25519", "parsec"],
        };
        for plugin in plugins {
            by_key(&cluster, &proxy, plugin).await;
        }
        own_writes_are_seen(&mut conn).await;
        its_own_sql(&mut conn).await;
        sessions(&proxy, &mut conn).await;

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

/// A user whose password the servers know as a key only, and who is called as the plugin is.
async fn by_key(cluster: &MariaDb, proxy: &Proxy, plugin: &'static str) {
    for ordinal in 0..3 {
        let mut root = cluster.connect(ordinal, ROOT).await;
        root.query_drop(format!("INSTALL SONAME 'auth_{plugin}'")).await.expect("the package has it");
    }
    let mut root = cluster.connect(0, ROOT).await;
    for sql in [
        format!("CREATE USER {plugin} IDENTIFIED VIA {plugin} USING PASSWORD('secret')"),
        format!("GRANT SELECT ON d.* TO {plugin}"),
    ] {
        root.query_drop(sql).await.expect("root may");
    }
    let account = Account { user: plugin, password: "secret" };
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
    // A connection that a replica makes for this session is given the collation of its results by number.
    let mut fresh = proxy.connect(APP).await;
    for sql in ["USE d", "SET NAMES latin1 COLLATE latin1_bin", "SET character_set_client = utf8mb4"] {
        fresh.query_drop(sql).await.expect("it may");
    }
    let sql = "SELECT @@server_id, CONCAT_WS(' ', @@character_set_client, @@character_set_results, \
               @@collation_connection) FROM t WHERE i = 7";
    let mut at_replicas = 0;
    for _ in 0..10 {
        let row: Option<(u32, String)> = fresh.query_first(sql).await.expect("it answers");
        let (server, seen) = row.expect("a row");
        assert_eq!(seen, "utf8mb4 latin1 latin1_bin");
        at_replicas += u32::from(server > 100);
    }
    assert!(at_replicas > 0, "every replica refused what makes the session");
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

/// Since 11.4 servers have a certificate of their own making, and clients check that of everybody who is not on loopback.
#[test]
fn tls_on_both_sides() {
    support::run(async {
        let cluster = MariaDb::start(Release::Newest, 0).await;
        let mut root = cluster.connect(0, ROOT).await;
        for sql in [
            "INSTALL SONAME 'auth_parsec'",
            "CREATE USER parsec IDENTIFIED VIA parsec USING PASSWORD('secret') REQUIRE SSL",
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
        for account in [APP, parsec] {
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
