//! Follows copies from look to look: whether one moves, how far it is, and what it came to. Pure: time is given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::world::Node;
use crate::dba::{CloneRun, CloneState};
use crate::model::progress::{Acts, CopyProgress, Tone};
use crate::model::server::ServerId;

#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Those that run, or whose end is to be told.
    open: BTreeMap<ServerId, Copy>,
    /// Since when nobody does one that is said to be in progress.
    dead_since: BTreeMap<ServerId, Instant>,
    /// Bytes of those that are complete.
    total: u64,
}

#[derive(Debug)]
struct Copy {
    bytes: u64,
    /// When it last had more.
    moved: Instant,
    /// Of how many quarters has been told.
    quarters: u64,
}

impl Copies {
    /// Takes in what the servers say of copies to them.
    pub(super) fn look(&mut self, nodes: &[Node], now: Instant, acts: &mut Acts) {
        let is_there = |id: &ServerId| nodes.iter().any(|node| node.endpoint.id == *id);
        self.open.retain(|id, _| is_there(id));
        self.dead_since.retain(|id, _| is_there(id));
        for node in nodes {
            let id = &node.endpoint.id;
            let run = node.seen().and_then(|seen| seen.survey.clone.as_ref());
            match run {
                Some(run) if run.state == CloneState::Dead => {
                    self.dead_since.entry(id.clone()).or_insert(now);
                }
                _ => drop(self.dead_since.remove(id)),
            }
            // One that does not answer may be starting again after its copy.
            let Some(run) = run else { continue };
            match run.state {
                CloneState::Running => self.runs(id, run, now, acts),
                CloneState::Completed if self.open.remove(id).is_some() => {
                    self.total += run.bytes;
                    acts.note(Some(id), "CopyDone", sum(run), Tone::Normal);
                }
                // What comes of it is the planner's to say.
                CloneState::Failed | CloneState::Dead => drop(self.open.remove(id)),
                CloneState::Completed => {}
            }
        }
    }

    fn runs(&mut self, id: &ServerId, run: &CloneRun, now: Instant, acts: &mut Acts) {
        let copy = self.open.entry(id.clone()).or_insert(Copy { bytes: run.bytes, moved: now, quarters: 0 });
        if copy.bytes != run.bytes {
            (copy.bytes, copy.moved) = (run.bytes, now);
        }
        let progress = progress(run);
        let quarters = progress.percent() / 25;
        if quarters > copy.quarters && quarters < 4 {
            copy.quarters = quarters;
            let words = format!("{} %: {progress}", progress.percent());
            acts.note(Some(id), "CopyProgress", words, Tone::Normal);
        }
    }

    /// A copy to this server begins.
    pub(super) fn begins(&mut self, id: &ServerId) {
        self.open.remove(id);
    }

    /// The copy is complete, and has perhaps never been seen running.
    pub(super) fn ended(&mut self, id: &ServerId, now: Instant) {
        self.open.entry(id.clone()).or_insert(Copy { bytes: 0, moved: now, quarters: 0 });
    }

    /// Bytes of all that were completed.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Servers whose copy is complete, perhaps, and whose process goes down to start again with it.
    pub(super) fn going_down(&self, now: Instant) -> BTreeSet<ServerId> {
        let lately = self.dead_since.iter().filter(|(_, since)| now - **since < GOES_DOWN_WITHIN);
        lately.map(|(id, _)| id.clone()).collect()
    }

    /// How long each has not moved a byte.
    pub(super) fn stalled_for(&self, now: Instant) -> BTreeMap<ServerId, Duration> {
        self.open.iter().map(|(id, copy)| (id.clone(), now - copy.moved)).collect()
    }
}

/// A copy reads as one that broke off while the old process of its server goes down, and for ever when that was killed.
pub(super) const GOES_DOWN_WITHIN: Duration = Duration::from_secs(20);

pub(super) fn progress(run: &CloneRun) -> CopyProgress {
    CopyProgress {
        bytes: run.bytes,
        estimate: run.estimate,
        bytes_per_second: run.bytes_per_second,
        elapsed: run.elapsed,
    }
}

fn sum(run: &CloneRun) -> String {
    let mib = run.bytes as f64 / f64::from(1 << 20);
    let seconds = run.elapsed.as_secs_f64();
    format!(
        "copied {mib:.1} MiB from {} in {seconds:.1} s ({:.0} MiB/s)",
        run.source,
        mib / seconds.max(0.001)
    )
}

#[cfg(test)]
mod tests {
    use super::super::story;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_told_in_quarters() {
        let mut world = story::well();
        let (mut copies, mut acts) = (Copies::default(), Acts::default());
        let mut look = |state: CloneState, bytes: u64, told: &[&str]| {
            let run = CloneRun { bytes, estimate: 1000, ..story::clone_run(state) };
            story::seen(&mut world, 1).survey.clone = Some(run);
            copies.look(&world.nodes, Instant::now(), &mut acts);
            let words: Vec<_> = acts.iter().map(|act| format!("{} {}", act.reason, act.words)).collect();
            assert_eq!(words.len(), told.len(), "{words:?}");
            let last = words.last().map_or("", String::as_str);
            assert!(last.starts_with(told.last().unwrap_or(&"")), "{words:?}");
        };
        // One that was complete before is no news.
        look(CloneState::Completed, 1000, &[]);
        look(CloneState::Running, 10, &[]);
        look(CloneState::Running, 249, &[]);
        look(CloneState::Running, 250, &["CopyProgress 25 %: 0.0 of 0.0 MiB, 0 MiB/s, 750 s left"]);
        look(CloneState::Running, 400, &[""]);
        look(CloneState::Running, 760, &["", "CopyProgress 76 %"]);
        look(CloneState::Running, 1000, &["", ""]);
        look(
            CloneState::Completed,
            1000,
            &["", "", "CopyDone copied 0.0 MiB from mysql-0:3306 in 1.0 s (0 MiB/s)"],
        );
        look(CloneState::Completed, 1000, &["", "", ""]);
        look(CloneState::Running, 900, &["", "", "", "CopyProgress 90 %"]);
        look(CloneState::Failed, 900, &["", "", "", ""]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_was_never_seen_running_is_told_all_the_same() {
        let mut world = story::well();
        story::seen(&mut world, 1).survey.clone = Some(story::clone_run(CloneState::Completed));
        let (mut copies, mut acts) = (Copies::default(), Acts::default());
        copies.begins(&story::id(1));
        copies.look(&world.nodes, Instant::now(), &mut acts);
        assert_eq!(acts.iter().count(), 0);
        copies.ended(&story::id(1), Instant::now());
        copies.look(&world.nodes, Instant::now(), &mut acts);
        assert_eq!(acts.iter().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_goes_down_behind_its_copy() {
        let mut world = story::well();
        let mut copies = Copies::default();
        let mut look = |state: Option<CloneState>| {
            match state {
                Some(state) => story::seen(&mut world, 1).survey.clone = Some(story::clone_run(state)),
                None => story::unreachable(&mut world, 1),
            }
            copies.look(&world.nodes, Instant::now(), &mut Acts::default());
            !copies.going_down(Instant::now()).is_empty()
        };
        for (state, going_down) in [
            (Some(CloneState::Running), false),
            (Some(CloneState::Dead), true),
            (Some(CloneState::Dead), true),
            (Some(CloneState::Dead), true),
            (Some(CloneState::Dead), false),
            (Some(CloneState::Failed), false),
            (Some(CloneState::Dead), true),
            (None, false),
        ] {
            assert_eq!(look(state), going_down, "{state:?}");
            tokio::time::advance(Duration::from_secs(8)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_does_not_move() {
        let mut world = story::well();
        let (mut copies, mut acts) = (Copies::default(), Acts::default());
        for bytes in [10, 10, 20, 20, 20] {
            let run = CloneRun { bytes, ..story::clone_run(CloneState::Running) };
            story::seen(&mut world, 1).survey.clone = Some(run);
            copies.look(&world.nodes, Instant::now(), &mut acts);
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        let stalled = copies.stalled_for(Instant::now());
        assert_eq!(stalled.get(&story::id(1)), Some(&Duration::from_secs(30)));
    }
}
