//! OK, EOF and ERR packets as a server sends them, and the session changes an OK packet carries. Reads bytes in place;
//! the only thing it ever changes is to leave out session changes that a client did not ask for.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_response_packets.html>

use super::packet::{OK, push_lenenc, push_lenenc_bytes, push_packet};

/// Status flags of OK and EOF packets that the proxy acts on.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/mysql__com_8h.html#a1d854e841086925be1883e4d7b4e8cad>
pub(crate) mod status {
    pub(crate) const AUTOCOMMIT: u16 = 0x0002;
    pub(crate) const MORE_RESULTS: u16 = 0x0008;
    pub(crate) const CURSOR_EXISTS: u16 = 0x0040;
    pub(crate) const LAST_ROW_SENT: u16 = 0x0080;
    pub(crate) const PS_OUT_PARAMS: u16 = 0x1000;
    pub(crate) const SESSION_STATE_CHANGED: u16 = 0x4000;
}

/// The fixed part of an OK packet, or what an EOF packet has of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ok {
    pub(crate) affected_rows: u64,
    pub(crate) last_insert_id: u64,
    pub(crate) status: u16,
    pub(crate) warnings: u16,
}

/// How the connection's two sides agreed to write answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) deprecate_eof: bool,
    pub(crate) optional_metadata: bool,
}

/// One entry of the session-state part of an OK packet.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_ok_packet.html#sect_protocol_basic_ok_packet_sessinfo>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Variable {
        name: &'a [u8],
        value: &'a [u8],
    },
    Schema(&'a [u8]),
    /// Something in the session changed; which thing is not said.
    State,
    Gtids(&'a [u8]),
    /// The statements that would open the same transaction elsewhere.
    Characteristics(&'a [u8]),
    /// What the transaction has done.
    Transaction,
    /// Kinds that later servers add.
    Other(u8),
}

/// A packet that does not hold what its first byte promises.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed {0} packet from the server")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Reads the payload of an OK packet, first byte 0x00 or 0xFE.
pub(crate) fn read_ok(payload: &[u8]) -> Result<Ok, Malformed> {
    ok_parts(payload).map(|parts| parts.ok)
}

/// Reads the payload of an EOF packet (at least 5 bytes; the protocol before CLIENT_DEPRECATE_EOF).
pub(crate) fn read_eof(payload: &[u8]) -> Result<Ok, Malformed> {
    match payload {
        [0xFE, w0, w1, s0, s1, ..] => Ok(Ok {
            warnings: u16::from_le_bytes([*w0, *w1]),
            status: u16::from_le_bytes([*s0, *s1]),
            ..Ok::default()
        }),
        _ => Err(Malformed("EOF")),
    }
}

/// The error code of an ERR packet's payload.
pub(crate) fn read_error_code(payload: &[u8]) -> Result<u16, Malformed> {
    match payload {
        [0xFF, low, high, ..] => Ok(u16::from_le_bytes([*low, *high])),
        _ => Err(Malformed("ERR")),
    }
}

/// Calls `each` for every session change of an OK packet, in order.
pub(crate) fn read_changes<'a>(payload: &'a [u8], mut each: impl FnMut(Change<'a>)) -> Result<(), Malformed> {
    let parts = ok_parts(payload)?;
    if parts.ok.status & status::SESSION_STATE_CHANGED == 0 {
        return Ok(());
    }
    let mut rest = parts.changes.ok_or(Malformed("OK"))?;
    while !rest.is_empty() {
        let (change, _, after) = next_change(rest).ok_or(Malformed("OK"))?;
        each(change);
        rest = after;
    }
    Ok(())
}

/// Takes out of a whole OK packet (header and payload) the session changes for which `keep` says no. The packet never
/// grows; returns its new length. A packet without changes is left as it is.
pub(crate) fn retain_changes(
    packet: &mut [u8],
    keep: impl Fn(Change<'_>) -> bool,
) -> Result<usize, Malformed> {
    let parts = ok_parts(&packet[4..])?;
    if parts.ok.status & status::SESSION_STATE_CHANGED == 0 {
        return Ok(packet.len());
    }
    let changes = parts.changes.ok_or(Malformed("OK"))?;
    let (status_at, changes_at) = (4 + parts.status_at, packet.len() - changes.len());
    // The length prefix of the changes stands between the info text and the changes.
    let prefix_at = 4 + parts.prefix_at;
    let mut kept = Vec::new();
    let mut rest = changes;
    while !rest.is_empty() {
        let (change, whole, after) = next_change(rest).ok_or(Malformed("OK"))?;
        if keep(change) {
            kept.extend_from_slice(whole);
        }
        rest = after;
    }
    // Servers also say that something changed and list nothing; to a client that takes no changes that is no OK packet.
    if !kept.is_empty() && kept.len() == packet.len() - changes_at {
        return Ok(packet.len());
    }
    let mut end = prefix_at;
    if kept.is_empty() {
        let status = parts.ok.status & !status::SESSION_STATE_CHANGED;
        packet[status_at..status_at + 2].copy_from_slice(&status.to_le_bytes());
        // Without changes an empty info text has no length byte either.
        if status_at + 5 == prefix_at {
            end -= 1;
        }
    } else {
        let mut prefix = [0; 9];
        let prefix = write_length(&mut prefix, kept.len());
        packet[end..end + prefix.len()].copy_from_slice(prefix);
        end += prefix.len();
        packet[end..end + kept.len()].copy_from_slice(&kept);
        end += kept.len();
    }
    let length = u32::try_from(end - 4).map_err(|_| Malformed("OK"))?.to_le_bytes();
    packet[..3].copy_from_slice(&length[..3]);
    Ok(end)
}

/// A length-encoded integer at the start of `bytes`: the value and its size. None when it is cut or NULL (0xFB).
pub(crate) fn read_length(bytes: &[u8]) -> Option<(u64, usize)> {
    let wide = |size: usize| {
        let mut value = [0; 8];
        value[..size].copy_from_slice(bytes.get(1..=size)?);
        Some((u64::from_le_bytes(value), size + 1))
    };
    match *bytes.first()? {
        0xFB | 0xFF => None,
        0xFC => wide(2),
        0xFD => wide(3),
        0xFE => wide(8),
        small => Some((u64::from(small), 1)),
    }
}

/// A whole answer of one row and one column, with `number` in that place. Any other answer is left as it is.
/// `binary` is the protocol of prepared statements, where the column must be of type LONGLONG.
pub(crate) fn with_number(answer: &[u8], format: Format, binary: bool, number: i64) -> Vec<u8> {
    let size = |bytes: &[u8]| Some(4 + usize::from(*bytes.first()?) + (usize::from(*bytes.get(1)?) << 8));
    let replace = || {
        let head = answer.get(..size(answer)?)?;
        let (columns, width) = read_length(head.get(4..)?).filter(|_| head.get(4) != Some(&0))?;
        let metadata = !format.optional_metadata || head.get(4 + width) != Some(&0);
        let before = usize::from(metadata) + usize::from(!format.deprecate_eof);
        let mut at = head.len();
        for _ in 0..before {
            at += size(answer.get(at..)?)?;
        }
        let row = answer
            .get(at..)?
            .get(..size(&answer[at..])?)
            .filter(|row| columns == 1 && row.get(4) != Some(&0xFE))?;
        let mut payload = Vec::new();
        if binary {
            payload.extend_from_slice(&[0, 0]);
            payload.extend_from_slice(&number.to_le_bytes());
        } else {
            push_lenenc_bytes(&mut payload, number.to_string().as_bytes());
        }
        let mut replaced = answer[..at].to_vec();
        push_packet(&mut replaced, row[3], &payload);
        replaced.extend_from_slice(&answer[at + row.len()..]);
        Some(replaced)
    };
    replace().unwrap_or_else(|| answer.to_vec())
}

struct OkParts<'a> {
    ok: Ok,
    status_at: usize,
    /// Where the length prefix of the changes begins.
    prefix_at: usize,
    /// None when the packet ends before them.
    changes: Option<&'a [u8]>,
}

fn ok_parts(payload: &[u8]) -> Result<OkParts<'_>, Malformed> {
    let parts = || {
        if !matches!(payload.first(), Some(0x00 | 0xFE)) {
            return None;
        }
        let mut at = 1;
        let (affected_rows, size) = read_length(payload.get(at..)?)?;
        at += size;
        let (last_insert_id, size) = read_length(payload.get(at..)?)?;
        at += size;
        let status_at = at;
        let &[s0, s1, w0, w1] = payload.get(at..at + 4)? else { return None };
        at += 4;
        let ok = Ok {
            affected_rows,
            last_insert_id,
            status: u16::from_le_bytes([s0, s1]),
            warnings: u16::from_le_bytes([w0, w1]),
        };
        let mut prefix_at = at;
        let mut changes = None;
        if ok.status & status::SESSION_STATE_CHANGED != 0 {
            let (_, rest) = read_string(payload.get(at..)?)?;
            prefix_at = payload.len() - rest.len();
            let (found, rest) = read_string(rest)?;
            // Nothing may follow: the changes are rewritten in place up to the end of the packet.
            changes = rest.is_empty().then_some(found);
        }
        Some(OkParts { ok, status_at, prefix_at, changes })
    };
    parts().ok_or(Malformed("OK"))
}

/// The change at the start of `bytes`, its bytes, and what follows it.
fn next_change(bytes: &[u8]) -> Option<(Change<'_>, &[u8], &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (data, after) = read_string(rest)?;
    let change = match kind {
        0 => {
            let (name, value) = read_string(data)?;
            Change::Variable { name, value: read_string(value)?.0 }
        }
        1 => Change::Schema(read_string(data)?.0),
        2 => Change::State,
        3 => Change::Gtids(read_string(data.get(1..)?)?.0),
        4 => Change::Characteristics(read_string(data)?.0),
        5 => Change::Transaction,
        other => Change::Other(other),
    };
    Some((change, &bytes[..bytes.len() - after.len()], after))
}

/// A length-encoded string at the start of `bytes`, and what follows it.
fn read_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, size) = read_length(bytes)?;
    let end = size.checked_add(usize::try_from(length).ok()?)?;
    Some((bytes.get(size..end)?, bytes.get(end..)?))
}

fn write_length(buffer: &mut [u8; 9], value: usize) -> &[u8] {
    let bytes = (value as u64).to_le_bytes();
    let size = match value {
        0..=0xFA => {
            buffer[0] = bytes[0];
            return &buffer[..1];
        }
        0xFB..=0xFFFF => 2,
        0x1_0000..=0xFF_FFFF => 3,
        _ => 8,
    };
    buffer[0] = match size {
        2 => 0xFC,
        3 => 0xFD,
        _ => 0xFE,
    };
    buffer[1..=size].copy_from_slice(&bytes[..size]);
    &buffer[..=size]
}

/// The payload of an OK packet with neither text nor session state.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_ok_packet.html>
pub(crate) fn encode_ok(ok: Ok) -> Vec<u8> {
    let mut out = vec![OK];
    push_lenenc(&mut out, ok.affected_rows);
    push_lenenc(&mut out, ok.last_insert_id);
    out.extend_from_slice(&ok.status.to_le_bytes());
    out.extend_from_slice(&ok.warnings.to_le_bytes());
    out
}

/// The same for a client with CLIENT_SESSION_TRACK that has this schema from now on.
pub(crate) fn encode_ok_with_schema(ok: Ok, schema: &[u8]) -> Vec<u8> {
    const SCHEMA: u8 = 1;
    let mut out = encode_ok(Ok { status: ok.status | status::SESSION_STATE_CHANGED, ..ok });
    let (mut name, mut change) = (Vec::new(), vec![SCHEMA]);
    push_lenenc_bytes(&mut name, schema);
    push_lenenc_bytes(&mut change, &name);
    // An empty info text, then the changes.
    push_lenenc_bytes(&mut out, b"");
    push_lenenc_bytes(&mut out, &change);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As MySQL 9.7.4 answered `USE d` to a client with CLIENT_SESSION_TRACK, header included.
    const USE_D: &[u8] = b"\x15\0\0\x01\0\0\0\x02\x40\0\0\0\x0b\x01\x05\x04mysq\x02\x02\x011";

    fn changes(packet: &[u8]) -> Vec<Change<'_>> {
        let mut found = Vec::new();
        read_changes(&packet[4..], |change| found.push(change)).expect("well formed");
        found
    }

    #[test]
    fn reads_and_filters_changes() {
        assert_eq!(changes(USE_D), [Change::Schema(b"mysq"), Change::State]);
        let mut packet = USE_D.to_vec();
        let length =
            retain_changes(&mut packet, |change| matches!(change, Change::Schema(_))).expect("well formed");
        packet.truncate(length);
        assert_eq!(usize::from(packet[0]) + 4, packet.len());
        assert_eq!(changes(&packet), [Change::Schema(b"mysq")]);
        let mut packet = USE_D.to_vec();
        let length = retain_changes(&mut packet, |_| false).expect("well formed");
        assert_eq!(&packet[..length], b"\x07\0\0\x01\0\0\0\x02\x00\0\0");
        let mut nothing_listed = b"\x09\0\0\x01\0\0\0\x03\x40\0\0\0\0".to_vec();
        let length = retain_changes(&mut nothing_listed, |_| false).expect("well formed");
        assert_eq!(&nothing_listed[..length], b"\x07\0\0\x01\0\0\0\x03\x00\0\0");
    }

    #[test]
    fn a_number_is_put_in_the_place_of_another() {
        let new = Format { deprecate_eof: true, optional_metadata: false };
        let old = Format { deprecate_eof: false, optional_metadata: true };
        let check = |answer: &[u8], format, binary, expected: &[u8]| {
            assert_eq!(
                with_number(answer, format, binary, -1).escape_ascii().to_string(),
                expected.escape_ascii().to_string()
            );
        };
        let head = b"\x01\0\0\x01\x01\x04\0\0\x02\x03def";
        let end = b"\x07\0\0\x04\xfe\0\0\x02\0\0\0";
        check(
            &[&head[..], b"\x03\0\0\x03\x0212", end].concat(),
            new,
            false,
            &[&head[..], b"\x03\0\0\x03\x02-1", end].concat(),
        );
        let row = [&b"\x0a\0\0\x03\0\0"[..], &[0xFF; 8]].concat();
        check(
            &[&head[..], b"\x03\0\0\x03\0\0\x05", end].concat(),
            new,
            true,
            &[&head[..], &row, end].concat(),
        );
        // Without definitions, in the old form.
        let none = b"\x02\0\0\x01\x01\0\x05\0\0\x02\xfe\0\0\x02\0";
        check(
            &[&none[..], b"\x02\0\0\x03\x015"].concat(),
            old,
            false,
            &[&none[..], b"\x03\0\0\x03\x02-1"].concat(),
        );
        // No row, or no rows at all.
        for answer in [
            &b"\x07\0\0\x01\0\0\0\x02\0\0\0"[..],
            &[&head[..], end].concat(),
            b"\x03\0\0\x01\xff\x01\x02",
            b"",
        ] {
            check(answer, new, false, answer);
        }
    }

    #[test]
    fn lengths() {
        for value in [0, 1, 0xFA, 0xFB, 0xFFFF, 0x1_0000, 0xFF_FFFF, 0x100_0000] {
            let mut buffer = [0; 9];
            let written = write_length(&mut buffer, value).to_vec();
            assert_eq!(read_length(&written), Some((value as u64, written.len())));
            assert_eq!(read_length(&written[..written.len() - 1]), None);
        }
    }

    #[test]
    fn ok_packets() {
        let ok = Ok { affected_rows: 1, last_insert_id: 256, status: 0x4002, warnings: 3 };
        assert_eq!(encode_ok(ok), b"\0\x01\xfc\x00\x01\x02\x40\x03\0");
    }

    #[test]
    fn cut_packets_are_malformed() {
        for end in 5..USE_D.len() {
            let mut packet = USE_D[..end].to_vec();
            assert!(read_changes(&packet[4..], |_| ()).is_err(), "cut at {end}");
            assert!(retain_changes(&mut packet, |_| false).is_err(), "cut at {end}");
        }
    }
}
