//! A switchover of a cluster that clients write to all the while, with the controller replaced, or a server crashing, at
//! each of its steps in turn. At no moment do two servers take writes, and no transaction that was committed is lost.

mod forced;

use std::sync::Arc;
use std::time::Duration;

use super::plan::{Change, Class, Plan, Step, plan};
use super::story::{self, address, channel, gtids, id, uuid};
use super::verify::verify;
use super::world::{Seen, State};
use crate::dba::ThreadState;
use crate::model::gtid::GtidSet;
use crate::model::wishes::{Wish, Wishes};

/// What goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    None,
    /// The controller is replaced before the step is taken.
    ReplacedBefore,
    /// The step is taken, and the controller is replaced before it hears of that.
    ReplacedAfter,
    /// A server crashes before the step, and is back after so many rounds.
    Crash(u8, u32),
    /// Open transactions do not end.
    FenceFails,
    /// The primary that was cut off is there again in the next round.
    Back,
}

struct Rehearsal {
    world: super::world::World,
    hidden: [Option<Box<Seen>>; 3],
    back_in: [u32; 3],
    /// Of each server, the last transaction that it has committed for a client.
    committed: [u64; 3],
    /// Steps and changes so far.
    taken: usize,
    at: usize,
    mishap: Mishap,
    /// Who is not the primary any more because people said so, and what whoever took over had then.
    given_up: Option<(u8, GtidSet)>,
    trace: Vec<String>,
}

fn ordinal(server: &crate::model::server::ServerId) -> u8 {
    u8::try_from(server.ordinal().expect("mysql-N")).expect("a few servers")
}

impl Rehearsal {
    fn new(mishap: Mishap, at: usize) -> Self {
        let mut world = story::well();
        let wish = Wish { id: "w".into(), to: Some(id(1)), force: false };
        world.wishes = Wishes { paused: false, switchover: Some(wish) };
        Self {
            world,
            hidden: [None, None, None],
            back_in: [0; 3],
            committed: [9, 0, 0],
            taken: 0,
            at,
            mishap,
            given_up: None,
            trace: Vec::new(),
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

    fn reachable(&self, server: u8) -> bool {
        self.world.nodes[usize::from(server)].seen().is_some()
    }

    /// Clients write wherever a server lets them, but where the proxies know that it was given up.
    fn clients(&mut self) {
        let counts = |server: &u8| self.given_up.as_ref().is_none_or(|(given_up, _)| given_up != server);
        let servers: Vec<u8> = (0..3).filter(counts).collect();
        let writable: Vec<u8> =
            servers.into_iter().filter(|server| !self.real(*server).probe().read_only).collect();
        assert!(writable.len() <= 1, "{writable:?} take writes\n{}", self.trace.join("\n"));
        for server in writable.into_iter().filter(|server| self.reachable(*server)).collect::<Vec<_>>() {
            let count = &mut self.committed[usize::from(server)];
            *count += 1;
            let new = gtids(&format!("{server}:1-{count}"));
            self.real(server).survey.probe.executed.union(&new);
        }
    }

    fn replicate(&mut self, server: u8) {
        let Some(channel) = self.real(server).probe().channel.clone() else { return };
        let source = (0..3).find(|other| address(*other).host == channel.host).expect("one of ours");
        // A receiver that runs looks for its source again and again.
        let state = if self.reachable(source) { ThreadState::On } else { ThreadState::Connecting };
        if let Some(channel) = &mut self.real(server).survey.probe.channel
            && channel.receiver.state != ThreadState::Off
        {
            channel.receiver.state = state;
        }
        let Some(channel) = self.real(server).probe().channel.clone() else { return };
        if channel.receiver.state == ThreadState::On && self.reachable(source) && self.reachable(server) {
            let executed = self.real(source).probe().executed.clone();
            self.real(server).survey.probe.executed.union(&executed);
        }
    }

    fn replace_controller(&mut self) {
        self.world.busy.clear();
        self.world.resting.clear();
        self.world.errant_for.clear();
        self.world.primary_before = GtidSet::default();
        (self.world.handover_for, self.world.handover_failed) = (Duration::ZERO, None);
    }

    /// True when the step or change that comes next is to be left out.
    fn mishap_before(&mut self) -> bool {
        let now = self.taken == self.at;
        self.taken += 1;
        match self.mishap {
            Mishap::ReplacedBefore if now => {
                self.replace_controller();
                true
            }
            Mishap::Crash(server, rounds) if now => {
                let node = &mut self.world.nodes[usize::from(server)];
                let before = std::mem::replace(&mut node.state, State::Unreachable("no answer".into()));
                if let State::Seen(mut seen) = before {
                    let probe = &mut seen.survey.probe;
                    (probe.read_only, probe.super_read_only) = (true, false);
                    if let Some(channel) = &mut probe.channel {
                        (channel.receiver.state, channel.applier.running) = (ThreadState::Off, false);
                    }
                    self.hidden[usize::from(server)] = Some(seen);
                }
                self.back_in[usize::from(server)] = rounds;
                // Nothing reaches a server that is gone; the plan was made before.
                true
            }
            Mishap::Back if now => {
                self.back_in[0] = 1;
                false
            }
            _ => false,
        }
    }

    fn round(&mut self) -> Plan {
        self.clients();
        // The target lags while it counts, so that it has to be waited for.
        if self.world.record.handover.is_none() {
            self.replicate(1);
        }
        self.replicate(0);
        self.replicate(2);
        let primary = self.world.record.primary.clone().expect("there is one");
        self.world.primary_after = self.world.seen(&primary).map(|seen| seen.probe().executed.clone());
        let plan = plan(&self.world);
        let violations = verify(&self.world, &plan);
        assert!(violations.is_empty(), "{violations:?} in {plan:#?}\n{}", self.trace.join("\n"));
        // Between the look and the step, clients go on.
        self.clients();
        let mut whole = true;
        if let Some(change) = &plan.change {
            self.trace.push(format!("{change:?}"));
            if !self.mishap_before() {
                self.change(change);
                self.mishap_after();
            }
        } else {
            for step in &plan.steps {
                self.trace.push(format!("{step:?}"));
                if self.mishap_before() {
                    whole = false;
                    break;
                }
                self.step(step);
                self.clients();
                if self.mishap_after() {
                    whole = false;
                    break;
                }
            }
            self.note(&plan);
        }
        if plan.change.is_none() && self.world.record.handover.is_some() {
            self.world.handover_for += Duration::from_secs(1);
        }
        if whole {
            self.check_given_up();
        }
        for server in 0..3_usize {
            self.back_in[server] = self.back_in[server].saturating_sub(1);
            if self.back_in[server] == 0
                && let Some(seen) = self.hidden[server].take()
            {
                self.world.nodes[server].state = State::Seen(seen);
            }
        }
        self.clients();
        plan
    }

    fn mishap_after(&mut self) -> bool {
        let now = self.mishap == Mishap::ReplacedAfter && self.taken == self.at + 1;
        if now {
            self.replace_controller();
        }
        now
    }

    fn change(&mut self, change: &Change) {
        if let Change::GiveUp { from, executed, .. } = change {
            self.given_up = Some((ordinal(from), executed.clone()));
        }
        self.world.record = self.world.record.after(change);
        if matches!(change, Change::Abandon { .. }) {
            (self.world.handover_for, self.world.handover_failed) = (Duration::ZERO, None);
        }
    }

    fn step(&mut self, step: &Step) {
        let server = ordinal(step.server());
        if let Step::AwaitExecuted { .. } = step {
            self.replicate(server);
        }
        if let (Step::Fence { .. }, Mishap::FenceFails) = (step, self.mishap) {
            self.world.handover_failed = Some("transactions did not end".into());
            return;
        }
        let source_uuid = match step {
            Step::Follow { source, .. } => Some((ordinal(source), uuid(ordinal(source)))),
            _ => None,
        };
        let probe = &mut self.real(server).survey.probe;
        match step {
            Step::Fence { .. } | Step::ForbidWrites { .. } => {
                (probe.read_only, probe.super_read_only) = (true, true);
            }
            Step::AllowWrites { .. } => (probe.read_only, probe.super_read_only) = (false, false),
            Step::DropChannel { .. } => (probe.channel, probe.channels) = (None, 0),
            Step::Follow { .. } => {
                let (source, source_uuid) = source_uuid.expect("it has a source");
                (probe.read_only, probe.super_read_only) = (true, true);
                let mut new = channel();
                new.host = address(source).host;
                new.receiver.source_uuid = Arc::from(source_uuid);
                (probe.channel, probe.channels) = (Some(new), 1);
            }
            Step::Start { .. } => {
                if let Some(channel) = &mut probe.channel {
                    (channel.receiver.state, channel.applier.running) = (ThreadState::On, true);
                }
            }
            Step::StopReceiving { .. } => {
                if let Some(channel) = &mut probe.channel {
                    channel.receiver.state = ThreadState::Off;
                }
            }
            Step::AwaitExecuted { .. } => {}
            other => panic!("{other:?} has no place in a switchover"),
        }
    }

    /// What the controller notes after a round.
    fn note(&mut self, plan: &Plan) {
        let primary = self.world.record.primary.clone().expect("there is one");
        let proven = plan.verdicts.iter().any(|verdict| {
            verdict.id == primary && matches!(verdict.class, Class::Primary | Class::PrimaryFenced)
        });
        if let (true, Some(executed)) = (proven, self.world.primary_after.clone()) {
            self.world.record.watermark = executed.clone();
            self.world.record.primary_uuid = Some(Arc::from(uuid(ordinal(&primary))));
            self.world.primary_before = executed;
        }
    }

    /// Runs until all is quiet: the primary, and what the wish came to.
    fn play(mut self) -> (u8, bool, usize) {
        for _ in 0..60 {
            self.round();
        }
        let plan = self.round();
        let story = self.trace.join("\n");
        let record = &self.world.record;
        assert!(
            record.handover.is_none() && plan.steps.is_empty() && plan.change.is_none(),
            "{plan:#?}\n{story}"
        );
        let primary = ordinal(record.primary.as_ref().expect("there is one"));
        let ended = record.ended.as_ref();
        let succeeded = ended.unwrap_or_else(|| panic!("no answer: {plan:#?}\n{story}")).failure.is_none();
        for verdict in &plan.verdicts {
            let expected = if verdict.id == id(primary) { Class::Primary } else { Class::Serving };
            // A busy primary is always a transaction ahead.
            let fits = verdict.class == expected || verdict.class == Class::CatchingUp;
            assert!(fits, "{plan:#?}\n{story}");
        }
        for (server, count) in (0_u8..).zip(self.committed).filter(|(_, count)| *count > 0) {
            let committed = gtids(&format!("{server}:1-{count}"));
            assert!(
                self.real(primary).probe().executed.contains_all(&committed),
                "lost {committed}\n{story}"
            );
        }
        (primary, succeeded, self.taken)
    }
}

#[test]
fn whoever_takes_over_finishes_it() {
    let (primary, succeeded, steps) = Rehearsal::new(Mishap::None, 0).play();
    assert_eq!((primary, succeeded), (1, true));
    // Begin, fence, await, appoint, drop the channel, allow writes, end, two that follow.
    assert!(steps >= 9, "{steps} steps");
    for at in 0..steps + 2 {
        for mishap in [Mishap::ReplacedBefore, Mishap::ReplacedAfter] {
            let (primary, succeeded, _) = Rehearsal::new(mishap, at).play();
            assert_eq!((primary, succeeded), (1, true), "{mishap:?} at {at}");
        }
    }
}

#[test]
fn a_server_that_crashes_at_any_step_loses_nothing() {
    for at in 0..12 {
        for server in 0..3 {
            for rounds in [1, 3, 25] {
                let (primary, succeeded, _) = Rehearsal::new(Mishap::Crash(server, rounds), at).play();
                assert_eq!(primary == 1, succeeded, "mysql-{server} at {at}: the answer says what happened");
            }
        }
    }
}

#[test]
fn transactions_that_do_not_end_leave_all_as_it_was() {
    let (primary, succeeded, _) = Rehearsal::new(Mishap::FenceFails, 0).play();
    assert_eq!((primary, succeeded), (0, false));
}
