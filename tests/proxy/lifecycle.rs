//! How clients come and go: limits, idle clients, the end of the proxy, and what is left behind in the pools.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use mysql_async::prelude::Queryable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep};

use super::large::memory;
use super::session::until_running;
use super::support::cluster::{APP, Cluster, ROOT};
use super::support::proxy::Proxy;
use super::support::raw::{Outcome, Raw, USUAL, command, flag, refusal};
use super::{own_table, run};

async fn start(overrides: &str) -> Proxy {
    super::proxy().await;
    Proxy::start(Cluster::shared().await, overrides).await
}

/// Open, idle and waiting, all servers together.
fn pools(proxy: &Proxy) -> (u64, u64, u64) {
    let status: serde_json::Value = serde_json::from_str(&proxy.page("/status")).expect("JSON");
    let sum = |name: &str| {
        let pools = status["pools"].as_array().expect("a list");
        pools.iter().map(|pool| pool[name].as_u64().expect("a number")).sum()
    };
    (sum("open"), sum("idle"), sum("waiting"))
}

/// Waits until every connection to a server is back.
async fn settled(proxy: &Proxy) {
    held(proxy, 0).await;
}

/// Waits until no more connections to servers than these are in use.
async fn held(proxy: &Proxy, most: u64) {
    until(|| {
        let (open, idle, waiting) = pools(proxy);
        let fits = open - idle <= most && waiting == 0;
        fits.then_some(()).ok_or_else(|| format!("{open} open, {idle} idle, {waiting} waiting"))
    })
    .await;
}

/// Waits until the clients of all tests that are over have been noticed to be gone.
async fn connected(proxy: &Proxy, most: u64) {
    until(|| {
        let status: serde_json::Value = serde_json::from_str(&proxy.page("/status")).expect("JSON");
        let connected = status["clients"]["connected"].as_u64().expect("a number");
        (connected <= most).then_some(()).ok_or_else(|| format!("{connected} clients"))
    })
    .await;
}

/// Waits until it is as it should be; else says how it is.
async fn until<T>(mut look: impl FnMut() -> Result<T, String>) -> T {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(still) => assert!(Instant::now() < patience, "{still}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn idle_clients_cost_next_to_nothing() {
    run(async {
        let proxy = start("").await;
        let open = async |count: usize| {
            let mut clients = Vec::new();
            for _ in 0..count {
                let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
                raw.run("SET @x = 1").await;
                clients.push(raw);
            }
            clients
        };
        let warm = open(100).await;
        held(&proxy, 2).await;
        let mut clients = Vec::new();
        let mut cheapest = u64::MAX;
        // What the allocator keeps comes in lumps, so the cheaper of two thousands counts.
        for _ in 0..2 {
            let before = memory(proxy.process(), "VmRSS:");
            clients.extend(open(1000).await);
            held(&proxy, 2).await;
            cheapest = cheapest.min(memory(proxy.process(), "VmRSS:").saturating_sub(before));
        }
        println!("an idle client takes {} bytes", cheapest * 1024 / 1000);
        assert!(cheapest <= 8 * 1000, "{cheapest} KiB for 1,000 clients");
        drop((warm, clients));
        settled(&proxy).await;
    });
}

#[test]
fn idle_connections_are_closed_while_others_write() {
    run(async {
        // Snapshots change with every probe while somebody writes.
        let proxy = start("pool: {idle_s: 1}\nmonitor: {interval_ms: 100}").await;
        let cluster = Cluster::shared().await;
        cluster.script("CREATE TABLE d.busy (i INT)").await;
        let mut burst: Vec<_> = join_all((0..20).map(|_| Raw::connect(proxy.port(), APP, USUAL))).await;
        let mut root = cluster.connect(0, ROOT).await;
        root.query_drop("LOCK TABLES d.busy WRITE").await.expect("root may");
        for raw in &mut burst {
            raw.send_query(b"INSERT INTO d.busy VALUES (0)").await;
        }
        until(|| {
            let (open, idle, _) = pools(&proxy);
            (open - idle >= 20).then_some(()).ok_or_else(|| format!("{open} open, {idle} idle"))
        })
        .await;
        root.query_drop("UNLOCK TABLES").await.expect("root may");
        for raw in &mut burst {
            assert!(matches!(raw.outcome().await, Outcome::Done(_)));
        }
        let mut writer = Raw::connect(proxy.port(), APP, USUAL).await;
        let patience = Instant::now() + Duration::from_secs(60);
        while pools(&proxy).0 > 4 {
            assert!(Instant::now() < patience, "{:?}", pools(&proxy));
            writer.run("INSERT INTO d.busy VALUES (1)").await;
            sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn limits_are_told() {
    run(async {
        own_table("limited").await;
        let proxy =
            start("limits: {clients: 3}\npool: {max_per_server: 1, max_waiters: 1, wait_ms: 5000}").await;
        // The places of those that are gone, as the first login's further connections are, are free a moment later.
        let let_in = async || loop {
            match Raw::try_connect(proxy.port(), APP, USUAL, "").await {
                Ok(client) => return client,
                Err(refusal) => assert_eq!(refusal.code, 1040, "{refusal:?}"),
            }
        };
        let mut clients = [let_in().await, let_in().await, let_in().await];
        let full = Raw::try_connect(proxy.port(), APP, USUAL, "").await.err().unwrap();
        assert_eq!(full.code, 1040);
        // One connection to the primary, and one that may wait for it.
        clients[0].run("BEGIN").await;
        clients[0].run("UPDATE d.limited SET t = t WHERE id = 1").await;
        for waiting in &mut clients[1..] {
            waiting.send_query(b"UPDATE d.limited SET t = t WHERE id = 2").await;
        }
        for waiting in &mut clients[1..] {
            let packet = waiting.packet().await;
            assert_eq!((packet[0], refusal(&packet).code), (0xFF, 1226), "{:?}", refusal(&packet));
        }
        clients[0].run("COMMIT").await;
        held(&proxy, 0).await;
        clients[1].run("UPDATE d.limited SET t = t WHERE id = 2").await;
        drop(clients);
        connected(&proxy, 0).await;
        let_in().await;
        settled(&proxy).await;
        // Clients that say nothing, or stop in the middle of their login.
        let proxy = start("limits: {login_s: 2}").await;
        let silent = [&b""[..], &[5, 0, 0, 1, 0x85], &[0xFF; 40]].map(async |said: &[u8]| {
            let mut silent = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
            silent.write_all(said).await.unwrap();
            let mut sink = Vec::new();
            let _ = silent.read_to_end(&mut sink).await;
        });
        join_all(silent).await;
        connected(&proxy, 0).await;
    });
}

/// More clients than connections, and each always has a next statement: whoever has a connection must not keep it. They
/// all write to a row of their own, which no other test locks.
#[test]
fn clients_take_turns() {
    run(async {
        let proxy = start("pool: {max_per_server: 2}").await;
        let mut first = Raw::connect(proxy.port(), APP, USUAL).await;
        first.run("CREATE TABLE d.turns (id INT AUTO_INCREMENT PRIMARY KEY, n INT)").await;
        first.run("INSERT INTO d.turns (n) VALUES (0)").await;
        for cycle in [
            &["SELECT n FROM d.turns WHERE id = 1"][..],
            &["SELECT 'a' + 1"],
            &["UPDATE d.turns SET n = n WHERE id = 1"],
            &["SELECT 'a' + 1 FROM d.turns WHERE id = 1 FOR UPDATE", "SHOW WARNINGS"],
            &["INSERT INTO d.turns (n) VALUES (1)", "SELECT n FROM d.turns WHERE id = 1"],
        ] {
            let served: Vec<Cell<u32>> = vec![Cell::default(); 8];
            let client = async |own: &Cell<u32>| {
                let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
                while served.iter().any(|count| count.get() < 10) {
                    for sql in cycle {
                        let outcome = raw.query(sql).await;
                        assert!(!matches!(outcome, Outcome::Refused(_)), "{sql}: {outcome:?}");
                    }
                    own.set(own.get() + 1);
                }
            };
            join_all(served.iter().map(client)).await;
        }
        first.run("DROP TABLE d.turns").await;
        drop(first);
        settled(&proxy).await;
    });
}

/// A transaction on a replica stays on its connection while the primary's, which has the session's LAST_INSERT_ID, goes.
#[test]
fn an_idle_transaction_keeps_its_connection() {
    run(async {
        let proxy = start("pool: {linger_ms: 500}").await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        raw.run("CREATE TABLE d.kept (id INT AUTO_INCREMENT PRIMARY KEY)").await;
        raw.run("INSERT INTO d.kept VALUES (NULL)").await;
        // Replicas that other tests keep busy may be behind for a while.
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            raw.run("START TRANSACTION READ ONLY").await;
            if raw.text("SELECT server > 0 FROM d.home").await == "1" {
                break;
            }
            raw.run("COMMIT").await;
            assert!(Instant::now() < patience, "no replica serves it");
            sleep(Duration::from_millis(100)).await;
        }
        held(&proxy, 1).await;
        assert_eq!(raw.text("SELECT server > 0 FROM d.home").await, "1", "it goes on where it was");
        held(&proxy, 1).await;
        assert_eq!(raw.text("SELECT LAST_INSERT_ID()").await, "1");
        raw.run("COMMIT").await;
        raw.run("DROP TABLE d.kept").await;
        drop(raw);
        settled(&proxy).await;
    });
}

#[test]
fn a_storm_of_broken_clients_leaves_nothing_behind() {
    run(async {
        own_table("stormy").await;
        let proxy = start("pool: {max_per_server: 10}").await;
        let port = proxy.port();
        drop(Raw::connect(port, APP, USUAL).await);
        for wave in 0..3 {
            let clients = (0..60).map(|number: u64| async move {
                if number % 5 == 4 {
                    let mut noise = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let _ = noise.write_all(&[u8::try_from(number).unwrap(); 200]).await;
                    return;
                }
                let mut raw = Raw::connect(port, APP, USUAL).await;
                let sql: &[u8] = match number % 10 {
                    0 => b"SELECT SLEEP(0.3)",
                    1 => b"SELECT * FROM information_schema.COLUMNS",
                    2 => b"BEGIN; UPDATE d.stormy SET t = t WHERE id = 1",
                    3 => b"SELECT GET_LOCK('storm', 0.1)",
                    5 => b"DO SLEEP(0.2)",
                    6 => b"SELECT REPEAT('x', 30000000)",
                    7 => b"SELECT t FROM d.stormy FOR UPDATE",
                    _ => b"SELECT * FROM d.no_such",
                };
                raw.send_query(sql).await;
                sleep(Duration::from_millis(number * 7 % 150)).await;
                if number.is_multiple_of(3) {
                    // Half a command more.
                    let _ = raw.send_bytes(&[100, 0, 0, 0, command::QUERY, b'S']).await;
                }
            });
            join_all(clients).await;
            sleep(Duration::from_millis(100 * wave)).await;
        }
        connected(&proxy, 0).await;
        settled(&proxy).await;
        let (open, ..) = pools(&proxy);
        assert!(open <= 30, "{open}");
        let mut raw = Raw::connect(port, APP, USUAL).await;
        assert_eq!(raw.text("SELECT t FROM d.stormy WHERE id = 1 FOR UPDATE").await, "one");
        assert_eq!(raw.text("SELECT IS_FREE_LOCK('storm')").await, "1");
    });
}

#[test]
fn sigterm_lets_transactions_end() {
    run(async {
        own_table("drained").await;
        let mut proxy = start("limits: {drain_s: 600}").await;
        let mut idle = Raw::connect(proxy.port(), APP, USUAL).await;
        idle.run("DO 1").await;
        let mut open = Raw::connect(proxy.port(), APP, USUAL).await;
        open.run("BEGIN").await;
        open.run("UPDATE d.drained SET t = 'ONE' WHERE id = 1").await;
        let mut busy = Raw::connect(proxy.port(), APP, USUAL).await;
        busy.send_query(b"SELECT 'waits', t FROM d.drained WHERE id = 1 FOR UPDATE").await;
        until_running(1, "SELECT ''waits''").await;
        proxy.terminate();
        assert_eq!(refusal_of(&mut idle).await, 1053);
        assert!(idle.is_closed().await);
        assert!(TcpStream::connect(("127.0.0.1", proxy.port())).await.is_err());
        open.run("UPDATE d.drained SET t = 'one' WHERE id = 1").await;
        open.run("COMMIT").await;
        assert!(matches!(busy.outcome().await, Outcome::Rows { end: Ok(_), .. }));
        for raw in [&mut open, &mut busy] {
            assert_eq!(refusal_of(raw).await, 1053);
        }
        let status = proxy.ended(Duration::from_secs(60)).await.expect("it ends when all clients are gone");
        assert_eq!(status.code(), Some(0));
    });
}

/// The code of the good-bye, which comes without a command before it.
async fn refusal_of(raw: &mut Raw) -> u16 {
    raw.next_command();
    refusal(&raw.packet().await).code
}

#[test]
fn sigterm_cuts_what_does_not_end() {
    run(async {
        let mut proxy = start("limits: {drain_s: 1}").await;
        let mut open = Raw::connect(proxy.port(), APP, USUAL).await;
        open.run("BEGIN").await;
        let mut busy = Raw::connect(proxy.port(), APP, USUAL).await;
        busy.send_query(b"SELECT SLEEP(600)").await;
        // One that takes nothing of its answer.
        let mut stuck = Raw::connect(proxy.port(), APP, USUAL).await;
        stuck.send_query(b"SELECT REPEAT('x', 60000000)").await;
        until_running(1, "SLEEP(600)").await;
        proxy.terminate();
        let status = proxy.ended(Duration::from_secs(60)).await.expect("it ends in time");
        assert_eq!(status.code(), Some(0));
        assert!(open.is_closed().await);
    });
}

#[test]
fn a_unix_socket_serves_too() {
    run(async {
        super::proxy().await;
        let cluster = Cluster::shared().await;
        let path = cluster.folder().join("proxy.sock");
        let proxy = Proxy::start(cluster, &format!("listen: {{socket: \"{}\"}}", path.display())).await;
        let client = cluster.home().installation().client("mysql").unwrap();
        // The password is not known yet: full authentication over the socket.
        let output = tokio::process::Command::new(client)
            .args(["--no-defaults", "--protocol=SOCKET", "-N", "-eSELECT CURRENT_USER()"])
            .arg(format!("--socket={}", path.display()))
            .args([format!("--user={}", APP.user), format!("--password={}", APP.password)])
            .output()
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "app@%\n", "{output:?}");
        // The application beside it is another user.
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o777);
        let mut rude = UnixStream::connect(&path).await.unwrap();
        rude.write_all(&[0xFF; 100]).await.unwrap();
        drop(rude);
        assert!(proxy.try_connect(APP).await.is_ok());
    });
}

#[test]
fn tls_is_as_the_configuration_says() {
    run(async {
        super::proxy().await;
        let cluster = Cluster::shared().await;
        let client = cluster.home().installation().client("mysql").unwrap();
        for (mode, server_mode) in
            [("preferred", "required"), ("required", "preferred"), ("disabled", "disabled")]
        {
            let overrides = format!("client_tls: {{mode: {mode}}}\nserver_tls: {{mode: {server_mode}}}");
            let proxy = Proxy::start(cluster, &overrides).await;
            for ssl in ["REQUIRED", "DISABLED"] {
                let output = tokio::process::Command::new(&client)
                    .args([
                        "--no-defaults",
                        "--protocol=TCP",
                        "--host=127.0.0.1",
                        "-N",
                        "--get-server-public-key",
                    ])
                    .args([format!("--port={}", proxy.port()), format!("--ssl-mode={ssl}")])
                    .args([format!("--user={}", APP.user), format!("--password={}", APP.password)])
                    .arg("-eSHOW STATUS LIKE 'Ssl_version'")
                    .output()
                    .await
                    .unwrap();
                let fits = !matches!((mode, ssl), ("required", "DISABLED") | ("disabled", "REQUIRED"));
                assert_eq!(output.status.success(), fits, "{mode} {ssl} {output:?}");
                if fits {
                    // What the server says is of its own connection.
                    let said = String::from_utf8_lossy(&output.stdout);
                    assert_eq!(said.contains("TLSv1.3"), server_mode != "disabled", "{mode} {ssl}: {said}");
                }
            }
        }
    });
}

/// The refusal that comes by itself when a client was idle too long, after which the connection is closed.
async fn closed_for_idleness(raw: &mut Raw) {
    raw.no_command();
    let refused = refusal(&raw.packet().await);
    assert_eq!(refused.code, 4031, "{refused:?}");
    assert!(refused.text.contains("See wait_timeout and interactive_timeout"), "{refused:?}");
    assert!(raw.is_closed().await);
}

/// Although no server connection is the client's own, it is as if one were.
#[test]
fn timeouts_and_limits_are_the_servers() {
    run(async {
        let cluster = Cluster::start(0).await;
        let mut root = cluster.connect(0, ROOT).await;
        for set in ["interactive_timeout = 10", "max_allowed_packet = 1048576"] {
            root.query_drop(format!("SET GLOBAL {set}")).await.expect("root may");
        }
        let proxy = Proxy::start(&cluster, "").await;
        let mut patient = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut person = Raw::connect(proxy.port(), APP, USUAL | flag::INTERACTIVE).await;
        assert_eq!(person.text("SELECT @@wait_timeout").await, "10");
        // What a session sets counts from then on, in a transaction too.
        let mut hasty = Raw::connect(proxy.port(), APP, USUAL).await;
        hasty.run("SET SESSION wait_timeout = 10").await;
        let mut bound = Raw::connect(proxy.port(), APP, USUAL).await;
        bound.run("SET SESSION wait_timeout = 10").await;
        bound.run("BEGIN").await;
        bound.run("CREATE TEMPORARY TABLE mysql.pinned (i INT)").await;
        let mut relieved = Raw::connect(proxy.port(), APP, USUAL).await;
        relieved.run("SET SESSION wait_timeout = 10").await;
        relieved.run("SET SESSION wait_timeout = DEFAULT").await;
        join_all([&mut person, &mut hasty, &mut bound].map(closed_for_idleness)).await;
        sleep(Duration::from_millis(500)).await;
        for raw in [&mut relieved, &mut patient] {
            assert_eq!(raw.text("SELECT @@wait_timeout").await, "28800");
        }
        // A statement larger than the server takes never reaches it.
        patient.send_query(&[b"SELECT '", &[b'x'; 1_048_576][..], b"'"].concat()).await;
        let refused = refusal(&patient.packet().await);
        assert_eq!(
            (refused.code, refused.text.as_str()),
            (1153, "Got a packet bigger than 'max_allowed_packet' bytes")
        );
        assert!(patient.is_closed().await);
    });
}
