//! Drivers' own test suites: each runs against a primary alone and then through the proxy, and every test has to come out the
//! same, or be in `known.tsv` with the reason. All but the shortest by hand: `READWRIGHT_SUITES=1 cargo test --test clients suites`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::support::cluster::{Cluster, ROOT};
use super::support::proxy::Proxy;
use super::{allow, fetched, program, sources, support};

#[test]
fn mysql_async() {
    compare_by_hand("mysql_async", "client-tools", &["--suite", "rust"]);
}

#[test]
fn aiomysql() {
    compare_by_hand("aiomysql", "client-tools", &["--suite", "python"]);
}

#[test]
fn go_sql_driver() {
    compare("go-sql-driver", "client-tools", &["--suite", "go"]);
}

#[test]
fn mysql_client_test() {
    compare_by_hand("mysql_client_test", "mysql-tree", &["--client-test"]);
}

/// `passed`, `failed` or `skipped`, by the test's name.
type Outcomes = BTreeMap<String, String>;

fn compare_by_hand(suite: &str, script: &str, arguments: &[&str]) {
    if std::env::var_os("READWRIGHT_SUITES").is_none() {
        return eprintln!("SKIPPED {suite}'s own tests: they run when READWRIGHT_SUITES is set");
    }
    compare(suite, script, arguments);
}

fn compare(suite: &str, script: &str, arguments: &[&str]) {
    support::run(async {
        // Some of the tests measure time, or count what a server has to do.
        static TURN: Mutex<()> = Mutex::const_new(());
        let _turn = TURN.lock().await;
        let tools = match fetched(script, arguments).await {
            Ok(tools) => tools,
            Err(reason) if std::env::var_os("CI").is_none() => return eprintln!("SKIPPED {suite}: {reason}"),
            Err(reason) => panic!("{suite} cannot be run: {reason}"),
        };
        let mut unexplained: Option<BTreeSet<String>> = None;
        for _ in 0..ROUNDS {
            let direct = outcomes(suite, &tools, Behind::Nothing).await;
            let proxied = outcomes(suite, &tools, Behind::Proxy).await;
            let found = differences(suite, &direct, &proxied);
            let again = unexplained.map_or(found.clone(), |before| &before & &found);
            if again.is_empty() {
                return;
            }
            unexplained = Some(again);
        }
        panic!("{suite}: unexplained differences: {unexplained:#?}");
    });
}

/// A test that measures time comes out otherwise now and then: what counts is what differs in each of so many runs.
const ROUNDS: u32 = 3;

#[derive(Clone, Copy, Debug)]
enum Behind {
    Nothing,
    Proxy,
}

/// Runs a suite with servers of its own, since its tests may change whatever they like.
async fn outcomes(suite: &str, tools: &Path, behind: Behind) -> Outcomes {
    let cluster = Cluster::start(2).await;
    allow(&cluster).await;
    cluster.script("CREATE DATABASE test").await;
    let data = cluster.server(0).folder().join("data");
    let proxy = match behind {
        Behind::Nothing => None,
        Behind::Proxy => {
            // The server's own certificate, which some drivers compare with its CA.
            let (certificate, key) = (data.join("server-cert.pem"), data.join("server-key.pem"));
            let (certificate, key) = (certificate.display(), key.display());
            // Tests look from one session at what another has just done.
            let overrides = format!(
                "client_tls: {{certificate_file: \"{certificate}\", key_file: \"{key}\"}}\n\
                 routing: {{consistency: global}}"
            );
            Some(Proxy::start(&cluster, &overrides).await)
        }
    };
    let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("suites");
    fs::create_dir_all(&logs).expect("the folder is cargo's");
    let log = logs.join(format!("{suite}-{behind:?}.log"));
    let run = program(sources("suites").join("run"), &[suite])
        .arg(tools)
        .env("CLIENT_HOST", "127.0.0.1")
        .env("CLIENT_PORT", proxy.as_ref().map_or(cluster.server(0).port(), Proxy::port).to_string())
        .env("CLIENT_USER", ROOT.user)
        .env("CLIENT_PASSWORD", ROOT.password)
        .env("CLIENT_SCHEMA", "test")
        .env("CLIENT_CA", data.join("ca.pem"))
        .env("CLIENT_FOLDER", cluster.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(3600), run).await.expect("in time").expect("it runs");
    fs::write(&log, &output.stderr).expect("the folder was just made");
    assert!(output.status.success(), "{suite} does not run: see {}", log.display());
    let mut outcomes = Outcomes::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (outcome, test) = line.split_once(' ').expect("an outcome and a name");
        // What fails once has failed: clearing up after a test may fail of its own.
        let before = outcomes.entry(test.to_owned()).or_insert_with(|| outcome.to_owned());
        if outcome == "failed" {
            outcome.clone_into(before);
        }
    }
    let count = |wanted: &str| outcomes.values().filter(|outcome| *outcome == wanted).count();
    eprintln!(
        "{suite}, {}: {} tests, {} passed, {} failed, {} skipped ({})",
        if proxy.is_some() { "through the proxy" } else { "direct" },
        outcomes.len(),
        count("passed"),
        count("failed"),
        count("skipped"),
        log.display(),
    );
    drop(proxy);
    cluster.close().await;
    outcomes
}

/// Prints every difference, and gives the tests whose nobody has explained.
fn differences(suite: &str, direct: &Outcomes, proxied: &Outcomes) -> BTreeSet<String> {
    assert!(direct.values().any(|outcome| outcome == "passed"), "{suite} has run nothing");
    let known: BTreeMap<&str, &str> = include_str!("known.tsv")
        .lines()
        .filter_map(|line| line.strip_prefix(suite)?.strip_prefix('\t')?.split_once('\t'))
        .collect();
    let mut unexplained = BTreeSet::new();
    for test in direct.keys().chain(proxied.keys()).collect::<BTreeSet<_>>() {
        let of = |outcomes: &Outcomes| outcomes.get(test).map_or("not run", String::as_str).to_owned();
        let (direct, proxied) = (of(direct), of(proxied));
        let reason = known.get(&test[..]);
        match (direct == proxied, reason) {
            (true, None) => {}
            (true, Some(_)) => eprintln!("{suite}: {test}: {direct} both times; known.tsv says otherwise"),
            (false, reason) => {
                eprintln!(
                    "{suite}: {test}: {direct} direct, {proxied} through the proxy: {}",
                    reason.unwrap_or(&"WHY?")
                );
                unexplained.extend(reason.is_none().then(|| test.clone()));
            }
        }
    }
    unexplained
}
