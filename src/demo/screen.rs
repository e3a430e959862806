//! What the demo shows while it works: on a terminal lines that are redrawn in place, elsewhere each line that is new.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use crate::model::progress::{CopyProgress, Progress};

/// Standard error, so that standard output has results only.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    shown: Vec<String>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), shown: Vec::new() }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Replaces what was drawn before. Nothing can be done when standard error is closed.
    pub(crate) fn draw(&mut self, lines: Vec<String>) {
        let mut out = io::stderr().lock();
        if self.terminal {
            let mut text = String::new();
            if !self.shown.is_empty() {
                // Up to the first line, and everything below it cleared.
                text.push_str(&format!("\x1b[{}A\x1b[J", self.shown.len()));
            }
            for line in &lines {
                // A line that wraps would count as two.
                text.extend(line.chars().take(WIDTH));
                text.push('\n');
            }
            let _ = out.write_all(text.as_bytes());
        } else {
            for line in lines.iter().filter(|line| !self.shown.contains(line)) {
                let _ = writeln!(out, "{line}");
            }
        }
        let _ = out.flush();
        self.shown = lines;
    }

    /// Prints lines that stay; what is drawn next comes below them.
    pub(crate) fn say(&mut self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
        self.shown.clear();
    }
}

const WIDTH: usize = 118;

/// How the servers come up: a line each, then what is wrong.
pub(crate) fn progress_lines(progress: &Progress) -> Vec<String> {
    let mut lines: Vec<String> = progress
        .servers
        .iter()
        .map(|server| {
            let copy = server.copy.as_ref().map(copy_words).unwrap_or_default();
            format!("  {:<9} {:<13} {}{copy}", server.id.as_str(), server.state, server.doing)
        })
        .collect();
    lines.extend(progress.problems.iter().map(|problem| format!("  ! {problem}")));
    lines
}

fn copy_words(copy: &CopyProgress) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        ", {:.1} of {:.1} MiB, {:.0} MiB/s, {:.1} s",
        mib(copy.bytes),
        mib(copy.estimate.max(copy.bytes)),
        mib(copy.bytes_per_second),
        copy.elapsed.as_secs_f64()
    )
}

/// Statements so far, as the proxy counts them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Traffic {
    servers: BTreeMap<String, u64>,
    /// By who answered and why there.
    reasons: BTreeMap<(String, String), u64>,
    clients: u64,
}

impl Traffic {
    /// Reads the text that `/metrics` serves.
    pub(crate) fn read(metrics: &str) -> Self {
        let mut traffic = Self::default();
        for line in metrics.lines() {
            let Some((name, labels, value)) = sample(line) else { continue };
            let label = |key: &str| {
                labels.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| *value).to_owned()
            };
            match name {
                "readwright_server_statements_total" => {
                    *traffic.servers.entry(label("server")).or_default() += value;
                }
                "readwright_statements_total" => {
                    *traffic.reasons.entry((label("target"), label("reason"))).or_default() += value;
                }
                "readwright_clients" => traffic.clients += value,
                _ => {}
            }
        }
        traffic
    }

    /// A table of who answered how many statements, and why, with the rate since `before`.
    pub(crate) fn lines(&self, before: &Self, since: Duration) -> Vec<String> {
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / since.as_secs_f64().max(0.001);
        let mut lines = vec![format!("  {:<34} {:>12} {:>10}", "WHO ANSWERS", "STATEMENTS", "PER SECOND")];
        for (server, count) in &self.servers {
            let before = before.servers.get(server).copied().unwrap_or(0);
            lines.push(format!("  {server:<34} {count:>12} {:>10.0}", rate(*count, before)));
        }
        if !self.reasons.is_empty() {
            lines.push(format!("  {:<34} {:>12} {:>10}", "WHY", "STATEMENTS", "PER SECOND"));
        }
        for (key, count) in &self.reasons {
            let before = before.reasons.get(key).copied().unwrap_or(0);
            let why = format!("{}: {}", key.0, key.1);
            lines.push(format!("  {why:<34} {count:>12} {:>10.0}", rate(*count, before)));
        }
        lines
    }
}

/// One line of the exposition format: name, labels, value.
fn sample(line: &str) -> Option<(&str, Vec<(&str, &str)>, u64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels
        .trim_end_matches('}')
        .split(',')
        .filter_map(|label| label.split_once('='))
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    Some((name, labels, value.parse::<f64>().ok().filter(|value| *value >= 0.0)? as u64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::progress::ServerProgress;
    use crate::model::server::ServerId;

    #[test]
    fn traffic_is_read_from_metrics() {
        let text = r#"
# HELP readwright_statements_total Statements.
readwright_statements_total{target="replica",reason="plain_read",outcome="answered"} 30
readwright_statements_total{target="replica",reason="plain_read",outcome="failed"} 1
readwright_statements_total{target="primary",reason="write",outcome="answered"} 10
readwright_server_statements_total{server="mysql-0"} 10
readwright_server_statements_total{server="mysql-1"} 31
readwright_uptime_seconds 3.5
"#;
        let traffic = Traffic::read(text);
        let lines = traffic.lines(&Traffic::default(), Duration::from_secs(10));
        let words: Vec<String> =
            lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            words,
            [
                "WHO ANSWERS STATEMENTS PER SECOND",
                "mysql-0 10 1",
                "mysql-1 31 3",
                "WHY STATEMENTS PER SECOND",
                "primary: write 10 1",
                "replica: plain_read 31 3",
            ]
        );
    }

    #[test]
    fn progress_in_words() {
        let server = |name: &str, copy| ServerProgress {
            id: ServerId::new(name),
            state: "Cloning",
            doing: Arc::from("copies from mysql-0"),
            copy,
            serving: false,
        };
        let copy = CopyProgress {
            bytes: 3 << 20,
            estimate: 6 << 20,
            bytes_per_second: 2 << 20,
            elapsed: Duration::from_millis(1500),
        };
        let progress = Progress {
            servers: vec![server("mysql-1", Some(copy)), server("mysql-2", None)],
            problems: vec![Arc::from("mysql-0 does not answer")],
        };
        assert_eq!(
            progress_lines(&progress),
            [
                "  mysql-1   Cloning       copies from mysql-0, 3.0 of 6.0 MiB, 2 MiB/s, 1.5 s",
                "  mysql-2   Cloning       copies from mysql-0",
                "  ! mysql-0 does not answer",
            ]
        );
    }
}
