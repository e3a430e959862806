//! Says of each server what state it is in, and what to do next. Pure: the same world gives the same plan. A plan holds
//! the next step of each server at most; what follows is derived anew from what is then seen.

use std::sync::Arc;
use std::time::Duration;

pub(crate) use step::{Change, Step};

use super::world::{LoggedIn, Node, Seen, State, World};
use crate::config::Diverged;
use crate::dba::{Channel, CloneState, ThreadState};
use crate::model::gtid::GtidSet;
use crate::model::progress::Problem;
use crate::model::server::{Address, ServerId};
use crate::model::version::Version;

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
}

/// How long a replica must have been seen with transactions of its own before that is believed.
const ERRANT_AFTER: Duration = Duration::from_secs(10);

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
        first_start(world, primary_id, &mut plan);
        return plan;
    }
    let source = primary(world, primary_id, &mut plan);
    for node in world.nodes.iter().filter(|node| node.endpoint.id != *primary_id) {
        let found = judge(world, node, source.as_ref());
        plan.verdict(node, found);
    }
    match &source {
        Some(source) => replicas(world, source, &mut plan),
        None => keep_replicas_from(world, primary_id, &mut plan),
    }
    match (&world.record.handover, &source) {
        (Some(running), source) => handover::go_on(world, running, source.as_ref(), &mut plan),
        (None, Some(source)) => handover::begin(world, source, &mut plan),
        (None, None) => {}
    }
    // The step that a stalled copy keeps busy is the one to be ended.
    plan.steps.retain(|step| {
        matches!(step, Step::StopCopy { .. }) || !world.busy.contains(step.server()) && !rests(world, step)
    });
    plan.verdicts.sort_by_key(|verdict| world.nodes.iter().position(|node| node.endpoint.id == verdict.id));
    for verdict in &mut plan.verdicts {
        if let Some(resting) = world.resting.get(&verdict.id)
            && !verdict.class.serving()
            && !(resting.why.is_empty() || resting.left.is_zero())
        {
            let left = resting.left.as_secs_f64().ceil();
            verdict.words = format!("{}; next try in {left} s", resting.why).into();
        }
    }
    plan
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
    address: &'a Address,
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
        State::Unreachable(why) => return (Class::Unreachable, Arc::clone(why)),
        State::Seen(seen) => seen,
    };
    if let Some(run) = &seen.survey.clone
        && run.state == CloneState::Running
    {
        let stage = if run.stage.is_empty() { "begins" } else { &*run.stage };
        let donor = world.nodes.iter().find(|other| other.endpoint.address.to_string() == *run.source);
        let donor = donor.map_or(&*run.source, |donor| donor.endpoint.id.as_str());
        return (Class::Cloning, format!("copies from {donor}: {stage}").into());
    }
    let probe = seen.probe();
    match (probe.cluster.as_deref(), world.record.cluster.as_deref()) {
        _ if seen.half_cloned() => (Class::CloneBroken, "its copy broke off, and is made again".into()),
        (Some(theirs), Some(ours)) if theirs != ours => (
            Class::Foreign,
            format!("it has the data of another cluster ({theirs}); nothing is done to it").into(),
        ),
        (None, _) if seen.blank() => (Class::Blank, "it is new and empty".into()),
        (None, _) => (
            Class::Unmarked,
            "it has data, and no marker says that it is this cluster's; nothing is done to it".into(),
        ),
        (Some(_), _) => (Class::Detached, "waits for a primary".into()),
    }
}

/// The cluster is not known to have existed. One wrong step here makes an empty primary, so every server has to be
/// seen, and none but the primary may have anything of its own.
fn first_start(world: &World, primary_id: &ServerId, plan: &mut Plan) {
    for node in &world.nodes {
        plan.verdict(node, first_glance(world, node));
    }
    for node in &world.nodes {
        if node.seen().is_none() {
            let words = format!("the first start waits for {}: it may have the data", node.endpoint.id);
            plan.problem("FirstStartWaits", Some(&node.endpoint.id), words);
        }
    }
    if !plan.problems.is_empty() {
        return;
    }
    if world.busy.contains(primary_id) {
        plan.say(primary_id, "is being set up as the first primary");
        return;
    }
    let Some(primary) = world.seen(primary_id) else {
        let words = format!("{primary_id} is to be the primary, and is not among the servers");
        plan.problem("PrimaryUnknown", Some(primary_id), words);
        return;
    };
    if let Some(theirs) = &primary.probe().cluster {
        if world.record.cluster.as_ref().is_some_and(|ours| ours != theirs) {
            let words = format!("{primary_id} has the data of another cluster ({theirs})");
            plan.problem("ForeignData", Some(primary_id), words);
            return;
        }
        let has = world.primary_after.as_ref().unwrap_or(&primary.probe().executed);
        for node in &world.nodes {
            let ahead = node.seen().is_some_and(|seen| {
                seen.probe().cluster.as_ref() == Some(theirs) && !has.contains_all(&seen.probe().executed)
            });
            if ahead {
                let id = &node.endpoint.id;
                let words = format!("{id} has transactions that {primary_id}, the primary to be, has not");
                plan.problem("PrimaryBehind", Some(id), words);
            }
        }
        if !plan.problems.is_empty() {
            return;
        }
        plan.say(primary_id, "has a cluster's data, which is taken over");
        plan.steps.push(Step::Adopt { server: primary_id.clone(), cluster: Arc::clone(theirs) });
        return;
    }
    for node in world.nodes.iter().filter(|node| node.endpoint.id != *primary_id) {
        let Some(seen) = node.seen() else { continue };
        let follows = primary.probe().executed.contains_all(&seen.probe().executed);
        if seen.probe().cluster.is_some() || !(seen.blank() || seen.half_cloned() || follows) {
            let id = &node.endpoint.id;
            let words = format!("{id} has data that {primary_id}, the primary to be, has not");
            plan.problem("OtherData", Some(id), words);
        }
    }
    if plan.problems.is_empty() {
        let cluster = world.record.cluster.clone().unwrap_or_else(|| Arc::clone(&world.fresh_cluster));
        plan.say(primary_id, "becomes the first primary");
        plan.steps.push(Step::Initialise { server: primary_id.clone(), cluster });
    }
}

/// Judges the primary; gives it when it is proven, writable or not.
fn primary<'a>(world: &'a World, id: &'a ServerId, plan: &mut Plan) -> Option<SourceServer<'a>> {
    let Some(node) = world.node(id) else {
        let words = format!("{id} is the primary, and discovery does not know it");
        plan.problem("PrimaryUnknown", Some(id), words);
        return None;
    };
    let State::Seen(seen) = &node.state else {
        plan.verdict(node, first_glance(world, node));
        plan.problem("PrimaryUnreachable", Some(id), at_risk(world, id));
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
        plan.problem("PrimaryLost", Some(id), format!("{id}, the primary: {words}"));
        if !probe.super_read_only {
            plan.steps.push(Step::ForbidWrites { server: id.clone() });
        }
        return None;
    }
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
    Some(SourceServer { id, address: &node.endpoint.address, seen, executed })
}

/// Nothing is done about a primary that is away but to say what giving it up would cost.
fn at_risk(world: &World, id: &ServerId) -> String {
    let mut known = world.record.watermark.clone();
    known.union(&world.primary_before);
    let ours = |node: &&Node| {
        node.endpoint.id != *id
            && node.seen().is_some_and(|seen| seen.probe().cluster == world.record.cluster)
    };
    let best = world
        .nodes
        .iter()
        .filter(ours)
        .filter_map(|node| Some((node, node.seen()?)))
        .min_by_key(|(_, seen)| known.subtract(&seen.probe().executed).count());
    let Some((best, seen)) = best else {
        return format!("{id}, the primary, does not answer, and no replica with its data does");
    };
    let best = &best.endpoint.id;
    let missing = known.subtract(&seen.probe().executed);
    let more = match &seen.probe().channel {
        Some(channel) if !channel.receiver.applied_all => " (it has received more, and applies it)",
        _ => "",
    };
    let risk = match missing.count() {
        0 => format!("{best} has all that is known of{more}"),
        count => format!("{best} has most; at risk are {count} transactions: {missing}{more}"),
    };
    format!(
        "{id}, the primary, does not answer; writes wait for it. {risk}. What it committed after it was last asked is \
         not known"
    )
}

/// With a lost primary, what must not happen is that replicas merge its new history. An unreachable one is waited for.
fn keep_replicas_from(world: &World, primary_id: &ServerId, plan: &mut Plan) {
    if plan.class(primary_id) != Some(Class::PrimaryLost) {
        return;
    }
    let mut stops = Vec::new();
    for node in world.nodes.iter().filter(|node| node.endpoint.id != *primary_id) {
        let Some(seen) = node.seen() else { continue };
        let receives =
            seen.probe().channel.as_ref().is_some_and(|channel| channel.receiver.state != ThreadState::Off);
        if receives {
            stops.push(Step::StopReceiving { server: node.endpoint.id.clone() });
        }
    }
    // Before anything else: every moment the threads run, they may merge what must not be merged.
    stops.append(&mut plan.steps);
    plan.steps = stops;
}

/// Classifies a replica.
fn judge(world: &World, node: &Node, source: Option<&SourceServer<'_>>) -> Found {
    let glance = first_glance(world, node);
    if glance.0 != Class::Detached {
        return glance;
    }
    let Some(seen) = node.seen() else { return glance };
    let probe = seen.probe();
    let Some(source) = source else {
        return match &probe.channel {
            Some(channel) if channel.applier.running => {
                (Class::Serving, "has applied what it received; there is no primary to hear of".into())
            }
            _ => glance,
        };
    };
    let twin = world.nodes.iter().find(|other| {
        other.endpoint.id != node.endpoint.id
            && other.seen().is_some_and(|other| other.probe().uuid == probe.uuid)
    });
    if let Some(twin) = twin {
        let words = format!(
            "its server_uuid is that of {}: stop it, remove auto.cnf from its data folder, start it",
            twin.endpoint.id
        );
        return (Class::DuplicateUuid, words.into());
    }
    let own = probe.executed.subtract(source.executed);
    if !own.is_empty() {
        let seen_for = world.errant_for.get(&node.endpoint.id).copied().unwrap_or_default();
        let believed = if seen_for >= ERRANT_AFTER { "" } else { " (being checked)" };
        let words = format!("it has {} transactions that the primary has not: {own}{believed}", own.count());
        return (Class::Errant, words.into());
    }
    if !probe.executed.contains_all(&source.seen.probe().purged) {
        return (Class::BehindPurge, "the primary's logs no longer reach back to what it has".into());
    }
    if let Some(found) = channel_state(probe.channel.as_ref(), probe.channels, source) {
        return found;
    }
    let behind = world.primary_before.subtract(&probe.executed).count();
    if behind > 0 {
        return (Class::CatchingUp, format!("catches up: {behind} transactions to go").into());
    }
    (Class::Serving, "replicates, and is up to date".into())
}

/// What is wrong with the channel; None when it runs from the primary.
fn channel_state(channel: Option<&Channel>, channels: u32, source: &SourceServer<'_>) -> Option<Found> {
    let detached = |words: &str| Some((Class::Detached, Arc::from(words)));
    if channels > 1 {
        let words = "it has several replication channels; nothing is done to it";
        return Some((Class::Broken, words.into()));
    }
    let Some(channel) = channel else { return detached("does not replicate yet") };
    let uuid = &channel.receiver.source_uuid;
    let elsewhere = *channel.host != *source.address.host
        || channel.port != source.address.port
        || !channel.auto_position
        || !(uuid.is_empty() || *uuid == source.seen.probe().uuid);
    if elsewhere {
        // Where the primary was before it moved, or where a donor replicated from.
        let words = format!("replicates from {}:{}, not from the primary", channel.host, channel.port);
        return detached(&words);
    }
    if let Some(error) = channel.applier.error.as_ref().filter(|_| !channel.applier.running) {
        let words = format!("replication stopped, error {}: {}", error.code, error.message);
        return Some((Class::Broken, words.into()));
    }
    match (channel.receiver.state, &channel.receiver.error) {
        (ThreadState::Off | ThreadState::Connecting, Some(error)) => {
            let words = format!("cannot receive, error {}: {}", error.code, error.message);
            Some((Class::Broken, words.into()))
        }
        (ThreadState::Off, None) => detached("its replication is stopped"),
        _ if !channel.applier.running => detached("its replication is stopped"),
        (ThreadState::Connecting, None) => Some((Class::CatchingUp, "connects to the primary".into())),
        (ThreadState::On, _) => None,
    }
}

/// The next step of every replica.
fn replicas(world: &World, source: &SourceServer<'_>, plan: &mut Plan) {
    let mut copy_wanted: Vec<&Node> = Vec::new();
    let classes: Vec<(&Node, Class)> = world
        .nodes
        .iter()
        .filter(|node| node.endpoint.id != *source.id)
        .filter_map(|node| Some((node, plan.class(&node.endpoint.id)?)))
        .collect();
    for &(node, class) in &classes {
        let id = node.endpoint.id.clone();
        let follow = || Step::Follow { server: id.clone(), source: source.id.clone() };
        match class {
            Class::Blank | Class::CloneBroken | Class::BehindPurge => copy_wanted.push(node),
            Class::Errant if believed(world, &id) => {
                if world.diverged == Diverged::Reclone {
                    copy_wanted.push(node);
                } else if receives(node) {
                    plan.steps.push(Step::StopReceiving { server: id.clone() });
                }
            }
            Class::Cloning => plan.steps.extend(stalled(world, node)),
            Class::Detached => plan.steps.push(follow()),
            Class::Broken if node.seen().is_some_and(|seen| worth_a_try(world, &id, seen)) => {
                plan.steps.push(follow());
            }
            _ => {}
        }
        let ours = matches!(
            class,
            Class::DuplicateUuid
                | Class::Errant
                | Class::Detached
                | Class::Broken
                | Class::CatchingUp
                | Class::Serving
        );
        if ours && node.seen().is_some_and(|seen| !seen.probe().super_read_only) {
            plan.steps.push(Step::ForbidWrites { server: id });
        }
    }
    // One that is copied to does not answer while it starts again: that it is being worked on is what tells.
    let copying = classes
        .iter()
        .any(|(node, class)| *class == Class::Cloning || world.busy.contains(&node.endpoint.id));
    let mut begun = false;
    for node in copy_wanted {
        let id = &node.endpoint.id;
        if world.busy.contains(id) {
            plan.say(id, "its copy is complete; it starts again");
            continue;
        }
        if copying || begun {
            plan.say(id, "waits for its turn to be copied to");
            continue;
        }
        let donor = match donor(world, source, plan, node) {
            Ok(donor) => donor,
            Err(soon) => {
                plan.say(id, format!("waits for {soon}, to be copied from it"));
                continue;
            }
        };
        let recipient = node.seen().zip(world.seen(&donor));
        if let Some(why) = recipient.and_then(|(recipient, donor)| unlike(recipient, donor)) {
            plan.say(id, format!("cannot be copied from {donor}: {why}"));
            plan.problem("CloneImpossible", Some(id), format!("{id} cannot be copied from {donor}: {why}"));
            continue;
        }
        plan.say(id, format!("is copied from {donor}"));
        plan.steps.push(Step::Clone { server: id.clone(), donor });
        begun = true;
    }
}

/// A donor that hangs gives no error, and CLONE waits for it for ever.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// Only stages that copy are expected to move.
fn stalled(world: &World, node: &Node) -> Option<Step> {
    let run = node.seen()?.survey.clone.as_ref()?;
    let stalled = world.stalled_for.get(&node.endpoint.id).is_some_and(|time| *time >= STALLED_AFTER);
    let server = node.endpoint.id.clone();
    (stalled && run.stage.ends_with("COPY")).then_some(Step::StopCopy { server, process: run.process })
}

pub(super) fn believed(world: &World, id: &ServerId) -> bool {
    world.errant_for.get(id).is_some_and(|seen_for| *seen_for >= ERRANT_AFTER)
}

fn receives(node: &Node) -> bool {
    node.seen()
        .and_then(|seen| seen.probe().channel.as_ref())
        .is_some_and(|channel| channel.receiver.state != ThreadState::Off)
}

/// ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK, ER_OPTION_PREVENTS_STATEMENT: causes that pass.
const PASSING: [u32; 3] = [1205, 1213, 1290];
/// ER_ACCESS_DENIED_ERROR: our password may be newer than the channel's.
const DENIED: u32 = 1045;
/// Relay logs that cannot be read are fetched again (ER_REPLICA_RELAY_LOG_READ_FAILURE and its forms).
const RELAY_LOG: [u32; 4] = [1594, 13121, 1872, 13124];

/// Whether setting replication up anew may help. What is wrong with data is tried once, which excludes a race after a
/// crash; it is never skipped over.
fn worth_a_try(world: &World, id: &ServerId, seen: &Seen) -> bool {
    let Some(channel) = &seen.probe().channel else { return false };
    if seen.probe().channels > 1 {
        return false;
    }
    let attempts = world.resting.get(id).map_or(0, |resting| resting.attempts);
    if let Some(error) = &channel.applier.error {
        return PASSING.contains(&error.code) || RELAY_LOG.contains(&error.code) || attempts == 0;
    }
    match &channel.receiver.error {
        // While it still connects, the server itself tries again.
        Some(error) => error.code == DENIED || channel.receiver.state == ThreadState::Off,
        None => true,
    }
}

/// The nearest serving server before it in order, else another replica, else the primary: it is spared while a replica
/// is on its way to be a donor, which is the error.
fn donor(world: &World, source: &SourceServer<'_>, plan: &Plan, node: &Node) -> Result<ServerId, ServerId> {
    let before =
        |id: &ServerId| (id.ordinal(), id.clone()) < (node.endpoint.id.ordinal(), node.endpoint.id.clone());
    let replicas: Vec<&ServerId> = world
        .nodes
        .iter()
        .map(|other| &other.endpoint.id)
        .filter(|id| **id != node.endpoint.id && **id != *source.id)
        .filter(|id| plan.class(id) == Some(Class::Serving) && !world.busy.contains(*id))
        .filter(|id| world.seen(id).is_some_and(|seen| seen.probe().super_read_only))
        .collect();
    if let Some(nearest) = replicas.iter().rev().find(|id| before(id)).or(replicas.first()) {
        return Ok((*nearest).clone());
    }
    let soon = world.nodes.iter().map(|other| &other.endpoint.id).find(|id| {
        let on_its_way = matches!(plan.class(id), Some(Class::Detached | Class::CatchingUp | Class::Serving));
        let attempts = world.resting.get(*id).map_or(0, |resting| resting.attempts);
        on_its_way && attempts < PATIENCE
    });
    soon.map_or_else(|| Ok(source.id.clone()), |soon| Err(soon.clone()))
}

/// A replica that so many attempts have not brought up is waited for no longer.
const PATIENCE: u32 = 3;

/// Why CLONE would refuse, asked before anything is destroyed.
fn unlike(recipient: &Seen, donor: &Seen) -> Option<String> {
    let (theirs, ours) = (donor.probe().version, recipient.probe().version);
    // Within 8.0, patches before 8.0.37 clone only from their own kind.
    let strict = theirs.same_series(Version::mysql(8, 0, 0)) && theirs.patch.min(ours.patch) < 37;
    if !theirs.same_series(ours) || (strict && theirs != ours) {
        return Some(format!("it runs {ours}, the other {theirs}"));
    }
    if recipient.survey.layout != donor.survey.layout {
        let (ours, theirs) = (&recipient.survey.layout, &donor.survey.layout);
        return Some(format!("settings differ ({ours}; there {theirs})"));
    }
    let missing: Vec<&str> = donor
        .survey
        .plugins
        .iter()
        .filter(|plugin| !recipient.survey.plugins.contains(plugin) && !plugin.ends_with("(CLONE)"))
        .map(|plugin| &**plugin)
        .collect();
    (!missing.is_empty()).then(|| format!("it lacks plugins: {}", missing.join(", ")))
}

mod handover;
mod step;
#[cfg(test)]
mod tests;
