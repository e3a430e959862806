//! `benches/compare`: the primary itself, HAProxy, MySQL Router (plain and splitting) and Readwright, interleaved in one
//! run, so that all see the same machine at the same time. Prints, per test, throughput, latency and what the proxy's own
//! process cost; medians of the rounds.

#![expect(clippy::print_stdout, reason = "it prints tables")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{Instant, timeout};

use cost::{SystemCalls, cpu_seconds, resident_kib};
use measure::support::cluster::{APP, Account, Cluster, ROOT};
use measure::support::proxy::Proxy;
use measure::{Protocol, Sysbench, support};
use rivals::{NO_PASSWORD, Rival};

mod cost;
#[path = "../measure/mod.rs"]
mod measure;
mod rivals;

/// One way to the servers.
struct Lane {
    name: &'static str,
    port: u16,
    account: Account,
    /// None: no proxy.
    process: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Test {
    Sysbench(Sysbench),
    /// Rows of 1000 bytes, 100 MB, read and thrown away, again and again.
    Bulk,
    /// Connect, SELECT 1, close; 8 at a time.
    Connect,
}

/// What one lane did in one test of one round. Latencies in ms, CPU in us per unit (query, connection, MB).
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    per_second: f64,
    percentiles: [f64; 3],
    cpu: f64,
}

struct Arguments {
    seconds: u32,
    rounds: u32,
    /// Parts of names of tests; empty for all.
    only: Vec<String>,
    /// Lanes beside Readwright's; empty for all.
    beside: Vec<String>,
    /// Another build of Readwright.
    build: Option<PathBuf>,
}

const HELP: &str = "benches/compare [--seconds N] [--rounds N] [--only PART,...] [--beside LANE,...] [--build PROGRAM]
  Lanes beside Readwright: direct, haproxy, router, router splitting; with --build, another build of Readwright.
  Tests: point-1 point-8 point-64 (text and prepared), read-write, bulk, connect, calls, idle, many.";

fn main() {
    // A thousand clients on both sides of a proxy.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let mut arguments =
        Arguments { seconds: 5, rounds: 3, only: Vec::new(), beside: Vec::new(), build: None };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| usage());
        match word.as_str() {
            "--seconds" => arguments.seconds = value().parse().unwrap_or_else(|_| usage()),
            "--rounds" => arguments.rounds = value().parse().unwrap_or_else(|_| usage()),
            "--only" => arguments.only = value().split(',').map(str::to_owned).collect(),
            "--build" => arguments.build = Some(value().into()),
            "--beside" => arguments.beside = value().split(',').map(str::to_owned).collect(),
            _ => usage(),
        }
    }
    support::run(compare(&arguments));
}

fn usage() -> ! {
    println!("{HELP}");
    std::process::exit(2)
}

async fn compare(arguments: &Arguments) {
    let wanted = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part.as_str()))
    };
    println!("starting servers and proxies");
    let cluster = Cluster::start(2).await;
    Sysbench::prepare(&cluster).await;
    cluster.script(BULK).await;
    let mut lanes =
        vec![Lane { name: "direct", port: cluster.server(0).port(), account: APP, process: None }];
    let mut rivals = Vec::new();
    let tree = std::env::var_os("READWRIGHT_ROUTER_TREE").map(PathBuf::from);
    for (name, account, started) in [
        ("haproxy", APP, Rival::haproxy(&cluster).await),
        ("router", APP, with_tree(tree.as_deref(), &cluster, false).await),
        ("router splitting", NO_PASSWORD, with_tree(tree.as_deref(), &cluster, true).await),
    ] {
        match started {
            Ok(rival) => {
                lanes.push(Lane { name, port: rival.port, account, process: Some(rival.process()) });
                rivals.push(rival);
            }
            Err(reason) => println!("without {name}: {reason}"),
        }
    }
    if !arguments.beside.is_empty() {
        lanes.retain(|lane| arguments.beside.iter().any(|name| name == lane.name));
    }
    let mut proxies = vec![("readwright", Proxy::start(&cluster, OVERRIDES).await)];
    if let Some(program) = &arguments.build {
        proxies.push(("other build", Proxy::start_build(program, &cluster, OVERRIDES).await));
    }
    lanes.extend(proxies.iter().map(|(name, proxy)| Lane {
        name,
        port: proxy.port(),
        account: APP,
        process: Some(proxy.process()),
    }));
    let tests: Vec<(String, Test)> =
        tests(arguments.seconds).into_iter().filter(|(name, _)| wanted(name)).collect();
    let mut samples: BTreeMap<(usize, usize), Vec<Sample>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        for (test, (name, what)) in tests.iter().enumerate() {
            println!("round {round}: {name}");
            for (place, lane) in lanes.iter().enumerate() {
                match run(*what, lane, arguments.seconds).await {
                    Ok(sample) => samples.entry((test, place)).or_default().push(sample),
                    Err(reason) => println!("  {}: {reason}", lane.name),
                }
            }
        }
    }
    for (test, (name, what)) in tests.iter().enumerate() {
        print_table(name, *what, &lanes, |place| samples.get(&(test, place)).map(|all| median(all)));
    }
    if wanted("calls") {
        system_calls(&lanes, cluster.folder()).await;
    }
    if wanted("idle") {
        idle_clients(&lanes, &cluster).await;
    }
    if wanted("many") {
        many_clients(&lanes, &cluster, arguments).await;
    }
    drop(proxies);
    drop(rivals);
    cluster.close().await;
}

async fn with_tree(tree: Option<&Path>, cluster: &Cluster, splitting: bool) -> Result<Rival, String> {
    match tree {
        Some(tree) if splitting => Rival::router_splitting(cluster, tree).await,
        Some(tree) => Rival::router(cluster, tree).await,
        None => Err("READWRIGHT_ROUTER_TREE is not set (scripts/mysql-tree --router prints it)".to_owned()),
    }
}

fn tests(seconds: u32) -> Vec<(String, Test)> {
    let mut tests = Vec::new();
    for threads in [1, 8, 64] {
        for protocol in [Protocol::Text, Protocol::Prepared] {
            let test = "oltp_point_select";
            let sysbench = Sysbench { test, threads, seconds, protocol, transactions: false };
            tests.push((format!("point-{threads} {protocol:?}"), Test::Sysbench(sysbench)));
        }
    }
    let test = "oltp_read_write";
    let sysbench = Sysbench { test, threads: 8, seconds, protocol: Protocol::Text, transactions: true };
    tests.push(("read-write".to_owned(), Test::Sysbench(sysbench)));
    tests.push(("bulk".to_owned(), Test::Bulk));
    tests.push(("connect".to_owned(), Test::Connect));
    tests
}

async fn run(test: Test, lane: &Lane, seconds: u32) -> Result<Sample, String> {
    let cpu_before = lane.process.map_or(0.0, cpu_seconds);
    let begin = Instant::now();
    let (units, percentiles) = match test {
        Test::Sysbench(sysbench) => {
            let report = sysbench.run(lane.port, lane.account).await;
            if let Some(reason) = report.fatal {
                return Err(reason);
            }
            (report.queries, report.percentiles)
        }
        Test::Bulk => bulk(lane, seconds).await.map_err(|error| error.to_string())?,
        Test::Connect => connects(lane, seconds).await?,
    };
    let elapsed = match test {
        Test::Sysbench(_) => f64::from(seconds),
        _ => begin.elapsed().as_secs_f64(),
    };
    let cpu = lane.process.map_or(0.0, cpu_seconds) - cpu_before;
    let units = to_f64(units.max(1));
    Ok(Sample { per_second: units / elapsed, percentiles, cpu: cpu * 1e6 / units })
}

fn options(lane: &Lane) -> Opts {
    let builder = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(lane.port)
        .user(Some(lane.account.user))
        .pass(Some(lane.account.password))
        .db_name(Some("sbtest"))
        .prefer_socket(false)
        // Known beforehand, so that it need not ask after each login.
        .max_allowed_packet(Some(64 << 20))
        .wait_timeout(Some(28_800));
    builder.into()
}

/// The unit is a MB.
async fn bulk(lane: &Lane, seconds: u32) -> Result<(u64, [f64; 3]), mysql_async::Error> {
    let mut connection = Conn::new(options(lane)).await?;
    let mut took = Vec::new();
    let end = Instant::now() + Duration::from_secs(u64::from(seconds));
    while Instant::now() < end {
        let begin = Instant::now();
        let mut rows = connection.query_iter("SELECT data FROM bulk.rows1000").await?;
        let mut count = 0_u32;
        while rows.next().await?.is_some() {
            count += 1;
        }
        assert_eq!(count, 100_000, "all rows arrive");
        drop(rows);
        took.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let _ = connection.disconnect().await;
    Ok((100 * took.len() as u64, percentiles(took)))
}

/// The unit is a connection.
async fn connects(lane: &Lane, seconds: u32) -> Result<(u64, [f64; 3]), String> {
    let end = Instant::now() + Duration::from_secs(u64::from(seconds));
    let one = || async {
        let mut took = Vec::new();
        while Instant::now() < end {
            let begin = Instant::now();
            let mut connection = Conn::new(options(lane)).await?;
            connection.query_drop("SELECT 1").await?;
            connection.disconnect().await?;
            took.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        Ok::<_, mysql_async::Error>(took)
    };
    let all = futures_util::future::try_join_all((0..8).map(|_| one()));
    let all = timeout(Duration::from_secs(u64::from(seconds) + 30), all).await.map_err(|_| "it hangs")?;
    let took = all.map_err(|error| error.to_string())?.concat();
    Ok((took.len() as u64, percentiles(took)))
}

/// Of a short run of its own, because counting slows things down.
async fn system_calls(lanes: &[Lane], folder: &Path) {
    println!(
        "\nsystem calls of the proxy per point select, text\n{:<18} {:>10} {:>10}",
        "", "8 threads", "64 threads"
    );
    for lane in lanes {
        let Some(process) = lane.process else { continue };
        print!("{:<18}", lane.name);
        for threads in [8, 64] {
            let protocol = Protocol::Text;
            let test = "oltp_point_select";
            let sysbench = Sysbench { test, threads, seconds: 3, protocol, transactions: false };
            let counter = SystemCalls::count(process, folder).await;
            let queries = sysbench.run(lane.port, lane.account).await.queries;
            let calls = match counter {
                Some(counter) => counter.stop().await,
                None => None,
            };
            match calls {
                Some(calls) => print!(" {:>10.2}", to_f64(calls) / to_f64(queries.max(1))),
                None => print!(" {:>10}", "?"),
            }
        }
        println!();
    }
}

/// What a logged-in client that does nothing costs, and how many server connections it holds.
async fn idle_clients(lanes: &[Lane], cluster: &Cluster) {
    let clients = 1000;
    more_connections(cluster).await;
    println!(
        "\n{clients} idle clients\n{:<18} {:>14} {:>20} {:>20}",
        "", "KiB per client", "server connections", "20 s later"
    );
    for lane in lanes {
        let Some(process) = lane.process else { continue };
        let (memory, connections) = (resident_kib(process), server_connections(cluster).await);
        let mut idle = Vec::new();
        for _ in 0..clients {
            let connect = async {
                let mut connection = Conn::new(options(lane)).await?;
                connection.query_drop("SELECT 1").await?;
                Ok::<_, mysql_async::Error>(connection)
            };
            match timeout(Duration::from_secs(10), connect).await {
                Ok(Ok(connection)) => idle.push(connection),
                Ok(Err(error)) => println!("  {}: after {}: {error}", lane.name, idle.len()),
                Err(_) => println!("  {}: after {}: no answer", lane.name, idle.len()),
            }
            if idle.is_empty() {
                break;
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let grown = to_f64(resident_kib(process).saturating_sub(memory)) / to_f64(idle.len().max(1) as u64);
        let held = server_connections(cluster).await.saturating_sub(connections);
        // Past pool.idle_s.
        tokio::time::sleep(Duration::from_secs(20)).await;
        let later = server_connections(cluster).await.saturating_sub(connections);
        println!("{:<18} {grown:>14.1} {held:>20} {later:>20}", lane.name);
        let close = idle.into_iter().map(Conn::disconnect);
        let _ = timeout(Duration::from_secs(20), futures_util::future::join_all(close)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// For lanes that hold a server connection for every client.
async fn more_connections(cluster: &Cluster) {
    for (ordinal, _) in cluster.servers().iter().enumerate() {
        let mut server = cluster.connect(ordinal, ROOT).await;
        server.query_drop("SET GLOBAL max_connections=3000").await.expect("root may");
    }
}

async fn server_connections(cluster: &Cluster) -> u64 {
    let mut sum = 0;
    for (ordinal, _) in cluster.servers().iter().enumerate() {
        let mut server = cluster.connect(ordinal, ROOT).await;
        let row: Option<(String, u64)> =
            server.query_first("SHOW GLOBAL STATUS LIKE 'Threads_connected'").await.expect("it can be asked");
        sum += row.map_or(0, |(_, count)| count);
    }
    sum
}

/// Whether the cost of a query stays the same with ever more clients; medians of the rounds.
async fn many_clients(lanes: &[Lane], cluster: &Cluster, arguments: &Arguments) {
    more_connections(cluster).await;
    println!(
        "\nCPU us per point select (text), by clients\n{:<18} {}",
        "",
        MANY.map(|n| format!("{n:>9}")).concat()
    );
    let mut samples: BTreeMap<(usize, usize), Vec<Sample>> = BTreeMap::new();
    for _ in 0..arguments.rounds {
        for (at, threads) in MANY.into_iter().enumerate() {
            let sysbench = Sysbench {
                test: "oltp_point_select",
                threads,
                seconds: arguments.seconds,
                protocol: Protocol::Text,
                transactions: false,
            };
            for (place, lane) in lanes.iter().enumerate().filter(|(_, lane)| is_compared_by_many(lane)) {
                match run(Test::Sysbench(sysbench), lane, arguments.seconds).await {
                    Ok(sample) => samples.entry((place, at)).or_default().push(sample),
                    Err(reason) => println!("  {} with {threads} clients: {reason}", lane.name),
                }
            }
        }
    }
    for (place, lane) in lanes.iter().enumerate().filter(|(_, lane)| is_compared_by_many(lane)) {
        let figures = (0..MANY.len()).map(|at| samples.get(&(place, at)).map(|all| median(all).cpu));
        let figures =
            figures.map(|cpu| cpu.map_or_else(|| format!("{:>9}", "?"), |cpu| format!("{cpu:>9.1}")));
        println!("{:<18} {}", lane.name, figures.collect::<String>());
    }
}

const MANY: [u32; 4] = [8, 64, 256, 1000];

fn is_compared_by_many(lane: &Lane) -> bool {
    ["haproxy", "readwright"].contains(&lane.name)
}

fn print_table(name: &str, test: Test, lanes: &[Lane], sample: impl Fn(usize) -> Option<Sample>) {
    let unit = match test {
        Test::Sysbench(_) => "query",
        Test::Bulk => "MB",
        Test::Connect => "connection",
    };
    println!(
        "\n{name}\n{:<18} {:>10} {:>9} {:>9} {:>9} {:>16} {:>11} {:>9}",
        "",
        format!("{unit}/s"),
        "p50 ms",
        "p95 ms",
        "p99 ms",
        format!("CPU us/{unit}"),
        "to haproxy",
        "RSS MiB"
    );
    let haproxy =
        lanes.iter().position(|lane| lane.name == "haproxy").and_then(&sample).map(|sample| sample.cpu);
    for (place, lane) in lanes.iter().enumerate() {
        let Some(Sample { per_second, percentiles: [p50, p95, p99], cpu }) = sample(place) else {
            println!("{:<18} no result", lane.name);
            continue;
        };
        print!("{:<18} {per_second:>10.0} {p50:>9.2} {p95:>9.2} {p99:>9.2}", lane.name);
        match lane.process {
            Some(process) => {
                let ratio = haproxy.filter(|base| *base > 0.0).map_or(0.0, |base| cpu / base);
                println!(" {cpu:>16.1} {ratio:>10.2}x {:>9}", resident_kib(process) / 1024);
            }
            None => println!(),
        }
    }
}

/// Of each figure by itself.
fn median(samples: &[Sample]) -> Sample {
    let middle = |figure: fn(&Sample) -> f64| {
        let mut figures: Vec<f64> = samples.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    Sample {
        per_second: middle(|sample| sample.per_second),
        percentiles: [
            middle(|sample| sample.percentiles[0]),
            middle(|sample| sample.percentiles[1]),
            middle(|sample| sample.percentiles[2]),
        ],
        cpu: middle(|sample| sample.cpu),
    }
}

fn percentiles(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    [50, 95, 99].map(|percent| {
        let place = (figures.len() * percent / 100).min(figures.len().saturating_sub(1));
        figures.get(place).copied().unwrap_or_default()
    })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Defaults but for TLS: every lane speaks in clear text on both sides.
const OVERRIDES: &str = "monitor: {interval_ms: 500}\nserver_tls: {mode: disabled}\nlog: {filter: warn}";

/// 100,000 rows of 1000 bytes.
const BULK: &str = "CREATE DATABASE bulk; USE bulk;
CREATE TABLE rows1000 (id INT PRIMARY KEY, data VARCHAR(1000) CHARACTER SET latin1);
SET SESSION cte_max_recursion_depth=100000;
INSERT INTO rows1000 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
  SELECT i, REPEAT('x', 1000) FROM n;
";
