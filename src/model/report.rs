//! What a running proxy says of itself: `/status`, `readwright status` and the admin SQL port all show this one value.
//! It has words and numbers only, and nothing secret. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::health::{Health, Replication};
use super::leadership::Leadership;
use super::progress::Progress;
use super::server::Role;
use super::topology::{Server, Topology};

/// The whole of it. Field names are the interface of `/status`: add, do not rename.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) version: String,
    pub(crate) uptime_s: u64,
    pub(crate) state: State,
    /// Serving, and a statement has somewhere to go.
    pub(crate) ready: bool,
    /// Counts changes of the primary since the start.
    pub(crate) epoch: u64,
    pub(crate) primary: Option<String>,
    pub(crate) servers: Vec<ServerReport>,
    pub(crate) pools: Vec<PoolReport>,
    pub(crate) clients: ClientsReport,
    /// Sessions that stay on one connection, counted by cause.
    pub(crate) pins: Vec<PinsReport>,
    /// None where the controller is off.
    pub(crate) controller: Option<ControllerReport>,
}

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    #[default]
    Starting,
    Serving,
    /// SIGTERM came: no new clients, open transactions may end.
    Draining,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerReport {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) zone: Option<String>,
    /// `primary` or `replica`.
    pub(crate) role: String,
    /// What discovery says.
    pub(crate) ready: bool,
    /// `up`, `down` or `unknown`.
    pub(crate) health: String,
    /// New reads may go there now.
    pub(crate) serves_reads: bool,
    /// Why it is down, or serves no reads, for people.
    pub(crate) problem: Option<String>,
    pub(crate) mysql: Option<String>,
    pub(crate) uuid: Option<String>,
    pub(crate) read_only: Option<bool>,
    pub(crate) lag_ms: Option<u64>,
    /// Transactions in its `gtid_executed`.
    pub(crate) transactions: Option<u64>,
    /// Statements that run there now, from this proxy.
    pub(crate) in_flight: u32,
    /// Statements sent there since the start.
    pub(crate) statements: u64,
}

/// Connections to one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolReport {
    pub(crate) server: String,
    pub(crate) open: u32,
    pub(crate) idle: u32,
    /// Statements that wait for a connection.
    pub(crate) waiting: u32,
    pub(crate) max: u32,
    /// Connections ever opened.
    pub(crate) opened: u64,
    /// Tries to open one that failed.
    pub(crate) failed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientsReport {
    pub(crate) connected: u64,
    /// Of them, with a statement that runs.
    pub(crate) busy: u64,
    pub(crate) max: u64,
    /// Bytes relayed since the start.
    pub(crate) to_clients: u64,
    pub(crate) to_servers: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PinsReport {
    pub(crate) cause: String,
    pub(crate) sessions: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ControllerReport {
    /// Who acts; None while that is not known.
    pub(crate) leader: Option<String>,
    /// It is this process: only it knows how the servers are.
    pub(crate) leads: bool,
    /// Since it last looked at every server.
    pub(crate) looked_ms: Option<u64>,
    pub(crate) all_serving: bool,
    pub(crate) problems: Vec<String>,
    pub(crate) servers: Vec<ControllerServer>,
    /// What it did of late, newest first.
    pub(crate) acts: Vec<ActReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ActReport {
    pub(crate) ago_s: u64,
    /// None: the whole cluster.
    pub(crate) server: Option<String>,
    /// As in Events.
    pub(crate) reason: String,
    pub(crate) words: String,
    pub(crate) warning: bool,
    /// How often in a row.
    pub(crate) times: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ControllerServer {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) doing: String,
    /// Bytes copied and what it will be in all, while data is copied to it.
    pub(crate) copied: Option<(u64, u64)>,
    pub(crate) bytes_per_second: Option<u64>,
    /// When the copy ends, at this rate.
    pub(crate) seconds_left: Option<u64>,
}

/// What a report is made of.
#[derive(Clone, Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) uptime: Duration,
    pub(crate) state: State,
    pub(crate) topology: &'a Topology,
    pub(crate) pools: Vec<PoolReport>,
    pub(crate) clients: ClientsReport,
    pub(crate) pins: Vec<PinsReport>,
    pub(crate) controller: Option<ControllerReport>,
}

impl StatusReport {
    pub(crate) fn new(observed: Observed<'_>) -> Self {
        let topology = observed.topology;
        let reachable = topology.primary.is_some() || !topology.readers.is_empty();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: observed.uptime.as_secs(),
            state: observed.state,
            ready: observed.state == State::Serving && reachable,
            epoch: topology.epoch,
            primary: topology.primary.map(|at| topology.servers[at].id.to_string()),
            servers: (0..topology.servers.len()).map(|at| ServerReport::new(topology, at)).collect(),
            pools: observed.pools,
            clients: observed.clients,
            pins: observed.pins,
            controller: observed.controller,
        }
    }
}

impl ServerReport {
    fn new(topology: &Topology, at: usize) -> Self {
        let server: &Server = &topology.servers[at];
        let up = server.health.up();
        let health = match &server.health {
            Health::Unknown => "unknown",
            Health::Up(_) => "up",
            Health::Down(_) => "down",
        };
        // A primary that is down is still the one to be mended.
        let is_primary =
            topology.primary == Some(at) || (topology.primary.is_none() && server.role == Role::Primary);
        Self {
            name: server.id.to_string(),
            address: server.address.to_string(),
            zone: server.zone.as_deref().map(str::to_owned),
            role: if is_primary { "primary" } else { "replica" }.to_owned(),
            ready: server.ready,
            health: health.to_owned(),
            serves_reads: topology.readers.contains(&at),
            problem: problem(server),
            mysql: up.map(|up| up.version.to_string()),
            uuid: up.map(|up| up.uuid.to_string()),
            read_only: up.map(|up| up.read_only),
            lag_ms: server.health.lag().map(millis),
            transactions: up.map(|up| up.executed.count()),
            in_flight: server.load.in_flight(),
            statements: server.load.begun(),
        }
    }
}

impl ControllerReport {
    pub(crate) fn new(progress: &Progress, leadership: &Leadership, now: Instant) -> Self {
        let act = |act: &super::progress::Act| ActReport {
            ago_s: (now - act.at).as_secs(),
            server: act.server.as_ref().map(ToString::to_string),
            reason: act.reason.to_owned(),
            words: act.words.to_string(),
            warning: act.tone == super::progress::Tone::Warning,
            times: act.times,
        };
        let of_leader = leadership.problem.iter().map(ToString::to_string);
        let server = |server: &super::progress::ServerProgress| ControllerServer {
            name: server.id.to_string(),
            state: server.state.to_owned(),
            doing: server.words(),
            copied: server.copy.map(|copy| (copy.bytes, copy.estimate)),
            bytes_per_second: server.copy.map(|copy| copy.bytes_per_second),
            seconds_left: server.copy.and_then(|copy| copy.left()).map(|left| left.as_secs()),
        };
        Self {
            leader: leadership.leader.as_deref().map(str::to_owned),
            leads: leadership.leads(),
            looked_ms: progress.looked.map(|looked| millis(now - looked)),
            all_serving: progress.all_serving(),
            problems: of_leader.chain(progress.problems.iter().map(ToString::to_string)).collect(),
            servers: progress.servers.iter().map(server).collect(),
            acts: progress.acts.iter().rev().map(act).collect(),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The nearest cause first: a server that is down is also excluded.
fn problem(server: &Server) -> Option<String> {
    match &server.health {
        Health::Down(why) => return Some(why.to_string()),
        Health::Up(up) => {
            if let (Replication::Stopped(why), Some(_)) = (&up.replication, &server.excluded) {
                return Some(why.to_string());
            }
        }
        Health::Unknown => {}
    }
    server.excluded.as_deref().map(str::to_owned)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::gtid::GtidSet;
    use crate::model::health::Up;
    use crate::model::progress::{Acts, CopyProgress, Part, Problem, Reads, ServerProgress, Standing, Tone};
    use crate::model::server::{Address, ServerId};
    use crate::model::version::Version;

    /// A primary, a replica that serves and one that is down.
    pub(crate) fn cluster() -> Topology {
        let server = |number: u16, health: Health, excluded: Option<&str>| {
            Arc::new(Server {
                id: ServerId::new(&format!("mysql-{number}")),
                address: Address { host: "127.0.0.1".into(), port: 3306 + number },
                role: if number == 0 { Role::Primary } else { Role::Replica },
                zone: None,
                ready: true,
                health,
                excluded: excluded.map(Arc::from),
                load: Arc::default(),
            })
        };
        let up = |replication| {
            Health::Up(Up {
                version: Version::mysql(9, 7, 4),
                uuid: "3e11fa47-71ca-11e1-9e33-c80aa9429562".into(),
                server_id: 1,
                read_only: replication != Replication::None,
                super_read_only: replication != Replication::None,
                gtids: true,
                sessions: crate::model::health::SessionDefaults::default(),
                cluster: None,
                executed: Arc::new(
                    GtidSet::parse("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-7").expect("a set"),
                ),
                waited: Arc::default(),
                replication,
            })
        };
        let running =
            Replication::Running { lag: Duration::from_millis(20), silence: Duration::from_millis(5) };
        Topology {
            epoch: 1,
            servers: vec![
                server(0, up(Replication::None), None),
                server(1, up(running), None),
                server(2, Health::Down("connection refused".into()), Some("down")),
            ],
            primary: Some(0),
            readers: vec![1],
            zone: None,
        }
    }

    /// A primary, a replica to which data is copied, and a problem.
    pub(crate) fn progress() -> Progress {
        let server = |number: u16, state, doing: &str, copy| ServerProgress {
            id: ServerId::new(&format!("mysql-{number}")),
            uid: None,
            state,
            doing: doing.into(),
            copy,
            serving: copy.is_none(),
            standing: Standing { part: Part::AsBefore, reads: Reads::AsBefore, alarm: None },
        };
        let copy = CopyProgress {
            bytes: 1 << 30,
            estimate: 4 << 30,
            bytes_per_second: 128 << 20,
            elapsed: Duration::from_secs(8),
        };
        let mut acts = Acts::default();
        acts.note(None, "SwitchoverRefused", "mysql-1 does not answer", Tone::Warning);
        acts.note(Some(&ServerId::new("mysql-1")), "CopyStarted", "a copy of mysql-0's", Tone::Normal);
        Progress {
            looked: Some(Instant::now()),
            servers: vec![
                server(0, "Primary", "takes writes", None),
                server(1, "Cloning", "copies from mysql-0: FILE COPY", Some(copy)),
            ],
            problems: vec![Problem {
                reason: "SwitchoverWaits",
                server: None,
                words: "the switchover that is wanted waits".into(),
            }],
            acts,
            copied: 7 << 30,
        }
    }

    /// What a process says that leads.
    pub(crate) fn controller() -> ControllerReport {
        let leadership = Leadership {
            until: Some(Instant::now() + Duration::from_secs(10)),
            term: 1,
            leader: Some("readwright-0_1f".into()),
            problem: None,
        };
        ControllerReport::new(&progress(), &leadership, Instant::now())
    }

    pub(crate) fn report(state: State, topology: &Topology) -> StatusReport {
        StatusReport::new(Observed {
            uptime: Duration::from_secs(61),
            state,
            topology,
            pools: vec![PoolReport {
                server: "mysql-0".into(),
                open: 3,
                idle: 2,
                waiting: 0,
                max: 200,
                opened: 4,
                failed: 1,
            }],
            clients: ClientsReport { connected: 5, busy: 1, max: 100, to_clients: 10, to_servers: 4 },
            pins: vec![PinsReport { cause: "named-lock".into(), sessions: 1 }],
            controller: None,
        })
    }

    #[test]
    fn servers_are_told_apart() {
        let report = report(State::Serving, &cluster());
        assert!(report.ready);
        assert_eq!(report.primary.as_deref(), Some("mysql-0"));
        let told = |at: usize| {
            let server = &report.servers[at];
            (server.role.as_str(), server.health.as_str(), server.serves_reads, server.problem.as_deref())
        };
        assert_eq!(told(0), ("primary", "up", false, None));
        assert_eq!(told(1), ("replica", "up", true, None));
        assert_eq!(told(2), ("replica", "down", false, Some("connection refused")));
        let replica = &report.servers[1];
        assert_eq!(
            (replica.lag_ms, replica.transactions, replica.mysql.as_deref()),
            (Some(20), Some(7), Some("9.7.4"))
        );
    }

    #[test]
    fn ready_needs_a_server_and_no_drain() {
        let nothing = Topology::default();
        assert!(!report(State::Draining, &cluster()).ready);
        assert!(!report(State::Starting, &cluster()).ready);
        assert!(!report(State::Serving, &nothing).ready);
        let replicas_only = report(State::Serving, &Topology { primary: None, ..cluster() });
        assert!(replicas_only.ready && replicas_only.primary.is_none());
        assert_eq!(replicas_only.servers[0].role, "primary");
    }

    #[test]
    fn copies_and_acts_are_told() {
        let told = controller();
        let copied = &told.servers[1];
        let numbers = (copied.copied, copied.bytes_per_second, copied.seconds_left);
        assert_eq!(numbers, (Some((1 << 30, 4 << 30)), Some(128 << 20), Some(24)));
        let acts: Vec<_> = told.acts.iter().map(|act| (act.reason.as_str(), act.warning)).collect();
        assert_eq!(acts, [("CopyStarted", false), ("SwitchoverRefused", true)]);
        assert!(told.leads && !told.all_serving && told.looked_ms.is_some());
    }

    #[test]
    fn it_survives_the_wire() {
        let report = StatusReport { controller: Some(controller()), ..report(State::Serving, &cluster()) };
        let text = serde_json::to_string(&report).expect("plain data");
        assert_eq!(serde_json::from_str::<StatusReport>(&text).expect("the same"), report);
    }
}
