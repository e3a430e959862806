//! Follows the packets of one answer to its end, without I/O and without looking into rows: it says how many bytes may
//! pass as they are and hands out the few packets that matter (OK, ERR, EOF, PREPARE's first, LOCAL INFILE).
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response.html>

use super::packet::{FULL_FRAME, HEADER};
use super::response::{Format, Malformed, read_length, status};

/// What kind of answer a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// COM_QUERY, COM_STMT_EXECUTE: any number of results.
    Results,
    /// COM_STMT_PREPARE.
    Prepared,
    /// COM_STMT_FETCH: rows and their end.
    Rows,
    /// COM_FIELD_LIST: column definitions and their end.
    Columns,
    /// One OK, EOF or ERR packet.
    Status,
    /// COM_STATISTICS: one packet of text.
    Text,
}

/// What comes next in the bytes given to [`Tracker::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// So many bytes may pass as they are.
    Pass(usize),
    /// A whole packet of so many bytes, header included, that the caller must look at.
    Packet(usize, Packet),
    /// More bytes are needed: what was given is empty, or the start of a packet that must be seen whole.
    More,
    /// The answer is over; nothing of what was given belongs to it.
    End,
}

/// A packet that the caller must look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// OK, alone or as the end of a result.
    Ok,
    /// The end of a result in the old form, or an end of column definitions that has a status too.
    Eof,
    Error,
    /// The first packet of COM_STMT_PREPARE's answer.
    Prepared,
    /// The server wants a file of the client's; its packets must be relayed, then the answer goes on.
    LocalInfile,
}

/// The state of one answer. Call [`Tracker::next`] with the bytes not yet passed until it says `End`.
#[derive(Debug)]
pub(crate) struct Tracker {
    format: Format,
    phase: Phase,
    /// Bytes of the current packet that have still to pass.
    passing: usize,
    /// The packet that is passing fills its frame, so the next frame continues it.
    continued: bool,
    /// Rows that began, of all results.
    rows: u64,
    /// The row that comes holds the OUT parameters of a prepared CALL.
    out_parameters: bool,
    /// The answer to a PREPARE has definitions.
    definitions: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first packet of a result.
    First,
    ColumnDefinitions(u64),
    /// The EOF packet between column definitions and rows.
    ColumnsEnd,
    Rows,
    PreparedFirst,
    /// Definitions of parameters or columns; then their EOF where the format has one; then the second group.
    PreparedDefinitions {
        left: u16,
        then: u16,
    },
    PreparedEnd {
        then: u16,
    },
    FieldList,
    Status,
    Text,
    End,
}

/// Packets that must be seen whole are small; a server that sends a larger one is not speaking the protocol.
const MAX_CONTROL: usize = 4 << 20;

impl Tracker {
    pub(crate) fn new(answer: Answer, format: Format) -> Self {
        let phase = match answer {
            Answer::Results => Phase::First,
            Answer::Prepared => Phase::PreparedFirst,
            Answer::Rows => Phase::Rows,
            Answer::Columns => Phase::FieldList,
            Answer::Status => Phase::Status,
            Answer::Text => Phase::Text,
        };
        Self {
            format,
            phase,
            passing: 0,
            continued: false,
            rows: 0,
            out_parameters: false,
            definitions: true,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::End && self.passing == 0
    }

    /// Rows so far, of all results.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Judges what stands at the start of `bytes` (everything received and not yet passed). After `Pass` and `Packet`
    /// the caller takes that many bytes off and calls again.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<Next, Malformed> {
        let mut pass = 0;
        // Rows and definitions in one run become one Pass.
        loop {
            let rest = &bytes[pass..];
            if self.passing > 0 {
                let step = self.passing.min(rest.len());
                self.passing -= step;
                pass += step;
                if self.passing > 0 {
                    return Ok(if pass > 0 { Next::Pass(pass) } else { Next::More });
                }
                continue;
            }
            if pass > 0 && (rest.len() <= HEADER || self.phase == Phase::End) {
                return Ok(Next::Pass(pass));
            }
            if self.phase == Phase::End {
                return Ok(Next::End);
            }
            let Some(&[l0, l1, l2, _]) = rest.get(..HEADER) else { return Ok(Next::More) };
            let length = usize::from(l0) | usize::from(l1) << 8 | usize::from(l2) << 16;
            if self.continued {
                self.continued = length == FULL_FRAME;
                self.passing = HEADER + length;
                continue;
            }
            if length == 0 {
                return Err(Malformed("empty"));
            }
            let Some(&first) = rest.get(HEADER) else { return Ok(Next::More) };
            match self.judge(first, length) {
                Judgement::Pass => {
                    self.continued = length == FULL_FRAME;
                    self.passing = HEADER + length;
                }
                Judgement::Look(packet) => {
                    if pass > 0 {
                        return Ok(Next::Pass(pass));
                    }
                    if length > MAX_CONTROL {
                        return Err(Malformed("oversized"));
                    }
                    let Some(payload) = rest.get(HEADER..HEADER + length) else { return Ok(Next::More) };
                    return self.enter(packet, payload).map(|packet| match packet {
                        Some(packet) => Next::Packet(HEADER + length, packet),
                        None => Next::Pass(HEADER + length),
                    });
                }
            }
        }
    }

    /// The client has sent its whole file; the answer goes on with an OK or ERR packet.
    pub(crate) fn local_infile_sent(&mut self) {
        self.phase = Phase::First;
    }

    /// True when the packet that was seen last is followed by the first one of a result.
    pub(crate) fn is_before_result(&self) -> bool {
        self.phase == Phase::First
    }

    /// What to do with the packet that begins with this byte, judged by the phase alone. Phases advance here for the
    /// packets that pass.
    fn judge(&mut self, first: u8, length: usize) -> Judgement {
        if first == 0xFF && self.phase != Phase::Text {
            return Judgement::Look(Look::Error);
        }
        // A row may begin with 0xFE too: a text of 16 MB or more, which fills the frame.
        let ends = first == 0xFE && if self.format.deprecate_eof { length < FULL_FRAME } else { length < 9 };
        match self.phase {
            Phase::First => Judgement::Look(Look::First),
            Phase::PreparedFirst => Judgement::Look(Look::Prepared),
            Phase::Status => Judgement::Look(Look::End),
            Phase::ColumnsEnd | Phase::PreparedEnd { .. } => Judgement::Look(Look::DefinitionsEnd),
            Phase::Rows if ends => Judgement::Look(Look::End),
            Phase::FieldList if ends => Judgement::Look(Look::End),
            Phase::Rows => {
                self.rows += 1;
                Judgement::Pass
            }
            Phase::FieldList => Judgement::Pass,
            Phase::Text => {
                self.phase = Phase::End;
                Judgement::Pass
            }
            Phase::ColumnDefinitions(left) => {
                self.phase = match (left, self.format.deprecate_eof) {
                    (0 | 1, true) => Phase::Rows,
                    (0 | 1, false) => Phase::ColumnsEnd,
                    _ => Phase::ColumnDefinitions(left - 1),
                };
                Judgement::Pass
            }
            Phase::PreparedDefinitions { left, then } => {
                self.phase = match (left, self.format.deprecate_eof) {
                    (0 | 1, true) => self.prepared_definitions(then, 0),
                    (0 | 1, false) => Phase::PreparedEnd { then },
                    _ => Phase::PreparedDefinitions { left: left - 1, then },
                };
                Judgement::Pass
            }
            Phase::End => Judgement::Pass,
        }
    }

    /// Reads a packet that was seen whole and advances. None: it passes like any other.
    fn enter(&mut self, look: Look, payload: &[u8]) -> Result<Option<Packet>, Malformed> {
        match look {
            Look::Error => {
                self.phase = Phase::End;
                Ok(Some(Packet::Error))
            }
            Look::First => self.enter_result(payload),
            Look::Prepared => {
                let &[0, _, _, _, _, c0, c1, p0, p1, ..] = payload else {
                    return Err(Malformed("PREPARE answer"));
                };
                let (columns, parameters) = (u16::from_le_bytes([c0, c1]), u16::from_le_bytes([p0, p1]));
                // With optional metadata the last byte says whether definitions follow at all.
                // (resultset_metadata = NONE; their EOF packets come all the same.)
                self.definitions = !self.format.optional_metadata || payload.get(12) != Some(&0);
                self.phase = self.prepared_definitions(parameters, columns);
                Ok(Some(Packet::Prepared))
            }
            Look::DefinitionsEnd => {
                if payload.first() != Some(&0xFE) {
                    return Err(Malformed("EOF"));
                }
                match self.phase {
                    Phase::PreparedEnd { then } => {
                        self.phase = self.prepared_definitions(then, 0);
                        Ok(None)
                    }
                    _ => {
                        // An open cursor keeps its rows for COM_STMT_FETCH: the answer ends here.
                        let status = super::response::read_eof(payload)?.status;
                        if status & status::CURSOR_EXISTS == 0 {
                            self.phase = Phase::Rows;
                            self.out_parameters = status & status::PS_OUT_PARAMS != 0;
                            return Ok(None);
                        }
                        self.end_result(status);
                        Ok(Some(Packet::Eof))
                    }
                }
            }
            Look::End => {
                let old_eof = payload.first() == Some(&0xFE) && !self.format.deprecate_eof;
                let (ok, packet) = if old_eof {
                    (super::response::read_eof(payload)?, Packet::Eof)
                } else {
                    (super::response::read_ok(payload)?, Packet::Ok)
                };
                if self.phase == Phase::Rows && std::mem::take(&mut self.out_parameters) {
                    // The OK of the CALL follows always, but in this form only the EOF before the row says so.
                    self.phase = Phase::First;
                } else if self.phase == Phase::Rows {
                    self.end_result(ok.status);
                } else {
                    self.phase = Phase::End;
                }
                Ok(Some(packet))
            }
        }
    }

    fn enter_result(&mut self, payload: &[u8]) -> Result<Option<Packet>, Malformed> {
        match payload.first() {
            Some(0x00) => {
                self.end_result(super::response::read_ok(payload)?.status);
                Ok(Some(Packet::Ok))
            }
            Some(0xFB) => Ok(Some(Packet::LocalInfile)),
            _ => {
                let (columns, size) = read_length(payload).ok_or(Malformed("column count"))?;
                let metadata = !self.format.optional_metadata || payload.get(size) != Some(&0);
                self.phase = match (metadata, self.format.deprecate_eof) {
                    (true, _) => Phase::ColumnDefinitions(columns),
                    (false, true) => Phase::Rows,
                    (false, false) => Phase::ColumnsEnd,
                };
                Ok(None)
            }
        }
    }

    fn end_result(&mut self, status: u16) {
        self.phase = if status & status::MORE_RESULTS == 0 { Phase::End } else { Phase::First };
    }

    fn prepared_definitions(&self, first: u16, then: u16) -> Phase {
        let (left, then) = if first == 0 { (then, 0) } else { (first, then) };
        match (left, self.definitions, self.format.deprecate_eof) {
            (0, ..) | (_, false, true) => Phase::End,
            (_, false, false) => Phase::PreparedEnd { then },
            (_, true, _) => Phase::PreparedDefinitions { left, then },
        }
    }
}

enum Judgement {
    Pass,
    Look(Look),
}

#[derive(Clone, Copy)]
enum Look {
    First,
    Prepared,
    DefinitionsEnd,
    End,
    Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Format = Format { deprecate_eof: true, optional_metadata: false };
    const OLD: Format = Format { deprecate_eof: false, optional_metadata: false };

    fn packets(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, payload) in payloads.iter().enumerate() {
            let length = u32::try_from(payload.len()).expect("small").to_le_bytes();
            bytes.extend_from_slice(&[
                length[0],
                length[1],
                length[2],
                u8::try_from(sequence + 1).expect("few"),
            ]);
            bytes.extend_from_slice(payload);
        }
        bytes
    }

    /// Feeds the answer cut at every byte; it must end exactly at its end, with the same packets each time.
    fn check(answer: Answer, format: Format, payloads: &[&[u8]], expected: &[Packet], rows: u64) {
        let bytes = packets(payloads);
        for cut in 0..=bytes.len() {
            let mut tracker = Tracker::new(answer, format);
            let mut found = Vec::new();
            let mut at = 0;
            for end in [cut, bytes.len()] {
                loop {
                    match tracker.next(&bytes[at..end]).expect("well formed") {
                        Next::Pass(size) => at += size,
                        Next::Packet(size, packet) => {
                            found.push(packet);
                            at += size;
                            if packet == Packet::LocalInfile {
                                tracker.local_infile_sent();
                            }
                        }
                        Next::More | Next::End => break,
                    }
                }
            }
            assert_eq!(found, expected, "cut at {cut}");
            assert!(
                tracker.is_over() && at == bytes.len(),
                "cut at {cut}: stopped at {at} of {}",
                bytes.len()
            );
            assert_eq!(tracker.rows(), rows);
        }
    }

    const OK: &[u8] = b"\x00\x01\x00\x02\x00\x00\x00";
    const OK_MORE: &[u8] = b"\x00\x01\x00\x0a\x00\x00\x00";
    const END: &[u8] = b"\xfe\x00\x00\x02\x00\x00\x00";
    const END_MORE: &[u8] = b"\xfe\x00\x00\x0a\x00\x00\x00";
    const EOF: &[u8] = b"\xfe\x00\x00\x02\x00";
    const EOF_MORE: &[u8] = b"\xfe\x00\x00\x0a\x00";
    const EOF_CURSOR: &[u8] = b"\xfe\x00\x00\x42\x00";
    const ERR: &[u8] = b"\xff\x48\x04#42S02no";
    const DEF: &[u8] = b"\x03def\x00\x00\x00";

    #[test]
    fn results() {
        use Packet::{Eof, Error, LocalInfile, Ok};
        check(Answer::Results, NEW, &[OK], &[Ok], 0);
        check(Answer::Results, NEW, &[ERR], &[Error], 0);
        check(Answer::Results, NEW, &[b"\x01", DEF, b"\x011", b"\x00", b"\xfb", END], &[Ok], 3);
        check(Answer::Results, OLD, &[b"\x02", DEF, DEF, EOF, b"\x011\x012", EOF], &[Eof], 1);
        check(Answer::Results, OLD, &[b"\x01", DEF, EOF, b"\x011", ERR], &[Error], 1);
        check(Answer::Results, OLD, &[b"\x01", DEF, EOF_CURSOR], &[Eof], 0);
        check(Answer::Results, NEW, &[OK_MORE, b"\x01", DEF, b"\x011", END_MORE, OK], &[Ok, Ok, Ok], 1);
        check(Answer::Results, OLD, &[b"\x01", DEF, EOF, EOF_MORE, ERR], &[Eof, Error], 0);
        check(Answer::Results, NEW, &[b"\xfbfile", OK], &[LocalInfile, Ok], 0);
        // A prepared CALL: that its OK follows the OUT parameters stands in the EOF before them, as 9.7 sends it.
        let out: &[&[u8]] = &[b"\x01", DEF, b"\xfe\0\0\x0a\x10", b"\0\0\x06\0\0\0", EOF, OK];
        check(Answer::Results, OLD, out, &[Eof, Ok], 1);
        // SET resultset_metadata = NONE: the flag follows the column count, as 9.7 sends it.
        let (new, old) =
            (Format { optional_metadata: true, ..NEW }, Format { optional_metadata: true, ..OLD });
        let row: &[u8] = b"\x011\x012\x013";
        check(Answer::Results, new, &[b"\x03\x00", row, END], &[Ok], 1);
        check(Answer::Results, old, &[b"\x03\x00", EOF, row, EOF], &[Eof], 1);
        check(Answer::Results, new, &[b"\x01\x01", DEF, row, END_MORE, b"\x01\x00", row, END], &[Ok, Ok], 2);
        // A row whose first column is a text of 8-byte length is no end of rows in the old format either.
        check(Answer::Results, OLD, &[b"\x01", DEF, EOF, b"\xfe\x01\0\0\0\0\0\0\0x", EOF], &[Eof], 1);
    }

    #[test]
    fn other_answers() {
        use Packet::{Eof, Error, Ok, Prepared};
        let prepared = |columns: u8, parameters: u8| [0, 1, 0, 0, 0, columns, 0, parameters, 0, 0, 0, 0];
        check(Answer::Prepared, NEW, &[&prepared(0, 0)], &[Prepared], 0);
        check(Answer::Prepared, NEW, &[&prepared(1, 2), DEF, DEF, DEF], &[Prepared], 0);
        check(Answer::Prepared, OLD, &[&prepared(1, 2), DEF, DEF, EOF, DEF, EOF], &[Prepared], 0);
        check(Answer::Prepared, OLD, &[&prepared(1, 0), DEF, EOF], &[Prepared], 0);
        // resultset_metadata = NONE, as 9.7 answers `SELECT ?, 2`.
        let none: &[u8] = b"\0\x01\0\0\0\x02\0\x01\0\0\0\0\0";
        let optional = |format| Format { optional_metadata: true, ..format };
        check(Answer::Prepared, optional(NEW), &[none], &[Prepared], 0);
        check(Answer::Prepared, optional(OLD), &[none, EOF, EOF], &[Prepared], 0);
        check(Answer::Prepared, OLD, &[ERR], &[Error], 0);
        check(Answer::Rows, OLD, &[b"\x00\x01", b"\x00\x02", EOF], &[Eof], 2);
        check(Answer::Rows, NEW, &[ERR], &[Error], 0);
        check(Answer::Columns, OLD, &[DEF, DEF, EOF], &[Eof], 0);
        check(Answer::Columns, NEW, &[DEF, END], &[Ok], 0);
        check(Answer::Status, OLD, &[EOF], &[Eof], 0);
        check(Answer::Status, NEW, &[OK], &[Ok], 0);
        check(Answer::Text, NEW, &[b"Uptime: 1"], &[], 0);
    }

    #[test]
    fn a_row_of_several_frames() {
        let mut bytes = packets(&[b"\x01", DEF]);
        bytes.extend_from_slice(b"\xff\xff\xff\x03");
        bytes.resize(bytes.len() + FULL_FRAME, 0xFE);
        bytes.extend_from_slice(b"\x02\0\0\x04\xfe\xfe");
        bytes.extend_from_slice(&packets(&[END]));
        let mut tracker = Tracker::new(Answer::Results, NEW);
        let (mut at, mut received) = (0, 0);
        while !tracker.is_over() {
            received = bytes.len().min(received + 16_384);
            while let Next::Pass(size) | Next::Packet(size, _) =
                tracker.next(&bytes[at..received]).expect("well formed")
            {
                at += size;
            }
        }
        assert_eq!((at, tracker.rows()), (bytes.len(), 1));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>, kind in 0..6, deprecate_eof: bool, optional_metadata: bool) {
            let answer = [Answer::Results, Answer::Prepared, Answer::Rows, Answer::Columns, Answer::Status, Answer::Text]
                [kind as usize];
            let mut tracker = Tracker::new(answer, Format { deprecate_eof, optional_metadata });
            let mut at = 0;
            while let Ok(Next::Pass(size) | Next::Packet(size, _)) = tracker.next(&bytes[at..]) {
                assert!(size > 0 && at + size <= bytes.len());
                at += size;
            }
        }
    }
}
