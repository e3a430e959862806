//! Makes a pooled connection look like a session: the commands for the difference, as bytes, and nothing when there is
//! none. Writes no socket.

use std::sync::Arc;

use crate::model::settings::{
    ACCESS_MODE, Assignment, CHARACTER_SETS, RESULTS_COLLATION, Settings, Trackers, TrackersView, UNSET,
    is_access_mode,
};
use crate::sql::{REPLAYABLE, is_replayable};
use crate::wire::command::{COM_INIT_DB, COM_QUERY, COM_SET_OPTION};
use crate::wire::flags::Capabilities;
use crate::wire::handshake::is_impermissible;
use crate::wire::packet::{Reader, push_packet};

use super::connection::{Connection, Guard};

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
        write_option(connection.capabilities, settings, out);
        commands += 1;
    }
    let mut sql = query_head(connection.capabilities);
    let head = sql.len();
    let guarded = connection.guard == Guard::Up;
    for assignment in settings.assignments(applied).filter(|one| !(guarded && is_of_access_mode(one))) {
        sql.extend_from_slice(if sql.len() == head { b"SET " } else { b", " });
        write_assignment(connection, assignment, &mut sql);
    }
    if (&settings.trackers, settings.trackers_view) != (&applied.trackers, applied.trackers_view) {
        let (wanted, there) = (trackers(connection, settings), trackers(connection, applied));
        let changed = Trackers::VARIABLES.into_iter().zip(wanted.into_iter().zip(there));
        for (name, (value, _)) in changed.filter(|(_, (value, applied))| value != applied) {
            sql.extend_from_slice(if sql.len() == head { b"SET SESSION " } else { b", SESSION " });
            sql.extend_from_slice(name.as_bytes());
            sql.push(b'=');
            match value {
                Some(value) => write_value(name.as_bytes(), &value, &mut sql),
                None => sql.extend_from_slice(b"DEFAULT"),
            }
        }
    }
    let speaks = |settings| (character_sets(connection, settings), results_collation(settings));
    if speaks(settings) != speaks(applied) {
        sql.extend_from_slice(if sql.len() == head { b"SET " } else { b", " });
        write_character_sets(connection, settings, &mut sql);
    }
    if sql.len() > head {
        push_packet(out, 0, &sql);
        commands += 1;
    }
    commands
}

/// Appends the command that gives a connection, which will look like `settings`, this guard; returns how many. It must not be
/// followed by what is guarded before it has succeeded.
pub(crate) fn write_guard(
    connection: &Connection,
    guard: Guard,
    settings: &Settings,
    out: &mut Vec<u8>,
) -> u32 {
    let raises = guard == Guard::Up;
    if raises == (connection.guard == Guard::Up) {
        return 0;
    }
    let name = ACCESS_MODE[usize::from(connection.mariadb)].as_bytes();
    let mut sql = query_head(connection.capabilities);
    sql.extend_from_slice(b"SET ");
    let assignment = match settings.variable(name) {
        _ if raises => Assignment::Variable { name, value: b"1" },
        Some(value) => Assignment::Variable { name, value },
        None => Assignment::VariableDefault { name },
    };
    write_assignment(connection, assignment, &mut sql);
    push_packet(out, 0, &sql);
    1
}

fn is_of_access_mode(assignment: &Assignment<'_>) -> bool {
    match assignment {
        Assignment::Variable { name, .. } | Assignment::VariableDefault { name } => is_access_mode(name),
        Assignment::UserVariable { .. } | Assignment::UserVariableNull { .. } => false,
    }
}

/// Appends the COM_SET_OPTION of these settings.
pub(crate) fn write_option(capabilities: Capabilities, settings: &Settings, out: &mut Vec<u8>) {
    let agreed = capabilities.contains(Capabilities::MULTI_STATEMENTS);
    let off = !settings.multi_statements.unwrap_or(agreed);
    push_packet(out, 0, &[COM_SET_OPTION, u8::from(off), 0]);
}

/// What [`CHARACTER_SETS`] are on a connection that looks like this, and which of them the session has set.
fn character_sets<'a>(connection: &'a Connection, settings: &'a Settings) -> [(&'a [u8], bool); 4] {
    CHARACTER_SETS.map(|name| match settings.variable(name.as_bytes()) {
        Some(value) => (value, true),
        None => (default_character_set(connection, settings, name), false),
    })
}

fn default_character_set<'a>(connection: &'a Connection, settings: &Settings, name: &str) -> &'a [u8] {
    let list = if settings.after_reset { &connection.globals } else { &connection.initial };
    list.iter().find(|(variable, _)| *variable == name).map_or(&b""[..], |(_, value)| value)
}

fn results_collation(settings: &Settings) -> Option<&[u8]> {
    settings.variable(RESULTS_COLLATION.as_bytes()).filter(|number| !number.is_empty())
}

/// Begins with SET NAMES where the session has not set what results have: only that gives them the login's collation, of
/// which just the name is known. Any other collation is assigned by its number, and a character set's own by the set's name.
/// MariaDB takes few numbers, so SET NAMES gives results the collation of the connection there, if that is of their set.
fn write_character_sets(connection: &Connection, settings: &Settings, sql: &mut Vec<u8>) {
    let sets = character_sets(connection, settings);
    let defaults = CHARACTER_SETS.map(|name| default_character_set(connection, settings, name));
    let [_, (of_connection, _), (results, sets_results), (collation, _)] = sets;
    let number = results_collation(settings);
    let named = if !sets_results {
        let [client, of_connection, results, collation] = defaults;
        (client == of_connection && client == results).then_some((client, collation))
    } else {
        (connection.mariadb && results == of_connection && may_be_clients(number))
            .then_some((results, collation))
    };
    let named = named.map(|(set, collation)| [set, set, set, collation]);
    if let Some([set, _, _, collation]) = named {
        sql.extend_from_slice(b"NAMES '");
        sql.extend_from_slice(set);
        sql.extend_from_slice(b"' COLLATE '");
        sql.extend_from_slice(collation);
        sql.push(b'\'');
    }
    let mut first = named.is_none();
    // The connection's set comes before its collation, which it changes.
    for (at, (name, (value, _))) in CHARACTER_SETS.into_iter().zip(sets).enumerate() {
        if named.is_some_and(|named| named[at] == value) {
            continue;
        }
        sql.extend_from_slice(if std::mem::take(&mut first) { &b"SESSION "[..] } else { b", SESSION " });
        sql.extend_from_slice(name.as_bytes());
        sql.push(b'=');
        let by_number = name == "character_set_results" && !value.is_empty() && !connection.mariadb;
        let number = number.filter(|_| by_number);
        write_value(name.as_bytes(), number.unwrap_or(value), sql);
    }
}

/// Whether the collation of this number is one that NAMES takes.
fn may_be_clients(number: Option<&[u8]>) -> bool {
    let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
    number.is_some_and(|number| !is_impermissible(number))
}

/// The values of the session_track_* variables for a connection that looks like this. None is the server's default.
fn trackers(connection: &Connection, settings: &Settings) -> [Option<Vec<u8>>; 5] {
    let mut values = trackers_of_mysql(connection.tracked.as_deref(), settings);
    if connection.mariadb {
        // It has no session_track_gtids.
        values[0] = None;
    }
    values
}

/// The same where there is each of them. `tracked` is what we are told of, unless it is [`REPLAYABLE`].
fn trackers_of_mysql(tracked: Option<&[u8]>, settings: &Settings) -> [Option<Vec<u8>>; 5] {
    let asked = settings.trackers.as_deref();
    let switch = |on: bool| Some(vec![b'0' + u8::from(on)]);
    let all_gtids = asked.is_some_and(|asked| *asked.gtids == *b"ALL_GTIDS");
    let gtids = if all_gtids { &b"ALL_GTIDS"[..] } else { b"OWN_GTID" };
    if settings.trackers_view != TrackersView::Merged {
        return [
            match settings.trackers_view {
                TrackersView::AsSetInTransaction => Some(gtids.to_vec()),
                _ => asked.map(|asked| asked.gtids.to_vec()),
            },
            asked.and_then(|asked| switch(asked.schema)),
            asked.and_then(|asked| switch(asked.state_change)),
            asked.map(|asked| asked.system_variables.to_vec()),
            asked.map(|asked| asked.transaction_info.to_vec()),
        ];
    }
    let all = asked.is_some_and(|asked| asked.tells(b"*"));
    let mut variables = match tracked {
        _ if all => b"*".to_vec(),
        Some(tracked) => tracked.to_vec(),
        None => REPLAYABLE.join(",").into_bytes(),
    };
    let own = |name: &[u8]| {
        let name = name.trim_ascii().to_ascii_lowercase();
        name.is_empty() || is_replayable(&name) || tracked.is_some() && name == b"last_gtid"
    };
    let further = asked.iter().flat_map(|asked| asked.system_variables.split(|&byte| byte == b','));
    // Servers refuse a name that comes twice.
    for name in further.filter(|name| !all && !own(name)) {
        variables.push(b',');
        variables.extend_from_slice(name);
    }
    let transactions = Some(b"CHARACTERISTICS".to_vec());
    [Some(gtids.to_vec()), switch(true), switch(true), Some(variables), transactions]
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
            let typed = literal.strip_suffix(b",NULL");
            write_user_variable(name, typed.unwrap_or(literal), typed.is_some(), sql);
        }
        Assignment::UserVariableNull { name } => write_user_variable(name, UNSET, true, sql),
    }
}

/// `is_null`: it has only the type of the literal.
fn write_user_variable(name: &[u8], literal: &[u8], is_null: bool, sql: &mut Vec<u8>) {
    write_user_variable_name(name, sql);
    sql.push(b'=');
    sql.extend_from_slice(literal);
    if is_null {
        sql.extend_from_slice(b", ");
        write_user_variable_name(name, sql);
        sql.extend_from_slice(b"=NULL");
    }
}

/// Asks for a user variable; [`user_variable_literal`] reads the answer.
pub(crate) fn user_variable_question(name: &[u8]) -> String {
    let mut quoted = Vec::new();
    write_user_variable_name(name, &mut quoted);
    let name = String::from_utf8_lossy(&quoted);
    // Binary, since texts come in the session's character set, which may be ucs2.
    let [hex, charset, collation] =
        ["HEX", "CHARSET", "COLLATION"].map(|function| format!("CAST({function}({name}) AS BINARY)"));
    format!("SELECT {name},{hex},{charset},{collation} LIMIT 1")
}

/// The literal that gives a user variable the value and the type that a server said. None: its answer cannot be read.
pub(crate) fn user_variable_literal(packets: &[Vec<u8>]) -> Option<Vec<u8>> {
    // The types of all numbers in user variables: MYSQL_TYPE_DOUBLE, MYSQL_TYPE_LONGLONG, MYSQL_TYPE_NEWDECIMAL.
    const DOUBLE: u8 = 5;
    const WHOLE_NUMBER: u8 = 8;
    const DECIMAL: u8 = 246;
    const UNSIGNED: u8 = 0x20;
    const NULL: u8 = 0xFB;
    let mut definition = Reader::new(packets.get(1)?);
    for _ in 0..6 {
        definition.lenenc_bytes().ok()?;
    }
    // Length of what follows, character set, length; then the type.
    definition.bytes(7).ok()?;
    let kind = definition.u8().ok()?;
    let flags = definition.bytes(2).ok()?;
    let row = packets.get(packets.len().checked_sub(2)?)?;
    let is_null = row.first() == Some(&NULL);
    // Of NULL, value and digits are that.
    let mut row = Reader::new(row.get(if is_null { 2 } else { 0 }..)?);
    let value = if is_null { b"0" } else { row.lenenc_bytes().ok()? };
    let has = |byte: u8| value.contains(&byte);
    let mut literal = value.to_vec();
    match kind {
        WHOLE_NUMBER if flags[0] & UNSIGNED != 0 => {
            literal = [b"CAST(", value, b" AS UNSIGNED)"].concat();
        }
        WHOLE_NUMBER => {}
        DECIMAL if has(b'.') => {}
        DECIMAL => literal.push(b'.'),
        DOUBLE if has(b'e') => {}
        DOUBLE => literal.extend_from_slice(b"e0"),
        _ => {
            let mut text = || row.lenenc_bytes().ok().and_then(|text| std::str::from_utf8(text).ok());
            let hex = if is_null { "" } else { text()? };
            let (charset, collation) = (text()?, text()?);
            // One of the names is a reserved word.
            literal = format!("_{charset} X'{hex}' COLLATE `{collation}`").into_bytes();
        }
    }
    if is_null {
        literal.extend_from_slice(b",NULL");
    }
    Some(literal)
}

/// The number of the collation that a column of an answer has, which is a text; the first column is 0. Empty: the session has
/// `resultset_metadata = NONE`.
pub(crate) fn collation_of_texts(packets: &[Vec<u8>], column: usize) -> Box<[u8]> {
    let number = || {
        let mut definition =
            Reader::new(packets.get(1 + column).filter(|packet| packet.starts_with(b"\x03def"))?);
        for _ in 0..6 {
            definition.lenenc_bytes().ok()?;
        }
        // The length of what follows.
        definition.u8().ok()?;
        definition.u16().ok()
    };
    number().map_or_else(Box::default, |number| number.to_string().into_bytes().into())
}

/// Names are quoted with backticks, which no sql_mode changes.
fn write_user_variable_name(name: &[u8], sql: &mut Vec<u8>) {
    sql.extend_from_slice(b"@`");
    for &byte in name {
        if byte == b'`' {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.push(b'`');
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
