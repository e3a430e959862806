//! Readwright beside a StatefulSet that somebody else takes care of, as after the tutorial: it discovers and routes, the
//! controller is off, and replication is set up by the test. One Readwright may read what the full installation may, the
//! other EndpointSlices only, as a sidecar.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::kubelet::Signal;
use crate::scene::{Scene, scenario, until};
use crate::traffic::{APPLICATION, Traffic};

#[test]
fn a_statefulset_of_the_tutorial() {
    scenario("existing", async |scene| {
        scene.apply(include_str!("existing.yaml")).await;
        for name in ["full", "sidecar"] {
            scene.apply(&include_str!("proxy.yaml").replace("NAME", name)).await;
        }
        for name in SERVERS {
            until("the server accepts connections", BOOT, async || root(scene, name).await).await;
        }
        let mut primary = root(scene, "mysql-0").await.expect("it runs");
        for statement in [
            "CREATE DATABASE shop",
            "CREATE TABLE shop.orders (id BIGINT PRIMARY KEY)",
            "CREATE USER app@'%' IDENTIFIED BY 'app-password'",
            "GRANT ALL ON shop.* TO app@'%'",
        ] {
            primary.query_drop(statement).await.expect("root may");
        }
        assert_eq!((APPLICATION.user, APPLICATION.password), ("app", "app-password"));
        for replica in ["mysql-1", "mysql-2"] {
            replicate(scene, replica).await;
        }
        scene.ready(&SERVERS, BOOT).await;
        scene.ready(&DOORS, SOON).await;

        let traffic = Traffic::start(scene, &DOORS, 4);
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        traffic.so_far().assert_no_errors();

        // The probe breaks: the server is out of the Service, and so out of the read set; repaired, it is back.
        scene.kubelet.exec("mysql-2", "mysql", &["touch", "/tmp/broken"]).await.expect("it runs");
        traffic.reads_go_to(scene, &["mysql-1"], SOON).await;
        scene.kubelet.exec("mysql-2", "mysql", &["rm", "/tmp/broken"]).await.expect("it runs");
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        traffic.so_far().assert_no_errors();

        // A replica's pod is deleted: a new one with a new address serves soon after.
        let before = scene.kubelet.address("mysql-2");
        scene.kubectl(&["delete", "pod", "mysql-2", "--wait=true"]).await;
        traffic.reads_go_to(scene, &["mysql-1"], SOON).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        assert_ne!(scene.kubelet.address("mysql-2"), before);
        traffic.so_far().assert_no_errors();

        // The API server is away: the last that was known holds, and what the servers say themselves still counts.
        scene.world.kube.go_away().await;
        assert!(scene.kubelet.signal("mysql-1", "mysql", Signal::KILL));
        traffic.writes(50, SOON).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        scene.world.kube.serve().await.expect("it starts again");
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        traffic.so_far().assert_no_errors();

        // The primary dies and comes back: a write that was under way has an unknown outcome, the others wait.
        assert!(scene.kubelet.signal("mysql-0", "mysql", Signal::KILL));
        until("mysql-0 runs again", BOOT, async || root(scene, "mysql-0").await).await;
        traffic.writes(50, SOON).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;

        let mut primary = root(scene, "mysql-0").await.expect("it runs");
        let tally = traffic.finish(&mut primary).await;
        eprintln!("existing: {tally}");
        tally.assert_fresh();
        assert!(tally.read_errors.is_empty() && tally.write_errors.len() <= 1, "{tally}");
    });
}

async fn root(scene: &Scene, pod: &str) -> Result<Conn, String> {
    scene.mysql(pod, "root", "geheim").await
}

async fn replicate(scene: &Scene, pod: &str) {
    let mut replica = root(scene, pod).await.expect("it runs");
    for statement in [
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='mysql-0.mysql', SOURCE_USER='root', SOURCE_PASSWORD='geheim', \
         SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1, SOURCE_HEARTBEAT_PERIOD=1, \
         SOURCE_RETRY_COUNT=86400",
        "START REPLICA",
        "SET PERSIST super_read_only=ON",
    ] {
        replica.query_drop(statement).await.expect("root may");
    }
}

const SERVERS: [&str; 3] = ["mysql-0", "mysql-1", "mysql-2"];
const DOORS: [&str; 2] = ["full-0", "sidecar-0"];
const BOOT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(30);
