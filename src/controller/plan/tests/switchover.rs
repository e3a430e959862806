//! Switchovers: who takes over, and each step on the way.

use super::*;

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
    let open = |w: &mut World| (wish(w, Some(1)), probe(w, 1).super_read_only = false).1;
    check_change("it may take writes", open, "");
    check("so it is made read-only", well(), open, WELL, "forbid 1");
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
    let open = |w: &mut World| (fenced(w), probe(w, 1).super_read_only = false).1;
    check_change("the target may take writes", open, "");
    check("so it is made read-only", well(), open, "PrimaryFenced Serving Serving", "forbid 1");
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
