//! A result set of texts that we answer ourselves. Never on the path of what servers answer.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset.html>

use super::flags::Capabilities;
use super::packet::{EOF, push_lenenc, push_lenenc_bytes, push_packet};

/// Encodes the packets of a result whose columns are texts, the first numbered `sequence`. `status` is what its end says.
pub(crate) fn encode_result(
    columns: &[&str],
    rows: &[Vec<String>],
    capabilities: Capabilities,
    status: u16,
    mut sequence: u8,
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut push = |payload: &[u8]| sequence = push_packet(&mut out, sequence, payload);
    let mut payload = Vec::new();
    push_lenenc(&mut payload, columns.len() as u64);
    if capabilities.contains(Capabilities::OPTIONAL_RESULTSET_METADATA) {
        payload.push(1);
    }
    push(&payload);
    for name in columns {
        push(&definition(name));
    }
    let [low, high] = status.to_le_bytes();
    let deprecate_eof = capabilities.contains(Capabilities::DEPRECATE_EOF);
    if !deprecate_eof {
        push(&[EOF, 0, 0, low, high]);
    }
    for row in rows {
        payload.clear();
        for value in row {
            push_lenenc_bytes(&mut payload, value.as_bytes());
        }
        push(&payload);
    }
    if deprecate_eof {
        push(&[EOF, 0, 0, low, high, 0, 0]);
    } else {
        push(&[EOF, 0, 0, low, high]);
    }
    out
}

fn definition(name: &str) -> Vec<u8> {
    const UTF8MB4: u16 = 45;
    const LENGTH: u32 = 1024;
    const VAR_STRING: u8 = 0xFD;
    const NOT_NULL: u8 = 1;
    const DECIMALS: u8 = 31;
    let mut payload = Vec::new();
    // Catalog, schema, table, its own name, column, its own name.
    for part in ["def", "", "", "", name, ""] {
        push_lenenc_bytes(&mut payload, part.as_bytes());
    }
    payload.push(0x0C);
    payload.extend_from_slice(&UTF8MB4.to_le_bytes());
    payload.extend_from_slice(&LENGTH.to_le_bytes());
    payload.extend_from_slice(&[VAR_STRING, NOT_NULL, 0, DECIMALS, 0, 0]);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::response::Format;
    use crate::wire::tracker::{Answer, Next, Tracker};

    #[test]
    fn the_tracker_reads_it_to_its_end() {
        for deprecate_eof in [true, false] {
            for optional_metadata in [true, false] {
                let mut capabilities = Capabilities::NONE;
                for (flag, is_on) in [
                    (Capabilities::DEPRECATE_EOF, deprecate_eof),
                    (Capabilities::OPTIONAL_RESULTSET_METADATA, optional_metadata),
                ] {
                    if is_on {
                        capabilities = capabilities.with(flag);
                    }
                }
                let rows = [vec![String::from("a"), String::new()], vec![String::from("b"), "c".repeat(300)]];
                let bytes = encode_result(&["x", "y"], &rows, capabilities, 2, 1);
                let mut tracker = Tracker::new(Answer::Results, Format { deprecate_eof, optional_metadata });
                let mut at = 0;
                while let Next::Pass(size) | Next::Packet(size, _) =
                    tracker.next(&bytes[at..]).expect("well formed")
                {
                    at += size;
                }
                assert!(tracker.is_over());
                assert_eq!((at, tracker.rows()), (bytes.len(), 2));
            }
        }
    }
}
