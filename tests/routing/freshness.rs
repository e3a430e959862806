//! What a session has written it reads, whatever the replicas do: delayed, stopped, one of them, all of them.

use mysql_async::prelude::Queryable;

use super::{APP, Cluster, PROBE, Proxy, ROOT, Scene};
use crate::client::Client;
use crate::support;

/// What is done to the appliers of both replicas.
const SITUATIONS: [(&str, [&str; 2]); 4] = [
    ("both well", ["", ""]),
    ("both two seconds late", [DELAY, DELAY]),
    ("one stopped", ["", "STOP REPLICA SQL_THREAD"]),
    ("both stopped", ["STOP REPLICA SQL_THREAD", "STOP REPLICA SQL_THREAD"]),
];
const DELAY: &str =
    "STOP REPLICA SQL_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_DELAY=2; START REPLICA SQL_THREAD";
const RECOVER: &str = "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_DELAY=0; START REPLICA";

#[test]
fn reads_are_never_older_than_they_may_be() {
    support::run(async {
        let scene = Scene::enter().await;
        let patient = Proxy::start(scene.cluster, "routing: {gtid_wait_ms: 5000}").await;
        let hasty = Proxy::start(scene.cluster, "routing: {gtid_wait_ms: 1000}").await;
        let global = Proxy::start(scene.cluster, "routing: {consistency: global, gtid_wait_ms: 1000}").await;
        let mut wrong = Vec::new();
        let mut value = 10_000;
        for (situation, [one, two]) in SITUATIONS {
            replica(scene.cluster, 1, one).await;
            replica(scene.cluster, 2, two).await;
            for (proxy, name) in [(&patient, "patient"), (&hasty, "hasty")] {
                let mut client = Client::connect(proxy.port(), APP).await;
                for _ in 0..2 {
                    value += 1;
                    for (read, how) in write_and_read(&mut client, value).await {
                        if read != Some(value.to_string()) {
                            wrong.push(format!("{situation}, {name}: {how}: {read:?}, not {value}"));
                        }
                    }
                }
            }
            let (mut writer, mut reader) =
                (Client::connect(global.port(), APP).await, Client::connect(global.port(), APP).await);
            for _ in 0..3 {
                value += 1;
                run(&mut writer, &format!("UPDATE t2 SET a={value} WHERE id=1")).await;
                let read = first(&mut reader, "SELECT a FROM t2 WHERE id=1").await;
                if read != Some(value.to_string()) {
                    wrong.push(format!("{situation}, global, another session: {read:?}, not {value}"));
                }
            }
            replica(scene.cluster, 1, RECOVER).await;
            replica(scene.cluster, 2, RECOVER).await;
            scene.cluster.caught_up().await;
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn eventual_reads_wait_for_nothing() {
    support::run(async {
        let scene = Scene::enter().await;
        // Before the proxy starts, or it may see both appliers stopped and send reads to the primary for a while.
        replica(scene.cluster, 1, DELAY).await;
        replica(scene.cluster, 2, DELAY).await;
        let proxy = Proxy::start(scene.cluster, "routing: {consistency: eventual}").await;
        let mut client = Client::connect(proxy.port(), APP).await;
        let mark = scene.cluster.mark();
        run(&mut client, "UPDATE t2 SET a=a+1 WHERE id=1").await;
        run(&mut client, PROBE).await;
        let servers = scene.cluster.servers_that_ran(&mark, APP.user, "/*probe*/");
        replica(scene.cluster, 1, RECOVER).await;
        replica(scene.cluster, 2, RECOVER).await;
        scene.cluster.caught_up().await;
        assert!(matches!(servers[..], [1 | 2]), "{servers:?}");
    });
}

/// Writes the value, and reads it in every way that may go to a replica.
async fn write_and_read(client: &mut Client, value: u32) -> Vec<(Option<String>, &'static str)> {
    const READ: &str = "SELECT a FROM t2 WHERE id=1";
    run(client, &format!("UPDATE t2 SET a={value} WHERE id=1")).await;
    let mut read = vec![(first(client, READ).await, "a read")];
    run(client, "START TRANSACTION READ ONLY").await;
    read.push((first(client, READ).await, "in a read-only transaction"));
    run(client, "COMMIT").await;
    run(client, "BEGIN").await;
    run(client, &format!("UPDATE t2 SET a={value}+1 WHERE id=1")).await;
    run(client, &format!("UPDATE t2 SET a={value} WHERE id=1")).await;
    run(client, "COMMIT").await;
    read.push((first(client, READ).await, "after a transaction"));
    client.reset().await;
    read.push((first(client, READ).await, "after COM_RESET_CONNECTION"));
    read
}

async fn first(client: &mut Client, sql: &str) -> Option<String> {
    let answer = client.query(sql).await;
    assert_eq!(answer.code(), None, "{sql}");
    answer.first()
}

async fn run(client: &mut Client, sql: &str) {
    first(client, sql).await;
}

/// Runs statements on a replica, past any proxy.
async fn replica(cluster: &Cluster, ordinal: usize, statements: &str) {
    let mut replica = cluster.connect(ordinal, ROOT).await;
    for statement in statements.split("; ").filter(|statement| !statement.is_empty()) {
        replica.query_drop(statement).await.expect("root may");
    }
}
