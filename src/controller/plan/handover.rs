//! The planned switchover, as far as it differs from keeping a cluster right. Where it stands is read from the record and
//! the servers, so that whoever takes over goes on from there:
//!
//! | record | servers | next |
//! |---|---|---|
//! | no handover | all is well, and it is wanted | begin: proxies hold new writes |
//! | old primary | it takes writes | fence it |
//! | old primary | it is fenced, the target lacks something | wait for the target |
//! | old primary | it is fenced, the target has everything | appoint the target |
//! | target | it still replicates, or is read-only | forget its channel, allow it writes |
//! | target | it takes writes | end: proxies go on; then all others follow it |
//!
//! While the record names the old primary, every failure goes back: the handover is taken from the record, and a primary
//! that is fenced is allowed writes as after a restart. Once it names the target, there is only the way forward: where the
//! old primary is gone for good by then, until people give it up.

use super::{Change, Class, Plan, SourceServer, Step, ThreadState, give_up};
use crate::controller::world::{Handover, World};
use crate::model::server::ServerId;
use crate::model::wishes::Wish;
use std::sync::Arc;
use std::time::Duration;

/// Clients' statements are held for ten seconds where nothing else is configured; going back takes some of it too.
const GIVES_UP_AFTER: Duration = Duration::from_secs(8);

/// Plans a switchover that somebody wants, or that the end of the primary's pod asks for.
pub(super) fn begin(world: &World, source: &SourceServer<'_>, plan: &mut Plan) {
    let (from, answered) = (source.id, world.record.ended.as_ref().map(|ended| &ended.id));
    let wish = world.wishes.switchover.as_ref().filter(|wish| Some(&wish.id) != answered);
    let leaves = world.node(from).is_some_and(|node| node.endpoint.terminating);
    let (id, chosen) = match wish {
        Some(wish) => {
            let chosen = match &wish.to {
                Some(to) => fit(world, plan, source, to).map(|()| to.clone()),
                None => best(world, plan, source),
            };
            match chosen {
                Ok(to) => (Arc::clone(&wish.id), to),
                Err(Unfit::Never(why)) => {
                    plan.change = Some(Change::Refuse { id: Arc::clone(&wish.id), why: why.into() });
                    return;
                }
                Err(Unfit::Now(why)) => {
                    let words = format!("the switchover that is wanted waits: {why}");
                    plan.problem("SwitchoverWaits", None, words);
                    return;
                }
            }
        }
        None if leaves && !world.handover_rests => match best(world, plan, source) {
            Ok(to) => (format!("{from} leaves, epoch {}", world.record.epoch).into(), to),
            Err(Unfit::Never(why) | Unfit::Now(why)) => {
                let words = format!("{from}, the primary, is being taken away, and nobody can follow: {why}");
                plan.problem("PrimaryLeaves", Some(from), words);
                return;
            }
        },
        None => return,
    };
    // A primary that is only just coming back is not taken away again; steps that still run there could undo a fence.
    if plan.class(from) != Some(Class::Primary) || world.busy.contains(from) || world.busy.contains(&chosen) {
        let words = format!("a switchover to {chosen} waits until {from} and it are settled");
        plan.problem("SwitchoverWaits", None, words);
        return;
    }
    plan.change = Some(Change::Begin { handover: Handover { from: from.clone(), to: chosen, id } });
}

/// Plans the next step of a switchover that runs. `plan` holds what keeping the cluster right would do.
pub(super) fn go_on(world: &World, handover: &Handover, source: Option<&SourceServer<'_>>, plan: &mut Plan) {
    let appointed = world.record.primary.as_ref() == Some(&handover.to);
    plan.steps.retain(|step| match step {
        Step::ForbidWrites { .. } | Step::StopReceiving { .. } => true,
        // Reads go on at the replicas there are; whom they follow is seen to afterwards.
        _ if !appointed => false,
        Step::AllowWrites { .. } | Step::DropChannel { .. } | Step::CreateAccounts { .. } => true,
        _ => false,
    });
    if appointed {
        forward(world, handover, plan);
    } else {
        hand_over(world, handover, source, plan);
    }
}

/// Invariant: the record names the old primary. Nobody else is allowed writes, and nothing is lost by going back.
fn hand_over(world: &World, handover: &Handover, source: Option<&SourceServer<'_>>, plan: &mut Plan) {
    let Handover { from, to, .. } = handover;
    let back = |why: String| Some(Change::Abandon { why: why.into() });
    if let Some(why) = &world.handover_failed {
        plan.change = back(why.to_string());
        return;
    }
    if world.handover_for >= GIVES_UP_AFTER {
        plan.change = back(format!("it took longer than {} s", GIVES_UP_AFTER.as_secs()));
        return;
    }
    if plan.class(from) == Some(Class::PrimaryLost) {
        plan.change = back(format!("{from} has lost data"));
        return;
    }
    // One missed look says nothing; the time limit ends the wait.
    let (Some(source), Some(target)) = (source, world.seen(to)) else {
        let words = format!("the switchover from {from} to {to} waits for an answer");
        plan.problem("SwitchoverWaits", None, words);
        return;
    };
    match fit(world, plan, source, to) {
        Err(Unfit::Never(why)) => {
            plan.change = back(why);
            return;
        }
        // It has restarted, or somebody stopped it: setting it up again is not done while writes wait.
        Err(Unfit::Now(why)) if plan.class(to) == Some(Class::Detached) => {
            plan.change = back(why);
            return;
        }
        // One that catches up is waited for below.
        Ok(()) | Err(Unfit::Now(_)) => {}
    }
    if world.busy.contains(from) || world.busy.contains(to) {
        return;
    }
    if !source.seen.probe().super_read_only {
        plan.say(from, format!("hands over to {to}: open transactions may end, new writes wait"));
        let impatient = world.node(from).is_some_and(|node| node.endpoint.terminating);
        plan.steps.push(Step::Fence { server: from.clone(), impatient });
        return;
    }
    // From here on the old primary's set no longer grows.
    plan.say(from, format!("hands over to {to}: takes no writes any more"));
    if !target.probe().super_read_only {
        plan.say(to, "is to be the primary, and takes no writes before that");
    } else if target.probe().executed.contains_all(source.executed) {
        plan.change = Some(Change::Appoint {
            server: to.clone(),
            uuid: Arc::clone(&target.probe().uuid),
            executed: source.executed.clone(),
        });
    } else {
        plan.say(to, "is to be the primary, and waits for the last transactions");
        plan.steps.push(Step::AwaitExecuted { server: to.clone(), executed: source.executed.clone() });
    }
}

/// Invariant: the record names the target, which had everything when it was written. The old primary is fenced, or is
/// fenced again before the target takes writes: it is never allowed any, because the record does not name it.
fn forward(world: &World, handover: &Handover, plan: &mut Plan) {
    let Handover { from, to, .. } = handover;
    if plan.class(to) == Some(Class::Primary) {
        plan.change = Some(Change::End);
        plan.steps.clear();
        return;
    }
    let fenced = world.seen(from).is_some_and(|seen| seen.probe().super_read_only);
    if fenced {
        return;
    }
    plan.steps.retain(|step| !matches!(step, Step::AllowWrites { .. }));
    let planned =
        plan.steps.iter().any(|step| matches!(step, Step::ForbidWrites { server } if server == from));
    if world.seen(from).is_some() && !planned {
        plan.steps.push(Step::ForbidWrites { server: from.clone() });
    }
    if let Some(wish) = give_up::wanted(world) {
        if wish.to.as_ref().is_some_and(|wished| wished != to) {
            let why = format!("{to} is to take over already, and has everything: name it, or nobody");
            plan.change = Some(Change::Refuse { id: Arc::clone(&wish.id), why: why.into() });
            return;
        }
        let to = Some(to.clone());
        give_up::give_up(world, from, &Wish { to, ..wish.clone() }, plan);
        return;
    }
    let why = format!("{to} is to be the primary, and takes no writes before {from} is seen to take none");
    plan.problem("SwitchoverWaits", Some(to), why.as_str());
    plan.say(to, why);
}

/// Why a server cannot become the primary.
enum Unfit {
    /// Waiting does not help.
    Never(String),
    /// In a moment it may.
    Now(String),
}

fn fit(world: &World, plan: &Plan, source: &SourceServer<'_>, to: &ServerId) -> Result<(), Unfit> {
    let never = |why: &str| Err(Unfit::Never(format!("{to} {why}")));
    if to == source.id {
        return never("is the primary already");
    }
    let Some(node) = world.node(to) else { return never("is not among the servers") };
    if node.endpoint.terminating {
        return never("is being taken away itself");
    }
    let Some(seen) = node.seen() else { return never("does not answer") };
    let probe = seen.probe();
    match plan.class(to) {
        Some(Class::Serving) => {}
        Some(Class::CatchingUp) => return Err(Unfit::Now(format!("{to} catches up"))),
        Some(Class::Detached) if probe.cluster == world.record.cluster => {
            return Err(Unfit::Now(format!("{to} does not replicate from {}", source.id)));
        }
        Some(class) => return never(&format!("cannot be the primary: it is {}", class.name())),
        None => return never("is not among the servers"),
    }
    if !probe.version.same_series(source.seen.probe().version) {
        return never(&format!("runs {}, the primary {}", probe.version, source.seen.probe().version));
    }
    let following = world.nodes.iter().filter(|other| other.endpoint.id != *to);
    let stranded = following
        .filter(|other| plan.class(&other.endpoint.id).is_some_and(Class::serving))
        .find(|other| other.seen().is_some_and(|other| !other.probe().executed.contains_all(&probe.purged)));
    if let Some(stranded) = stranded {
        let id = &stranded.endpoint.id;
        return never(&format!("no longer has the logs that {id} would need to follow it"));
    }
    if !probe.super_read_only {
        return Err(Unfit::Now(format!("{to} may take writes, and is made read-only first")));
    }
    if !probe.channel.as_ref().is_some_and(|channel| channel.receiver.state == ThreadState::On) {
        return Err(Unfit::Now(format!("{to} does not hear of {}", source.id)));
    }
    Ok(())
}

/// The fit replica that has most; of several the first.
fn best(world: &World, plan: &Plan, source: &SourceServer<'_>) -> Result<ServerId, Unfit> {
    let mut found: Option<(u64, &ServerId)> = None;
    let mut soon = None;
    for node in world.nodes.iter().filter(|node| node.endpoint.id != *source.id) {
        let id = &node.endpoint.id;
        match (fit(world, plan, source, id), node.seen()) {
            (Ok(()), Some(seen)) => {
                let has = seen.probe().executed.count();
                if found.is_none_or(|(most, _)| has > most) {
                    found = Some((has, id));
                }
            }
            (Err(Unfit::Now(why)), _) => soon = soon.or(Some(why)),
            (Err(Unfit::Never(_)), _) | (Ok(()), None) => {}
        }
    }
    match (found, soon) {
        (Some((_, id)), _) => Ok(id.clone()),
        (None, Some(why)) => Err(Unfit::Now(why)),
        (None, None) => Err(Unfit::Never("no replica is fit".to_owned())),
    }
}
