//! Stories of a primary and two replicas: what is learned, second by second, and what the snapshot then says.

use super::*;
use crate::model::server::Address;
use crate::model::version::Version;

const CLUSTER: &str = "cluster-a";
const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

struct Story {
    memory: Memory,
    endpoints: Vec<Endpoint>,
    health: HashMap<ServerId, Health>,
    appointment: Appointment,
    policy: Policy,
    start: Instant,
}

impl Story {
    /// All well, and nothing merged yet.
    fn new() -> Self {
        let names = ["mysql-0", "mysql-1", "mysql-2"];
        let endpoint = |name: &&str| Endpoint {
            id: ServerId::new(name),
            address: Address { host: Arc::from(*name), port: 3306 },
            name: Address { host: Arc::from(*name), port: 3306 },
            zone: None,
            node: None,
            ready: true,
            uid: None,
            terminating: false,
            role: if *name == "mysql-0" { Role::Primary } else { Role::Replica },
        };
        let mut story = Self {
            memory: Memory::default(),
            // Out of order, as discovery may give them.
            endpoints: names.iter().rev().map(endpoint).collect(),
            health: HashMap::new(),
            policy: Policy {
                max_lag: Duration::from_secs(10),
                damping: Duration::from_secs(5),
                needs_gtids: true,
                zone: None,
            },
            appointment: Appointment::default(),
            start: Instant::now(),
        };
        story.tell("mysql-0", primary());
        for name in ["mysql-1", "mysql-2"] {
            story.tell(name, replica(0));
        }
        story
    }

    fn tell(&mut self, name: &str, health: Health) {
        self.health.insert(ServerId::new(name), health);
    }

    fn endpoint(&mut self, name: &str) -> &mut Endpoint {
        self.endpoints.iter_mut().find(|endpoint| endpoint.id.as_str() == name).expect("one of the three")
    }

    fn merged(&mut self, second: u64) -> Merged {
        let now = self.start + Duration::from_secs(second);
        merge(&mut self.memory, &self.endpoints, &self.health, &self.appointment, &self.policy, now)
    }

    /// The snapshot at a second: primary, readers and epoch as one text.
    #[track_caller]
    fn check(&mut self, second: u64, expected: &str) {
        let topology = self.merged(second).topology;
        let primary = topology.primary.map_or("none", |at| topology.servers[at].id.as_str());
        let readers: Vec<&str> = topology.readers().map(|reader| reader.id.as_str()).collect();
        let seen = format!("{primary} / {} / {}", readers.join(" "), topology.epoch);
        assert_eq!(seen, expected, "at second {second}: {:#?}", topology.servers);
        for server in &topology.servers {
            let of_use = readers.contains(&server.id.as_str()) || topology.is_primary(&server.id);
            assert_eq!(server.excluded.is_none(), of_use, "{} has a reason, or is of use", server.id);
        }
    }

    #[track_caller]
    fn check_reason(&mut self, second: u64, name: &str, expected: &str) {
        let topology = self.merged(second).topology;
        let why = topology.server(&ServerId::new(name)).and_then(|server| server.excluded.clone());
        assert!(why.as_deref().is_some_and(|why| why.contains(expected)), "{why:?} lacks {expected}");
    }
}

fn up(replication: Replication) -> Up {
    Up {
        version: Version::mysql(9, 7, 4),
        uuid: Arc::from("uuid"),
        server_id: 1,
        read_only: replication != Replication::None,
        super_read_only: replication != Replication::None,
        gtids: true,
        sessions: crate::model::health::SessionDefaults::default(),
        cluster: Some(Arc::from(CLUSTER)),
        executed: Arc::new(executed(10)),
        waited: Arc::default(),
        replication,
    }
}

fn executed(count: u64) -> GtidSet {
    GtidSet::parse(&format!("{UUID}:1-{count}")).expect("a GTID set")
}

fn primary() -> Health {
    Health::Up(up(Replication::None))
}

fn replica(lag: u64) -> Health {
    Health::Up(up(Replication::Running { lag: Duration::from_secs(lag), silence: Duration::ZERO }))
}

fn silent(seconds: u64) -> Health {
    Health::Up(up(Replication::Running { lag: Duration::ZERO, silence: Duration::from_secs(seconds) }))
}

fn changed(health: Health, change: impl FnOnce(&mut Up)) -> Health {
    let Health::Up(mut up) = health else { return health };
    change(&mut up);
    Health::Up(up)
}

fn down() -> Health {
    Health::Down("no answer".into())
}

const ALL: &str = "mysql-0 / mysql-1 mysql-2 / 1";
const WITHOUT_2: &str = "mysql-0 / mysql-1 / 1";

#[test]
fn all_well_serves_at_once() {
    Story::new().check(0, ALL);
}

#[test]
fn nothing_known_serves_nothing() {
    let mut story = Story::new();
    story.health.clear();
    story.check(0, "none /  / 0");
    // What was only not asked yet needs no damping.
    let mut asked = Story::new();
    asked.memory = story.memory;
    asked.check(1, ALL);
}

#[test]
fn the_first_word_of_the_primary_is_waited_for() {
    let mut story = Story::new();
    story.health.remove(&ServerId::new("mysql-0"));
    story.check(0, "none /  / 0");
    story.check_reason(0, "mysql-1", "the primary has not been asked");
    story.tell("mysql-0", down());
    story.check(1, "none / mysql-1 mysql-2 / 0");
}

#[test]
fn every_cause_takes_a_replica_out_at_once_and_damping_holds_it() {
    let causes: [(&str, Health); 8] = [
        ("no answer", down()),
        ("lags 11", replica(11)),
        ("not heard of its source for 11", behind(silent(11))),
        ("replicates nothing", changed(replica(0), |up| up.replication = Replication::None)),
        ("stopped", changed(replica(0), |up| up.replication = Replication::Stopped("it is stopped".into()))),
        (
            "it was told to stop",
            changed(replica(0), |up| up.replication = Replication::Paused("it was told to stop".into())),
        ),
        ("gtid_mode is not ON", changed(replica(0), |up| up.gtids = false)),
        ("another cluster (b)", changed(replica(0), |up| up.cluster = Some("b".into()))),
    ];
    for (reason, health) in causes {
        let mut story = Story::new();
        story.check(0, ALL);
        story.tell("mysql-2", health);
        story.check(20, WITHOUT_2);
        story.check_reason(20, "mysql-2", reason);
        story.tell("mysql-2", replica(0));
        story.check(30, WITHOUT_2);
        let again = story.merged(30).again.expect("a moment to look again");
        assert_eq!(again - story.start, Duration::from_secs(35), "{reason}");
        story.check(34, WITHOUT_2);
        story.check(35, ALL);
    }
}

#[test]
fn without_gtids_reads_leave_the_primary_only_where_staleness_is_wanted() {
    let mut story = Story::new();
    story.tell("mysql-0", changed(primary(), |up| up.gtids = false));
    story.check(0, "mysql-0 /  / 1");
    story.check_reason(0, "mysql-1", "gtid_mode is not ON");
    story.policy.needs_gtids = false;
    // After the damping, like any replica that comes back.
    story.check(1, "mysql-0 /  / 1");
    story.check(6, ALL);
}

#[test]
fn a_relapse_starts_the_damping_anew() {
    let mut story = Story::new();
    story.check(0, ALL);
    for (second, health) in [(1, down()), (2, replica(0)), (4, down()), (5, replica(0))] {
        story.tell("mysql-2", health);
        story.check(second, WITHOUT_2);
    }
    story.check(9, WITHOUT_2);
    story.check(10, ALL);
}

#[test]
fn not_ready_serves_no_reads() {
    let mut story = Story::new();
    story.endpoint("mysql-2").ready = false;
    story.check(0, WITHOUT_2);
    story.check_reason(0, "mysql-2", "not ready");
}

#[test]
fn lag_has_hysteresis() {
    let mut story = Story::new();
    for (second, lag, expected) in [
        (0, 0, ALL),
        (1, 10, ALL),
        (2, 11, WITHOUT_2),
        (3, 6, WITHOUT_2),
        (9, 6, WITHOUT_2),
        (10, 5, WITHOUT_2),
        (15, 5, ALL),
        (16, 10, ALL),
    ] {
        story.tell("mysql-2", replica(lag));
        story.check(second, expected);
    }
}

#[test]
fn one_that_just_reached_its_source_catches_up_first() {
    let mut story = Story::new();
    story.tell("mysql-2", changed(replica(0), |up| up.executed = Arc::new(executed(3))));
    story.check(0, WITHOUT_2);
    story.check_reason(0, "mysql-2", "catches up");
    // The bar is what the primary had at first, not what it writes since.
    story.tell("mysql-0", changed(primary(), |up| up.executed = Arc::new(executed(99))));
    story.tell("mysql-2", replica(0));
    story.check(4, WITHOUT_2);
    story.check(5, ALL);
}

#[test]
fn while_the_primary_is_down_silence_excludes_nobody() {
    let mut story = Story::new();
    story.check(0, ALL);
    story.tell("mysql-0", down());
    for name in ["mysql-1", "mysql-2"] {
        story.tell(name, silent(60));
    }
    story.check(60, "none / mysql-1 mysql-2 / 1");
    story.tell("mysql-0", changed(primary(), |up| up.executed = Arc::new(executed(11))));
    story.check(61, ALL);
    story.check(71, ALL);
    story.check(72, "mysql-0 /  / 1");
}

fn behind(health: Health) -> Health {
    changed(health, |up| up.executed = Arc::new(executed(3)))
}

/// Replicas miss the primary's heartbeats before its probes are given up.
#[test]
fn who_has_what_the_primary_had_may_hear_nothing_of_it() {
    let mut story = Story::new();
    story.check(0, ALL);
    story.tell("mysql-1", silent(11));
    story.tell("mysql-2", behind(silent(11)));
    story.check(12, "mysql-0 / mysql-1 / 1");
    story.check_reason(12, "mysql-2", "not heard of its source for 11");
    // Something is written.
    story.tell("mysql-0", changed(primary(), |up| up.executed = Arc::new(executed(11))));
    story.check(13, "mysql-0 /  / 1");
    // Without GTIDs nobody knows.
    let mut story = Story::new();
    story.policy.needs_gtids = false;
    story.check(0, ALL);
    story.tell("mysql-0", changed(primary(), |up| up.gtids = false));
    story.tell("mysql-1", silent(11));
    story.check(12, "mysql-0 / mysql-2 / 1");
}

#[test]
fn without_a_primary_nobody_is_held_back() {
    let mut story = Story::new();
    story.check(0, ALL);
    for name in ["mysql-1", "mysql-2"] {
        story.tell(name, behind(silent(11)));
    }
    story.check(12, "mysql-0 /  / 1");
    story.tell("mysql-0", down());
    story.check(13, "none / mysql-1 mysql-2 / 1");
    // Who has all is better than who has not.
    story.tell("mysql-2", silent(12));
    story.check(14, "none / mysql-2 / 1");
    story.check_reason(14, "mysql-1", "it lacks something of what the primary had");
    story.tell("mysql-2", down());
    story.check(15, "none / mysql-1 / 1");
}

/// From the end of the old primary until the new one takes writes.
#[test]
fn reads_go_on_while_another_server_takes_over() {
    let with = |replication: Replication| changed(replica(0), |up| up.replication = replication);
    let mut story = Story::new();
    story.check(0, ALL);
    story.tell("mysql-0", down());
    story.appointment.primary = Some(ServerId::new("mysql-1"));
    let taking_over = "none / mysql-2 / 2";
    story.check(1, taking_over);
    for (second, replication) in [
        (2, Replication::Paused("the applier is stopped".into())),
        (3, Replication::None),
        (4, Replication::Paused("the receiver has not reached mysql-1:3306".into())),
    ] {
        story.tell("mysql-2", with(replication));
        story.check(second, taking_over);
    }
    story.tell("mysql-2", replica(0));
    story.tell("mysql-1", primary());
    story.check(5, "mysql-1 / mysql-2 / 3");
    // One that nobody makes follow is no replica.
    let mut story = Story::new();
    story.check(0, ALL);
    story.tell("mysql-0", down());
    story.tell("mysql-2", changed(with(Replication::None), |up| up.read_only = false));
    story.check(1, "none / mysql-1 / 1");
}

#[test]
fn what_a_primary_that_is_given_up_had_is_not_waited_for() {
    let mut story = Story::new();
    story.check(0, ALL);
    story.tell("mysql-0", changed(primary(), |up| up.executed = Arc::new(executed(12))));
    story.tell("mysql-2", down());
    story.check(1, "mysql-0 / mysql-1 / 1");
    story.tell("mysql-2", replica(0));
    story.check(2, "mysql-0 / mysql-1 / 1");
    story.tell("mysql-0", down());
    story.tell("mysql-1", primary());
    story.appointment.primary = Some(ServerId::new("mysql-1"));
    story.check(3, "mysql-1 /  / 3");
    story.check(8, "mysql-1 / mysql-2 / 3");
}

#[test]
fn while_the_primary_is_down_replicas_told_to_stop_serve_on() {
    let paused =
        || changed(replica(0), |up| up.replication = Replication::Paused("it was told to stop".into()));
    let mut story = Story::new();
    story.check(0, ALL);
    story.tell("mysql-0", down());
    story.tell("mysql-1", paused());
    story.tell("mysql-2", paused());
    story.check(60, "none / mysql-1 mysql-2 / 1");
    story.tell("mysql-0", primary());
    story.check(61, "mysql-0 /  / 1");
    // One that was never seen otherwise may have been left behind by a restart of everything.
    let mut story = Story::new();
    story.tell("mysql-0", down());
    story.tell("mysql-1", paused());
    story.check(0, "none / mysql-2 / 0");
}

#[test]
fn a_named_primary_is_proven() {
    for (reason, health) in [
        ("no answer", down()),
        ("read-only", changed(primary(), |up| up.read_only = true)),
        ("another cluster (b)", changed(primary(), |up| up.cluster = Some("b".into()))),
        ("lost this cluster's data", changed(primary(), |up| up.cluster = None)),
    ] {
        let mut story = Story::new();
        story.check(0, ALL);
        story.tell("mysql-0", health);
        story.check(1, "none / mysql-1 mysql-2 / 1");
        story.check_reason(1, "mysql-0", reason);
        story.tell("mysql-0", primary());
        story.check(2, ALL);
    }
}

#[test]
fn the_cluster_that_is_known_beforehand_counts() {
    let mut story = Story::new();
    story.appointment.cluster = Some("b".into());
    story.check(0, "none /  / 1");
}

#[test]
fn the_appointment_is_above_discovery() {
    let mut story = Story::new();
    story.check(0, ALL);
    story.appointment.primary = Some(ServerId::new("mysql-1"));
    story.check(1, "none / mysql-2 / 2");
    story.check_reason(1, "mysql-1", "it is to be the primary, and is read-only");
    story.check_reason(1, "mysql-0", "it replicates nothing");
    story.tell("mysql-0", replica(0));
    story.tell("mysql-1", primary());
    story.check(2, "mysql-1 / mysql-2 / 3");
    story.check(7, "mysql-1 / mysql-0 mysql-2 / 3");
    // The record outlives the server it names; nobody takes its place.
    story.endpoints.retain(|endpoint| endpoint.id.as_str() != "mysql-1");
    story.check(8, "none / mysql-0 mysql-2 / 3");
}

#[test]
fn a_handover_leaves_no_primary_for_new_writes() {
    let mut story = Story::new();
    story.check(0, ALL);
    story.appointment.handover = true;
    story.check(1, "none / mysql-1 mysql-2 / 2");
    story.check_reason(1, "mysql-0", "a switchover is under way");
    // Open transactions go on at the old primary, so replicas are still judged by it.
    story.tell("mysql-2", changed(replica(0), |up| up.gtids = false));
    story.check(2, "none / mysql-1 / 2");
    story.tell("mysql-0", replica(0));
    story.appointment =
        Appointment { primary: Some(ServerId::new("mysql-1")), epoch: 1, ..story.appointment };
    story.check(3, "none / mysql-0 / 3");
    story.tell("mysql-1", primary());
    story.check(4, "none / mysql-0 / 4");
    story.appointment.handover = false;
    story.check(5, "mysql-1 / mysql-0 / 5");
}

#[test]
fn an_appointed_marker_is_asked_of_replicas_too() {
    let mut story = Story::new();
    story.tell("mysql-2", changed(replica(0), |up| up.cluster = None));
    story.check(0, ALL);
    story.appointment.cluster = Some(CLUSTER.into());
    story.check(1, "mysql-0 / mysql-1 / 2");
    story.check_reason(1, "mysql-2", "no marker of this cluster's data");
}

#[test]
fn a_cluster_without_marker_works_too() {
    let mut story = Story::new();
    for (name, health) in [("mysql-0", primary()), ("mysql-1", replica(0)), ("mysql-2", replica(0))] {
        story.tell(name, changed(health, |up| up.cluster = None));
    }
    story.check(0, ALL);
}

#[test]
fn the_epoch_counts_primaries() {
    let mut story = Story::new();
    story.check(0, ALL);
    story.endpoint("mysql-0").role = Role::Replica;
    story.endpoint("mysql-1").role = Role::Primary;
    story.tell("mysql-1", primary());
    story.tell("mysql-0", replica(0));
    // The old primary was never a replica, so nothing keeps it from serving at once.
    story.check(1, "mysql-1 / mysql-0 mysql-2 / 2");
    // Another server under the same name is another primary.
    story.tell("mysql-1", changed(primary(), |up| up.uuid = "other".into()));
    story.check(2, "mysql-1 / mysql-0 mysql-2 / 3");
}

#[test]
fn load_is_shared_by_snapshots() {
    let mut story = Story::new();
    let load = |topology: &Topology| Arc::clone(&topology.servers[1].load);
    let before = load(&story.merged(0).topology);
    let _in_flight = before.enter();
    assert_eq!(load(&story.merged(1).topology).in_flight(), 1);
}

#[test]
fn the_zone_to_prefer() {
    let check = |prefer: Option<Zone>, expected: Option<&str>| {
        let mut story = Story::new();
        for (name, zone) in [("mysql-0", "a"), ("mysql-1", "b"), ("mysql-2", "c")] {
            let endpoint = story.endpoint(name);
            endpoint.zone = Some(Arc::from(zone));
            endpoint.node = Some(Arc::from(format!("node-{zone}")));
        }
        story.policy.zone = prefer;
        assert_eq!(story.merged(0).topology.zone.as_deref(), expected);
    };
    check(None, None);
    check(Some(Zone::Named("b".to_owned())), Some("b"));
    check(Some(Zone::OfNode("node-c".to_owned())), Some("c"));
    check(Some(Zone::OfNode("node-z".to_owned())), None);
}
