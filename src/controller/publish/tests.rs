//! A stage of pods and a controller that looks at them. What is due is sent at once, and told in short lines.

use super::*;
use crate::model::progress::{Acts, Problem};

struct Stage {
    memory: Memory,
    pods: Vec<Pod>,
    progress: Progress,
    lags: BTreeMap<ServerId, Duration>,
    now: Instant,
}

const LIMIT: Duration = Duration::from_secs(4);

fn id(ordinal: usize) -> ServerId {
    ServerId::new(&format!("mysql-{ordinal}"))
}

fn pod(ordinal: usize) -> Pod {
    Pod {
        id: id(ordinal),
        uid: format!("uid-{ordinal}").into(),
        role: None,
        serving: None,
        owner: Some(Owner { name: "mysql".into(), uid: "set".into() }),
    }
}

impl Stage {
    /// So many pods that are new.
    fn new(pods: usize) -> Self {
        Self {
            memory: Memory::default(),
            pods: (0..pods).map(pod).collect(),
            progress: Progress { looked: Some(Instant::now()), ..Progress::default() },
            lags: BTreeMap::new(),
            now: Instant::now(),
        }
    }

    /// A primary and replicas that all serve, and stand so.
    fn well(pods: usize) -> Self {
        let mut stage = Self::new(pods);
        stage.is(0, Class::Primary);
        (1..pods).for_each(|replica| stage.is(replica, Class::Serving));
        stage.pass();
        assert!(stage.pass().is_empty());
        stage
    }

    fn is(&mut self, ordinal: usize, class: Class) {
        let server = ServerProgress {
            id: id(ordinal),
            uid: Some(self.pods[ordinal].uid.clone()),
            state: class.name(),
            doing: "words".into(),
            copy: None,
            serving: class.serving(),
            standing: standing(class),
        };
        self.progress.servers.retain(|server| server.id != id(ordinal));
        self.progress.servers.push(server);
    }

    fn says(&mut self, ordinal: usize, words: &str) {
        let server = self.progress.servers.iter_mut().find(|server| server.id == id(ordinal));
        server.expect("it is there").doing = words.into();
    }

    fn gate(&self, ordinal: usize) -> Option<bool> {
        self.pods[ordinal].serving.as_ref().map(|condition| condition.truth)
    }

    /// One second passes, and what is due then is sent.
    fn pass(&mut self) -> Vec<String> {
        self.now += Duration::from_secs(1);
        let due = self.due();
        let mut lines = Vec::new();
        for SetRole { id, uid, role } in due.roles {
            lines.push(format!("{id} is {}", role.unwrap_or("nothing")));
            let pod = self.pods.iter_mut().find(|pod| pod.id == id && pod.uid == uid).expect("that pod");
            pod.role = role.map(Arc::from);
        }
        for SetServing { id, uid, condition, turned } in due.conditions {
            let turns = if turned { "turns" } else { "stays" };
            lines.push(format!("{id} {turns} {} {}", condition.truth, condition.reason));
            let pod = self.pods.iter_mut().find(|pod| pod.id == id && pod.uid == uid).expect("that pod");
            pod.serving = Some(condition);
        }
        for Told { subject, tone, reason, note } in due.events {
            lines.push(format!("{} {tone:?} {reason}: {note}", subject.name));
        }
        lines
    }

    fn due(&mut self) -> Due {
        let lags = self.lags.clone();
        let lag = |id: &ServerId| lags.get(id).copied();
        let (progress, pods, now) = (&self.progress, &self.pods, self.now);
        publish(&mut self.memory, &View { progress, pods, lag: &lag, max_lag: LIMIT, now })
    }

    #[track_caller]
    fn expect(&mut self, expected: &[&str]) {
        assert_eq!(self.pass(), expected);
    }

    /// For so many seconds nothing is due.
    #[track_caller]
    fn quiet(&mut self, seconds: u32) {
        for second in 1..=seconds {
            assert_eq!(self.pass(), [""; 0], "after {second} s");
        }
    }
}

#[test]
fn a_first_boot() {
    let mut stage = Stage::new(1);
    stage.expect(&["mysql-0 turns false New"]);
    stage.is(0, Class::Blank);
    stage.expect(&["mysql-0 stays false Blank"]);
    stage.quiet(100);
    stage.is(0, Class::Primary);
    let opens = "mysql-0 Normal ServesReads: reads may go to it: words";
    stage.expect(&["mysql-0 is primary", "mysql-0 turns true Primary", opens]);
    stage.quiet(100);
    stage.pods.push(pod(1));
    stage.expect(&["mysql-1 turns false New"]);
    stage.is(1, Class::Blank);
    stage.expect(&["mysql-1 stays false Blank"]);
    stage.quiet(8);
    stage.is(1, Class::Cloning);
    stage.pass();
    stage.pass();
    assert_eq!(stage.pods[1].serving.as_ref().map(|condition| &*condition.reason), Some("Cloning"));
    stage.is(1, Class::Serving);
    let opens = "mysql-1 Normal ServesReads: reads may go to it: words";
    stage.expect(&["mysql-1 is replica", "mysql-1 turns true Serving", opens]);
    stage.quiet(100);
}

#[test]
fn who_is_let_in() {
    // What the gate is, before and after; `.` is a pod that is new.
    let check = |class: Class, expected: &str| {
        let after: String = [None, Some(true), Some(false)]
            .into_iter()
            .map(|before| {
                let mut stage = Stage::new(2);
                stage.pods[1].serving = before.map(|truth| Condition {
                    truth,
                    reason: "Before".into(),
                    message: "before".into(),
                });
                stage.is(0, Class::Primary);
                stage.is(1, class);
                stage.pass();
                if stage.gate(1) == Some(true) { '+' } else { '-' }
            })
            .collect();
        assert_eq!(after, expected, "{class:?}: new, was in, was out");
    };
    check(Class::Primary, "+++");
    check(Class::Serving, "+++");
    check(Class::PrimaryFenced, "-+-");
    check(Class::Unreachable, "-+-");
    check(Class::CatchingUp, "-+-");
    check(Class::Detached, "-+-");
    check(Class::Broken, "-+-");
    check(Class::Errant, "-+-");
    check(Class::Blank, "---");
    check(Class::Cloning, "---");
    check(Class::CloneBroken, "---");
    check(Class::Foreign, "---");
    check(Class::Unmarked, "---");
    check(Class::PrimaryLost, "---");
    check(Class::DuplicateUuid, "---");
    check(Class::BehindPurge, "---");
}

#[test]
fn a_replica_that_lags_leaves_at_once_and_comes_back_slowly() {
    let mut stage = Stage::well(2);
    stage.is(1, Class::CatchingUp);
    stage.lags.insert(id(1), LIMIT);
    stage.quiet(100);
    stage.lags.insert(id(1), LIMIT + Duration::from_millis(1));
    let leaves = "mysql-1 Warning ServesNoReads: reads go to it no more: words";
    stage.expect(&["mysql-1 turns false CatchingUp", leaves]);
    // Under the limit is not enough, nor is half of it for a moment.
    stage.lags.insert(id(1), LIMIT);
    stage.quiet(100);
    stage.lags.insert(id(1), LIMIT / 2);
    stage.quiet(9);
    stage.lags.insert(id(1), LIMIT);
    stage.quiet(1);
    stage.lags.insert(id(1), LIMIT / 2);
    stage.quiet(10);
    let opens = "mysql-1 Normal ServesReads: reads may go to it: words";
    stage.expect(&["mysql-1 turns true CatchingUp", opens]);
    stage.lags.insert(id(1), LIMIT * 2);
    stage.expect(&["mysql-1 turns false CatchingUp", leaves]);
    // Being up to date is enough.
    stage.is(1, Class::Serving);
    stage.expect(&["mysql-1 turns true Serving", opens]);
}

#[test]
fn data_grows_old_while_replication_stands() {
    let mut stage = Stage::well(2);
    stage.is(1, Class::Detached);
    stage.quiet(4);
    let leaves = "mysql-1 Warning ServesNoReads: reads go to it no more: words";
    stage.expect(&["mysql-1 turns false Detached", leaves]);
    // One that was away comes back with data of then.
    let mut stage = Stage::well(2);
    stage.is(1, Class::Unreachable);
    stage.quiet(20);
    stage.is(1, Class::Detached);
    stage.expect(&["mysql-1 turns false Detached", leaves]);
}

#[test]
fn a_primary_that_restarts_stays_ready() {
    let mut stage = Stage::well(1);
    for class in [Class::Unreachable, Class::PrimaryFenced, Class::Primary] {
        stage.is(0, class);
        stage.quiet(3);
    }
    assert_eq!((stage.gate(0), stage.pods[0].role.as_deref()), (Some(true), Some(PRIMARY)));
    // One that came back without its data does not.
    stage.is(0, Class::PrimaryLost);
    let lines = stage.pass();
    assert!(lines.contains(&"mysql-0 is nothing".to_owned()), "{lines:?}");
    assert!(lines.contains(&"mysql-0 turns false PrimaryLost".to_owned()), "{lines:?}");
    assert!(lines.contains(&"mysql-0 Warning PrimaryLost: words".to_owned()), "{lines:?}");
}

#[test]
fn the_primary_moves() {
    let mut stage = Stage::well(3);
    stage.quiet(10);
    stage.is(0, Class::PrimaryFenced);
    stage.quiet(2);
    // Only when nobody else is called the primary is the new one.
    stage.is(0, Class::Detached);
    stage.is(1, Class::PrimaryFenced);
    stage.expect(&["mysql-0 is replica"]);
    stage.expect(&["mysql-1 is primary"]);
    stage.is(1, Class::Primary);
    stage.expect(&["mysql-1 stays true Primary"]);
    stage.is(0, Class::Serving);
    stage.expect(&["mysql-0 stays true Serving"]);
    stage.quiet(100);
}

#[test]
fn a_primary_that_cannot_be_asked_is_the_primary_until_another_one_is() {
    let mut stage = Stage::well(2);
    stage.is(0, Class::Unreachable);
    stage.quiet(20);
    assert_eq!(stage.pods[0].role.as_deref(), Some(PRIMARY));
    stage.is(1, Class::Primary);
    assert_eq!(stage.pass()[0], "mysql-0 is nothing");
    assert_eq!(stage.pass()[0], "mysql-1 is primary");
    // Nor does one keep it that nobody looks at any more.
    let mut stage = Stage::well(2);
    stage.progress.servers.retain(|server| server.id == id(1));
    stage.is(1, Class::Primary);
    assert_eq!(stage.pass()[0], "mysql-0 is nothing");
}

#[test]
fn what_was_seen_of_a_pod_is_not_told_of_the_next() {
    let mut stage = Stage::well(2);
    stage.pods[1] = Pod { uid: "another".into(), ..pod(1) };
    stage.expect(&["mysql-1 turns false New"]);
    stage.quiet(100);
}

#[test]
fn what_is_not_seen_to_stand_is_sent_again() {
    let mut stage = Stage::well(2);
    stage.is(1, Class::Foreign);
    stage.now += Duration::from_secs(1);
    let first = stage.due();
    assert_eq!((first.roles.len(), first.conditions.len(), first.events.len()), (1, 1, 2));
    assert_eq!(stage.due(), Due::default());
    stage.now += SEEN;
    let again = stage.due();
    assert_eq!((again.roles, again.conditions), (first.roles, first.conditions));
}

#[test]
fn words_do_not_change_at_every_look() {
    let mut stage = Stage::well(2);
    stage.is(1, Class::Cloning);
    stage.pass();
    let mut sent = 0;
    for second in 0..120 {
        stage.says(1, &format!("copies: {second} of 1000"));
        sent += stage.pass().len();
    }
    // Once for other words, and once a minute for other numbers.
    assert_eq!(sent, 2);
}

#[test]
fn what_lasts_is_told_once() {
    let mut stage = Stage::well(2);
    stage.lags.insert(id(1), Duration::ZERO);
    stage.is(1, Class::Broken);
    stage.says(1, "error 3");
    stage.quiet(5);
    stage.expect(&["mysql-1 Warning Broken: error 3"]);
    stage.quiet(100);
    // Nor when it passes for a moment.
    stage.is(1, Class::Serving);
    stage.quiet(10);
    stage.is(1, Class::Broken);
    stage.says(1, "error 7");
    stage.quiet(100);
    // Another cause is told, and so is the same after a while.
    stage.says(1, "another cause");
    stage.expect(&["mysql-1 Warning Broken: another cause"]);
    stage.is(1, Class::Serving);
    stage.quiet(100);
    stage.is(1, Class::Broken);
    stage.quiet(5);
    stage.expect(&["mysql-1 Warning Broken: words"]);
    // Who takes over sees that it has been told.
    stage.is(1, Class::Foreign);
    assert_eq!(stage.pass().len(), 4);
    stage.memory = Memory::default();
    stage.quiet(100);
}

#[test]
fn problems() {
    let mut stage = Stage::well(2);
    let problem = |server, words: &str| Problem { reason: "CannotCopy", server, words: words.into() };
    stage.progress.problems.push(problem(None, "why"));
    stage.expect(&["mysql Warning CannotCopy: why"]);
    stage.quiet(100);
    stage.progress.problems.push(problem(Some(id(1)), "at 10"));
    stage.expect(&["mysql-1 Warning CannotCopy: at 10"]);
    stage.progress.problems[1] = problem(Some(id(1)), "at 20");
    stage.quiet(100);
    // A state that is called a problem is not told twice.
    stage.lags.insert(id(1), Duration::ZERO);
    stage.is(1, Class::Broken);
    stage.quiet(100);
    // A server whose pod is gone.
    stage.progress.problems = vec![problem(Some(id(7)), "where is it?")];
    stage.is(1, Class::Serving);
    stage.expect(&["mysql Warning CannotCopy: where is it?"]);
}

#[test]
fn acts() {
    let mut stage = Stage::well(2);
    let mut acts = Acts::default();
    acts.note(Some(&id(1)), "CopyStarted", "from mysql-0", Tone::Normal);
    acts.note(None, "SwitchoverFailed", "why", Tone::Warning);
    stage.progress.acts = acts.clone();
    stage.expect(&["mysql-1 Normal CopyStarted: from mysql-0", "mysql Warning SwitchoverFailed: why"]);
    acts.note(None, "SwitchoverFailed", "why", Tone::Warning);
    stage.progress.acts = acts;
    stage.quiet(10);
    // Another controller of this process counts anew.
    stage.progress.acts = Acts::default();
    stage.progress.acts.note(Some(&id(1)), "CopyDone", "all", Tone::Normal);
    stage.expect(&["mysql-1 Normal CopyDone: all"]);
}

#[test]
fn who_does_not_act_tells_nothing() {
    let mut stage = Stage::new(3);
    stage.is(0, Class::Primary);
    stage.progress.looked = None;
    stage.quiet(10);
    // But what keeps it from acting.
    stage.progress.problems.push(Problem { reason: "NoRecord", server: None, words: "damaged".into() });
    stage.expect(&["mysql Warning NoRecord: damaged"]);
    stage.quiet(10);
}
