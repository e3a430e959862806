//! What the measuring programs share: sysbench and what it reports, and where the servers' time went.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::process::Command;
use tokio::time::timeout;

use support::cluster::{APP, Account, Cluster, ROOT};

#[path = "../../tests/support/mod.rs"]
pub(crate) mod support;

/// One run of sysbench against 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sysbench {
    /// `oltp_point_select` and its like.
    pub(crate) test: &'static str,
    pub(crate) threads: u32,
    pub(crate) seconds: u32,
    pub(crate) protocol: Protocol,
    /// BEGIN and COMMIT around the statements of one event.
    pub(crate) transactions: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Text,
    Prepared,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) reads: u64,
    pub(crate) queries: u64,
    pub(crate) queries_per_second: f64,
    /// Deadlocks, lock wait timeouts and meetings of its own statements, which sysbench tries again.
    pub(crate) retried: u64,
    pub(crate) reconnects: u64,
    /// Latency of an event in milliseconds that 50, 95 and 99 percent of them stay below.
    pub(crate) percentiles: [f64; 3],
    /// What ended the run early: anything but `retried` does.
    pub(crate) fatal: Option<String>,
}

impl Sysbench {
    /// Makes the tables on the primary and waits for the replicas. The general logs are switched off.
    pub(crate) async fn prepare(cluster: &Cluster) {
        for ordinal in 0..cluster.servers().len() {
            let mut server = cluster.connect(ordinal, ROOT).await;
            server.query_drop("SET GLOBAL general_log=OFF").await.expect("root may");
        }
        cluster.script("CREATE DATABASE sbtest").await;
        let run = Command::new("sysbench")
            .args(["oltp_read_write", "--threads=2"])
            .args(common(cluster.server(0).port(), APP))
            .arg("prepare")
            .kill_on_drop(true)
            .output();
        let output = timeout(Duration::from_secs(180), run).await.expect("it takes seconds").expect(INSTALL);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        cluster.caught_up().await;
    }

    pub(crate) async fn run(self, port: u16, account: Account) -> Report {
        let mut command = Command::new("sysbench");
        command
            .arg(self.test)
            .args(common(port, account))
            .arg(format!("--threads={}", self.threads))
            .arg(format!("--time={}", self.seconds))
            .args(["--events=0", "--histogram=on", "--rand-type=uniform"])
            .arg(match self.protocol {
                Protocol::Text => "--db-ps-mode=disable",
                Protocol::Prepared => "--db-ps-mode=auto",
            })
            .arg("run")
            .kill_on_drop(true);
        if self.test != "oltp_point_select" {
            command.arg(if self.transactions { "--skip-trx=off" } else { "--skip-trx=on" });
        }
        if !self.transactions {
            // Its DELETE and INSERT of the same row, no transaction around them, meet those of other threads: 1062 too.
            command.arg("--mysql-ignore-errors=1213,1020,1205,1062");
        }
        let patience = Duration::from_secs(u64::from(self.seconds) + 60);
        match timeout(patience, command.output()).await {
            Ok(output) => {
                let output = output.expect(INSTALL);
                let text = [output.stdout, output.stderr].concat();
                parse(&String::from_utf8_lossy(&text), output.status.success())
            }
            Err(_) => Report { fatal: Some("it hangs".to_owned()), ..Report::default() },
        }
    }
}

fn common(port: u16, account: Account) -> Vec<String> {
    // Few rows, all in memory: the servers are to be the smaller part of the cost.
    ["--db-driver=mysql", "--mysql-host=127.0.0.1", "--mysql-db=sbtest", "--tables=8", "--table-size=10000"]
        .map(str::to_owned)
        .into_iter()
        .chain([
            format!("--mysql-port={port}"),
            format!("--mysql-user={}", account.user),
            format!("--mysql-password={}", account.password),
        ])
        .collect()
}

/// Reads sysbench 1.0's report.
fn parse(text: &str, success: bool) -> Report {
    // `    total:        1234` and `    queries:   1234   (56.78 per sec.)`
    let words = |label: &str| -> Vec<&str> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label)).unwrap_or_default();
        line.split([' ', '(', '\t']).filter(|word| !word.is_empty()).collect()
    };
    let number = |label: &str, place: usize| -> f64 {
        words(label).get(place).and_then(|word| word.parse().ok()).unwrap_or_default()
    };
    let complaints: Vec<&str> =
        text.lines().filter(|line| line.contains("FATAL") || line.contains("error ")).take(3).collect();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts are small and positive"
    )]
    let count = |label: &str| number(label, 0) as u64;
    Report {
        reads: count("read:"),
        queries: count("queries:"),
        queries_per_second: number("queries:", 1),
        retried: count("ignored errors:"),
        reconnects: count("reconnects:"),
        percentiles: percentiles(text),
        fatal: (!success || !complaints.is_empty()).then(|| complaints.join("; ")),
    }
}

/// From the histogram's lines, `   0.123 |*****    456`.
fn percentiles(text: &str) -> [f64; 3] {
    let bins: Vec<(f64, u64)> = text
        .lines()
        .filter_map(|line| {
            let (value, rest) = line.split_once('|')?;
            Some((value.trim().parse().ok()?, rest.split(' ').next_back()?.parse().ok()?))
        })
        .collect();
    let total: u64 = bins.iter().map(|(_, count)| count).sum();
    [50, 95, 99].map(|percent| {
        let mut seen = 0;
        bins.iter()
            .find(|(_, count)| {
                seen += count;
                seen * 100 >= total * percent
            })
            .map_or(0.0, |(value, _)| *value)
    })
}

const INSTALL: &str = "sysbench runs (apt-get install sysbench)";
