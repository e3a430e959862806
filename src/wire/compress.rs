//! The compressed protocol, as a layer under the packets: what is read comes out as if it had never been compressed, what
//! is written goes out in compressed packets. Decompresses in pieces as they are asked for, so that a packet that swells
//! costs no memory. An idle connection holds neither buffer nor (de)compressor.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_compression.html>

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zstd::bulk::Compressor;
use zstd::stream::raw::{DParameter, Decoder, Operation};
use zstd::zstd_safe::compress_bound;

use super::buffer::{BULK, Buffer};
use super::packet::WireError;

/// What both sides compress with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Zlib,
    /// With the level that the client asked for.
    Zstd(ZstdLevel),
}

/// From 1 to 22.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ZstdLevel(u8);

impl ZstdLevel {
    /// None for a level that there is not.
    pub(crate) fn new(level: u8) -> Option<Self> {
        (1..=22).contains(&level).then_some(Self(level))
    }
}

/// A connection under the compressed protocol.
pub(super) struct Compressed<S> {
    pub(super) inner: S,
    algorithm: Algorithm,
    /// Number of the compressed packet that comes next, from either side; a command of the client begins at 0.
    sequence: u8,
    /// None until a result has ended that others follow.
    numbering: Option<Numbering>,
    /// Received and not yet decompressed.
    received: Buffer,
    incoming: Incoming,
    /// Compressed packets that the connection has not taken yet, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
}

/// What of a compressed packet is being read.
enum Incoming {
    Header,
    /// A packet that went uncompressed; so many bytes are to come.
    Plain {
        left: usize,
    },
    /// `left` bytes are to come, from which `plain` more must come out; `full` when the last ones filled their room, so
    /// that more may wait inside.
    Packed {
        left: usize,
        plain: usize,
        full: bool,
        decompressor: Decompressor,
    },
}

/// Follows the frames that are written, to give them other numbers than they have.
#[derive(Default)]
struct Numbering {
    /// What is added; None until the first frame is seen, which gets the number of its compressed packet.
    added: Option<u8>,
    /// So many bytes of a header have passed, and what they are.
    seen: usize,
    header: [u8; 3],
    /// So many bytes of the payload are to come.
    left: usize,
}

enum Decompressor {
    Zlib(Decompress),
    Zstd(Decoder<'static>),
}

/// What one call of a decompressor did.
struct Step {
    taken: usize,
    made: usize,
    /// It has found the end, and the checksum right where there is one.
    ended: bool,
}

/// Length of the payload, number, and length of what was compressed (0: it was not).
const HEADER: usize = 7;
/// What is smaller is sent as it is.
const WORTH_IT: usize = 50;
/// Larger windows than a packet can fill are not made room for.
const ZSTD_WINDOW_LOG: u32 = 24;
/// Decompressors of each kind that a thread keeps for reuse.
const KEPT: usize = 4;

const BAD_LENGTH: WireError = WireError::Malformed("a compressed packet has another length than it says");
const NOT_COMPRESSED: WireError = WireError::Malformed("a compressed packet cannot be decompressed");

thread_local! {
    static ZLIB: RefCell<Vec<Decompress>> = const { RefCell::new(Vec::new()) };
    static ZSTD: RefCell<Vec<Decoder<'static>>> = const { RefCell::new(Vec::new()) };
    static PACKER: RefCell<Packer> = RefCell::new(Packer::default());
}

impl<S: AsyncRead + AsyncWrite + Unpin> Compressed<S> {
    pub(super) fn new(inner: S, algorithm: Algorithm) -> Self {
        Self {
            inner,
            algorithm,
            sequence: 0,
            numbering: None,
            received: Buffer::default(),
            incoming: Incoming::Header,
            outgoing: Vec::new(),
            sent: 0,
        }
    }

    /// A result has ended that others follow, and all of it is written: as from a server, the next packet has the number
    /// of the compressed packet that it begins, and the others of this command count on from there.
    pub(super) fn begin_result(&mut self) {
        self.numbering = Some(Numbering::default());
    }

    /// Receives more; false at the end of the stream.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let count = ready!(self.received.poll_read(&mut self.inner, context, 1))?;
        Poll::Ready(Ok(count > 0))
    }

    /// Takes the header of the next packet, if it is there.
    fn take_header(&mut self) -> Result<bool, WireError> {
        let Some(&[l0, l1, l2, sequence, p0, p1, p2]) = self.received.bytes().get(..HEADER) else {
            return Ok(false);
        };
        if sequence != self.sequence && sequence != 0 {
            return Err(WireError::OutOfOrder { expected: self.sequence, found: sequence });
        }
        if sequence == 0 {
            self.numbering = None;
        }
        self.sequence = sequence.wrapping_add(1);
        self.received.consume(HEADER);
        let left = u32::from_le_bytes([l0, l1, l2, 0]) as usize;
        self.incoming = match u32::from_le_bytes([p0, p1, p2, 0]) as usize {
            0 if left == 0 => Incoming::Header,
            0 => Incoming::Plain { left },
            plain => {
                let decompressor = Decompressor::take(self.algorithm)?;
                Incoming::Packed { left, plain, full: false, decompressor }
            }
        };
        Ok(true)
    }

    /// Gives what can be given of what was received. False when more must be received first.
    fn deliver(&mut self, out: &mut ReadBuf<'_>) -> Result<bool, WireError> {
        let before = out.filled().len();
        while out.filled().len() == before {
            match &mut self.incoming {
                Incoming::Header => {
                    if !self.take_header()? {
                        return Ok(false);
                    }
                }
                Incoming::Plain { left } => {
                    let count = (*left).min(self.received.len()).min(out.remaining());
                    if count == 0 {
                        return Ok(false);
                    }
                    out.put_slice(&self.received.bytes()[..count]);
                    self.received.consume(count);
                    *left -= count;
                    if *left == 0 {
                        self.incoming = Incoming::Header;
                    }
                }
                Incoming::Packed { left, plain, full, decompressor } => {
                    let input = &self.received.bytes()[..(*left).min(self.received.len())];
                    if input.is_empty() && *left > 0 && !*full {
                        return Ok(false);
                    }
                    // Room for one byte too much shows a packet that is longer than it says.
                    let mut beyond = [0];
                    let room = match (*plain).min(out.remaining()) {
                        0 => &mut beyond[..],
                        free => out.initialize_unfilled_to(free),
                    };
                    let Step { taken, made, ended } = decompressor.step(input, room)?;
                    *full = made == room.len();
                    self.received.consume(taken);
                    *left -= taken;
                    *plain = plain.checked_sub(made).ok_or(BAD_LENGTH)?;
                    out.advance(made);
                    if ended {
                        if (*left, *plain) != (0, 0) {
                            return Err(BAD_LENGTH);
                        }
                        let ended = std::mem::replace(&mut self.incoming, Incoming::Header);
                        if let Incoming::Packed { decompressor, .. } = ended {
                            decompressor.give_back();
                        }
                    } else if taken == 0 && made == 0 && *left == 0 {
                        return Err(BAD_LENGTH);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Sends the packets that wait.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            let rest = &self.outgoing[self.sent..];
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.outgoing = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Compressed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        while !self.deliver(out).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            if !ready!(self.poll_receive(context))? {
                let between = matches!(self.incoming, Incoming::Header) && self.received.is_empty();
                return Poll::Ready(if between { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Compressed<S> {
    /// Takes what goes into one packet. Must be flushed.
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(context))?;
        let bytes = &bytes[..bytes.len().min(BULK)];
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Self { inner, algorithm, sequence, numbering, outgoing, .. } = &mut *self;
        let numbered = numbering.as_mut().map(|numbering| numbering.number(bytes, *sequence));
        PACKER.with_borrow_mut(|packer| {
            let packet = packer.pack(*algorithm, *sequence, numbered.as_deref().unwrap_or(bytes))?;
            *sequence = sequence.wrapping_add(1);
            let sent = match Pin::new(inner).poll_write(context, packet) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            outgoing.extend_from_slice(&packet[sent..]);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl Numbering {
    /// What is written next, in the compressed packet of this number, with the numbers that its frames are to have.
    fn number(&mut self, bytes: &[u8], sequence: u8) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut at = 0;
        while let Some(byte) = bytes.get_mut(at) {
            if self.left > 0 {
                let step = self.left.min(bytes.len() - at);
                self.left -= step;
                at += step;
                continue;
            }
            if let Some(place) = self.header.get_mut(self.seen) {
                *place = *byte;
                self.seen += 1;
            } else {
                let added = *self.added.get_or_insert(sequence.wrapping_sub(*byte));
                *byte = byte.wrapping_add(added);
                let [l0, l1, l2] = self.header;
                self.left = u32::from_le_bytes([l0, l1, l2, 0]) as usize;
                self.seen = 0;
            }
            at += 1;
        }
        bytes
    }
}

impl Decompressor {
    fn take(algorithm: Algorithm) -> Result<Self, WireError> {
        match algorithm {
            Algorithm::Zlib => {
                let kept = ZLIB.with_borrow_mut(Vec::pop);
                Ok(Self::Zlib(kept.unwrap_or_else(|| Decompress::new(true))))
            }
            Algorithm::Zstd(_) => match ZSTD.with_borrow_mut(Vec::pop) {
                Some(kept) => Ok(Self::Zstd(kept)),
                None => {
                    let mut decoder = Decoder::new().map_err(WireError::Io)?;
                    decoder
                        .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
                        .map_err(WireError::Io)?;
                    Ok(Self::Zstd(decoder))
                }
            },
        }
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, WireError> {
        match self {
            Self::Zlib(zlib) => {
                let (before_in, before_out) = (zlib.total_in(), zlib.total_out());
                let status =
                    zlib.decompress(input, output, FlushDecompress::None).map_err(|_| NOT_COMPRESSED)?;
                Ok(Step {
                    // Both are at most the length of a slice.
                    taken: (zlib.total_in() - before_in) as usize,
                    made: (zlib.total_out() - before_out) as usize,
                    ended: status == Status::StreamEnd,
                })
            }
            Self::Zstd(zstd) => {
                let done = zstd.run_on_buffers(input, output).map_err(|_| NOT_COMPRESSED)?;
                Ok(Step { taken: done.bytes_read, made: done.bytes_written, ended: done.remaining == 0 })
            }
        }
    }

    /// Keeps a decompressor that has come to its end for the next packet.
    fn give_back(self) {
        match self {
            Self::Zlib(mut zlib) => ZLIB.with_borrow_mut(|kept| {
                if kept.len() < KEPT {
                    zlib.reset(true);
                    kept.push(zlib);
                }
            }),
            Self::Zstd(mut zstd) => ZSTD.with_borrow_mut(|kept| {
                if kept.len() < KEPT && zstd.reinit().is_ok() {
                    kept.push(zstd);
                }
            }),
        }
    }
}

/// Makes compressed packets. One for each thread: a packet is made in one go.
#[derive(Default)]
struct Packer {
    zlib: Option<Compress>,
    zstd: Option<Compressor<'static>>,
    packet: Vec<u8>,
}

impl Packer {
    /// One packet with all of `bytes`, at most [`BULK`] of them.
    fn pack(&mut self, algorithm: Algorithm, sequence: u8, bytes: &[u8]) -> io::Result<&[u8]> {
        // zstd is stuck after a result that found no room; zlib is not.
        let room = HEADER + compress_bound(bytes.len());
        self.packet.resize(room.max(self.packet.len()), 0);
        let room = &mut self.packet[HEADER..];
        let packed = match algorithm {
            _ if bytes.len() < WORTH_IT => None,
            Algorithm::Zlib => {
                let zlib = self.zlib.get_or_insert_with(|| Compress::new(Compression::default(), true));
                zlib.reset();
                let status = zlib
                    .compress(bytes, &mut room[..bytes.len()], FlushCompress::Finish)
                    .map_err(io::Error::other)?;
                // It has no end when it did not fit.
                (status == Status::StreamEnd).then(|| zlib.total_out() as usize)
            }
            Algorithm::Zstd(ZstdLevel(level)) => {
                if self.zstd.is_none() {
                    self.zstd = Some(Compressor::new(i32::from(level))?);
                }
                let zstd = self.zstd.as_mut().expect("made just now");
                zstd.set_compression_level(i32::from(level))?;
                Some(zstd.compress_to_buffer(bytes, room)?)
            }
        };
        let (length, plain) = match packed.filter(|packed| *packed < bytes.len()) {
            Some(packed) => (packed, bytes.len()),
            None => {
                room[..bytes.len()].copy_from_slice(bytes);
                (bytes.len(), 0)
            }
        };
        let ([l0, l1, l2, ..], [p0, p1, p2, ..]) = (length.to_le_bytes(), plain.to_le_bytes());
        self.packet[..HEADER].copy_from_slice(&[l0, l1, l2, sequence, p0, p1, p2]);
        Ok(&self.packet[..HEADER + length])
    }
}

impl<S: fmt::Debug> fmt::Debug for Compressed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} over {:?}", self.algorithm, self.inner)
    }
}

#[cfg(test)]
mod tests;
