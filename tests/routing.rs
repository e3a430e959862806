//! Every case of `tests/routing/cases` through a real proxy over a real primary and two replicas: the servers' general logs
//! say where each statement really ran.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use tokio::time::timeout;

use support::cluster::{APP, Cluster};
use support::general_log::{Mark, Ran};
use support::proxy::Proxy;

mod support;

/// Where a statement has to run. `Any` includes: nowhere, answered by the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Replica,
    Primary,
    /// The primary, and the statement after it too.
    Pin,
    Any,
    /// The server of the statement before.
    Last,
}

/// What is expected on paper and need not be so, and why. A statement for single cases, `name step` for sequences.
const RELAXED: &[(&str, Expected, &str)] = &[
    ("uv 1", Expected::Any, LITERAL),
    ("uv 2", Expected::Any, LITERAL),
    ("uv 3", Expected::Any, LITERAL),
    ("ctas 1", Expected::Any, LITERAL),
];
const LITERAL: &str =
    "a variable that was given a literal is given it again on whichever server runs the next statement";

/// `name step` of sequences, and the first value of its first row.
const VALUES: &[(&str, &str)] = &[("ryw 2", "77"), ("uv 2", "5"), ("tz 2", "+05:00")];

struct Step {
    /// For messages and for [`RELAXED`].
    name: String,
    sql: Vec<u8>,
    expected: Expected,
}

/// What came of one step.
#[derive(Default)]
struct Outcome {
    error: Option<String>,
    first_value: Option<String>,
}

#[test]
fn single_statements_run_where_they_should() {
    let text = include_str!("routing/cases/routing_cases.tsv");
    let steps = text.lines().filter(|line| !line.trim().is_empty()).map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        Step { name: fields[0].to_owned(), sql: unescape(fields[0]), expected: expected(fields[1]) }
    });
    // Every one on a session of its own.
    let sessions = steps.map(|step| vec![step]).collect();
    support::run(check(sessions));
}

#[test]
fn sessions_run_where_they_should() {
    let text = include_str!("routing/cases/routing_sequences.tsv");
    let mut sessions: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let name = format!("{} {}", fields[0], fields[1]);
        let step = Step { name, sql: unescape(fields[2]), expected: expected(fields[3]) };
        sessions.entry(fields[0]).or_default().push(step);
    }
    support::run(check(sessions.into_values().collect()));
}

async fn check(sessions: Vec<Vec<Step>>) {
    let cluster = Cluster::start(2).await;
    cluster.script(include_str!("routing/cases/schema.sql")).await;
    cluster.script("CREATE DATABASE IF NOT EXISTS d").await;
    let proxy = Proxy::start(&cluster, "").await;

    // Only the marks are taken while it runs; the logs are read once, at the end.
    let mut marks = vec![cluster.mark()];
    let mut outcomes = Vec::new();
    for session in &sessions {
        let mut connection = connect(&proxy).await;
        for step in session {
            outcomes.push(run(&mut connection, &step.sql).await);
            marks.push(cluster.mark());
            if session.len() == 1 && step.expected == Expected::Pin {
                run(&mut connection, AFTER.as_bytes()).await;
            }
            // What ran after a pin belongs to no step.
            marks.push(cluster.mark());
        }
        let _ = timeout(PATIENCE, connection.disconnect()).await;
        let last = marks.len() - 1;
        marks[last] = cluster.mark();
    }
    let ran = cluster.ran_between(&marks, APP.user);
    let wrong = judge(&sessions, &outcomes, &ran);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), outcomes.len(), wrong.join("\n"));
    drop(proxy);
    cluster.close().await;
}

/// Says what is wrong, a line each. `ran` alternates: what ran in a step, what ran after it.
fn judge(sessions: &[Vec<Step>], outcomes: &[Outcome], ran: &[Vec<Ran>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut outcomes = outcomes.iter();
    let mut windows = ran.chunks(2);
    for session in sessions {
        let mut last = None;
        for step in session {
            let (Some(outcome), Some(window)) = (outcomes.next(), windows.next()) else { return wrong };
            let servers = servers_of(&step.sql, &window[0]);
            let relaxed = RELAXED.iter().find(|(name, ..)| *name == step.name);
            let expected = relaxed.map_or(step.expected, |(_, expected, _)| *expected);
            let right = match expected {
                Expected::Any => true,
                // A view that hides a write: refused by the replica, and then run on the primary.
                Expected::Replica if step.name.contains("v_fn") => servers.iter().any(|server| *server != 0),
                Expected::Replica => !servers.is_empty() && servers.iter().all(|server| *server != 0),
                Expected::Primary | Expected::Pin => {
                    !servers.is_empty() && servers.iter().all(|server| *server == 0)
                }
                Expected::Last => servers.first().is_none_or(|server| Some(*server) == last),
            };
            if !right {
                let error = outcome.error.as_deref().unwrap_or("no error");
                wrong.push(format!("{} -> servers {servers:?}, expected {expected:?} ({error})", step.name));
            }
            if session.len() == 1 && expected == Expected::Pin && outcome.error.is_none() {
                let after = servers_of(AFTER.as_bytes(), window.get(1).map_or(&[], Vec::as_slice));
                if after != [0] {
                    wrong.push(format!("{} -> the session is not pinned: {after:?} next", step.name));
                }
            }
            let value = VALUES.iter().find(|(name, _)| *name == step.name);
            if let Some((_, value)) = value
                && outcome.first_value.as_deref() != Some(value)
            {
                wrong.push(format!("{} -> {:?}, expected {value}", step.name, outcome.first_value));
            }
            last = servers.first().copied().or(last);
        }
    }
    wrong
}

/// The servers that ran this statement, among what ran meanwhile: the proxy adds statements of its own.
fn servers_of(sql: &[u8], ran: &[Ran]) -> Vec<usize> {
    // The server drops a semicolon at the end before it writes its log.
    let plain = |text: &str| text.trim().trim_end_matches(';').trim_end().to_owned();
    let sql = plain(&String::from_utf8_lossy(sql));
    let same = ran.iter().filter(|ran| ran.command == "Query" && plain(&ran.text) == sql);
    same.map(|ran| ran.server).collect()
}

async fn connect(proxy: &Proxy) -> Conn {
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(proxy.port())
        .user(Some(APP.user))
        .pass(Some(APP.password))
        .db_name(Some("route"))
        .prefer_socket(false)
        // Known beforehand, so that it asks nothing by itself.
        .max_allowed_packet(Some(16 << 20))
        .wait_timeout(Some(28_800));
    let login = timeout(PATIENCE, Conn::new(options)).await.expect("a login ends");
    login.unwrap_or_else(|error| panic!("{error}\n{}", proxy.log()))
}

/// Errors are results here: many cases are meant to fail.
async fn run(connection: &mut Conn, sql: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let run = async {
        let mut result = connection.query_iter(sql).await?;
        let rows: Vec<Row> = result.collect().await?;
        let value = rows.into_iter().next().and_then(|row| row.unwrap().into_iter().next());
        outcome.first_value = value.map(|value| match value {
            Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => other.as_sql(true),
        });
        result.drop_result().await
    };
    match timeout(PATIENCE, run).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => outcome.error = Some(error.to_string()),
        Err(_) => outcome.error = Some(format!("NO ANSWER within {} s", PATIENCE.as_secs())),
    }
    outcome
}

fn expected(word: &str) -> Expected {
    match word {
        "read" => Expected::Replica,
        "write" => Expected::Primary,
        "pin" => Expected::Pin,
        "either" => Expected::Any,
        "last" => Expected::Last,
        other => panic!("no such expectation: {other}"),
    }
}

/// `\\ \t \n \r \xHH` of the case files.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let (decoded, length) = match (byte, after.first()) {
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b'x')) => {
                let digits = std::str::from_utf8(&rest[2..4]).expect("two digits");
                (u8::from_str_radix(digits, 16).expect("two digits"), 4)
            }
            _ => (byte, 1),
        };
        bytes.push(decoded);
        rest = &rest[length..];
    }
    bytes
}

/// Would go to a replica if the session were free.
const AFTER: &str = "SELECT 'after', a FROM t LIMIT 1";
const PATIENCE: Duration = Duration::from_secs(20);
