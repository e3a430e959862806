//! What no plan may contain, whoever made it. Written apart from the planner: it shares none of its reasoning.

use super::plan::{Plan, Step};
use super::world::{Seen, World};
use crate::config::Diverged;
use crate::dba::CloneState;
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
    #[error("R7: {server} would follow {source_server}, which is not the proven primary")]
    WrongSource { server: ServerId, source_server: ServerId },
}

/// Every rule that the plan breaks. A plan that breaks any is not carried out at all.
pub(crate) fn verify(world: &World, plan: &Plan) -> Vec<Violation> {
    let mut violations = Vec::new();
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
                for node in &world.nodes {
                    match node.seen() {
                        None => violations.push(Violation::Unseen(node.endpoint.id.clone())),
                        Some(seen) if seen.probe().cluster.is_some() => {
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
                if proven_primary(world).is_none_or(|(id, _)| id != source) {
                    let (server, source_server) = (server.clone(), source.clone());
                    violations.push(Violation::WrongSource { server, source_server });
                }
            }
            Step::ForbidWrites { .. }
            | Step::StopReceiving { .. }
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
        && world.record.primary_uuid.as_ref().is_none_or(|uuid| *uuid == probe.uuid);
    proven.then_some((id, seen))
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
    another.then_some("another server of the cluster takes writes")
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
    let Some(seen) = world.seen(server) else { return violations };
    let nothing_to_lose = seen.blank() || seen.half_cloned();
    if !nothing_to_lose {
        let Some((_, primary)) = proven_primary(world) else {
            refuse("no other copy is proven to be complete");
            return violations;
        };
        if seen.probe().cluster != world.record.cluster {
            refuse("it has data that is not this cluster's");
        }
        // The primary may have gone on since, never back.
        let had = world.primary_after.as_ref().unwrap_or(&primary.probe().executed);
        if !had.contains_all(&seen.probe().executed) && world.diverged != Diverged::Reclone {
            refuse("it has transactions that exist nowhere else");
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
    let Some(giver) = world.seen(donor) else { return Some("it does not answer") };
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
    if donor == primary_id {
        return None;
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
    if !world.seen(server).is_some_and(|taker| taker.probe().version.same_series(probe.version)) {
        return Some("the versions are of different series");
    }
    None
}

#[cfg(test)]
mod tests;
