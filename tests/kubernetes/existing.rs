//! Readwright beside a StatefulSet that somebody else takes care of, as after the tutorial: it discovers and routes, the
//! controller is off, and replication is set up by the test. One Readwright may read what the full installation may, the
//! other EndpointSlices only, as a sidecar.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::json;

use crate::kubelet::Signal;
use crate::scene::{Scene, scenario, scenario_apart, until};
use crate::traffic::{Traffic, create_shop};

#[test]
fn a_statefulset_of_the_tutorial() {
    scenario_apart("existing", async |scene| {
        set_up(scene).await;
        let traffic = Traffic::start(scene, &DOORS, 2, 4);
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        traffic.so_far().assert_no_errors();

        // The probe breaks: the server is out of the Service, and so out of the read set; repaired, it is back.
        scene.kubelet.exec("mysql-2", "mysql", &["touch", "/tmp/broken"]).await.expect("it runs");
        traffic.reads_go_to(scene, &["mysql-1"], SOON).await;
        scene.kubelet.exec("mysql-2", "mysql", &["rm", "/tmp/broken"]).await.expect("it runs");
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        traffic.so_far().assert_no_errors();

        the_selector_changes(scene, &traffic).await;

        // A replica's pod is deleted: a new one with a new address serves soon after.
        let before = scene.kubelet.address("mysql-2");
        scene.kubectl(&["delete", "pod", "mysql-2", "--wait=true"]).await;
        traffic.reads_go_to(scene, &["mysql-1"], SOON).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        assert_ne!(scene.kubelet.address("mysql-2"), before);
        traffic.so_far().assert_no_errors();

        // The API server is away: the last that was known holds, and what the servers say themselves still counts.
        scene.kube.go_away().await;
        assert!(scene.kubelet.signal("mysql-1", "mysql", Signal::KILL));
        traffic.writes(50, SOON).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        scene.kube.serve().await.expect("it starts again");
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        traffic.so_far().assert_no_errors();

        a_switchover_is_a_pause(scene, &traffic).await;

        // The primary dies and comes back: a write that was under way has an unknown outcome, the others wait.
        assert!(scene.kubelet.signal("mysql-1", "mysql", Signal::KILL));
        until("mysql-1 runs again", BOOT, async || root(scene, "mysql-1").await).await;
        traffic.writes(50, SOON).await;
        traffic.reads_go_to(scene, &["mysql-0", "mysql-2"], SOON).await;

        let mut primary = root(scene, "mysql-1").await.expect("it runs");
        let tally = traffic.finish(&mut primary).await;
        eprintln!("existing: {tally}");
        tally.assert_fresh();
        assert!(tally.read_errors.is_empty() && tally.write_errors.len() <= 2, "{tally}");
    });
}

/// The Service selects one pod less, and then all again: long before anybody would ask for its selector by itself.
async fn the_selector_changes(scene: &Scene, traffic: &Traffic) {
    scene.kubectl(&["label", "pod", "mysql-0", "mysql-1", "selected=yes"]).await;
    for (selected, expected) in [(json!("yes"), &["mysql-1"][..]), (json!(null), &["mysql-1", "mysql-2"])] {
        let change = json!({ "spec": { "selector": { "selected": selected } } }).to_string();
        scene.kubectl(&["patch", "service", "mysql", "--type=merge", "-p", &change]).await;
        traffic.reads_go_to(scene, expected, UNASKED).await;
    }
    traffic.so_far().assert_no_errors();
}

#[test]
fn a_network_that_fails_and_pods_that_move() {
    scenario_apart("network", async |scene| {
        set_up(scene).await;
        let traffic = Traffic::start(scene, &DOORS, 2, 4);
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;

        // Packets of a replica vanish: reads that wait for it are answered elsewhere.
        assert!(scene.kubelet.link("mysql-2", false));
        traffic.reads_go_to(scene, &["mysql-1"], SOON).await;
        assert!(scene.kubelet.link("mysql-2", true));
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        traffic.so_far().assert_no_errors();

        // A node is drained: its pods come back elsewhere, with their data.
        let node = scene.field("pod/mysql-1", ".spec.nodeName").await.expect("it is there");
        scene.kubectl(&["cordon", &node]).await;
        scene.kubectl(&["drain", &node, "--pod-selector=app=mysql", "--timeout=300s"]).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        assert_ne!(scene.field("pod/mysql-1", ".spec.nodeName").await, Ok(node.clone()));
        scene.kubectl(&["uncordon", &node]).await;
        traffic.so_far().assert_no_errors();

        // What Readwright may read is taken from it, and its watches break: what it knew still holds.
        scene.kubectl(&["delete", "rolebinding", "full", "sidecar"]).await;
        scene.kube.go_away().await;
        scene.kube.serve().await.expect("it starts again");
        until("it is refused", SOON, async || match scene.kubelet.log("sidecar-0", "readwright") {
            log if log.contains("no permission to list endpointslices") => Ok(()),
            log => Err(log),
        })
        .await;
        traffic.writes(50, SOON).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        scene.apply(include_str!("existing.yaml")).await;
        traffic.so_far().assert_no_errors();

        // A Readwright's pod is deleted: each client loses its connection once, and finds the other.
        scene.kubectl(&["delete", "pod", "full-0", "--wait=true"]).await;
        traffic.writes(50, SOON).await;
        scene.ready(&DOORS, SOON).await;
        let errors = traffic.so_far();
        let lost = errors.write_errors.iter().chain(&errors.read_errors);
        assert!(lost.clone().count() <= 6 && lost.clone().all(|why| why.contains("full-0")), "{errors}");

        // Packets of the primary vanish: writes wait. Those that were under way may or may not have been carried out.
        assert!(scene.kubelet.link("mysql-0", false));
        until("the primary is missed", SOON, async || match scene.status("sidecar-0").await? {
            status if status["servers"][0]["health"] == "down" => Ok(()),
            status => Err(status["servers"].to_string()),
        })
        .await;
        assert!(scene.kubelet.link("mysql-0", true));
        traffic.writes(50, SOON).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;

        let mut primary = root(scene, "mysql-0").await.expect("it runs");
        let tally = traffic.finish(&mut primary).await;
        eprintln!("network: {tally}");
        tally.assert_fresh();
        // Each Readwright finds it out by itself: a writer may lose one write at the first, and one at the other.
        let more = tally.write_errors.len() - errors.write_errors.len();
        assert!(more <= 4 && tally.read_errors.len() == errors.read_errors.len(), "{tally}");
    });
}

#[test]
fn an_application_with_a_sidecar() {
    scenario("sidecar", async |scene| {
        set_up(scene).await;
        scene.apply(include_str!("sidecar.yaml")).await;
        // The init container, then the sidecar, then, when that is ready, the application: it cannot fail at its first try.
        scene.ready(&["shop-0"], BOOT).await;
        until("it works by the socket", SOON, async || match scene.kubelet.log("shop-0", "shop") {
            log if log.contains("first\n") && log.contains("by port\n") && log.contains("by socket\n") => {
                Ok(())
            }
            log => Err(log),
        })
        .await;

        // The sidecar dies: it is started again, alone; the application is so only if it asked in between.
        assert!(scene.kubelet.signal("shop-0", "readwright", Signal::KILL));
        until("both run", BOOT, async || {
            let seen = scene.kubelet.seen("shop-0").ok_or("it is gone")?;
            let restarts = |container: &str| seen.containers.get(container).map(|one| one.restarts);
            match (restarts("readwright"), restarts("first"), seen.containers.values().all(|one| one.ready)) {
                (Some(1), Some(0), true) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;

        // The pod is deleted: the sidecar serves until the application has ended.
        scene.kubectl(&["delete", "statefulset", "shop", "--wait=true"]).await;
        until("the pod is gone", BOOT, async || match scene.pod("shop-0").await {
            Ok(_) => Err("it is there".to_owned()),
            Err(_) => Ok(()),
        })
        .await;
        let end = std::fs::read_to_string(scene.kubelet.claim("kept-shop-0").join("end"));
        assert_eq!(end.ok().as_deref(), Some("to the end\n"));
    });
}

/// Three servers, replication, the application's table, and two Readwrights.
async fn set_up(scene: &Scene) {
    scene.apply(include_str!("existing.yaml")).await;
    for name in ["full", "sidecar"] {
        scene.apply(&include_str!("proxy.yaml").replace("NAME", name)).await;
    }
    for name in SERVERS {
        until("the server accepts connections", BOOT, async || root(scene, name).await).await;
    }
    // What the sidecar's `topology.primary_service` selects.
    scene.kubectl(&["label", "pod", "mysql-0", "readwright.dev/role=primary"]).await;
    let mut primary = root(scene, "mysql-0").await.expect("it runs");
    create_shop(&mut primary).await;
    for replica in ["mysql-1", "mysql-2"] {
        replicate(scene, replica).await;
    }
    scene.ready(&SERVERS, BOOT).await;
    scene.ready(&DOORS, SOON).await;
}

/// What the controller does, done by hand: the record holds new writes, the old primary refuses them, the new one takes
/// over, the record says so. Where the record cannot be read, the Service `mysql-primary` says it.
async fn a_switchover_is_a_pause(scene: &Scene, traffic: &Traffic) {
    let record = |primary: &str| {
        let record = json!({ "cluster": null, "bootstrapped": true, "primary": primary, "primary_uuid": null, "watermark": "" });
        record.to_string()
    };
    let from = format!("--from-literal=record={}", record("mysql-0"));
    scene.kubectl(&["create", "configmap", "readwright", &from, "--from-literal=epoch=1"]).await;
    traffic.writes(20, SOON).await;

    let mut old = root(scene, "mysql-0").await.expect("it runs");
    let mut new = root(scene, "mysql-1").await.expect("it runs");
    let mut other = root(scene, "mysql-2").await.expect("it runs");
    let hold = json!({ "data": { "handover": "by hand" } }).to_string();
    scene.kubectl(&["patch", "configmap", "readwright", "--type=merge", "-p", &hold]).await;
    let ask = async |server: &mut Conn, sql: &str| {
        server.query_drop(sql).await.unwrap_or_else(|why| panic!("{sql}: {why}"))
    };
    ask(&mut old, "SET PERSIST super_read_only=ON").await;
    let done: String = old.query_first("SELECT @@gtid_executed").await.expect("it answers").expect("a row");
    ask(&mut new, &format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{done}', 20)")).await;
    ask(&mut new, "STOP REPLICA").await;
    ask(&mut new, "RESET REPLICA ALL").await;
    ask(&mut new, "SET PERSIST super_read_only=OFF").await;
    ask(&mut new, "SET PERSIST read_only=OFF").await;
    for server in [&mut old, &mut other] {
        ask(server, "STOP REPLICA").await;
        ask(server, &follow("mysql-1")).await;
        ask(server, "START REPLICA").await;
    }
    let over = json!({ "data": { "handover": null, "record": record("mysql-1"), "epoch": "2" } }).to_string();
    scene.kubectl(&["patch", "configmap", "readwright", "--type=merge", "-p", &over]).await;
    scene.kubectl(&["label", "pod", "mysql-0", "readwright.dev/role-"]).await;
    scene.kubectl(&["label", "pod", "mysql-1", "readwright.dev/role=primary"]).await;
    traffic.writes(50, SOON).await;
    traffic.reads_go_to(scene, &["mysql-0", "mysql-2"], SOON).await;
    traffic.so_far().assert_no_errors();
}

fn follow(source: &str) -> String {
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{source}.mysql', SOURCE_USER='root', SOURCE_PASSWORD='geheim', \
         SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1, SOURCE_HEARTBEAT_PERIOD=1, \
         SOURCE_RETRY_COUNT=86400"
    )
}

async fn root(scene: &Scene, pod: &str) -> Result<Conn, String> {
    scene.mysql(pod, "root", "geheim").await
}

async fn replicate(scene: &Scene, pod: &str) {
    let mut replica = root(scene, pod).await.expect("it runs");
    for statement in [&follow("mysql-0"), "START REPLICA", "SET PERSIST super_read_only=ON"] {
        replica.query_drop(statement).await.expect("root may");
    }
}

const SERVERS: [&str; 3] = ["mysql-0", "mysql-1", "mysql-2"];
const DOORS: [&str; 2] = ["full-0", "sidecar-0"];
const BOOT: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(120);
/// Readwright asks for a Service's selector every minute; it has to hear of a change before.
const UNASKED: Duration = Duration::from_secs(45);
