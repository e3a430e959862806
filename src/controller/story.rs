//! Worlds for tests: a primary and two replicas that are all well, and changes to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::world::{LoggedIn, Node, Overwriting, Record, Resting, Seen, State, World};
use crate::config::Diverged;
use crate::dba::{Applier, Channel, CloneRun, CloneState, Probe, Receiver, Survey, ThreadError, ThreadState};
pub(super) use crate::model::claims::Claim;
use crate::model::gtid::GtidSet;
use crate::model::server::{Address, Endpoint, Role, ServerId};
use crate::model::version::Version;
use crate::model::wishes::Wishes;

pub(super) const CLUSTER: &str = "5f0c1b9e-0000-4000-8000-000000000001";

/// The uuid of the server with this ordinal.
pub(super) fn uuid(ordinal: u8) -> String {
    format!("0000000{ordinal}-0000-0000-0000-000000000000")
}

/// `0:1-9` is transactions 1 to 9 of server 0.
pub(super) fn gtids(text: &str) -> GtidSet {
    let text: Vec<String> = text
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (ordinal, numbers) = part.split_once(':').expect("ordinal:numbers");
            format!("{}:{numbers}", uuid(ordinal.parse().expect("an ordinal")))
        })
        .collect();
    GtidSet::parse(&text.join(",")).expect("a GTID set")
}

pub(super) fn id(ordinal: u8) -> ServerId {
    ServerId::new(&format!("mysql-{ordinal}"))
}

pub(super) fn address(ordinal: u8) -> Address {
    Address { host: Arc::from(format!("mysql-{ordinal}")), port: 3306 }
}

/// A replica's channel from server 0, running.
pub(super) fn channel() -> Channel {
    Channel {
        host: address(0).host,
        port: 3306,
        auto_position: true,
        receiver: Receiver {
            state: ThreadState::On,
            error: None,
            source_uuid: Arc::from(uuid(0)),
            heard: Some(1),
            heartbeat: Duration::from_secs(2),
            queued: None,
            applied_all: true,
        },
        applier: Applier { running: true, error: None, applying: None, applied: None },
    }
}

pub(super) fn clone_run(state: CloneState) -> CloneRun {
    CloneRun {
        state,
        began: Arc::from("2026-01-01 00:00:00"),
        error: None,
        source: Arc::from("mysql-0:3306"),
        stage: Arc::from("FILE COPY"),
        dropped: true,
        bytes: 1,
        estimate: 2,
        bytes_per_second: 1,
        elapsed: Duration::from_secs(1),
        executed: GtidSet::default(),
        process: 7,
    }
}

pub(super) fn error(code: u32) -> Option<ThreadError> {
    Some(ThreadError { code, message: Arc::from("why") })
}

/// A bootstrapped cluster of three in which all is well.
pub(super) fn well() -> World {
    let node = |ordinal: u8| {
        let primary = ordinal == 0;
        let probe = Probe {
            version: Version::mysql(9, 7, 4),
            uuid: Arc::from(uuid(ordinal)),
            server_id: 100 + u32::from(ordinal),
            read_only: !primary,
            super_read_only: !primary,
            gtid_mode: true,
            sessions: crate::model::health::SessionDefaults::default(),
            executed: gtids("0:1-9"),
            purged: GtidSet::default(),
            clock: 1,
            channel: (!primary).then(channel),
            channels: u32::from(!primary),
            cluster: Some(Arc::from(CLUSTER)),
        };
        let survey = Survey {
            probe,
            user_schemas: 1,
            read_only_schemas: Arc::from(""),
            layout: Arc::from("character_set_server=utf8mb4 innodb_page_size=16384"),
            packet: 64 << 20,
            redo_log: true,
            filters: Arc::from(""),
            starts_by_itself: false,
            clone: None,
        };
        let endpoint = Endpoint {
            id: id(ordinal),
            address: address(ordinal),
            name: address(ordinal),
            zone: None,
            node: None,
            ready: true,
            uid: None,
            terminating: false,
            role: if primary { Role::Primary } else { Role::Replica },
        };
        Node { endpoint, state: State::Seen(Box::new(Seen { survey, login: LoggedIn::Ours })) }
    };
    World {
        record: Record {
            cluster: Some(Arc::from(CLUSTER)),
            bootstrapped: true,
            primary: Some(id(0)),
            primary_uuid: Some(Arc::from(uuid(0))),
            watermark: gtids("0:1-9"),
            ..Record::default()
        },
        nodes: (0..3).map(node).collect(),
        primary_after: Some(gtids("0:1-9")),
        primary_before: gtids("0:1-9"),
        errant_for: BTreeMap::new(),
        stalled_for: BTreeMap::new(),
        going_down: BTreeSet::new(),
        busy: BTreeSet::new(),
        resting: BTreeMap::new(),
        diverged: Diverged::Hold,
        claims: Arc::from([]),
        sizes: BTreeMap::new(),
        handover_for: Duration::ZERO,
        handover_failed: None,
        handover_rests: false,
        wishes: Wishes::default(),
        wish_for: Duration::ZERO,
        fresh_cluster: Arc::from(CLUSTER),
    }
}

/// Three empty servers, and nothing on record.
pub(super) fn new() -> World {
    let mut world = well();
    world.record = Record::default();
    for ordinal in 0..3 {
        blank(&mut world, ordinal);
    }
    world.primary_after = Some(GtidSet::default());
    world.primary_before = GtidSet::default();
    world
}

pub(super) fn seen(world: &mut World, ordinal: u8) -> &mut Seen {
    match &mut world.nodes[usize::from(ordinal)].state {
        State::Seen(seen) => seen,
        _ => panic!("mysql-{ordinal} is unreachable in this story"),
    }
}

pub(super) fn probe(world: &mut World, ordinal: u8) -> &mut Probe {
    &mut seen(world, ordinal).survey.probe
}

pub(super) fn channel_of(world: &mut World, ordinal: u8) -> &mut Channel {
    probe(world, ordinal).channel.get_or_insert_with(channel)
}

pub(super) fn unreachable(world: &mut World, ordinal: u8) {
    world.nodes[usize::from(ordinal)].state = State::Unreachable("no answer".into());
}

/// It answers, and lets nobody in.
pub(super) fn refused(world: &mut World, ordinal: u8) {
    world.nodes[usize::from(ordinal)].state = State::Refused("access denied".into());
}

/// As a new installation is.
pub(super) fn blank(world: &mut World, ordinal: u8) {
    let seen = seen(world, ordinal);
    seen.login = LoggedIn::Installation;
    seen.survey.user_schemas = 0;
    seen.survey.clone = None;
    let probe = &mut seen.survey.probe;
    (probe.read_only, probe.super_read_only) = (true, false);
    (probe.channel, probe.channels, probe.cluster) = (None, 0, None);
    // What an image's own set-up wrote.
    probe.executed = gtids(&format!("{ordinal}:1-3"));
}

/// Claims as a StatefulSet makes them, of this many bytes.
pub(super) fn claims(ordinals: &[u8], capacity: u64) -> Arc<[Claim]> {
    let claim =
        |ordinal: &u8| Claim { name: Arc::from(format!("data-mysql-{ordinal}")), capacity: Some(capacity) };
    ordinals.iter().map(claim).collect()
}

/// The copy that begins now is another one than that of before.
pub(super) fn overwriting(world: &mut World, ordinal: u8) {
    let begun = Overwriting {
        uuid: Arc::clone(&probe(world, ordinal).uuid),
        before: seen(world, ordinal)
            .survey
            .clone
            .as_ref()
            .map_or_else(|| Arc::from(""), |run| Arc::clone(&run.began)),
    };
    world.record.overwriting.insert(id(ordinal), begun);
}

pub(super) fn tried(world: &mut World, ordinal: u8, attempts: u32, left: u64) {
    let left = Duration::from_secs(left);
    world
        .resting
        .insert(id(ordinal), Resting { left, attempts, failed_copies: 0, why: Arc::from("it went wrong") });
}
