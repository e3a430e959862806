//! What a client asks for: the command byte, the text of a query behind its attributes, the parts of an EXECUTE that
//! the proxy must know. Reads bytes in place.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_command_phase.html>

use std::ops::Range;

use super::response::read_length;
use super::tracker::Answer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Quit,
    InitDb,
    Query,
    FieldList,
    Statistics,
    ProcessKill,
    Ping,
    ChangeUser,
    StmtPrepare,
    StmtExecute,
    StmtSendLongData,
    StmtClose,
    StmtReset,
    StmtFetch,
    SetOption,
    ResetConnection,
    /// COM_REFRESH, COM_SHUTDOWN, COM_DEBUG and their like: about one server; the primary answers.
    Administration(u8),
    /// COM_REGISTER_REPLICA.
    RegisterReplica,
    /// COM_BINLOG_DUMP and COM_BINLOG_DUMP_GTID, behind which a connection does nothing else.
    Dump,
    Unknown(u8),
}

impl Command {
    pub(crate) fn from_byte(byte: u8) -> Self {
        match byte {
            0x01 => Self::Quit,
            0x02 => Self::InitDb,
            0x03 => Self::Query,
            0x04 => Self::FieldList,
            0x07 | 0x08 | 0x0A | 0x0D => Self::Administration(byte),
            0x09 => Self::Statistics,
            0x0C => Self::ProcessKill,
            0x0E => Self::Ping,
            0x11 => Self::ChangeUser,
            0x12 | 0x1E => Self::Dump,
            0x15 => Self::RegisterReplica,
            0x16 => Self::StmtPrepare,
            0x17 => Self::StmtExecute,
            0x18 => Self::StmtSendLongData,
            0x19 => Self::StmtClose,
            0x1A => Self::StmtReset,
            0x1B => Self::SetOption,
            0x1C => Self::StmtFetch,
            0x1F => Self::ResetConnection,
            other => Self::Unknown(other),
        }
    }

    pub(crate) fn answer(self) -> Answer {
        match self {
            Self::Query | Self::StmtExecute => Answer::Results,
            Self::StmtPrepare => Answer::Prepared,
            Self::StmtFetch => Answer::Rows,
            Self::FieldList => Answer::Columns,
            Self::Statistics => Answer::Text,
            // COM_PROCESS_INFO is the one old command that answers with rows.
            Self::Administration(0x0A) => Answer::Results,
            _ => Answer::Status,
        }
    }
}

/// The flags of COM_STMT_EXECUTE that ask for a cursor.
pub(crate) const CURSORS: u8 = 0x07;

pub(crate) const COM_INIT_DB: u8 = 0x02;
pub(crate) const COM_QUERY: u8 = 0x03;
pub(crate) const COM_PING: u8 = 0x0E;
pub(crate) const COM_STMT_PREPARE: u8 = 0x16;
pub(crate) const COM_STMT_CLOSE: u8 = 0x19;
pub(crate) const COM_SET_OPTION: u8 = 0x1B;

/// The name of the query attribute that says where a statement shall run (`primary` or `replica`).
pub(crate) const HINT_ATTRIBUTE: &[u8] = b"readwright";

/// A COM_QUERY packet taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    pub(crate) sql: &'a [u8],
    /// The value of the attribute [`HINT_ATTRIBUTE`], when it is a string.
    pub(crate) hint: Option<&'a [u8]>,
}

/// Where the parts of a COM_STMT_EXECUTE stand in its payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Execute {
    pub(crate) statement: u32,
    pub(crate) cursor: bool,
    /// None when there are no parameters at all.
    pub(crate) parameters: Option<Parameters>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// Where the byte stands that says whether types follow.
    pub(crate) bound_at: usize,
    /// The types (and names); empty when the client relies on those it sent before.
    pub(crate) types: Range<usize>,
    /// The value of [`HINT_ATTRIBUTE`] is looked for only when names are there.
    pub(crate) hint: Option<Range<usize>>,
}

/// A packet of the client's that does not hold what it promises.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed {0} packet")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Takes a COM_QUERY payload apart; `attributes` says whether CLIENT_QUERY_ATTRIBUTES was agreed.
pub(crate) fn read_query(payload: &[u8], attributes: bool) -> Result<Query<'_>, Malformed> {
    let bad = || Malformed("COM_QUERY");
    let body = payload.get(1..).ok_or_else(bad)?;
    if !attributes {
        return Ok(Query { sql: body, hint: None });
    }
    let (count, size) = read_length(body).ok_or_else(bad)?;
    // parameter_set_count is always 1.
    let (_, sets) = read_length(&body[size..]).ok_or_else(bad)?;
    let start = 1 + size + sets;
    if count == 0 {
        return Ok(Query { sql: &payload[start..], hint: None });
    }
    let parts = read_parameters(payload, start, count, true).ok_or_else(bad)?;
    Ok(Query { sql: payload.get(parts.end..).ok_or_else(bad)?, hint: parts.hint.map(|at| &payload[at]) })
}

/// Takes a COM_STMT_EXECUTE payload apart. `parameters` is the number of `?` in the statement.
pub(crate) fn read_execute(payload: &[u8], parameters: u16, attributes: bool) -> Result<Execute, Malformed> {
    const PARAMETER_COUNT_AVAILABLE: u8 = 0x08;
    const HEAD: usize = 10;
    let bad = || Malformed("COM_STMT_EXECUTE");
    let &[_, i0, i1, i2, i3, flags, ..] = payload else { return Err(bad()) };
    let mut execute = Execute {
        statement: u32::from_le_bytes([i0, i1, i2, i3]),
        cursor: flags & CURSORS != 0,
        parameters: None,
    };
    let mut count = u64::from(parameters);
    let mut at = HEAD;
    if count == 0 && !(attributes && flags & PARAMETER_COUNT_AVAILABLE != 0) {
        return Ok(execute);
    }
    if attributes {
        let (written, size) = read_length(payload.get(at..).ok_or_else(bad)?).ok_or_else(bad)?;
        count = written;
        at += size;
    }
    if count > 0 {
        let parts = read_types(payload, at, count, attributes).ok_or_else(bad)?;
        let hint = parts
            .hint_index
            .and_then(|index| read_values(payload, &parts, count, Some(index)))
            .and_then(|(_, hint)| hint);
        execute.parameters = Some(Parameters { bound_at: parts.bound_at, types: parts.types, hint });
    }
    Ok(execute)
}

/// The first `count` of the types that an EXECUTE has, each a type and its sign; `names` as with attributes.
pub(crate) fn read_kinds(types: &[u8], count: u16, names: bool) -> Vec<[u8; 2]> {
    let mut kinds = Vec::with_capacity(usize::from(count));
    let mut rest = types;
    while kinds.len() < usize::from(count)
        && let Some((&kind, behind)) = rest.split_first_chunk()
    {
        kinds.push(kind);
        rest = behind;
        if names {
            let (length, size) = read_length(rest).unwrap_or_default();
            let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(size);
            rest = rest.get(end..).unwrap_or_default();
        }
    }
    kinds
}

/// The statement id that most COM_STMT commands begin with. What is shorter than a command's fixed part is malformed,
/// whatever statement it names.
pub(crate) fn read_statement_id(payload: &[u8]) -> Result<u32, Malformed> {
    let &[command, i0, i1, i2, i3, ..] = payload else { return Err(Malformed("COM_STMT")) };
    let (name, fixed) = match Command::from_byte(command) {
        Command::StmtExecute => ("COM_STMT_EXECUTE", 10),
        Command::StmtFetch => ("COM_STMT_FETCH", 9),
        Command::StmtSendLongData => ("COM_STMT_SEND_LONG_DATA", 7),
        _ => ("COM_STMT", 5),
    };
    if payload.len() < fixed {
        return Err(Malformed(name));
    }
    Ok(u32::from_le_bytes([i0, i1, i2, i3]))
}

struct Types {
    null_bitmap: Range<usize>,
    bound_at: usize,
    types: Range<usize>,
    /// Which parameter is named [`HINT_ATTRIBUTE`].
    hint_index: Option<u64>,
}

struct WholeParameters {
    end: usize,
    hint: Option<Range<usize>>,
}

fn read_parameters(payload: &[u8], start: usize, count: u64, names: bool) -> Option<WholeParameters> {
    let types = read_types(payload, start, count, names)?;
    // Attributes of a query always come with their types.
    if types.types.is_empty() {
        return None;
    }
    let (end, hint) = read_values(payload, &types, count, types.hint_index)?;
    Some(WholeParameters { end, hint })
}

fn read_types(payload: &[u8], start: usize, count: u64, names: bool) -> Option<Types> {
    // More parameters than bytes is a lie, whatever their size.
    let count = usize::try_from(count).ok().filter(|&count| count <= payload.len())?;
    let bound_at = start.checked_add(count.div_ceil(8))?;
    let bound = *payload.get(bound_at)?;
    let mut at = bound_at + 1;
    let mut hint_index = None;
    if bound == 1 {
        for index in 0..count {
            at += 2;
            if names {
                let (length, size) = read_length(payload.get(at..)?)?;
                let end = at.checked_add(size)?.checked_add(usize::try_from(length).ok()?)?;
                if payload.get(at + size..end)?.eq_ignore_ascii_case(HINT_ATTRIBUTE) {
                    hint_index = Some(index as u64);
                }
                at = end;
            }
        }
    }
    payload.get(..at)?;
    Some(Types { null_bitmap: start..bound_at, bound_at, types: bound_at + 1..at, hint_index })
}

/// Walks over the values to find their end and the one asked for.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_binary_resultset.html#sect_protocol_binary_resultset_row_value>
fn read_values(
    payload: &[u8],
    types: &Types,
    count: u64,
    wanted: Option<u64>,
) -> Option<(usize, Option<Range<usize>>)> {
    let mut type_at = types.types.start;
    let mut at = types.types.end;
    let mut found = None;
    let nulls = &payload[types.null_bitmap.clone()];
    for index in 0..count {
        let kind = *payload.get(type_at)?;
        type_at += 2;
        let (length, size) = read_length(payload.get(type_at..types.types.end)?)?;
        type_at += size + usize::try_from(length).ok()?;
        let bit = usize::try_from(index).ok()?;
        if nulls[bit / 8] & (1 << (bit % 8)) != 0 || kind == 0x06 {
            continue;
        }
        let (start, end) = match kind {
            0x01 => (at, at + 1),
            0x02 | 0x0D => (at, at + 2),
            0x03 | 0x04 | 0x09 => (at, at + 4),
            0x05 | 0x08 => (at, at + 8),
            0x07 | 0x0A | 0x0B | 0x0C => (at + 1, at + 1 + usize::from(*payload.get(at)?)),
            _ => {
                let (length, size) = read_length(payload.get(at..)?)?;
                (at + size, (at + size).checked_add(usize::try_from(length).ok()?)?)
            }
        };
        payload.get(start..end)?;
        if wanted == Some(index) {
            found = Some(start..end);
        }
        at = end;
    }
    Some((at, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let check = |payload: &[u8], attributes, sql: Option<&[u8]>, hint: Option<&[u8]>| {
            assert_eq!(
                read_query(payload, attributes).ok(),
                sql.map(|sql| Query { sql, hint }),
                "{payload:?}"
            );
        };
        check(b"\x03SELECT 1", false, Some(b"SELECT 1"), None);
        check(b"\x03\x00\x01SELECT 1", true, Some(b"SELECT 1"), None);
        check(
            b"\x03\x01\x01\x00\x01\xfd\x00\x0areadwright\x07primarySELECT 1",
            true,
            Some(b"SELECT 1"),
            Some(b"primary"),
        );
        check(b"\x03\x02\x01\x01\x01\xfd\x00\x01n\x03\x00\x01i\x05\0\0\0DO 1", true, Some(b"DO 1"), None);
        check(b"\x03\x01\x01\x00\x01\xfd\x00\x0areadwright\x70primary", true, None, None);
        check(b"\x03\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", true, None, None);
        check(b"\x03", true, None, None);
    }

    #[test]
    fn executes() {
        let plain = b"\x17\x01\0\0\0\x00\x01\0\0\0";
        let execute = read_execute(plain, 0, false).expect("well formed");
        assert_eq!(execute, Execute { statement: 1, cursor: false, parameters: None });
        let bound = b"\x17\x01\0\0\0\x01\x01\0\0\0\x00\x01\x03\x00\x08\x00\x05\0\0\0\x06\0\0\0\0\0\0\0";
        let execute = read_execute(bound, 2, false).expect("well formed");
        assert!(execute.cursor);
        assert_eq!(execute.parameters, Some(Parameters { bound_at: 11, types: 12..16, hint: None }));
        let unbound = b"\x17\x01\0\0\0\x00\x01\0\0\0\x00\x00\x05\0\0\0";
        let execute = read_execute(unbound, 1, false).expect("well formed");
        assert_eq!(execute.parameters, Some(Parameters { bound_at: 11, types: 12..12, hint: None }));
        assert!(read_execute(b"\x17\x01\0\0\0\x00\x01\0\0\0", 1, false).is_err());
        let hinted = b"\x17\x01\0\0\0\x08\x01\0\0\0\x01\x00\x01\xfd\x00\x0areadwright\x07replica";
        let execute = read_execute(hinted, 0, true).expect("well formed");
        assert_eq!(read_kinds(&bound[12..16], 2, false), [[3, 0], [8, 0]]);
        assert_eq!(read_kinds(b"\x03\x80\x01a\x08\0\0\xfd\0\x01b", 2, true), [[3, 0x80], [8, 0]]);
        assert_eq!(read_kinds(b"\x03\x80\xfd", 2, true), [[3, 0x80]]);
        let hint = execute.parameters.and_then(|parameters| parameters.hint).expect("a hint");
        assert_eq!(&hinted[hint], b"replica");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(payload: Vec<u8>, parameters: u16, attributes: bool) {
            let _ = read_query(&payload, attributes);
            let _ = read_execute(&payload, parameters, attributes);
            let _ = read_statement_id(&payload);
        }
    }
}
