//! Another server in the place of a primary that does not come back, because people say so (`readwright switchover
//! --force`). What only the old one had is lost with that, and told. Nothing is done while somebody shows that it lives, or
//! may have more than whoever is to take over.

use std::sync::Arc;
use std::time::Duration;

use super::{Change, Plan, Step, ThreadState};
use crate::controller::world::{LONGEST_WISH, Node, Seen, State, World};
use crate::dba::CloneState;
use crate::model::gtid::GtidSet;
use crate::model::server::ServerId;
use crate::model::wishes::Wish;

/// A replica that has heard of the primary since then shows that it lives: heartbeats come every two seconds.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// Appoints another server in the place of `from`, or says what that waits for.
pub(super) fn give_up(world: &World, from: &ServerId, wish: &Wish, plan: &mut Plan) {
    if world.wish_for >= LONGEST_WISH {
        let why = format!("{from} could not be given up within {} s", LONGEST_WISH.as_secs());
        plan.change = Some(Change::Refuse { id: Arc::clone(&wish.id), why: why.into() });
        return;
    }
    let chosen = match ready(world, from, plan) {
        Ok(()) => choose(world, from, wish.to.as_ref()),
        Err(why) => {
            let words = format!("{from} is not given up yet: {why}");
            plan.problem("SwitchoverWaits", None, words);
            return;
        }
    };
    plan.change = Some(match chosen {
        Ok((to, seen)) => Change::GiveUp {
            id: Arc::clone(&wish.id),
            from: from.clone(),
            server: to.clone(),
            uuid: Arc::clone(&seen.probe().uuid),
            executed: seen.probe().executed.clone(),
            lost: history(world).subtract(&seen.probe().executed),
        },
        Err(why) => Change::Refuse { id: Arc::clone(&wish.id), why: why.into() },
    });
}

/// The wish for another primary that accepts the loss of what only this one has.
pub(super) fn wanted(world: &World) -> Option<&Wish> {
    let answered = world.record.ended.as_ref().map(|ended| &ended.id);
    world.wishes.switchover.as_ref().filter(|wish| wish.force && Some(&wish.id) != answered)
}

/// Nobody hears of the old primary any more, everybody else has been asked, and has applied what it received. Plans the end
/// of listening: what comes now would be on one server alone.
fn ready(world: &World, from: &ServerId, plan: &mut Plan) -> Result<(), String> {
    match world.node(from).map(|node| &node.state) {
        Some(State::Refused(why)) => {
            return Err(format!("it runs, and may take writes ({why}); stop it, or delete its pod"));
        }
        Some(State::Seen(seen)) if !seen.probe().super_read_only => {
            return Err("it answers, and is not read-only".to_owned());
        }
        Some(State::Seen(_) | State::Unreachable(_)) | None => {}
    }
    let others = || world.nodes.iter().filter(|node| node.endpoint.id != *from);
    if let Some(node) = others().find(|node| node.seen().is_none()) {
        let id = &node.endpoint.id;
        return Err(format!("{id} does not answer, and may have more; if it is lost too, delete its pod"));
    }
    let mut listens = None;
    for (node, seen) in ours(world, from) {
        let (id, probe) = (&node.endpoint.id, seen.probe());
        let Some(channel) = probe.channel.as_ref() else { continue };
        let receiver = &channel.receiver;
        let silent_for = receiver.heard.map(|heard| Duration::from_micros(probe.clock.saturating_sub(heard)));
        if receiver.state == ThreadState::On && silent_for.is_some_and(|silent| silent < SILENT_FOR) {
            return Err(format!("{id} hears of it: it lives; stop it, delete its pod, or end its node"));
        }
        if receiver.state != ThreadState::Off {
            listens = Some(id);
            let planned =
                plan.steps.iter().any(|step| matches!(step, Step::StopReceiving { server } if server == id));
            if !planned {
                plan.steps.push(Step::StopReceiving { server: id.clone() });
            }
        } else if !receiver.applied_all {
            return Err(format!(
                "{id} has received more than it has applied; if it does not go on, START REPLICA SQL_THREAD there"
            ));
        }
    }
    listens.map_or(Ok(()), |id| Err(format!("{id} stops listening to it first")))
}

/// Other servers that answer and have the cluster's data, whole.
fn ours<'a>(world: &'a World, from: &ServerId) -> impl Iterator<Item = (&'a Node, &'a Seen)> {
    let of_others = world.nodes.iter().filter(move |node| node.endpoint.id != *from);
    let seen = of_others.filter_map(|node| Some((node, node.seen()?)));
    seen.filter(|(node, seen)| {
        seen.probe().cluster == world.record.cluster
            && seen.clone_state() != Some(CloneState::Running)
            && !world.half_overwritten(node)
    })
}

/// Who takes over, or why nobody does.
fn choose<'a>(
    world: &'a World,
    from: &ServerId,
    to: Option<&ServerId>,
) -> Result<(&'a ServerId, &'a Seen), String> {
    let has = |seen: &Seen| of_the_cluster(world, &seen.probe().executed);
    let fit = |(node, seen): &(&Node, &Seen)| {
        !node.endpoint.terminating && seen.probe().gtid_mode && has(seen) == seen.probe().executed
    };
    let chosen = match to {
        Some(to) if to == from => return Err(format!("{to} is the one to be given up")),
        Some(to) => ours(world, from).find(|(node, _)| node.endpoint.id == *to).filter(fit),
        // Of several the first.
        None => ours(world, from).filter(fit).min_by_key(|(_, seen)| u64::MAX - has(seen).count()),
    };
    let Some((node, seen)) = chosen else {
        return Err(match to {
            Some(to) => {
                format!("{to} is not there, is being taken away, or has not the cluster's data and no other")
            }
            None => "no other server has the cluster's data and no other".to_owned(),
        });
    };
    let ahead = ours(world, from).find_map(|(other, theirs)| {
        let more = has(theirs).subtract(&seen.probe().executed);
        (!more.is_empty()).then(|| (&other.endpoint.id, more.count()))
    });
    match ahead {
        Some((other, more)) => {
            Err(format!("{other} has {more} transactions that {} has not", node.endpoint.id))
        }
        None => Ok((&node.endpoint.id, seen)),
    }
}

/// All that primaries are known to have committed.
fn history(world: &World) -> GtidSet {
    let mut known = world.record.watermark.clone();
    known.union(&world.primary_before);
    known
}

/// Without what somebody has written to a replica: those transactions are neither known of, nor the old primary's last.
fn of_the_cluster(world: &World, set: &GtidSet) -> GtidSet {
    let unknown = set.subtract(&history(world));
    let mut known = set.subtract(&unknown);
    if let Some(uuid) = &world.record.primary_uuid {
        known.union(&unknown.numbered_by(uuid));
    }
    known
}
