//! The first start of a cluster that is not known to have existed. One wrong step here makes an empty primary, so every
//! server has to be seen, and none but the primary may have anything of its own.

use std::sync::Arc;

use super::{Plan, Step, first_glance};
use crate::controller::world::{Seen, World};
use crate::model::server::ServerId;

pub(super) fn first_start(world: &World, primary_id: &ServerId, plan: &mut Plan) {
    for node in &world.nodes {
        plan.verdict(node, first_glance(world, node));
    }
    unseen(world, plan);
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
    match &primary.probe().cluster {
        Some(theirs) => adopt(world, primary_id, primary, theirs, plan),
        None => initialise(world, primary_id, primary, plan),
    }
}

/// Whatever may have data and was not asked for it. Without GTIDs nothing tells what a server has.
fn unseen(world: &World, plan: &mut Plan) {
    for node in &world.nodes {
        let id = &node.endpoint.id;
        match node.seen() {
            None => {
                let words = format!("the first start waits for {id}: it may have the data");
                plan.problem("FirstStartWaits", Some(id), words);
            }
            Some(seen) if !seen.probe().gtid_mode => {
                let words = format!("the first start waits for {id}: {NO_GTIDS}");
                plan.problem("FirstStartWaits", Some(id), words);
            }
            Some(_) => {}
        }
    }
    for claim in &*world.claims {
        let owner = world.nodes.iter().find_map(|node| claim.owner(&node.endpoint.id));
        if let Some(owner) = owner.filter(|owner| world.node(owner).is_none()) {
            let words = format!(
                "the first start waits for {owner}: its claim {} is there and may have the data; start {owner} (scale up), \
                 or delete the claim if nobody needs what is on it",
                claim.name
            );
            plan.problem("FirstStartWaits", Some(&owner), words);
        }
    }
}

pub(super) const NO_GTIDS: &str = "it numbers no transactions; set gtid_mode and enforce_gtid_consistency to ON in the \
                                   configuration of every server";

fn adopt(world: &World, primary_id: &ServerId, primary: &Seen, theirs: &Arc<str>, plan: &mut Plan) {
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
    if plan.problems.is_empty() {
        plan.say(primary_id, "has a cluster's data, which is taken over");
        plan.steps.push(Step::Adopt { server: primary_id.clone(), cluster: Arc::clone(theirs) });
    }
}

fn initialise(world: &World, primary_id: &ServerId, primary: &Seen, plan: &mut Plan) {
    for node in world.nodes.iter().filter(|node| node.endpoint.id != *primary_id) {
        let Some(seen) = node.seen() else { continue };
        // What was loaded past the binary log has no GTIDs.
        let follows = primary.probe().executed.contains_all(&seen.probe().executed)
            && (seen.survey.user_schemas == 0 || primary.survey.user_schemas > 0);
        let empty = seen.blank() || world.half_overwritten(node);
        if seen.probe().cluster.is_some() || !(empty || follows) {
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
