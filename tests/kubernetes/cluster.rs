//! The cluster that `deploy/base` makes, and what scenarios ask of it. Only the primary's preStop pause is shortened: it is
//! waited for at every deletion.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::scene::{Scene, condition, until};
use crate::traffic::{Traffic, create_shop};

/// All pods in which Readwright runs, by the beginning of their names.
pub(crate) const DOORS: [&str; 1] = ["readwright-"];

/// `kubectl create secret`, and `kubectl apply -k deploy/base`.
pub(crate) async fn install(scene: &Scene) {
    scene.apply(SECRET).await;
    apply_base(scene, &[]).await;
}

/// `changes`: what is to stand instead of what.
pub(crate) async fn apply_base(scene: &Scene, changes: &[(&str, &str)]) {
    let mut manifest = scene.kubectl(&["kustomize", "deploy/base"]).await;
    let shorter = ("sleep:\n              seconds: 25", "sleep:\n              seconds: 8");
    for (from, to) in [shorter].iter().chain(changes) {
        assert!(manifest.contains(from), "{from:?} is not in {manifest}");
        manifest = manifest.replace(from, to);
    }
    scene.apply(&manifest).await;
}

/// From nothing to three servers that serve, with an application at work.
pub(crate) async fn boot(scene: &Scene) -> Traffic {
    install(scene).await;
    scene.ready(&SERVERS, BOOT).await;
    begin_work(scene).await
}

/// The application's account and table, made through the proxy; then writers and readers.
pub(crate) async fn begin_work(scene: &Scene) -> Traffic {
    let traffic = begin_work_on_the_primary(scene).await;
    traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
    traffic.so_far().assert_no_errors();
    traffic
}

/// The same while there are no replicas.
pub(crate) async fn begin_work_on_the_primary(scene: &Scene) -> Traffic {
    let door = until("a Readwright is ready", SOON, async || {
        scene.kubelet.ready(&DOORS.map(str::to_owned)).first().cloned().ok_or_else(|| "none".to_owned())
    })
    .await;
    let mut client = scene.mysql(&door, "root", ROOT).await.expect("root may log in through the proxy");
    create_shop(&mut client).await;
    Traffic::start(scene, &DOORS, 2, 4)
}

/// Past the proxy.
pub(crate) async fn root(scene: &Scene, pod: &str) -> Result<Conn, String> {
    scene.mysql(pod, "root", ROOT).await
}

/// One value of one server, past the proxy.
pub(crate) async fn value(scene: &Scene, pod: &str, sql: &str) -> Result<String, String> {
    let mut server = root(scene, pod).await?;
    let value: Option<Option<String>> = server.query_first(sql).await.map_err(|error| error.to_string())?;
    let _ = server.disconnect().await;
    Ok(value.flatten().unwrap_or_default())
}

/// The controller's record.
pub(crate) async fn record(scene: &Scene) -> Result<Value, String> {
    let text = scene.field("configmap/readwright", ".data.record").await?;
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text:?}"))
}

pub(crate) async fn primary(scene: &Scene) -> Result<String, String> {
    Ok(record(scene).await?["primary"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the pods are those of a cluster that is well: one primary, which is this one, and all others ready.
pub(crate) async fn well(scene: &Scene, names: &[&str], expected: &str, within: Duration) {
    until(&format!("{names:?} are well, with {expected} as the primary"), within, async || {
        let now = primary(scene).await?;
        if now != expected {
            return Err(format!("the primary is {now:?}"));
        }
        for name in names {
            let pod = scene.pod(name).await?;
            if pod.metadata.deletion_timestamp.is_some() || condition(&pod, "Ready") != Some("True") {
                return Err(format!("{name} is not ready"));
            }
            let read_only = value(scene, name, "SELECT @@super_read_only").await?;
            if (read_only == "0") != (name == &expected) {
                return Err(format!("super_read_only of {name} is {read_only}"));
            }
        }
        Ok(())
    })
    .await;
}

/// Deletes a pod with its claim; the next one finds an empty folder.
pub(crate) async fn lose(scene: &Scene, pod: &str) {
    scene.kubectl(&["delete", "pvc", &format!("data-{pod}"), "--wait=false"]).await;
    scene.kubectl(&["delete", "pod", pod, "--wait=true"]).await;
}

/// How many copies the controllers have begun.
pub(crate) fn copies(scene: &Scene) -> usize {
    logs(scene).matches(r#""message":"controller","step":"Clone {"#).count()
}

/// Waits until a Readwright's log or status says this.
pub(crate) async fn said(scene: &Scene, what: &str, within: Duration) {
    until(&format!("Readwright says {what:?}"), within, async || {
        let mut all = logs(scene);
        for door in scene.kubelet.ready(&DOORS.map(str::to_owned)) {
            all.push_str(&scene.status(&door).await?["controller"].to_string());
        }
        if all.contains(what) { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await;
}

/// What all Readwrights have printed.
pub(crate) fn logs(scene: &Scene) -> String {
    let names = scene.kubelet.names();
    let doors = names.iter().filter(|name| name.starts_with(DOORS[0]));
    doors.map(|name| scene.kubelet.log(name, "readwright")).collect()
}

pub(crate) const SERVERS: [&str; 3] = ["mysql-0", "mysql-1", "mysql-2"];
pub(crate) const ROOT: &str = "geheim";
pub(crate) const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: mysql}
stringData: {root: geheim, controller: controller-1, replication: replication-1, probe: probe-1}
";

/// Three servers from nothing, two of them by CLONE, on a busy machine.
pub(crate) const BOOT: Duration = Duration::from_secs(300);
pub(crate) const SOON: Duration = Duration::from_secs(120);
