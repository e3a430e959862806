//! Opens a connection for a pool: logs in, turns the trackers on, reads what the login, the globals and init_connect left in
//! its variables, and makes sure that the server is the one that was meant: an address can have a new owner.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use crate::model::settings::{Beginning, CHARACTER_SETS, Settings, Trackers};
use crate::model::topology::Server;
use crate::sql::{REPLAYABLE, is_replayable};
use crate::wire::command::COM_PING;
use crate::wire::flags::Capabilities;
use crate::wire::packet::{ErrPacket, Reader, push_packet, read_packet};
use crate::wire::response::Format;
use crate::wire::stream::Stream;
use crate::wire::tracker::{Answer, Next, Tracker};

use super::connect::{ConnectError, Connector, Request};
use super::connection::{Connection, Guard, Identity, PreparedCache};
use super::reset::query_head;

/// Variables that the login itself sets, and two that `DEFAULT` turns off whatever their default is (seen in 9.7.4).
const INITIAL: [&str; 6] = [
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "collation_connection",
    "foreign_key_checks",
    "unique_checks",
];

/// Variables that decide how SQL is read and where it belongs, and how to ask for them as trackers tell them.
const DECISIVE: [(&str, &str); 6] = [
    ("autocommit", "IF({},'ON','OFF')"),
    ("completion_type", "{}"),
    ("sql_auto_is_null", "IF({},'ON','OFF')"),
    ("sql_mode", "{}"),
    ("transaction_isolation", "{}"),
    ("transaction_read_only", "IF({},'ON','OFF')"),
];

/// Opens and prepares one connection. `settings.schema` becomes its schema.
pub(crate) async fn open(
    connector: &Connector,
    server: &Server,
    identity: &Arc<Identity>,
    settings: &Settings,
) -> Result<Connection, ConnectError> {
    let request = Request {
        address: &server.address,
        credentials: &identity.credentials,
        capabilities: identity.capabilities,
        collation: identity.collation,
        schema: settings.schema.as_deref(),
        attributes: &identity.attributes,
    };
    let connected = connector.connect(request).await?;
    let mut connection = Connection {
        mariadb: connected.version.is_some_and(|version| version.mariadb),
        stream: connected.stream,
        thread_id: connected.thread_id,
        capabilities: connected.capabilities,
        identity: Arc::clone(identity),
        applied: Arc::new(Settings::with_schema(settings.schema.clone())),
        beginning: Arc::default(),
        initial: Arc::new([]),
        globals: Arc::new([]),
        tracked: None,
        prepared: PreparedCache::default(),
        idle_since: Instant::now(),
        generation: 0,
        spoiled: false,
        doubtful: false,
        guard: Guard::None,
        asked: false,
        killing: None,
    };
    let prepared = timeout(connector.timeout(), prepare(&mut connection)).await;
    let prepared = prepared.map_err(|_| ConnectError::timed_out())?;
    if prepared.as_ref().is_err_and(ConnectError::is_expired_password) {
        // The client may change its password there and do nothing else; afterwards nothing is known of the session.
        connection.doubtful = true;
        return Ok(connection);
    }
    let uuid = prepared?;
    connection.applied = Arc::new(connection.beginning.login.in_schema(settings.schema.clone()));
    match server.health.up() {
        // Invariant: what is sent to a server is sent to the one that was probed.
        Some(up) if *up.uuid != *uuid => {
            Err(ConnectError::OtherServer { expected: Arc::clone(&up.uuid), found: uuid })
        }
        _ => Ok(connection),
    }
}

/// Runs one statement of our own on a connection that is between statements; the payloads of its answer's packets.
/// For the few statements beside the data path; the caller sets the deadline.
pub(crate) async fn query(connection: &mut Connection, sql: &str) -> Result<Vec<Vec<u8>>, ConnectError> {
    let mut command = query_head(connection.capabilities);
    command.extend_from_slice(sql.as_bytes());
    ask(connection, &command, Answer::Results).await
}

/// Sends a COM_PING; the payload of its OK packet.
pub(crate) async fn ping(connection: &mut Connection) -> Result<Vec<u8>, ConnectError> {
    let packets = ask(connection, &[COM_PING], Answer::Status).await?;
    packets.into_iter().next().ok_or_else(|| ConnectError::protocol("a PING is answered by OK"))
}

async fn ask(
    connection: &mut Connection,
    command: &[u8],
    answer: Answer,
) -> Result<Vec<Vec<u8>>, ConnectError> {
    let mut out = Vec::new();
    push_packet(&mut out, 0, command);
    connection.stream.write_all(&out).await.map_err(ConnectError::io)?;
    let format = connection.format();
    read_answer(&mut connection.stream, answer, format).await
}

/// Returns the server's uuid.
async fn prepare(connection: &mut Connection) -> Result<Arc<str>, ConnectError> {
    let mariadb = connection.mariadb;
    let (track, uuid) = if mariadb {
        (track_mariadb(), "server_uid")
    } else {
        let names = REPLAYABLE.join(",");
        let track = format!("session_track_gtids=OWN_GTID, session_track_system_variables='{names}'");
        (track, "server_uuid")
    };
    let track = format!(
        "SET SESSION session_track_schema=ON, session_track_state_change=ON, \
         session_track_transaction_info=CHARACTERISTICS, {track}"
    );
    query(connection, &track).await?;
    let variables = INITIAL.map(|name| format!("IFNULL(@@SESSION.{name},'')")).join(",");
    // What a session of the client's own would have begun with.
    let trackers = Trackers::VARIABLES.map(|name| match name {
        "session_track_gtids" if mariadb => String::from("'OFF'"),
        name => format!("@@GLOBAL.{name}"),
    });
    let globals = CHARACTER_SETS.map(|name| format!("IFNULL(@@GLOBAL.{name},'')")).join(",");
    let decisive = ["@@SESSION.", "@@GLOBAL."].map(|scope| decisive(scope, mariadb).join(","));
    let select = format!(
        "SELECT {variables},{},{globals},{},@@GLOBAL.{uuid},@@SESSION.session_track_system_variables,\
         @@GLOBAL.init_connect<>''",
        trackers.join(","),
        decisive.join(",")
    );
    let packets = query(connection, &select).await?;
    let row = packets.iter().rev().nth(1).ok_or_else(|| ConnectError::protocol("a row was expected"))?;
    let mut reader = Reader::new(row);
    let mut values = Vec::new();
    let mut text =
        || reader.lenenc_bytes().map_err(|_| ConnectError::protocol("a row of texts was expected"));
    for name in INITIAL.into_iter().chain(Trackers::VARIABLES) {
        values.push((name, Box::from(text()?)));
    }
    let mut globals = Vec::new();
    for name in CHARACTER_SETS {
        globals.push((name, Box::from(text()?)));
    }
    let mut beginning = Beginning::default();
    for settings in [&mut beginning.login, &mut beginning.reset] {
        for (name, _) in DECISIVE {
            settings.set_variable(decisive_name(name, mariadb).as_bytes(), text()?);
        }
    }
    // The flag of the login outlives a reset.
    if connection.capabilities.contains(Capabilities::IGNORE_SPACE) {
        let mode = [beginning.reset.variable(b"sql_mode").unwrap_or_default(), b",IGNORE_SPACE"].concat();
        beginning.reset.set_variable(b"sql_mode", &mode);
    }
    let charset =
        |values: &[(&str, Box<[u8]>)]| values.first().map_or_else(Box::default, |(_, set)| set.clone());
    (beginning.login_charset, beginning.reset_charset) = (charset(&values), charset(&globals));
    let uuid = String::from_utf8_lossy(text()?).into();
    let tracked = text()?;
    connection.tracked = mariadb.then(|| Box::from(tracked));
    if text()? == b"1" {
        see_init_connect(connection, &mut beginning).await?;
    }
    connection.beginning = Arc::new(beginning);
    (connection.initial, connection.globals) = (values.into(), globals.into());
    Ok(uuid)
}

fn decisive(scope: &str, mariadb: bool) -> [String; DECISIVE.len()] {
    DECISIVE.map(|(name, form)| form.replace("{}", &format!("{scope}{}", decisive_name(name, mariadb))))
}

/// MariaDB tells of them by their old names.
fn decisive_name(name: &'static str, mariadb: bool) -> &'static str {
    match name {
        "transaction_isolation" if mariadb => "tx_isolation",
        "transaction_read_only" if mariadb => "tx_read_only",
        name => name,
    }
}

/// Takes in the variables that `init_connect` has set. Whether it was run, which it is not for accounts with CONNECTION_ADMIN,
/// nothing else tells.
/// <https://dev.mysql.com/doc/refman/9.7/en/server-system-variables.html#sysvar_init_connect>
async fn see_init_connect(
    connection: &mut Connection,
    beginning: &mut Beginning,
) -> Result<(), ConnectError> {
    let schema = if connection.mariadb { "information_schema" } else { "performance_schema" };
    let select = format!(
        "SELECT VARIABLE_NAME,s.VARIABLE_VALUE,g.VARIABLE_VALUE FROM {schema}.session_variables s \
         JOIN {schema}.global_variables g USING (VARIABLE_NAME) WHERE s.VARIABLE_VALUE<>g.VARIABLE_VALUE LIMIT 1000"
    );
    let packets = query(connection, &select).await?;
    // How many columns, what they are, and in the old form an EOF packet behind these.
    let head = 4 + usize::from(!connection.format().deprecate_eof);
    let rows = packets.get(head..packets.len().saturating_sub(1)).unwrap_or_default();
    for row in rows {
        let mut reader = Reader::new(row);
        let mut text =
            || reader.lenenc_bytes().map_err(|_| ConnectError::protocol("a row of texts was expected"));
        let (name, of_login, of_reset) = (text()?.to_ascii_lowercase(), text()?, text()?);
        if is_replayable(&name) && !CHARACTER_SETS.iter().any(|known| known.as_bytes() == name) {
            beginning.login.set_variable(&name, of_login);
            beginning.reset.set_variable(&name, of_reset);
        }
    }
    Ok(())
}

/// MariaDB refuses names that it does not know, and tells GTIDs by a variable.
/// <https://mariadb.com/kb/en/server-system-variables/#session_track_system_variables>
fn track_mariadb() -> String {
    format!(
        "session_track_system_variables=(SELECT GROUP_CONCAT(VARIABLE_NAME) FROM \
         information_schema.SYSTEM_VARIABLES WHERE VARIABLE_NAME IN ('last_gtid','{}'))",
        REPLAYABLE.join("','")
    )
}

async fn read_answer(
    stream: &mut Stream,
    answer: Answer,
    format: Format,
) -> Result<Vec<Vec<u8>>, ConnectError> {
    /// Our own statements have answers of a few short rows.
    const LIMIT: usize = 1 << 20;
    let mut tracker = Tracker::new(answer, format);
    let mut packets = Vec::new();
    while !tracker.is_over() {
        let packet = read_packet(stream, LIMIT).await.map_err(ConnectError::wire)?;
        if let Some(error) = ErrPacket::parse(&packet.payload) {
            return Err(ConnectError::refused(error));
        }
        let mut whole = Vec::new();
        push_packet(&mut whole, packet.sequence, &packet.payload);
        let mut at = 0;
        while at < whole.len() {
            match tracker.next(&whole[at..]) {
                Ok(Next::Pass(size) | Next::Packet(size, _)) => at += size,
                _ => return Err(ConnectError::protocol("an answer that does not fit its statement")),
            }
        }
        packets.push(packet.payload);
    }
    Ok(packets)
}
