//! Decides where a statement runs. Pure: one statement, one session, one snapshot in, one decision out; `explain` asks
//! the same function. Doubt goes to the primary.

pub(crate) mod session;

use std::time::Duration;

use crate::config::Consistency;
use crate::model::topology::{Server, Topology};
use crate::sql::{Access, Hint, Kind, Statement};
use session::{PinCause, Session};

/// Where a statement runs, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) target: Target,
    /// A label for metrics, logs and people.
    pub(crate) why: &'static str,
    /// What the server must have applied before it may answer.
    pub(crate) freshness: Freshness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The connection the session is bound to.
    Held,
    Primary,
    /// Index into the snapshot's servers.
    Replica(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Any state of the server will do, or it is known to be fresh enough.
    Any,
    /// The server must first apply the session's watermark.
    AwaitSession,
    /// The server must first apply what the primary has committed by now.
    AwaitPrimary,
}

/// What the session has in hand already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InHand {
    Nothing,
    /// A connection to this server (index into the snapshot), kept for a moment after the last statement.
    Lingering(usize),
    /// A connection the session is bound to.
    Bound,
}

/// What a decision depends on besides statement, session and snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    pub(crate) in_hand: InHand,
    /// A server that has just failed this statement.
    pub(crate) avoid: Option<usize>,
    /// Any random number.
    pub(crate) dice: u64,
}

/// The part of the configuration that decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) consistency: Consistency,
    /// A replica that lags more than this is not waited for.
    pub(crate) gtid_wait: Duration,
}

/// Decides where `statement` runs.
pub(crate) fn decide(
    statement: &Statement,
    session: &Session,
    topology: &Topology,
    circumstances: Circumstances,
    policy: Policy,
) -> Decision {
    let in_hand = circumstances.in_hand;
    if in_hand == InHand::Bound {
        return Decision { target: Target::Held, why: why_bound(session), freshness: Freshness::Any };
    }
    let why = statement.reason.label();
    let primary = |why| Decision { target: Target::Primary, why, freshness: Freshness::Any };
    match statement.kind {
        Kind::Write | Kind::Kill { .. } => primary(why),
        Kind::Anywhere | Kind::Previous => match in_hand {
            InHand::Lingering(_) => Decision { target: Target::Held, why, freshness: Freshness::Any },
            _ if statement.kind == Kind::Previous => primary(why),
            // As fresh as a read: USE of a schema that this session has just made must find it.
            _ => read(statement, session, topology, circumstances, policy, why),
        },
        Kind::Begin(said) => match session.access(said) {
            Access::ReadOnly => {
                read(statement, session, topology, circumstances, policy, "read-only-transaction")
            }
            _ => primary(why),
        },
        Kind::Read if !session.autocommit() && session.access(Access::Unspecified) != Access::ReadOnly => {
            primary("autocommit-off")
        }
        Kind::Read if session.is_serializable() => primary("serializable"),
        Kind::Read => read(statement, session, topology, circumstances, policy, why),
    }
}

/// A read: a replica that is fresh enough, else one that will be in a moment, else the primary.
fn read(
    statement: &Statement,
    session: &Session,
    topology: &Topology,
    circumstances: Circumstances,
    policy: Policy,
    why: &'static str,
) -> Decision {
    let to = |target, freshness| Decision { target, why, freshness };
    let consistency = match statement.hint {
        Some(Hint::Primary) => {
            return Decision { target: Target::Primary, why: "hint-primary", freshness: Freshness::Any };
        }
        Some(Hint::Replica) => Consistency::Eventual,
        None => policy.consistency,
    };
    let watermark = session.watermark();
    let fresh = |server: &Server| server.health.up().is_some_and(|up| watermark.is_applied_in(&up.executed));
    // One that lags more than a read may wait would only cost the wait.
    let soon = |server: &Server| server.health.lag().is_some_and(|lag| lag <= policy.gtid_wait);
    let any = || choose(topology, circumstances, |_| true);
    let found = match consistency {
        Consistency::Eventual => any().map(|at| to(Target::Replica(at), Freshness::Any)),
        Consistency::Session if watermark.is_empty() => {
            any().map(|at| to(Target::Replica(at), Freshness::Any))
        }
        Consistency::Session => choose(topology, circumstances, fresh)
            .map(|at| to(Target::Replica(at), Freshness::Any))
            .or_else(|| {
                choose(topology, circumstances, soon)
                    .map(|at| to(Target::Replica(at), Freshness::AwaitSession))
            }),
        Consistency::Global => {
            choose(topology, circumstances, soon).map(|at| to(Target::Replica(at), Freshness::AwaitPrimary))
        }
    };
    found.unwrap_or(Decision { target: Target::Primary, why: "no-replica", freshness: Freshness::Any })
}

/// The less loaded of two replicas drawn at random among those that qualify.
fn choose(
    topology: &Topology,
    circumstances: Circumstances,
    qualifies: impl Fn(&Server) -> bool,
) -> Option<usize> {
    let Circumstances { avoid, dice, .. } = circumstances;
    let qualified = || {
        topology.readers.iter().copied().filter(|&at| avoid != Some(at) && qualifies(&topology.servers[at]))
    };
    let count = qualified().count() as u64;
    let nth = |n: u64| qualified().nth(usize::try_from(n).unwrap_or(0));
    match count {
        0 => None,
        1 => nth(0),
        _ => {
            let first = dice % count;
            // The second draw is one of the others, all equally likely.
            let second = (first + 1 + (dice >> 32) % (count - 1)) % count;
            let (a, b) = (nth(first)?, nth(second)?);
            let load = |at: usize| topology.servers[at].load.in_flight();
            Some(if load(b) < load(a) { b } else { a })
        }
    }
}

fn why_bound(session: &Session) -> &'static str {
    session.pins().first().map_or("transaction", |pin| pin.cause.label())
}
