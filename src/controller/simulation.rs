//! The planner against a cluster that things happen to: servers crash, disks are lost, clones break off, and the
//! controller itself is replaced at any moment. Whatever the order, no plan breaks a rule, nothing that was committed is
//! lost, and in the end every server serves.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::plan::{Class, Plan, Step, plan};
use super::story::{self, channel, clone_run, gtids, id};
use super::verify::verify;
use super::world::{LoggedIn, Record, Resting, Seen, State, World};
use crate::dba::{CloneRun, CloneState, ThreadState};
use crate::model::gtid::GtidSet;

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
}

struct Cluster {
    world: World,
    /// What servers are behind a crash.
    hidden: [Option<Box<Seen>>; 3],
    /// Who copies from whom.
    copying: Option<(u8, u8)>,
    /// The highest transaction that a client was told is committed.
    committed: u64,
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
            committed: 0,
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

    fn happen(&mut self, event: Event) {
        match event {
            Event::Write => {
                if let Some(primary) = self.seen(0)
                    && primary.probe().cluster.is_some()
                    && !primary.probe().read_only
                {
                    self.commit();
                }
            }
            Event::Crash(server) => {
                let at = usize::from(server);
                let node = &mut self.world.nodes[at];
                let before = std::mem::replace(&mut node.state, State::Unreachable("no answer".into()));
                if let State::Seen(mut seen) = before {
                    restart(&mut seen);
                    self.hidden[at] = Some(seen);
                }
                if let Some((recipient, donor)) = self.copying
                    && (recipient == server || donor == server)
                {
                    self.break_copy(recipient);
                }
            }
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

    fn commit(&mut self) {
        self.committed += 1;
        let text = format!("0:1-{}", self.committed);
        self.real(0).survey.probe.executed = gtids(&text);
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
        (1..3).for_each(|server| self.replicate(server));
        self.world.primary_after = self.seen(0).map(|primary| primary.probe().executed.clone());
        let plan = plan(&self.world);
        let violations = verify(&self.world, &plan);
        assert!(violations.is_empty(), "{violations:?} in {plan:#?}");
        for step in &plan.steps {
            self.carry_out(step);
        }
        self.note(&plan);
        self.check();
        plan
    }

    fn carry_out(&mut self, step: &Step) {
        let server = u8::try_from(step.server().ordinal().expect("mysql-N")).expect("a few servers");
        match step {
            Step::Initialise { cluster, .. } => {
                let (cluster, own) = (Arc::clone(cluster), server);
                let seen = self.seen(server).expect("verified");
                let probe = &mut seen.survey.probe;
                (probe.read_only, probe.super_read_only) = (false, false);
                probe.cluster = Some(Arc::clone(&cluster));
                seen.survey.user_schemas = 1;
                seen.login = LoggedIn::Ours;
                self.committed = 3;
                self.commit();
                self.world.record = Record {
                    cluster: Some(cluster),
                    bootstrapped: true,
                    primary: Some(id(own)),
                    ..Record::default()
                };
            }
            Step::Adopt { cluster, .. } => {
                self.world.record.cluster = Some(Arc::clone(cluster));
                self.world.record.primary = Some(id(server));
                self.world.record.bootstrapped = true;
            }
            Step::CreateAccounts { .. } => self.real(server).login = LoggedIn::Ours,
            Step::AllowWrites { .. } => {
                let probe = &mut self.real(server).survey.probe;
                (probe.read_only, probe.super_read_only) = (false, false);
            }
            Step::ForbidWrites { .. } => {
                let probe = &mut self.real(server).survey.probe;
                (probe.read_only, probe.super_read_only) = (true, true);
            }
            Step::Clone { donor, .. } => {
                assert_eq!(self.copying, None, "one copy at a time");
                let donor = u8::try_from(donor.ordinal().expect("mysql-N")).expect("a few servers");
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
                let source = u8::try_from(source.ordinal().expect("mysql-N")).expect("a few servers");
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
            Step::Fence { .. } | Step::AwaitExecuted { .. } => panic!("nobody wants a switchover here"),
            Step::DropChannel { .. } => {
                let probe = &mut self.real(server).survey.probe;
                (probe.channel, probe.channels) = (None, 0);
            }
        }
    }

    /// What the controller notes after a round.
    fn note(&mut self, plan: &Plan) {
        let proven = plan.verdicts.iter().any(|verdict| {
            verdict.id == id(0) && matches!(verdict.class, Class::Primary | Class::PrimaryFenced)
        });
        if let (true, Some(executed)) = (proven, self.world.primary_after.clone()) {
            self.world.record.primary_uuid = Some(Arc::clone(&self.real(0).survey.probe.uuid));
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

    fn check(&mut self) {
        for server in 0..3 {
            let replicates = self.seen(server).is_some_and(|seen| {
                seen.probe().channel.as_ref().is_some_and(|channel| channel.receiver.state == ThreadState::On)
            });
            assert!(
                !(self.partial[usize::from(server)] && replicates),
                "{server} has a part of the tables only"
            );
        }
        if self.world.record.bootstrapped {
            let committed = gtids(&format!("0:1-{}", self.committed));
            assert!(
                self.real(0).probe().executed.contains_all(&committed),
                "the primary keeps what was committed"
            );
        }
    }
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
    let replica = 1..3_u8;
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
    ]
}

/// Nothing more happens but that servers come back and copies end well.
fn settle(cluster: &mut Cluster) -> Plan {
    let mut last = Plan::default();
    for _ in 0..40 {
        (0..3).for_each(|server| cluster.happen(Event::Back(server)));
        cluster.happen(Event::CopyDone);
        last = cluster.round();
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
        prop_assert_eq!(classes, [Class::Primary, Class::Serving, Class::Serving], "{:#?}", plan);
        prop_assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    }
}
