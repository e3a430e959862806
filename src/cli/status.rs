//! `readwright status`: asks a running proxy for `/status` and prints it. The exit code makes it a health check.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::{Failure, StatusArguments, StatusOutput, output};
use crate::model::report::{ActReport, ServerReport, StatusReport};

pub(super) fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let address = &arguments.address;
    let body = ask(address).map_err(|error| {
        Failure::Failed(format!("{address} does not answer ({error}); is it the proxy's admin.http address?"))
    })?;
    let report: StatusReport = serde_json::from_slice(&body).map_err(|error| {
        Failure::Failed(format!(
            "{address} answers, but not with a status report ({error}); is it Readwright?"
        ))
    })?;
    match arguments.output {
        StatusOutput::Json => output::print(&[body.as_slice(), b"\n"].concat())?,
        StatusOutput::Table => output::print(words(&report).as_bytes())?,
    }
    if report.ready { Ok(()) } else { Err(Failure::Silent) }
}

/// The body of `/status`.
fn ask(address: &str) -> io::Result<Vec<u8>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in address.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => stream,
            Err(error) => {
                last = error;
                continue;
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET /status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        return body(&answer);
    }
    Err(last)
}

/// What follows the head of an HTTP answer with status 200.
fn body(answer: &[u8]) -> io::Result<Vec<u8>> {
    let bad = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let end = memchr::memmem::find(answer, b"\r\n\r\n").ok_or_else(|| bad("not HTTP".to_owned()))?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !head.starts_with("HTTP/1.") || status != "200" {
        return Err(bad(format!("HTTP status {status:?}")));
    }
    Ok(answer[end + 4..].to_vec())
}

fn words(report: &StatusReport) -> String {
    let state = if report.ready { "ready" } else { "not ready" };
    let mut text = format!(
        "readwright {} is {state} ({}), up {}, primary {}, {} of {} clients\n\n",
        report.version,
        format!("{:?}", report.state).to_lowercase(),
        duration(report.uptime_s),
        report.primary.as_deref().unwrap_or("unknown"),
        report.clients.connected,
        report.clients.max,
    );
    let pool = |server: &ServerReport| report.pools.iter().find(|pool| pool.server == server.name);
    let rows: Vec<Vec<String>> = report
        .servers
        .iter()
        .map(|server| {
            vec![
                server.name.clone(),
                server.address.clone(),
                server.role.clone(),
                server.health.clone(),
                if server.serves_reads { "yes" } else { "no" }.to_owned(),
                server.lag_ms.map_or("-".to_owned(), |lag| format!("{lag} ms")),
                server.in_flight.to_string(),
                pool(server).map_or("-".to_owned(), |pool| {
                    format!("{}/{}", pool.open - pool.idle.min(pool.open), pool.open)
                }),
                server.problem.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let head = ["server", "address", "role", "health", "reads", "lag", "running", "connections", "problem"];
    text.push_str(&output::table(&head, &rows));
    if !report.pins.is_empty() {
        let rows: Vec<Vec<String>> =
            report.pins.iter().map(|pin| vec![pin.cause.clone(), pin.sessions.to_string()]).collect();
        text.push('\n');
        text.push_str(&output::table(&["pinned by", "sessions"], &rows));
    }
    if let Some(controller) = &report.controller {
        let rows: Vec<Vec<String>> = controller
            .servers
            .iter()
            .map(|server| vec![server.name.clone(), server.state.clone(), server.doing.clone()])
            .collect();
        let (leader, here) =
            (controller.leader.as_deref(), if controller.leads { " (this one)" } else { "" });
        text.push_str(&format!("\ncontroller: {} leads{here}\n", leader.unwrap_or("nobody is known who")));
        if !rows.is_empty() {
            text.push_str(&output::table(&["server", "state", "doing"], &rows));
        }
        for problem in &controller.problems {
            text.push_str(&format!("! {problem}\n"));
        }
        let acts: Vec<Vec<String>> = controller.acts.iter().take(LATELY).map(act).collect();
        if !acts.is_empty() {
            text.push('\n');
            text.push_str(&output::table(&["ago", "server", "lately", ""], &acts));
        }
    }
    text
}

/// Of what the controller did.
const LATELY: usize = 8;

fn act(act: &ActReport) -> Vec<String> {
    let times = if act.times > 1 { format!(" ({} times)", act.times) } else { String::new() };
    vec![
        duration(act.ago_s),
        act.server.clone().unwrap_or_else(|| "-".to_owned()),
        format!("{}{}", if act.warning { "! " } else { "" }, act.reason),
        format!("{}{times}", act.words),
    ]
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// For each step of the conversation: a container's health check has its own, longer patience.
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::report::{State, tests};

    #[test]
    fn a_report_in_words() {
        let report = tests::report(State::Serving, &tests::cluster());
        let text = words(&StatusReport { controller: Some(tests::controller()), ..report });
        for line in [
            "readwright 0.1.0 is ready (serving), up 1m1s, primary mysql-0, 5 of 100 clients",
            "mysql-0  127.0.0.1:3306  primary  up      no     -      0        1/3",
            "mysql-2  127.0.0.1:3308  replica  down    no     -      0        -            connection refused",
            "named-lock  1",
            "controller: readwright-0_1f leads (this one)",
            "mysql-1  Cloning  copies from mysql-0: FILE COPY, 1024.0 of 4096.0 MiB, 128 MiB/s, 24 s left",
            "! the switchover that is wanted waits",
            "0s   mysql-1  CopyStarted          a copy of mysql-0's",
            "0s   -        ! SwitchoverRefused  mysql-1 does not answer",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }

    #[test]
    fn answers() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}").expect("fine"), b"{}");
        for answer in [&b""[..], b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 No\r\n\r\n{}", b"SSH-2.0\r\n\r\n"] {
            assert!(body(answer).is_err(), "{answer:?}");
        }
    }
}
