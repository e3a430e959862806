//! What the SHOW commands show, as tables of words and numbers. Pure: one report and the live clients in, rows out.

use super::Source;
use super::command::{COMMANDS, Command};
use crate::model::report::{
    ActReport, ControllerReport, ControllerServer, PoolReport, ServerReport, StatusReport,
};
use crate::telemetry::clients::{Client, Pin};

/// Columns and rows; every row has as many cells as there are columns.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub(crate) columns: Vec<(&'static str, Kind)>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Number,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Text(String),
    Number(u64),
    Null,
}

/// The table of a SHOW command or HELP; None for a command that shows nothing.
pub(crate) fn show(command: &Command, source: &Source) -> Option<Table> {
    Some(match command {
        Command::ShowServers => servers(&source.report().servers),
        Command::ShowPools => pools(&source.report().pools),
        Command::ShowClients => clients(&source.clients.list()),
        Command::ShowPins => pins(&source.clients.list()),
        Command::ShowStatus => status(&source.report()),
        Command::ShowController => controller(source.report().controller.as_ref()),
        Command::ShowHistory => history(source.report().controller.as_ref()),
        Command::ShowConfig => {
            let row = |setting: &crate::config::Setting| {
                vec![text(&setting.key), text(&setting.value), text(setting.origin)]
            };
            Table {
                columns: words(&["key", "value", "origin"]),
                rows: source.settings.iter().map(row).collect(),
            }
        }
        Command::Help => {
            let row = |(command, shows): &(&str, &str)| vec![text(command), text(shows)];
            Table { columns: words(&["command", "shows"]), rows: COMMANDS.iter().map(row).collect() }
        }
        Command::Variables(_) | Command::Nothing | Command::Kill { .. } => return None,
    })
}

fn servers(servers: &[ServerReport]) -> Table {
    let row = |server: &ServerReport| {
        vec![
            text(&server.name),
            text(&server.address),
            maybe(server.zone.as_deref()),
            text(&server.role),
            text(&server.health),
            yes_no(Some(server.serves_reads)),
            server.lag_ms.map_or(Cell::Null, Cell::Number),
            Cell::Number(u64::from(server.in_flight)),
            Cell::Number(server.statements),
            yes_no(server.read_only),
            maybe(server.mysql.as_deref()),
            server.transactions.map_or(Cell::Null, Cell::Number),
            maybe(server.problem.as_deref()),
        ]
    };
    Table {
        columns: vec![
            ("server", Kind::Text),
            ("address", Kind::Text),
            ("zone", Kind::Text),
            ("role", Kind::Text),
            ("health", Kind::Text),
            ("serves_reads", Kind::Text),
            ("lag_ms", Kind::Number),
            ("in_flight", Kind::Number),
            ("statements", Kind::Number),
            ("read_only", Kind::Text),
            ("version", Kind::Text),
            ("transactions", Kind::Number),
            ("problem", Kind::Text),
        ],
        rows: servers.iter().map(row).collect(),
    }
}

fn pools(pools: &[PoolReport]) -> Table {
    let row = |pool: &PoolReport| {
        let now = [pool.open, pool.open.saturating_sub(pool.idle), pool.idle, pool.waiting, pool.max];
        let numbers = now.map(u64::from).into_iter().chain([pool.opened, pool.failed]).map(Cell::Number);
        [text(&pool.server)].into_iter().chain(numbers).collect()
    };
    Table {
        columns: vec![
            ("server", Kind::Text),
            ("open", Kind::Number),
            ("used", Kind::Number),
            ("idle", Kind::Number),
            ("waiting", Kind::Number),
            ("max", Kind::Number),
            ("opened", Kind::Number),
            ("failed", Kind::Number),
        ],
        rows: pools.iter().map(row).collect(),
    }
}

fn clients(clients: &[Client]) -> Table {
    let row = |client: &Client| {
        let pins: Vec<&str> = client.pins.iter().map(|pin| pin.cause).collect();
        vec![
            Cell::Number(u64::from(client.id)),
            text(&client.user),
            text(client.address.map_or("localhost".to_owned(), |address| address.to_string())),
            maybe(client.schema.as_deref()),
            text(if client.busy { "busy" } else { "idle" }),
            Cell::Number(client.connected.as_secs()),
            Cell::Number(client.to_client),
            Cell::Number(client.to_server),
            maybe(client.server.as_ref().map(|held| &*held.server)),
            client.server.as_ref().map_or(Cell::Null, |held| Cell::Number(u64::from(held.thread))),
            if pins.is_empty() { Cell::Null } else { text(pins.join(", ")) },
        ]
    };
    Table {
        columns: vec![
            ("id", Kind::Number),
            ("user", Kind::Text),
            ("address", Kind::Text),
            ("schema", Kind::Text),
            ("state", Kind::Text),
            ("connected_s", Kind::Number),
            ("bytes_to_client", Kind::Number),
            ("bytes_to_server", Kind::Number),
            ("server", Kind::Text),
            ("server_thread", Kind::Number),
            ("pinned_by", Kind::Text),
        ],
        rows: clients.iter().map(row).collect(),
    }
}

/// The longest pinned first: that is the one to look at.
fn pins(clients: &[Client]) -> Table {
    let mut pins: Vec<(&Client, &Pin)> =
        clients.iter().flat_map(|client| client.pins.iter().map(move |pin| (client, pin))).collect();
    pins.sort_by_key(|(_, pin)| pin.since);
    let row = |(client, pin): &(&Client, &Pin)| {
        vec![
            Cell::Number(u64::from(client.id)),
            text(&client.user),
            text(pin.cause),
            Cell::Number(pin.since.elapsed().as_secs()),
            maybe(client.server.as_ref().map(|held| &*held.server)),
            text(&pin.statement),
        ]
    };
    Table {
        columns: vec![
            ("id", Kind::Number),
            ("user", Kind::Text),
            ("cause", Kind::Text),
            ("since_s", Kind::Number),
            ("server", Kind::Text),
            ("statement", Kind::Text),
        ],
        rows: pins.iter().map(row).collect(),
    }
}

fn status(report: &StatusReport) -> Table {
    let mut rows = vec![
        ("version".to_owned(), report.version.clone()),
        ("state".to_owned(), format!("{:?}", report.state).to_lowercase()),
        ("ready".to_owned(), if report.ready { "yes" } else { "no" }.to_owned()),
        ("uptime_s".to_owned(), report.uptime_s.to_string()),
        ("primary".to_owned(), report.primary.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("epoch".to_owned(), report.epoch.to_string()),
        ("clients".to_owned(), report.clients.connected.to_string()),
        ("clients_busy".to_owned(), report.clients.busy.to_string()),
        ("clients_max".to_owned(), report.clients.max.to_string()),
    ];
    for pin in &report.pins {
        rows.push((format!("pinned.{}", pin.cause), pin.sessions.to_string()));
    }
    if let Some(controller) = &report.controller {
        let leader = controller.leader.clone().unwrap_or_else(|| "unknown".to_owned());
        rows.push(("controller.leader".to_owned(), leader));
        for server in &controller.servers {
            rows.push((format!("controller.{}", server.name), format!("{}: {}", server.state, server.doing)));
        }
        for problem in &controller.problems {
            rows.push(("controller.problem".to_owned(), problem.clone()));
        }
    }
    Table {
        columns: words(&["name", "value"]),
        rows: rows.into_iter().map(|(name, value)| vec![text(name), text(value)]).collect(),
    }
}

/// Empty where the controller is off, or acts elsewhere.
fn controller(report: Option<&ControllerReport>) -> Table {
    let number = |number: Option<u64>| number.map_or(Cell::Null, Cell::Number);
    let row = |server: &ControllerServer| {
        vec![
            text(&server.name),
            text(&server.state),
            text(&server.doing),
            number(server.copied.map(|(copied, _)| copied)),
            number(server.copied.map(|(_, estimate)| estimate)),
            number(server.bytes_per_second),
            number(server.seconds_left),
        ]
    };
    Table {
        columns: vec![
            ("server", Kind::Text),
            ("state", Kind::Text),
            ("doing", Kind::Text),
            ("copied_bytes", Kind::Number),
            ("copy_bytes", Kind::Number),
            ("bytes_per_second", Kind::Number),
            ("seconds_left", Kind::Number),
        ],
        rows: report.iter().flat_map(|report| &report.servers).map(row).collect(),
    }
}

fn history(report: Option<&ControllerReport>) -> Table {
    let row = |act: &ActReport| {
        vec![
            Cell::Number(act.ago_s),
            maybe(act.server.as_deref()),
            text(&act.reason),
            text(&act.words),
            yes_no(Some(act.warning)),
            Cell::Number(u64::from(act.times)),
        ]
    };
    Table {
        columns: vec![
            ("ago_s", Kind::Number),
            ("server", Kind::Text),
            ("reason", Kind::Text),
            ("words", Kind::Text),
            ("warning", Kind::Text),
            ("times", Kind::Number),
        ],
        rows: report.iter().flat_map(|report| &report.acts).map(row).collect(),
    }
}

fn words(names: &[&'static str]) -> Vec<(&'static str, Kind)> {
    names.iter().map(|name| (*name, Kind::Text)).collect()
}

fn text(value: impl ToString) -> Cell {
    Cell::Text(value.to_string())
}

fn maybe(value: Option<&str>) -> Cell {
    value.map_or(Cell::Null, text)
}

fn yes_no(value: Option<bool>) -> Cell {
    value.map_or(Cell::Null, |yes| text(if yes { "yes" } else { "no" }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::source;
    use crate::telemetry::clients::ServerThread;

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        let (source, _state, _topology) = source();
        let client = source.clients.register(None);
        client.logged_in("app", Some("shop"));
        client.holds(Some(ServerThread { server: "mysql-0".into(), thread: 9 }));
        client.pinned(&["named-lock"], b"SELECT GET_LOCK('mine', 1)");
        for (command, rows, has) in [
            (Command::ShowServers, 3, "connection refused"),
            (Command::ShowPools, 1, "mysql-0"),
            (Command::ShowClients, 1, "named-lock"),
            (Command::ShowPins, 1, "SELECT GET_LOCK(?, ?)"),
            (Command::ShowStatus, 14, "serving"),
            (Command::ShowController, 2, "Cloning"),
            (Command::ShowHistory, 2, "CopyStarted"),
            (Command::ShowConfig, 1, "/run/secrets/password"),
            (Command::Help, COMMANDS.len(), "KILL QUERY id"),
        ] {
            let table = show(&command, &source).expect("a table");
            assert_eq!(table.rows.len(), rows, "{command:?}");
            for row in &table.rows {
                assert_eq!(row.len(), table.columns.len(), "{command:?}");
            }
            assert!(table.rows.concat().contains(&text(has)), "{command:?}: {table:?}");
        }
    }
}
