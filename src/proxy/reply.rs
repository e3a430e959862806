//! The errors that the proxy itself says to clients, and the few answers it gives without a server. The only place that
//! words them.

use crate::backend::pool::LeaseError;
use crate::model::server::ServerId;
use crate::model::topology::Topology;
use crate::routing::session::Session;
use crate::wire::flags::Capabilities;
use crate::wire::packet::{ErrPacket, WireError, push_packet};
use crate::wire::response;

use super::hold::NotHeld;
use super::patience::Patience;

/// An ERR packet, header included, as the answer to a command.
pub(super) fn error(error: &ErrPacket) -> Vec<u8> {
    let mut out = Vec::new();
    push_packet(&mut out, 1, &error.encode(Capabilities::PROTOCOL_41));
    out
}

/// An OK packet, header included, as the answer to a command that needed no server.
pub(super) fn ok(session: &Session) -> Vec<u8> {
    let mut out = Vec::new();
    push_packet(
        &mut out,
        1,
        &response::encode_ok(response::Ok { status: session.status(), ..response::Ok::default() }),
    );
    out
}

/// No connection for this statement. The server's own words go through where it had any.
pub(super) fn no_connection(error: &LeaseError) -> ErrPacket {
    match error {
        LeaseError::Connect(_, connect) => match connect.server_error() {
            Some(theirs) => theirs.clone(),
            None => unreachable(format!("Readwright: no connection to {error}")),
        },
        LeaseError::TooManyWaiters(_) | LeaseError::TimedOut(_) => ErrPacket::new(
            1226,
            "42000",
            format!("Readwright: {error}; see pool.max_per_server, pool.max_waiters and pool.wait_ms"),
        ),
        LeaseError::StaleWriter(_) => unreachable(format!("Readwright: {error}")),
    }
}

pub(super) fn no_primary(why: &NotHeld, topology: &Topology) -> ErrPacket {
    let named = topology.unproven().map(|(id, problem)| format!(" ({id}: {problem})")).unwrap_or_default();
    unreachable(format!("Readwright: there is no primary to send this to: {why}{named}"))
}

/// ER_CONNECT_TO_FOREIGN_DATA_SOURCE: a server's word for another one that it cannot reach. The numbers of clients (2003)
/// are not for servers to send: MariaDB's C library takes such a packet for malformed.
pub(super) fn unreachable(text: String) -> ErrPacket {
    ErrPacket::new(1429, "HY000", text)
}

/// ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION, as the primary would have said it.
pub(super) fn read_only_transaction(mariadb: bool) -> ErrPacket {
    let end = if mariadb { "" } else { "." };
    ErrPacket::new(1792, "25006", format!("Cannot execute statement in a READ ONLY transaction{end}"))
}

/// The same number for a statement of a read-only transaction that would act on the wrong server.
pub(super) fn not_on_a_replica() -> ErrPacket {
    let text = "Readwright: this read-only transaction has read on a replica, and the statement is for the primary; run it \
                before the transaction, or begin without READ ONLY";
    ErrPacket::new(1792, "25006", text)
}

/// The server went away in the middle of a statement.
pub(super) fn lost(server: &ServerId, bound: bool) -> ErrPacket {
    let text = if bound {
        "its transaction and session state are lost"
    } else {
        "the statement may or may not have been carried out"
    };
    ErrPacket::new(1053, "08S01", format!("Readwright: the connection to {server} was lost; {text}"))
}

/// The session has state on a replica, from a read-only transaction that is over, and wants the primary.
pub(super) fn left_on_a_replica(server: &ServerId) -> ErrPacket {
    let text = format!(
        "Readwright: a view of the last read-only transaction has left session state on {server}, which takes no writes; \
         connect again"
    );
    ErrPacket::new(1053, "08S01", text)
}

pub(super) fn draining() -> ErrPacket {
    ErrPacket::new(1053, "08S01", "Readwright: the proxy is stopping; connect again")
}

/// ER_CLIENT_INTERACTION_TIMEOUT, in the server's words where its rule it is.
pub(super) fn idle_too_long(patience: Patience) -> ErrPacket {
    let text = match patience {
        Patience::Limits(_) => "Readwright: the client was idle for longer than limits.client_idle_s allows",
        Patience::Session(_) => {
            "The client was disconnected by the server because of inactivity. See wait_timeout and \
             interactive_timeout for configuring this behavior."
        }
    };
    ErrPacket::new(4031, "HY000", text)
}

pub(super) fn too_many_clients() -> ErrPacket {
    ErrPacket::new(1040, "08004", "Readwright: too many connections; see limits.clients")
}

/// ER_NET_PACKET_TOO_LARGE, in the server's words where its limit it is.
pub(super) fn too_large(for_the_server: bool) -> ErrPacket {
    let text = match for_the_server {
        true => "Got a packet bigger than 'max_allowed_packet' bytes",
        false => "Readwright: got a packet bigger than limits.max_packet_mib",
    };
    ErrPacket::new(1153, "08S01", text)
}

pub(super) fn out_of_statement_memory() -> ErrPacket {
    ErrPacket::new(
        1041,
        "HY000",
        "Readwright: too many large statements at once; see limits.statement_memory_mib",
    )
}

/// ER_MALFORMED_PACKET, in MySQL's words.
pub(super) fn malformed() -> ErrPacket {
    ErrPacket::new(1835, "HY000", "Malformed communication packet.")
}

/// ER_NET_PACKETS_OUT_OF_ORDER, in the servers' words.
pub(super) fn out_of_order() -> ErrPacket {
    ErrPacket::new(1156, "08S01", "Got packets out of order")
}

/// What the compressed protocol's layer cannot read: ER_NET_PACKETS_OUT_OF_ORDER or ER_NET_UNCOMPRESS_ERROR. None for a
/// connection that is gone.
pub(super) fn broken_compression(error: &std::io::Error) -> Option<ErrPacket> {
    let error = error.get_ref()?.downcast_ref::<WireError>()?;
    let code = if matches!(error, WireError::OutOfOrder { .. }) { 1156 } else { 1157 };
    Some(ErrPacket::new(code, "08S01", format!("Readwright: {error}")))
}

pub(super) fn unknown_command() -> ErrPacket {
    ErrPacket::new(1047, "08S01", "Unknown command")
}

pub(super) fn no_replication() -> ErrPacket {
    let text = "Readwright: replication is not relayed; connect to the MySQL server itself";
    ErrPacket::new(1227, "42000", text)
}

/// ER_UNKNOWN_STMT_HANDLER. MySQL names one function for all commands, MariaDB names each.
pub(super) fn unknown_statement(id: u32, command: &str, mariadb: bool) -> ErrPacket {
    let command = if mariadb { command } else { "mysql_stmt_precheck" };
    ErrPacket::new(1243, "HY000", format!("Unknown prepared statement handler ({id}) given to {command}"))
}

/// ER_STMT_HAS_NO_OPEN_CURSOR.
pub(super) fn no_cursor(id: u32, mariadb: bool) -> ErrPacket {
    let end = if mariadb { "" } else { "." };
    ErrPacket::new(1421, "HY000", format!("The statement ({id}) has no open cursor{end}"))
}

pub(super) fn too_many_statements() -> ErrPacket {
    ErrPacket::new(1461, "42000", "Readwright: this session has too many prepared statements open")
}

/// ER_QUERY_INTERRUPTED; `connection`: MariaDB's ER_CONNECTION_KILLED.
pub(super) fn killed_itself(connection: bool) -> ErrPacket {
    match connection {
        true => ErrPacket::new(1927, "70100", "Connection was killed"),
        false => ErrPacket::new(1317, "70100", "Query execution was interrupted"),
    }
}

pub(super) fn no_such_thread(id: u64) -> ErrPacket {
    ErrPacket::new(1094, "HY000", format!("Unknown thread id: {id}"))
}

pub(super) fn not_owner(id: u64) -> ErrPacket {
    ErrPacket::new(1095, "HY000", format!("You are not owner of thread {id}"))
}
