//! Opens a connection for a pool: logs in, turns the trackers on, reads what the login left in the character set
//! variables, and makes sure that the server is the one that was meant: an address can have a new owner.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use crate::model::settings::{CHARACTER_SETS, Settings, Trackers};
use crate::model::topology::Server;
use crate::sql::REPLAYABLE;
use crate::wire::command::COM_PING;
use crate::wire::packet::{ErrPacket, Reader, push_packet, read_packet};
use crate::wire::response::Format;
use crate::wire::stream::Stream;
use crate::wire::tracker::{Answer, Next, Tracker};

use super::connect::{ConnectError, Connector, Request};
use super::connection::{Connection, Identity, PreparedCache};
use super::reset::query_head;

/// Variables that the login itself sets, sql_mode, which decides how SQL is read, and two that `DEFAULT` turns off whatever
/// their default is (seen in 9.7.4).
const INITIAL: [&str; 7] = [
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "collation_connection",
    "sql_mode",
    "foreign_key_checks",
    "unique_checks",
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
        initial: Arc::new([]),
        globals: Arc::new([]),
        tracked: None,
        prepared: PreparedCache::default(),
        idle_since: Instant::now(),
        generation: 0,
        spoiled: false,
        doubtful: false,
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
    let (initial, globals, uuid) = prepared?;
    connection.initial = initial;
    connection.globals = globals;
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

/// Variables and their values.
type Values = Arc<[(&'static str, Box<[u8]>)]>;
/// What the login left in the variables, what the server would have them, and the server's uuid.
type Prepared = (Values, Values, Arc<str>);

async fn prepare(connection: &mut Connection) -> Result<Prepared, ConnectError> {
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
    let select = format!(
        "SELECT {variables},{},{globals},@@GLOBAL.{uuid},@@SESSION.session_track_system_variables",
        trackers.join(",")
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
    let uuid = String::from_utf8_lossy(text()?).into();
    connection.tracked = if mariadb { Some(Box::from(text()?)) } else { None };
    Ok((values.into(), globals.into(), uuid))
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
