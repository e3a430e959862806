//! Plans that must never be carried out, each against a world in which it would do harm.

use super::super::plan::Plan;
use super::super::story::{self, *};
use super::super::world::Handover;
use super::*;
use crate::model::wishes::Wish;

/// The names of the rules that a plan of these steps breaks.
#[track_caller]
fn check(name: &str, mut world: World, change: impl FnOnce(&mut World), steps: &[Step], expected: &[&str]) {
    change(&mut world);
    let plan = Plan { steps: steps.to_vec(), ..Plan::default() };
    let broken: Vec<String> =
        verify(&world, &plan).iter().map(|violation| violation.to_string()[..2].to_owned()).collect();
    assert_eq!(broken, expected, "{name}");
}

fn clone(server: u8, donor: u8) -> Step {
    Step::Clone { server: id(server), donor: id(donor) }
}

fn follow(server: u8, source: u8) -> Step {
    Step::Follow { server: id(server), source: id(source) }
}

fn initialise(server: u8) -> Step {
    Step::Initialise { server: id(server), cluster: CLUSTER.into() }
}

#[test]
fn r1_a_cluster_is_made_once() {
    check("new", new(), |_| (), &[initialise(0)], &[]);
    check("made before", new(), |w| w.record.bootstrapped = true, &[initialise(0)], &["R1"]);
    check("someone has data", new(), |w| probe(w, 2).cluster = Some("x".into()), &[initialise(0)], &["R1"]);
    check("someone is unseen", new(), |w| unreachable(w, 2), &[initialise(0)], &["R5"]);
    check("someone's claim is", new(), |w| w.claims = claims(&[0, 3], 1), &[initialise(0)], &["R5"]);
    check("nothing tells what one has", new(), |w| probe(w, 2).gtid_mode = false, &[initialise(0)], &["R1"]);
    let adopt = Step::Adopt { server: id(0), cluster: "b".into() };
    check("another's marker", well(), |w| w.record.bootstrapped = false, &[adopt], &["R1"]);
}

#[test]
fn r2_donors() {
    let check = |name: &str, change: fn(&mut World), donor: u8, expected: &[&str]| {
        let both = |w: &mut World| {
            blank(w, 2);
            change(w);
        };
        check(name, well(), both, &[clone(2, donor)], expected);
    };
    check("good", |_| (), 1, &[]);
    check("the primary", |_| (), 0, &[]);
    check("itself", |_| (), 2, &["R2"]);
    check("unreachable", |w| unreachable(w, 1), 1, &["R2"]);
    check("blank", |w| blank(w, 1), 1, &["R2"]);
    check("foreign", |w| probe(w, 1).cluster = Some("b".into()), 1, &["R2"]);
    check("errant", |w| probe(w, 1).executed = gtids("0:1-9,1:1"), 1, &["R2"]);
    check("takes writes", |w| probe(w, 1).super_read_only = false, 1, &["R2"]);
    check(
        "too far behind",
        |w| {
            probe(w, 1).executed = gtids("0:1");
            probe(w, 0).purged = gtids("0:1-2");
        },
        1,
        &["R2"],
    );
    check("another series", |w| probe(w, 1).version.minor = 6, 1, &["R2"]);
    check("of a lost primary", |w| blank(w, 0), 1, &["R2"]);
    check("an empty primary", |w| blank(w, 0), 0, &["R2"]);
    check("being copied to", |w| _ = w.busy.insert(id(1)), 1, &["R2"]);
    check("overwritten in part", |w| overwriting(w, 1), 1, &["R2"]);
    check("the primary is of another series", |w| probe(w, 0).version.minor = 6, 0, &["R2"]);
    let twins = |w: &mut World| (probe(w, 2).uuid, probe(w, 2).executed) = (uuid(1).into(), gtids(""));
    check("another has its uuid", twins, 1, &["R2"]);
}

#[test]
fn r3_what_would_be_lost() {
    check("good data", well(), |_| (), &[clone(2, 1)], &["R3"]);
    check("good data, by policy", well(), |w| w.diverged = Diverged::Reclone, &[clone(2, 1)], &[]);
    check("begun before", well(), |w| overwriting(w, 2), &[clone(2, 1)], &[]);
    let behind = |w: &mut World| {
        probe(w, 2).executed = gtids("0:1");
        probe(w, 0).purged = gtids("0:1-2");
    };
    check("behind the logs", well(), behind, &[clone(2, 1)], &[]);
    let errant = |w: &mut World, seconds: u64| {
        w.diverged = Diverged::Reclone;
        probe(w, 2).executed = gtids("0:1-9,2:1");
        w.errant_for.insert(id(2), Duration::from_secs(seconds));
    };
    check("its own, just seen", well(), |w| errant(w, 9), &[clone(2, 1)], &["R3"]);
    check("its own, by policy", well(), |w| errant(w, 10), &[clone(2, 1)], &[]);
    check("and no primary", well(), |w| unreachable(w, 0), &[clone(2, 1)], &["R3", "R2"]);
    check(
        "transactions of its own",
        well(),
        |w| (errant(w, 10), w.diverged = Diverged::Hold).1,
        &[clone(2, 1)],
        &["R3"],
    );
    check(
        "another cluster's data",
        well(),
        |w| probe(w, 2).cluster = Some("b".into()),
        &[clone(2, 1)],
        &["R3"],
    );
    check(
        "two at a time",
        well(),
        |w| {
            blank(w, 1);
            blank(w, 2);
        },
        &[clone(1, 0), clone(2, 0)],
        &["R3", "R3"],
    );
    check(
        "a second beside one that runs",
        well(),
        |w| {
            blank(w, 2);
            seen(w, 1).survey.clone = Some(clone_run(CloneState::Running));
        },
        &[clone(2, 0)],
        &["R3"],
    );
}

#[test]
fn r4_the_primary_stays() {
    check("overwritten", well(), |_| (), &[clone(0, 1)], &["R3", "R4"]);
    check("overwritten when blank", well(), |w| blank(w, 0), &[clone(0, 1)], &["R4", "R2"]);
    check("made a replica", well(), |_| (), &[follow(0, 1)], &["R4", "R7"]);
}

#[test]
fn r5_unreachable_is_not_empty() {
    check("copied to", well(), |w| unreachable(w, 2), &[clone(2, 1)], &["R5"]);
}

#[test]
fn r6_who_takes_writes() {
    let allow = |ordinal: u8| Step::AllowWrites { server: id(ordinal) };
    check("the primary", well(), |_| (), &[allow(0)], &[]);
    check("a replica", well(), |_| (), &[allow(1)], &["R6"]);
    check("beside another", well(), |w| probe(w, 1).read_only = false, &[allow(0)], &["R6"]);
    check("an empty primary", well(), |w| blank(w, 0), &[allow(0)], &["R6"]);
    check("one that lost data", well(), |w| probe(w, 0).executed = gtids("0:1"), &[allow(0)], &["R6"]);
}

#[test]
fn r7_nobody_follows_an_unproven_primary() {
    check("proven", well(), |_| (), &[follow(2, 0)], &[]);
    check("a replica", well(), |_| (), &[follow(2, 1)], &["R7"]);
    check("empty", well(), |w| blank(w, 0), &[follow(2, 0)], &["R7"]);
    check("before the cluster is made", new(), |_| (), &[follow(2, 0)], &["R7", "R9"]);
    let start = || Step::Start { server: id(2) };
    check("start", well(), |_| (), &[start()], &[]);
    check("start, from another", well(), |w| channel_of(w, 2).host = "b".into(), &[start()], &["R7"]);
    let old = |w: &mut World| channel_of(w, 2).receiver.source_uuid = uuid(7).into();
    check("start, from the one of before", well(), old, &[start()], &["R7"]);
    check(
        "start, by file and position",
        well(),
        |w| channel_of(w, 2).auto_position = false,
        &[start()],
        &["R7"],
    );
    check("start, from an empty one", well(), |w| blank(w, 0), &[start()], &["R7"]);
    let helped = |w: &mut World| {
        probe(w, 2).executed = gtids("0:1-5");
        (probe(w, 0).purged, probe(w, 1).purged) = (gtids("0:1-7"), gtids("0:1-5"));
    };
    check("one with the logs", well(), helped, &[follow(2, 1)], &[]);
    for (name, change) in [
        ("without them", (|w| probe(w, 1).purged = gtids("0:1-6")) as fn(&mut World)),
        ("errant", |w| probe(w, 1).executed = gtids("0:1-9,1:1")),
        ("open", |w| probe(w, 1).super_read_only = false),
        ("overwritten in part", |w| overwriting(w, 1)),
        ("another cluster's", |w| probe(w, 1).cluster = Some("b".into())),
        ("of a lost primary", |w| blank(w, 0)),
    ] {
        check(name, well(), |w| (helped(w), change(w)).1, &[follow(2, 1)], &["R7"]);
    }
}

#[test]
fn r9_servers_that_are_not_ours() {
    let server = || id(2);
    for step in [
        Step::Start { server: server() },
        follow(2, 0),
        Step::StayStopped { server: server() },
        Step::StopReceiving { server: server() },
        Step::SetServerId { server: server(), number: 7 },
    ] {
        let steps = [step];
        check("ours", well(), |_| (), &steps, &[]);
        check("another cluster's", well(), |w| probe(w, 2).cluster = Some("b".into()), &steps, &["R9"]);
    }
    let number = Step::SetServerId { server: server(), number: 7 };
    check("a new one's number", well(), |w| blank(w, 2), &[number], &[]);
}

#[test]
fn r8_switchovers() {
    let change = |name: &str, before: &dyn Fn(&mut World), change: Change, expected: &[&str]| {
        let mut world = well();
        before(&mut world);
        let plan = Plan { change: Some(change), ..Plan::default() };
        let broken: Vec<String> =
            verify(&world, &plan).iter().map(|violation| violation.to_string()[..2].to_owned()).collect();
        assert_eq!(broken, expected, "{name}");
    };
    let handover = |to| Handover { from: id(0), to: id(to), id: "w".into() };
    let begin = |to| Change::Begin { handover: handover(to) };
    let appoint = || Change::Appoint { server: id(1), uuid: uuid(1).into(), executed: gtids("0:1-9") };
    let fenced = |w: &mut World| {
        w.record.handover = Some(handover(1));
        (probe(w, 0).read_only, probe(w, 0).super_read_only) = (true, true);
    };
    let appointed = |w: &mut World| {
        fenced(w);
        (w.record.primary, w.record.primary_uuid) = (Some(id(1)), Some(uuid(1).into()));
    };
    change("begin", &|_| (), begin(1), &[]);
    change("a second", &fenced, begin(1), &["R8"]);
    change("to itself", &|_| (), begin(0), &["R8"]);
    change("to an errant one", &|w| probe(w, 1).executed = gtids("0:1-9,1:1"), begin(1), &["R8"]);
    change("to one unseen", &|w| unreachable(w, 1), begin(1), &["R8"]);
    change("to one that takes writes", &|w| probe(w, 1).super_read_only = false, begin(1), &["R8"]);
    change("from one unseen", &|w| unreachable(w, 0), begin(1), &["R8"]);
    change("appoint", &fenced, appoint(), &[]);
    change("without a switchover", &|_| (), appoint(), &["R8"]);
    change("the old one is open", &|w| w.record.handover = Some(handover(1)), appoint(), &["R8"]);
    change("the old one unseen", &|w| (fenced(w), unreachable(w, 0)).1, appoint(), &["R8"]);
    change("a step runs on it", &|w| _ = (fenced(w), w.busy.insert(id(0))), appoint(), &["R8"]);
    change("a lack", &|w| (fenced(w), probe(w, 1).executed = gtids("0:1-8")).1, appoint(), &["R8"]);
    change("a late lack", &|w| (fenced(w), w.primary_after = Some(gtids("0:1-10"))).1, appoint(), &["R8"]);
    change("errant", &|w| (fenced(w), probe(w, 1).executed = gtids("0:1-9,1:1")).1, appoint(), &["R8"]);
    change("going back", &fenced, Change::Abandon { why: "".into() }, &[]);
    change("too late to go back", &appointed, Change::Abandon { why: "".into() }, &["R8"]);
    change("not open yet", &appointed, Change::End, &["R8"]);

    let allow = |ordinal: u8| Step::AllowWrites { server: id(ordinal) };
    check("the new one", well(), appointed, &[allow(1)], &[]);
    check("the old one", well(), appointed, &[allow(0)], &["R6"]);
    check("the old one, while it hands over", well(), fenced, &[allow(0)], &["R6"]);
    check("the new one, too early", well(), fenced, &[allow(1)], &["R6"]);
    check("the old one unseen", well(), |w| (appointed(w), unreachable(w, 0)).1, &[allow(1)], &["R6"]);
    check(
        "the old one half open",
        well(),
        |w| (appointed(w), probe(w, 0).super_read_only = false).1,
        &[allow(1)],
        &["R6"],
    );
    let ahead = |w: &mut World| (appointed(w), probe(w, 0).executed = gtids("0:1-10")).1;
    check("the old one has more", well(), ahead, &[allow(1)], &["R6"]);
    let fence = Step::Fence { server: id(0), impatient: false };
    check("nobody takes over", well(), |_| (), &[fence], &["R8"]);
}

#[test]
fn r8_a_primary_that_is_given_up() {
    let gone = |w: &mut World| {
        unreachable(w, 0);
        w.wishes.switchover = Some(Wish { id: "w".into(), to: None, force: true });
        for ordinal in [1, 2] {
            channel_of(w, ordinal).receiver.state = ThreadState::Off;
        }
    };
    let check = |name: &str, change: &dyn Fn(&mut World), expected: &[&str]| {
        let mut world = well();
        gone(&mut world);
        change(&mut world);
        let executed = probe(&mut world, 1).executed.clone();
        let (id, lost) = ("w".into(), GtidSet::default());
        let given = Change::GiveUp {
            id,
            from: story::id(0),
            server: story::id(1),
            uuid: uuid(1).into(),
            executed,
            lost,
        };
        let plan = Plan { change: Some(given), ..Plan::default() };
        let broken: Vec<String> =
            verify(&world, &plan).iter().map(|violation| violation.to_string()[..2].to_owned()).collect();
        assert_eq!(broken, expected, "{name}");
    };
    check("gone", &|_| (), &[]);
    check("a loss", &|w| w.record.watermark = gtids("0:1-12"), &[]);
    check("nobody wants it", &|w| w.wishes.switchover = None, &["R8"]);
    check("a planned one is wanted", &|w| w.wishes.switchover.as_mut().expect("made").force = false, &["R8"]);
    check(
        "another one is wanted",
        &|w| w.wishes.switchover.as_mut().expect("made").to = Some(id(2)),
        &["R8"],
    );
    check("long ago", &|w| w.wish_for = LONGEST_WISH, &["R8"]);
    check("it is well", &|w| w.nodes[0] = well().nodes.swap_remove(0), &["R8"]);
    check("it lets nobody in", &|w| refused(w, 0), &["R8"]);
    check("it was never set up", &|w| w.record.bootstrapped = false, &["R8"]);
    check("one listens", &|w| channel_of(w, 2).receiver.state = ThreadState::On, &["R8"]);
    check("one has more", &|w| probe(w, 2).executed = gtids("0:1-10"), &["R8"]);
    check("one has more of its own", &|w| probe(w, 2).executed = gtids("0:1-9,2:1"), &[]);
    check("one is unseen", &|w| unreachable(w, 2), &["R8"]);
    check("who takes over is unseen", &|w| probe(w, 1).uuid = uuid(7).into(), &["R8"]);
    check("has more to apply", &|w| channel_of(w, 1).receiver.applied_all = false, &["R8"]);
    check("is another cluster's", &|w| probe(w, 1).cluster = Some("b".into()), &["R8"]);
    check("is overwritten", &|w| overwriting(w, 1), &["R8"]);
    check("another is the primary", &|w| w.record.primary = Some(id(2)), &["R8"]);
}
