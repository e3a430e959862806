//! GTIDs and GTID sets as MySQL writes them, with the tags that 8.3 added, and MariaDB's positions.
//! <https://dev.mysql.com/doc/refman/9.7/en/replication-gtids-concepts.html>, <https://mariadb.com/kb/en/gtid/>

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One transaction: `uuid:number`, or `uuid:tag:number`; in MariaDB `domain-server-number`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Gtid {
    pub(crate) source: Source,
    pub(crate) number: u64,
}

/// Who numbers the transactions: a server's uuid, with a tag when the session had one. Lower case. In MariaDB a domain: its
/// numbers ascend whichever server gives them, so that a position stands for all up to its number, and the server's id says
/// nothing more (it is written as 0).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Source(Arc<str>);

/// A set of transactions, for each source the closed intervals of numbers, ascending and never touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GtidSet(BTreeMap<Source, Vec<(u64, u64)>>);

/// Why a text is no GTID set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a GTID set")]
pub(crate) struct BadGtidSet(String);

impl GtidSet {
    /// Reads `@@gtid_executed` or the GTIDs of an OK packet; white space may stand anywhere between the parts.
    pub(crate) fn parse(text: &str) -> Result<Self, BadGtidSet> {
        let bad = || BadGtidSet(text.chars().take(120).collect());
        let mut set = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if let Some((domain, number)) = mariadb_position(entry) {
                if number > 0 {
                    set.insert_interval(&Source(Arc::from(domain)), 1, number);
                }
                continue;
            }
            let mut parts = entry.split(':').map(str::trim);
            let uuid = parts.next().filter(|uuid| is_uuid(uuid)).ok_or_else(bad)?.to_ascii_lowercase();
            let mut source = Source(Arc::from(uuid.as_str()));
            for part in parts {
                if part.starts_with(|c: char| c.is_ascii_digit()) {
                    let (first, last) = part.split_once('-').unwrap_or((part, part));
                    let first: u64 = first.parse().map_err(|_| bad())?;
                    let last: u64 = last.parse().map_err(|_| bad())?;
                    if first == 0 {
                        return Err(bad());
                    }
                    if first <= last {
                        set.insert_interval(&source, first, last);
                    }
                } else if is_tag(part) {
                    source = Source(Arc::from(format!("{uuid}:{}", part.to_ascii_lowercase())));
                } else {
                    return Err(bad());
                }
            }
        }
        Ok(set)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, gtid: &Gtid) -> bool {
        self.contains_interval(&gtid.source, gtid.number, gtid.number)
    }

    /// True when every transaction of `other` is in this set.
    pub(crate) fn contains_all(&self, other: &Self) -> bool {
        other.0.iter().all(|(source, intervals)| {
            intervals.iter().all(|&(first, last)| self.contains_interval(source, first, last))
        })
    }

    pub(crate) fn union(&mut self, other: &Self) {
        for (source, intervals) in &other.0 {
            for &(first, last) in intervals {
                self.insert_interval(source, first, last);
            }
        }
    }

    /// What this set has and `other` has not.
    pub(crate) fn subtract(&self, other: &Self) -> Self {
        let mut rest = Self::default();
        for (source, intervals) in &self.0 {
            let theirs = other.0.get(source).map_or(&[][..], Vec::as_slice);
            let mut kept = Vec::new();
            for &(first, last) in intervals {
                let mut next = first;
                for &(their_first, their_last) in theirs.iter().filter(|(_, their_last)| *their_last >= first)
                {
                    if their_first > last {
                        break;
                    }
                    if their_first > next {
                        kept.push((next, their_first - 1));
                    }
                    next = next.max(their_last.saturating_add(1));
                }
                if next <= last {
                    kept.push((next, last));
                }
            }
            if !kept.is_empty() {
                rest.0.insert(source.clone(), kept);
            }
        }
        rest
    }

    /// How many transactions the set has.
    pub(crate) fn count(&self) -> u64 {
        self.0.values().flatten().map(|(first, last)| last - first + 1).sum()
    }

    /// True when every transaction of the set was numbered by the server with this uuid, whatever the tag.
    pub(crate) fn is_only_from(&self, uuid: &str) -> bool {
        self.0.keys().all(|source| source.uuid().eq_ignore_ascii_case(uuid))
    }

    /// Those that the server with this uuid has numbered, whatever the tag.
    pub(crate) fn numbered_by(&self, uuid: &str) -> Self {
        let by_it = self.0.iter().filter(|(source, _)| source.uuid().eq_ignore_ascii_case(uuid));
        Self(by_it.map(|(source, intervals)| (source.clone(), intervals.clone())).collect())
    }

    fn contains_interval(&self, source: &Source, first: u64, last: u64) -> bool {
        self.0.get(source).is_some_and(|intervals| {
            let after = intervals.partition_point(|&(interval_first, _)| interval_first <= first);
            after > 0 && intervals[after - 1].1 >= last
        })
    }

    fn insert_interval(&mut self, source: &Source, mut first: u64, mut last: u64) {
        let intervals = match self.0.get_mut(source) {
            Some(intervals) => intervals,
            None => self.0.entry(source.clone()).or_default(),
        };
        // Everything that overlaps or touches [first, last] melts into one interval.
        let from = intervals.partition_point(|&(_, l)| l.saturating_add(1) < first);
        let to = intervals.partition_point(|&(f, _)| f <= last.saturating_add(1));
        for &(f, l) in &intervals[from..to] {
            first = first.min(f);
            last = last.max(l);
        }
        intervals.splice(from..to, [(first, last)]);
    }
}

/// The newest transaction a session has seen of each source: what a read of that session must not miss.
/// One number a source is enough because replicas commit in the order of the source
/// (`replica_preserve_commit_order`, the default since 8.0.27).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watermark(Vec<Gtid>);

impl Watermark {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in the GTIDs of an OK packet. Text that is no GTID set changes nothing and says so.
    pub(crate) fn advance(&mut self, text: &[u8]) -> Result<(), BadGtidSet> {
        let text = std::str::from_utf8(text).map_err(|_| BadGtidSet(String::from("not ASCII")))?;
        // The usual case, one more transaction of the same source, allocates nothing.
        if let [newest] = &mut self.0[..]
            && let Some(number) = newest.source.number_of(text)
        {
            newest.number = newest.number.max(number);
            return Ok(());
        }
        for (source, intervals) in GtidSet::parse(text)?.0 {
            let Some(&(_, number)) = intervals.last() else { continue };
            match self.0.iter_mut().find(|gtid| gtid.source == source) {
                Some(gtid) => gtid.number = gtid.number.max(number),
                None => self.0.push(Gtid { source, number }),
            }
        }
        Ok(())
    }

    /// Whether a server that has applied this one has applied `other` too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|theirs| {
            self.0.iter().any(|ours| ours.source == theirs.source && ours.number >= theirs.number)
        })
    }

    pub(crate) fn is_applied_in(&self, executed: &GtidSet) -> bool {
        self.0.iter().all(|gtid| executed.contains(gtid))
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, gtid) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{gtid}")?;
        }
        Ok(())
    }
}

impl Source {
    fn uuid(&self) -> &str {
        self.0.split(':').next().unwrap_or(&self.0)
    }

    fn is_domain(&self) -> bool {
        !self.0.contains('-')
    }

    /// The number in a text that is one transaction of this source.
    fn number_of(&self, text: &str) -> Option<u64> {
        if self.is_domain() {
            return mariadb_position(text)
                .filter(|(domain, _)| *domain == &*self.0)
                .map(|(_, number)| number);
        }
        text.strip_prefix(&*self.0)?.strip_prefix(':')?.parse().ok()
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.source.is_domain() { "-0-" } else { ":" };
        write!(f, "{}{between}{}", self.source.0, self.number)
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (source, intervals)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(&source.0)?;
            if let (true, Some((_, last))) = (source.is_domain(), intervals.last()) {
                write!(f, "-0-{last}")?;
                continue;
            }
            for &(first, last) in intervals {
                if first == last {
                    write!(f, ":{first}")?;
                } else {
                    write!(f, ":{first}-{last}")?;
                }
            }
        }
        Ok(())
    }
}

/// Domain and number of `domain-server-number`.
fn mariadb_position(text: &str) -> Option<(&str, u64)> {
    let mut parts = text.split('-');
    let (domain, server, number) = (parts.next()?, parts.next()?, parts.next()?);
    let is_id = |text: &str| text.parse::<u32>().is_ok();
    (parts.next().is_none() && is_id(domain) && is_id(server)).then_some((domain, number.parse().ok()?))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A tag is a letter or underscore, then letters, digits, underscores; 32 at the most.
fn is_tag(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429563";

    fn set(text: &str) -> GtidSet {
        let text = text.replace('A', A).replace('B', B);
        GtidSet::parse(&text).expect("a GTID set")
    }

    #[test]
    fn reads_and_writes() {
        for (text, expected) in [
            ("", ""),
            ("A:1-5", "A:1-5"),
            ("A:5:1-4", "A:1-5"),
            ("A:1:3:5", "A:1:3:5"),
            ("A:1-3:2-9:20", "A:1-9:20"),
            (" B:7 ,\n A:1", "A:1,B:7"),
            ("A:1-2:tag:4-5", "A:1-2,A:tag:4-5"),
            ("A:5-2", ""),
            ("0-1-7", "0-0-7"),
            ("1-2-3, 0-1-7", "0-0-7,1-0-3"),
            ("0-1-7,0-2-9", "0-0-9"),
            ("0-1-0", ""),
        ] {
            assert_eq!(set(text).to_string(), expected.replace('A', A).replace('B', B), "{text}");
        }
        for text in [
            "x",
            "A",
            "A:0",
            "A:1-",
            "A:-1",
            "A:1-x",
            "A:ta-g:1",
            "0-1-",
            "0-1",
            "0-1-2-3",
            "0--1",
            "4294967296-1-1",
        ] {
            let text = text.replace('A', &A[1..]);
            assert!(GtidSet::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn containment() {
        for (a, b, expected) in [
            ("A:1-5", "A:1-5", true),
            ("A:1-5", "", true),
            ("", "A:1", false),
            ("A:1-3:5-9", "A:6-7", true),
            ("A:1-3:5-9", "A:3-5", false),
            ("A:1-9", "A:1,B:1", false),
            ("A:1-9", "A:tag:1", false),
            ("0-1-9", "0-2-5", true),
            ("0-1-9", "0-1-10", false),
            ("0-1-9", "1-1-1", false),
        ] {
            assert_eq!(set(a).contains_all(&set(b)), expected, "{a} contains {b}");
        }
    }

    #[test]
    fn watermark_keeps_the_newest_of_each_source() {
        let name = |text: &str| text.replace('A', A).replace('B', B).replace('C', &A.replace('2', "4"));
        let mut watermark = Watermark::default();
        for (text, expected) in
            [("A:5", "A:5"), ("A:6", "A:6"), ("A:4", "A:6"), ("A:7-9,B:2", "A:9,B:2"), ("B:3", "A:9,B:3")]
        {
            watermark.advance(name(text).as_bytes()).expect("GTIDs");
            assert_eq!(watermark.to_string(), name(expected), "after {text}");
        }
        let mut mariadb = Watermark::default();
        for (text, expected) in
            [("0-1-5", "0-0-5"), ("0-2-6", "0-0-6"), ("0-1-4", "0-0-6"), ("7-1-1", "0-0-6,7-0-1")]
        {
            mariadb.advance(text.as_bytes()).expect("positions");
            assert_eq!(mariadb.to_string(), expected, "after {text}");
        }
        assert!(watermark.advance(b"nonsense").is_err());
        assert!(watermark.is_applied_in(&set("A:1-9,B:1-3")));
        assert!(!watermark.is_applied_in(&set("A:1-8,B:1-3")));
        for (text, expected) in
            [("A:9,B:3", true), ("A:8,B:2", true), ("A:10", false), ("C:1", false), ("", true)]
        {
            let mut other = Watermark::default();
            other.advance(name(text).as_bytes()).expect("GTIDs");
            assert_eq!(watermark.covers(&other), expected, "{text}");
        }
    }

    #[test]
    fn subtraction() {
        for (a, b, expected) in [
            ("A:1-9", "A:3-4", "A:1-2:5-9"),
            ("A:1-9", "A:1-9", ""),
            ("A:1-9", "A:2:4:6", "A:1:3:5:7-9"),
            ("A:3-5:8-9", "A:1-3:9", "A:4-5:8"),
            ("A:1-2,B:1-2", "A:1-5", "B:1-2"),
        ] {
            assert_eq!(set(a).subtract(&set(b)), set(expected), "{a} - {b}");
        }
    }
}
