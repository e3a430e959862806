//! The same when the primary is cut off, goes on alone, and people give it up: what it alone has is lost, and nothing else.
//! Nobody follows it any more, and when it comes back it takes no writes.

use super::*;

/// How it is while nobody reaches it.
#[derive(Clone, Copy, Debug)]
struct Alone {
    /// So many transactions are only there.
    commits: u64,
    /// It has restarted meanwhile, and is read-only.
    restarted: bool,
}

const ALONE: [Alone; 4] = [
    Alone { commits: 0, restarted: false },
    Alone { commits: 0, restarted: true },
    Alone { commits: 3, restarted: false },
    Alone { commits: 3, restarted: true },
];

impl Rehearsal {
    fn forced(alone: Alone, mishap: Mishap, at: usize) -> Self {
        let mut play = Self::new(mishap, at);
        let wish = Wish { id: "w".into(), to: None, force: true };
        play.world.wishes.switchover = Some(wish);
        play.committed[0] += alone.commits;
        let executed = gtids(&format!("0:1-{}", play.committed[0]));
        let probe = &mut play.real(0).survey.probe;
        probe.executed = executed;
        (probe.read_only, probe.super_read_only) = (alone.restarted, false);
        let cut_off = State::Unreachable("no answer".into());
        if let State::Seen(seen) = std::mem::replace(&mut play.world.nodes[0].state, cut_off) {
            (play.hidden[0], play.back_in[0]) = (Some(seen), u32::MAX);
        }
        play
    }

    /// What holds after every round in which the controller could do what it planned.
    pub(super) fn check_given_up(&mut self) {
        let Some((given_up, _)) = self.given_up else { return };
        let writable: Vec<u8> = (0..3)
            .filter(|server| self.reachable(*server) && !self.real(*server).probe().read_only)
            .collect();
        assert!(writable.len() <= 1, "{writable:?} take writes\n{}", self.trace.join("\n"));
        assert!(!writable.contains(&given_up), "mysql-{given_up} takes writes\n{}", self.trace.join("\n"));
        for server in 0..3 {
            let channel = self.real(server).probe().channel.clone();
            let follows = channel.is_some_and(|channel| {
                channel.host == address(given_up).host && channel.receiver.state != ThreadState::Off
            });
            assert!(!follows, "mysql-{server} follows mysql-{given_up}\n{}", self.trace.join("\n"));
        }
    }

    /// Runs until all is quiet, has the old primary come back, and runs until all is quiet again. Gives the primary, and how
    /// many steps that took.
    fn play_forced(mut self, alone: Alone) -> (u8, usize) {
        for _ in 0..60 {
            self.round();
        }
        self.back_in[0] = 1;
        for _ in 0..60 {
            self.round();
        }
        let plan = self.round();
        let story = self.trace.join("\n");
        let record = self.world.record.clone();
        let quiet = record.handover.is_none() && plan.steps.is_empty() && plan.change.is_none();
        assert!(quiet, "{plan:#?}\n{story}");
        assert!(record.ended.is_some_and(|ended| ended.failure.is_none()), "{plan:#?}\n{story}");
        let primary = ordinal(record.primary.as_ref().expect("there is one"));
        let errant = self.given_up.is_some() && alone.commits > 0;
        for verdict in &plan.verdicts {
            let expected = match ordinal(&verdict.id) {
                server if server == primary => Class::Primary,
                0 if errant => Class::Errant,
                _ => Class::Serving,
            };
            let fits = verdict.class == expected || verdict.class == Class::CatchingUp && !errant;
            assert!(fits || verdict.class == Class::CatchingUp && verdict.id != id(0), "{plan:#?}\n{story}");
        }
        // What the old one has alone stays there, for people; what anybody else had of it, the new one has.
        let kept =
            self.given_up.take().map_or_else(|| gtids(&format!("0:1-{}", self.committed[0])), |(_, had)| had);
        for committed in [kept, gtids(&format!("1:1-{},2:1-{}", self.committed[1], self.committed[2]))] {
            let has = self.real(primary).probe().executed.clone();
            assert!(has.contains_all(&committed), "lost {committed} of {has}\n{story}");
        }
        let old = self.real(0).probe();
        assert!(old.super_read_only, "{story}");
        assert!(!errant || old.channel.is_none(), "what is errant follows nobody\n{story}");
        assert_eq!(old.executed.numbered_by(&uuid(0)).count(), self.committed[0], "{story}");
        (primary, self.taken)
    }
}

#[test]
fn who_is_given_up_is_neither_followed_nor_written_to() {
    for alone in ALONE {
        let (primary, steps) = Rehearsal::forced(alone, Mishap::None, 0).play_forced(alone);
        assert_eq!(primary, 1, "{alone:?}");
        // Two that stop listening, give up, drop the channel, allow writes, one that follows; then the old one.
        assert!(steps >= 7, "{steps} steps, {alone:?}");
        for at in 0..steps + 2 {
            for mishap in [Mishap::ReplacedBefore, Mishap::ReplacedAfter, Mishap::Back] {
                let (primary, _) = Rehearsal::forced(alone, mishap, at).play_forced(alone);
                assert_ne!(primary, 0, "{mishap:?} at {at}, {alone:?}");
            }
            for server in [1, 2] {
                for rounds in [1, 3, 25] {
                    let mishap = Mishap::Crash(server, rounds);
                    let (primary, _) = Rehearsal::forced(alone, mishap, at).play_forced(alone);
                    assert_ne!(primary, 0, "{mishap:?} at {at}, {alone:?}");
                }
            }
        }
    }
}
