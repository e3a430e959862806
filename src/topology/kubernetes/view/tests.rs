//! Each case is what the API server says, and the servers that are seen in it.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::*;

fn settings() -> Settings {
    Settings {
        service: Arc::from("mysql"),
        primary_service: Some(Arc::from("mysql-primary")),
        port: 3306,
        state: Arc::from("readwright"),
        hosts: Hosts::Addresses,
    }
}

/// A pod that is Ready, or what `change` makes of it.
fn pod(name: &str, ip: &str, change: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "uid": format!("uid-of-{name}")},
        "spec": {"containers": [], "nodeName": format!("node-of-{name}")},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    merge(&mut pod, change);
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

/// An endpoint `name ip flags`: `-` not ready, `x` terminating; a zone may follow.
fn endpoint(text: &str) -> Value {
    let mut words = text.split(' ');
    let (name, ip) = (words.next(), words.next());
    let flags = words.next().unwrap_or("");
    json!({
        "addresses": [ip],
        "conditions": {"ready": true, "serving": !flags.contains('-'), "terminating": flags.contains('x')},
        "targetRef": {"kind": "Pod", "name": name, "uid": "u"},
        "zone": words.next(),
        "nodeName": "n",
    })
}

fn slice(service: &str, family: &str, endpoints: &[&str]) -> Arc<EndpointSlice> {
    let slice = json!({
        "metadata": {"name": "any", "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "endpoints": endpoints.iter().map(|text| endpoint(text)).collect::<Vec<_>>(),
        "ports": [{"name": "metrics", "port": 9104}, {"name": "mysql", "port": 3307}],
    });
    Arc::new(serde_json::from_value(slice).expect("a slice"))
}

/// `name=address`, `*` the primary, `-` not for reads, `@zone`.
fn short(view: &View) -> String {
    let one = |endpoint: &Endpoint| {
        let primary = if endpoint.role == Role::Primary { "*" } else { "" };
        let ready = if endpoint.ready { "" } else { "-" };
        let zone = endpoint.zone.as_deref().map(|zone| format!("@{zone}")).unwrap_or_default();
        format!("{}={}{primary}{ready}{zone}", endpoint.id, endpoint.address)
    };
    view.endpoints.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(pods: Option<Vec<Arc<Pod>>>, slices: Vec<Arc<EndpointSlice>>, record: bool, expected: &str) -> View {
    let view = view(&Objects { pods, slices, record }, &settings());
    assert_eq!(short(&view), expected);
    view
}

#[test]
fn pods_with_their_slices() {
    let both = [pod("mysql-1", "10.0.0.2", json!({})), pod("mysql-0", "10.0.0.1", json!({}))];
    let slices = vec![slice("mysql", "IPv4", &["mysql-0 10.0.0.1  a", "mysql-1 10.0.0.9  b"])];
    // The pod's own address is newer than the slice's.
    let view = check(Some(both.to_vec()), slices, true, "mysql-0=10.0.0.1:3307*@a mysql-1=10.0.0.2:3307@b");
    assert_eq!(view.endpoints[1].name.to_string(), "mysql-1.mysql:3307");
    assert_eq!(view.endpoints[1].node.as_deref(), Some("node-of-mysql-1"));
    assert_eq!(view.endpoints[1].uid.as_deref(), Some("uid-of-mysql-1"));
    assert!(view.notices.is_empty());
    // A pod that no slice has yet, and one that only a slice has: it was deleted a moment ago.
    let one = vec![pod("mysql-2", "10.0.0.3", json!({}))];
    let slices = vec![slice("mysql", "IPv4", &["mysql-1 10.0.0.2  b"])];
    check(Some(one.clone()), slices, true, "mysql-2=10.0.0.3:3307");
    check(Some(one), vec![], true, "mysql-2=10.0.0.3:3306");
}

#[test]
fn pods_come_and_go() {
    let check = |change: Value, expected: &str| {
        self::check(Some(vec![pod("mysql-0", "10.0.0.1", change)]), vec![], true, expected);
    };
    check(json!({}), "mysql-0=10.0.0.1:3306*");
    // A primary whose pod goes is the primary until somebody else is told to be.
    check(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), "mysql-0=10.0.0.1:3306*-");
    check(
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
        "mysql-0=10.0.0.1:3306*-",
    );
    check(json!({"status": {"conditions": null}}), "mysql-0=10.0.0.1:3306*-");
    check(json!({"status": {"podIP": null}}), "");
    check(json!({"status": {"podIP": ""}}), "");
    check(json!({"status": {"phase": "Failed"}}), "");
    check(json!({"status": null}), "");
    check(json!({"metadata": {"name": "mysql-client"}}), "");
}

#[test]
fn slices_alone() {
    let check = |endpoints: &[&str], expected: &str| {
        self::check(None, vec![slice("mysql", "IPv4", endpoints)], false, expected)
    };
    assert_eq!(check(&["mysql-0 10.0.0.1"], "mysql-0=10.0.0.1:3307*").endpoints[0].uid.as_deref(), Some("u"));
    check(&["mysql-0 10.0.0.1", "mysql-1 10.0.0.2  b"], "mysql-0=10.0.0.1:3307* mysql-1=10.0.0.2:3307@b");
    check(&["mysql-0 10.0.0.1 -", "mysql-1 10.0.0.2 x"], "mysql-0=10.0.0.1:3307*- mysql-1=10.0.0.2:3307-");
    // Twice, while it moves from one slice to another, or while the pod was made anew.
    check(&["mysql-1 10.0.0.2 x", "mysql-1 10.0.0.3"], "mysql-1=10.0.0.3:3307");
    check(&["mysql-1 10.0.0.3", "mysql-1 10.0.0.2 -"], "mysql-1=10.0.0.3:3307");
    check(&["mysql-1 10.0.0.3 x", "mysql-1 10.0.0.3 x"], "mysql-1=10.0.0.3:3307-");
    check(&["mysql-client 10.0.0.7"], "");
    let two = vec![
        slice("mysql", "IPv4", &["mysql-0 10.0.0.1"]),
        slice("mysql", "IPv4", &["mysql-1 10.0.0.2"]),
        slice("mysql", "IPv6", &["mysql-1 fd00::2", "mysql-2 fd00::3"]),
        slice("mysql", "FQDN", &["mysql-3 mysql-3.example"]),
        slice("other", "IPv4", &["mysql-4 10.0.0.5"]),
    ];
    let expected = "mysql-0=10.0.0.1:3307* mysql-1=10.0.0.2:3307 mysql-2=[fd00::3]:3307";
    self::check(None, two, false, expected);
}

#[test]
fn slices_without_conditions_or_ports() {
    let slice = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "mysql"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "hostname": "mysql-0"}, {"addresses": ["10.0.0.2"]}],
        "ports": [{"port": 3306}],
    });
    let mut slice: EndpointSlice = serde_json::from_value(slice).expect("a slice");
    check(None, vec![Arc::new(slice.clone())], false, "mysql-0=10.0.0.1:3306*");
    slice.ports = None;
    check(None, vec![Arc::new(slice)], false, "mysql-0=10.0.0.1:3306*");
}

#[test]
fn who_is_taken_for_the_primary() {
    let all = ["mysql-0 10.0.0.1", "mysql-1 10.0.0.2"];
    let check = |record: bool, selected: Option<&[&str]>, expected: &str, notice: &str| {
        let mut slices = vec![slice("mysql", "IPv4", &all)];
        slices.extend(selected.map(|selected| slice("mysql-primary", "IPv4", selected)));
        let view = view(&Objects { pods: None, slices, record }, &settings());
        let primary = view.endpoints.iter().find(|endpoint| endpoint.role == Role::Primary);
        assert_eq!(primary.map_or("", |endpoint| endpoint.id.as_str()), expected, "{selected:?}");
        assert_eq!(view.notices.is_empty(), notice.is_empty(), "{:?}", view.notices);
        assert!(view.notices.iter().all(|found| found.contains(notice)), "{:?}", view.notices);
    };
    check(false, None, "mysql-0", "");
    check(false, Some(&["mysql-1 10.0.0.2"]), "mysql-1", "");
    // It is the primary whether or not it is ready.
    check(false, Some(&["mysql-1 10.0.0.2 -"]), "mysql-1", "");
    check(false, Some(&[]), "", "selects no pod");
    check(false, Some(&all), "", "selects mysql-0, mysql-1: no server is taken");
    // Where the record can be read, it alone appoints another one than ordinal 0.
    check(true, Some(&["mysql-1 10.0.0.2"]), "mysql-0", "");
}

#[test]
fn a_service_that_selects_two_sets() {
    let slices = vec![slice("mysql", "IPv4", &["mysql-0 10.0.0.1", "other-0 10.0.0.8", "mysql-1 10.0.0.2"])];
    let expected = "mysql-0=10.0.0.1:3307 other-0=10.0.0.8:3307 mysql-1=10.0.0.2:3307";
    let view = check(None, slices, true, expected);
    assert!(view.notices[0].contains("several StatefulSets (mysql-0, other-0)"), "{:?}", view.notices);
}

#[test]
fn names_for_certificates() {
    let settings = Settings { hosts: Hosts::Names, ..settings() };
    let pods = Some(vec![pod("mysql-0", "10.0.0.1", json!({}))]);
    let view = view(&Objects { pods, ..Objects::default() }, &settings);
    assert_eq!(view.endpoints[0].address.to_string(), "mysql-0.mysql:3306");
}

#[test]
fn selectors() {
    let check = |spec: Value, expected: Option<&str>| {
        let service: Service =
            serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a Service");
        assert_eq!(label_selector(&service).as_deref(), expected);
    };
    check(json!({"selector": {"tier": "db", "app": "mysql"}}), Some("app=mysql,tier=db"));
    // All pods of the namespace are not the pods of such a Service.
    check(json!({"selector": {}}), None);
    check(json!({}), None);
}

#[test]
fn claims_and_what_they_hold() {
    let check = |change: Value, expected: Option<Option<u64>>| {
        let mut claim = json!({
            "metadata": {"name": "data-mysql-0"},
            "status": {"phase": "Bound", "capacity": {"storage": "10Gi"}},
        });
        merge(&mut claim, change.clone());
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
        let found: Vec<Option<u64>> = claims(&[Arc::new(claim)]).iter().map(|claim| claim.capacity).collect();
        assert_eq!(found, Vec::from_iter(expected), "{change}");
    };
    let storage = |text: &str| json!({"status": {"capacity": {"storage": text}}});
    check(json!({}), Some(Some(10 << 30)));
    check(json!({"status": {"phase": "Pending", "capacity": null}}), None);
    check(json!({"status": {"phase": "Lost", "capacity": null}}), Some(None));
    check(storage("5000"), Some(Some(5000)));
    check(storage("12M"), Some(Some(12_000_000)));
    check(storage("3e9"), Some(Some(3_000_000_000)));
    // What is no whole number of a unit says nothing; no provisioner writes it.
    check(storage("1.5Gi"), Some(None));
    check(storage("99999999999999Pi"), Some(None));
}
