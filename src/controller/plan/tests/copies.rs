//! Copies: when, from whom, and what is asked before.

use super::*;

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
    check(|w| probe(w, 2).version = Version::mysql(9, 6, 0), "it runs 9.6.0, and mysql-1 runs 9.7.4");
    check(
        |w| (0..3).for_each(|at| probe(w, at).version = Version::mysql(8, 0, 16)),
        "it runs 8.0.16, and CLONE came with 8.0.17",
    );
    check(
        |w| seen(w, 2).survey.layout = "character_set_server=utf8mb4 innodb_page_size=4096".into(),
        "mysql-1 has innodb_page_size=16384, and it has not",
    );
    check(
        |w| seen(w, 2).survey.packet = 1 << 20,
        "its max_allowed_packet is 1048576, and CLONE needs 2097152",
    );
    check(|w| seen(w, 2).survey.read_only_schemas = "old".into(), "CLONE cannot drop old");
    check(
        |w| (0..2).for_each(|at| seen(w, at).survey.packet = 1 << 20),
        "mysql-1's max_allowed_packet is 1048576",
    );
    check(
        |w| (0..2).for_each(|at| seen(w, at).survey.redo_log = false),
        "mysql-1 writes no redo log; run ALTER INSTANCE ENABLE",
    );
    check(
        |w| (0..2).for_each(|at| w.nodes[at].endpoint.name.host = "fd00::1".into()),
        "CLONE does not take fd00::1, an IPv6 address",
    );
    check(
        |w| {
            for ordinal in [0, 1] {
                probe(w, ordinal).version = Version::mysql(8, 0, 36);
            }
            probe(w, 2).version = Version::mysql(8, 0, 40);
        },
        "it runs 8.0.40",
    );
    let sized = |w: &mut World| {
        w.claims = claims(&[0, 1, 2], 10 << 30);
        w.sizes = [(id(0), 9 << 30), (id(1), 9 << 30)].into();
    };
    check(sized, "its volume holds 10.0 GiB, and a copy of mysql-1 needs 11.1 GiB; enlarge its claim");
}

#[test]
fn a_donor_that_does_not_fit_is_passed_over() {
    let check = |name: &str, change: &dyn Fn(&mut World), steps: &str| {
        let both = |w: &mut World| {
            blank(w, 2);
            change(w);
        };
        check(name, well(), both, "Primary Serving Blank", steps);
    };
    check("another version", &|w| probe(w, 1).version.minor = 6, "clone 2<0");
    check("no redo log", &|w| seen(w, 1).survey.redo_log = false, "clone 2<0");
    check("it leaves", &|w| w.nodes[1].endpoint.terminating = true, "clone 2<0");
    let room = |w: &mut World, bytes| {
        w.claims = claims(&[2], bytes);
        w.sizes = [(id(0), 10 << 30), (id(1), 10 << 30)].into();
    };
    check("enough room", &|w| room(w, 13 << 30), "clone 2<1");
    check("room for the tables alone", &|w| room(w, 12 << 30), "");
    let failed = |w: &mut World, copies: u32| {
        tried(w, 2, copies, 0);
        w.resting.get_mut(&id(2)).expect("just now").failed_copies = copies;
    };
    check("one failure may be chance", &|w| failed(w, 1), "clone 2<1");
    check("then the next is asked", &|w| failed(w, 2), "clone 2<0");
    check("and the first again", &|w| failed(w, 4), "clone 2<1");
    check("the recipient leaves", &|w| w.nodes[2].endpoint.terminating = true, "");
    check(
        "several claims say nothing of room",
        &|w| {
            let mut claims = claims(&[2], 1).to_vec();
            claims.push(Claim { name: "logs-mysql-2".into(), capacity: Some(1) });
            (w.claims, w.sizes) = (claims.into(), [(id(1), 10)].into());
        },
        "clone 2<1",
    );
}

/// Killed while CLONE was dropping tables, a server comes back with its marker, its GTIDs, a part of its tables, and an
/// empty `clone_status`.
#[test]
fn what_was_to_be_overwritten_is() {
    let classes = "Primary Serving CloneBroken";
    check("it looks well", well(), |w| overwriting(w, 2), classes, "clone 2<1");
    check("on a new disk", well(), |w| (overwriting(w, 2), probe(w, 2).uuid = uuid(7).into()).1, WELL, "");
    let killed = |w: &mut World| seen(w, 2).survey.clone = Some(clone_run(CloneState::Dead));
    check("somebody else's copy", well(), killed, classes, "clone 2<1");
    let copied = |w: &mut World, began: &str| {
        seen(w, 2).survey.clone = Some(clone_run(CloneState::Completed));
        overwriting(w, 2);
        seen(w, 2).survey.clone.as_mut().expect("just now").began = began.into();
    };
    check("copied since", well(), |w| copied(w, "2026-02-02"), WELL, "");
    check("copied before", well(), |w| copied(w, "2026-01-01 00:00:00"), classes, "clone 2<1");
    let donor = |w: &mut World| (overwriting(w, 1), blank(w, 2)).1;
    check("it gives to nobody", well(), donor, "Primary CloneBroken Blank", "clone 1<0");
    check_change("nor is it the primary", |w| (wish(w, None), overwriting(w, 1)).1, "mysql-0 to mysql-2");
    check_problem(
        "nor does it have what a dead primary had",
        well(),
        |w| (unreachable(w, 0), overwriting(w, 1), unreachable(w, 2)).1,
        "No replica with its data answers",
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
    let just_now = |w: &mut World| {
        broken(w, CloneState::Dead);
        w.going_down.insert(id(2));
    };
    check("the same just now: it may be complete", well(), just_now, classes, "");
    check("failed", well(), |w| broken(w, CloneState::Failed), classes, "clone 2<1");
    check(
        "failed before anything was dropped",
        well(),
        |w| seen(w, 2).survey.clone = Some(clone_run(CloneState::Failed)),
        WELL,
        "",
    );
    check(
        "refused, with data that nobody knows",
        well(),
        |w| {
            broken(w, CloneState::Failed);
            seen(w, 2).survey.user_schemas = 1;
            seen(w, 2).survey.clone.as_mut().expect("failed").dropped = false;
        },
        "Primary Serving Unmarked",
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
        "forbid 2, follow 2>0",
    );
}
