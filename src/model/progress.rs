//! What the controller sees and does, for people: `demo`, `status`, the admin port, metrics and Kubernetes show it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::server::ServerId;

/// The controller's last look at the cluster, replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    /// When that was; None where the controller does not act.
    pub(crate) looked: Option<Instant>,
    /// In the order of the topology.
    pub(crate) servers: Vec<ServerProgress>,
    /// What keeps the cluster from being right; empty when nothing does.
    pub(crate) problems: Vec<Problem>,
    pub(crate) acts: Acts,
    /// Bytes of complete copies, since the controller began to act.
    pub(crate) copied: u64,
}

/// Something that is not right, and that the controller waits for, or leaves to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// One word that stays while the text changes, such as `CloneImpossible`.
    pub(crate) reason: &'static str,
    /// The server that it is about; None for the cluster as a whole.
    pub(crate) server: Option<ServerId>,
    /// The cause and the remedy, for people.
    pub(crate) words: Arc<str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServerProgress {
    pub(crate) id: ServerId,
    /// Of the pod that was looked at, where discovery knows it.
    pub(crate) uid: Option<Arc<str>>,
    /// One word for the state, such as `Blank` or `Serving`.
    pub(crate) state: &'static str,
    /// What is being done, or is waited for, in words.
    pub(crate) doing: Arc<str>,
    pub(crate) copy: Option<CopyProgress>,
    pub(crate) serving: bool,
    pub(crate) standing: Standing,
}

/// What follows from a server's state for those who use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) part: Part,
    pub(crate) reads: Reads,
    /// People should know of this state when it has lasted so long. None: it is well, or passes by itself.
    pub(crate) alarm: Option<Duration>,
}

/// Which part a server has in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Primary,
    Replica,
    Neither,
    /// It cannot be asked: what it was, if nobody else is that now.
    AsBefore,
}

/// Whether anybody may read there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    Admitted,
    /// While its data is not too old.
    WhileFresh,
    /// Nothing is known that would change it.
    AsBefore,
    Refused,
}

/// How far the copying of data to one server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CopyProgress {
    pub(crate) bytes: u64,
    /// What it will be in all, as the donor estimates; grows while the donor is written to.
    pub(crate) estimate: u64,
    pub(crate) bytes_per_second: u64,
    pub(crate) elapsed: Duration,
}

/// What the controller did of late, and how often so since it began.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Acts {
    /// Oldest first; the last [`Acts::KEPT`] are kept.
    last: Arc<Vec<Act>>,
    count: u64,
    totals: BTreeMap<&'static str, u64>,
}

/// Something done, or tried in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Act {
    /// Counts up from 1 as long as one controller acts.
    pub(crate) number: u64,
    /// None: it concerns the whole cluster.
    pub(crate) server: Option<ServerId>,
    /// One word in CamelCase, as in [`Problem`].
    pub(crate) reason: &'static str,
    pub(crate) words: Arc<str>,
    pub(crate) tone: Tone,
    /// When it was last so.
    pub(crate) at: Instant,
    /// How often in a row.
    pub(crate) times: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Normal,
    /// Somebody should look at it.
    Warning,
}

impl Progress {
    pub(crate) fn all_serving(&self) -> bool {
        !self.servers.is_empty() && self.servers.iter().all(|server| server.serving)
    }
}

impl ServerProgress {
    /// What is being done, and how far that is.
    pub(crate) fn words(&self) -> String {
        match &self.copy {
            Some(copy) => format!("{}, {copy}", self.doing),
            None => self.doing.to_string(),
        }
    }
}

impl fmt::Display for CopyProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (done, all) = (mib(self.bytes), mib(self.estimate.max(self.bytes)));
        write!(f, "{done:.1} of {all:.1} MiB, {:.0} MiB/s", mib(self.bytes_per_second))?;
        match self.left() {
            Some(left) => write!(f, ", {} s left", left.as_secs()),
            None => Ok(()),
        }
    }
}

impl CopyProgress {
    /// What is left at this rate; None while nothing moves.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = self.estimate.saturating_sub(self.bytes);
        left.checked_div(self.bytes_per_second).map(Duration::from_secs)
    }

    /// Of the estimate, which may turn out too low.
    pub(crate) fn percent(&self) -> u64 {
        let share = u128::from(self.bytes) * 100 / u128::from(self.estimate.max(1));
        u64::try_from(share.min(100)).unwrap_or(100)
    }
}

impl Acts {
    const KEPT: usize = 32;

    /// Notes what was done. What is tried again and again with the same end is one act.
    pub(crate) fn note(
        &mut self,
        server: Option<&ServerId>,
        reason: &'static str,
        words: impl Into<Arc<str>>,
        tone: Tone,
    ) {
        let (words, at) = (words.into(), Instant::now());
        *self.totals.entry(reason).or_default() += 1;
        let last = Arc::make_mut(&mut self.last);
        let same =
            |act: &&mut Act| act.server.as_ref() == server && act.reason == reason && act.words == words;
        if let Some(act) = last.iter_mut().rev().take(Self::REPEATED).find(same) {
            (act.at, act.times) = (at, act.times.saturating_add(1));
            return;
        }
        self.count += 1;
        if last.len() >= Self::KEPT {
            last.remove(0);
        }
        last.push(Act { number: self.count, server: server.cloned(), reason, words, tone, at, times: 1 });
    }

    /// An act among the last so many is not told again.
    const REPEATED: usize = 4;

    /// How often each reason was noted.
    pub(crate) fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.totals.iter().map(|(reason, times)| (*reason, *times))
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Act> {
        self.last.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies() {
        let check = |bytes, estimate, speed, percent, words: &str| {
            let copy = CopyProgress { bytes, estimate, bytes_per_second: speed, elapsed: Duration::ZERO };
            assert_eq!((copy.percent(), copy.to_string().as_str()), (percent, words));
        };
        check(512 << 20, 2 << 30, 128 << 20, 25, "512.0 of 2048.0 MiB, 128 MiB/s, 12 s left");
        check(512 << 10, 2 << 20, 0, 25, "0.5 of 2.0 MiB, 0 MiB/s");
        check(0, 0, 0, 0, "0.0 of 0.0 MiB, 0 MiB/s");
        // An estimate that was too low.
        check(2 << 20, 1 << 20, 1 << 20, 100, "2.0 of 2.0 MiB, 1 MiB/s, 0 s left");
    }

    #[test]
    fn acts_are_kept_for_a_while() {
        let mut acts = Acts::default();
        let one = ServerId::new("mysql-1");
        acts.note(Some(&one), "FollowFailed", "no answer", Tone::Warning);
        acts.note(None, "SwitchoverDone", "well", Tone::Normal);
        acts.note(Some(&one), "FollowFailed", "no answer", Tone::Warning);
        let told: Vec<_> = acts.iter().map(|act| (act.number, act.reason, act.times)).collect();
        assert_eq!(told, [(1, "FollowFailed", 2), (2, "SwitchoverDone", 1)]);
        assert_eq!(acts.totals().collect::<Vec<_>>(), [("FollowFailed", 2), ("SwitchoverDone", 1)]);
        for number in 0..100 {
            acts.note(None, "SwitchoverFailed", format!("{number}"), Tone::Warning);
        }
        assert_eq!(
            (acts.iter().count(), acts.iter().next_back().map(|act| act.number)),
            (Acts::KEPT, Some(102))
        );
    }
}
