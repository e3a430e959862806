//! The servers' errors that mean something to the proxy.
//! <https://dev.mysql.com/doc/mysql-errors/9.7/en/server-error-reference.html>

use crate::backend::connection::Guard;

pub(super) const ER_DBACCESS_DENIED: u16 = 1044;
pub(super) const ER_BAD_DB: u16 = 1049;
pub(super) const ER_SERVER_SHUTDOWN: u16 = 1053;
pub(super) const ER_UNKNOWN_ERROR: u16 = 1105;
pub(super) const ER_NET_PACKETS_OUT_OF_ORDER: u16 = 1156;
pub(super) const ER_WRONG_ARGUMENTS: u16 = 1210;
pub(super) const ER_UNKNOWN_STMT_HANDLER: u16 = 1243;
pub(super) const ER_OPTION_PREVENTS_STATEMENT: u16 = 1290;
pub(super) const ER_QUERY_INTERRUPTED: u16 = 1317;
pub(super) const ER_CONNECTION_KILLED: u16 = 1927;
pub(super) const ER_CLIENT_INTERACTION_TIMEOUT: u16 = 4031;
pub(super) const ER_MAX_PREPARED_STMT_COUNT_REACHED: u16 = 1461;
pub(super) const ER_NEED_REPREPARE: u16 = 1615;
pub(super) const ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION: u16 = 1792;
pub(super) const ER_READ_ONLY_MODE: u16 = 1836;

/// Errors of a replica that may only mean that it has not yet heard of what another session has made or granted:
/// ER_DBACCESS_DENIED_ERROR, ER_BAD_DB_ERROR, ER_BAD_FIELD_ERROR, ER_TABLEACCESS_DENIED_ERROR,
/// ER_COLUMNACCESS_DENIED_ERROR, ER_NO_SUCH_TABLE, ER_SP_DOES_NOT_EXIST, ER_PROCACCESS_DENIED_ERROR.
pub(super) fn is_sign_of_delay(code: u16) -> bool {
    matches!(code, 1044 | 1049 | 1054 | 1142 | 1143 | 1146 | 1305 | 1370)
}

/// What a statement that runs is told by a server that stops; the second one also by KILL QUERY, the third (of MariaDB)
/// by KILL.
pub(super) fn is_interruption(code: u16) -> bool {
    matches!(code, ER_SERVER_SHUTDOWN | ER_QUERY_INTERRUPTED | ER_CONNECTION_KILLED)
}

/// Of those, the ones that may come behind columns or rows: a function that writes is called for the first row.
pub(super) fn may_be_mended_late(code: u16) -> bool {
    is_interruption(code)
        || matches!(
            code,
            ER_OPTION_PREVENTS_STATEMENT | ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION | ER_READ_ONLY_MODE
        )
}

/// Errors that are looked at before the client sees them.
pub(super) fn may_be_mended(code: u16) -> bool {
    is_sign_of_delay(code)
        || is_interruption(code)
        || matches!(
            code,
            ER_CLIENT_INTERACTION_TIMEOUT
                | ER_MAX_PREPARED_STMT_COUNT_REACHED
                | ER_UNKNOWN_STMT_HANDLER
                | ER_OPTION_PREVENTS_STATEMENT
                | ER_NEED_REPREPARE
                | ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
                | ER_READ_ONLY_MODE
        )
}

/// 1290 has other reasons too (--secure-file-priv, --skip-grant-tables), which no other server mends; 1792 is the connection's
/// guard, or the session's own transaction.
pub(super) fn is_read_only_refusal(code: u16, packet: &[u8], guard: Guard) -> bool {
    match code {
        ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION => guard == Guard::Up,
        ER_READ_ONLY_MODE => true,
        ER_OPTION_PREVENTS_STATEMENT => memchr::memmem::find(packet, b"read-only").is_some(),
        _ => false,
    }
}
