//! What no plan may contain, whoever made it. Written apart from the planner: it shares none of its reasoning.

use std::time::Duration;

use super::plan::{Change, Plan, Step};
use super::world::{LONGEST_WISH, Seen, State, World};
use crate::config::Diverged;
use crate::dba::{CloneState, ThreadState};
use crate::model::gtid::GtidSet;
use crate::model::server::ServerId;

/// A rule that a plan breaks, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("R1: {0} would be made a new primary, and this cluster has had one")]
    SecondFirstPrimary(ServerId),
    #[error("R2: {donor} may not give its data to {server}: {why}")]
    BadDonor { server: ServerId, donor: ServerId, why: &'static str },
    #[error("R3: {0} would be overwritten: {1}")]
    Destructive(ServerId, &'static str),
    #[error("R4: {0} is the primary, and would be overwritten or made a replica")]
    PrimaryOverwritten(ServerId),
    #[error("R5: nothing is known of {0}, and the plan relies on it")]
    Unseen(ServerId),
    #[error("R6: {0} may not take writes: {1}")]
    Writable(ServerId, &'static str),
    #[error("R8: {0}")]
    Switchover(&'static str),
    #[error("R7: {server} would follow {source_server}: {why}")]
    WrongSource { server: ServerId, source_server: ServerId, why: &'static str },
    #[error("R9: {0} is not known to be this cluster's, and would be changed")]
    NotOurs(ServerId),
}

/// Every rule that the plan breaks. A plan that breaks any is not carried out at all.
pub(crate) fn verify(world: &World, plan: &Plan) -> Vec<Violation> {
    let mut violations = Vec::new();
    if let Some(change) = &plan.change {
        violations.extend(bad_change(world, change).map(Violation::Switchover));
    }
    let clones = plan.steps.iter().filter(|step| matches!(step, Step::Clone { .. })).count();
    let running = world
        .nodes
        .iter()
        .filter(|node| node.seen().is_some_and(|seen| seen.clone_state() == Some(CloneState::Running)))
        .count();
    for step in &plan.steps {
        let server = step.server();
        if world.seen(server).is_none() {
            violations.push(Violation::Unseen(server.clone()));
            continue;
        }
        match step {
            Step::Initialise { server, .. } => {
                if world.record.bootstrapped {
                    violations.push(Violation::SecondFirstPrimary(server.clone()));
                }
                for claim in &*world.claims {
                    let owner = world.nodes.iter().find_map(|node| claim.owner(&node.endpoint.id));
                    violations
                        .extend(owner.filter(|owner| world.node(owner).is_none()).map(Violation::Unseen));
                }
                for node in &world.nodes {
                    match node.seen() {
                        None => violations.push(Violation::Unseen(node.endpoint.id.clone())),
                        Some(seen) if seen.probe().cluster.is_some() || !seen.probe().gtid_mode => {
                            violations.push(Violation::SecondFirstPrimary(server.clone()));
                        }
                        Some(_) => {}
                    }
                }
            }
            Step::Adopt { server, cluster } => {
                if world.record.bootstrapped
                    || world.seen(server).is_some_and(|seen| seen.probe().cluster.as_ref() != Some(cluster))
                {
                    violations.push(Violation::SecondFirstPrimary(server.clone()));
                }
            }
            Step::AllowWrites { server } => {
                violations
                    .extend(writable(world, server).map(|why| Violation::Writable(server.clone(), why)));
            }
            Step::CreateAccounts { server } => {
                if proven_primary(world).is_none_or(|(id, _)| id != server) {
                    violations.push(Violation::Writable(server.clone(), "it is not the proven primary"));
                }
            }
            Step::Clone { server, donor } => {
                violations.extend(overwrite(world, server, clones + running));
                violations.extend(bad_donor(world, server, donor).map(|why| Violation::BadDonor {
                    server: server.clone(),
                    donor: donor.clone(),
                    why,
                }));
            }
            Step::Follow { server, source } => {
                if world.primary() == Some(server) {
                    violations.push(Violation::PrimaryOverwritten(server.clone()));
                }
                violations.extend(bad_source(world, server, source).map(|why| {
                    let (server, source_server) = (server.clone(), source.clone());
                    Violation::WrongSource { server, source_server, why }
                }));
                violations.extend(not_ours(world, server));
            }
            Step::Start { server } => {
                violations.extend(bad_start(world, server).map(|why| Violation::WrongSource {
                    server: server.clone(),
                    source_server: server.clone(),
                    why,
                }));
                violations.extend(not_ours(world, server));
            }
            Step::SetServerId { server, .. } => {
                let blank = world.seen(server).is_some_and(Seen::blank);
                violations.extend(not_ours(world, server).filter(|_| !blank));
            }
            Step::StayStopped { server } | Step::StopReceiving { server } => {
                violations.extend(not_ours(world, server));
            }
            Step::Fence { server, .. } => {
                let hands_over = world.record.handover.as_ref().is_some_and(|running| {
                    running.from == *server && world.record.primary.as_ref() == Some(server)
                });
                if !hands_over {
                    violations.push(Violation::Switchover("a primary is fenced that hands nothing over"));
                }
            }
            Step::AwaitExecuted { .. }
            | Step::ForbidWrites { .. }
            | Step::DropChannel { .. }
            | Step::StopCopy { .. } => {}
        }
    }
    violations
}

/// The primary of our record, if it answers, carries our marker, and lacks nothing that we know it had.
fn proven_primary(world: &World) -> Option<(&ServerId, &Seen)> {
    let id = world.record.primary.as_ref()?;
    let seen = world.seen(id)?;
    let probe = seen.probe();
    let proven = world.record.bootstrapped
        && world.record.cluster.is_some()
        && probe.cluster == world.record.cluster
        && probe.executed.contains_all(&world.record.watermark)
        && world.record.primary_uuid.as_ref().is_none_or(|uuid| *uuid == probe.uuid)
        && probe.gtid_mode;
    proven.then_some((id, seen))
}

fn not_ours(world: &World, server: &ServerId) -> Option<Violation> {
    let ours = world.seen(server).is_some_and(|seen| seen.probe().cluster == world.record.cluster);
    (!ours || world.record.cluster.is_none()).then(|| Violation::NotOurs(server.clone()))
}

/// Whom `server` may replicate from: the proven primary; for the sake of logs that the primary no longer has, a replica
/// that has them and nothing that the primary has not.
fn bad_source(world: &World, server: &ServerId, source: &ServerId) -> Option<&'static str> {
    let Some((primary_id, primary)) = proven_primary(world) else {
        return Some("there is no proven primary");
    };
    if source == primary_id {
        return None;
    }
    let (Some(follower), Some(helper)) = (world.seen(server), world.node(source)) else {
        return Some("it does not answer");
    };
    let Some(seen) = helper.seen().filter(|_| source != server) else { return Some("it does not answer") };
    let (probe, had) = (seen.probe(), world.primary_after.as_ref().unwrap_or(&primary.probe().executed));
    if follower.probe().executed.contains_all(&primary.probe().purged) {
        Some("the primary has the logs itself")
    } else if probe.cluster != world.record.cluster || !had.contains_all(&probe.executed) {
        Some("it is not a copy of the primary")
    } else if !probe.super_read_only {
        Some("it is a replica that takes writes")
    } else if world.half_overwritten(helper) || !follower.probe().executed.contains_all(&probe.purged) {
        Some("it has not the logs either")
    } else {
        None
    }
}

/// Starting goes on with the channel there is, so that has to be the right one.
fn bad_start(world: &World, server: &ServerId) -> Option<&'static str> {
    if world.primary() == Some(server) {
        return Some("it is the primary");
    }
    let Some((primary_id, primary)) = proven_primary(world) else {
        return Some("there is no proven primary");
    };
    let channel = world.seen(server).and_then(|seen| seen.probe().channel.as_ref());
    let Some(channel) = channel else { return Some("it has no channel") };
    let right = world.node(primary_id).is_some_and(|node| {
        [&node.endpoint.name, &node.endpoint.address]
            .iter()
            .any(|address| address.host == channel.host && address.port == channel.port)
    });
    let uuid = &channel.receiver.source_uuid;
    let same = uuid.is_empty() || *uuid == primary.probe().uuid;
    (!right || !same || !channel.auto_position).then_some("its channel is not from the primary")
}

fn writable(world: &World, server: &ServerId) -> Option<&'static str> {
    if proven_primary(world).is_none_or(|(id, _)| id != server) {
        return Some("it is not the proven primary");
    }
    let another = world.nodes.iter().any(|node| {
        node.endpoint.id != *server
            && node
                .seen()
                .is_some_and(|seen| seen.probe().cluster == world.record.cluster && !seen.probe().read_only)
    });
    if another {
        return Some("another server of the cluster takes writes");
    }
    let Some(running) = &world.record.handover else { return None };
    if running.to != *server {
        return Some("it hands over to another server");
    }
    // Unseen may be writable.
    let Some(old) = world.seen(&running.from) else { return Some("nothing is known of the old primary") };
    if !old.probe().super_read_only {
        return Some("the old primary is not fenced");
    }
    let has_all =
        world.seen(server).is_some_and(|new| new.probe().executed.contains_all(&old.probe().executed));
    (!has_all).then_some("it lacks transactions of the old primary")
}

/// What the record may not become.
fn bad_change(world: &World, change: &Change) -> Option<&'static str> {
    let running = world.record.handover.as_ref();
    let primary = world.record.primary.as_ref();
    match change {
        Change::Begin { handover } => {
            if running.is_some() {
                return Some("a second switchover would begin");
            }
            let Some((from, old)) = proven_primary(world) else { return Some("the primary is not proven") };
            let Some(new) = world.seen(&handover.to) else { return Some("nothing is known of the target") };
            if handover.from != *from || handover.to == *from {
                return Some("it is not the primary that would hand over, or not to another server");
            }
            bad_target(world, old, new)
        }
        Change::Appoint { server, uuid, executed } => {
            let Some(running) = running else { return Some("another primary without a switchover") };
            let Some((from, old)) = proven_primary(world) else { return Some("the primary is not proven") };
            if running.from != *from || running.to != *server || server == from {
                return Some("another primary than the switchover's");
            }
            if !old.probe().super_read_only || world.busy.contains(from) {
                return Some("the old primary may take writes");
            }
            let Some(new) = world.seen(server) else { return Some("nothing is known of the target") };
            let has = &new.probe().executed;
            let all = world.primary_after.iter().all(|after| has.contains_all(after));
            if !all || !has.contains_all(&old.probe().executed) || !has.contains_all(&world.record.watermark)
            {
                return Some("the target lacks transactions");
            }
            if !executed.contains_all(&old.probe().executed) || new.probe().uuid != *uuid {
                return Some("the record would not be that of the target");
            }
            bad_target(world, old, new)
        }
        Change::GiveUp { id, from, server, uuid, executed, .. } => {
            bad_loss(world, (id, from), (server, uuid, executed))
        }
        Change::End => {
            let takes_writes = proven_primary(world).is_some_and(|(_, seen)| !seen.probe().read_only);
            let appointed = running.is_some_and(|running| Some(&running.to) == primary);
            (!takes_writes || !appointed).then_some("the new primary does not take writes yet")
        }
        Change::Abandon { .. } => {
            let still = running.is_some_and(|running| Some(&running.from) == primary);
            (!still).then_some("the new primary is appointed, and there is no way back")
        }
        Change::Refuse { .. } => None,
    }
}

/// Giving a primary up loses what only it has. People have to want that, nobody may have heard of it since, and whoever takes
/// over has all that anybody else has.
fn bad_loss(
    world: &World,
    (wish, from): (&str, &ServerId),
    (server, uuid, executed): (&ServerId, &str, &GtidSet),
) -> Option<&'static str> {
    let wished = world.wishes.switchover.as_ref().is_some_and(|known| {
        known.force && *known.id == *wish && known.to.as_ref().is_none_or(|to| to == server)
    });
    let answered = world.record.ended.as_ref().is_some_and(|ended| *ended.id == *wish);
    if !wished || answered || world.wish_for >= LONGEST_WISH {
        return Some("a primary would be given up, and nobody wants that now");
    }
    let appointed = world.record.handover.as_ref().is_some_and(|running| {
        running.from == *from && running.to == *server && world.record.primary.as_ref() == Some(server)
    });
    let replaced = world.record.handover.is_none() && world.record.primary.as_ref() == Some(from);
    if !world.record.bootstrapped || server == from || !(appointed || replaced) {
        return Some("another server than the primary would be given up");
    }
    if replaced && proven_primary(world).is_some() {
        return Some("a primary would be given up that is well");
    }
    let Some(new) = world.seen(server).filter(|seen| *seen.probe().uuid == *uuid) else {
        return Some("nothing is known of who would take over");
    };
    let has = &new.probe().executed;
    let mut known = world.record.watermark.clone();
    known.union(&world.primary_before);
    for node in &world.nodes {
        let (is_old, seen) = (node.endpoint.id == *from, node.seen());
        match seen {
            None if is_old && !matches!(node.state, State::Refused(_)) => {}
            None => return Some("somebody has not been asked"),
            Some(seen) if is_old && !seen.probe().super_read_only => {
                return Some("the one to be given up may take writes");
            }
            Some(seen) if !is_old && seen.probe().cluster == world.record.cluster => {
                let receiver = seen.probe().channel.as_ref().map(|channel| &channel.receiver);
                if receiver.is_some_and(|receiver| receiver.state != ThreadState::Off) {
                    return Some("somebody may still receive from the one to be given up");
                }
                let more = seen.probe().executed.subtract(has);
                let old = world.record.primary_uuid.as_deref().unwrap_or_default();
                let counts =
                    more.count() > more.subtract(&known).count() || !more.numbered_by(old).is_empty();
                if counts && !world.half_overwritten(node) {
                    return Some("another server has transactions that who takes over has not");
                }
            }
            Some(_) => {}
        }
    }
    if executed != has {
        return Some("the record would not be that of who takes over");
    }
    let probe = new.probe();
    if probe.cluster.is_none() || probe.cluster != world.record.cluster || !probe.gtid_mode {
        Some("who takes over has not this cluster's data")
    } else if probe.channel.as_ref().is_some_and(|channel| !channel.receiver.applied_all) {
        Some("who takes over has not applied what it received")
    } else if new.clone_state() == Some(CloneState::Running) || half_overwritten(world, new) {
        Some("who takes over is being overwritten")
    } else {
        None
    }
}

fn bad_target(world: &World, old: &Seen, new: &Seen) -> Option<&'static str> {
    let (has, had) = (&new.probe().executed, world.primary_after.as_ref().unwrap_or(&old.probe().executed));
    if new.probe().cluster != world.record.cluster {
        Some("the target has not this cluster's data")
    } else if !had.contains_all(has) {
        Some("the target has transactions that the primary has not")
    } else if !new.probe().super_read_only {
        Some("the target takes writes before it is the primary")
    } else if !new.probe().version.same_series(old.probe().version) {
        Some("the versions are of different series")
    } else if new.clone_state() == Some(CloneState::Running) || half_overwritten(world, new) {
        Some("the target is being overwritten")
    } else {
        None
    }
}

/// How long transactions of its own must have been seen on a server, before it is overwritten for them.
const BELIEVED: Duration = Duration::from_secs(10);

fn half_overwritten(world: &World, server: &Seen) -> bool {
    world.nodes.iter().any(|node| node.seen() == Some(server) && world.half_overwritten(node))
}

fn overwrite(world: &World, server: &ServerId, copies: usize) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut refuse = |why| violations.push(Violation::Destructive(server.clone(), why));
    if copies > 1 {
        refuse("more than one copy would be made at a time");
    }
    if !world.record.bootstrapped {
        refuse("the cluster has no primary yet");
    }
    let (Some(node), Some(seen)) = (world.node(server), world.seen(server)) else { return violations };
    let nothing_to_lose = seen.blank() || world.half_overwritten(node);
    if !nothing_to_lose {
        let Some((_, primary)) = proven_primary(world) else {
            refuse("no other copy is proven to be complete");
            return violations;
        };
        // The primary may have gone on since, never back.
        let had = world.primary_after.as_ref().unwrap_or(&primary.probe().executed);
        let own = !had.contains_all(&seen.probe().executed);
        let behind = !seen.probe().executed.contains_all(&primary.probe().purged);
        let just_seen = world.errant_for.get(server).is_none_or(|time| *time < BELIEVED);
        if seen.probe().cluster != world.record.cluster {
            refuse("it has data that is not this cluster's");
        } else if own && world.diverged != Diverged::Reclone {
            refuse("it has transactions that exist nowhere else");
        } else if own && just_seen {
            refuse("its own transactions have been seen only just now");
        } else if !own && !behind && world.diverged != Diverged::Reclone {
            refuse("it can catch up by itself");
        }
    }
    if world.primary() == Some(server) {
        violations.push(Violation::PrimaryOverwritten(server.clone()));
    }
    violations
}

fn bad_donor(world: &World, server: &ServerId, donor: &ServerId) -> Option<&'static str> {
    if server == donor {
        return Some("it is the same server");
    }
    let (Some(node), Some(giver)) = (world.node(donor), world.seen(donor)) else {
        return Some("it does not answer");
    };
    let Some((primary_id, primary)) = proven_primary(world) else {
        return Some("there is no proven primary to compare it with");
    };
    let probe = giver.probe();
    if probe.cluster.is_none() || probe.cluster != world.record.cluster {
        return Some("it has not this cluster's data");
    }
    if world.busy.contains(donor) || giver.clone_state() == Some(CloneState::Running) {
        return Some("it is being overwritten itself");
    }
    if world.half_overwritten(node) {
        return Some("it has been overwritten in part");
    }
    if !world.seen(server).is_some_and(|taker| taker.probe().version.same_series(probe.version)) {
        return Some("the versions are of different series");
    }
    if donor == primary_id {
        return None;
    }
    let twin = world.nodes.iter().any(|other| {
        other.endpoint.id != *donor && other.seen().is_some_and(|other| other.probe().uuid == probe.uuid)
    });
    if twin {
        return Some("another server has its server_uuid");
    }
    let had = world.primary_after.as_ref().unwrap_or(&primary.probe().executed);
    if !had.contains_all(&probe.executed) {
        return Some("it has transactions that the primary has not");
    }
    if !probe.executed.contains_all(&primary.probe().purged) {
        return Some("the primary's logs no longer reach back to what it has");
    }
    if !probe.super_read_only {
        return Some("it is a replica that takes writes");
    }
    None
}

#[cfg(test)]
mod tests;
