//! Says of each server what state it is in, and what to do next. Pure: the same world gives the same plan. A plan holds
//! the next step of each server at most; what follows is derived anew from what is then seen.

use std::sync::Arc;

pub(super) use replica::believed;
pub(crate) use step::{Change, Step};

use super::world::{LoggedIn, Node, Seen, State, World};
use crate::dba::{CloneState, ThreadState};
use crate::model::gtid::GtidSet;
use crate::model::progress::Problem;
use crate::model::server::{Endpoint, ServerId};

/// What to do, and how every server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) steps: Vec<Step>,
    /// What is to be written into the record; the steps then wait for the next plan.
    pub(crate) change: Option<Change>,
    /// What waits, or is left to people.
    pub(crate) problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) id: ServerId,
    pub(crate) class: Class,
    /// What is being done or waited for, for people.
    pub(crate) words: Arc<str>,
}

/// The state of one server; the first that fits, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Unreachable,
    /// It answers, and cannot be worked with as it is set up.
    Unmanageable,
    /// A clone into it runs, of ours or of an earlier controller's.
    Cloning,
    /// A clone into it broke off: nothing is left to lose.
    CloneBroken,
    /// It has another cluster's data.
    Foreign,
    Blank,
    /// It has data, and no marker says whose.
    Unmarked,
    /// It is to be the primary, and has lost what the cluster has.
    PrimaryLost,
    /// Another server has the same uuid.
    DuplicateUuid,
    /// It has transactions that the primary has not.
    Errant,
    /// It lacks transactions that the primary no longer has the logs of.
    BehindPurge,
    /// It does not replicate from the primary.
    Detached,
    /// Replication stopped on an error.
    Broken,
    CatchingUp,
    Serving,
    /// The primary, taking writes.
    Primary,
    /// The primary, not taking writes yet.
    PrimaryFenced,
}

impl Class {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "Unreachable",
            Self::Unmanageable => "Unmanageable",
            Self::Cloning => "Cloning",
            Self::CloneBroken => "CloneBroken",
            Self::Foreign => "Foreign",
            Self::Blank => "Blank",
            Self::Unmarked => "Unmarked",
            Self::PrimaryLost => "PrimaryLost",
            Self::DuplicateUuid => "DuplicateUuid",
            Self::Errant => "Errant",
            Self::BehindPurge => "BehindPurge",
            Self::Detached => "Detached",
            Self::Broken => "Broken",
            Self::CatchingUp => "CatchingUp",
            Self::Serving => "Serving",
            Self::Primary => "Primary",
            Self::PrimaryFenced => "PrimaryFenced",
        }
    }

    pub(crate) fn serving(self) -> bool {
        matches!(self, Self::Serving | Self::Primary)
    }

    /// It has the cluster's data, and is not the primary: it takes no writes.
    fn is_replica(self) -> bool {
        matches!(
            self,
            Self::DuplicateUuid
                | Self::Errant
                | Self::BehindPurge
                | Self::Detached
                | Self::Broken
                | Self::CatchingUp
                | Self::Serving
        )
    }

    /// Nothing is done about it here.
    fn is_for_people(self) -> bool {
        matches!(self, Self::Unmanageable | Self::Foreign | Self::Unmarked | Self::DuplicateUuid)
    }
}

pub(crate) fn plan(world: &World) -> Plan {
    let mut plan = wanted(world);
    // Half a switchover would hold writes for as long as the pause lasts.
    if world.wishes.paused && world.record.handover.is_none() {
        plan.steps.clear();
        plan.change = None;
        plan.problem("Paused", None, "the controller is paused: it looks, and changes nothing");
    }
    plan
}

fn wanted(world: &World) -> Plan {
    let mut plan = Plan::default();
    let Some(primary_id) = world.primary() else {
        plan.problem("PrimaryUnknown", None, "discovery names no primary");
        for node in &world.nodes {
            plan.verdict(node, first_glance(world, node));
        }
        return plan;
    };
    if !world.record.bootstrapped {
        first::first_start(world, primary_id, &mut plan);
        plan.steps.retain(|step| !rests(world, step));
        return plan;
    }
    let source = primary(world, primary_id, &mut plan);
    for node in world.nodes.iter().filter(|node| node.endpoint.id != *primary_id) {
        let found = replica::judge(world, node, source.as_ref());
        let (class, id) = (found.0, &node.endpoint.id);
        plan.verdict(node, found);
        if class.is_for_people() {
            plan.left_to_people(class.name(), id);
        }
    }
    match &source {
        Some(source) => replica::steps(world, source, &mut plan),
        None => keep_replicas_from(world, primary_id, &mut plan),
    }
    match (&world.record.handover, &source) {
        (Some(running), source) => handover::go_on(world, running, source.as_ref(), &mut plan),
        (None, Some(source)) => handover::begin(world, source, &mut plan),
        (None, None) => {
            if let Some(wish) = give_up::wanted(world) {
                give_up::give_up(world, primary_id, wish, &mut plan);
            }
        }
    }
    // The step that a stalled copy keeps busy is the one to be ended.
    plan.steps.retain(|step| {
        matches!(step, Step::StopCopy { .. })
            || !world.busy.contains(step.server()) && !rests(world, step) && !in_vain(world, step)
    });
    plan.verdicts.sort_by_key(|verdict| world.nodes.iter().position(|node| node.endpoint.id == verdict.id));
    for verdict in &mut plan.verdicts {
        if let Some(resting) = world.resting.get(&verdict.id)
            && !verdict.class.serving()
            && !(resting.why.is_empty() || resting.left.is_zero())
        {
            let left = resting.left.as_secs_f64().ceil();
            verdict.words = format!("{}; next try in {left} s", resting.why).into();
            if resting.attempts > 1 {
                let (id, words) = (verdict.id.clone(), format!("{}: {}", verdict.id, resting.why));
                plan.problems.push(Problem { reason: "StepFails", server: Some(id), words: words.into() });
            }
        }
    }
    plan
}

/// What is taken away needs no repair.
fn in_vain(world: &World, step: &Step) -> bool {
    let repairs = matches!(
        step,
        Step::Clone { .. }
            | Step::Follow { .. }
            | Step::Start { .. }
            | Step::StayStopped { .. }
            | Step::SetServerId { .. }
    );
    repairs && world.node(step.server()).is_some_and(|node| node.endpoint.terminating)
}

/// A step that protects data is never put off.
fn rests(world: &World, step: &Step) -> bool {
    !matches!(step, Step::ForbidWrites { .. } | Step::StopReceiving { .. })
        && world.resting.get(step.server()).is_some_and(|resting| !resting.left.is_zero())
}

impl Plan {
    fn verdict(&mut self, node: &Node, (class, words): Found) {
        self.verdicts.push(Verdict { id: node.endpoint.id.clone(), class, words });
    }

    /// `reason` is one word, and stays: people and programs look for it.
    fn problem(&mut self, reason: &'static str, server: Option<&ServerId>, words: impl Into<Arc<str>>) {
        self.problems.push(Problem { reason, server: server.cloned(), words: words.into() });
    }

    /// Says the words of a verdict as a problem too.
    fn left_to_people(&mut self, reason: &'static str, id: &ServerId) {
        let words = self.verdicts.iter().find(|verdict| verdict.id == *id).map(|verdict| &verdict.words);
        let words = words.map_or_else(|| id.to_string(), |words| format!("{id}: {words}"));
        self.problem(reason, Some(id), words);
    }

    fn class(&self, id: &ServerId) -> Option<Class> {
        self.verdicts.iter().find(|verdict| verdict.id == *id).map(|verdict| verdict.class)
    }

    fn say(&mut self, id: &ServerId, words: impl Into<Arc<str>>) {
        if let Some(verdict) = self.verdicts.iter_mut().find(|verdict| verdict.id == *id) {
            verdict.words = words.into();
        }
    }
}

type Found = (Class, Arc<str>);

/// The primary, proven: it has the cluster's data and nothing of it is missing.
struct SourceServer<'a> {
    id: &'a ServerId,
    endpoint: &'a Endpoint,
    seen: &'a Seen,
    /// What it had after all replicas had been asked.
    executed: &'a GtidSet,
}

/// What can be said of a server without a primary to compare it with.
fn first_glance(world: &World, node: &Node) -> Found {
    let seen = match &node.state {
        State::Unreachable(_) if world.busy.contains(&node.endpoint.id) => {
            return (Class::Unreachable, "starts again after it was copied to".into());
        }
        State::Unreachable(_) if node.endpoint.terminating => {
            return (Class::Unreachable, "is being taken away".into());
        }
        State::Unreachable(why) => return (Class::Unreachable, Arc::clone(why)),
        State::Refused(why) => return (Class::Unmanageable, Arc::clone(why)),
        State::Seen(seen) => seen,
    };
    if let Some(run) = &seen.survey.clone
        && run.state == CloneState::Running
    {
        let stage = if run.stage.is_empty() { "begins" } else { &*run.stage };
        let donor = world.nodes.iter().find(|other| {
            let Endpoint { name, address, .. } = &other.endpoint;
            name.to_string() == *run.source || address.to_string() == *run.source
        });
        let donor = donor.map_or(&*run.source, |donor| donor.endpoint.id.as_str());
        return (Class::Cloning, format!("copies from {donor}: {stage}").into());
    }
    let probe = seen.probe();
    match (probe.cluster.as_deref(), world.record.cluster.as_deref()) {
        _ if world.half_overwritten(node) => {
            (Class::CloneBroken, "its copy broke off, and is made again".into())
        }
        (Some(theirs), Some(ours)) if theirs != ours => (
            Class::Foreign,
            format!("it has the data of another cluster ({theirs}); nothing is done to it").into(),
        ),
        (Some(_), _) if !probe.gtid_mode => (Class::Unmanageable, first::NO_GTIDS.into()),
        (None, _) if seen.blank() && !probe.gtid_mode => (Class::Unmanageable, first::NO_GTIDS.into()),
        (None, _) if seen.blank() => (Class::Blank, "it is new and empty".into()),
        (None, _) => {
            let how = match probe.channel {
                Some(_) => "START REPLICA there",
                None => {
                    "CHANGE REPLICATION SOURCE TO the primary, with SOURCE_AUTO_POSITION = 1, and START REPLICA there"
                }
            };
            let words = format!(
                "it has data, and no marker says that it is this cluster's; nothing is done to it: if it is a copy of the \
                 primary, {how} brings it the marker; if nobody needs what it has, delete its claim and its pod, and it \
                 is copied to; if it is somebody else's, take it out of the Service"
            );
            (Class::Unmarked, words.into())
        }
        (Some(_), _) => (Class::Detached, "waits for a primary".into()),
    }
}

/// Judges the primary; gives it when it is proven, writable or not.
fn primary<'a>(world: &'a World, id: &'a ServerId, plan: &mut Plan) -> Option<SourceServer<'a>> {
    let Some(node) = world.node(id) else {
        let risk = at_risk(world, id);
        let words = format!(
            "{id} is the primary, and discovery does not know it; writes wait for it. {risk}. {GONE}"
        );
        plan.problem("PrimaryUnknown", Some(id), words);
        return None;
    };
    let State::Seen(seen) = &node.state else {
        plan.verdict(node, first_glance(world, node));
        let state = match &node.state {
            State::Refused(why) => format!("cannot be worked with ({why})"),
            _ => "does not answer".to_owned(),
        };
        let risk = at_risk(world, id);
        let words = format!(
            "{id}, the primary, {state}; writes wait for it. {risk}. What it committed after it was last asked is not known. \
             {GONE}"
        );
        plan.problem("PrimaryUnreachable", Some(id), words);
        return None;
    };
    let probe = seen.probe();
    let executed = world.primary_after.as_ref().unwrap_or(&probe.executed);
    let lost = if probe.cluster != world.record.cluster {
        Some("it has not this cluster's data".to_owned())
    } else if !executed.contains_all(&world.record.watermark) {
        let missing = world.record.watermark.subtract(executed).count();
        Some(format!("it lacks {missing} transactions that it once had"))
    } else if world.record.primary_uuid.as_ref().is_some_and(|uuid| *uuid != probe.uuid) {
        Some("it is another server than the primary was (its server_uuid differs)".to_owned())
    } else {
        None
    };
    if let Some(why) = lost {
        let words = format!("{why}; it takes no writes, and no replica follows it");
        plan.verdict(node, (Class::PrimaryLost, words.as_str().into()));
        let risk = at_risk(world, id);
        plan.problem(
            "PrimaryLost",
            Some(id),
            format!("{id}, the primary: {words}; bring its data back. {risk}. {GONE}"),
        );
        if !probe.super_read_only {
            plan.steps.push(Step::ForbidWrites { server: id.clone() });
        }
        return None;
    }
    if !probe.gtid_mode {
        // What it commits could never be told from what it lost.
        let not_yet = if probe.read_only { "; it takes no writes before that" } else { "" };
        plan.verdict(node, (Class::Unmanageable, format!("{}{not_yet}", first::NO_GTIDS).into()));
        plan.left_to_people(Class::Unmanageable.name(), id);
        return None;
    }
    replica::give_number(world, node, seen, plan);
    if seen.login == LoggedIn::Installation {
        plan.steps.push(Step::CreateAccounts { server: id.clone() });
    }
    if probe.channel.is_some() {
        plan.steps.push(Step::DropChannel { server: id.clone() });
    }
    let other_writer = world.nodes.iter().find(|node| {
        node.endpoint.id != *id
            && node.seen().is_some_and(|seen| seen.probe().cluster.is_some() && !seen.probe().read_only)
    });
    if !probe.read_only {
        plan.verdict(node, (Class::Primary, "takes writes".into()));
    } else if let Some(other) = other_writer {
        let words = format!("takes no writes before {} is read-only", other.endpoint.id);
        plan.verdict(node, (Class::PrimaryFenced, words.into()));
    } else {
        plan.verdict(node, (Class::PrimaryFenced, "came back; writes are allowed again".into()));
        plan.steps.push(Step::AllowWrites { server: id.clone() });
    }
    Some(SourceServer { id, endpoint: &node.endpoint, seen, executed })
}

const GONE: &str = "If it is gone for good, `readwright switchover --force` has another server take over";

/// What giving the primary up would cost; nothing more is done about it.
fn at_risk(world: &World, id: &ServerId) -> String {
    let mut known = world.record.watermark.clone();
    known.union(&world.primary_before);
    let ours = |node: &&Node| {
        node.endpoint.id != *id
            && node.seen().is_some_and(|seen| seen.probe().cluster == world.record.cluster)
            && !world.half_overwritten(node)
    };
    let best = world
        .nodes
        .iter()
        .filter(ours)
        .filter_map(|node| Some((node, node.seen()?)))
        .min_by_key(|(_, seen)| known.subtract(&seen.probe().executed).count());
    let Some((best, seen)) = best else {
        return "No replica with its data answers".to_owned();
    };
    let best = &best.endpoint.id;
    let missing = known.subtract(&seen.probe().executed);
    let more = match &seen.probe().channel {
        Some(channel) if !channel.receiver.applied_all => " (it has received more, and applies it)",
        _ => "",
    };
    match missing.count() {
        0 => format!("{best} has all that is known of{more}"),
        count => format!("{best} has most; at risk are {count} transactions: {missing}{more}"),
    }
}

/// What must not happen is that replicas merge the history of a primary that has lost its own. One that is lost is not
/// heard; one that is away is not looked for by replicas that have lost it too, before it has been seen what it comes back
/// as. One that only we do not reach goes on being followed. One of before that comes back meanwhile takes no writes.
fn keep_replicas_from(world: &World, primary_id: &ServerId, plan: &mut Plan) {
    let class = plan.class(primary_id);
    let mut stops = Vec::new();
    for node in world.nodes.iter().filter(|node| node.endpoint.id != *primary_id) {
        let Some(probe) = node.seen().map(Seen::probe) else { continue };
        let state = probe.channel.as_ref().map_or(ThreadState::Off, |channel| channel.receiver.state);
        let harm = match class {
            Some(Class::PrimaryLost) => state != ThreadState::Off,
            // Without a verdict: discovery does not know it.
            Some(Class::Unreachable) | None => state == ThreadState::Connecting,
            _ => false,
        };
        if harm && probe.cluster == world.record.cluster {
            stops.push(Step::StopReceiving { server: node.endpoint.id.clone() });
        }
        if plan.class(&node.endpoint.id).is_some_and(Class::is_replica) && !probe.super_read_only {
            stops.push(Step::ForbidWrites { server: node.endpoint.id.clone() });
        }
    }
    // Before anything else: every moment the threads run, they may merge what must not be merged.
    stops.append(&mut plan.steps);
    plan.steps = stops;
}

mod copy;
mod first;
mod give_up;
mod handover;
mod replica;
mod step;
#[cfg(test)]
mod tests;
