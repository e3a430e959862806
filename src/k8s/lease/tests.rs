use proptest::prelude::*;

use super::*;

/// The one lease, as an API server keeps it.
#[derive(Default)]
struct Api {
    lease: Option<Lease>,
    version: u64,
}

impl Api {
    fn carry_out(&mut self, wanted: Move) -> Result<Option<Lease>, ()> {
        let (mut lease, fits) = match wanted {
            Move::Wait => return Ok(None),
            Move::Create(lease) => (lease, self.lease.is_none()),
            Move::Replace(lease) => {
                let known = self.lease.as_ref().map(|lease| &lease.metadata.resource_version);
                let fits = known == Some(&lease.metadata.resource_version);
                (lease, fits)
            }
        };
        if !fits {
            return Err(());
        }
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        Ok(Some(lease))
    }

    fn holder(&self) -> Option<&str> {
        self.lease.as_ref()?.spec.as_ref()?.holder_identity.as_deref()
    }

    fn term(&self) -> Option<i32> {
        self.lease.as_ref()?.spec.as_ref()?.lease_transitions
    }
}

fn candidate(name: &str) -> Candidate {
    Candidate::new("readwright", Arc::from(name))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What one whole turn does, as `turn` above it.
fn turn(candidate: &mut Candidate, api: &mut Api, now: Instant) {
    for _ in 0..TRIES {
        let lease = candidate.held.clone().or_else(|| api.lease.clone());
        let wanted = candidate.next(lease.as_ref(), now);
        match api.carry_out(wanted) {
            Ok(Some(lease)) => return candidate.holds(lease, now, now),
            Ok(None) => return,
            Err(()) => candidate.held = None,
        }
    }
}

/// What becomes of `b` and of the lease: moments in seconds, what happens then, who holds the lease after it, and
/// whether `b` leads.
fn check(story: &[(u64, &str, Option<&str>, bool)]) {
    let (begin, mut api) = (Instant::now(), Api::default());
    let (mut a, mut b) = (candidate("a"), candidate("b"));
    for &(at, what, holder, leads) in story {
        let now = begin + seconds(at);
        match what {
            "a" => turn(&mut a, &mut api, now),
            "b" => turn(&mut b, &mut api, now),
            "delete" => api.lease = None,
            "a stops" => {
                let lease = a.given_back().expect("it is a's");
                api.carry_out(Move::Replace(lease)).expect("nobody was faster");
            }
            "steal" => {
                let mut lease = api.lease.clone().expect("there is one");
                lease.spec.get_or_insert_default().holder_identity = Some("c".to_owned());
                api.carry_out(Move::Replace(lease)).expect("nobody was faster");
            }
            other => panic!("{other}"),
        }
        assert_eq!((api.holder(), b.leads_at(now)), (holder, leads), "{what} at {at} s of {story:?}");
    }
}

#[test]
fn a_lease_is_taken_held_and_lost() {
    // The first to come, once nobody can act by one that was deleted; it renews, and after a pause of more than `RENEW` it
    // leads again if nobody was faster.
    check(&[
        (0, "b", Some("b"), false),
        (14, "b", Some("b"), false),
        (15, "b", Some("b"), true),
        (17, "b", Some("b"), true),
        (45, "b", Some("b"), true),
    ]);
    // Another's is respected while it changes, and for its duration after the last change that was seen.
    check(&[
        (0, "a", Some("a"), false),
        (1, "b", Some("a"), false),
        (14, "a", Some("a"), false),
        (16, "b", Some("a"), false),
        (30, "b", Some("a"), false),
        (31, "b", Some("b"), true),
        // The old holder sees it.
        (32, "a", Some("b"), true),
    ]);
    // However old it looks: this clock has not seen it expire.
    check(&[(0, "a", Some("a"), false), (1000, "b", Some("a"), false), (1015, "b", Some("b"), true)]);
    // One that is given back is free.
    check(&[
        (0, "a", Some("a"), false),
        (1, "b", Some("a"), false),
        (2, "a stops", None, false),
        (3, "b", Some("b"), true),
    ]);
    // Taken from it by hand, it stops at the next look.
    check(&[
        (0, "b", Some("b"), false),
        (15, "b", Some("b"), true),
        (16, "steal", Some("c"), true),
        (17, "b", Some("c"), false),
    ]);
}

#[test]
fn a_lease_that_was_deleted_is_its_holders_first() {
    check(&[
        (0, "b", Some("b"), false),
        (15, "b", Some("b"), true),
        (16, "delete", None, true),
        (17, "b", Some("b"), true),
    ]);
    // For all others know, the holder acts on.
    check(&[
        (0, "a", Some("a"), false),
        (1, "b", Some("a"), false),
        (18, "a", Some("a"), false),
        (19, "delete", None, false),
        (20, "b", None, false),
        (25, "b", None, false),
        (26, "b", Some("b"), false),
        (40, "b", Some("b"), false),
        (41, "b", Some("b"), true),
    ]);
    // One that has just come knows of no holder; that one stops as soon as it sees the new lease.
    check(&[
        (0, "a", Some("a"), false),
        (15, "a", Some("a"), false),
        (16, "delete", None, false),
        (17, "b", Some("b"), false),
        (18, "a", Some("b"), false),
        (31, "b", Some("b"), false),
        (32, "b", Some("b"), true),
    ]);
    // And it is deleted again before the newcomer acts.
    check(&[
        (0, "b", Some("b"), false),
        (10, "delete", None, false),
        (11, "b", None, false),
        (17, "b", Some("b"), false),
        (31, "b", Some("b"), false),
        (32, "b", Some("b"), true),
    ]);
}

#[test]
fn who_makes_a_lease_waits_from_when_it_was_made() {
    let (begin, mut api) = (Instant::now(), Api::default());
    let (mut a, mut b) = (candidate("a"), candidate("b"));
    let late = b.next(None, begin);
    turn(&mut a, &mut api, begin);
    turn(&mut a, &mut api, begin + seconds(14));
    api.lease = None;
    let lease = api.carry_out(late).expect("there is none").expect("it is written");
    b.holds(lease, begin, begin + seconds(14));
    turn(&mut b, &mut api, begin + seconds(16));
    for (at, leads) in [(15, false), (16, false), (23, false)] {
        assert_eq!(
            (a.leads_at(begin + seconds(at)), b.leads_at(begin + seconds(at))),
            (true, leads),
            "at {at} s"
        );
    }
    turn(&mut b, &mut api, begin + seconds(25));
    for (at, leads) in [(28, false), (29, true)] {
        assert_eq!(
            (a.leads_at(begin + seconds(at)), b.leads_at(begin + seconds(at))),
            (false, leads),
            "at {at} s"
        );
    }
}

#[test]
fn terms_count_leaders() {
    let (begin, mut api) = (Instant::now(), Api::default());
    let (mut a, mut b) = (candidate("a"), candidate("b"));
    let mut check = |who: &mut Candidate, at: u64, term: i32| {
        turn(who, &mut api, begin + seconds(at));
        assert_eq!(api.term(), Some(term), "at {at} s");
    };
    check(&mut a, 0, 0);
    check(&mut a, 2, 0);
    check(&mut b, 3, 0);
    check(&mut b, 18, 1);
    check(&mut a, 19, 1);
    assert_eq!((a.term, a.leader.as_deref(), b.term), (1, Some("b"), 1));
    api.lease = None;
    turn(&mut b, &mut api, begin + seconds(20));
    assert_eq!(api.term(), Some(1), "who still leads goes on");
    api.lease = None;
    turn(&mut a, &mut api, begin + seconds(40));
    turn(&mut a, &mut api, begin + seconds(46));
    assert_eq!(api.term(), Some(2), "another one begins anew");
}

/// One thing that happens: time passes, then a candidate reads, or writes what it wanted when it read; or somebody
/// deletes the lease.
#[derive(Clone, Debug)]
enum Event {
    Candidate(usize, u64),
    Delete,
}

proptest! {
    /// Invariant: however requests are delayed, and whenever processes pause, two never lead at the same time.
    #[test]
    fn at_most_one_leads(events in prop::collection::vec(
        prop_oneof![
            20 => (0..3_usize, prop_oneof![0..3000_u64, 0..20_000_u64]).prop_map(|(who, ms)| Event::Candidate(who, ms)),
            1 => Just(Event::Delete),
        ],
        1..200,
    )) {
        let (mut now, mut api) = (Instant::now(), Api::default());
        let mut candidates = ["a", "b", "c"].map(candidate);
        let mut wanted: [Option<(Move, Instant)>; 3] = [const { None }; 3];
        for event in events {
            match event {
                // Who leads makes it again at once; another one could make one, and lose it, before that arrives.
                Event::Delete if wanted.iter().zip(&candidates).any(|(wanted, candidate)| {
                    candidate.leads_at(now) && matches!(wanted, Some((Move::Create(_), _)))
                }) => {}
                Event::Delete => api.lease = None,
                Event::Candidate(who, ms) => {
                    now += Duration::from_millis(ms);
                    let candidate = &mut candidates[who];
                    match wanted[who].take() {
                        None => {
                            let lease = candidate.held.clone().or_else(|| api.lease.clone());
                            wanted[who] = Some((candidate.next(lease.as_ref(), now), now));
                        }
                        Some((wanted, begun)) => match api.carry_out(wanted) {
                            Ok(Some(lease)) => candidate.holds(lease, begun, now),
                            Ok(None) => {}
                            Err(()) => candidate.held = None,
                        },
                    }
                }
            }
            let leaders = candidates.iter().filter(|candidate| candidate.leads_at(now)).count();
            prop_assert!(leaders <= 1);
        }
    }
}
