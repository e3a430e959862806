//! The embedded controller in a real API server: three empty servers become a cluster, one of two Readwrights leads, and
//! whatever happens to the leader, its Lease or the API server, there is one leader or none.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::kubelet::Signal;
use crate::managed::{BOOT, DOORS, SOON, leader, record, root, serving, set_up, start_proxies};
use crate::scene::{Scene, scenario, scenario_apart, until};
use crate::traffic::{Traffic, create_shop};

#[test]
fn two_controllers_and_one_leader() {
    scenario_apart("controller", async |scene| {
        set_up(scene).await;
        let found = record(scene).await.expect("it is there");
        assert_eq!((&found["primary"], &found["bootstrapped"]), (&"mysql-0".into(), &true.into()), "{found}");
        a_newcomer_beside_a_frozen_leader(scene).await;
        let traffic = Traffic::start(scene, &DOORS, 1, 2);
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;

        // Both know who leads, and the Lease says so.
        let (first, _) = serving(scene, 3, SOON).await;
        let holder = holder(scene).await.expect("the Lease is there");
        assert!(holder.starts_with(&format!("{first}_")), "{holder} is not {first}");
        for door in DOORS {
            let told = controller(scene, door).await.expect("it answers");
            assert_eq!((&told["leader"], &told["leads"]), (&holder.as_str().into(), &(door == first).into()));
        }

        // The Lease is deleted: its holder makes a new one, and nobody else comes in between.
        let before = scene.field("lease/readwright", ".metadata.uid").await.expect("it is there");
        scene.kubectl(&["delete", "lease", "readwright"]).await;
        until("there is a new Lease", SOON, async || {
            match scene.field("lease/readwright", ".metadata.uid").await {
                Ok(uid) if uid != before => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(self::holder(scene).await.as_ref(), Ok(&holder));
        assert_eq!(leader(scene).await.map(|(leader, _)| leader).as_ref(), Ok(&first));

        // The leader freezes for longer than its lease is good for: the other leads, and it does not when it goes on.
        assert!(scene.kubelet.signal(&first, "readwright", Signal::STOP));
        let second = DOORS.into_iter().find(|door| *door != first).expect("there are two");
        leads(scene, second).await;
        let writer = writer(scene, second).await;
        assert!(scene.kubelet.signal(&first, "readwright", Signal::CONT));
        until("it knows the other", SOON, async || match controller(scene, &first).await? {
            told if told["leads"] == false && told["leader"] == writer.as_str() => Ok(()),
            told => Err(told.to_string()),
        })
        .await;
        assert_eq!(self::writer(scene, second).await, writer, "the old leader wrote");

        // The leader's pod is deleted: it gives the lease back, and whoever is faster then, the other one or the new pod,
        // repairs what breaks meanwhile.
        // The one that froze has to take clients again by then.
        scene.ready(&DOORS, SOON).await;
        let mut replica = root(scene, "mysql-2").await.expect("it serves");
        replica.query_drop("STOP REPLICA").await.expect("root may");
        scene.kubectl(&["delete", "pod", second, "--wait=false"]).await;
        until("another one leads", SOON, async || match self::holder(scene).await? {
            holder if holder != writer && !holder.is_empty() => leader(scene).await.map(|_| ()),
            holder => Err(holder),
        })
        .await;
        let (third, _) = serving(scene, 3, SOON).await;
        a_server_of_another_cluster(scene, &traffic).await;

        // Without the API server nobody leads, and the data goes on: for a minute, which is longer than any lease.
        scene.kube.go_away().await;
        until("it leads no more", SOON, async || match controller(scene, &third).await? {
            told if told["leads"] == false && told["problems"].to_string().contains("cannot be reached") => {
                Ok(())
            }
            told => Err(told.to_string()),
        })
        .await;
        sleep(Duration::from_secs(60)).await;
        traffic.writes(50, SOON).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        scene.kube.serve().await.expect("it starts again");
        serving(scene, 3, SOON).await;
        scene.ready(&DOORS, BOOT).await;

        let mut primary = root(scene, "mysql-0").await.expect("it serves");
        let tally = traffic.finish(&mut primary).await;
        eprintln!("controller: {tally}");
        tally.assert_fresh();
        // The client of the Readwright that froze, and those of the one that was deleted.
        let errors = tally.write_errors.iter().chain(&tally.read_errors);
        assert!(errors.clone().all(|why| why.contains("readwright-")) && errors.count() <= 6, "{tally}");
    });
}

/// The leader freezes and its Lease is deleted: who starts then knows of neither. It makes a Lease, and leads only when that
/// of before would have ended, since whoever had it may go on, and does: never do two lead.
async fn a_newcomer_beside_a_frozen_leader(scene: &Scene) {
    let (first, _) = serving(scene, 3, SOON).await;
    let newcomer = DOORS.into_iter().find(|door| *door != first).expect("there are two");
    assert!(scene.kubelet.signal(&first, "readwright", Signal::STOP));
    scene.kubectl(&["delete", "lease", "readwright"]).await;
    assert!(scene.kubelet.signal(newcomer, "readwright", Signal::KILL));
    let made_by = |holder: &str| holder.starts_with(&format!("{newcomer}_"));
    until("it makes a Lease", SOON, async || match holder(scene).await? {
        holder if made_by(&holder) => Ok(()),
        holder => Err(holder),
    })
    .await;
    assert!(scene.kubelet.signal(&first, "readwright", Signal::CONT));
    until("the newcomer leads", SOON, async || {
        let leads = controller(scene, newcomer).await?["leads"] == true;
        let other = controller(scene, &first).await?["leads"] == true;
        assert!(!(leads && other), "two lead");
        if leads { Ok(()) } else { Err(format!("it does not; the one of before: {other}")) }
    })
    .await;
    assert!(holder(scene).await.is_ok_and(|holder| made_by(&holder)));
    scene.ready(&DOORS, SOON).await;
}

/// A server that somebody else has written to gets into the Service, first without a marker, then with that of another
/// cluster: no statement goes there, and it stays as it is.
async fn a_server_of_another_cluster(scene: &Scene, traffic: &Traffic) {
    let ours = scene.kubectl(&["get", "statefulset/mysql", "-o", "json"]).await;
    let ours: Value = serde_json::from_str(&ours).expect("it is JSON");
    let mut theirs = json!({
        "apiVersion": ours["apiVersion"], "kind": ours["kind"], "metadata": { "name": "other" }, "spec": ours["spec"],
    });
    theirs["spec"]["replicas"] = json!(1);
    theirs["spec"]["selector"]["matchLabels"] = json!({ "of": "others" });
    theirs["spec"]["template"]["metadata"]["labels"] = json!({ "of": "others" });
    scene.apply(&theirs.to_string()).await;
    let mut server = until("other-0 answers", SOON, async || root(scene, "other-0").await).await;
    server.query_drop("CREATE DATABASE theirs").await.expect("root may");
    let state = "SELECT CONCAT(@@gtid_executed, @@server_id, @@server_uuid, @@super_read_only)";
    let before: Option<String> = server.query_first(state).await.expect("it answers");
    scene.kubectl(&["label", "pod", "other-0", "app=mysql"]).await;
    told(scene, "other-0: it has data, and no marker says that it is this cluster's").await;
    traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
    assert_eq!(server.query_first(state).await.expect("it answers"), before);

    for statement in [
        "CREATE DATABASE ctl",
        "CREATE TABLE ctl.cluster (id CHAR(36) NOT NULL PRIMARY KEY)",
        "INSERT INTO ctl.cluster VALUES ('theirs')",
    ] {
        server.query_drop(statement).await.expect("root may");
    }
    let before: Option<String> = server.query_first(state).await.expect("it answers");
    told(scene, "other-0: it has the data of another cluster (theirs)").await;
    traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
    assert_eq!(server.query_first(state).await.expect("it answers"), before);
    scene.kubectl(&["label", "pod", "other-0", "app-"]).await;
    serving(scene, 3, SOON).await;
    scene.kubectl(&["delete", "statefulset", "other"]).await;
}

/// Waits until the Readwright of this pod leads, alone.
async fn leads(scene: &Scene, pod: &str) {
    until(&format!("{pod} leads"), SOON, async || {
        let told = controller(scene, pod).await?;
        if told["leads"] == true && holder(scene).await?.starts_with(&format!("{pod}_")) {
            Ok(())
        } else {
            Err(told.to_string())
        }
    })
    .await;
}

async fn controller(scene: &Scene, pod: &str) -> Result<Value, String> {
    Ok(scene.status(pod).await?["controller"].clone())
}

async fn holder(scene: &Scene) -> Result<String, String> {
    scene.field("lease/readwright", ".spec.holderIdentity").await
}

/// Who has written the record last, once this pod's Readwright has.
async fn writer(scene: &Scene, pod: &str) -> String {
    until(&format!("{pod} writes the record"), SOON, async || {
        let writer = scene.field("configmap/readwright", ".data.writer").await?;
        if writer.starts_with(&format!("{pod}_")) { Ok(writer) } else { Err(writer) }
    })
    .await
}

#[test]
fn rights_and_passwords_that_change() {
    scenario("rights", async |scene| {
        // Nobody may lead, and then the record may not be written: both are told with their remedy.
        let role = |leases: &str, state: &str| {
            format!(
                "{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: controller}}, rules: [\
                 {{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [{leases}]}}, \
                 {{apiGroups: [''], resources: [configmaps], verbs: [{state}]}}]}}"
            )
        };
        let key = "      installation_password_file:";
        let servers = without_rights_to_act().replace(key, &format!("      old_passwords_s: 30\n{key}"));
        scene.apply(&servers).await;
        bind(scene).await;
        scene.apply(&role("get", "get")).await;
        start_proxies(scene).await;
        told(scene, "the verb `create` on `leases` of apiGroup \\\"coordination.k8s.io\\\"").await;
        scene.apply(&role("get, create, update", "get")).await;
        told(scene, "the verb `create` on `configmaps`").await;
        scene.apply(&role("get, create, update", "get, create, update")).await;
        serving(scene, 3, BOOT).await;
        create_shop(&mut root(scene, "mysql-0").await.expect("it serves")).await;
        scene.ready(&DOORS, SOON).await;
        let traffic = Traffic::start(scene, &DOORS, 1, 2);
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;

        // The record is deleted: the leader knows it, and writes it again.
        let before = record(scene).await.expect("it is there");
        scene.kubectl(&["delete", "configmap", "readwright"]).await;
        until("there is a record again", SOON, async || {
            let found = record(scene).await?;
            match found["cluster"] == before["cluster"] && found["bootstrapped"] == true {
                true => Ok(()),
                false => Err(found.to_string()),
            }
        })
        .await;

        // The passwords of all accounts but root's are changed at once.
        let new = r#"{"stringData": {"controller": "c2", "replication": "r2", "proxy": "p2"}}"#;
        scene.kubectl(&["patch", "secret", "mysql", "-p", new]).await;
        until("the servers and their channels know them", SOON, async || {
            for (user, password) in [("readwright_controller", "c2"), ("readwright", "p2")] {
                for pod in ["mysql-0", "mysql-1", "mysql-2"] {
                    scene.mysql(pod, user, password).await?;
                }
            }
            for pod in ["mysql-1", "mysql-2"] {
                let channel = "SELECT User_password FROM mysql.slave_master_info";
                let known: Option<String> =
                    root(scene, pod).await?.query_first(channel).await.map_err(|error| error.to_string())?;
                if known.as_deref() != Some("r2") {
                    return Err(format!("{pod}: {known:?}"));
                }
            }
            Ok(())
        })
        .await;
        // For a while both are good: what knows only the old one goes on. Then the old one is refused, everywhere.
        let old = [
            ("readwright_controller", "controller-password"),
            ("readwright_replication", "replication-password"),
            ("readwright", "proxy-password"),
        ];
        for (user, password) in old {
            scene.mysql("mysql-0", user, password).await.expect("the old one is good still");
        }
        until("the old ones are refused", BOOT, async || {
            for (pod, (user, password)) in
                ["mysql-0", "mysql-1", "mysql-2"].map(|pod| old.map(|old| (pod, old))).concat()
            {
                match scene.mysql(pod, user, password).await {
                    Err(why) if why.contains("Access denied") => {}
                    other => return Err(format!("{user} at {pod}: {other:?}")),
                }
            }
            Ok(())
        })
        .await;
        serving(scene, 3, SOON).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;

        let mut primary = root(scene, "mysql-0").await.expect("it serves");
        let tally = traffic.finish(&mut primary).await;
        eprintln!("rights: {tally}");
        tally.assert_no_errors();
    });
}

/// All of `managed.yaml` but what its Role grants beyond discovery.
fn without_rights_to_act() -> String {
    let right =
        |line: &&str| line.contains("resources: [leases]") || line.contains("resources: [configmaps]");
    include_str!("managed.yaml").lines().filter(|line| !right(line)).collect::<Vec<_>>().join("\n")
}

async fn bind(scene: &Scene) {
    scene
        .kubectl(&[
            "create",
            "rolebinding",
            "controller",
            "--role=controller",
            &format!("--serviceaccount={}:readwright", scene.namespace),
        ])
        .await;
}

/// Waits until a controller's problems say this.
async fn told(scene: &Scene, words: &str) {
    until(words, SOON, async || {
        let mut told = String::new();
        for door in scene.kubelet.names().iter().filter(|name| DOORS.contains(&name.as_str())) {
            told.push_str(&controller(scene, door).await?["problems"].to_string());
        }
        if told.contains(words) { Ok(()) } else { Err(told) }
    })
    .await;
}
