//! Every metric, each as a function; the only place that knows the metrics library. What happens is counted by handles
//! made once, so that a statement costs a few atomic adds and no allocation. What is (pools, health, lag, clients) is
//! not kept here at all: it is asked for when somebody scrapes, as [`Gauges`], so a server that is gone leaves nothing.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{Counter, Histogram, Key, Label, Metadata, Recorder as _};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use rapidhash::RapidHashMap;
use tokio_util::sync::CancellationToken;

/// Where a statement went, or was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Primary,
    Replica,
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// The server answered with an error, which the client got unchanged.
    Refused,
    /// The proxy answered with an error of its own: no server, no connection, a limit, a lost connection.
    Failed,
}

/// Counts what happens. Cheap to clone; all clones count together.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Registered>);

struct Registered {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// By reason. Read for every statement, written once per reason.
    statements: ArcSwap<RapidHashMap<&'static str, Arc<StatementCounters>>>,
    seconds: [Histogram; TARGETS.len()],
    logins: Counter,
    other: ArcSwap<RapidHashMap<(&'static str, &'static str), Counter>>,
}

type StatementCounters = [[Counter; OUTCOMES.len()]; TARGETS.len()];

impl Metrics {
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
            .expect("there are buckets")
            .build_recorder();
        for (name, help) in COUNTERS {
            recorder.describe_counter((*name).into(), None, (*help).into());
        }
        recorder.describe_histogram(
            SECONDS.into(),
            None,
            "From the statement's last byte to its answer's.".into(),
        );
        let counter = |name, labels: &[(&'static str, &'static str)]| register(&recorder, name, labels);
        Self(Arc::new(Registered {
            handle: recorder.handle(),
            statements: ArcSwap::default(),
            seconds: TARGETS.map(|target| {
                let labels = vec![Label::from_static_parts("target", target)];
                recorder.register_histogram(&Key::from_parts(SECONDS, labels), &METADATA)
            }),
            logins: counter("readwright_logins_total", &[]),
            other: ArcSwap::default(),
            recorder,
        }))
    }

    /// One statement has ended, `elapsed` after its last byte came in.
    pub(crate) fn query(&self, target: Target, reason: &'static str, outcome: Outcome, elapsed: Duration) {
        self.0.seconds[target as usize].record(elapsed.as_secs_f64());
        if let Some(counters) = self.0.statements.load().get(reason) {
            counters[target as usize][outcome as usize].increment(1);
            return;
        }
        let counters: Arc<StatementCounters> = Arc::new(std::array::from_fn(|target| {
            std::array::from_fn(|outcome| {
                let labels =
                    [("target", TARGETS[target]), ("reason", reason), ("outcome", OUTCOMES[outcome])];
                register(&self.0.recorder, "readwright_statements_total", &labels)
            })
        }));
        counters[target as usize][outcome as usize].increment(1);
        insert(&self.0.statements, reason, counters);
    }

    pub(crate) fn login(&self) {
        self.0.logins.increment(1);
    }

    /// A login that did not succeed; `why` is a word such as `denied`, `timeout` or `full`.
    pub(crate) fn login_refused(&self, why: &'static str) {
        self.count("readwright_logins_refused_total", "why", why);
    }

    /// A session began to stay on one connection.
    pub(crate) fn pinned(&self, cause: &'static str) {
        self.count("readwright_pins_total", "cause", cause);
    }

    /// A statement was run again on another server, unseen by the client.
    pub(crate) fn retried(&self, why: &'static str) {
        self.count("readwright_retries_total", "why", why);
    }

    /// A connection was closed because one side broke the protocol.
    pub(crate) fn protocol_error(&self, side: &'static str) {
        self.count("readwright_protocol_errors_total", "side", side);
    }

    /// The text that Prometheus scrapes: what was counted, and what is now.
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    pub(crate) fn render(&self, now: &Gauges) -> String {
        let mut text = self.0.handle.render();
        text.push_str(&now.0.handle().render());
        text
    }

    /// Until `stop`, moves the samples that wait in histograms to their buckets; without it they pile up.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
            self.0.handle.run_upkeep();
        }
    }

    fn count(&self, name: &'static str, label: &'static str, value: &'static str) {
        if let Some(counter) = self.0.other.load().get(&(name, value)) {
            counter.increment(1);
            return;
        }
        let counter = register(&self.0.recorder, name, &[(label, value)]);
        counter.increment(1);
        insert(&self.0.other, (name, value), counter);
    }
}

/// What is at this moment: filled anew for each scrape.
pub(crate) struct Gauges(PrometheusRecorder);

impl Gauges {
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for (name, help) in GAUGES {
            recorder.describe_gauge((*name).into(), None, (*help).into());
        }
        for (name, help) in READ_COUNTERS {
            recorder.describe_counter((*name).into(), None, (*help).into());
        }
        Self(recorder)
    }

    pub(crate) fn clients(&self, connected: u64, busy: u64) {
        self.set("readwright_clients", &[("state", "busy")], busy as f64);
        self.set("readwright_clients", &[("state", "idle")], connected.saturating_sub(busy) as f64);
    }

    /// Bytes relayed since the start.
    pub(crate) fn bytes(&self, to_clients: u64, to_servers: u64) {
        let name = "readwright_bytes_total";
        self.count(name, &[("direction", "to_clients")], to_clients);
        self.count(name, &[("direction", "to_servers")], to_servers);
    }

    /// Sessions that stay on one connection at the moment.
    pub(crate) fn pins(&self, cause: &str, sessions: u64) {
        self.set("readwright_pinned_sessions", &[("cause", cause)], sessions as f64);
    }

    pub(crate) fn server_up(&self, server: &str, role: &str, up: bool) {
        self.set("readwright_server_up", &[("server", server), ("role", role)], f64::from(u8::from(up)));
    }

    /// Whether new reads may go there now.
    pub(crate) fn server_reads(&self, server: &str, serves: bool) {
        self.set("readwright_server_serves_reads", &[("server", server)], f64::from(u8::from(serves)));
    }

    pub(crate) fn server_lag(&self, server: &str, lag: Duration) {
        self.set("readwright_server_lag_seconds", &[("server", server)], lag.as_secs_f64());
    }

    pub(crate) fn server_in_flight(&self, server: &str, statements: u32) {
        self.set("readwright_server_statements_in_flight", &[("server", server)], f64::from(statements));
    }

    /// Statements sent there since the start.
    pub(crate) fn server_statements(&self, server: &str, statements: u64) {
        self.count("readwright_server_statements_total", &[("server", server)], statements);
    }

    /// Connections opened there, and tries that failed, since the start.
    pub(crate) fn server_connects(&self, server: &str, opened: u64, failed: u64) {
        let name = "readwright_server_connects_total";
        self.count(name, &[("server", server), ("outcome", "connected")], opened);
        self.count(name, &[("server", server), ("outcome", "failed")], failed);
    }

    pub(crate) fn pool(&self, server: &str, open: u32, idle: u32, waiting: u32) {
        let name = "readwright_pool_connections";
        self.set(name, &[("server", server), ("state", "idle")], f64::from(idle));
        self.set(name, &[("server", server), ("state", "used")], f64::from(open.saturating_sub(idle)));
        self.set("readwright_pool_waiting", &[("server", server)], f64::from(waiting));
    }

    /// What `/readyz` says.
    pub(crate) fn ready(&self, ready: bool) {
        self.set("readwright_ready", &[], f64::from(u8::from(ready)));
    }

    pub(crate) fn epoch(&self, epoch: u64) {
        self.set("readwright_topology_epoch", &[], epoch as f64);
    }

    /// Whether this process is the controller.
    pub(crate) fn controller_leads(&self, leads: bool) {
        self.set("readwright_controller_leads", &[], f64::from(u8::from(leads)));
    }

    /// How long ago it looked at every server.
    pub(crate) fn controller_looked(&self, ago: Duration) {
        self.set("readwright_controller_look_age_seconds", &[], ago.as_secs_f64());
    }

    pub(crate) fn controller_servers(&self, state: &str, servers: u64) {
        self.set("readwright_controller_servers", &[("state", state)], servers as f64);
    }

    pub(crate) fn controller_problems(&self, reason: &str, problems: u64) {
        self.set("readwright_controller_problems", &[("reason", reason)], problems as f64);
    }

    /// A copy that runs: bytes there, and what they will be in all.
    pub(crate) fn controller_copy(&self, server: &str, bytes: u64, estimate: u64) {
        let name = "readwright_controller_copy_bytes";
        self.set(name, &[("server", server), ("part", "copied")], bytes as f64);
        self.set(name, &[("server", server), ("part", "total")], estimate as f64);
    }

    /// Bytes of complete copies, since it began to act.
    pub(crate) fn controller_copied(&self, bytes: u64) {
        self.count("readwright_controller_copied_bytes_total", &[], bytes);
    }

    /// How often it did this, since it began to act.
    pub(crate) fn controller_acts(&self, reason: &str, times: u64) {
        self.count("readwright_controller_acts_total", &[("reason", reason)], times);
    }

    pub(crate) fn build(&self, version: &'static str, uptime: Duration) {
        self.set("readwright_build_info", &[("version", version)], 1.0);
        self.set("readwright_uptime_seconds", &[], uptime.as_secs_f64());
    }

    fn set(&self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        self.0.register_gauge(&owned_key(name, labels), &METADATA).set(value);
    }

    fn count(&self, name: &'static str, labels: &[(&'static str, &str)], value: u64) {
        self.0.register_counter(&owned_key(name, labels), &METADATA).absolute(value);
    }
}

fn owned_key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

fn register(
    recorder: &PrometheusRecorder,
    name: &'static str,
    labels: &[(&'static str, &'static str)],
) -> Counter {
    let labels: Vec<Label> =
        labels.iter().map(|(name, value)| Label::from_static_parts(name, value)).collect();
    recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
}

/// The recorder gives equal keys the same counter, so two threads that insert at the same time lose no count.
fn insert<K, V>(map: &ArcSwap<RapidHashMap<K, V>>, key: K, value: V)
where
    K: Copy + Eq + std::hash::Hash,
    V: Clone,
{
    map.rcu(|current| {
        let mut next = RapidHashMap::clone(current);
        next.insert(key, value.clone());
        next
    });
}

const METADATA: Metadata<'static> = Metadata::new("readwright", metrics::Level::INFO, None);
/// In the order of [`Target`].
const TARGETS: [&str; 2] = ["primary", "replica"];
/// In the order of [`Outcome`].
const OUTCOMES: [&str; 3] = ["answered", "refused", "failed"];
const UPKEEP: Duration = Duration::from_secs(5);
const SECONDS: &str = "readwright_statement_seconds";
/// 25 microseconds to 10 seconds.
const BUCKETS: [f64; 18] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_5, 0.003, 0.006, 0.012, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 10.0,
];
const COUNTERS: &[(&str, &str)] = &[
    ("readwright_statements_total", "Statements by who answered, why there, and how it ended."),
    ("readwright_logins_total", "Clients that logged in."),
    ("readwright_logins_refused_total", "Clients that did not get in."),
    ("readwright_pins_total", "Times a session began to stay on one connection."),
    ("readwright_retries_total", "Statements run again on another server, unseen by the client."),
    ("readwright_protocol_errors_total", "Connections closed because that side broke the protocol."),
];
/// Counted elsewhere, read when somebody scrapes.
const READ_COUNTERS: &[(&str, &str)] = &[
    ("readwright_bytes_total", "Bytes relayed."),
    ("readwright_server_statements_total", "Statements sent to this server."),
    ("readwright_server_connects_total", "Connections opened to this server, and tries that failed."),
    (
        "readwright_controller_acts_total",
        "What the controller did since it began to act, by the reason of its Events; PrimaryAppointed are switchovers.",
    ),
    (
        "readwright_controller_copied_bytes_total",
        "Bytes of complete copies since the controller began to act.",
    ),
];
const GAUGES: &[(&str, &str)] = &[
    ("readwright_ready", "1 when statements are served."),
    ("readwright_clients", "Clients connected."),
    ("readwright_pinned_sessions", "Sessions that stay on one connection."),
    ("readwright_server_up", "1 when the server answers probes."),
    ("readwright_server_serves_reads", "1 when new reads may go there."),
    ("readwright_server_lag_seconds", "Replication lag."),
    ("readwright_server_statements_in_flight", "Statements that run there now, from this proxy."),
    ("readwright_pool_connections", "Connections to this server."),
    ("readwright_pool_waiting", "Statements that wait for a connection."),
    ("readwright_topology_epoch", "Changes of the primary since the start."),
    ("readwright_controller_leads", "1 when this process is the controller."),
    ("readwright_controller_look_age_seconds", "Since the controller last looked at every server."),
    ("readwright_controller_servers", "Servers by the state in which the controller sees them."),
    ("readwright_controller_problems", "What keeps the cluster from being right, by reason."),
    ("readwright_controller_copy_bytes", "Copies to servers that run: bytes copied, and in total."),
    ("readwright_build_info", "The version that runs."),
    ("readwright_uptime_seconds", "Since the start of the process."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_counted_once_each() {
        let metrics = Metrics::new();
        for _ in 0..3 {
            metrics.query(Target::Replica, "plain_read", Outcome::Answered, Duration::from_micros(30));
        }
        metrics.query(Target::Primary, "write", Outcome::Refused, Duration::from_millis(30));
        metrics.pinned("named_lock");
        metrics.pinned("named_lock");
        let gauges = Gauges::new();
        gauges.server_lag("mysql-1", Duration::from_millis(1500));
        gauges.clients(5, 2);
        gauges.bytes(10, 4);
        gauges.server_connects("mysql-0", 2, 1);
        let text = metrics.render(&gauges);
        for line in [
            r#"readwright_statements_total{target="replica",reason="plain_read",outcome="answered"} 3"#,
            r#"readwright_statements_total{target="primary",reason="write",outcome="refused"} 1"#,
            r#"readwright_statement_seconds_bucket{target="replica",le="0.000025"} 0"#,
            r#"readwright_statement_seconds_bucket{target="replica",le="0.00005"} 3"#,
            r#"readwright_pins_total{cause="named_lock"} 2"#,
            r#"readwright_server_connects_total{server="mysql-0",outcome="connected"} 2"#,
            r#"readwright_bytes_total{direction="to_clients"} 10"#,
            r#"readwright_server_lag_seconds{server="mysql-1"} 1.5"#,
            r#"readwright_clients{state="idle"} 3"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_metric_has_a_help_text() {
        let metrics = Metrics::new();
        metrics.query(Target::Primary, "x", Outcome::Failed, Duration::ZERO);
        metrics.login_refused("denied");
        metrics.pinned("x");
        metrics.retried("x");
        metrics.protocol_error("client");
        let gauges = Gauges::new();
        gauges.clients(0, 0);
        gauges.bytes(0, 0);
        gauges.pins("x", 1);
        gauges.server_up("x", "primary", true);
        gauges.server_reads("x", true);
        gauges.server_in_flight("x", 1);
        gauges.server_statements("x", 1);
        gauges.server_connects("x", 1, 0);
        gauges.pool("x", 1, 1, 0);
        gauges.epoch(1);
        gauges.ready(true);
        gauges.controller_leads(true);
        gauges.controller_looked(Duration::ZERO);
        gauges.controller_servers("x", 1);
        gauges.controller_problems("x", 1);
        gauges.controller_copy("x", 1, 2);
        gauges.controller_copied(1);
        gauges.controller_acts("x", 1);
        gauges.build("0", Duration::ZERO);
        let text = metrics.render(&gauges);
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().expect("a name");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help text");
        }
    }
}
