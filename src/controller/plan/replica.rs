//! What is wrong with a replica, and the next step that helps. Errors of threads never lead to a copy by themselves: it is
//! the sets of transactions that say what a server lacks, and the policy what is done with one whose data differs.

use std::sync::Arc;
use std::time::Duration;

use super::{Class, Found, Plan, SourceServer, Step, copy, first_glance};
use crate::config::Diverged;
use crate::controller::world::{Node, Seen, World};
use crate::dba::{Channel, CloneState, ThreadState};
use crate::model::server::{Endpoint, ServerId};

/// How long a replica must have been seen with transactions of its own before that is believed.
const ERRANT_AFTER: Duration = Duration::from_secs(10);

/// Classifies a replica.
pub(super) fn judge(world: &World, node: &Node, source: Option<&SourceServer<'_>>) -> Found {
    let glance = first_glance(world, node);
    let Some(seen) = node.seen() else { return glance };
    let probe = seen.probe();
    if !matches!(glance.0, Class::Blank | Class::CloneBroken | Class::Detached) {
        return glance;
    }
    // A copy would not cure that: the recipient keeps its own.
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
    if glance.0 != Class::Detached {
        return glance;
    }
    let Some(source) = source else {
        return match &probe.channel {
            Some(channel) if channel.applier.running => {
                (Class::Serving, "has applied what it received; there is no primary to hear of".into())
            }
            _ => glance,
        };
    };
    let own = probe.executed.subtract(source.executed);
    if !own.is_empty() {
        let next = match (believed(world, &node.endpoint.id), world.diverged) {
            (false, _) => "this is looked at again before it is believed",
            (true, Diverged::Reclone) => "it is to be copied anew",
            (true, Diverged::Hold) => {
                "nothing is done to it; commit empty transactions with these GTIDs on the primary if they do no harm, or \
                 have it copied anew with controller.diverged: reclone"
            }
        };
        let words = format!("it has {} transactions that the primary has not: {own}; {next}", own.count());
        return (Class::Errant, words.into());
    }
    if !probe.executed.contains_all(&source.seen.probe().purged) {
        return (Class::BehindPurge, "the primary's logs no longer reach back to what it has".into());
    }
    if !seen.survey.filters.is_empty() {
        let words = format!(
            "it leaves out a part of what it receives ({}); remove that option, then its volume, so that it is copied anew",
            seen.survey.filters
        );
        return (Class::Broken, words.into());
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
        let words =
            "it has several replication channels; nothing is done to it: remove those that are not needed";
        return Some((Class::Broken, words.into()));
    }
    let Some(channel) = channel else { return detached("does not replicate yet") };
    if elsewhere(channel, source.endpoint, &source.seen.probe().uuid) {
        // Where the primary was before it moved, or where a donor replicated from.
        let words = format!("replicates from {}:{}, not from the primary", channel.host, channel.port);
        return detached(&words);
    }
    if let Some(error) = channel.applier.error.as_ref().filter(|_| !channel.applier.running) {
        let remedy = match error.code {
            code if DISK.contains(&code) => "; its disk is full: enlarge its volume",
            code if DATA.contains(&code) => "; its data is not what the primary's was",
            _ => "",
        };
        let words = format!("replication stopped, error {}: {}{remedy}", error.code, error.message);
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

/// The channel is not to this server, or not by GTIDs.
fn elsewhere(channel: &Channel, source: &Endpoint, uuid: &str) -> bool {
    let is_at = |host: &str, port: u16| *channel.host == *host && channel.port == port;
    let there =
        is_at(&source.name.host, source.name.port) || is_at(&source.address.host, source.address.port);
    let same = channel.receiver.source_uuid.is_empty() || *channel.receiver.source_uuid == *uuid;
    !(there && same && channel.auto_position)
}

/// ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK, ER_OPTION_PREVENTS_STATEMENT: causes that pass.
const PASSING: [u32; 3] = [1205, 1213, 1290];
/// EE_WRITE, ER_DISK_FULL, ER_ERROR_ON_WRITE, ER_RECORD_FILE_FULL.
const DISK: [u32; 4] = [3, 1021, 1026, 1114];
/// Relay logs that cannot be read, or are gone: they are fetched again. ER_REPLICA_RELAY_LOG_READ_FAILURE and its forms;
/// ER_RPL_.. 13117 is how a missing file shows in an applier.
const RELAY_LOG: [u32; 5] = [1594, 1872, 13117, 13121, 13124];
/// Transactions that fit the primary's data and not the replica's: databases, tables, rows and accounts that are there, or
/// are not. <https://dev.mysql.com/doc/mysql-errors/9.7/en/server-error-reference.html>
const DATA: [u32; 13] = [1007, 1008, 1032, 1050, 1051, 1054, 1060, 1062, 1146, 1396, 1451, 1452, 3891];
/// What helps a replica that is detached or broken.
#[derive(Debug)]
enum Cure {
    Follow,
    Start,
    Copy,
    /// It goes on by itself.
    Wait,
    /// Nothing is done. With one word for why.
    People(&'static str),
}

fn cure(world: &World, id: &ServerId, seen: &Seen, source: &SourceServer<'_>) -> Cure {
    let probe = seen.probe();
    if !seen.survey.filters.is_empty() {
        return Cure::People("ReplicationFiltered");
    }
    if probe.channels > 1 {
        return Cure::People("SeveralChannels");
    }
    let Some(channel) = &probe.channel else { return Cure::Follow };
    if elsewhere(channel, source.endpoint, &source.seen.probe().uuid) {
        return Cure::Follow;
    }
    let attempts = world.resting.get(id).map_or(0, |resting| resting.attempts);
    if let Some(error) = channel.applier.error.as_ref().filter(|_| !channel.applier.running) {
        return match error.code {
            code if PASSING.contains(&code) || DISK.contains(&code) => Cure::Start,
            code if RELAY_LOG.contains(&code) => Cure::Follow,
            // Excludes a race after a crash. Nothing is ever skipped over.
            _ if attempts == 0 => Cure::Start,
            code if !DATA.contains(&code) => Cure::People("ApplierStopped"),
            _ if world.diverged == Diverged::Reclone => Cure::Copy,
            _ => Cure::People("DataDiffers"),
        };
    }
    match (channel.receiver.state, &channel.receiver.error) {
        (ThreadState::Connecting, Some(error)) if error.is_of_absence() => Cure::Wait,
        // It has a password of before, or settings that are not ours.
        (ThreadState::Connecting, Some(_)) => Cure::Follow,
        // The channel came with the copy, and its relay logs did not.
        _ if seen.clone_state() == Some(CloneState::Completed) => Cure::Follow,
        _ => Cure::Start,
    }
}

/// The next step of every replica.
pub(super) fn steps(world: &World, source: &SourceServer<'_>, plan: &mut Plan) {
    let mut copy_wanted: Vec<&Node> = Vec::new();
    let classes: Vec<(&Node, Class)> = world
        .nodes
        .iter()
        .filter(|node| node.endpoint.id != *source.id)
        .filter_map(|node| Some((node, plan.class(&node.endpoint.id)?)))
        .collect();
    for &(node, class) in &classes {
        let Some(seen) = node.seen() else { continue };
        let id = node.endpoint.id.clone();
        let ours = class.is_replica();
        if ours && !seen.probe().super_read_only {
            plan.steps.push(Step::ForbidWrites { server: id.clone() });
        }
        if ours || class == Class::Blank {
            give_number(world, node, seen, plan);
        }
        if ours && seen.survey.starts_by_itself {
            plan.steps.push(Step::StayStopped { server: id.clone() });
        }
        match class {
            Class::CloneBroken if world.going_down.contains(&id) => {
                plan.say(&id, "starts again with its copy, or that has broken off");
            }
            Class::Blank | Class::CloneBroken => copy_wanted.push(node),
            Class::BehindPurge => match another_source(world, source, plan, node) {
                Some(helper) => catch_up_from(world, node, seen, helper, plan),
                None => copy_wanted.push(node),
            },
            Class::Errant if believed(world, &id) => {
                if world.diverged == Diverged::Reclone {
                    copy_wanted.push(node);
                } else if receives(node) {
                    plan.steps.push(Step::StopReceiving { server: id });
                }
            }
            Class::Cloning => plan.steps.extend(stalled(world, node)),
            Class::Detached | Class::Broken => match cure(world, &id, seen, source) {
                Cure::Follow => plan.steps.push(Step::Follow { server: id, source: source.id.clone() }),
                Cure::Start => plan.steps.push(Step::Start { server: id }),
                Cure::Copy => copy_wanted.push(node),
                Cure::Wait => {}
                Cure::People(reason) => plan.left_to_people(reason, &id),
            },
            _ => {}
        }
    }
    // One that is copied to does not answer while it starts again: that it is being worked on is what tells.
    let copying = classes
        .iter()
        .any(|(node, class)| *class == Class::Cloning || world.busy.contains(&node.endpoint.id));
    copy::begin(world, source, plan, &copy_wanted, copying);
}

/// Two servers of one `server_id` take each other's transactions for their own, and leave them out. The later one gets
/// another, never the primary.
pub(super) fn give_number(world: &World, node: &Node, seen: &Seen, plan: &mut Plan) {
    let (id, number) = (&node.endpoint.id, seen.probe().server_id);
    let is_primary = world.primary() == Some(id);
    let known: Vec<(&ServerId, u32)> = world
        .nodes
        .iter()
        .filter(|other| other.endpoint.id != *id)
        .filter_map(|other| Some((&other.endpoint.id, other.seen()?.probe().server_id)))
        .collect();
    let earlier = known.iter().find(|(other, taken)| {
        *taken == number
            && (world.primary() == Some(*other) || (other.ordinal(), *other) < (id.ordinal(), id))
    });
    let why = match earlier {
        _ if number == 0 => "its server_id is not set".to_owned(),
        Some((other, _)) if !is_primary => format!("its server_id is that of {other} ({number})"),
        _ => return,
    };
    let first = 100 + id.ordinal().unwrap_or(0) % 100;
    let is_free = |number: &u32| known.iter().all(|(_, taken)| taken != number);
    let Some(free) = (0..1000).map(|round| first + round * 100).find(is_free) else { return };
    plan.problem("DuplicateServerId", Some(id), format!("{id}: {why}; it gets {free}"));
    plan.steps.push(Step::SetServerId { server: id.clone(), number: free });
}

/// A server with the logs that the primary no longer has. Nothing has to be overwritten then.
fn another_source<'a>(
    world: &'a World,
    source: &SourceServer<'_>,
    plan: &Plan,
    node: &Node,
) -> Option<&'a Node> {
    let probe = node.seen()?.probe();
    // If following it has not helped so often, it will not.
    if world.resting.get(&node.endpoint.id).is_some_and(|resting| resting.attempts >= 3) {
        return None;
    }
    world.nodes.iter().find(|other| {
        let id = &other.endpoint.id;
        let has_logs = other.seen().is_some_and(|other| {
            let other = other.probe();
            probe.executed.contains_all(&other.purged)
                && other.executed.contains_all(&source.seen.probe().purged)
                && other.super_read_only
                && other.version.same_series(probe.version)
        });
        *id != node.endpoint.id
            && plan.class(id) == Some(Class::Serving)
            && !other.endpoint.terminating
            && has_logs
    })
}

fn catch_up_from(world: &World, node: &Node, seen: &Seen, helper: &Node, plan: &mut Plan) {
    let id = &node.endpoint.id;
    let Some(giver) = helper.seen() else { return };
    let runs = seen.probe().channel.as_ref().is_some_and(|channel| {
        !elsewhere(channel, &helper.endpoint, &giver.probe().uuid)
            && channel.applier.running
            && channel.receiver.state != ThreadState::Off
    });
    let to_go = giver.probe().executed.subtract(&seen.probe().executed).count();
    let helper = helper.endpoint.id.clone();
    plan.say(
        id,
        format!("catches up from {helper}, which has logs that the primary no longer has: {to_go} transactions to go"),
    );
    if !runs && !world.busy.contains(id) {
        plan.steps.push(Step::Follow { server: id.clone(), source: helper });
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

pub(in crate::controller) fn believed(world: &World, id: &ServerId) -> bool {
    world.errant_for.get(id).is_some_and(|seen_for| *seen_for >= ERRANT_AFTER)
}

fn receives(node: &Node) -> bool {
    node.seen()
        .and_then(|seen| seen.probe().channel.as_ref())
        .is_some_and(|channel| channel.receiver.state != ThreadState::Off)
}
