//! Every session variable that the server has: set through the proxy it is kept wherever the session's statements run, and
//! no other session ever sees it.

use mysql_async::prelude::Queryable;

use super::support::cluster::{Cluster, ROOT};
use super::support::proxy::Proxy;
use super::support::raw::{Outcome, Raw, USUAL};
use super::{proxy, run};

/// Values that one or the other variable takes, tried in this order until one changes it.
const VALUES: &[&str] = &[
    "DEFAULT - 1",
    "'+02:00'",
    "'latin1'",
    "'utf8mb4_bin'",
    "'utf8mb4_general_ci'",
    "'latin1_bin'",
    "'de_DE'",
    "'MEMORY'",
    "'InnoDB'",
    "'STRICT_TRANS_TABLES'",
    "'READ-COMMITTED'",
    "'CHAIN'",
    "'MINIMAL'",
    "'PARTIAL_JSON'",
    "'MIXED'",
    "'JSON'",
    "'aes-256-cbc'",
    "'OWN_GTID'",
    "'STATE'",
    "'NULLS_EQUAL'",
    "'index_merge=off'",
    "'greedy_search=off'",
    "'enabled=on'",
    "'FORCED'",
    "'BEFORE'",
    "'NONE'",
    "'IDEMPOTENT'",
    "'ALLOW'",
    "'test'",
    "''",
    "'/tmp'",
    "NULL",
];

/// Of these every connection has its own value.
const OWN: [&str; 2] = ["pseudo_thread_id", "timestamp"];

#[test]
fn every_session_variable_is_kept_and_kept_apart() {
    run(async {
        proxy().await;
        let cluster = Cluster::shared().await;
        let narrow = Proxy::start(cluster, "pool: {max_per_server: 2, linger_ms: 0}").await;
        let mut root = cluster.connect(0, ROOT).await;
        let names: Vec<String> = root
            .query("SELECT VARIABLE_NAME FROM performance_schema.variables_metadata WHERE VARIABLE_SCOPE LIKE '%SESSION%' ORDER BY 1")
            .await
            .expect("root may");
        assert!(names.len() > 150, "{names:?}");
        let (mut lost, mut fixed) = (Vec::new(), Vec::new());
        for name in names.iter().map(|name| name.to_lowercase()).filter(|name| !OWN.contains(&&**name)) {
            let Some(value) = other_value(cluster, &name).await else {
                fixed.push(name);
                continue;
            };
            let mut seen = Vec::new();
            for port in [cluster.server(0).port(), narrow.port()] {
                let mut one = Raw::connect(port, ROOT, USUAL).await;
                let mut other = Raw::connect(port, ROOT, USUAL).await;
                let look = format!("SELECT @@SESSION.{name}");
                let mut all = vec![
                    shown(one.query(&format!("SET SESSION {name} = {value}")).await),
                    shown(one.query("ROLLBACK").await),
                ];
                for turn in 0..4 {
                    let raw = if turn % 2 == 0 { &mut other } else { &mut one };
                    for read in ["", " FROM d.home", " FROM d.one WHERE id = 1 FOR UPDATE"] {
                        all.push(shown(raw.query(&format!("{look}{read}")).await));
                        all.push(shown(raw.query("ROLLBACK").await));
                    }
                }
                seen.push(all);
            }
            if seen[0] != seen[1] {
                lost.push(format!("{name} = {value}\n  {:?}\n  {:?}", seen[0], seen[1]));
            }
        }
        assert!(lost.is_empty(), "{}", lost.join("\n"));
        // Set by the server itself, with one value only, or with values that are no use to try.
        assert!(fixed.len() < names.len() / 4, "no value was found for {fixed:?}");
        println!("{} variables; not set: {fixed:?}", names.len());
    });
}

/// A value that a session can give this variable and that it has not already.
async fn other_value(cluster: &Cluster, name: &str) -> Option<String> {
    let mut raw = Raw::connect(cluster.server(0).port(), ROOT, USUAL).await;
    let look = format!("SELECT @@SESSION.{name}");
    let before = shown(raw.query(&look).await);
    let number = before.parse::<i64>().ok();
    let numbers =
        number.into_iter().flat_map(|number| [1 - number, number - 1, number + 1, number / 2, number * 2, 3]);
    let fraction =
        before.parse::<f64>().ok().filter(|_| number.is_none()).map(|number| (number + 1.5).to_string());
    let values = numbers.map(|number| number.to_string()).chain(fraction);
    for value in values.chain(VALUES.iter().map(|value| (*value).to_owned())) {
        let set = raw.query(&format!("SET SESSION {name} = {value}")).await;
        if matches!(set, Outcome::Done(_)) && shown(raw.query(&look).await) != before {
            return Some(value);
        }
    }
    None
}

/// The one value of a result, or what else came.
fn shown(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rows { rows, end: Ok(_), .. } => match rows.first().map(Vec::as_slice) {
            Some([0xFB]) => String::from("NULL"),
            Some(row) => String::from_utf8_lossy(super::support::raw::string(row).0).into_owned(),
            None => String::new(),
        },
        Outcome::Rows { end: Err(refusal), .. } | Outcome::Refused(refusal) => {
            format!("error {}", refusal.code)
        }
        Outcome::Done(_) => String::from("OK"),
        Outcome::Infile(_) => String::from("a file"),
    }
}
