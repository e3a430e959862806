//! Makes a pooled connection look like a session: the commands for the difference, as bytes, and nothing when there is
//! none. Writes no socket.

use std::sync::Arc;

use crate::model::settings::{Assignment, Settings};
use crate::wire::command::{COM_INIT_DB, COM_QUERY, COM_SET_OPTION};
use crate::wire::flags::Capabilities;
use crate::wire::packet::push_packet;

use super::connection::Connection;

/// Appends the commands that make `connection` look like `settings`; returns how many, each answered by one OK (or
/// EOF) packet. The caller records `settings` as applied when all of them succeeded.
pub(crate) fn write_difference(connection: &Connection, settings: &Arc<Settings>, out: &mut Vec<u8>) -> u32 {
    if Arc::ptr_eq(&connection.applied, settings) {
        return 0;
    }
    let mut commands = 0;
    let applied = &connection.applied;
    // The schema first: nothing else depends on it, and it fails alone.
    if settings.schema != applied.schema
        && let Some(schema) = &settings.schema
    {
        let mut command = vec![COM_INIT_DB];
        command.extend_from_slice(schema);
        push_packet(out, 0, &command);
        commands += 1;
    }
    if settings.multi_statements != applied.multi_statements {
        let agreed = connection.capabilities.contains(Capabilities::MULTI_STATEMENTS);
        let off = !settings.multi_statements.unwrap_or(agreed);
        push_packet(out, 0, &[COM_SET_OPTION, u8::from(off), 0]);
        commands += 1;
    }
    let mut sql = query_head(connection.capabilities);
    let head = sql.len();
    for assignment in settings.assignments(applied) {
        sql.extend_from_slice(if sql.len() == head { b"SET " } else { b", " });
        write_assignment(connection, assignment, &mut sql);
    }
    if sql.len() > head {
        push_packet(out, 0, &sql);
        commands += 1;
    }
    commands
}

/// The bytes before the text of a COM_QUERY on a connection with these flags.
pub(crate) fn query_head(capabilities: Capabilities) -> Vec<u8> {
    if capabilities.contains(Capabilities::QUERY_ATTRIBUTES) {
        // No attributes, one (empty) set of them.
        vec![COM_QUERY, 0, 1]
    } else {
        vec![COM_QUERY]
    }
}

fn write_assignment(connection: &Connection, assignment: Assignment<'_>, sql: &mut Vec<u8>) {
    match assignment {
        Assignment::Variable { name, value } => {
            sql.extend_from_slice(b"SESSION ");
            sql.extend_from_slice(name);
            sql.push(b'=');
            write_value(name, value, sql);
        }
        Assignment::VariableDefault { name } => {
            sql.extend_from_slice(b"SESSION ");
            sql.extend_from_slice(name);
            sql.push(b'=');
            match connection.initial.iter().find(|(variable, _)| variable.as_bytes() == name) {
                Some((_, value)) => write_value(name, value, sql),
                None => sql.extend_from_slice(b"DEFAULT"),
            }
        }
        Assignment::UserVariable { name, literal } => {
            write_user_variable(name, sql);
            sql.extend_from_slice(literal);
        }
        Assignment::UserVariableNull { name } => {
            write_user_variable(name, sql);
            sql.extend_from_slice(b"NULL");
        }
    }
}

/// Names are quoted with backticks, which no sql_mode changes.
fn write_user_variable(name: &[u8], sql: &mut Vec<u8>) {
    sql.extend_from_slice(b"@`");
    for &byte in name {
        if byte == b'`' {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.extend_from_slice(b"`=");
}

/// The tracker reports every value as text; numbers must go back as numbers. Text goes as a hexadecimal literal where a
/// quote or a backslash could be read differently under another sql_mode.
fn write_value(name: &[u8], value: &[u8], sql: &mut Vec<u8>) {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let number = !digits.is_empty()
        && digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
        && digits.first().is_some_and(u8::is_ascii_digit);
    if value.is_empty() && name == b"character_set_results" {
        sql.extend_from_slice(b"NULL");
    } else if number {
        sql.extend_from_slice(value);
    } else if value.iter().any(|byte| !byte.is_ascii() || matches!(byte, b'\'' | b'\\' | b'"' | 0)) {
        sql.extend_from_slice(b"X'");
        for byte in value {
            sql.extend_from_slice(format!("{byte:02X}").as_bytes());
        }
        sql.push(b'\'');
    } else {
        sql.push(b'\'');
        sql.extend_from_slice(value);
        sql.push(b'\'');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (name, value, expected) in [
            ("wait_timeout", "100", "100"),
            ("sql_mode", "", "''"),
            ("sql_mode", "ANSI_QUOTES,STRICT_TRANS_TABLES", "'ANSI_QUOTES,STRICT_TRANS_TABLES'"),
            ("time_zone", "+05:00", "'+05:00'"),
            ("time_zone", "-05:00", "'-05:00'"),
            ("long_query_time", "1.500000", "1.500000"),
            ("character_set_results", "", "NULL"),
            ("optimizer_switch", "a'b", "X'612762'"),
        ] {
            let mut sql = Vec::new();
            write_value(name.as_bytes(), value.as_bytes(), &mut sql);
            assert_eq!(String::from_utf8_lossy(&sql), expected, "{name}={value}");
        }
    }
}
