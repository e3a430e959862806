//! The one writer of the topology snapshot: takes endpoints from discovery, health from the monitor and the
//! appointment from the record, and publishes what [`merge`] makes of them. Probes nothing, and looks nothing up but in
//! the forms of discovery below it.

pub(crate) mod dns;
pub(crate) mod fixed;
pub(crate) mod kubernetes;
mod merge;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub(crate) use merge::Policy;

use crate::model::appointment::Appointment;
use crate::model::health::{Health, Report};
use crate::model::server::{Address, Endpoint, ServerId};
use crate::model::topology::Topology;

/// Publishes a snapshot whenever something is learned, until `stop`.
pub(crate) async fn run(
    policy: Policy,
    mut endpoints: watch::Receiver<Arc<[Endpoint]>>,
    mut appointments: watch::Receiver<Appointment>,
    mut reports: mpsc::Receiver<Report>,
    snapshots: watch::Sender<Arc<Topology>>,
    stop: CancellationToken,
) {
    let mut memory = merge::Memory::default();
    let mut learned: HashMap<ServerId, (Address, Health)> = HashMap::new();
    let mut batch = Vec::new();
    loop {
        let known = Arc::clone(&endpoints.borrow_and_update());
        // A report of where a server was says nothing of where it is.
        let current: HashMap<ServerId, Health> = known
            .iter()
            .filter_map(|endpoint| {
                let (address, health) = learned.get(&endpoint.id)?;
                (*address == endpoint.address).then(|| (endpoint.id.clone(), health.clone()))
            })
            .collect();
        learned.retain(|id, _| current.contains_key(id));
        let appointment = appointments.borrow_and_update().clone();
        let merged = merge::merge(&mut memory, &known, &current, &appointment, &policy, Instant::now());
        let topology = Arc::new(merged.topology);
        tell_changes(&snapshots.borrow(), &topology);
        snapshots.send_replace(topology);

        let again = merged.again;
        tokio::select! {
            count = reports.recv_many(&mut batch, 64) => {
                if count == 0 {
                    return;
                }
                for report in batch.drain(..) {
                    learned.insert(report.id, (report.address, report.health));
                }
            }
            changed = endpoints.changed() => if changed.is_err() { return },
            changed = appointments.changed() => if changed.is_err() { return },
            () = async {
                match again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            } => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Logs who comes and goes, once each.
fn tell_changes(before: &Topology, after: &Topology) {
    let primary = |topology: &Topology| topology.primary.map(|at| topology.servers[at].id.clone());
    match (primary(before), primary(after)) {
        (old, Some(new)) if old.as_ref() != Some(&new) => {
            tracing::info!(server = %new, epoch = after.epoch, "primary");
        }
        (Some(old), None) => {
            let why = after.server(&old).and_then(|server| server.excluded.clone()).unwrap_or_default();
            tracing::warn!(server = %old, why = &*why, "no primary");
        }
        _ => {}
    }
    for (at, server) in after.servers.iter().enumerate() {
        let reads = after.readers.contains(&at);
        let did = before.readers().any(|reader| reader.id == server.id);
        match (did, reads) {
            (false, true) => tracing::info!(server = %server.id, "serves reads"),
            (true, false) => {
                let why = server.excluded.clone().unwrap_or_default();
                tracing::warn!(server = %server.id, why = &*why, "serves no reads");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
