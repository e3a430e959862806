//! What can be lost of a cluster that `deploy/base` made, one thing after another, with an application at work: nothing that
//! was confirmed may be gone in the end.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use crate::cluster::{
    BOOT, DOORS, ROOT, SERVERS, SOON, boot, copies, lose, primary, root, said, value, well,
};
use crate::kubelet::Signal;
use crate::scene::{Scene, connect, scenario, until};
use crate::traffic::{APPLICATION, Traffic};

#[test]
fn servers_lose_what_they_can_lose() {
    scenario("loss", async |scene| {
        let traffic = boot(scene).await;
        an_errant_write(scene, &traffic).await;
        binary_logs_are_purged(scene, &traffic).await;
        let primary = the_primarys_pod_is_deleted(scene, &traffic).await;
        the_primary_is_killed(scene, &traffic, &primary).await;

        let mut server = root(scene, &primary).await.expect("it runs");
        let tally = traffic.finish(&mut server).await;
        eprintln!("loss: {tally}");
        tally.assert_fresh();
        // How long mysqld takes to come back is the machine's: those that waited in vain did nothing, and were told so.
        let waited = |error: &&String| error.contains("none came within routing.primary_wait_ms");
        let in_vain = tally.write_errors.iter().filter(waited).count();
        assert!(tally.read_errors.is_empty() && tally.write_errors.len() - in_vain <= 2, "{tally}");
        the_primarys_data_is_lost(scene, &primary).await;
        let primary = it_is_given_up(scene, &primary).await;
        the_primarys_node_ends(scene, primary).await;
    });
}

/// Somebody writes to a replica: it is left out and left alone, since people may want what it has. That given up with its
/// claim, it is made anew from its neighbour.
async fn an_errant_write(scene: &Scene, traffic: &Traffic) {
    let mut replica = root(scene, "mysql-2").await.expect("it runs");
    let uuid = value(scene, "mysql-2", "SELECT @@server_uuid").await;
    for statement in
        ["SET GLOBAL super_read_only = OFF", "CREATE DATABASE stray", "SET GLOBAL super_read_only = ON"]
    {
        replica.query_drop(statement).await.expect("root may");
    }
    traffic.reads_go_to(scene, &["mysql-1"], SOON).await;
    said(scene, "transactions that the primary has not", SOON).await;
    let gate = ".status.conditions[?(@.type==\"readwright.dev/serving\")].status";
    until("its gate is shut", SOON, async || match scene.field("pod/mysql-2", gate).await? {
        truth if truth == "False" => Ok(()),
        truth => Err(truth),
    })
    .await;

    let before = copies(scene);
    lose(scene, "mysql-2").await;
    traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], BOOT).await;
    assert_ne!(value(scene, "mysql-2", "SELECT @@server_uuid").await, uuid);
    assert_eq!(value(scene, "mysql-2", "SHOW DATABASES LIKE 'stray'").await.as_deref(), Ok(""));
    assert_eq!(copies(scene), before + 1);
    traffic.so_far().assert_no_errors();
}

/// A replica comes back to find that nobody has the logs from where it stopped: it is copied to again.
async fn binary_logs_are_purged(scene: &Scene, traffic: &Traffic) {
    scene.kubectl(&["scale", "statefulset/mysql", "--replicas=2"]).await;
    until("mysql-2 is gone", SOON, async || match scene.kubelet.address("mysql-2") {
        Some(_) => Err("it runs".to_owned()),
        None => Ok(()),
    })
    .await;
    traffic.writes(20, SOON).await;
    for name in ["mysql-0", "mysql-1"] {
        let mut server = root(scene, name).await.expect("it runs");
        server.query_drop("FLUSH BINARY LOGS").await.expect("root may");
        // A log stays while a replica is being sent from it.
        until("one log is left", SOON, async || {
            let logs: Vec<(String, u64, String)> = server.query("SHOW BINARY LOGS").await.expect("root may");
            let (last, ..) = logs.last().expect("there is one");
            server.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await.expect("root may");
            if logs.len() == 1 { Ok(()) } else { Err(format!("{logs:?}")) }
        })
        .await;
    }
    let before = copies(scene);
    scene.kubectl(&["scale", "statefulset/mysql", "--replicas=3"]).await;
    traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], BOOT).await;
    assert_eq!(copies(scene), before + 1);
    well(scene, &SERVERS, "mysql-0", SOON).await;
    traffic.so_far().assert_no_errors();
}

/// Before it ends, another server is the primary: clients see a pause. Gives who that is.
async fn the_primarys_pod_is_deleted(scene: &Scene, traffic: &Traffic) -> String {
    scene.kubectl(&["delete", "pod", "mysql-0", "--wait=true"]).await;
    let after = primary(scene).await.expect("there is a record");
    assert_ne!(after, "mysql-0");
    traffic.writes(50, SOON).await;
    traffic.reads_go_to(scene, &others(&after), BOOT).await;
    well(scene, &SERVERS, &after, SOON).await;
    traffic.so_far().assert_no_errors();
    after
}

/// Writes that were under way have an unknown outcome; the others wait until it is back, with its writes allowed again.
async fn the_primary_is_killed(scene: &Scene, traffic: &Traffic, primary: &str) {
    assert!(scene.kubelet.signal(primary, "mysql", Signal::KILL));
    traffic.writes(50, BOOT).await;
    traffic.reads_go_to(scene, &others(primary), SOON).await;
    well(scene, &SERVERS, primary, SOON).await;
}

/// Its pod is gone without a word, its claim as well. The empty server that comes back in its name is followed by nobody and
/// takes no writes; replicas go on serving reads. Who is the primary then is for people to say.
async fn the_primarys_data_is_lost(scene: &Scene, primary: &str) {
    let replicas = others(primary);
    all_is_replicated(scene, primary).await;
    let rows = value(scene, primary, "SELECT COUNT(*) FROM shop.orders").await;
    let readers = Traffic::start(scene, &DOORS, 0, 4);
    readers.reads_go_to(scene, &replicas, SOON).await;

    scene.kubectl(&["delete", "pvc", &format!("data-{primary}"), "--wait=false"]).await;
    scene.kubectl(&["delete", "pod", primary, "--grace-period=0", "--force"]).await;
    let empty = "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'shop'";
    until("an empty server is there in its name", BOOT, async || {
        match value(scene, primary, empty).await?.as_str() {
            "0" => Ok(()),
            _ => Err("it has the data".to_owned()),
        }
    })
    .await;
    said(scene, &format!("{primary}, the primary: it has not this cluster's data"), SOON).await;
    readers.reads_go_to(scene, &replicas, SOON).await;

    let door = &scene.kubelet.ready(&DOORS.map(str::to_owned))[0];
    let door = (scene.kubelet.address(door).expect("it runs"), 3306).into();
    let mut client = connect(door, APPLICATION.user, APPLICATION.password).await.expect("a login");
    let refused = client.query_drop("INSERT INTO shop.orders (id) VALUES (1)").await;
    let refused = refused.expect_err("there is no primary").to_string();
    assert!(
        refused.contains(&format!(
            "no primary to send this to: none came within routing.primary_wait_ms ({primary}: "
        )),
        "{refused}"
    );

    // For a while: what follows a server shows by then.
    let stray = value(scene, primary, "SELECT @@server_uuid").await.expect("it answers");
    sleep(Duration::from_secs(3)).await;
    for name in replicas {
        let executed = value(scene, name, "SELECT @@gtid_executed").await.expect("it answers");
        assert!(!executed.contains(&stray), "{name} has followed the empty server: {executed}");
        let receiving = "SELECT COUNT(*) FROM performance_schema.replication_connection_status \
                         WHERE SERVICE_STATE <> 'OFF'";
        assert_eq!(value(scene, name, receiving).await.as_deref(), Ok("0"), "{name} listens to it");
        assert_eq!(value(scene, name, "SELECT COUNT(*) FROM shop.orders").await, rows, "{name}");
    }
    assert_eq!(value(scene, primary, "SELECT @@super_read_only").await.as_deref(), Ok("1"));
    assert_eq!(self::primary(scene).await.as_deref(), Ok(primary));
    readers.reads_go_to(scene, &replicas, SOON).await;
    let tally = readers.so_far();
    eprintln!("loss, without a primary: {tally}");
    tally.assert_no_errors();
}

/// People give it up: one of the others takes over with all that there is, and the empty server becomes its replica. Gives
/// who that is.
async fn it_is_given_up(scene: &Scene, lost: &str) -> &'static str {
    let [next, other] = others(lost);
    let rows = value(scene, next, "SELECT COUNT(*) FROM shop.orders").await;
    ask(scene, &["switchover", "--to", lost, "--force"]).await.expect_err("it is the one that is lost");
    ask(scene, &["switchover", "--to", next, "--force"]).await.expect("it has what there is");
    assert_eq!(value(scene, next, "SELECT COUNT(*) FROM shop.orders").await, rows);
    let traffic = write_anew(scene, next).await;
    traffic.writes(50, SOON).await;
    let mut replicas = [lost, other];
    replicas.sort_unstable();
    traffic.reads_go_to(scene, &replicas, BOOT).await;
    well(scene, &SERVERS, next, SOON).await;
    let tally = traffic.finish(&mut root(scene, next).await.expect("it runs")).await;
    eprintln!("loss, given up: {tally}");
    tally.assert_no_errors();
    next
}

/// The primary is cut off, and commits something that nobody else has. Another server takes its place when people say that
/// it is gone. When it comes back it is made read-only, left out and left alone; given up with its claim, it is copied to.
async fn the_primarys_node_ends(scene: &Scene, lost: &str) {
    let replicas = others(lost);
    let [next, _] = replicas;
    let uuid = all_is_replicated(scene, lost).await;
    let readers = Traffic::start(scene, &DOORS, 0, 4);
    readers.reads_go_to(scene, &replicas, SOON).await;
    let asked = statements(scene, lost).await;
    assert!(scene.kubelet.link(lost, false));
    let stray = "INSERT INTO shop.orders (id) VALUES (0)";
    let password = format!("-p{ROOT}");
    let alone = ["mysql", "-h127.0.0.1", "-uroot", &password, "-e", stray];
    scene.kubelet.exec(lost, "mysql", &alone).await.expect("it takes writes");
    said(scene, &format!("{lost}, the primary, does not answer"), SOON).await;
    said(scene, "`readwright switchover --force` has another server take over", SOON).await;

    ask(scene, &["switchover", "--timeout", "3"]).await.expect_err("it might come back");
    ask(scene, &["switchover", "--to", next, "--force"]).await.expect("nobody hears of it");
    // Replicas miss its heartbeats before its probes are given up.
    assert_eq!(statements(scene, lost).await, asked, "reads were sent to it");
    let traffic = write_anew(scene, next).await;
    traffic.writes(50, SOON).await;
    readers.reads_go_to(scene, &[replicas[1]], SOON).await;

    let begun = copies(scene);
    assert!(scene.kubelet.link(lost, true));
    said(scene, &format!("it has 1 transactions that the primary has not: {uuid}"), SOON).await;
    until("it is read-only", SOON, async || match value(scene, lost, "SELECT @@super_read_only").await? {
        truth if truth == "1" => Ok(()),
        truth => Err(truth),
    })
    .await;
    traffic.writes(50, SOON).await;
    readers.reads_go_to(scene, &[replicas[1]], SOON).await;
    let receiving = "SELECT COUNT(*) FROM performance_schema.replication_connection_status";
    assert_eq!(value(scene, lost, receiving).await.as_deref(), Ok("0"), "it follows somebody");
    let row = "SELECT COUNT(*) FROM shop.orders WHERE id = 0";
    assert_eq!(value(scene, lost, row).await.as_deref(), Ok("1"), "it is as it was");
    assert_eq!(copies(scene), begun);

    lose(scene, lost).await;
    let mut replicas = [lost, replicas[1]];
    replicas.sort_unstable();
    readers.reads_go_to(scene, &replicas, BOOT).await;
    well(scene, &SERVERS, next, SOON).await;
    assert_eq!(value(scene, lost, row).await.as_deref(), Ok("0"), "it was copied to");
    let tally = traffic.finish(&mut root(scene, next).await.expect("it runs")).await;
    for tally in [readers.so_far(), tally] {
        eprintln!("loss, a node that ended: {tally}");
        tally.assert_no_errors();
    }
}

/// Replication is not synchronous: what replicas have by now is what cannot get lost. Gives the primary's uuid.
async fn all_is_replicated(scene: &Scene, primary: &str) -> String {
    let had = value(scene, primary, "SELECT @@gtid_executed").await.expect("it answers");
    for name in others(primary) {
        let wait = format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{had}', 20)");
        assert_eq!(value(scene, name, &wait).await.as_deref(), Ok("0"), "{name}");
    }
    value(scene, primary, "SELECT @@server_uuid").await.expect("it answers")
}

/// Writers count from the beginning, so the table is emptied first.
async fn write_anew(scene: &Scene, primary: &str) -> Traffic {
    until("it is writable", SOON, async || {
        let mut server = root(scene, primary).await?;
        server.query_drop("TRUNCATE TABLE shop.orders").await.map_err(|error| error.to_string())
    })
    .await;
    Traffic::start(scene, &DOORS, 2, 4)
}

/// How many statements each Readwright has sent to this server.
async fn statements(scene: &Scene, server: &str) -> Vec<Option<u64>> {
    let mut counts = Vec::new();
    for door in scene.kubelet.ready(&DOORS.map(str::to_owned)) {
        let status = scene.status(&door).await.expect("it answers");
        let servers = status["servers"].as_array().expect("there are servers");
        counts
            .extend(servers.iter().filter(|one| one["name"] == server).map(|one| one["statements"].as_u64()));
    }
    counts
}

/// As `kubectl exec deploy/readwright -- /readwright` does.
async fn ask(scene: &Scene, words: &[&str]) -> Result<(), String> {
    let door = scene.kubelet.ready(&DOORS.map(str::to_owned))[0].clone();
    let command = [&["/readwright"], words].concat();
    scene.kubelet.exec(&door, "readwright", &command).await
}

/// The three but this one.
fn others(primary: &str) -> [&'static str; 2] {
    let mut others = SERVERS.into_iter().filter(|name| *name != primary);
    [others.next(), others.next()].map(|name| name.expect("there are three"))
}
