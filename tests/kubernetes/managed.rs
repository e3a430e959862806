//! A cluster that Readwright's own controller sets up, for scenarios to play with: three empty servers and two Readwrights
//! become `managed.yaml` at work. What scenarios ask of it, too.

use std::time::Duration;

use mysql_async::Conn;
use serde_json::Value;

use crate::scene::{Scene, until};
use crate::traffic::create_shop;

/// The Readwrights' pods.
pub(crate) const DOORS: [&str; 2] = ["readwright-0", "readwright-1"];
/// Longer than anything but setting servers up should take.
pub(crate) const SOON: Duration = Duration::from_secs(120);
/// A first start, with copies of whole servers.
pub(crate) const BOOT: Duration = Duration::from_secs(300);

/// From nothing to three servers that serve, and an application's account and table.
pub(crate) async fn set_up(scene: &Scene) {
    set_up_with(scene, include_str!("managed.yaml")).await;
}

/// The same from another form of the manifest.
pub(crate) async fn set_up_with(scene: &Scene, manifest: &str) {
    scene.apply(manifest).await;
    start_proxies(scene).await;
    serving(scene, 3, BOOT).await;
    scene.ready(&DOORS, SOON).await;
    create_shop(&mut root(scene, "mysql-0").await.expect("it serves")).await;
}

/// Two, both with the controller on.
pub(crate) async fn start_proxies(scene: &Scene) {
    let proxies = include_str!("proxy.yaml").replace("NAME", "readwright");
    scene.apply(&proxies.replace("spec:\n  serviceName", "spec:\n  replicas: 2\n  serviceName")).await;
}

pub(crate) async fn root(scene: &Scene, pod: &str) -> Result<Conn, String> {
    scene.mysql(pod, "root", "root-password").await
}

/// Waits until the controller says that so many servers are there and all serve; gives its pod and what it says.
pub(crate) async fn serving(scene: &Scene, servers: usize, within: Duration) -> (String, Value) {
    until(&format!("{servers} servers serve"), within, async || {
        let (leader, told) = leader(scene).await?;
        match told["all_serving"] == true && told["servers"].as_array().map(Vec::len) == Some(servers) {
            true => Ok((leader, told)),
            false => Err(format!("{leader}: {told}")),
        }
    })
    .await
}

/// The pod of the Readwright that leads, and what its controller says. Err: none does, or two.
pub(crate) async fn leader(scene: &Scene) -> Result<(String, Value), String> {
    let mut leaders = Vec::new();
    let mut others = Vec::new();
    for door in DOORS {
        match scene.status(door).await {
            Ok(status) if status["controller"]["leads"] == true => {
                leaders.push((door.to_owned(), status["controller"].clone()));
            }
            Ok(status) => others.push(format!("{door}: {}", status["controller"])),
            Err(why) => others.push(why),
        }
    }
    match leaders.len() {
        1 => Ok(leaders.remove(0)),
        _ => Err(format!("lead: {leaders:?}, others: {others:?}")),
    }
}

/// The controller's record.
pub(crate) async fn record(scene: &Scene) -> Result<Value, String> {
    let text = scene.field("configmap/readwright", ".data.record").await?;
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}
