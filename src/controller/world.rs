//! What the controller knows when it plans: its own record, and one look at every server. Only data and questions to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Diverged;
use crate::dba::{CloneState, Probe, Survey};
use crate::model::claims::Claim;
use crate::model::gtid::GtidSet;
use crate::model::server::{Endpoint, Role, ServerId};
use crate::model::wishes::Wishes;

/// What must outlive the controller. Saved before it is acted upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The marker that this cluster's data carries.
    pub(crate) cluster: Option<Arc<str>>,
    /// The first primary was set up completely. From then on nobody is ever set up as a new one.
    pub(crate) bootstrapped: bool,
    pub(crate) primary: Option<ServerId>,
    pub(crate) primary_uuid: Option<Arc<str>>,
    /// What the primary was last seen to have. A primary without it has lost data.
    pub(crate) watermark: GtidSet,
    /// Counts appointments of another primary.
    pub(crate) epoch: u64,
    /// A planned switchover runs: proxies hold new writes.
    pub(crate) handover: Option<Handover>,
    /// Servers that are to be overwritten, until their copy is complete. One whose tables were being dropped when it was
    /// killed says nothing of that when it comes back, and still has its marker and its GTIDs.
    pub(crate) overwriting: BTreeMap<ServerId, Overwriting>,
    /// How the last switchover that was wanted or tried ended.
    pub(crate) ended: Option<Ended>,
}

/// What a server was when the copy to it was about to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overwriting {
    pub(crate) uuid: Arc<str>,
    /// When the copy before began; empty when there was none.
    pub(crate) before: Arc<str>,
}

/// While `primary` is still `from`, it can go back; once it is `to`, it only goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handover {
    pub(crate) from: ServerId,
    pub(crate) to: ServerId,
    /// Of the wish that is fulfilled, or what else led to it.
    pub(crate) id: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) id: Arc<str>,
    /// Why it failed; None when it did not.
    pub(crate) failure: Option<Arc<str>>,
}

/// One server, as just seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No answer. Says nothing of what the server has.
    Unreachable(Arc<str>),
    /// It answers, and cannot be asked: it does not let us in, or is too old. For people.
    Refused(Arc<str>),
    Seen(Box<Seen>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) survey: Survey,
    pub(crate) login: LoggedIn,
}

/// Which account the server let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoggedIn {
    Ours,
    /// The installation's own account: the server has never had ours.
    Installation,
}

/// Everything a plan is made from.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) record: Record,
    /// By ordinal, then by name.
    pub(crate) nodes: Vec<Node>,
    /// What the primary had after all others had been asked; else a busy primary makes its replicas look errant.
    pub(crate) primary_after: Option<GtidSet>,
    /// What the primary had the last time: a replica that has it is at most one look behind.
    pub(crate) primary_before: GtidSet,
    /// How long a replica has been seen with transactions of its own.
    pub(crate) errant_for: BTreeMap<ServerId, Duration>,
    /// How long a copy to a server has not moved a byte.
    pub(crate) stalled_for: BTreeMap<ServerId, Duration>,
    /// Servers that read as if their copy had broken off, which they also do for a moment when it is complete.
    pub(crate) going_down: BTreeSet<ServerId>,
    /// Servers on which a step of ours still runs.
    pub(crate) busy: BTreeSet<ServerId>,
    /// Servers on which steps were tried, and how long to leave them alone.
    pub(crate) resting: BTreeMap<ServerId, Resting>,
    pub(crate) diverged: Diverged,
    /// Claims of volumes; none where that cannot be known.
    pub(crate) claims: Arc<[Claim]>,
    /// How many bytes a copy of a server is, where that was asked.
    pub(crate) sizes: BTreeMap<ServerId, u64>,
    /// How long the switchover of the record has run, as far as this controller knows.
    pub(crate) handover_for: Duration,
    /// Why a step of it failed.
    pub(crate) handover_failed: Option<Arc<str>>,
    /// One has just failed: nobody but people begins another.
    pub(crate) handover_rests: bool,
    pub(crate) wishes: Wishes,
    /// How long the wish for another primary has been known.
    pub(crate) wish_for: Duration,
    /// The id of a cluster that is yet to be made.
    pub(crate) fresh_cluster: Arc<str>,
}

/// So long a wish to give the primary up holds: it is about a primary that is dead now, not about one that dies tomorrow.
pub(crate) const LONGEST_WISH: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resting {
    pub(crate) left: Duration,
    /// How often, since the server last served for a while.
    pub(crate) attempts: u32,
    /// How many of them were copies that failed.
    pub(crate) failed_copies: u32,
    /// Why the last attempt failed; empty when it did not.
    pub(crate) why: Arc<str>,
}

impl World {
    pub(crate) fn node(&self, id: &ServerId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.endpoint.id == *id)
    }

    pub(crate) fn seen(&self, id: &ServerId) -> Option<&Seen> {
        self.node(id)?.seen()
    }

    /// What the volume of a server holds at the most, in bytes. Unknown when it has several.
    pub(crate) fn capacity(&self, id: &ServerId) -> Option<u64> {
        let mut claims = self.claims.iter().filter(|claim| claim.is_of(id));
        claims.next().filter(|_| claims.next().is_none())?.capacity
    }

    /// What was on it is gone, wholly or in part, and no copy of another server is complete on it.
    pub(crate) fn half_overwritten(&self, node: &Node) -> bool {
        let Some(seen) = node.seen() else { return false };
        let (probe, run) = (seen.probe(), seen.survey.clone.as_ref());
        let begun = self.record.overwriting.get(&node.endpoint.id).is_some_and(|begun| {
            let complete =
                run.is_some_and(|run| run.state == CloneState::Completed && run.began != begun.before);
            begun.uuid == probe.uuid && !complete
        });
        let broken = run.filter(|run| run.dropped).is_some_and(|run| {
            let gone =
                probe.executed.is_empty() || (probe.cluster.is_none() && seen.survey.user_schemas == 0);
            match run.state {
                CloneState::Failed => gone,
                CloneState::Dead => gone || (probe.cluster.is_some() && probe.cluster == self.record.cluster),
                CloneState::Running | CloneState::Completed => false,
            }
        });
        begun || broken
    }

    /// The server that is to be the primary: by our record, else by what discovery says.
    pub(crate) fn primary(&self) -> Option<&ServerId> {
        let named = || {
            self.nodes.iter().find(|node| node.endpoint.role == Role::Primary).map(|node| &node.endpoint.id)
        };
        self.record.primary.as_ref().or_else(named)
    }
}

impl Node {
    pub(crate) fn seen(&self) -> Option<&Seen> {
        match &self.state {
            State::Seen(seen) => Some(seen),
            State::Unreachable(_) | State::Refused(_) => None,
        }
    }
}

impl Seen {
    pub(crate) fn probe(&self) -> &Probe {
        &self.survey.probe
    }

    /// Nothing on it could be missed: no marker, no schema, no transaction but its own installation's.
    pub(crate) fn blank(&self) -> bool {
        let probe = self.probe();
        probe.cluster.is_none() && self.survey.user_schemas == 0 && probe.executed.is_only_from(&probe.uuid)
    }

    pub(crate) fn clone_state(&self) -> Option<CloneState> {
        self.survey.clone.as_ref().map(|run| run.state)
    }
}
