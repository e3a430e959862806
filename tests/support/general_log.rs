//! Reads the servers' general logs: which server really ran a statement, on which connection, as which user.

use std::collections::HashMap;
use std::path::PathBuf;

use super::cluster::Cluster;

/// One entry of a general log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// The server's ordinal; 0 is the primary.
    pub(crate) server: usize,
    /// The connection's id on that server.
    pub(crate) thread: u64,
    /// Who the connection belongs to.
    pub(crate) user: String,
    /// `Query`, `Prepare`, `Execute`, `Init DB`, `Quit`, ...
    pub(crate) command: String,
    /// Bytes that are no UTF-8 are replaced.
    pub(crate) text: String,
}

/// A moment in all logs.
#[derive(Clone, Debug)]
pub(crate) struct Mark(Vec<usize>);

impl Cluster {
    /// Now. Entries are in the log before their statement runs.
    pub(crate) fn mark(&self) -> Mark {
        let length = |ordinal| {
            let length =
                std::fs::metadata(self.general_log_path(ordinal)).expect("the server writes it").len();
            usize::try_from(length).expect("it fits in memory")
        };
        Mark((0..self.servers().len()).map(length).collect())
    }

    /// What ran since, on all servers, those of one user only; in order for each server.
    pub(crate) fn ran_since(&self, mark: &Mark, user: &str) -> Vec<Ran> {
        self.ran_between(&[mark.clone(), Mark(vec![usize::MAX; mark.0.len()])], user).remove(0)
    }

    /// What ran from each mark to the next.
    pub(crate) fn ran_between(&self, marks: &[Mark], user: &str) -> Vec<Vec<Ran>> {
        let logs: Vec<_> =
            (0..self.servers().len()).map(|ordinal| parse(ordinal, &self.general_log(ordinal))).collect();
        let between = |from: &Mark, to: &Mark| -> Vec<Ran> {
            let inside = logs.iter().zip(from.0.iter().zip(&to.0)).flat_map(|(log, (from, to))| {
                let entries =
                    log.iter().skip_while(move |(at, _)| at < from).take_while(move |(at, _)| at < to);
                entries.map(|(_, ran)| ran.clone())
            });
            inside.filter(|ran| ran.user == user).collect()
        };
        marks.windows(2).map(|pair| between(&pair[0], &pair[1])).collect()
    }

    /// The servers that ran a statement whose text has this tag in it (a comment, say), prepared ones when executed.
    pub(crate) fn servers_that_ran(&self, mark: &Mark, user: &str, tag: &str) -> Vec<usize> {
        let ran = self.ran_since(mark, user).into_iter();
        ran.filter(|ran| matches!(ran.command.as_str(), "Query" | "Execute") && ran.text.contains(tag))
            .map(|ran| ran.server)
            .collect()
    }

    fn general_log(&self, ordinal: usize) -> Vec<u8> {
        std::fs::read(self.general_log_path(ordinal)).expect("the server writes it")
    }

    fn general_log_path(&self, ordinal: usize) -> PathBuf {
        self.server(ordinal).folder().join("data/general.log")
    }
}

/// The entries with the place of each.
fn parse(server: usize, log: &[u8]) -> Vec<(usize, Ran)> {
    let mut entries: Vec<(usize, Ran)> = Vec::new();
    let mut users = HashMap::new();
    let mut at = 0;
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        match head(&text) {
            Some((thread, command, text)) => {
                if matches!(command, "Connect" | "Change user") {
                    let user = text.split_once('@').map_or("", |(user, _)| user);
                    users.insert(thread, user.trim().to_owned());
                }
                let user = users.get(&thread).cloned().unwrap_or_default();
                let ran = Ran { server, thread, user, command: command.to_owned(), text: text.to_owned() };
                entries.push((at, ran));
            }
            // A statement of several lines. What comes before the first entry is the log's title.
            None => {
                if let Some((_, ran)) = entries.last_mut() {
                    ran.text.push_str(&text);
                }
            }
        }
        at += line.len();
    }
    for (_, ran) in &mut entries {
        ran.text.truncate(ran.text.trim_end_matches('\n').len());
    }
    entries
}

/// `2026-11-20T12:18:16.422584Z\t   12 Query\tSELECT 1\n` -> (12, "Query", "SELECT 1\n").
fn head(line: &str) -> Option<(u64, &str, &str)> {
    let (time, rest) = line.split_once('\t')?;
    if time.len() != 27 || !time.ends_with('Z') || time.as_bytes().get(10) != Some(&b'T') {
        return None;
    }
    let (thread, rest) = rest.trim_start().split_once(' ')?;
    let (command, text) = rest.split_once('\t').unwrap_or((rest.trim_end(), ""));
    Some((thread.parse().ok()?, command, text))
}
