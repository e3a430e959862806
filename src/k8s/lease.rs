//! Elects one process of many to act, by a Lease. What a lease says of the time of day is for people: another's lease has
//! expired when this process has not seen it change for as long as it is good for, and our own ends counted from before the
//! request that renewed it. Every write carries the version that was read, so of two candidates one gets a conflict. Who
//! makes a lease where there was none acts when one that was deleted would have expired.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::client::{Access, Call, Error};
use crate::model::leadership::Leadership;

/// How long others respect the lease after its last renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How long we rely on a renewal. What is left until `DURATION` is for what we have just begun.
const RENEW: Duration = Duration::from_secs(10);
/// How often it is looked at, and renewed.
const EVERY: Duration = Duration::from_secs(2);
/// How long a lease that was deleted is left to its holder, who makes it again at its next look.
const COURTESY: Duration = Duration::from_secs(6);
/// Of one request: a lost one leaves time for others before `RENEW` is over.
const PATIENCE: Duration = Duration::from_secs(3);
/// Requests in a row when others write at the same time.
const TRIES: u32 = 3;

/// Takes part until `stop`, and gives the lease back. Whoever acts by `leadership` has to have stopped by then.
pub(crate) async fn run(
    access: Access,
    name: String,
    me: Arc<str>,
    leadership: watch::Sender<Leadership>,
    stop: CancellationToken,
) {
    let mut candidate = Candidate::new(&name, me);
    let mut problem = None;
    loop {
        let outcome = turn(&access, &name, &mut candidate).await;
        let told = outcome.err().map(|error| Arc::<str>::from(error.to_string()));
        if let Some(told) = told.as_deref().filter(|told| problem.as_deref() != Some(*told)) {
            tracing::warn!(lease = name, problem = told, "who leads cannot be settled");
        }
        problem = told;
        publish(&leadership, candidate.leadership(problem.clone(), Instant::now()));
        tokio::select! {
            () = sleep(EVERY) => {}
            () = stop.cancelled() => break,
        }
    }
    leadership.send_modify(|leadership| leadership.until = None);
    if let Some(lease) = candidate.given_back() {
        let (api, parameters) = (access.api::<Lease>(), PostParams::default());
        let write = api.replace(&name, &parameters, &lease);
        match access.ask_within(PATIENCE, call("update"), write).await {
            Ok(_) => tracing::info!(lease = name, "the lease is given back"),
            // It expires.
            Err(error) => tracing::debug!(%error, "the lease is not given back"),
        }
    }
}

/// One look, and one write where it is our turn.
async fn turn(access: &Access, name: &str, candidate: &mut Candidate) -> Result<(), Error> {
    let api = access.api::<Lease>();
    for _ in 0..TRIES {
        let lease = match candidate.held.clone() {
            Some(held) => Some(held),
            None => match access.ask_within(PATIENCE, call("get"), api.get(name)).await {
                Ok(lease) => Some(lease),
                Err(error) if error.is_missing() => None,
                Err(error) => return Err(error),
            },
        };
        let parameters = PostParams::default();
        let begun = Instant::now();
        let written = match candidate.next(lease.as_ref(), begun) {
            Move::Wait => return Ok(()),
            Move::Create(lease) => {
                access.ask_within(PATIENCE, call("create"), api.create(&parameters, &lease)).await
            }
            Move::Replace(lease) => {
                access.ask_within(PATIENCE, call("update"), api.replace(name, &parameters, &lease)).await
            }
        };
        match written {
            Ok(lease) => {
                let made = candidate.made;
                candidate.holds(lease, begun, Instant::now());
                if made {
                    let wait_s = DURATION.as_secs();
                    tracing::info!(lease = name, wait_s, "there was no lease: whoever had one may still act");
                }
                return Ok(());
            }
            // Somebody else was faster, or it was deleted: look again.
            Err(error) if error.is_conflict() || error.is_missing() => candidate.held = None,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn publish(sender: &watch::Sender<Leadership>, now: Leadership) {
    let before = sender.send_replace(now.clone());
    match (before.until.is_some(), now.until.is_some()) {
        (false, true) => tracing::info!(term = now.term, "this process leads"),
        (true, false) => tracing::warn!(leader = now.leader.as_deref(), "this process leads no more"),
        _ if before.leader != now.leader => tracing::info!(leader = now.leader.as_deref(), "leader"),
        _ => {}
    }
}

const fn call(verb: &'static str) -> Call {
    Call { verb, resource: "leases", group: "coordination.k8s.io" }
}

/// What to do about the lease as it is.
#[derive(Debug, PartialEq)]
enum Move {
    /// Another one holds it.
    Wait,
    Create(Lease),
    Replace(Lease),
}

/// What one process remembers between its looks.
#[derive(Debug)]
struct Candidate {
    name: String,
    me: Arc<str>,
    /// The lease as we wrote it last, while nothing says that it is ours no more.
    held: Option<Lease>,
    until: Option<Instant>,
    /// Where there was no lease we may have made one: somebody may act by one that was deleted.
    made: bool,
    /// By then nobody acts any more by a lease that was deleted.
    acts_from: Option<Instant>,
    other: Option<Other>,
    term: u32,
    leader: Option<Arc<str>>,
}

/// Another one's lease.
#[derive(Debug)]
struct Other {
    /// None: it was deleted.
    version: Option<String>,
    /// When it was first seen like this.
    since: Instant,
    good_for: Duration,
}

impl Candidate {
    fn new(name: &str, me: Arc<str>) -> Self {
        Self {
            name: name.to_owned(),
            me,
            held: None,
            until: None,
            made: false,
            acts_from: None,
            other: None,
            term: 0,
            leader: None,
        }
    }

    fn next(&mut self, lease: Option<&Lease>, now: Instant) -> Move {
        let Some(lease) = lease else {
            let mut term = self.term;
            if !self.leads_at(now) {
                if self.leader.is_some() {
                    if !self.expired(None, COURTESY, now) {
                        return Move::Wait;
                    }
                    term = term.saturating_add(1);
                }
                self.made = true;
            }
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            return Move::Create(Lease { metadata, spec: Some(self.spec(term, None)) });
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let term = spec.lease_transitions.and_then(|term| u32::try_from(term).ok()).unwrap_or(0);
        let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        let ours = holder == Some(&*self.me);
        if !ours {
            (self.until, self.made, self.acts_from) = (None, false, None);
        }
        if let Some(holder) = holder.filter(|_| !ours) {
            (self.term, self.leader) = (term, Some(Arc::from(holder)));
            if !self.expired(lease.metadata.resource_version.as_deref(), good_for(&spec), now) {
                return Move::Wait;
            }
        }
        let (term, acquired) = if ours { (term, spec.acquire_time) } else { (term.saturating_add(1), None) };
        let metadata = lease.metadata.clone();
        Move::Replace(Lease { metadata, spec: Some(self.spec(term, acquired)) })
    }

    /// Another's lease, or that there is none any more, has been seen like this for as long as it is good for.
    fn expired(&mut self, version: Option<&str>, good_for: Duration, now: Instant) -> bool {
        let same = self.other.take().filter(|other| other.version.as_deref() == version);
        let other =
            same.unwrap_or_else(|| Other { version: version.map(str::to_owned), since: now, good_for });
        let expired = now >= other.since + other.good_for;
        self.other = Some(other);
        expired
    }

    /// The lease, as it is ours.
    fn spec(&self, term: u32, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.me.to_string()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: i32::try_from(term).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    /// The server has written it as we wanted, between these two moments.
    fn holds(&mut self, lease: Lease, begun: Instant, answered: Instant) {
        let term = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        self.term = term.and_then(|term| u32::try_from(term).ok()).unwrap_or(0);
        // Who acts by a lease that was deleted renewed that before this one was made.
        if std::mem::take(&mut self.made) {
            self.acts_from = Some(answered + DURATION);
        }
        (self.until, self.other) = (Some(begun + RENEW), None);
        (self.held, self.leader) = (Some(lease), Some(Arc::clone(&self.me)));
    }

    fn leads_at(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until) && self.acts_from.is_none_or(|from| from <= now)
    }

    fn leadership(&self, problem: Option<Arc<str>>, now: Instant) -> Leadership {
        Leadership {
            until: self.until.filter(|_| self.leads_at(now)),
            term: self.term,
            leader: self.leader.clone(),
            problem,
        }
    }

    /// What to write when we stop: nobody has to wait then.
    fn given_back(&mut self) -> Option<Lease> {
        let mut lease = self.held.take()?;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        Some(lease)
    }
}

/// How long a lease is to be respected without a change.
fn good_for(spec: &LeaseSpec) -> Duration {
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.filter(|seconds| (1..=3600).contains(seconds)).map_or(DURATION, Duration::from_secs)
}

#[cfg(test)]
mod tests;
