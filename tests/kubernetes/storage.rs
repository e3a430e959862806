//! A new server whose volume is too small for a copy: it is said before anything is destroyed, where that can be known, and
//! when the disk is full in the middle. Enlarged, it is copied to.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::cluster::{BOOT, SECRET, SERVERS, SOON, apply_base, begin_work, root, value, well};
use crate::scene::{Scene, scenario, until};

#[test]
fn a_volume_that_is_too_small() {
    scenario("storage", async |scene| {
        install_slow(scene).await;
        let traffic = begin_work(scene).await;
        let mut primary = root(scene, "mysql-0").await.expect("it serves");
        primary
            .query_drop("CREATE TABLE shop.filler (id INT PRIMARY KEY, data LONGBLOB)")
            .await
            .expect("root may");
        for id in 0..20 {
            let insert = format!("INSERT INTO shop.filler VALUES ({id}, REPEAT('x', 8 << 20))");
            primary.query_drop(insert).await.expect("there is room");
        }

        scene.apply(CLASS).await;
        scene.apply(&CLAIM.replace("SIZE", "300Mi")).await;
        scene.kubectl(&["scale", "statefulset/mysql", "--replicas=4"]).await;
        told(scene, "InsufficientStorage", "its volume holds 300 MiB, and a copy of mysql-2 needs ", BOOT)
            .await;
        assert_eq!(
            value(scene, "mysql-3", "SELECT COUNT(*) FROM performance_schema.clone_status").await.as_deref(),
            Ok("0")
        );
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;

        // Large enough, and somebody else fills it while the copy is made.
        enlarge(scene, "1Gi").await;
        until("it is copied to", BOOT, async || {
            let done = "SELECT IFNULL(SUM(data), 0) FROM performance_schema.clone_progress";
            match value(scene, "mysql-3", done).await?.parse::<u64>() {
                Ok(bytes) if bytes > 15 << 20 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let filler = scene.kubelet.claim("data-mysql-3").join("filler");
        fill(&filler);
        told(scene, "CopyFailed", "enlarge its claim", BOOT).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;

        std::fs::remove_file(&filler).expect("it is there");
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2", "mysql-3"], BOOT).await;
        well(scene, &["mysql-0", "mysql-1", "mysql-2", "mysql-3"], "mysql-0", SOON).await;
        let tally = traffic.finish(&mut primary).await;
        eprintln!("storage: {tally}");
        tally.assert_no_errors();
    });
}

/// Copies are slowed down, so that there is a middle.
async fn install_slow(scene: &Scene) {
    let slow = "controller:\n      clone_bandwidth_mib: 20\n      enabled: true";
    scene.apply(SECRET).await;
    apply_base(scene, &[("controller:\n      enabled: true", slow)]).await;
    scene.ready(&SERVERS, BOOT).await;
}

/// Writes until there is no room.
fn fill(file: &Path) {
    let mut file = File::create(file).expect("there is room");
    let error = std::iter::repeat_with(|| file.write_all(&[0; 1 << 20])).find_map(Result::err);
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::StorageFull));
}

async fn told(scene: &Scene, reason: &str, words: &str, within: Duration) {
    until(&format!("{reason}: {words}"), within, async || {
        let events = scene.events("mysql-3").await;
        match events.get(reason) {
            Some(note) if note.contains(words) => Ok(()),
            _ => Err(format!("{events:?}")),
        }
    })
    .await;
}

async fn enlarge(scene: &Scene, size: &str) {
    let change = format!("{{\"spec\": {{\"resources\": {{\"requests\": {{\"storage\": \"{size}\"}}}}}}}}");
    scene.kubectl(&["patch", "pvc", "data-mysql-3", "-p", &change]).await;
}

const CLASS: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: limited}
provisioner: tests
allowVolumeExpansion: true
";
const CLAIM: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data-mysql-3, labels: {app: mysql}}
spec: {accessModes: [ReadWriteOnce], storageClassName: limited, resources: {requests: {storage: SIZE}}}
";
