//! What the controller tells Kubernetes: labels that Services select by, the readiness gate, Events; and that it tells
//! nothing when nothing changes.

use std::time::Duration;

use kube::api::{ListParams, Patch, PatchParams};
use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::managed::{BOOT, SOON, root, serving, set_up_with};
use crate::scene::{Scene, scenario, until};

#[test]
fn labels_gates_and_events() {
    scenario("told", async |scene| {
        // One after another, as far as the gate lets them.
        let servers = include_str!("managed.yaml")
            .replace("podManagementPolicy: Parallel", "podManagementPolicy: OrderedReady")
            .replace("      containers:\n", GATE);
        set_up_with(scene, &format!("{servers}{SERVICES}")).await;
        scene.ready(&SERVERS, SOON).await;
        roles(scene, "mysql-0").await;
        selected(scene, "mysql-read", &SERVERS).await;
        let gates =
            [gate(scene, "mysql-0").await, gate(scene, "mysql-1").await, gate(scene, "mysql-2").await];
        let reasons = gates.each_ref().map(|gate| (gate["status"].as_str(), gate["reason"].as_str()));
        let [primary, replica] = SERVES;
        assert_eq!(reasons, [primary, replica, replica]);
        // mysql-1 was not made before mysql-0 served.
        let made = scene.field("pod/mysql-1", ".metadata.creationTimestamp").await.expect("it is there");
        assert!(*made >= *gates[0]["lastTransitionTime"].as_str().unwrap_or("9"), "{made}: {gates:?}");
        happened(scene, "mysql-0", &["ClusterInitialised", "ServesReads"]).await;
        let copied = ["CopyStarted", "CopyDone", "ReplicationStarted", "ServesReads"];
        happened(scene, "mysql-1", &copied).await;
        happened(scene, "mysql-2", &copied).await;

        // Nothing changes, and nothing is sent.
        let patience = Instant::now() + BOOT;
        loop {
            let before = versions(scene).await;
            sleep(Duration::from_secs(10)).await;
            let after = versions(scene).await;
            if after == before {
                break;
            }
            // On a busy machine a probe of the kubelet's fails now and then, which changes a pod.
            assert!(Instant::now() < patience, "{before:?}, then {after:?}");
        }

        // What is meant for a pod does not hit the next one of its name.
        let another = json!({ "metadata": { "uid": "00000000-0000-4000-8000-000000000000" }, "status": {} });
        let (pods, parameters, change) = (scene.pods(), PatchParams::default(), Patch::Strategic(&another));
        let refused = pods.patch_status("mysql-1", &parameters, &change).await;
        assert!(
            matches!(&refused, Err(kube::Error::Api(status)) if status.message.contains("metadata.uid")),
            "{refused:?}"
        );

        // The primary moves, and its label with it; at no time have two pods it.
        let wish = json!({ "data": { "switchover": json!({ "id": "a", "to": "mysql-1" }).to_string() } });
        scene.kubectl(&["patch", "configmap", "readwright", "--type=merge", "-p", &wish.to_string()]).await;
        roles(scene, "mysql-1").await;
        happened(scene, "mysql", &["SwitchoverStarted", "PrimaryAppointed", "SwitchoverDone"]).await;
        serving(scene, 3, SOON).await;

        // A replica with transactions of its own is out of the Service, and its Event says what it has.
        let mut replica = root(scene, "mysql-2").await.expect("it serves");
        let errant = ["SET GLOBAL super_read_only = OFF", "CREATE DATABASE errant"];
        for statement in errant {
            replica.query_drop(statement).await.expect("root may");
        }
        selected(scene, "mysql-read", &["mysql-0", "mysql-1"]).await;
        assert_eq!(gate(scene, "mysql-2").await["reason"], "Errant");
        happened(scene, "mysql-2", &["Errant", "ServesNoReads"]).await;

        // Without a verb it goes on, and says which one is missing.
        let role = json!([{ "op": "remove", "path": "/rules/0" }]).to_string();
        scene.kubectl(&["patch", "role", "readwright", "--type=json", "-p", &role]).await;
        scene.kubectl(&["delete", "pod", "mysql-2", "--wait=true"]).await;
        happened(scene, "mysql", &["MissingPermission"]).await;
        let told = scene.events("mysql").await.remove("MissingPermission").unwrap_or_default();
        assert!(told.contains("the verb `patch` on `pods/status`"), "{told}");
    });
}

/// Waits until this pod is called the primary, the others are not, and the Service has it alone. On the way there are never
/// two.
async fn roles(scene: &Scene, primary: &str) {
    until(&format!("{primary} is called the primary"), SOON, async || {
        let labels = ListParams::default().labels("app=mysql");
        let pods = scene.pods().list(&labels).await.map_err(|error| error.to_string())?;
        let role = |pod: &k8s_openapi::api::core::v1::Pod| {
            let labels = pod.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get("readwright.dev/role")).cloned().unwrap_or_default()
        };
        let roles: Vec<_> =
            pods.iter().map(|pod| (pod.metadata.name.clone().unwrap_or_default(), role(pod))).collect();
        let called = roles.iter().filter(|(_, role)| role == "primary").count();
        assert!(called <= 1, "{roles:?}");
        let right = |(name, role): &(String, String)| match name == primary {
            true => role == "primary",
            false => role == "replica",
        };
        if roles.len() == SERVERS.len() && roles.iter().all(right) {
            Ok(())
        } else {
            Err(format!("{roles:?}"))
        }
    })
    .await;
    selected(scene, "mysql-primary", &[primary]).await;
}

/// Waits until a Service sends its clients to these pods and no others.
async fn selected(scene: &Scene, service: &str, pods: &[&str]) {
    let label = format!("--selector=kubernetes.io/service-name={service}");
    let path = "jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.targetRef.name} {end}";
    until(&format!("{service} selects {pods:?}"), SOON, async || {
        let found = scene.try_kubectl(&["get", "endpointslices", &label, "-o", path]).await?;
        let mut names: Vec<&str> = found.split_whitespace().collect();
        names.sort_unstable();
        if names == pods { Ok(()) } else { Err(found) }
    })
    .await;
}

/// The condition behind the readiness gate.
async fn gate(scene: &Scene, pod: &str) -> Value {
    let path = ".status.conditions[?(@.type==\"readwright.dev/serving\")]";
    let found = scene.field(&format!("pod/{pod}"), path).await.expect("it is there");
    serde_json::from_str(&found).unwrap_or_default()
}

/// Waits until there are such Events about an object.
async fn happened(scene: &Scene, name: &str, reasons: &[&str]) {
    until(&format!("{name}: {reasons:?}"), SOON, async || {
        let events = scene.events(name).await;
        let all = reasons.iter().all(|reason| events.contains_key(*reason));
        if all { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;
}

/// Of the servers' pods.
async fn versions(scene: &Scene) -> Vec<String> {
    let labels = ListParams::default().labels("app=mysql");
    let pods = scene.pods().list(&labels).await.expect("the API server answers");
    pods.iter().filter_map(|pod| pod.metadata.resource_version.clone()).collect()
}

const SERVERS: [&str; 3] = ["mysql-0", "mysql-1", "mysql-2"];
/// What stands at a primary that serves, and at a replica.
const SERVES: [(Option<&str>, Option<&str>); 2] =
    [(Some("True"), Some("Primary")), (Some("True"), Some("Serving"))];
const GATE: &str = "      readinessGates: [{conditionType: readwright.dev/serving}]\n      containers:\n";
const SERVICES: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: mysql-read}
spec:
  selector: {app: mysql}
  ports: [{name: mysql, port: 3306}]
---
apiVersion: v1
kind: Service
metadata: {name: mysql-primary}
spec:
  clusterIP: None
  selector: {app: mysql, readwright.dev/role: primary}
  ports: [{name: mysql, port: 3306}]
";
