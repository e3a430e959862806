//! What the demo shows while it works: on a terminal lines that are redrawn in place, elsewhere each line that is new.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use crate::model::progress::Progress;

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
        .map(|server| format!("  {:<9} {:<13} {}", server.id.as_str(), server.state, server.words()))
        .collect();
    lines.extend(progress.problems.iter().map(|problem| format!("  ! {problem}")));
    lines
}

/// Statements so far, and how the servers are, as the proxy's metrics tell it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Traffic {
    servers: BTreeMap<String, ServerTraffic>,
    /// By who answered and why there.
    reasons: BTreeMap<(String, String), u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ServerTraffic {
    role: String,
    up: bool,
    reads: bool,
    lag: Option<f64>,
    statements: u64,
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
                "readwright_statements_total" => {
                    *traffic.reasons.entry((label("target"), label("reason"))).or_default() += value as u64;
                }
                "readwright_server_statements_total" => {
                    traffic.server(label("server")).statements = value as u64
                }
                "readwright_server_lag_seconds" => traffic.server(label("server")).lag = Some(value),
                "readwright_server_serves_reads" => traffic.server(label("server")).reads = value > 0.0,
                "readwright_server_up" => {
                    let server = traffic.server(label("server"));
                    (server.role, server.up) = (label("role"), value > 0.0);
                }
                _ => {}
            }
        }
        traffic.reasons.retain(|_, count| *count > 0);
        traffic
    }

    fn server(&mut self, name: String) -> &mut ServerTraffic {
        self.servers.entry(name).or_default()
    }

    /// Two tables: the servers with what each answered, then the reasons; with the rate since `before`.
    pub(crate) fn lines(&self, before: &Self, since: Duration) -> Vec<String> {
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / since.as_secs_f64().max(0.001);
        let mut lines = vec![format!(
            "  {:<10} {:<8} {:<14} {:>8} {:>12} {:>8}",
            "SERVER", "ROLE", "STATE", "LAG", "STATEMENTS", "PER S"
        )];
        for (name, server) in &self.servers {
            let earlier = before.servers.get(name).map_or(0, |server| server.statements);
            let state = match (server.up, server.role.as_str(), server.reads) {
                (false, _, _) => "down",
                (true, "primary", _) => "takes writes",
                (true, _, true) => "serves reads",
                (true, _, false) => "set aside",
            };
            let lag = server.lag.map_or_else(|| "-".to_owned(), |lag| format!("{:.0} ms", lag * 1000.0));
            lines.push(format!(
                "  {name:<10} {:<8} {state:<14} {lag:>8} {:>12} {:>8.0}",
                server.role,
                server.statements,
                rate(server.statements, earlier)
            ));
        }
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        if !reasons.is_empty() {
            lines.push(String::new());
            lines.push(format!("  {:<44} {:>18} {:>8}", "WHO ANSWERS, AND WHY", "STATEMENTS", "PER S"));
        }
        for (key, count) in reasons.into_iter().take(MOST_REASONS) {
            let earlier = before.reasons.get(key).copied().unwrap_or(0);
            let why = format!("{}: {}", key.0, key.1);
            lines.push(format!("  {why:<44} {count:>18} {:>8.0}", rate(*count, earlier)));
        }
        lines
    }
}

/// The rarest are left out: what is redrawn must fit on a terminal.
const MOST_REASONS: usize = 12;

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// One line of the exposition format: name, labels, value.
fn sample(line: &str) -> Option<(&str, Labels<'_>, f64)> {
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
    Some((name, labels, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::progress::{CopyProgress, Part, Problem, Reads, ServerProgress, Standing};
    use crate::model::server::ServerId;

    #[test]
    fn traffic_is_read_from_metrics() {
        let text = r#"
# HELP readwright_statements_total Statements.
readwright_statements_total{target="replica",reason="plain_read",outcome="answered"} 30
readwright_statements_total{target="replica",reason="plain_read",outcome="failed"} 1
readwright_statements_total{target="primary",reason="write",outcome="answered"} 10
readwright_statements_total{target="proxy",reason="plain_read",outcome="answered"} 0
readwright_server_statements_total{server="mysql-0"} 10
readwright_server_statements_total{server="mysql-1"} 31
readwright_server_up{server="mysql-0",role="primary"} 1
readwright_server_up{server="mysql-1",role="replica"} 1
readwright_server_serves_reads{server="mysql-1"} 1
readwright_server_lag_seconds{server="mysql-1"} 0.25
readwright_uptime_seconds 3.5
"#;
        let traffic = Traffic::read(text);
        let lines = traffic.lines(&Traffic::default(), Duration::from_secs(10));
        let words: Vec<String> =
            lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            words,
            [
                "SERVER ROLE STATE LAG STATEMENTS PER S",
                "mysql-0 primary takes writes - 10 1",
                "mysql-1 replica serves reads 250 ms 31 3",
                "",
                "WHO ANSWERS, AND WHY STATEMENTS PER S",
                "replica: plain_read 31 3",
                "primary: write 10 1",
            ]
        );
    }

    #[test]
    fn progress_in_words() {
        let server = |name: &str, copy| ServerProgress {
            id: ServerId::new(name),
            uid: None,
            state: "Cloning",
            doing: Arc::from("copies from mysql-0"),
            copy,
            serving: false,
            standing: Standing { part: Part::Neither, reads: Reads::Refused, alarm: None },
        };
        let copy = CopyProgress {
            bytes: 3 << 20,
            estimate: 6 << 20,
            bytes_per_second: 2 << 20,
            elapsed: Duration::from_millis(1500),
        };
        let progress = Progress {
            servers: vec![server("mysql-1", Some(copy)), server("mysql-2", None)],
            problems: vec![Problem {
                reason: "PrimaryUnreachable",
                server: None,
                words: Arc::from("mysql-0 does not answer"),
            }],
            ..Progress::default()
        };
        assert_eq!(
            progress_lines(&progress),
            [
                "  mysql-1   Cloning       copies from mysql-0, 3.0 of 6.0 MiB, 2 MiB/s, 1 s left",
                "  mysql-2   Cloning       copies from mysql-0",
                "  ! mysql-0 does not answer",
            ]
        );
    }
}
