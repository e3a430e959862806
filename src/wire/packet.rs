//! Packets of the login phase and of small exchanges: frames, length-encoded values, OK and ERR.
//! The data path does not come through here; it forwards bytes. Nothing here panics on outside data, and every buffer
//! has a bound.

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::flags::Capabilities;

/// Length (3 bytes) and sequence number of a frame.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html>
pub(crate) const HEADER: usize = 4;
/// The payload of a frame that another frame continues.
pub(crate) const FULL_FRAME: usize = 0xff_ff_ff;
/// First byte of an OK packet.
pub(crate) const OK: u8 = 0x00;
/// First byte of an EOF packet, and of an authentication switch.
pub(crate) const EOF: u8 = 0xfe;
/// First byte of an ERR packet.
pub(crate) const ERR: u8 = 0xff;

/// What a peer did that ends the connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer closed the connection in the middle of a packet")]
    CutOff,
    #[error("a packet is larger than {limit} bytes")]
    Oversized { limit: usize },
    #[error("packets out of order: number {found} came, {expected} was due")]
    OutOfOrder { expected: u8, found: u8 },
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    #[error("the connection broke")]
    Io(#[source] io::Error),
}

/// One packet, its frames put together.
pub(crate) struct Packet {
    /// Number of its last frame; an answer has the next one.
    pub(crate) sequence: u8,
    pub(crate) payload: Vec<u8>,
}

impl fmt::Debug for Packet {
    /// Payloads of the login phase may be passwords, so only their length shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packet(number {}, {} bytes)", self.sequence, self.payload.len())
    }
}

/// Splits a frame's header into payload length and sequence number.
pub(crate) fn decode_header(header: [u8; HEADER]) -> (usize, u8) {
    let [low, middle, high, sequence] = header;
    (usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16, sequence)
}

/// The header of a frame with `length` (at most [`FULL_FRAME`]) bytes of payload.
pub(crate) fn encode_header(length: usize, sequence: u8) -> [u8; HEADER] {
    debug_assert!(length <= FULL_FRAME, "one frame cannot carry {length} bytes");
    [length as u8, (length >> 8) as u8, (length >> 16) as u8, sequence]
}

/// Reads one packet of at most `limit` bytes of payload and not one byte beyond it, so that the stream can be handed on.
///
/// Cancel safety: none; a packet may be lost in the middle.
pub(crate) async fn read_packet<S>(stream: &mut S, limit: usize) -> Result<Packet, WireError>
where
    S: AsyncRead + Unpin,
{
    Inbox::default().packet_exact(stream, limit).await
}

/// Writes `payload` as one packet that begins with frame number `sequence`, in one write if it fits one frame. Gives the
/// number that the next packet has.
///
/// Cancel safety: none; a packet may be cut.
pub(crate) async fn write_packet<S>(stream: &mut S, sequence: u8, payload: &[u8]) -> Result<u8, WireError>
where
    S: AsyncWrite + Unpin,
{
    let mut bytes = Zeroizing::new(Vec::with_capacity(payload.len() + HEADER));
    let next = push_packet(&mut bytes, sequence, payload);
    write_all(stream, &bytes).await?;
    Ok(next)
}

/// Writes bytes that are packets already (see [`push_packet`]) and flushes, so that several can go in one write.
pub(crate) async fn write_all<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), WireError> {
    stream.write_all(bytes).await.map_err(WireError::Io)?;
    stream.flush().await.map_err(WireError::Io)
}

/// Appends `payload` as a packet, in as many frames as it takes. Gives the number that the next packet has.
pub(crate) fn push_packet(out: &mut Vec<u8>, sequence: u8, payload: &[u8]) -> u8 {
    let mut sequence = sequence;
    for frame in payload.chunks(FULL_FRAME) {
        out.extend_from_slice(&encode_header(frame.len(), sequence));
        out.extend_from_slice(frame);
        sequence = sequence.wrapping_add(1);
    }
    // A packet whose last frame is full, or that has no byte at all, ends with an empty frame.
    if payload.len().is_multiple_of(FULL_FRAME) {
        out.extend_from_slice(&encode_header(0, sequence));
        sequence = sequence.wrapping_add(1);
    }
    sequence
}

/// Reads packets with as few receives as possible; what came beyond the last packet is given back by
/// [`leftover`](Self::leftover). Wiped when dropped, for passwords pass through it.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: Zeroizing<Vec<u8>>,
    /// Bytes of `bytes` that are taken already.
    taken: usize,
}

impl Inbox {
    /// The next packet, of at most `limit` bytes of payload. Never holds more than `limit` bytes and a receive's worth.
    ///
    /// Cancel safety: a cancelled call loses nothing but a started multi-frame packet.
    pub(crate) async fn packet<S>(&mut self, stream: &mut S, limit: usize) -> Result<Packet, WireError>
    where
        S: AsyncRead + Unpin,
    {
        self.assemble(stream, limit, Fill::Eagerly).await
    }

    /// What was received and is no packet that was taken.
    pub(crate) fn leftover(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    async fn packet_exact<S>(&mut self, stream: &mut S, limit: usize) -> Result<Packet, WireError>
    where
        S: AsyncRead + Unpin,
    {
        self.assemble(stream, limit, Fill::Exactly).await
    }

    async fn assemble<S>(&mut self, stream: &mut S, limit: usize, fill: Fill) -> Result<Packet, WireError>
    where
        S: AsyncRead + Unpin,
    {
        let (mut length, mut sequence) = self.frame(stream, limit, fill).await?;
        let mut payload = self.take(length);
        while length == FULL_FRAME {
            let expected = sequence.wrapping_add(1);
            (length, sequence) = match self.frame(stream, limit - payload.len(), fill).await {
                Err(WireError::Closed) => Err(WireError::CutOff),
                Err(WireError::Oversized { .. }) => Err(WireError::Oversized { limit }),
                other => other,
            }?;
            if sequence != expected {
                return Err(WireError::OutOfOrder { expected, found: sequence });
            }
            payload.append(&mut self.take(length));
        }
        Ok(Packet { sequence, payload })
    }

    /// Receives until a whole frame is held; gives its length and number and takes its header.
    async fn frame<S>(&mut self, stream: &mut S, limit: usize, fill: Fill) -> Result<(usize, u8), WireError>
    where
        S: AsyncRead + Unpin,
    {
        while self.header().is_none() {
            self.receive(stream, HEADER - self.held(), fill).await?;
        }
        let (length, sequence) = self.header().expect("the loop above ends with a header");
        if length > limit {
            return Err(WireError::Oversized { limit });
        }
        while self.held() < HEADER + length {
            self.receive(stream, HEADER + length - self.held(), fill).await?;
        }
        self.taken += HEADER;
        Ok((length, sequence))
    }

    /// One receive. `missing` bytes are surely part of the packet.
    async fn receive<S>(&mut self, stream: &mut S, missing: usize, fill: Fill) -> Result<(), WireError>
    where
        S: AsyncRead + Unpin,
    {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        // Memory grows with what has arrived, not with what a header announces.
        let room = match fill {
            Fill::Exactly => missing.min(RECEIVE_EXACT),
            Fill::Eagerly => missing.clamp(RECEIVE, RECEIVE_EXACT),
        };
        self.bytes.reserve(room);
        let mut limited = stream.take(room as u64);
        match limited.read_buf(&mut *self.bytes).await {
            Ok(0) if self.bytes.is_empty() => Err(WireError::Closed),
            Ok(0) => Err(WireError::CutOff),
            Ok(_) => Ok(()),
            Err(error) => Err(WireError::Io(error)),
        }
    }

    fn header(&self) -> Option<(usize, u8)> {
        self.leftover().first_chunk().map(|header| decode_header(*header))
    }

    fn held(&self) -> usize {
        self.leftover().len()
    }

    /// Takes `length` bytes that are held.
    fn take(&mut self, length: usize) -> Vec<u8> {
        let taken = self.leftover().get(..length).unwrap_or_default().to_vec();
        self.taken += taken.len();
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        }
        taken
    }
}

/// How much an [`Inbox`] receives at once.
#[derive(Clone, Copy)]
enum Fill {
    /// Nothing beyond the packet.
    Exactly,
    /// As much as is there, up to [`RECEIVE`] beyond the packet.
    Eagerly,
}

/// Enough for any packet of an ordinary login.
const RECEIVE: usize = 1024;
const RECEIVE_EXACT: usize = 64 * 1024;

/// Checked reading of a payload's fields, front to back. Every function errs instead of reading past the end.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_data_types.html>
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything not yet read; the reader is empty afterwards.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CUT)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length-encoded integer. 0xFB (NULL in rows) and 0xFF are none.
    pub(crate) fn lenenc(&mut self) -> Result<u64, WireError> {
        match self.u8()? {
            0xfc => self.u16().map(u64::from),
            0xfd => self.array().map(|[low, middle, high]: [u8; 3]| {
                u64::from(low) | u64::from(middle) << 8 | u64::from(high) << 16
            }),
            0xfe => self.u64(),
            0xfb | 0xff => Err(WireError::Malformed("no length-encoded integer begins with 0xFB or 0xFF")),
            small => Ok(u64::from(small)),
        }
    }

    pub(crate) fn lenenc_bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.lenenc()?;
        self.bytes(usize::try_from(length).map_err(|_| CUT)?)
    }

    /// Up to a zero byte, which is not part of it.
    pub(crate) fn nul_bytes(&mut self) -> Result<&'a [u8], WireError> {
        let end = memchr::memchr(0, self.rest).ok_or(CUT)?;
        let taken = self.bytes(end)?;
        self.bytes(1)?;
        Ok(taken)
    }

    /// Up to a zero byte or, as some clients leave it out at the end of a packet, to the end.
    pub(crate) fn nul_or_rest(&mut self) -> &'a [u8] {
        self.nul_bytes().unwrap_or_else(|_| self.rest())
    }
}

const CUT: WireError = WireError::Malformed("a field reaches past the end of its packet");

/// Appends a length-encoded integer.
pub(crate) fn push_lenenc(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    match value {
        0..=0xfa => out.push(bytes[0]),
        0xfb..=0xffff => {
            out.push(0xfc);
            out.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend_from_slice(&bytes[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Appends a length-encoded string.
pub(crate) fn push_lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_lenenc(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a string that a zero byte ends. A zero byte within would end it early, so all from there is left out.
pub(crate) fn push_nul_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes.iter().take_while(|byte| **byte != 0));
    out.push(0);
}

/// An error as a server words it.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_err_packet.html>
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ERROR {code} ({}): {}", String::from_utf8_lossy(.sqlstate), String::from_utf8_lossy(.message))]
pub(crate) struct ErrPacket {
    pub(crate) code: u16,
    pub(crate) sqlstate: [u8; 5],
    /// In the session's character set, so not always UTF-8.
    pub(crate) message: Vec<u8>,
}

impl ErrPacket {
    /// `sqlstate` has five characters, else it becomes the general `HY000`.
    pub(crate) fn new(code: u16, sqlstate: &str, message: impl Into<String>) -> Self {
        let sqlstate = sqlstate.as_bytes().try_into().unwrap_or(*GENERAL);
        Self { code, sqlstate, message: message.into().into_bytes() }
    }

    /// None when the payload is no ERR packet. An error before the handshake has no SQLSTATE; it becomes `HY000`, or what
    /// belongs to the few codes that come then.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(payload.strip_prefix(&[ERR])?);
        let code = reader.u16().ok()?;
        let rest = reader.rest();
        let (sqlstate, message) =
            match rest.strip_prefix(b"#").and_then(|state| state.split_first_chunk::<5>()) {
                Some((sqlstate, message)) => (*sqlstate, message),
                None => (early_sqlstate(code), rest),
            };
        Some(Self { code, sqlstate, message: message.to_vec() })
    }

    /// The payload; without the SQLSTATE for a client that did not say PROTOCOL_41 (or said nothing yet).
    pub(crate) fn encode(&self, capabilities: Capabilities) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + self.message.len());
        out.push(ERR);
        out.extend_from_slice(&self.code.to_le_bytes());
        if capabilities.contains(Capabilities::PROTOCOL_41) {
            out.push(b'#');
            out.extend_from_slice(&self.sqlstate);
        }
        out.extend_from_slice(&self.message);
        out
    }
}

const GENERAL: &[u8; 5] = b"HY000";

fn early_sqlstate(code: u16) -> [u8; 5] {
    match code {
        1040 | 1043 => *b"08004",
        1045 => *b"28000",
        1053 => *b"08S01",
        _ => *GENERAL,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    fn packets(payloads: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for payload in payloads {
            push_packet(&mut out, 0, payload);
        }
        out
    }

    #[tokio::test]
    async fn exact_reading_leaves_the_rest_in_the_stream() {
        let bytes = packets(&[b"first", b"", b"third"]);
        let mut stream = &bytes[..];
        for expected in [&b"first"[..], b"", b"third"] {
            let packet = read_packet(&mut stream, 100).await.expect("whole packets");
            assert_eq!((packet.payload.as_slice(), packet.sequence), (expected, 0));
        }
        assert!(matches!(read_packet(&mut stream, 100).await, Err(WireError::Closed)));
    }

    #[tokio::test]
    async fn an_inbox_gives_back_what_is_left() {
        let bytes = [packets(&[b"first", b"second"]), b"\x16\x03\x01".to_vec()].concat();
        let mut stream = &bytes[..];
        let mut inbox = Inbox::default();
        assert_eq!(inbox.packet(&mut stream, 100).await.expect("first").payload, b"first");
        assert_eq!(inbox.packet(&mut stream, 100).await.expect("second").payload, b"second");
        assert_eq!(inbox.leftover(), b"\x16\x03\x01");
    }

    #[tokio::test]
    async fn long_packets_have_continuation_frames() {
        for length in [FULL_FRAME - 1, FULL_FRAME, FULL_FRAME + 1, 2 * FULL_FRAME] {
            let payload = vec![7; length];
            let mut bytes = Vec::new();
            let next = push_packet(&mut bytes, 255, &payload);
            let frames = length / FULL_FRAME + 1;
            assert_eq!(usize::from(next), frames - 1, "numbers wrap at 256");
            assert_eq!(bytes.len(), length + frames * HEADER);
            let packet = read_packet(&mut &bytes[..], 3 * FULL_FRAME).await.expect("whole packet");
            assert!(packet.payload == payload, "{length}");
            let limited = read_packet(&mut &bytes[..], length - 1).await;
            assert!(matches!(limited, Err(WireError::Oversized { limit }) if limit == length - 1));
        }
    }

    #[tokio::test]
    async fn bad_frames() {
        async fn check(bytes: &[u8], expected: &str) {
            let error = read_packet(&mut &bytes[..], 10).await.expect_err("no packet");
            assert_eq!(error.to_string(), expected, "{bytes:?}");
        }
        check(b"", "the peer closed the connection").await;
        check(b"\x01", "the peer closed the connection in the middle of a packet").await;
        check(b"\x01\0\0\0", "the peer closed the connection in the middle of a packet").await;
        check(b"\x0b\0\0\0", "a packet is larger than 10 bytes").await;
        check(b"GET / HTTP/1.1", "a packet is larger than 10 bytes").await;
        let mut gap = packets(&[&vec![0; FULL_FRAME]]);
        let last = gap.len() - 1;
        gap[last] = 5;
        let error = read_packet(&mut &gap[..], FULL_FRAME).await.expect_err("a gap");
        assert_eq!(error.to_string(), "packets out of order: number 5 came, 1 was due");
    }

    #[test]
    fn err_packets() {
        let cases: &[(&[u8], u16, &[u8; 5], &[u8])] = &[
            (b"\xff\x15\x04#28000Access denied", 1045, b"28000", b"Access denied"),
            (b"\xff\x10\x04Too many connections", 1040, b"08004", b"Too many connections"),
            (b"\xff\x6a\x04Host", 1130, b"HY000", b"Host"),
            (b"\xff\x15\x04#28", 1045, b"28000", b"#28"),
        ];
        for (payload, code, sqlstate, message) in cases {
            let packet = ErrPacket::parse(payload).expect("an ERR packet");
            assert_eq!((packet.code, &packet.sqlstate, &packet.message[..]), (*code, *sqlstate, *message));
            let again = ErrPacket::parse(&packet.encode(Capabilities::PROTOCOL_41));
            assert_eq!(again.as_ref(), Some(&packet));
        }
        assert_eq!(ErrPacket::parse(b"\xff\x15"), None);
        assert_eq!(ErrPacket::parse(b"\x00\x15\x04"), None);
        assert_eq!(ErrPacket::new(1045, "28000", "No").to_string(), "ERROR 1045 (28000): No");
        assert_eq!(ErrPacket::new(1040, "08004", "No").encode(Capabilities::NONE), b"\xff\x10\x04No");
    }

    proptest! {
        #[test]
        fn lenenc_round_trip(value: u64, tail: Vec<u8>) {
            let mut out = Vec::new();
            push_lenenc(&mut out, value);
            out.extend_from_slice(&tail);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.lenenc().expect("our own"), value);
            prop_assert_eq!(reader.rest(), &tail[..]);
        }

        /// No sequence of reads panics or reads past the end.
        #[test]
        fn reading_anything(bytes: Vec<u8>, reads in proptest::collection::vec((0u8..9, 0usize..400), 0..20)) {
            let mut reader = Reader::new(&bytes);
            for (kind, count) in reads {
                match kind {
                    0 => { reader.u8().ok(); }
                    1 => { reader.u16().ok(); }
                    2 => { reader.u32().ok(); }
                    3 => { reader.u64().ok(); }
                    4 => { reader.lenenc().ok(); }
                    5 => { reader.lenenc_bytes().ok(); }
                    6 => { reader.nul_bytes().ok(); }
                    7 => { reader.nul_or_rest(); }
                    _ => { reader.bytes(count).ok(); }
                }
            }
            ErrPacket::parse(&bytes);
        }

        /// Any bytes in pieces of any size: packets, leftovers and a reason, never a panic, and never a byte lost.
        #[test]
        fn framing_anything(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5),
            tail in proptest::collection::vec(any::<u8>(), 0..40),
            piece in 1usize..50,
        ) {
            let slices: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
            let bytes = [packets(&slices), tail].concat();
            let mut stream = Pieces::new(&bytes, piece);
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let mut inbox = Inbox::default();
                for payload in &payloads {
                    assert_eq!(&inbox.packet(&mut stream, 64).await.expect("whole packets").payload, payload);
                }
                while inbox.packet(&mut stream, 64).await.is_ok() {}
            });
        }
    }

    /// Bytes that arrive in pieces.
    struct Pieces(std::vec::IntoIter<Vec<u8>>, Vec<u8>);

    impl Pieces {
        fn new(bytes: &[u8], size: usize) -> Self {
            let pieces: Vec<_> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            Self(pieces.into_iter(), Vec::new())
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.1.is_empty() {
                self.1 = self.0.next().unwrap_or_default();
            }
            let count = buffer.remaining().min(self.1.len());
            buffer.put_slice(&self.1[..count]);
            self.1.drain(..count);
            Poll::Ready(Ok(()))
        }
    }
}
