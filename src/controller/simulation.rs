//! The planner against a cluster that things happen to: servers crash, disks are lost, clones break off, people give the
//! primary up, and the controller itself is replaced at any moment. Whatever the order, no plan breaks a rule, nothing that
//! was committed is lost but what only a primary had that was given up, and in the end every server serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::plan::{Change, Class, Plan, Step, plan};
use super::story::{self, channel, clone_run, id};
use super::verify::verify;
use super::world::{LoggedIn, Record, Resting, Seen, State, World};
use crate::dba::{CloneRun, CloneState, ThreadState};
use crate::model::gtid::GtidSet;
use crate::model::server::ServerId;
use crate::model::wishes::Wish;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The primary commits, if it takes writes.
    Write,
    Crash(u8),
    Back(u8),
    /// A replica's disk is replaced by an empty one.
    LoseDisk(u8),
    /// What runs on servers goes on, or dies with them; the controller remembers nothing but the record.
    ReplaceController,
    /// A clone that runs ends well.
    CopyDone,
    /// A clone that runs breaks off.
    CopyBroken,
    /// A server is killed while CLONE still drops what was there: it comes back with its GTIDs and a part of its tables.
    KilledWhileDropping(u8),
    StopReplica(u8),
    OpenByHand(u8),
    /// A server's binary logs are gone.
    Purge(u8),
    /// The primary is cut off, and commits so many transactions that nobody else gets.
    CutOff(u8),
    /// People want another primary, whatever is lost with this one; a certain one, or any.
    Force(Option<u8>),
}

struct Cluster {
    world: World,
    /// What servers are behind a crash.
    hidden: [Option<Box<Seen>>; 3],
    /// Who copies from whom.
    copying: Option<(u8, u8)>,
    /// What clients were told is committed, but what only a primary had that was given up.
    committed: GtidSet,
    /// By the uuid of a server, the number of its last transaction.
    numbers: BTreeMap<Arc<str>, u64>,
    /// Who was given up and has not joined the cluster again, and what it alone had then.
    given_up: Option<(u8, GtidSet)>,
    wishes: u32,
    disks: u8,
    /// Servers with a part of their tables only.
    partial: [bool; 3],
    /// Copies begun so far; each has its own time.
    copies: u32,
    /// What the recipient was before its copy began.
    before: Option<Box<Seen>>,
}

impl Cluster {
    fn new() -> Self {
        let mut world = story::new();
        world.primary_after = None;
        Self {
            world,
            hidden: [None, None, None],
            copying: None,
            committed: GtidSet::default(),
            numbers: BTreeMap::new(),
            given_up: None,
            wishes: 0,
            disks: 3,
            partial: [false; 3],
            copies: 0,
            before: None,
        }
    }

    fn seen(&mut self, server: u8) -> Option<&mut Seen> {
        match &mut self.world.nodes[usize::from(server)].state {
            State::Seen(seen) => Some(seen),
            _ => None,
        }
    }

    /// The server's own state, whether it can be reached or not.
    fn real(&mut self, server: u8) -> &mut Seen {
        let at = usize::from(server);
        match (&mut self.world.nodes[at].state, &mut self.hidden[at]) {
            (State::Seen(seen), _) => seen,
            (_, Some(hidden)) => hidden,
            (_, None) => panic!("an unreachable server has a state"),
        }
    }

    fn primary(&self) -> u8 {
        self.world.primary().map_or(0, ordinal)
    }

    /// Nobody reaches the server any more.
    fn hide(&mut self, server: u8) {
        let node = &mut self.world.nodes[usize::from(server)];
        let before = std::mem::replace(&mut node.state, State::Unreachable("no answer".into()));
        if let State::Seen(seen) = before {
            self.hidden[usize::from(server)] = Some(seen);
        }
        if let Some((recipient, donor)) = self.copying
            && (recipient == server || donor == server)
        {
            self.break_copy(recipient);
        }
    }

    fn happen(&mut self, event: Event) {
        let primary = self.primary();
        match event {
            Event::Write => {
                if let Some(primary) = self.seen(primary)
                    && primary.probe().cluster.is_some()
                    && !primary.probe().read_only
                {
                    self.commit();
                }
            }
            Event::Crash(server) => {
                if self.seen(server).map(restart).is_some() {
                    self.hide(server);
                }
            }
            Event::CutOff(commits) => {
                if self.world.record.bootstrapped && self.seen(primary).is_some() {
                    self.hide(primary);
                    if !self.real(primary).probe().read_only {
                        (0..commits).for_each(|_| self.commit());
                    }
                }
            }
            Event::Force(to) => {
                self.wishes += 1;
                let wish = Wish { id: Arc::from(self.wishes.to_string()), to: to.map(id), force: true };
                self.world.wishes.switchover = Some(wish);
            }
            // What the primary has lost is another story.
            Event::LoseDisk(server) | Event::OpenByHand(server) if server == primary => {}
            Event::Back(server) => {
                let at = usize::from(server);
                if let Some(seen) = self.hidden[at].take() {
                    self.world.nodes[at].state = State::Seen(seen);
                }
            }
            Event::LoseDisk(server) => {
                self.disks += 1;
                let uuid =
                    Arc::from(format!("{:08}-0000-0000-0000-000000000000", u32::from(self.disks) + 90));
                if let Some((recipient, donor)) = self.copying
                    && (recipient == server || donor == server)
                {
                    self.break_copy(recipient);
                }
                let seen = self.real(server);
                empty(seen);
                seen.survey.probe.uuid = uuid;
                seen.survey.clone = None;
                self.partial[usize::from(server)] = false;
                let seen = self.real(server);
                seen.login = LoggedIn::Installation;
            }
            Event::ReplaceController => {
                self.world.busy.clear();
                self.world.resting.clear();
                self.world.errant_for.clear();
                self.world.primary_before = GtidSet::default();
            }
            Event::CopyDone => {
                if let Some((recipient, donor)) = self.copying.take() {
                    self.world.busy.remove(&id(recipient));
                    self.partial[usize::from(recipient)] = false;
                    let donor = self.real(donor).clone();
                    let seen = self.real(recipient);
                    let mut run = seen.survey.clone.take().expect("it is being copied to");
                    let (uuid, number) = (Arc::clone(&seen.survey.probe.uuid), seen.survey.probe.server_id);
                    *seen = donor;
                    (seen.survey.probe.uuid, seen.survey.probe.server_id) = (uuid, number);
                    // Its logs begin with the copy.
                    seen.survey.probe.purged = seen.survey.probe.executed.clone();
                    run.state = CloneState::Completed;
                    seen.survey.clone = Some(run);
                    restart(seen);
                }
            }
            Event::KilledWhileDropping(server) => {
                if let Some((recipient, _)) = self.copying
                    && recipient == server
                    && let Some(before) = self.before.take()
                {
                    self.copying = None;
                    self.world.busy.remove(&id(recipient));
                    *self.real(recipient) = *before;
                    restart(self.real(recipient));
                    self.partial[usize::from(recipient)] = true;
                }
            }
            Event::Purge(server) => {
                let probe = &mut self.real(server).survey.probe;
                probe.purged = probe.executed.clone();
            }
            Event::CopyBroken => {
                if let Some((recipient, _)) = self.copying {
                    self.break_copy(recipient);
                }
            }
            Event::StopReplica(server) => {
                if let Some(channel) = self.seen(server).and_then(|seen| seen.survey.probe.channel.as_mut()) {
                    channel.receiver.state = ThreadState::Off;
                }
            }
            Event::OpenByHand(server) => {
                if let Some(seen) = self.seen(server) {
                    (seen.survey.probe.read_only, seen.survey.probe.super_read_only) = (false, false);
                }
            }
        }
    }

    /// The primary commits one more.
    fn commit(&mut self) {
        let primary = self.primary();
        let uuid = Arc::clone(&self.real(primary).survey.probe.uuid);
        let number = self.numbers.entry(Arc::clone(&uuid)).or_default();
        *number += 1;
        let one = GtidSet::parse(&format!("{uuid}:{number}")).expect("a GTID set");
        self.real(primary).survey.probe.executed.union(&one);
        self.committed.union(&one);
    }

    fn break_copy(&mut self, recipient: u8) {
        self.copying = None;
        self.world.busy.remove(&id(recipient));
        if let Some(run) =
            self.real(recipient).survey.clone.as_mut().filter(|run| run.state == CloneState::Running)
        {
            run.state = CloneState::Dead;
        }
    }

    /// Who a replica replicates from, if anybody.
    fn source_of(&mut self, server: u8) -> Option<u8> {
        let channel = self.real(server).probe().channel.clone()?;
        (0..3).find(|other| story::address(*other).host == channel.host)
    }

    fn replicate(&mut self, server: u8) {
        let Some(source) = self.source_of(server) else { return };
        let giver = self.seen(source).map(|giver| giver.probe().clone());
        let Some(seen) = self.seen(server) else { return };
        let executed = seen.probe().executed.clone();
        let Some(channel) = &mut seen.survey.probe.channel else { return };
        if channel.receiver.state == ThreadState::Off {
            return;
        }
        let Some(giver) = giver else {
            channel.receiver.state = ThreadState::Connecting;
            return;
        };
        // The source asks only whether its logs reach back; whose history it gives is nothing to it.
        if executed.contains_all(&giver.purged) {
            (channel.receiver.state, channel.receiver.error) = (ThreadState::On, None);
            channel.receiver.source_uuid = giver.uuid;
            seen.survey.probe.executed.union(&giver.executed);
        } else {
            (channel.receiver.state, channel.receiver.error) = (ThreadState::Off, story::error(13114));
        }
    }

    /// One look, one plan, its steps; replicas that replicate get what the primary has.
    fn round(&mut self) -> Plan {
        (0..3).for_each(|server| self.replicate(server));
        let primary = self.primary();
        self.world.primary_after = self.seen(primary).map(|primary| primary.probe().executed.clone());
        let plan = plan(&self.world);
        let violations = verify(&self.world, &plan);
        assert!(violations.is_empty(), "{violations:?} in {plan:#?}");
        match &plan.change {
            Some(change) => self.change(change),
            None => {
                plan.steps.iter().for_each(|step| self.carry_out(step));
                self.note(&plan);
            }
        }
        self.check(&plan);
        plan
    }

    fn change(&mut self, change: &Change) {
        if let Change::GiveUp { from, executed, .. } = change {
            // Whoever was given up before and is still away has nothing of this one.
            let old = ordinal(from);
            let alone = self.real(old).probe().executed.subtract(executed);
            self.given_up = Some((old, alone));
            self.committed.clone_from(executed);
        }
        self.world.record = self.world.record.after(change);
    }

    fn carry_out(&mut self, step: &Step) {
        let server = ordinal(step.server());
        match step {
            Step::Initialise { cluster, .. } => {
                let (cluster, own) = (Arc::clone(cluster), server);
                let seen = self.seen(server).expect("verified");
                let probe = &mut seen.survey.probe;
                (probe.read_only, probe.super_read_only) = (false, false);
                probe.cluster = Some(Arc::clone(&cluster));
                seen.survey.user_schemas = 1;
                seen.login = LoggedIn::Ours;
                // What its installation wrote.
                self.numbers.insert(Arc::from(story::uuid(own)), 3);
                self.world.record = Record {
                    cluster: Some(cluster),
                    bootstrapped: true,
                    primary: Some(id(own)),
                    ..Record::default()
                };
                self.commit();
            }
            Step::Adopt { cluster, .. } => {
                self.world.record.cluster = Some(Arc::clone(cluster));
                self.world.record.primary = Some(id(server));
                self.world.record.bootstrapped = true;
            }
            Step::CreateAccounts { .. } => self.real(server).login = LoggedIn::Ours,
            Step::AllowWrites { .. } => {
                let others = (0..3).filter(|other| *other != server);
                let opened = others.filter(|other| self.seen(*other).is_some_and(|seen| takes_writes(seen)));
                assert_eq!(opened.count(), 0, "two take writes");
                let probe = &mut self.real(server).survey.probe;
                (probe.read_only, probe.super_read_only) = (false, false);
            }
            Step::ForbidWrites { .. } => {
                let probe = &mut self.real(server).survey.probe;
                (probe.read_only, probe.super_read_only) = (true, true);
            }
            Step::Clone { donor, .. } => {
                assert_eq!(self.copying, None, "one copy at a time");
                let donor = ordinal(donor);
                assert!(!self.partial[usize::from(donor)], "{donor} has a part of the tables only");
                story::overwriting(&mut self.world, server);
                self.copies += 1;
                let began = Arc::from(self.copies.to_string());
                let seen = self.real(server);
                let before = Some(Box::new(seen.clone()));
                empty(seen);
                seen.survey.clone = Some(CloneRun { began, ..clone_run(CloneState::Running) });
                self.before = before;
                self.copying = Some((server, donor));
                self.world.busy.insert(id(server));
            }
            Step::StopCopy { .. } => self.break_copy(server),
            Step::Follow { source, .. } => {
                let source = ordinal(source);
                let probe = &mut self.real(server).survey.probe;
                (probe.read_only, probe.super_read_only) = (true, true);
                let mut new = channel();
                new.host = story::address(source).host;
                new.receiver.source_uuid = "".into();
                (probe.channel, probe.channels) = (Some(new), 1);
            }
            Step::Start { .. } => {
                let probe = &mut self.real(server).survey.probe;
                (probe.read_only, probe.super_read_only) = (true, true);
                let channel = probe.channel.as_mut().expect("verified");
                (channel.receiver.state, channel.applier.running) = (ThreadState::On, true);
                channel.receiver.error = None;
            }
            Step::StayStopped { .. } => self.real(server).survey.starts_by_itself = false,
            Step::SetServerId { number, .. } => self.real(server).survey.probe.server_id = *number,
            Step::StopReceiving { .. } => {
                if let Some(channel) = &mut self.real(server).survey.probe.channel {
                    channel.receiver.state = ThreadState::Off;
                }
            }
            Step::Fence { .. } => {
                let probe = &mut self.real(server).survey.probe;
                (probe.read_only, probe.super_read_only) = (true, true);
            }
            Step::AwaitExecuted { .. } => self.replicate(server),
            Step::DropChannel { .. } => {
                let probe = &mut self.real(server).survey.probe;
                (probe.channel, probe.channels) = (None, 0);
            }
        }
    }

    /// What the controller notes after a round.
    fn note(&mut self, plan: &Plan) {
        let primary = self.primary();
        let errant = plan.verdicts.iter().filter(|verdict| verdict.class == Class::Errant);
        self.world.errant_for = errant.map(|verdict| (verdict.id.clone(), Duration::from_secs(10))).collect();
        if let (true, Some(executed)) = (is_led(plan, primary), self.world.primary_after.clone()) {
            self.world.record.primary_uuid = Some(Arc::clone(&self.real(primary).survey.probe.uuid));
            self.world.record.watermark = executed.clone();
            let world = &self.world;
            let done: Vec<_> = world
                .nodes
                .iter()
                .filter(|node| node.seen().is_some() && !world.half_overwritten(node))
                .map(|node| node.endpoint.id.clone())
                .collect();
            self.world.record.overwriting.retain(|id, _| !done.contains(id));
            self.world.primary_before = executed;
        }
        self.world.resting.retain(|_, resting: &mut Resting| {
            resting.left = resting.left.saturating_sub(Duration::from_secs(1));
            !resting.left.is_zero()
        });
    }

    fn check(&mut self, plan: &Plan) {
        for server in 0..3 {
            let replicates = self.seen(server).is_some_and(|seen| {
                seen.probe().channel.as_ref().is_some_and(|channel| channel.receiver.state == ThreadState::On)
            });
            assert!(
                !(self.partial[usize::from(server)] && replicates),
                "{server} has a part of the tables only"
            );
        }
        let primary = self.primary();
        if self.world.record.bootstrapped {
            let executed = self.real(primary).probe().executed.clone();
            assert!(executed.contains_all(&self.committed), "{executed} lacks some of {}", self.committed);
        }
        let Some((given_up, alone)) = self.given_up.clone() else { return };
        let joined = |verdict: &super::plan::Verdict| verdict.id == id(given_up) && verdict.class.serving();
        if given_up == primary || plan.verdicts.iter().any(joined) {
            self.given_up = None;
            return;
        }
        for server in (0..3).filter(|server| *server != given_up) {
            let mut others = self.real(server).probe().executed.clone();
            let has = others.clone();
            others = others.subtract(&alone);
            assert_eq!(others, has, "mysql-{server} has got what only mysql-{given_up} had");
            let follows = self.source_of(server) == Some(given_up)
                && self.seen(server).is_some_and(|seen| {
                    seen.probe().channel.as_ref().is_some_and(|one| one.receiver.state != ThreadState::Off)
                });
            assert!(!follows, "mysql-{server} follows mysql-{given_up}, which was given up");
        }
        if plan.change.is_none() && is_led(plan, primary) {
            let opened = self.seen(given_up).is_some_and(|seen| takes_writes(seen));
            assert!(!opened, "mysql-{given_up} takes writes, and was given up");
        }
    }
}

fn ordinal(server: &ServerId) -> u8 {
    u8::try_from(server.ordinal().expect("mysql-N")).expect("a few servers")
}

/// With this cluster's data: nobody asks an empty server.
fn takes_writes(seen: &Seen) -> bool {
    !seen.probe().read_only && seen.probe().cluster.is_some()
}

/// The primary is proven.
fn is_led(plan: &Plan, primary: u8) -> bool {
    plan.verdicts.iter().any(|verdict| {
        verdict.id == id(primary) && matches!(verdict.class, Class::Primary | Class::PrimaryFenced)
    })
}

/// As a crash or a copy leaves it: read-only by its option file, replication not started.
fn restart(seen: &mut Seen) {
    let probe = &mut seen.survey.probe;
    (probe.read_only, probe.super_read_only) = (true, false);
    if let Some(channel) = &mut probe.channel {
        channel.receiver.state = ThreadState::Off;
        channel.applier.running = false;
    }
}

fn empty(seen: &mut Seen) {
    seen.survey.user_schemas = 0;
    let probe = &mut seen.survey.probe;
    (probe.read_only, probe.super_read_only) = (true, false);
    (probe.channel, probe.channels, probe.cluster) = (None, 0, None);
    (probe.executed, probe.purged) = (GtidSet::default(), GtidSet::default());
}

fn event() -> impl Strategy<Value = Event> {
    let any = 0..3_u8;
    let replica = 0..3_u8;
    prop_oneof![
        4 => Just(Event::Write),
        2 => any.clone().prop_map(Event::Crash),
        4 => any.prop_map(Event::Back),
        1 => replica.clone().prop_map(Event::LoseDisk),
        2 => Just(Event::ReplaceController),
        4 => Just(Event::CopyDone),
        2 => Just(Event::CopyBroken),
        2 => replica.clone().prop_map(Event::KilledWhileDropping),
        1 => replica.clone().prop_map(Event::StopReplica),
        1 => replica.prop_map(Event::OpenByHand),
        2 => (0..3_u8).prop_map(Event::Purge),
        2 => (0..3_u8).prop_map(Event::CutOff),
        2 => prop::option::of(0..3_u8).prop_map(Event::Force),
    ]
}

/// Nothing more happens but that servers come back, copies end well, and people give up what only one of them has.
fn settle(cluster: &mut Cluster) -> Plan {
    let mut last = Plan::default();
    for _ in 0..60 {
        (0..3).for_each(|server| cluster.happen(Event::Back(server)));
        cluster.happen(Event::CopyDone);
        last = cluster.round();
        for verdict in last.verdicts.iter().filter(|verdict| verdict.class == Class::Errant) {
            cluster.happen(Event::LoseDisk(ordinal(&verdict.id)));
        }
    }
    last
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_all_serve_in_the_end(events in prop::collection::vec((event(), 0..3_u8), 0..60)) {
        let mut cluster = Cluster::new();
        for (event, rounds) in events {
            cluster.happen(event);
            for _ in 0..rounds {
                cluster.round();
            }
        }
        let plan = settle(&mut cluster);
        let classes: Vec<Class> = plan.verdicts.iter().map(|verdict| verdict.class).collect();
        let mut expected = [Class::Serving; 3];
        expected[usize::from(cluster.primary())] = Class::Primary;
        prop_assert_eq!(classes, expected, "{:#?}", plan);
        prop_assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    }
}
