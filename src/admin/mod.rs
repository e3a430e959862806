//! What operators ask a running proxy: over HTTP ([`http`]) and over the MySQL protocol ([`sql`]). Shows, and changes
//! nothing but what KILL ends. Reads snapshots, so a busy data path is not slowed by being watched.

pub(crate) mod http;
pub(crate) mod sql;

mod command;
mod door;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Setting;
use crate::model::leadership::Leadership;
use crate::model::progress::Progress;
use crate::model::report::{
    ClientsReport, ControllerReport, Observed, PinsReport, PoolReport, State, StatusReport,
};
use crate::model::topology::Topology;
use crate::telemetry::clients::Clients;
use crate::telemetry::metrics::{Gauges, Metrics};

/// Where the answers come from; `server` wires it.
pub(crate) struct Source {
    pub(crate) started: Instant,
    pub(crate) state: watch::Receiver<State>,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    /// None where the controller is off.
    pub(crate) controller: Option<Controller>,
    pub(crate) pools: Box<dyn Fn() -> Vec<PoolReport> + Send + Sync>,
    pub(crate) clients: Clients,
    pub(crate) max_clients: u32,
    pub(crate) metrics: Metrics,
    /// Every key of the configuration, as it is in force.
    pub(crate) settings: Vec<Setting>,
}

/// What the controller tells.
pub(crate) struct Controller {
    pub(crate) progress: watch::Receiver<Arc<Progress>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

impl Source {
    pub(crate) fn report(&self) -> StatusReport {
        let topology = Arc::clone(&self.topology.borrow());
        let controller = self.controller.as_ref().map(|controller| {
            ControllerReport::new(
                &controller.progress.borrow(),
                &controller.leadership.borrow(),
                Instant::now(),
            )
        });
        let summary = self.clients.summary();
        let pin = |(cause, sessions): (&'static str, u64)| PinsReport { cause: cause.to_owned(), sessions };
        StatusReport::new(Observed {
            uptime: self.started.elapsed(),
            state: *self.state.borrow(),
            topology: &topology,
            pools: (self.pools)(),
            clients: ClientsReport {
                connected: summary.connected,
                busy: summary.busy,
                max: u64::from(self.max_clients),
                to_clients: summary.to_clients,
                to_servers: summary.to_servers,
            },
            pins: summary.pins.into_iter().map(pin).collect(),
            controller,
        })
    }

    /// The text for Prometheus.
    pub(crate) fn scrape(&self) -> String {
        let report = self.report();
        let gauges = Gauges::new();
        gauges.build(env!("CARGO_PKG_VERSION"), self.started.elapsed());
        gauges.ready(report.ready);
        gauges.epoch(report.epoch);
        gauges.clients(report.clients.connected, report.clients.busy);
        gauges.bytes(report.clients.to_clients, report.clients.to_servers);
        for pin in &report.pins {
            gauges.pins(&pin.cause, pin.sessions);
        }
        for server in &report.servers {
            gauges.server_up(&server.name, &server.role, server.health == "up");
            gauges.server_reads(&server.name, server.serves_reads);
            gauges.server_in_flight(&server.name, server.in_flight);
            gauges.server_statements(&server.name, server.statements);
            if let Some(lag) = server.lag_ms {
                gauges.server_lag(&server.name, std::time::Duration::from_millis(lag));
            }
        }
        for pool in &report.pools {
            gauges.pool(&pool.server, pool.open, pool.idle, pool.waiting);
            gauges.server_connects(&pool.server, pool.opened, pool.failed);
        }
        if let Some(controller) = &self.controller {
            controller.measure(&gauges);
        }
        self.metrics.render(&gauges)
    }
}

impl Controller {
    fn measure(&self, gauges: &Gauges) {
        let progress = Arc::clone(&self.progress.borrow());
        gauges.controller_leads(self.leadership.borrow().leads());
        // Another process knows the rest.
        let Some(looked) = progress.looked else { return };
        gauges.controller_looked(looked.elapsed());
        for (state, servers) in counted(progress.servers.iter().map(|server| server.state)) {
            gauges.controller_servers(state, servers);
        }
        for (reason, problems) in counted(progress.problems.iter().map(|problem| problem.reason)) {
            gauges.controller_problems(reason, problems);
        }
        for server in &progress.servers {
            if let Some(copy) = &server.copy {
                gauges.controller_copy(server.id.as_str(), copy.bytes, copy.estimate);
            }
        }
        for (reason, times) in progress.acts.totals() {
            gauges.controller_acts(reason, times);
        }
        gauges.controller_copied(progress.copied);
    }
}

fn counted(words: impl Iterator<Item = &'static str>) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::report::tests::{cluster, progress};

    /// A source over a small cluster; the senders keep its channels open.
    pub(crate) fn source() -> (Arc<Source>, watch::Sender<State>, watch::Sender<Arc<Topology>>) {
        let (state_sender, state) = watch::channel(State::Serving);
        let (topology_sender, topology) = watch::channel(Arc::new(cluster()));
        let source = Source {
            started: Instant::now(),
            state,
            topology,
            controller: Some(Controller {
                progress: watch::channel(Arc::new(progress())).1,
                leadership: watch::channel(Leadership::default()).1,
            }),
            pools: Box::new(|| {
                vec![PoolReport {
                    server: "mysql-0".into(),
                    open: 3,
                    idle: 2,
                    waiting: 0,
                    max: 200,
                    opened: 4,
                    failed: 1,
                }]
            }),
            clients: Clients::default(),
            max_clients: 100,
            metrics: Metrics::new(),
            settings: vec![Setting {
                key: "account.password_file".into(),
                value: "/run/secrets/password".into(),
                origin: crate::config::raw::Origin::File,
            }],
        };
        (Arc::new(source), state_sender, topology_sender)
    }
}
