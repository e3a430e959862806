//! Decides where a statement runs. Pure: one statement, one session, one snapshot in, one decision out; `explain` asks
//! the same function. Doubt goes to the primary.

pub(crate) mod session;

use std::time::Duration;

use crate::config::Consistency;
use crate::model::topology::{Server, Topology};
use crate::sql::{Access, Hint, Kind, Reason, Statement, is_system_schema};
use session::Session;

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
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) consistency: Consistency,
    /// A replica that lags more than this is not waited for.
    pub(crate) gtid_wait: Duration,
}

/// Why a read goes to the primary that would go to a replica if one served.
pub(crate) const NO_REPLICA: &str = "no-replica";

/// Decides where `statement` runs.
pub(crate) fn decide(
    statement: &Statement,
    session: &Session,
    topology: &Topology,
    circumstances: Circumstances,
    policy: &Policy,
) -> Decision {
    let in_hand = circumstances.in_hand;
    if in_hand == InHand::Bound {
        return Decision { target: Target::Held, why: why_bound(session), freshness: Freshness::Any };
    }
    let why = statement.reason.label();
    let primary = |why| Decision { target: Target::Primary, why, freshness: Freshness::Any };
    if session.is_bound() {
        // It began so, and has no connection yet.
        return primary(why_bound(session));
    }
    match statement.kind {
        Kind::Write | Kind::Kill { .. } | Kind::AskRoute => primary(why),
        // Some replicas would tell the guard's, and what sets it would take that away.
        Kind::Read | Kind::Anywhere if statement.needs.access_mode && topology.trusts_accounts() => {
            primary("access-mode")
        }
        Kind::Anywhere if session.is_nearly_full() => primary(why),
        Kind::Anywhere | Kind::Previous => match in_hand {
            InHand::Lingering(_) if statement.kind == Kind::Previous || statement.hint.is_none() => {
                Decision { target: Target::Held, why, freshness: Freshness::Any }
            }
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
        Kind::Read if session.access(Access::Unspecified) == Access::ReadWrite => {
            primary("read-write-transaction")
        }
        Kind::Read if session.is_serializable() => primary("serializable"),
        // `threads` behind USE performance_schema: the statement alone does not say whose table it is.
        Kind::Read if session.settings().schema.as_deref().is_some_and(is_system_schema) => {
            primary("system-schema")
        }
        Kind::Read => read(statement, session, topology, circumstances, policy, why),
    }
}

/// A read: a replica that is fresh enough, else one that will be in a moment, else the primary.
fn read(
    statement: &Statement,
    session: &Session,
    topology: &Topology,
    circumstances: Circumstances,
    policy: &Policy,
    why: &'static str,
) -> Decision {
    let to = |target, freshness| Decision { target, why, freshness };
    let consistency = match statement.hint {
        Some(Hint::Primary) => {
            let why = Reason::HintPrimary.label();
            return Decision { target: Target::Primary, why, freshness: Freshness::Any };
        }
        Some(Hint::Replica) => Consistency::Eventual,
        None => policy.consistency,
    };
    let watermark = session.watermark();
    let fresh = |server: &Server| server.health.up().is_some_and(|up| up.has_applied(watermark));
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
    found.unwrap_or(Decision { target: Target::Primary, why: NO_REPLICA, freshness: Freshness::Any })
}

/// A replica among those that qualify: of the preferred zone, unless the others have clearly less to do.
fn choose(
    topology: &Topology,
    circumstances: Circumstances,
    qualifies: impl Fn(&Server) -> bool,
) -> Option<usize> {
    let any = |at: usize| circumstances.avoid != Some(at) && qualifies(&topology.servers[at]);
    // The connection in hand costs nothing to take, as long as its server has not clearly more to do.
    if let InHand::Lingering(at) = circumstances.in_hand
        && topology.zone.is_none()
        && topology.readers.contains(&at)
        && any(at)
    {
        let other = less_loaded(topology, circumstances.dice, |other| other != at && any(other));
        let load = |at: usize| topology.servers[at].load.in_flight();
        return match other {
            Some(other) if load(at) > load(other) + load(other) / 4 + 1 => Some(other),
            _ => Some(at),
        };
    }
    let Some(zone) = topology.zone.as_deref() else { return less_loaded(topology, circumstances.dice, any) };
    let is_near = |at: usize| topology.servers[at].zone.as_deref() == Some(zone);
    let near = less_loaded(topology, circumstances.dice, |at| is_near(at) && any(at));
    let far = less_loaded(topology, circumstances.dice, |at| !is_near(at) && any(at));
    let load = |at: usize| topology.servers[at].load.in_flight();
    match (near, far) {
        (Some(near), Some(far)) if load(near) > 2 * load(far) + SPILL => Some(far),
        (near, far) => near.or(far),
    }
}

/// Statements in flight that a near replica may have before load counts for more than zones.
const SPILL: u32 = 8;

/// The less loaded of two replicas drawn at random among those that qualify ("power of two choices").
fn less_loaded(topology: &Topology, dice: u64, qualifies: impl Fn(usize) -> bool) -> Option<usize> {
    let qualified = || topology.readers.iter().copied().filter(|&at| qualifies(at));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::gtid::GtidSet;
    use crate::model::health::{Health, Replication, Up};
    use crate::model::server::{Role, ServerId};
    use crate::model::settings::Settings;
    use crate::model::version::Version;
    use crate::routing::session::{Answered, Changes};
    use crate::sql::{Classifier, Dialect};

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    const DIALECT: Dialect = Dialect::for_tests();

    /// A primary and replicas that have applied so many transactions, with this lag, in these zones.
    fn topology(replicas: &[(u64, u64, &str)]) -> Topology {
        let server = |ordinal: usize, applied: u64, lag: Option<u64>, zone: &str| {
            Arc::new(Server {
                id: ServerId::new(&format!("mysql-{ordinal}")),
                address: "127.0.0.1:3306".parse().expect("an address"),
                role: if ordinal == 0 { Role::Primary } else { Role::Replica },
                zone: Some(Arc::from(zone)),
                ready: true,
                health: Health::Up(Up {
                    version: Version::mysql(9, 7, 4),
                    uuid: Arc::from(UUID),
                    server_id: 1,
                    read_only: lag.is_some(),
                    super_read_only: lag.is_some(),
                    gtids: true,
                    sessions: crate::model::health::SessionDefaults::default(),
                    cluster: None,
                    executed: Arc::new(GtidSet::parse(&format!("{UUID}:1-{applied}")).expect("a set")),
                    waited: Arc::default(),
                    replication: match lag {
                        Some(lag) => {
                            Replication::Running { lag: Duration::from_millis(lag), silence: Duration::ZERO }
                        }
                        None => Replication::None,
                    },
                }),
                excluded: None,
                load: Arc::default(),
            })
        };
        let mut servers = vec![server(0, 100, None, "a")];
        servers.extend(
            replicas
                .iter()
                .enumerate()
                .map(|(at, &(applied, lag, zone))| server(at + 1, applied, Some(lag), zone)),
        );
        Topology { epoch: 1, readers: (1..servers.len()).collect(), servers, primary: Some(0), zone: None }
    }

    fn policy(consistency: Consistency) -> Policy {
        Policy { consistency, gtid_wait: Duration::from_millis(50) }
    }

    fn session_that_wrote(number: u64) -> Session {
        let mut session = Session::new(Settings::default(), DIALECT);
        if number > 0 {
            let gtids = vec![Box::from(format!("{UUID}:{number}").as_bytes())];
            let changes = Some(Box::new(Changes { gtids, ..Changes::default() }));
            session.apply_status(&Answered { changes, status: Some(2), ..Answered::default() });
        }
        session
    }

    fn decided(sql: &str, session: &Session, topology: &Topology, policy: &Policy, dice: u64) -> Decision {
        let statement = Classifier::new(16).classify(sql.as_bytes(), DIALECT);
        let circumstances = Circumstances { in_hand: InHand::Nothing, avoid: None, dice };
        decide(&statement, session, topology, circumstances, policy)
    }

    #[test]
    fn freshness() {
        use Consistency::{Eventual, Global, Session};
        let check = |replicas: &[(u64, u64, &str)], wrote, consistency, expected: &[(Target, Freshness)]| {
            let (topology, session) = (topology(replicas), session_that_wrote(wrote));
            for dice in 0..8 {
                let decision = decided("SELECT a FROM t", &session, &topology, &policy(consistency), dice);
                let found = (decision.target, decision.freshness);
                assert!(expected.contains(&found), "{replicas:?} wrote {wrote} {consistency:?}: {found:?}");
            }
        };
        let replica = Target::Replica;
        let any = &[(replica(1), Freshness::Any), (replica(2), Freshness::Any)];
        check(&[(90, 0, ""), (90, 0, "")], 0, Session, any);
        check(&[(90, 0, ""), (100, 0, "")], 100, Session, &[(replica(2), Freshness::Any)]);
        check(&[(90, 20, ""), (90, 900, "")], 100, Session, &[(replica(1), Freshness::AwaitSession)]);
        check(&[(90, 900, ""), (90, 900, "")], 100, Session, &[(Target::Primary, Freshness::Any)]);
        check(&[(90, 900, ""), (90, 900, "")], 100, Eventual, any);
        check(&[(90, 0, ""), (90, 900, "")], 0, Global, &[(replica(1), Freshness::AwaitPrimary)]);
        check(&[], 0, Session, &[(Target::Primary, Freshness::Any)]);
    }

    #[test]
    fn zones_and_load() {
        let topology = topology(&[(100, 0, "a"), (100, 0, "b"), (100, 0, "b")]);
        let topology = Topology { zone: Some(Arc::from("a")), ..topology };
        let policy = policy(Consistency::Session);
        let session = session_that_wrote(0);
        let target = |dice| decided("SELECT a FROM t", &session, &topology, &policy, dice).target;
        assert!((0..16).all(|dice| target(dice) == Target::Replica(1)));
        let busy: Vec<_> = (0..20).map(|_| topology.servers[1].load.enter()).collect();
        assert!((0..16).all(|dice| target(dice) != Target::Replica(1)));
        drop(busy);
        assert_eq!(target(0), Target::Replica(1));
    }

    #[test]
    fn the_session_decides_too() {
        let topology = topology(&[(100, 0, "")]);
        let classifier = Classifier::new(16);
        let check = |steps: &[(&str, u16, &[(&str, &str)])], sql: &str, expected: Target| {
            let mut session = Session::new(Settings::default(), DIALECT);
            for (sql, status, variables) in steps {
                let variables = variables
                    .iter()
                    .map(|(n, v)| (Box::from(n.as_bytes()), Box::from(v.as_bytes())))
                    .collect();
                let changes = Some(Box::new(Changes { variables, ..Changes::default() }));
                let answered = Answered { status: Some(*status), changes, ..Answered::default() };
                session.apply(&classifier.classify(sql.as_bytes(), DIALECT), &answered);
            }
            let decision = decided(sql, &session, &topology, &policy(Consistency::Session), 7);
            assert_eq!(decision.target, expected, "{steps:?} then {sql}");
        };
        let replica = Target::Replica(1);
        check(&[], "SELECT a FROM t", replica);
        check(&[], "SELECT a FROM t FOR UPDATE", Target::Primary);
        check(&[], "/* readwright: primary */ SELECT a FROM t", Target::Primary);
        check(&[], "/* readwright: replica */ UPDATE t SET a=1", Target::Primary);
        check(&[("SET autocommit=0", 0, &[("autocommit", "OFF")])], "SELECT a FROM t", Target::Primary);
        let serializable: &[(&str, &str)] = &[("transaction_isolation", "SERIALIZABLE")];
        let set = "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE";
        check(&[(set, 2, serializable)], "SELECT a FROM t", Target::Primary);
        for (schema, expected) in [("shop", replica), ("Performance_Schema", Target::Primary)] {
            let mut session = Session::new(Settings::default(), DIALECT);
            session.set_schema(schema.as_bytes());
            let decision =
                decided("SELECT * FROM threads", &session, &topology, &policy(Consistency::Session), 7);
            assert_eq!(decision.target, expected, "{schema}");
        }
        check(&[], "START TRANSACTION READ ONLY", replica);
        check(&[], "BEGIN", Target::Primary);
        let read_only: &[(&str, &str)] = &[("transaction_read_only", "ON")];
        check(&[("SET SESSION TRANSACTION READ ONLY", 2, read_only)], "BEGIN", replica);
    }
}
