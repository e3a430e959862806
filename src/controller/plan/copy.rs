//! Whom a server is copied from, and whether CLONE would take it. Everything is asked before anything is destroyed: CLONE
//! drops what the recipient has, and only then begins.

use super::{Class, Plan, SourceServer, Step};
use crate::controller::world::{Node, Seen, World};
use crate::model::server::ServerId;
use crate::model::version::Version;

/// Begins at most one copy; all others are told what they wait for. `copying`: one runs already.
pub(super) fn begin(
    world: &World,
    source: &SourceServer<'_>,
    plan: &mut Plan,
    wanted: &[&Node],
    copying: bool,
) {
    let mut taken = copying;
    for node in wanted {
        let id = &node.endpoint.id;
        if world.busy.contains(id) {
            plan.say(id, "starts again after it was copied to");
            continue;
        }
        if node.endpoint.terminating {
            plan.say(id, "is being taken away");
            continue;
        }
        if taken {
            plan.say(id, "waits for its turn to be copied to");
            continue;
        }
        match donor(world, source, plan, node) {
            Ok(donor) => {
                plan.say(id, format!("is copied from {donor}"));
                plan.steps.push(Step::Clone { server: id.clone(), donor });
                taken = true;
            }
            Err(Obstacle::Soon(words)) => plan.say(id, format!("waits for {words}, to be copied from it")),
            Err(Obstacle::People { reason, why }) => {
                let words = format!("cannot be copied to: {why}");
                plan.problem(reason, Some(id), format!("{id} {words}"));
                plan.say(id, words);
            }
        }
    }
}

/// Why there is no donor.
enum Obstacle {
    Soon(String),
    People { reason: &'static str, why: String },
}

/// A replica that so many attempts have not brought up is waited for no longer.
const PATIENCE: u32 = 3;
/// Failures in a row with one donor, before the next one is asked: the first may have been chance.
const TRIES: u32 = 2;

/// The nearest serving server before it in order, else another replica, else the primary: it is spared while a replica
/// is on its way to be a donor, which is [`Obstacle::Soon`].
fn donor(world: &World, source: &SourceServer<'_>, plan: &Plan, node: &Node) -> Result<ServerId, Obstacle> {
    let Some(recipient) = node.seen() else { return Err(Obstacle::Soon("an answer".to_owned())) };
    if let Some(why) = unready(recipient) {
        return Err(Obstacle::People { reason: "CloneImpossible", why });
    }
    let order = |id: &ServerId| (id.ordinal(), id.clone());
    let own = order(&node.endpoint.id);
    let mut replicas: Vec<&Node> = world
        .nodes
        .iter()
        .filter(|other| other.endpoint.id != node.endpoint.id && other.endpoint.id != *source.id)
        .collect();
    // Those before it, the nearest first; then those after it.
    replicas.sort_by_key(|other| order(&other.endpoint.id));
    let after = replicas.partition_point(|other| order(&other.endpoint.id) < own);
    replicas[..after].reverse();

    let mut misfit = None;
    let mut fit = Vec::new();
    let mut soon = None;
    for other in replicas.iter().copied().chain(world.node(source.id)) {
        let (id, is_primary) = (&other.endpoint.id, other.endpoint.id == *source.id);
        let Some(giver) = other.seen() else { continue };
        let serves = is_primary
            || (plan.class(id) == Some(Class::Serving)
                && giver.probe().super_read_only
                && !world.busy.contains(id));
        let attempts = world.resting.get(id).map_or(0, |resting| resting.attempts);
        let comes = matches!(plan.class(id), Some(Class::Detached | Class::CatchingUp | Class::Serving))
            && attempts < PATIENCE;
        if other.endpoint.terminating || !(serves || comes) {
            continue;
        }
        if let Some(obstacle) = mismatch(world, node, recipient, other, giver) {
            misfit = misfit.or(Some(obstacle));
        } else if !serves {
            soon = soon.or_else(|| Some(id.to_string()));
        } else if !is_primary || soon.is_none() || !fit.is_empty() {
            fit.push(id);
        }
    }
    let failures = world.resting.get(&node.endpoint.id).map_or(0, |resting| resting.failed_copies);
    let turn = usize::try_from(failures / TRIES).unwrap_or(0);
    match (fit.get(turn % fit.len().max(1)), soon, misfit) {
        (Some(id), _, _) => Ok((*id).clone()),
        (None, Some(soon), _) => Err(Obstacle::Soon(soon)),
        (None, None, Some(misfit)) => Err(misfit),
        (None, None, None) => Err(Obstacle::Soon(source.id.to_string())),
    }
}

/// The first version that has CLONE.
const FIRST: Version = Version::mysql(8, 0, 17);
/// Bytes; ER_CLONE_NETWORK_PACKET. <https://dev.mysql.com/doc/refman/9.7/en/clone-plugin-remote.html>
const LEAST_PACKET: u64 = 2 << 20;

/// Bytes; what the new server takes until the copy is in its place (200 MiB as it comes), and the copy's redo logs.
const BESIDE: u64 = 320 << 20;

/// What no donor can help.
fn unready(recipient: &Seen) -> Option<String> {
    let (version, survey) = (recipient.probe().version, &recipient.survey);
    if version < FIRST {
        return Some(format!(
            "it runs {version}, and CLONE came with {FIRST}; run a newer version, or restore a backup"
        ));
    }
    if survey.packet < LEAST_PACKET {
        return Some(small_packet("its", survey.packet));
    }
    if !survey.read_only_schemas.is_empty() {
        let schemas = &survey.read_only_schemas;
        return Some(format!("CLONE cannot drop {schemas}; run ALTER SCHEMA ... READ ONLY = 0 there"));
    }
    None
}

fn small_packet(whose: &str, bytes: u64) -> String {
    format!("{whose} max_allowed_packet is {bytes}, and CLONE needs {LEAST_PACKET}; set it to 16M or more")
}

/// Why CLONE would refuse this donor for this recipient.
fn mismatch(world: &World, node: &Node, recipient: &Seen, other: &Node, giver: &Seen) -> Option<Obstacle> {
    let donor = &other.endpoint.id;
    let impossible = |why: String| Some(Obstacle::People { reason: "CloneImpossible", why });
    let (theirs, ours) = (giver.probe().version, recipient.probe().version);
    // Within 8.0, patches before 8.0.37 clone only from their own kind.
    let strict = theirs.same_series(Version::mysql(8, 0, 0)) && theirs.patch.min(ours.patch) < 37;
    if !theirs.same_series(ours) || (strict && theirs != ours) {
        return impossible(format!(
            "it runs {ours}, and {donor} runs {theirs}; run the same version on both"
        ));
    }
    let here: Vec<&str> = recipient.survey.layout.split(' ').collect();
    let differing: Vec<&str> = giver.survey.layout.split(' ').filter(|there| !here.contains(there)).collect();
    if !differing.is_empty() {
        let settings = differing.join(", ");
        return impossible(format!("{donor} has {settings}, and it has not; have the settings agree"));
    }
    if giver.survey.packet < LEAST_PACKET {
        return impossible(small_packet(&format!("{donor}'s"), giver.survey.packet));
    }
    if !giver.survey.redo_log {
        return impossible(format!(
            "{donor} writes no redo log; run ALTER INSTANCE ENABLE INNODB REDO_LOG there"
        ));
    }
    if other.endpoint.name.host.contains(':') {
        let host = &other.endpoint.name.host;
        return impossible(format!(
            "CLONE does not take {host}, an IPv6 address; name {donor} by a host name"
        ));
    }
    let (bytes, capacity) = (world.sizes.get(donor), world.capacity(&node.endpoint.id));
    if let (Some(bytes), Some(capacity)) = (bytes, capacity) {
        // And room for what is written while it is copied.
        let needed = bytes.saturating_add(bytes / 5).saturating_add(BESIDE);
        if needed > capacity {
            let room = |bytes: u64| match bytes >> 30 {
                0 => format!("{} MiB", bytes >> 20),
                gib => format!("{gib}.{} GiB", ((bytes % (1 << 30)) * 10) >> 30),
            };
            let why = format!(
                "its volume holds {}, and a copy of {donor} needs {}; enlarge its claim",
                room(capacity),
                room(needed)
            );
            return Some(Obstacle::People { reason: "InsufficientStorage", why });
        }
    }
    None
}
