//! The walk of the Kubernetes tutorial (Run a Replicated Stateful Application), on `deploy/base`, with an application at
//! work the whole time.

use std::collections::BTreeSet;

use mysql_async::prelude::Queryable;

use crate::cluster::{BOOT, DOORS, SOON, boot, copies, root, said, value, well};
use crate::scene::{Scene, connect, scenario, until};
use crate::traffic::{APPLICATION, Traffic};

#[test]
fn the_tutorial() {
    scenario("walk", async |scene| {
        let traffic = boot(scene).await;
        reads_spread(scene).await;

        // Break a readiness probe: the server is out of the Service, and so out of the read set; repaired, it is back.
        let breaks = "mount --bind /bin/false \"$(command -v mysqladmin)\"";
        let repairs = "umount \"$(command -v mysqladmin)\"";
        scene.kubelet.exec("mysql-2", "mysql", &["sh", "-c", breaks]).await.expect("it runs");
        traffic.reads_go_to(scene, &["mysql-1"], SOON).await;
        scene.kubelet.exec("mysql-2", "mysql", &["sh", "-c", repairs]).await.expect("it runs");
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        traffic.so_far().assert_no_errors();

        // Delete a pod.
        scene.kubectl(&["delete", "pod", "mysql-2", "--wait=true"]).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], BOOT).await;
        traffic.so_far().assert_no_errors();

        // Drain its node.
        let node = scene.field("pod/mysql-2", ".spec.nodeName").await.expect("it is there");
        scene.kubectl(&["drain", &node, "--pod-selector=app=mysql", "--timeout=300s"]).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], BOOT).await;
        assert_ne!(scene.field("pod/mysql-2", ".spec.nodeName").await, Ok(node.clone()));
        scene.kubectl(&["uncordon", &node]).await;
        traffic.so_far().assert_no_errors();

        // Scale up: the new ones hold the old data.
        let before = value(scene, "mysql-0", "SELECT MAX(id) FROM shop.orders").await.expect("it answers");
        scale(scene, 5).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2", "mysql-3", "mysql-4"], BOOT).await;
        for name in ["mysql-3", "mysql-4"] {
            let old = format!("SELECT COUNT(*) FROM shop.orders WHERE id = {before}");
            assert_eq!(value(scene, name, &old).await.as_deref(), Ok("1"), "{name}");
        }
        let uuid = value(scene, "mysql-4", "SELECT @@server_uuid").await.expect("it answers");
        traffic.so_far().assert_no_errors();

        // Scale down: the claims stay. Up again: they are used, and nothing is copied.
        scale(scene, 3).await;
        for name in ["mysql-3", "mysql-4"] {
            until("it is gone", SOON, async || match scene.pod(name).await {
                Ok(_) => Err("it is there".to_owned()),
                Err(_) => Ok(()),
            })
            .await;
            let phase = scene.field(&format!("pvc/data-{name}"), ".status.phase").await;
            assert_eq!(phase.as_deref(), Ok("Bound"));
        }
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        let begun = copies(scene);
        scale(scene, 5).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2", "mysql-3", "mysql-4"], BOOT).await;
        assert_eq!(value(scene, "mysql-4", "SELECT @@server_uuid").await, Ok(uuid));
        assert_eq!(copies(scene), begun);
        well(scene, &["mysql-0", "mysql-1", "mysql-2", "mysql-3", "mysql-4"], "mysql-0", SOON).await;

        what_people_ask_for(scene, &traffic).await;

        let tally = traffic.finish(&mut root(scene, "mysql-1").await.expect("it runs")).await;
        eprintln!("walk: {tally}");
        tally.assert_no_errors();
    });
}

/// New connections to the proxy see the replicas in turn; the Service `mysql-read` has all three servers, as ever.
async fn reads_spread(scene: &Scene) {
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let door = scene.kubelet.ready(&DOORS.map(str::to_owned))[0].clone();
        let address = scene.kubelet.address(&door).expect("it runs");
        let mut client =
            connect((address, 3306).into(), APPLICATION.user, APPLICATION.password).await.expect("a login");
        let id: Option<u32> = client.query_first("SELECT @@server_id").await.expect("a read");
        seen.extend(id);
    }
    assert_eq!(seen, BTreeSet::from([101, 102]));
    let ready = ["get", "endpointslices", "-l", "kubernetes.io/service-name=mysql-read", "-o"];
    let names = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].targetRef.name}";
    let names = scene.kubectl(&[&ready[..], &[names]].concat()).await;
    let names: BTreeSet<&str> = names.split(' ').collect();
    assert_eq!(names, BTreeSet::from(["mysql-0", "mysql-1", "mysql-2"]));
}

/// Another primary; then nothing at all for a while. In any Readwright's pod, as `kubectl exec deploy/readwright` does.
async fn what_people_ask_for(scene: &Scene, traffic: &Traffic) {
    let ask = async |words: &[&str]| {
        let door = scene.kubelet.ready(&DOORS.map(str::to_owned))[0].clone();
        let command = [&["/readwright"], words].concat();
        scene
            .kubelet
            .exec(&door, "readwright", &command)
            .await
            .unwrap_or_else(|why| panic!("{words:?}: {why}"));
    };
    ask(&["switchover", "--to", "mysql-1"]).await;
    well(scene, &["mysql-0", "mysql-1", "mysql-2", "mysql-3", "mysql-4"], "mysql-1", SOON).await;
    traffic.reads_go_to(scene, &["mysql-0", "mysql-2", "mysql-3", "mysql-4"], SOON).await;

    ask(&["pause"]).await;
    said(scene, "the controller is paused", SOON).await;
    let mut replica = root(scene, "mysql-4").await.expect("it runs");
    replica.query_drop("STOP REPLICA").await.expect("root may");
    traffic.reads_go_to(scene, &["mysql-0", "mysql-2", "mysql-3"], SOON).await;
    ask(&["resume"]).await;
    traffic.reads_go_to(scene, &["mysql-0", "mysql-2", "mysql-3", "mysql-4"], SOON).await;
}

async fn scale(scene: &Scene, replicas: u32) {
    scene.kubectl(&["scale", "statefulset/mysql", &format!("--replicas={replicas}")]).await;
}
