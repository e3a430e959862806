//! `cargo bench --bench load -- [--seconds N] [--threads N] [--direct] [--only TEST]`: sysbench through the proxy over a real primary and
//! two replicas. Prints for each test the errors and the share of reads that replicas answered; ends with 1 when a test
//! had an error, or when reads outside transactions went past the replicas.

#![expect(clippy::print_stdout, reason = "it prints a table")]

use measure::support::cluster::{APP, Cluster, ROOT};
use measure::support::proxy::Proxy;
use measure::{Protocol, Sysbench, support};
use mysql_async::prelude::Queryable;

mod measure;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: u32| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default, |value| value.parse().expect("a number"))
    };
    let (seconds, threads) = (option("--seconds", 60), option("--threads", 64));
    let direct = arguments.iter().any(|argument| argument == "--direct");
    let only = arguments.iter().position(|argument| argument == "--only");
    let only = only.and_then(|at| arguments.get(at + 1)).map_or("", String::as_str);
    let failed = support::run(load(seconds, threads, direct, only));
    std::process::exit(i32::from(failed));
}

async fn load(seconds: u32, threads: u32, direct: bool, only: &str) -> bool {
    let cluster = Cluster::start(2).await;
    Sysbench::prepare(&cluster).await;
    let proxy = if direct { None } else { Some(Proxy::start(&cluster, "").await) };
    let port = proxy.as_ref().map_or(cluster.server(0).port(), Proxy::port);
    println!(
        "{threads} threads, {seconds} s each, {}",
        if direct { "the primary itself" } else { "through the proxy" }
    );
    println!(
        "{:<40} {:>9} {:>9} {:>8} {:>8} {:>12}  errors",
        "test", "queries/s", "p95 ms", "retried", "reconn.", "on replicas"
    );
    let mut failed = false;
    for (test, transactions) in [
        ("oltp_point_select", false),
        ("oltp_read_only", false),
        ("oltp_read_write", false),
        ("oltp_read_only", true),
        ("oltp_read_write", true),
    ]
    .into_iter()
    .filter(|(test, _)| test.contains(only))
    {
        for protocol in [Protocol::Text, Protocol::Prepared] {
            let before = selects(&cluster).await;
            let report = Sysbench { test, threads, seconds, protocol, transactions }.run(port, APP).await;
            let ran: Vec<u64> = selects(&cluster)
                .await
                .iter()
                .zip(before)
                .map(|(now, then)| now.saturating_sub(then))
                .collect();
            let share = share_on_replicas(&ran);
            let misrouted = !direct && !transactions && share < 0.95;
            failed |= report.fatal.is_some() || misrouted;
            println!(
                "{:<40} {:>9.0} {:>9.2} {:>8} {:>8} {:>11.1}%  {}{}",
                format!("{test} {protocol:?}{}", if transactions { " in transactions" } else { "" }),
                report.queries_per_second,
                report.percentiles[1],
                report.retried,
                report.reconnects,
                share * 100.0,
                report.fatal.as_deref().unwrap_or("none"),
                if misrouted { " FEWER THAN 95 % ON REPLICAS" } else { "" },
            );
        }
    }
    if let (true, Some(proxy)) = (failed, &proxy) {
        println!("--- log of the proxy ---\n{}", proxy.log());
    }
    drop(proxy);
    cluster.close().await;
    failed
}

/// How many SELECTs of sysbench's each server has run, by its own count: without those of other accounts (probes) and
/// without the proxy's waits.
async fn selects(cluster: &Cluster) -> Vec<u64> {
    let mut counts = Vec::new();
    for ordinal in 0..cluster.servers().len() {
        let mut server = cluster.connect(ordinal, ROOT).await;
        let all: Option<(String, u64)> =
            server.query_first("SHOW GLOBAL STATUS LIKE 'Com_select'").await.expect("it can be asked");
        let ours: Option<u64> = server
            .query_first(format!(
                "SELECT CAST(o.others + w.waits AS UNSIGNED) FROM \
                 (SELECT IFNULL(SUM(COUNT_STAR), 0) others \
                  FROM performance_schema.events_statements_summary_by_user_by_event_name \
                  WHERE EVENT_NAME='statement/sql/select' AND USER<>'{}') o, \
                 (SELECT IFNULL(SUM(COUNT_STAR), 0) waits \
                  FROM performance_schema.events_statements_summary_by_digest \
                  WHERE DIGEST_TEXT LIKE 'SELECT%WAIT_FOR_EXECUTED_GTID_SET%') w",
                APP.user
            ))
            .await
            .expect("it can be asked");
        let (all, ours) = (all.expect("a known name").1, ours.expect("one row"));
        counts.push(all.saturating_sub(ours));
    }
    counts
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn share_on_replicas(selects: &[u64]) -> f64 {
    let all: u64 = selects.iter().sum();
    let replicas: u64 = selects.iter().skip(1).sum();
    if all == 0 { 0.0 } else { replicas as f64 / all as f64 }
}
