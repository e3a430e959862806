//! A primary that is given up: who takes over, and what that waits for.

use super::*;
use crate::controller::world::LONGEST_WISH;

/// It is dead, nobody listens to it any more, and people say that it is gone for good.
fn gone(world: &mut World) {
    unreachable(world, 0);
    for ordinal in [1, 2] {
        channel_of(world, ordinal).receiver.state = ThreadState::Off;
    }
    forced(world, None);
}

fn forced(world: &mut World, to: Option<u8>) {
    wish(world, to);
    world.wishes.switchover.as_mut().expect("just made").force = true;
}

#[test]
fn who_takes_over() {
    let behind = |w: &mut World| {
        gone(w);
        probe(w, 1).executed = gtids("0:1-6");
        probe(w, 2).executed = gtids("0:1-8");
    };
    check_change("nobody says so", |w| (gone(w), wish(w, None)).1, "");
    check_change("all have all", gone, "give up for mysql-1, losing 0");
    check_change("the best", behind, "give up for mysql-2, losing 1");
    check_change(
        "not the best",
        |w| (behind(w), forced(w, Some(1))).1,
        "no: mysql-2 has 2 transactions that mysql-1 has not",
    );
    check_change("one by name", |w| (gone(w), forced(w, Some(2))).1, "give up for mysql-2, losing 0");
    check_change(
        "more than was known of",
        |w| (gone(w), probe(w, 2).executed = gtids("0:1-12")).1,
        "give up for mysql-2, losing 0",
    );
    check_change(
        "known of since the record was written",
        |w| (gone(w), w.primary_before = gtids("0:1-12")).1,
        "give up for mysql-1, losing 3",
    );
    check_change("itself", |w| (gone(w), forced(w, Some(0))).1, "no: mysql-0 is the one to be given up");
    let unfit = "is not there, is being taken away, or has not the cluster's data and no other";
    check_change("unknown", |w| (gone(w), forced(w, Some(7))).1, &format!("no: mysql-7 {unfit}"));
    check_change("empty", |w| (gone(w), blank(w, 2), forced(w, Some(2))).2, &format!("no: mysql-2 {unfit}"));
    // What somebody has written to a replica is nobody's to wait for, and does not become the cluster's.
    let errant = |w: &mut World| (gone(w), probe(w, 1).executed = gtids("0:1-9,1:1")).1;
    check_change("one is errant", errant, "give up for mysql-2, losing 0");
    check_change("that one by name", |w| (errant(w), forced(w, Some(1))).1, &format!("no: mysql-1 {unfit}"));
    check_change("paused", |w| (gone(w), w.wishes.paused = true).1, "");
    check_change(
        "answered",
        |w| (gone(w), w.record.ended = Some(Ended { id: "w".into(), failure: None })).1,
        "",
    );
    check_change(
        "long ago",
        |w| (gone(w), w.wish_for = LONGEST_WISH).1,
        "no: mysql-0 could not be given up within 600 s",
    );
    check_change("it is well", |w| forced(w, Some(2)), "mysql-0 to mysql-2");
}

#[test]
fn what_it_waits_for() {
    let dead = "Unreachable Serving Serving";
    let waits = |name: &str, change: &dyn Fn(&mut World), classes: &str, steps: &str, words: &str| {
        let change = |w: &mut World| (gone(w), change(w)).1;
        check(name, well(), change, classes, steps);
        check_problem(name, well(), change, words);
        check_change(name, change, "");
    };
    let on = |w: &mut World| {
        channel_of(w, 2).receiver.state = ThreadState::On;
    };
    waits("a heartbeat", &on, dead, "", "mysql-2 hears of it: it lives");
    let silent = |w: &mut World| (on(w), probe(w, 2).clock = 11_000_000).1;
    waits("no heartbeat", &silent, dead, "stop 2", "mysql-2 stops listening to it first");
    let looks = |w: &mut World| channel_of(w, 2).receiver.state = ThreadState::Connecting;
    waits("one looks for it", &looks, dead, "stop 2", "mysql-2 stops listening to it first");
    let received = |w: &mut World| channel_of(w, 2).receiver.applied_all = false;
    waits("one has more to come", &received, dead, "", "mysql-2 has received more than it has applied");
    let away = |w: &mut World| unreachable(w, 2);
    waits(
        "one does not answer",
        &away,
        "Unreachable Serving Unreachable",
        "",
        "mysql-2 does not answer, and may have more",
    );
    let locked = |w: &mut World| refused(w, 0);
    waits("it runs", &locked, "Unmanageable Serving Serving", "", "it runs, and may take writes");
}

/// It came back without what it had; or discovery does not know it any more.
#[test]
fn lost_and_away() {
    let lost = |w: &mut World| {
        w.nodes[0].state = well().nodes.swap_remove(0).state;
        blank(w, 0);
    };
    check("it is fenced first", well(), |w| (gone(w), lost(w)).1, "PrimaryLost Serving Serving", "forbid 0");
    check_change("and not given up before", |w| (gone(w), lost(w)).1, "");
    let fenced = |w: &mut World| (gone(w), lost(w), probe(w, 0).super_read_only = true).2;
    check_change("lost", fenced, "give up for mysql-1, losing 0");
    let away = |w: &mut World| (gone(w), w.nodes.remove(0)).0;
    check_change("away", away, "give up for mysql-1, losing 0");
    check_problem(
        "it is said how",
        well(),
        |w| _ = w.nodes.remove(0),
        "`readwright switchover --force` has another",
    );
    check(
        "who looks for one that is away stops",
        well(),
        |w| {
            w.nodes.remove(0);
            channel_of(w, 0).receiver.state = ThreadState::Connecting;
        },
        "Serving Serving",
        "stop 1",
    );
}

/// The old primary dies for good when the new one is appointed, and before that takes writes.
#[test]
fn in_the_middle_of_a_switchover() {
    let stuck = |w: &mut World| {
        running(w);
        gone(w);
        (w.record.primary, w.record.primary_uuid) = (Some(id(1)), Some(uuid(1).into()));
        probe(w, 1).channel = None;
        w.wishes.switchover.as_mut().expect("it is forced").id = "another".into();
    };
    check_change("it has everything", stuck, "give up for mysql-1, losing 0");
    check_change(
        "another one is wished for",
        |w| (stuck(w), w.wishes.switchover.as_mut().expect("it is forced").to = Some(id(2))).1,
        "no: mysql-1 is to take over already, and has everything: name it, or nobody",
    );
    let late = |w: &mut World| (stuck(w), channel_of(w, 2).receiver.state = ThreadState::Connecting).1;
    check("one looks for it", well(), late, "Unreachable PrimaryFenced Detached", "stop 2");
    let empty = |w: &mut World| {
        stuck(w);
        w.nodes[0].state = well().nodes.swap_remove(0).state;
        blank(w, 0);
    };
    check("it came back empty", well(), empty, "Blank PrimaryFenced Detached", "forbid 0");
    check_change(
        "it is seen fenced",
        |w| {
            stuck(w);
            w.nodes[0].state = well().nodes.swap_remove(0).state;
            (probe(w, 0).read_only, probe(w, 0).super_read_only) = (true, true);
        },
        "",
    );
}

/// Whoever is given up has transactions of its own when it comes back.
#[test]
fn it_comes_back() {
    let mut world = well();
    gone(&mut world);
    probe(&mut world, 1).executed = gtids("0:1-8");
    probe(&mut world, 2).executed = gtids("0:1-8");
    let change = plan(&world).change.expect("it is given up");
    world.record = world.record.after(&change);
    let back = |w: &mut World| {
        w.record = world.record.clone();
        (w.primary_after, w.primary_before) = (Some(gtids("0:1-8,1:1")), gtids("0:1-8,1:1"));
        probe(w, 1).executed = gtids("0:1-8,1:1");
        probe(w, 2).executed = gtids("0:1-8,1:1");
        (probe(w, 1).read_only, probe(w, 1).super_read_only) = (false, false);
        probe(w, 1).channel = None;
        let channel = channel_of(w, 2);
        (channel.host, channel.receiver.source_uuid) = (address(1).host, uuid(1).into());
    };
    check("with what is lost", well(), back, "Errant Primary Serving", "forbid 0");
    check(
        "without",
        well(),
        |w| (back(w), probe(w, 0).executed = gtids("0:1-8")).1,
        "Detached Primary Serving",
        "forbid 0, follow 0>1",
    );
    check(
        "while the new one is away",
        well(),
        |w| (back(w), unreachable(w, 1)).1,
        "Detached Unreachable Serving",
        "forbid 0",
    );
}
