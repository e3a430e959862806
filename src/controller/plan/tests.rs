//! Each rule is a world that differs from a good one in one thing, and the plan for it. Every plan is verified too.

use super::super::story::*;
use super::super::verify::verify;
use super::super::world::{Ended, Handover};
use super::*;
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
}

#[test]
fn replicas_are_copied_one_after_another_from_the_one_before() {
    let first = |w: &mut World| {
        blank(w, 1);
        blank(w, 2);
    };
    check("the first from the primary", well(), first, "Primary Blank Blank", "clone 1<0");
    check(
        "while it is copied the next waits",
        well(),
        |w| {
            first(w);
            seen(w, 1).survey.clone = Some(clone_run(CloneState::Running));
        },
        "Primary Cloning Blank",
        "",
    );
    check(
        "while it restarts the next waits too",
        well(),
        |w| {
            first(w);
            w.busy.insert(id(1));
        },
        "Primary Blank Blank",
        "",
    );
    check(
        "also while it does not answer",
        well(),
        |w| {
            first(w);
            unreachable(w, 1);
            w.busy.insert(id(1));
        },
        "Primary Unreachable Blank",
        "",
    );
    check("the second from the first", well(), |w| blank(w, 2), "Primary Serving Blank", "clone 2<1");
    check(
        "the first from the second when it can",
        well(),
        |w| blank(w, 1),
        "Primary Blank Serving",
        "clone 1<2",
    );
    check(
        "the primary gives when the one before cannot",
        well(),
        |w| {
            blank(w, 2);
            unreachable(w, 1);
        },
        "Primary Unreachable Blank",
        "clone 2<0",
    );
    check(
        "one that takes writes gives nothing",
        well(),
        |w| {
            blank(w, 2);
            probe(w, 1).super_read_only = false;
        },
        "Primary Serving Blank",
        "forbid 1",
    );
    let coming = |w: &mut World| {
        blank(w, 2);
        probe(w, 1).channel = None;
        probe(w, 1).channels = 0;
    };
    check("one that will serve soon is waited for", well(), coming, "Primary Detached Blank", "follow 1>0");
    check(
        "while it catches up, too",
        well(),
        |w| {
            blank(w, 2);
            probe(w, 1).executed = gtids("0:1-5");
        },
        "Primary CatchingUp Blank",
        "",
    );
    check(
        "but not for ever",
        well(),
        |w| {
            coming(w);
            tried(w, 1, 3, 5);
        },
        "Primary Detached Blank",
        "clone 2<0",
    );
    check(
        "after a failure it rests",
        well(),
        |w| {
            blank(w, 2);
            tried(w, 2, 1, 5);
        },
        "Primary Serving Blank",
        "",
    );
    check(
        "and is tried again",
        well(),
        |w| {
            blank(w, 2);
            tried(w, 2, 1, 0);
        },
        "Primary Serving Blank",
        "clone 2<1",
    );
}

#[test]
fn what_clone_would_refuse_is_asked_before() {
    let check = |change: fn(&mut World), expected: &str| {
        let both = |w: &mut World| {
            blank(w, 2);
            change(w);
        };
        check_problem(expected, well(), both, expected);
        check(expected, well(), both, "Primary Serving Blank", "");
    };
    check(|w| probe(w, 2).version = Version::mysql(9, 6, 0), "it runs 9.6.0, the other 9.7.4");
    check(|w| seen(w, 2).survey.layout = "latin1 16384".into(), "settings differ");
    check(|w| seen(w, 1).survey.plugins.push("x (Y)".into()), "it lacks plugins: x (Y)");
    check(
        |w| {
            for ordinal in [0, 1] {
                probe(w, ordinal).version = Version::mysql(8, 0, 36);
            }
            probe(w, 2).version = Version::mysql(8, 0, 40);
        },
        "it runs 8.0.40",
    );
}

#[test]
fn clones_that_broke_off() {
    let broken = |w: &mut World, state: CloneState| {
        blank(w, 2);
        probe(w, 2).executed = gtids("");
        seen(w, 2).survey.clone = Some(clone_run(state));
    };
    let classes = "Primary Serving CloneBroken";
    check("in progress, and nobody does it", well(), |w| broken(w, CloneState::Dead), classes, "clone 2<1");
    check("failed", well(), |w| broken(w, CloneState::Failed), classes, "clone 2<1");
    check(
        "failed before anything was dropped",
        well(),
        |w| seen(w, 2).survey.clone = Some(clone_run(CloneState::Failed)),
        WELL,
        "",
    );
    check(
        "another controller's runs on",
        well(),
        |w| broken(w, CloneState::Running),
        "Primary Serving Cloning",
        "",
    );
    let stalled = |w: &mut World, seconds: u64| {
        broken(w, CloneState::Running);
        w.busy.insert(id(2));
        w.stalled_for.insert(id(2), Duration::from_secs(seconds));
    };
    check("slow", well(), |w| stalled(w, 119), "Primary Serving Cloning", "");
    check("stalled", well(), |w| stalled(w, 120), "Primary Serving Cloning", "kill 7 on 2");
    check(
        "recovery moves no bytes",
        well(),
        |w| {
            stalled(w, 999);
            seen(w, 2).survey.clone.as_mut().expect("running").stage = "RECOVERY".into();
        },
        "Primary Serving Cloning",
        "",
    );
    check(
        "completed: the channel that came with it is replaced",
        well(),
        |w| {
            seen(w, 2).survey.clone = Some(clone_run(CloneState::Completed));
            probe(w, 2).super_read_only = false;
            channel_of(w, 2).receiver.state = ThreadState::Off;
            channel_of(w, 2).applier.running = false;
        },
        "Primary Serving Detached",
        "follow 2>0, forbid 2",
    );
}

#[test]
fn whose_data() {
    check(
        "another cluster's",
        well(),
        |w| probe(w, 2).cluster = Some("b".into()),
        "Primary Serving Foreign",
        "",
    );
    check(
        "nobody's",
        well(),
        |w| {
            blank(w, 2);
            seen(w, 2).survey.user_schemas = 1;
        },
        "Primary Serving Unmarked",
        "",
    );
    check(
        "transactions of another server, and no schema",
        well(),
        |w| {
            blank(w, 2);
            probe(w, 2).executed = gtids("7:1");
        },
        "Primary Serving Unmarked",
        "",
    );
    check(
        "two of the same uuid",
        well(),
        |w| probe(w, 2).uuid = uuid(1).into(),
        "Primary DuplicateUuid DuplicateUuid",
        "",
    );
}

#[test]
fn errant_transactions() {
    let errant = |w: &mut World, seconds: u64| {
        probe(w, 2).executed = gtids("0:1-9,2:1");
        w.errant_for.insert(id(2), Duration::from_secs(seconds));
    };
    let classes = "Primary Serving Errant";
    check("just seen", well(), |w| errant(w, 0), classes, "");
    check("believed", well(), |w| errant(w, 10), classes, "stop 2");
    check(
        "stopped already",
        well(),
        |w| {
            errant(w, 99);
            channel_of(w, 2).receiver.state = ThreadState::Off;
        },
        classes,
        "",
    );
    check(
        "to be copied anew",
        well(),
        |w| {
            errant(w, 10);
            w.diverged = Diverged::Reclone;
        },
        classes,
        "clone 2<1",
    );
}

#[test]
fn replication_that_does_not_run() {
    let detached = "Primary Serving Detached";
    let broken = "Primary Serving Broken";
    let follow = "follow 2>0";
    check(
        "no channel",
        well(),
        |w| {
            probe(w, 2).channel = None;
            probe(w, 2).channels = 0;
        },
        detached,
        follow,
    );
    check("another host", well(), |w| channel_of(w, 2).host = "old".into(), detached, follow);
    check("by file and position", well(), |w| channel_of(w, 2).auto_position = false, detached, follow);
    check(
        "another source",
        well(),
        |w| channel_of(w, 2).receiver.source_uuid = uuid(7).into(),
        detached,
        follow,
    );
    check(
        "receiver stopped",
        well(),
        |w| channel_of(w, 2).receiver.state = ThreadState::Off,
        detached,
        follow,
    );
    check("applier stopped", well(), |w| channel_of(w, 2).applier.running = false, detached, follow);
    check("two channels", well(), |w| probe(w, 2).channels = 2, broken, "");
    check(
        "connecting",
        well(),
        |w| channel_of(w, 2).receiver.state = ThreadState::Connecting,
        "Primary Serving CatchingUp",
        "",
    );
    check(
        "the network fails it",
        well(),
        |w| {
            channel_of(w, 2).receiver.state = ThreadState::Connecting;
            channel_of(w, 2).receiver.error = error(2003);
        },
        broken,
        "",
    );
    check(
        "its password is old",
        well(),
        |w| {
            channel_of(w, 2).receiver.state = ThreadState::Connecting;
            channel_of(w, 2).receiver.error = error(1045);
        },
        broken,
        follow,
    );
    let applier = |code: u32, attempts: u32| {
        move |w: &mut World| {
            channel_of(w, 2).applier.running = false;
            channel_of(w, 2).applier.error = error(code);
            if attempts > 0 {
                tried(w, 2, attempts, 0);
            }
        }
    };
    check("a duplicate key is tried once", well(), applier(1062, 0), broken, follow);
    check("and is never skipped", well(), applier(1062, 1), broken, "");
    check("a deadlock passes", well(), applier(1213, 3), broken, follow);
    check("a relay log is fetched again", well(), applier(13121, 1), broken, follow);
}

#[test]
fn behind() {
    check("by a look", well(), |w| probe(w, 2).executed = gtids("0:1-5"), "Primary Serving CatchingUp", "");
    check(
        "further than the logs reach",
        well(),
        |w| {
            probe(w, 2).executed = gtids("0:1-5");
            probe(w, 0).purged = gtids("0:1-7");
        },
        "Primary Serving BehindPurge",
        "clone 2<1",
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
        Some(Change::End) => "end".to_owned(),
        Some(Change::Abandon { why }) => format!("back: {why}"),
        Some(Change::Refuse { why, .. }) => format!("no: {why}"),
    };
    assert_eq!(found, expected, "{name}: {plan:#?}");
}

fn wish(world: &mut World, to: Option<u8>) {
    world.wishes.switchover = Some(Wish { id: "w".into(), to: to.map(id) });
}

#[test]
fn who_takes_over() {
    check_change("nobody wants it", |_| (), "");
    check_change("a wish", |w| wish(w, Some(2)), "mysql-0 to mysql-2");
    check_change("anybody", |w| wish(w, None), "mysql-0 to mysql-1");
    check_change(
        "anybody, the best",
        |w| {
            wish(w, None);
            w.primary_before = gtids("0:1-8");
            probe(w, 1).executed = gtids("0:1-8");
        },
        "mysql-0 to mysql-2",
    );
    check_change(
        "answered",
        |w| {
            wish(w, None);
            w.record.ended = Some(Ended { id: "w".into(), failure: None });
        },
        "",
    );
    check_change("paused", |w| (wish(w, None), w.wishes.paused = true).1, "");
    check_change("the primary itself", |w| wish(w, Some(0)), "no: mysql-0 is the primary already");
    check_change("unknown", |w| wish(w, Some(7)), "no: mysql-7 is not among the servers");
    check_change("away", |w| (wish(w, Some(1)), unreachable(w, 1)).1, "no: mysql-1 does not answer");
    check_change("behind", |w| (wish(w, Some(1)), probe(w, 1).executed = gtids("0:1-3")).1, "");
    check_change(
        "errant",
        |w| (wish(w, Some(1)), probe(w, 1).executed = gtids("0:1-9,1:1")).1,
        "no: mysql-1 cannot be the primary: it is Errant",
    );
    check_change(
        "of the others, one is errant",
        |w| (wish(w, None), probe(w, 1).executed = gtids("0:1-9,1:1")).1,
        "mysql-0 to mysql-2",
    );
    check_change("the pod goes", |w| w.nodes[0].endpoint.terminating = true, "mysql-0 to mysql-1");
    check_change(
        "both pods go",
        |w| (0..2).for_each(|at| w.nodes[at].endpoint.terminating = true),
        "mysql-0 to mysql-2",
    );
    check_change(
        "it has just failed",
        |w| (w.nodes[0].endpoint.terminating = true, w.handover_rests = true).1,
        "",
    );
    check_change("the primary is away", |w| (wish(w, None), unreachable(w, 0)).1, "");
}

fn running(world: &mut World) {
    world.record.handover = Some(Handover { from: id(0), to: id(1), id: "w".into() });
}

fn fenced(world: &mut World) {
    running(world);
    (probe(world, 0).read_only, probe(world, 0).super_read_only) = (true, true);
}

fn appointed(world: &mut World) {
    fenced(world);
    world.record.primary = Some(id(1));
    world.record.primary_uuid = Some(uuid(1).into());
}

#[test]
fn a_switchover_that_runs() {
    check("open", well(), running, WELL, "fence 0");
    let leaves = |w: &mut World| (running(w), w.nodes[0].endpoint.terminating = true).1;
    check("in a hurry", well(), leaves, WELL, "fence 0 now");
    check_change("all there", fenced, "appoint mysql-1");
    let behind = |w: &mut World| (fenced(w), probe(w, 1).executed = gtids("0:1-8")).1;
    check("not all there", well(), behind, "PrimaryFenced CatchingUp Serving", "await 1");
    check_change(
        "too long",
        |w| (behind(w), w.handover_for = Duration::from_secs(8)).1,
        "back: it took longer than 8 s",
    );
    check_change("open for ever", |w| (running(w), w.handover_failed = Some("why".into())).1, "back: why");
    check_change("the target is gone", |w| (fenced(w), unreachable(w, 1)).1, "");
    check_change(
        "the target is errant",
        |w| (fenced(w), probe(w, 1).executed = gtids("0:1-9,1:1")).1,
        "back: mysql-1 cannot be the primary: it is Errant",
    );
    check("appointed", well(), appointed, "Detached PrimaryFenced Detached", "drop 1, allow 1");
    let unseen = |w: &mut World| (appointed(w), unreachable(w, 0)).1;
    check("appointed, the old one unseen", well(), unseen, "Unreachable PrimaryFenced Detached", "drop 1");
    check_change(
        "it takes writes",
        |w| {
            appointed(w);
            probe(w, 1).channel = None;
            (probe(w, 1).read_only, probe(w, 1).super_read_only) = (false, false);
        },
        "end",
    );
}

#[test]
fn a_dead_primary_is_reported() {
    let dead = |w: &mut World| {
        unreachable(w, 0);
        probe(w, 1).executed = gtids("0:1-7");
        probe(w, 2).executed = gtids("0:1-8");
    };
    check("nothing is done", well(), dead, "Unreachable Serving Serving", "");
    check_problem("what is at risk", well(), dead, "mysql-2 has most; at risk are 1 transactions: 00000000");
    check_problem("nothing is", well(), |w| unreachable(w, 0), "mysql-1 has all that is known of");
}

#[test]
fn a_pause_changes_nothing() {
    let broken = |w: &mut World| (blank(w, 2), w.wishes.paused = true).1;
    check("paused", well(), broken, "Primary Serving Blank", "");
    check("in the middle", well(), |w| (running(w), w.wishes.paused = true).1, WELL, "fence 0");
}
