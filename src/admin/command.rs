//! The commands of the admin port: from the text of a statement to one of them. Pure.

/// What an operator can ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    ShowServers,
    ShowPools,
    ShowClients,
    ShowPins,
    ShowStatus,
    ShowController,
    ShowHistory,
    ShowConfig,
    Help,
    /// One row: what drivers ask of every server when they connect. Column names and values; None is NULL.
    Variables(Vec<(String, Option<String>)>),
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
    ("SHOW CONTROLLER", "where this process is the controller: the state of each server, and copies"),
    ("SHOW HISTORY", "what the controller did of late"),
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
        ["show", "controller"] => Command::ShowController,
        ["show", "history"] => Command::ShowHistory,
        ["show", "config" | "variables"] => Command::ShowConfig,
        ["help" | "?"] => Command::Help,
        ["kill", "query", id] => kill(id, false)?,
        ["kill", "connection", id] | ["kill", id] => kill(id, true)?,
        ["set", _, ..] | ["begin" | "commit" | "rollback"] | ["start", "transaction"] => Command::Nothing,
        ["select", ..] => variables(&text["select".len()..]).ok_or_else(|| unknown(text))?,
        _ => return Err(unknown(text)),
    })
}

fn kill(id: &str, whole_connection: bool) -> Result<Command, String> {
    match id.parse() {
        Ok(id) => Ok(Command::Kill { id, whole_connection }),
        Err(_) => Err(format!("`{id}` is no client id; SHOW CLIENTS has them")),
    }
}

/// `@@name, @@session.name AS alias, 1 LIMIT 1`: nothing but system variables and constants.
fn variables(list: &str) -> Option<Command> {
    let list = list.trim();
    let lower = list.to_ascii_lowercase();
    let list = &list[..lower.strip_suffix("limit 1").map_or(list.len(), |rest| rest.trim_end().len())];
    let expression = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (expression, name) = match words.as_slice() {
            [expression] => (*expression, *expression),
            [expression, word, alias] if word.eq_ignore_ascii_case("as") => (*expression, *alias),
            _ => return None,
        };
        let lower = expression.to_ascii_lowercase();
        let value = match lower.as_str() {
            "1" => Some("1".to_owned()),
            "version()" => Some(server_version()),
            _ => {
                let variable = lower.strip_prefix("@@")?;
                variable_value(variable.rsplit('.').next().unwrap_or(variable))
            }
        };
        Some((name.trim_matches('`').to_owned(), value))
    };
    Some(Command::Variables(list.split(',').map(expression).collect::<Option<_>>()?))
}

/// The few that matter to drivers; the others are NULL.
fn variable_value(name: &str) -> Option<String> {
    Some(match name {
        "version_comment" => format!("Readwright {} admin", env!("CARGO_PKG_VERSION")),
        "version" => server_version(),
        "max_allowed_packet" => "65536".to_owned(),
        "wait_timeout" | "interactive_timeout" => "3600".to_owned(),
        "character_set_client" | "character_set_connection" | "character_set_results" => "utf8mb4".to_owned(),
        "autocommit" | "auto_increment_increment" => "1".to_owned(),
        "lower_case_table_names" => "0".to_owned(),
        "sql_mode" => String::new(),
        "time_zone" | "system_time_zone" => "UTC".to_owned(),
        "transaction_isolation" | "tx_isolation" => "REPEATABLE-READ".to_owned(),
        _ => return None,
    })
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
        check("SHOW CONTROLLER", Command::ShowController);
        check("show history", Command::ShowHistory);
        check("help", Command::Help);
        check("KILL 7", Command::Kill { id: 7, whole_connection: true });
        check("kill connection 7", Command::Kill { id: 7, whole_connection: true });
        check("kill query 2147483649", Command::Kill { id: 2_147_483_649, whole_connection: false });
        check("SET NAMES utf8mb4", Command::Nothing);
        check("COMMIT", Command::Nothing);
        let one = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        check("select 1", Command::Variables(vec![one("1", Some("1"))]));
        let comment = format!("Readwright {} admin", env!("CARGO_PKG_VERSION"));
        check(
            "select @@version_comment limit 1",
            Command::Variables(vec![one("@@version_comment", Some(&comment))]),
        );
        check(
            "SELECT @@max_allowed_packet,@@session.wait_timeout AS `wait`, @@socket LIMIT 1",
            Command::Variables(vec![
                one("@@max_allowed_packet", Some("65536")),
                one("wait", Some("3600")),
                one("@@socket", None),
            ]),
        );
    }

    #[test]
    fn everything_else_is_told_what_there_is() {
        for text in [
            "DROP TABLE t",
            "SELECT * FROM t",
            "show",
            "show servers now",
            "kill",
            "set",
            "select",
            "select 1, 2",
        ] {
            let told = parse(text).expect_err(text);
            assert!(told.contains("SHOW SERVERS") && told.contains("KILL QUERY id"), "{text}: {told}");
        }
        assert_eq!(parse(" ; "), Err("Query was empty".to_owned()));
        assert!(parse("kill x").expect_err("no id").contains("SHOW CLIENTS"));
        assert!(parse(&"x".repeat(100_000)).expect_err("long").len() < 400);
    }
}
