//! Servers from nothing, with everything in the way that can be: no Secret, a Role that lacks a verb, a controller that is
//! killed at every step; then two more servers whose copies lose their recipient and their donor. Copies are slowed down, so
//! that there is a middle.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::cluster::{
    BOOT, DOORS, SECRET, SOON, apply_base, begin_work, copies, record, root, said, value, well,
};
use crate::kubelet::Signal;
use crate::scene::{Scene, condition, scenario, until};
use crate::traffic::Traffic;

#[test]
fn a_first_start_with_everything_in_its_way() {
    scenario("boot", async |scene| {
        // Some 70 MB each.
        let slow = (
            "controller:\n      enabled: true",
            "controller:\n      clone_bandwidth_mib: 10\n      enabled: true",
        );
        apply_base(scene, &[slow]).await;
        until("mysql-0 waits for the Secret", SOON, async || {
            let waits = scene.kubelet.seen("mysql-0").and_then(|seen| seen.waiting_for);
            match waits.unwrap_or_default() {
                why if why.contains("secret \"mysql\" not found") => Ok(()),
                other => Err(other),
            }
        })
        .await;
        a_right_is_missing(scene).await;
        let killed = the_controller_dies_at_every_step(scene).await;
        assert!(["Initialise", "Clone", "Follow"].iter().all(|step| killed.contains(*step)), "{killed:?}");

        well(scene, &SERVERS[..3], "mysql-0", SOON).await;
        let record = record(scene).await.expect("a record");
        assert_eq!(record["bootstrapped"], true);
        for name in &SERVERS[..3] {
            let marker = value(scene, name, "SELECT GROUP_CONCAT(id) FROM ctl.cluster").await;
            assert_eq!(marker.as_deref().ok(), record["cluster"].as_str(), "{name}");
        }
        let traffic = begin_work(scene).await;
        copies_break_off(scene, &traffic).await;
        let tally = traffic.finish(&mut root(scene, "mysql-0").await.expect("it runs")).await;
        eprintln!("boot: {tally}");
        tally.assert_no_errors();
    });
}

/// Readwright names it, and begins nothing that it could not write down.
async fn a_right_is_missing(scene: &Scene) {
    let role = scene.kubectl(&["get", "role/readwright", "-o", "json"]).await;
    let mut without: Value = serde_json::from_str(&role).expect("it is JSON");
    let rules = without["rules"].as_array_mut().expect("it has rules");
    let all = rules.len();
    rules.retain(|rule| {
        (&rule["resources"][0], &rule["verbs"][0]) != (&"configmaps".into(), &"create".into())
    });
    assert_eq!(rules.len(), all - 1, "{role}");
    scene.apply(&without.to_string()).await;
    scene.apply(SECRET).await;
    said(scene, "the verb `create` on `configmaps`", BOOT).await;
    until("mysql-0 answers", BOOT, async || root(scene, "mysql-0").await).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(value(scene, "mysql-0", "SELECT @@read_only").await.as_deref(), Ok("1"));
    scene.kubectl(&["apply", "-f", "deploy/base/readwright/rbac.yaml"]).await;
}

/// Whoever begins a step of a kind that is new dies of it, until three servers are ready; gives the kinds.
async fn the_controller_dies_at_every_step(scene: &Scene) -> BTreeSet<String> {
    let mut killed = BTreeSet::new();
    let patience = Instant::now() + BOOT * 2;
    loop {
        let names = scene.kubelet.names();
        for door in names.iter().filter(|name| name.starts_with(DOORS[0])) {
            let log = scene.kubelet.log(door, "readwright");
            let fresh = log.lines().filter_map(begun).find(|step| !killed.contains(*step));
            if let Some(step) = fresh
                && scene.kubelet.signal(door, "readwright", Signal::KILL)
            {
                killed.insert(step.to_owned());
                // That others wait until it has expired is shown elsewhere; there is none before the first is elected.
                let free = r#"{"spec": {"holderIdentity": ""}}"#;
                let _ = scene.try_kubectl(&["patch", "lease/readwright", "--type=merge", "-p", free]).await;
            }
        }
        let mut ready = 0;
        for name in &SERVERS[..3] {
            ready +=
                usize::from(scene.pod(name).await.is_ok_and(|pod| condition(&pod, "Ready") == Some("True")));
        }
        if ready == 3 {
            return killed;
        }
        assert!(Instant::now() < patience, "{ready} servers are ready; killed at {killed:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The kind of step that a line of the log says is begun.
fn begun(line: &str) -> Option<&str> {
    let step = line.split_once(r#""message":"controller","step":""#)?.1;
    step.split([' ', '"']).next()
}

/// The recipient of one dies in the middle, then the donor of another. The primary is neither.
async fn copies_break_off(scene: &Scene, traffic: &Traffic) {
    let before = copies(scene);
    scene.kubectl(&["scale", "statefulset/mysql", "--replicas=5"]).await;
    // Whichever is up first.
    let (first, _) = copying(scene, &SERVERS[3..]).await;
    assert!(scene.kubelet.signal(first, "mysql", Signal::KILL));
    let other = if first == SERVERS[3] { SERVERS[4] } else { SERVERS[3] };
    let (_, donor) = copying(scene, &[other]).await;
    assert_ne!(donor, "mysql-0");
    assert!(scene.kubelet.signal(&donor, "mysql", Signal::KILL));
    traffic.reads_go_to(scene, &SERVERS[1..], BOOT).await;
    well(scene, &SERVERS, "mysql-0", SOON).await;
    assert!(copies(scene) >= before + 4, "{before} and {}", copies(scene));
}

/// Waits until a copy to one of these servers has come some way, and gives that server and its donor.
async fn copying<'a>(scene: &Scene, servers: &[&'a str]) -> (&'a str, String) {
    until(&format!("{servers:?} are copied to"), BOOT, async || {
        let run = "SELECT CONCAT(source, ' ', SUM(data)) FROM performance_schema.clone_status \
                   JOIN performance_schema.clone_progress USING (id) WHERE clone_status.state = 'In Progress' GROUP BY source";
        let mut seen = Vec::new();
        for server in servers {
            let run = value(scene, server, run).await.unwrap_or_else(|error| error);
            let bytes = run.rsplit(' ').next().and_then(|bytes| bytes.parse::<u64>().ok());
            match (run.split('.').next(), bytes) {
                (Some(donor), Some(bytes)) if bytes > 15 << 20 => return Ok((*server, donor.to_owned())),
                _ => seen.push(run),
            }
        }
        Err(seen.join("; "))
    })
    .await
}

const SERVERS: [&str; 5] = ["mysql-0", "mysql-1", "mysql-2", "mysql-3", "mysql-4"];
