//! The commands of the admin port: from the text of a statement to one of them. Pure.

/// What an operator can ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    ShowServers,
    ShowPools,
    ShowClients,
    ShowPins,
    ShowStatus,
    ShowConfig,
    Help,
    /// One row with one column: what clients ask of every server when they connect.
    Constant {
        column: String,
        value: String,
    },
    /// SET, BEGIN, COMMIT and the like, which drivers send unasked; there is nothing that they could change.
    Nothing,
    Kill {
        id: u32,
        whole_connection: bool,
    },
}

/// The words of a command and what it shows; `HELP` lists them.
pub(crate) const COMMANDS: &[(&str, &str)] = &[
    ("SHOW SERVERS", "the MySQL servers: role, health, lag, why one serves no reads"),
    ("SHOW POOLS", "connections to each server"),
    ("SHOW CLIENTS", "who is connected, and which server connection each holds"),
    ("SHOW PINS", "sessions that stay on one connection: who, why, since when"),
    ("SHOW STATUS", "the proxy and the controller"),
    ("SHOW CONFIG", "every key in force and where it was set; no secrets"),
    ("KILL [CONNECTION] id", "close a client's connection"),
    ("KILL QUERY id", "end a client's statement"),
    ("HELP", "this list"),
];

/// Reads one statement.
///
/// # Errors
/// The text for the operator when it is no command.
pub(crate) fn parse(statement: &str) -> Result<Command, String> {
    let text = statement.trim().trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    // What `mysql` puts before a statement when it was started with --comments.
    let text = match text.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
        Some((_, rest)) => rest.trim(),
        None => text,
    };
    let lower = text.to_ascii_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    Ok(match words.as_slice() {
        [] => return Err("Query was empty".to_owned()),
        ["show", "servers"] => Command::ShowServers,
        ["show", "pools"] => Command::ShowPools,
        ["show", "clients" | "processlist"] | ["show", "full", "processlist"] => Command::ShowClients,
        ["show", "pins"] => Command::ShowPins,
        ["show", "status"] => Command::ShowStatus,
        ["show", "config" | "variables"] => Command::ShowConfig,
        ["help" | "?"] => Command::Help,
        ["kill", "query", id] => kill(id, false)?,
        ["kill", "connection", id] | ["kill", id] => kill(id, true)?,
        ["set", _, ..] | ["begin" | "commit" | "rollback"] | ["start", "transaction"] => Command::Nothing,
        ["select", expression, rest @ ..] => constant(expression, rest).ok_or_else(|| unknown(text))?,
        _ => return Err(unknown(text)),
    })
}

fn kill(id: &str, whole_connection: bool) -> Result<Command, String> {
    match id.parse() {
        Ok(id) => Ok(Command::Kill { id, whole_connection }),
        Err(_) => Err(format!("`{id}` is no client id; SHOW CLIENTS has them")),
    }
}

fn constant(expression: &str, rest: &[&str]) -> Option<Command> {
    if !matches!(rest, [] | ["limit", "1"]) {
        return None;
    }
    let value = match expression {
        "@@version_comment" | "@@global.version_comment" => {
            format!("Readwright {} admin", env!("CARGO_PKG_VERSION"))
        }
        "@@version" | "version()" => server_version(),
        "1" => "1".to_owned(),
        _ => return None,
    };
    Some(Command::Constant { column: expression.to_owned(), value })
}

/// What the greeting says. Clients parse it; the number is that of the protocol's dialect, not of any server behind.
pub(crate) fn server_version() -> String {
    format!("8.4.0-readwright-admin-{}", env!("CARGO_PKG_VERSION"))
}

fn unknown(text: &str) -> String {
    let shown: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let commands: Vec<&str> = COMMANDS.iter().map(|(command, _)| *command).collect();
    format!("`{shown}` is no command of the admin port; there are: {}", commands.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let check = |text: &str, expected: Command| assert_eq!(parse(text), Ok(expected), "{text}");
        check("SHOW SERVERS", Command::ShowServers);
        check("  show\n  Pools ;", Command::ShowPools);
        check("/* ping */ show clients;;", Command::ShowClients);
        check("SHOW PINS", Command::ShowPins);
        check("show status", Command::ShowStatus);
        check("show config", Command::ShowConfig);
        check("help", Command::Help);
        check("KILL 7", Command::Kill { id: 7, whole_connection: true });
        check("kill connection 7", Command::Kill { id: 7, whole_connection: true });
        check("kill query 2147483649", Command::Kill { id: 2_147_483_649, whole_connection: false });
        check("SET NAMES utf8mb4", Command::Nothing);
        check("COMMIT", Command::Nothing);
        check("select 1", Command::Constant { column: "1".into(), value: "1".into() });
        let greeting = parse("select @@version_comment limit 1").expect("known");
        assert!(matches!(greeting, Command::Constant { value, .. } if value.starts_with("Readwright ")));
    }

    #[test]
    fn everything_else_is_told_what_there_is() {
        for text in
            ["DROP TABLE t", "SELECT * FROM t", "show", "show servers now", "kill", "set", "select 1, 2"]
        {
            let told = parse(text).expect_err(text);
            assert!(told.contains("SHOW SERVERS") && told.contains("KILL QUERY id"), "{text}: {told}");
        }
        assert_eq!(parse(" ; "), Err("Query was empty".to_owned()));
        assert!(parse("kill x").expect_err("no id").contains("SHOW CLIENTS"));
        assert!(parse(&"x".repeat(100_000)).expect_err("long").len() < 400);
    }
}
