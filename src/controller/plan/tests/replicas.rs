//! What is wrong with replicas, and what helps.

use super::*;

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
    // As when it was made by hand, and nobody had it replicate before the cluster was marked.
    let copy = |w: &mut World| {
        blank(w, 2);
        seen(w, 2).survey.user_schemas = 1;
        probe(w, 2).executed = gtids("0:1-7");
    };
    check("a copy that does not replicate", well(), copy, "Primary Serving Unmarked", "");
    check_problem("what helps", well(), copy, "CHANGE REPLICATION SOURCE TO the primary");
    let stopped = |w: &mut World| (copy(w), channel_of(w, 2).receiver.state = ThreadState::Off).1;
    check_problem(
        "what helps one that is stopped",
        well(),
        stopped,
        "the primary, START REPLICA there brings",
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
    check(
        "a new one of the same uuid: a copy would not cure that",
        well(),
        |w| {
            blank(w, 2);
            (probe(w, 2).uuid, probe(w, 2).executed) = (uuid(1).into(), gtids(""));
        },
        "Primary DuplicateUuid DuplicateUuid",
        "forbid 2",
    );
    check_problem(
        "what to do",
        well(),
        |w| probe(w, 2).uuid = uuid(1).into(),
        "mysql-1: its server_uuid is that of mysql-2: stop it, remove auto.cnf",
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
        "start 2",
    );
    check("applier stopped", well(), |w| channel_of(w, 2).applier.running = false, detached, "start 2");
    check(
        "by the pod's address",
        well(),
        |w| w.nodes[0].endpoint.name.host = "mysql-0.mysql".into(),
        WELL,
        "",
    );
    check("two channels", well(), |w| probe(w, 2).channels = 2, broken, "");
    check("filtered", well(), |w| seen(w, 2).survey.filters = "REPLICATE_DO_DB".into(), broken, "");
    check_problem(
        "filtered",
        well(),
        |w| seen(w, 2).survey.filters = "REPLICATE_DO_DB".into(),
        "mysql-2: it leaves out a part of what it receives (REPLICATE_DO_DB)",
    );
    check(
        "connecting",
        well(),
        |w| channel_of(w, 2).receiver.state = ThreadState::Connecting,
        "Primary Serving CatchingUp",
        "",
    );
    let receiver = |state: ThreadState, code: u32| {
        move |w: &mut World| {
            channel_of(w, 2).receiver.state = state;
            channel_of(w, 2).receiver.error = error(code);
        }
    };
    use ThreadState::{Connecting, Off};
    check("the network fails it", well(), receiver(Connecting, 2003), broken, "");
    check("the source is full", well(), receiver(Connecting, 1040), broken, "");
    check("its password is old", well(), receiver(Connecting, 1045), broken, follow);
    check("it has not the source's key", well(), receiver(Connecting, 2061), broken, follow);
    check("its TLS is not ours", well(), receiver(Connecting, 2026), broken, follow);
    check("it gave up", well(), receiver(Off, 2003), broken, "start 2");
    // By its GTIDs it lacks nothing that the source has no logs of, so that the number alone means nothing.
    check("1236", well(), receiver(Off, 13114), broken, "start 2");
    let applier = |code: u32, attempts: u32| {
        move |w: &mut World| {
            channel_of(w, 2).applier.running = false;
            channel_of(w, 2).applier.error = error(code);
            if attempts > 0 {
                tried(w, 2, attempts, 0);
            }
        }
    };
    check("a duplicate key is tried once", well(), applier(1062, 0), broken, "start 2");
    check("and is never skipped", well(), applier(1062, 1), broken, "");
    check_problem("it is told", well(), applier(1062, 1), "its data is not what the primary's was");
    check(
        "or copied anew, where that is wanted",
        well(),
        |w| (applier(1032, 1)(w), w.diverged = Diverged::Reclone).1,
        broken,
        "clone 2<1",
    );
    check(
        "not for an error that says nothing of data",
        well(),
        |w| (applier(1153, 1)(w), w.diverged = Diverged::Reclone).1,
        broken,
        "",
    );
    check("a deadlock passes", well(), applier(1213, 3), broken, "start 2");
    check("a relay log is fetched again", well(), applier(13121, 1), broken, follow);
    check("one that is gone, too", well(), applier(13117, 1), broken, follow);
    for code in [3, 1021, 1026, 1114] {
        check("a full disk is waited for", well(), applier(code, 9), broken, "start 2");
    }
    check(
        "a full disk is no reason to copy",
        well(),
        |w| (applier(1021, 9)(w), w.diverged = Diverged::Reclone).1,
        broken,
        "start 2",
    );
}

#[test]
fn behind() {
    check("by a look", well(), |w| probe(w, 2).executed = gtids("0:1-5"), "Primary Serving CatchingUp", "");
    check(
        "further than the logs reach",
        well(),
        |w| {
            probe(w, 2).executed = gtids("0:1-5");
            (probe(w, 0).purged, probe(w, 1).purged) = (gtids("0:1-7"), gtids("0:1-6"));
        },
        "Primary Serving BehindPurge",
        "clone 2<1",
    );
    let helped = |w: &mut World| {
        probe(w, 2).executed = gtids("0:1-5");
        (probe(w, 0).purged, probe(w, 1).purged) = (gtids("0:1-7"), gtids("0:1-5"));
    };
    let classes = "Primary Serving BehindPurge";
    check("another has the logs", well(), helped, classes, "follow 2>1");
    check(
        "it goes on from there",
        well(),
        |w| {
            helped(w);
            channel_of(w, 2).host = "mysql-1".into();
            channel_of(w, 2).receiver.source_uuid = uuid(1).into();
        },
        classes,
        "",
    );
    check(
        "until the primary has the logs",
        well(),
        |w| {
            helped(w);
            probe(w, 2).executed = gtids("0:1-7");
            channel_of(w, 2).host = "mysql-1".into();
        },
        "Primary Serving Detached",
        "follow 2>0",
    );
    check("but not again and again", well(), |w| (helped(w), tried(w, 2, 3, 0)).1, classes, "clone 2<1");
    check(
        "one that leaves helps nobody",
        well(),
        |w| (helped(w), w.nodes[1].endpoint.terminating = true).1,
        classes,
        "clone 2<0",
    );
}
