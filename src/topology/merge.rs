//! Makes the snapshot from what discovery and the monitor say: which server is proven to be the primary, and which may
//! serve reads. Pure: time is given, nothing is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Zone;
use crate::model::appointment::Appointment;
use crate::model::gtid::GtidSet;
use crate::model::health::{Health, Replication, Up};
use crate::model::server::{Endpoint, Role, ServerId};
use crate::model::topology::{Load, Server, Topology};

/// By what a replica is judged.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// A replica that lags more leaves; it comes back at half of it.
    pub(crate) max_lag: Duration,
    /// How long a replica that left must be well before it comes back.
    pub(crate) damping: Duration,
    /// Sessions see their own writes, which cannot be known of a server that numbers no transactions.
    pub(crate) needs_gtids: bool,
    /// Whose replicas are preferred.
    pub(crate) zone: Option<Zone>,
}

/// What is remembered from one snapshot to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    servers: BTreeMap<ServerId, Past>,
    /// The marker of the first proven primary: where none is appointed, this cluster's data has it.
    cluster: Option<Arc<str>>,
    /// What the last snapshot was made with.
    appointment: Appointment,
    epoch: u64,
    /// The last server proven to be the primary, with its uuid: a server that comes back with another one is another.
    primary: Option<(ServerId, Arc<str>)>,
    /// What that server was last seen to have.
    executed: Arc<GtidSet>,
    /// Since when there has been a proven primary; None while there is none.
    writable_since: Option<Instant>,
}

#[derive(Debug)]
struct Past {
    load: Arc<Load>,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    /// Never found well or unwell.
    New,
    Serving,
    /// Left, or was never in; well since `since` if at all.
    Out(Option<Recovery>),
}

/// A replica on its way in. It must have applied what the primary had when it began to be well: one that has only
/// just reached its source knows nothing of how far it is behind.
#[derive(Clone, Debug)]
struct Recovery {
    since: Instant,
    bar: Arc<GtidSet>,
}

/// A snapshot, and when it should be made anew although nothing is heard.
pub(super) struct Merged {
    pub(super) topology: Topology,
    pub(super) again: Option<Instant>,
}

pub(super) fn merge(
    memory: &mut Memory,
    endpoints: &[Endpoint],
    health: &HashMap<ServerId, Health>,
    appointment: &Appointment,
    policy: &Policy,
    now: Instant,
) -> Merged {
    let mut endpoints: Vec<&Endpoint> = endpoints.iter().collect();
    endpoints.sort_by_key(|endpoint| (endpoint.id.ordinal().unwrap_or(u32::MAX), endpoint.id.clone()));
    memory.servers.retain(|id, _| endpoints.iter().any(|endpoint| endpoint.id == *id));
    let known = |id: &ServerId| health.get(id).unwrap_or(&Health::Unknown);

    // Invariant: a writer of before an appointment or a handover is refused from then on.
    if memory.appointment != *appointment {
        memory.appointment = appointment.clone();
        memory.epoch += 1;
    }
    let role = |endpoint: &Endpoint| match &appointment.primary {
        Some(primary) if *primary == endpoint.id => Role::Primary,
        Some(_) => Role::Replica,
        None => endpoint.role,
    };
    let ours = appointment.cluster.clone().or_else(|| memory.cluster.clone());
    let named = endpoints.iter().position(|endpoint| role(endpoint) == Role::Primary);
    let proven = named.map(|at| prove_primary(known(&endpoints[at].id), ours.as_deref()));
    let primary = match (named, &proven) {
        (Some(at), Some(Ok(up))) => {
            note_primary(memory, &endpoints[at].id, up);
            Some((at, *up))
        }
        _ => None,
    };
    memory.writable_since = primary.map(|_| memory.writable_since.unwrap_or(now));
    let view = View {
        writable_since: memory.writable_since,
        primary: primary.map(|(_, up)| up),
        executed: Arc::clone(&memory.executed),
        primary_asked: named.is_none_or(|at| !matches!(known(&endpoints[at].id), Health::Unknown)),
        cluster: appointment.cluster.as_deref().or(memory.cluster.as_deref()),
        marker_is_needed: appointment.cluster.is_some(),
        policy,
        now,
    };

    let mut again: Option<Instant> = None;
    let mut servers = Vec::with_capacity(endpoints.len());
    let (mut readers, mut in_need) = (Vec::new(), Vec::new());
    for (at, endpoint) in endpoints.iter().enumerate() {
        let health = known(&endpoint.id);
        let past = memory
            .servers
            .entry(endpoint.id.clone())
            .or_insert_with(|| Past { load: Arc::default(), standing: Standing::New });
        let excluded = match (&proven, named == Some(at)) {
            (Some(Ok(_)), true) => appointment.handover.then(|| HANDOVER.into()),
            (Some(Err(why)), true) => Some(Arc::clone(why)),
            _ => match view.admit(past, endpoint, health) {
                Verdict::Serves => {
                    readers.push(at);
                    None
                }
                Verdict::InNeed => {
                    in_need.push(at);
                    Some("it lacks something of what the primary had, and others serve".into())
                }
                Verdict::Waits { why, until } => {
                    again = [again, until].into_iter().flatten().min();
                    Some(why)
                }
            },
        };
        servers.push(Server {
            id: endpoint.id.clone(),
            address: endpoint.address.clone(),
            role: role(endpoint),
            zone: endpoint.zone.clone(),
            ready: endpoint.ready,
            health: health.clone(),
            excluded,
            load: Arc::clone(&past.load),
        });
    }
    if readers.is_empty() {
        in_need.iter().for_each(|&at| servers[at].excluded = None);
        readers = in_need;
    }
    let servers = servers.into_iter().map(Arc::new).collect();
    let primary = primary.filter(|_| !appointment.handover).map(|(at, _)| at);
    let zone = near(&endpoints, policy.zone.as_ref());
    Merged { topology: Topology { epoch: memory.epoch, servers, primary, readers, zone }, again }
}

/// The zone that is preferred, as far as the endpoints tell.
fn near(endpoints: &[&Endpoint], zone: Option<&Zone>) -> Option<Arc<str>> {
    match zone? {
        Zone::Named(zone) => Some(Arc::from(zone.as_str())),
        Zone::OfNode(node) => {
            let here = endpoints.iter().find(|endpoint| endpoint.node.as_deref() == Some(node))?;
            here.zone.clone()
        }
    }
}

/// Being named is not enough: a server that takes no writes, or has other data than this cluster's, is no primary.
fn prove_primary<'a>(health: &'a Health, cluster: Option<&str>) -> Result<&'a Up, Arc<str>> {
    let up = answering(health)?;
    if let Some(ours) = cluster
        && up.cluster.as_deref() != Some(ours)
    {
        return Err(match &up.cluster {
            Some(theirs) => {
                format!("it is to be the primary, and has the data of another cluster ({theirs})").into()
            }
            None => "it is to be the primary, and has lost this cluster's data".into(),
        });
    }
    if up.read_only {
        return Err("it is to be the primary, and is read-only".into());
    }
    Ok(up)
}

fn note_primary(memory: &mut Memory, id: &ServerId, up: &Up) {
    let same = memory.primary.as_ref().is_some_and(|(last, uuid)| last == id && *uuid == up.uuid);
    if !same {
        memory.epoch += 1;
        memory.primary = Some((id.clone(), Arc::clone(&up.uuid)));
        // What the one before had may be lost with it, and be waited for in vain.
        for past in memory.servers.values_mut() {
            if let Standing::Out(recovery) = &mut past.standing {
                *recovery = None;
            }
        }
    }
    memory.executed = Arc::clone(&up.executed);
    if memory.cluster.is_none() {
        memory.cluster.clone_from(&up.cluster);
    }
}

fn answering(health: &Health) -> Result<&Up, Arc<str>> {
    match health {
        Health::Unknown => Err("it has not been asked yet".into()),
        Health::Down(why) => Err(Arc::clone(why)),
        Health::Up(up) => Ok(up),
    }
}

enum Verdict {
    Serves,
    /// There is no primary, and it lacks something of what that had: it serves when nobody else does.
    InNeed,
    Waits {
        why: Arc<str>,
        until: Option<Instant>,
    },
}

/// What all replicas of one snapshot are judged against.
struct View<'a> {
    primary: Option<&'a Up>,
    /// What the primary was last seen to have, whether there is one now or not.
    executed: Arc<GtidSet>,
    writable_since: Option<Instant>,
    /// False while the first probe of the server that is named primary runs.
    primary_asked: bool,
    cluster: Option<&'a str>,
    /// The marker was appointed: who has none has not this cluster's data.
    marker_is_needed: bool,
    policy: &'a Policy,
    now: Instant,
}

impl View<'_> {
    /// Leaving is at once; coming back takes `damping`, half the lag, and having what the primary had. Without a primary
    /// there may be nobody else, so nobody is held back.
    fn admit(&self, past: &mut Past, endpoint: &Endpoint, health: &Health) -> Verdict {
        let up = match self.fit(endpoint, health, &past.standing) {
            Ok(up) => up,
            Err(why) => {
                // Not having been asked yet is nothing to recover from.
                if !matches!(health, Health::Unknown) || matches!(past.standing, Standing::Serving) {
                    past.standing = Standing::Out(None);
                }
                return Verdict::Waits { why, until: None };
            }
        };
        if matches!(past.standing, Standing::Serving) {
            return Verdict::Serves;
        }
        if !self.primary_asked {
            return Verdict::Waits { why: "the primary has not been asked yet".into(), until: None };
        }
        if self.primary.is_none() {
            if !up.executed.contains_all(&self.executed) {
                return Verdict::InNeed;
            }
            past.standing = Standing::Serving;
            return Verdict::Serves;
        }
        let damping = match past.standing {
            Standing::Out(_) => self.policy.damping,
            Standing::New | Standing::Serving => Duration::ZERO,
        };
        let recovery = match &past.standing {
            Standing::Out(Some(recovery)) => recovery.clone(),
            Standing::New | Standing::Serving | Standing::Out(None) => {
                Recovery { since: self.now, bar: Arc::clone(&self.executed) }
            }
        };
        let until = recovery.since + damping;
        let why: Arc<str> = if !up.executed.contains_all(&recovery.bar) {
            "it catches up with the primary".into()
        } else if self.now < until {
            format!("it is well again, and serves in {:.1} s", (until - self.now).as_secs_f64()).into()
        } else {
            past.standing = Standing::Serving;
            return Verdict::Serves;
        };
        past.standing = Standing::Out(Some(recovery));
        Verdict::Waits { why, until: (self.now < until).then_some(until) }
    }

    fn fit<'h>(
        &self,
        endpoint: &Endpoint,
        health: &'h Health,
        standing: &Standing,
    ) -> Result<&'h Up, Arc<str>> {
        let up = answering(health)?;
        if !endpoint.ready {
            return Err("it is not ready".into());
        }
        if let (Some(ours), Some(theirs)) = (self.cluster, up.cluster.as_deref())
            && ours != theirs
        {
            return Err(format!("it has the data of another cluster ({theirs})").into());
        }
        if self.marker_is_needed && up.cluster.is_none() {
            return Err("it has no marker of this cluster's data".into());
        }
        let numbered = up.gtids && self.primary.is_none_or(|primary| primary.gtids);
        if self.policy.needs_gtids && !numbered {
            return Err(NO_GTIDS.into());
        }
        // While there is no primary nothing is written either, so what has been applied is the newest there is.
        let nothing_is_written = self.writable_since.is_none();
        let (lag, silence) = match &up.replication {
            // It is being made to follow whoever takes over.
            Replication::None
                if nothing_is_written && up.read_only && matches!(standing, Standing::Serving) =>
            {
                (Duration::ZERO, Duration::ZERO)
            }
            Replication::None => return Err("it replicates nothing".into()),
            // The controller stops receivers while the primary is away, so that they follow no empty one. What a server
            // has that was never seen before is what a restart of everything may have left it with.
            Replication::Paused(_) if nothing_is_written && !matches!(standing, Standing::New) => {
                (Duration::ZERO, Duration::ZERO)
            }
            Replication::Paused(why) | Replication::Stopped(why) => return Err(Arc::clone(why)),
            Replication::Running { lag, silence } => (*lag, *silence),
        };
        let limit = match standing {
            Standing::New | Standing::Serving => self.policy.max_lag,
            Standing::Out(_) => self.policy.max_lag / 2,
        };
        if lag > limit {
            return Err(format!("it lags {:.1} s", lag.as_secs_f64()).into());
        }
        // A primary that comes back is heard of a moment later.
        let unknown = self.writable_since.map_or(Duration::ZERO, |since| silence.min(self.now - since));
        // Replicas miss a primary that falls silent before its probes are given up: until then, too, what it was last
        // seen to have is the newest there is.
        let has_all = || numbered && up.executed.contains_all(&self.executed);
        if unknown > limit && !has_all() {
            return Err(format!("it has not heard of its source for {:.1} s", silence.as_secs_f64()).into());
        }
        Ok(up)
    }
}

const HANDOVER: &str = "a switchover is under way: new writes wait, open transactions may end here";
const NO_GTIDS: &str = "gtid_mode is not ON, so a session could miss its own writes here: turn it on, or set \
                        routing.consistency to eventual";

#[cfg(test)]
mod tests;
