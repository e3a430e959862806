//! Each rule is a world that differs from a good one in one thing, and the plan for it. Every plan is verified too.

use std::time::Duration;

use super::super::story::*;
use super::super::verify::verify;
use super::super::world::{Ended, Handover};
use super::*;
use crate::config::Diverged;
use crate::model::version::Version;
use crate::model::wishes::Wish;

/// The plan in short: each server's class, then the steps.
fn short(plan: &Plan) -> (String, String) {
    let classes: Vec<&str> = plan.verdicts.iter().map(|verdict| verdict.class.name()).collect();
    let step = |step: &Step| {
        let server = step.server().ordinal().expect("mysql-N");
        match step {
            Step::Initialise { .. } => format!("initialise {server}"),
            Step::Adopt { .. } => format!("adopt {server}"),
            Step::CreateAccounts { .. } => format!("accounts {server}"),
            Step::AllowWrites { .. } => format!("allow {server}"),
            Step::ForbidWrites { .. } => format!("forbid {server}"),
            Step::Clone { donor, .. } => format!("clone {server}<{}", donor.ordinal().expect("mysql-N")),
            Step::Follow { source, .. } => format!("follow {server}>{}", source.ordinal().expect("mysql-N")),
            Step::Start { .. } => format!("start {server}"),
            Step::StayStopped { .. } => format!("stay {server}"),
            Step::SetServerId { number, .. } => format!("number {server}={number}"),
            Step::StopReceiving { .. } => format!("stop {server}"),
            Step::DropChannel { .. } => format!("drop {server}"),
            Step::Fence { impatient: false, .. } => format!("fence {server}"),
            Step::Fence { impatient: true, .. } => format!("fence {server} now"),
            Step::AwaitExecuted { .. } => format!("await {server}"),
            Step::StopCopy { process, .. } => format!("kill {process} on {server}"),
        }
    };
    let steps: Vec<String> = plan.steps.iter().map(step).collect();
    (classes.join(" "), steps.join(", "))
}

#[track_caller]
fn check(name: &str, mut world: World, change: impl FnOnce(&mut World), classes: &str, steps: &str) {
    change(&mut world);
    let plan = plan(&world);
    let violations = verify(&world, &plan);
    assert!(violations.is_empty(), "{name}: {violations:?}");
    assert_eq!(short(&plan), (classes.to_owned(), steps.to_owned()), "{name}: {plan:#?}");
}

#[track_caller]
fn check_problem(name: &str, mut world: World, change: impl FnOnce(&mut World), expected: &str) {
    change(&mut world);
    let plan = plan(&world);
    assert!(
        plan.problems.iter().any(|problem| problem.words.contains(expected)),
        "{name}: {:?} lacks {expected}",
        plan.problems
    );
}

const WELL: &str = "Primary Serving Serving";

#[test]
fn well_needs_nothing() {
    check("well", well(), |_| (), WELL, "");
    check("a busy primary is ahead", well(), |w| w.primary_after = Some(gtids("0:1-99")), WELL, "");
    check(
        "one that has more than the first look at the primary",
        well(),
        |w| {
            probe(w, 1).executed = gtids("0:1-12");
            w.primary_after = Some(gtids("0:1-15"));
        },
        WELL,
        "",
    );
}

#[test]
fn the_first_start() {
    let blanks = "Blank Blank Blank";
    check("all empty", new(), |_| (), blanks, "initialise 0");
    check(
        "broken off before the marker",
        new(),
        |w| w.record.cluster = Some("other".into()),
        blanks,
        "initialise 0",
    );
    check("one cannot be seen", new(), |w| unreachable(w, 2), "Blank Blank Unreachable", "");
    check_problem("one cannot be seen", new(), |w| unreachable(w, 2), "waits for mysql-2");
    check(
        "a replica has the cluster's data and the primary to be has not",
        new(),
        |w| probe(w, 1).cluster = Some("old".into()),
        "Blank Detached Blank",
        "",
    );
    check_problem(
        "a replica has data of its own",
        new(),
        |w| seen(w, 2).survey.user_schemas = 1,
        "mysql-2 has data that mysql-0, the primary to be, has not",
    );
    check(
        "a replica that already follows an unmarked primary",
        new(),
        |w| {
            seen(w, 0).survey.user_schemas = 3;
            seen(w, 1).survey.user_schemas = 3;
            probe(w, 1).executed = gtids("0:1-2");
        },
        "Unmarked Unmarked Blank",
        "initialise 0",
    );
    check(
        "our record was lost",
        well(),
        |w| w.record = super::super::Record::default(),
        "Detached Detached Detached",
        "adopt 0",
    );
    check(
        "marked, and not yet on record as complete",
        well(),
        |w| w.record.bootstrapped = false,
        "Detached Detached Detached",
        "adopt 0",
    );
    check_problem(
        "our record was lost, and the primary has lost something too",
        well(),
        |w| {
            w.record = super::super::Record::default();
            w.primary_after = Some(gtids("0:1-5"));
        },
        "mysql-1 has transactions that mysql-0, the primary to be, has not",
    );
    check("being initialised", new(), |w| _ = w.busy.insert(id(0)), blanks, "");
    check(
        "claims of those that are there",
        new(),
        |w| w.claims = claims(&[0, 1, 2], 1),
        blanks,
        "initialise 0",
    );
    let stranger = Claim { name: "data-other-3".into(), capacity: None };
    check("another's claim", new(), |w| w.claims = [stranger].into(), blanks, "initialise 0");
    check("a claim without its pod", new(), |w| w.claims = claims(&[0, 1, 2, 3], 1), blanks, "");
    check_problem(
        "a claim without its pod",
        new(),
        |w| w.claims = claims(&[0, 1, 2, 3], 1),
        "waits for mysql-3: its claim data-mysql-3 is there and may have the data",
    );
    check_problem("no GTIDs", new(), |w| probe(w, 2).gtid_mode = false, "waits for mysql-2: it numbers no");
    check_problem(
        "a replica has data of before there were GTIDs, and the primary to be has none",
        new(),
        |w| (seen(w, 2).survey.user_schemas, probe(w, 2).executed) = (1, gtids("")),
        "mysql-2 has data that mysql-0, the primary to be, has not",
    );
}

#[test]
fn servers_that_cannot_be_worked_with() {
    let check = |name: &str, change: fn(&mut World), classes: &str, words: &str| {
        check(name, well(), change, classes, "");
        check_problem(name, well(), change, words);
    };
    let replica = "Primary Serving Unmanageable";
    check("a replica without GTIDs", |w| probe(w, 2).gtid_mode = false, replica, "mysql-2: it numbers no");
    check("a new one", |w| (blank(w, 2), probe(w, 2).gtid_mode = false).1, replica, "mysql-2: it numbers no");
    check("not let in", |w| refused(w, 2), replica, "mysql-2: access denied");
    let primary = "Unmanageable Serving Serving";
    check("the primary not let in", |w| refused(w, 0), primary, "cannot be worked with (access denied)");
    check("the primary without GTIDs", |w| probe(w, 0).gtid_mode = false, primary, "mysql-0: it numbers no");
    check(
        "which has come back",
        |w| (probe(w, 0).gtid_mode, probe(w, 0).read_only, probe(w, 0).super_read_only) = (false, true, true),
        primary,
        "it takes no writes before that",
    );
    check(
        "another cluster's pods behind the same Service",
        |w| probe(w, 2).cluster = Some("b".into()),
        "Primary Serving Foreign",
        "mysql-2: it has the data of another cluster (b)",
    );
}

#[test]
fn numbers() {
    check("one for two replicas", well(), |w| probe(w, 2).server_id = 101, WELL, "number 2=102");
    check("the primary's", well(), |w| probe(w, 1).server_id = 100, WELL, "number 1=101");
    check("the primary keeps its own", well(), |w| probe(w, 0).server_id = 102, WELL, "number 2=202");
    check("not set", well(), |w| probe(w, 2).server_id = 0, WELL, "number 2=102");
    check("not set on the primary", well(), |w| probe(w, 0).server_id = 0, WELL, "number 0=100");
    let new = |w: &mut World| (blank(w, 2), probe(w, 2).server_id = 101).1;
    check(
        "a new one's first, then its copy",
        well(),
        new,
        "Primary Serving Blank",
        "number 2=102, clone 2<1",
    );
    let foreign = |w: &mut World| (probe(w, 2).cluster, probe(w, 2).server_id) = (Some("b".into()), 101);
    check("another cluster's", well(), foreign, "Primary Serving Foreign", "");
    check_problem("told", well(), |w| probe(w, 2).server_id = 101, "its server_id is that of mysql-1 (101)");
}

#[test]
fn scaled_down_and_up() {
    check("fewer", well(), |w| _ = w.nodes.pop(), "Primary Serving", "");
    let leaves = |w: &mut World| (w.nodes[2].endpoint.terminating = true, unreachable(w, 2)).1;
    check("one leaves", well(), leaves, "Primary Serving Unreachable", "");
    let stopped = |w: &mut World| {
        channel_of(w, 2).receiver.state = ThreadState::Off;
        channel_of(w, 2).applier.running = false;
        probe(w, 2).executed = gtids("0:1-3");
    };
    check("on its volume of before", well(), stopped, "Primary Serving Detached", "start 2");
    check(
        "and it leaves again",
        well(),
        |w| (stopped(w), w.nodes[2].endpoint.terminating = true).1,
        "Primary Serving Detached",
        "",
    );
    check(
        "it would start by itself next time",
        well(),
        |w| seen(w, 2).survey.starts_by_itself = true,
        WELL,
        "stay 2",
    );
}

#[test]
fn a_replica_takes_no_writes() {
    let open = |w: &mut World| (probe(w, 2).read_only, probe(w, 2).super_read_only) = (false, false);
    check("opened by hand", well(), open, WELL, "forbid 2");
    check("read_only is not enough", well(), |w| probe(w, 2).super_read_only = false, WELL, "forbid 2");
    check(
        "also while it rests",
        well(),
        |w| {
            open(w);
            tried(w, 2, 3, 60);
        },
        WELL,
        "forbid 2",
    );
}

#[test]
fn the_primary_came_back() {
    let fenced = |w: &mut World| (probe(w, 0).read_only, probe(w, 0).super_read_only) = (true, true);
    check("as it was", well(), fenced, "PrimaryFenced Serving Serving", "allow 0");
    check(
        "and another takes writes",
        well(),
        |w| {
            fenced(w);
            (probe(w, 1).read_only, probe(w, 1).super_read_only) = (false, false);
        },
        "PrimaryFenced Serving Serving",
        "forbid 1",
    );
    check("with a channel", well(), |w| _ = channel_of(w, 0), WELL, "drop 0");
    check("without our account", well(), |w| seen(w, 0).login = LoggedIn::Installation, WELL, "accounts 0");
}

/// A fresh, empty primary is accepted by replicas without any error; only the marker and the watermark tell.
#[test]
fn a_primary_that_lost_data_is_never_followed() {
    let lost = "PrimaryLost Serving Serving";
    check("empty", well(), |w| blank(w, 0), lost, "stop 1, stop 2, forbid 0");
    check(
        "restored from an old copy",
        well(),
        |w| {
            probe(w, 0).executed = gtids("0:1-5");
            w.primary_after = Some(gtids("0:1-5"));
        },
        lost,
        "stop 1, stop 2, forbid 0",
    );
    check("another server", well(), |w| probe(w, 0).uuid = uuid(7).into(), lost, "stop 1, stop 2, forbid 0");
    check(
        "foreign, and fenced already",
        well(),
        |w| {
            probe(w, 0).cluster = Some("b".into());
            (probe(w, 0).read_only, probe(w, 0).super_read_only) = (true, true);
            for ordinal in [1, 2] {
                channel_of(w, ordinal).receiver.state = ThreadState::Off;
            }
        },
        lost,
        "",
    );
    check(
        "empty, with an empty replica: nobody is copied from it",
        well(),
        |w| {
            blank(w, 0);
            blank(w, 2);
        },
        "PrimaryLost Serving Blank",
        "stop 1, forbid 0",
    );
    check_problem("it is said loudly", well(), |w| blank(w, 0), "it has not this cluster's data");
    check_problem("and what is left", well(), |w| blank(w, 0), "mysql-1 has all that is known of");
    check(
        "another cluster's replica is left alone",
        well(),
        |w| (blank(w, 0), probe(w, 2).cluster = Some("b".into())).1,
        "PrimaryLost Serving Foreign",
        "stop 1, forbid 0",
    );
}

#[test]
fn without_the_primary_nothing_is_begun() {
    check(
        "unreachable",
        well(),
        |w| {
            unreachable(w, 0);
            blank(w, 2);
        },
        "Unreachable Serving Blank",
        "",
    );
    check(
        "nobody answers",
        well(),
        |w| (0..3).for_each(|n| unreachable(w, n)),
        "Unreachable Unreachable Unreachable",
        "",
    );
}

#[test]
fn a_server_with_a_running_step_gets_no_other() {
    check(
        "following",
        well(),
        |w| {
            probe(w, 2).channel = None;
            probe(w, 2).channels = 0;
            w.busy.insert(id(2));
        },
        "Primary Serving Detached",
        "",
    );
}

/// What is to be written into the record, in short.
#[track_caller]
fn check_change(name: &str, change: impl FnOnce(&mut World), expected: &str) {
    let mut world = well();
    change(&mut world);
    let plan = plan(&world);
    let violations = verify(&world, &plan);
    assert!(violations.is_empty(), "{name}: {violations:?}");
    let found = match &plan.change {
        None => String::new(),
        Some(Change::Begin { handover }) => format!("{} to {}", handover.from, handover.to),
        Some(Change::Appoint { server, .. }) => format!("appoint {server}"),
        Some(Change::GiveUp { server, lost, .. }) => format!("give up for {server}, losing {}", lost.count()),
        Some(Change::End) => "end".to_owned(),
        Some(Change::Abandon { why }) => format!("back: {why}"),
        Some(Change::Refuse { why, .. }) => format!("no: {why}"),
    };
    assert_eq!(found, expected, "{name}: {plan:#?}");
}

fn wish(world: &mut World, to: Option<u8>) {
    world.wishes.switchover = Some(Wish { id: "w".into(), to: to.map(id), force: false });
}

#[test]
fn a_dead_primary_is_reported() {
    let dead = |w: &mut World| {
        unreachable(w, 0);
        probe(w, 1).executed = gtids("0:1-7");
        probe(w, 2).executed = gtids("0:1-8");
    };
    check("nothing is done", well(), dead, "Unreachable Serving Serving", "");
    check(
        "who has lost it too waits until it is known again",
        well(),
        |w| (dead(w), channel_of(w, 2).receiver.state = ThreadState::Connecting).1,
        "Unreachable Serving Serving",
        "stop 2",
    );
    check_problem("what is at risk", well(), dead, "mysql-2 has most; at risk are 1 transactions: 00000000");
    check_problem("nothing is", well(), |w| unreachable(w, 0), "mysql-1 has all that is known of");
}

fn running(world: &mut World) {
    world.record.handover = Some(Handover { from: id(0), to: id(1), id: "w".into() });
}

#[test]
fn a_pause_changes_nothing() {
    let broken = |w: &mut World| (blank(w, 2), w.wishes.paused = true).1;
    check("paused", well(), broken, "Primary Serving Blank", "");
    check("in the middle", well(), |w| (running(w), w.wishes.paused = true).1, WELL, "fence 0");
}

mod copies;
mod give_up;
mod replicas;
mod switchover;
