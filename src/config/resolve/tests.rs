use std::time::Duration;

use super::*;
use crate::config::raw::Origin;

const EXAMPLE: &str = include_str!("../../../config/readwright.yaml");
const PEM: &str = "-----BEGIN CERTIFICATE-----";

/// Resolves with these flags and a file system that has `/secret` and `/pem`.
fn with(yaml: &str, flags: &[&str]) -> Result<Config, Vec<Problem>> {
    let environment = [("PASSWORD", "from env"), ("READWRIGHT_POOL__IDLE_S", "30")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    resolve(Raw::read(yaml, environment.into(), &flags), &|path| match path.to_str() {
        Some("/secret") => Ok(b"from file\n".to_vec()),
        Some("/empty") => Ok(b"\n".to_vec()),
        Some("/pem") => Ok(PEM.as_bytes().to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    })
}

fn problems(yaml: &str, flags: &[&str]) -> Vec<String> {
    with(yaml, flags).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_file_has_every_key_with_its_default() {
    let none = |_: &Path| Err(io::ErrorKind::NotFound.into());
    let resolve = |yaml| resolve(Raw::read(yaml, BTreeMap::new(), &[]), &none).expect("valid");
    let (mut example, mut defaults) = (resolve(EXAMPLE), resolve(""));
    let written: Vec<String> = example.settings.iter().map(|setting| setting.key.clone()).collect();
    for setting in example.settings.drain(..) {
        let list = ["listen.proxy_protocol_from", "topology.servers"].contains(&setting.key.as_str());
        assert!(list || setting.origin == Origin::File, "{} is not in the file", setting.key);
    }
    let known: Vec<String> = defaults.settings.drain(..).map(|setting| setting.key).collect();
    assert_eq!(written, known);
    assert_eq!(format!("{example:?}"), format!("{defaults:?}"));
    for field in ["servers: []", "known: []", "name:", "address:", "zone:", "password_file:", "password_env"]
    {
        assert!(EXAMPLE.contains(field), "{field}");
    }
}

#[test]
fn values_reach_the_configuration() {
    let config = with(
        "{account: {user: ops, password_file: /secret}, admin: {password_env: PASSWORD, http: none},
          users: {known: [{user: app, password_env: PASSWORD}]},
          topology: {kind: fixed, primary: b, servers: [{name: a, address: 'h:1', zone: z},
                                                        {name: b, address: '[::1]:2'}]},
          client_tls: {certificate_file: /pem, key_file: /pem},
          listen: {socket: /run/rw.sock, proxy_protocol_from: [10.0.0.0/8, '::1']}}",
        &["pool.wait_ms=7", "limits.max_packet_mib=1"],
    )
    .expect("valid");
    let account = &config.account.account;
    assert_eq!((account.user.as_str(), account.password.reveal()), ("ops", "from file"));
    assert_eq!(config.users.known[0].password.reveal(), "from env");
    assert_eq!(config.admin.account.as_ref().expect("given").password.reveal(), "from env");
    assert_eq!((config.admin.http, config.admin.sql.expect("default").port()), (None, 6032));
    assert_eq!((config.pool.wait, config.pool.idle), (Duration::from_millis(7), Duration::from_secs(30)));
    assert_eq!(config.limits.max_packet, 1024 * 1024);
    let Topology::Fixed { servers, primary } = &config.topology else { panic!("{:?}", config.topology) };
    assert_eq!((servers.len(), primary.as_ref().map(ServerId::as_str)), (2, Some("b")));
    assert_eq!((servers[0].zone.as_deref(), servers[1].address.port), (Some("z"), 2));
    assert!(config.client_tls.certificate.is_some() && config.listen.socket.is_some());
    let networks: Vec<String> = config.listen.proxy_protocol_from.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128"]);
    let shown = format!("{:?}", config);
    assert!(!shown.contains("from file") && !shown.contains("from env"), "{shown}");
}

#[test]
fn the_controller_and_where_it_works() {
    let config = with(
        "{topology: {kind: kubernetes, namespace: shop, primary_service: none},
          controller: {enabled: true, diverged: reclone, clone_bandwidth_mib: 80, password_file: /secret,
                       replication_password_env: PASSWORD, installation_user: admin, old_passwords_s: 60}}",
        &[],
    )
    .expect("valid");
    let Topology::Kubernetes(kubernetes) = &config.topology else { panic!("{:?}", config.topology) };
    let expected = Kubernetes {
        service: "mysql".to_owned(),
        port: 3306,
        namespace: Some("shop".to_owned()),
        primary_service: None,
    };
    assert_eq!(*kubernetes, expected);
    let controller = &config.controller;
    assert!(controller.enabled && controller.diverged == Diverged::Reclone);
    assert_eq!(controller.clone_bandwidth.map(NonZeroU32::get), Some(80));
    assert_eq!(controller.account.file.as_deref(), Some(Path::new("/secret")));
    assert_eq!(controller.account.account.password.reveal(), "from file");
    assert_eq!(controller.replication.account.password.reveal(), "from env");
    assert_eq!(controller.replication.file, None);
    assert_eq!(controller.installation.account.user, "admin");
    assert_eq!(controller.keep_old, Duration::from_secs(60));
}

#[test]
fn the_own_zone() {
    let check = |environment: &[(&str, &str)], expected: Option<Zone>| {
        let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let none = |_: &Path| Err(io::ErrorKind::NotFound.into());
        let yaml = "routing: {prefer_zone: auto}";
        let config = resolve(Raw::read(yaml, environment.collect(), &[]), &none).expect("valid");
        assert_eq!(config.routing.prefer_zone, expected);
    };
    check(&[("READWRIGHT_ZONE", "a"), ("READWRIGHT_NODE", "n")], Some(Zone::Named("a".to_owned())));
    check(&[("READWRIGHT_ZONE", ""), ("READWRIGHT_NODE", "n")], Some(Zone::OfNode("n".to_owned())));
    check(&[("READWRIGHT_ZONE", "")], None);
}

#[test]
fn servers_as_one_text() {
    let flags = ["topology.kind=fixed", "topology.servers=mysql-0=127.0.0.1:1, mysql-1=127.0.0.1:2"];
    let config = with("", &flags).expect("valid");
    let Topology::Fixed { servers, .. } = &config.topology else { panic!("{:?}", config.topology) };
    assert_eq!(servers.iter().map(|s| s.address.port).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn every_problem_is_told() {
    let check = |yaml: &str, flag: &str, expected: &str| {
        let flags: Vec<&str> = [flag].into_iter().filter(|flag| !flag.is_empty()).collect();
        let problems = problems(yaml, &flags);
        assert_eq!(problems.len(), 1, "{yaml} {flag}: {problems:?}");
        assert!(problems[0].contains(expected), "{yaml} {flag}: {}", problems[0]);
    };
    check("routing: {max_lag: 5s}", "", "did you mean `routing.max_lag_ms`?");
    check("limits: {drain_ms: 5}", "", "did you mean `limits.drain_s`?");
    check("poll: {max_per_server: 5}", "", "did you mean `pool.max_per_server`?");
    check("monitor: {intervall_ms: 5}", "", "did you mean `monitor.interval_ms`?");
    check("monitor: {zzz: 5}", "", "config/readwright.yaml lists all keys");
    check(
        "users: {known: [{user: a, pasword_file: /secret, password_env: PASSWORD}]}",
        "",
        "password_file`?",
    );
    check("account: {password: hunter2}", "", "use password_file or password_env");
    check("pool: 5", "", "pool: is a section");
    check("pool: {wait_ms: {a: 1}}", "", "write `pool.wait_ms: VALUE`");
    check("pool: {wait_ms: [1]}", "", "write `pool.wait_ms: VALUE`");
    check("pool: {wait_ms: 5s}", "", "pool.wait_ms: `5s` does not fit; give a whole number from 1 to 600000");
    check("pool: {wait_ms: -1}", "", "(milliseconds)");
    check("", "pool.wait_ms=1.5", "pool.wait_ms (--set): `1.5` does not fit");
    check("routing: {consistency: strong}", "", "write one of: session, eventual, global");
    check("listen: {address: 'mysql:3306'}", "listen.socket=/s", "is not IP:PORT");
    check("", "listen.proxy_protocol_from=10.0.0.0/8,lan", "`lan` is no network");
    check("listen: {proxy_protocol_from: [10.0.0.0/33]}", "", "proxy_protocol_from[0]: `10.0.0.0/33` is no");
    check("listen: {address: none}", "", "neither address nor socket");
    check("listen: {address: '0.0.0.0:9090'}", "", "has the port of listen.address");
    check("topology: {kind: fixed}", "", "topology.servers: is empty");
    check(
        "topology: {kind: fixed, servers: [{name: a}]}",
        "topology.kind=dns",
        "servers[0].address: is missing",
    );
    check("topology: {servers: [{name: a, address: 'h:1'}]}", "", "not used by this kind");
    check("topology: {kind: fixed}", "topology.servers=a=h:1,a=h:2", "there twice");
    check("topology: {kind: fixed, primary: c}", "topology.servers=a=h:1", "not among");
    check("account: {password_file: /nowhere}", "", "/nowhere cannot be read");
    check("account: {password_file: /empty}", "", "holds no usable password");
    check("account: {password_env: NOWHERE}", "", "variable `NOWHERE` is not set");
    check("account: {password_env: PASSWORD, password_file: /secret}", "", "keep one of them");
    check("users: {known: [{user: a}]}", "", "users.known[0]: has no password");
    check("server_tls: {mode: verify-ca}", "", "need the CA");
    check("server_tls: {ca_file: /secret}", "", "holds no PEM text");
    check("client_tls: {mode: verify-ca}", "", "client_tls.ca_file: is missing");
    check("server_tls: {certificate_file: /pem}", "", "server_tls.key_file: is missing");
    check("client_tls: {key_file: /pem}", "", "client_tls.certificate_file: is missing");
    check("limits: {max_packet_mib: 512}", "", "one statement of the largest size must fit");
    check("limits: {clients: ''}", "", "is empty");
    check("topology: {kind: kubernetes, service: mysql.shop}", "", "no name of a Kubernetes object");
    check("topology: {kind: kubernetes, namespace: Shop}", "", "topology.namespace: `Shop` is no name");
    check("controller: {lease: '-x'}", "", "controller.lease: `-x` is no name");
    check("controller: {enabled: yes}", "", "write one of: true, false");
    check("controller: {diverged: skip}", "", "write one of: hold, reclone");
    check(
        "controller: {enabled: true, password_file: /secret, replication_password_env: PASSWORD}",
        "",
        "set topology.kind to kubernetes",
    );
    check(
        "{topology: {kind: kubernetes}, controller: {enabled: true, password_file: /secret}}",
        "",
        "controller.replication_password_file: is missing",
    );
    check("controller: {password: hunter2}", "", "use password_file or password_env");
    check("routing: {prefer_zone: auto}", "", "set READWRIGHT_NODE from spec.nodeName");
    check("log: {filter: 'a=b=c'}", "", "log.filter: `a=b=c` is not a log filter");
    check("", "users.known[0].user=a", "not KEY=VALUE");
}

#[test]
fn all_at_once() {
    let told =
        problems("{pool: {wait_ms: x, idle_s: y}, nothing: 1, listen: {address: z}}", &["pool.idle_s=q"]);
    assert_eq!(told.len(), 4, "{told:?}");
}
