//! What the other scenarios stand on: the kubelet of these tests runs pods as a cluster does. A StatefulSet of real servers
//! without Readwright; the readiness gate is opened by the test.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use mysql_async::prelude::Queryable;
use serde_json::json;

use crate::kubelet::Signal;
use crate::scene::{Scene, condition, restarts, scenario_apart, until};

#[test]
fn pods_are_real_servers() {
    scenario_apart("pods", async |scene| {
        scene.apply(MANIFEST).await;
        for name in ["mysql-0", "mysql-1"] {
            // OrderedReady: the next pod is made when the one before is ready, gate and all.
            until("the server accepts connections", BOOT, async || scene.mysql(name, "root", "geheim").await)
                .await;
            until("the containers are ready", SOON, async || {
                expect(scene, name, "ContainersReady", "True").await
            })
            .await;
            assert_eq!(
                condition(&scene.pod(name).await.expect("it is there"), "Ready"),
                Some("False"),
                "the gate is shut"
            );
            open(scene, name).await;
        }
        scene.ready(&["mysql-0", "mysql-1"], SOON).await;

        // The pod's number, its name and its address are its own; data goes with the claim.
        let mut server = scene.mysql("mysql-1", "root", "geheim").await.expect("it runs");
        let told: (u32, String, String) = server
            .query_first("SELECT @@server_id, @@report_host, @@hostname")
            .await
            .expect("it answers")
            .expect("a row");
        assert_eq!(told.0, 101);
        assert_eq!(told.1, "mysql-1.mysql");
        assert_eq!(told.2, "mysql-1");
        let uuid: String =
            server.query_first("SELECT @@server_uuid").await.expect("it answers").expect("a row");
        server.query_drop("SET GLOBAL read_only=OFF").await.expect("root may");
        server.query_drop("CREATE DATABASE kept").await.expect("root may");

        a_killed_server_is_started_again(scene).await;
        names_lead_to_pods(scene).await;

        // In order: preStop, SIGTERM; then a new pod with the old data.
        let before = scene.pod("mysql-1").await.expect("it is there").metadata.uid;
        scene.kubectl(&["delete", "pod", "mysql-1", "--wait=true"]).await;
        until("there is another mysql-1", SOON, async || {
            let uid = scene.pod("mysql-1").await?.metadata.uid;
            if uid == before { Err("it is the old one".to_owned()) } else { Ok(()) }
        })
        .await;
        let mut server =
            until("it accepts connections", BOOT, async || scene.mysql("mysql-1", "root", "geheim").await)
                .await;
        let again: String =
            server.query_first("SELECT @@server_uuid").await.expect("it answers").expect("a row");
        assert_eq!(again, uuid, "the data folder is the same");
        assert_eq!(databases(&mut server).await, ["kept"]);
        open(scene, "mysql-1").await;
        scene.ready(&["mysql-1"], SOON).await;

        // Without its claim it is a new server; this one with an option more.
        scene.kubelet.mysqld_options(&["--max-connections=77"]);
        scene.kubectl(&["delete", "pvc", "data-mysql-1", "--wait=false"]).await;
        scene.kubectl(&["delete", "pod", "mysql-1", "--wait=true"]).await;
        let mut server = until("it accepts connections", BOOT, async || {
            let mut server = scene.mysql("mysql-1", "root", "geheim").await?;
            let now: Option<String> =
                server.query_first("SELECT @@server_uuid").await.map_err(|error| error.to_string())?;
            if now.as_ref() == Some(&uuid) { Err("it is the old one".to_owned()) } else { Ok(server) }
        })
        .await;
        assert!(databases(&mut server).await.is_empty());
        let limit: Option<u32> = server.query_first("SELECT @@max_connections").await.expect("it answers");
        assert_eq!(limit, Some(77));
        open(scene, "mysql-1").await;

        // Off the network, and back.
        scene.ready(&["mysql-1"], SOON).await;
        assert!(scene.kubelet.link("mysql-1", false));
        until("it is not ready", SOON, async || expect(scene, "mysql-1", "Ready", "False").await).await;
        assert!(scene.kubelet.link("mysql-1", true));
        scene.ready(&["mysql-1"], SOON).await;

        // Servers do not need the API server; what happened meanwhile is seen when it is back.
        scene.kube.go_away().await;
        assert!(scene.kubelet.signal("mysql-0", "mysql", Signal::KILL));
        until("mysql-0 runs again", BOOT, async || scene.mysql("mysql-0", "root", "geheim").await).await;
        scene.kube.serve().await.expect("it starts again");
        until("the restart is in its status", SOON, async || {
            match restarts(&scene.pod("mysql-0").await?).get("mysql") {
                Some(1) => Ok(()),
                other => Err(format!("{other:?} restarts")),
            }
        })
        .await;
        scene.ready(&["mysql-0", "mysql-1"], SOON).await;

        // A drained node loses its pods to another.
        let node = scene.field("pod/mysql-1", ".spec.nodeName").await.expect("it is there");
        scene.kubectl(&["drain", &node, "--force", "--timeout=300s"]).await;
        until("mysql-1 runs elsewhere", SOON, async || {
            let now = scene.field("pod/mysql-1", ".spec.nodeName").await?;
            if now.is_empty() || now == node { Err(format!("it is on {now}")) } else { Ok(()) }
        })
        .await;
        scene.kubectl(&["uncordon", &node]).await;

        // Scaled down, claims stay.
        scene.kubectl(&["scale", "statefulset/mysql", "--replicas=1"]).await;
        until("mysql-1 is gone", BOOT, async || match scene.pod("mysql-1").await {
            Ok(_) => Err("it is there".to_owned()),
            Err(_) => Ok(()),
        })
        .await;
        until("nothing of it runs", SOON, async || match scene.kubelet.names() {
            names if names == ["mysql-0"] => Ok(()),
            names => Err(format!("{names:?} run")),
        })
        .await;
        assert_eq!(scene.field("pvc/data-mysql-1", ".status.phase").await.as_deref(), Ok("Bound"));
    });
}

async fn a_killed_server_is_started_again(scene: &Scene) {
    assert!(scene.kubelet.signal("mysql-1", "mysql", Signal::KILL));
    until("it has been started again", BOOT, async || {
        let pod = scene.pod("mysql-1").await?;
        match restarts(&pod).get("mysql") {
            Some(1) => scene.mysql("mysql-1", "root", "geheim").await.map(drop),
            other => Err(format!("{other:?} restarts")),
        }
    })
    .await;
    let last = ".status.containerStatuses[0].lastState.terminated.exitCode";
    assert_eq!(scene.field("pod/mysql-1", last).await.as_deref(), Ok("137"));
}

async fn names_lead_to_pods(scene: &Scene) {
    let mut server = scene.mysql("mysql-1", "root", "geheim").await.expect("it runs");
    let change = "CHANGE REPLICATION SOURCE TO SOURCE_HOST='mysql-0.mysql', SOURCE_USER='root', SOURCE_PASSWORD='geheim', \
                  SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1";
    server.query_drop(change).await.expect("root may");
    server.query_drop("START REPLICA IO_THREAD").await.expect("root may");
    until("mysql-1 finds mysql-0 by its name", SOON, async || {
        let state: Option<(String, String)> = server
            .query_first("SELECT SERVICE_STATE, LAST_ERROR_MESSAGE FROM performance_schema.replication_connection_status")
            .await
            .map_err(|error| error.to_string())?;
        match state {
            Some((state, _)) if state == "ON" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    server.query_drop("STOP REPLICA").await.expect("root may");
    server.query_drop("RESET REPLICA ALL").await.expect("root may");
}

/// Databases that do not come with the server.
async fn databases(server: &mut mysql_async::Conn) -> Vec<String> {
    let own = "SELECT schema_name FROM information_schema.schemata \
               WHERE schema_name NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema')";
    server.query(own).await.expect("it answers")
}

async fn open(scene: &Scene, pod: &str) {
    let status =
        json!({ "status": { "conditions": [{ "type": "readwright.dev/serving", "status": "True" }] } });
    scene
        .pods()
        .patch_status(pod, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .expect("an administrator may");
}

async fn expect(scene: &Scene, pod: &str, kind: &str, status: &str) -> Result<(), String> {
    let pod = scene.pod(pod).await?;
    match condition(&pod, kind) {
        Some(now) if now == status => Ok(()),
        other => Err(format!("{kind} is {other:?}")),
    }
}

/// From an empty folder to a server, on a busy machine.
const BOOT: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(120);

const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: mysql, labels: {app: mysql}}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {app: mysql}
  ports: [{name: mysql, port: 3306}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: mysql}
data:
  my.cnf: |
    [mysqld]
    gtid_mode=ON
    enforce_gtid_consistency=ON
    read_only=ON
    skip_replica_start=ON
    plugin-load-add=mysql_clone.so
---
apiVersion: v1
kind: Secret
metadata: {name: root}
stringData: {password: geheim}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: mysql}
spec:
  serviceName: mysql
  replicas: 2
  selector: {matchLabels: {app: mysql}}
  template:
    metadata: {labels: {app: mysql}}
    spec:
      terminationGracePeriodSeconds: 20
      readinessGates: [{conditionType: readwright.dev/serving}]
      containers:
        - name: mysql
          image: mysql:8.4
          args: ["--server-id=10$(POD_INDEX)", "--report-host=$(POD_NAME).mysql"]
          env:
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: POD_INDEX, valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}}
            - {name: MYSQL_ROOT_PASSWORD, valueFrom: {secretKeyRef: {name: root, key: password}}}
          ports: [{name: mysql, containerPort: 3306}]
          startupProbe: {exec: {command: [mysqladmin, ping, -h127.0.0.1]}, periodSeconds: 1, failureThreshold: 100}
          readinessProbe: {tcpSocket: {port: mysql}, periodSeconds: 1, failureThreshold: 2}
          livenessProbe: {exec: {command: [mysqladmin, ping]}, periodSeconds: 5, failureThreshold: 10, timeoutSeconds: 5}
          lifecycle: {preStop: {sleep: {seconds: 1}}}
          volumeMounts:
            - {name: data, mountPath: /var/lib/mysql}
            - {name: config, mountPath: /etc/mysql/conf.d}
      volumes:
        - {name: config, configMap: {name: mysql}}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"#;
