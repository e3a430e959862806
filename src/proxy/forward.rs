//! The way from the client to the server: commands that lie whole in the client's inbox, and longer ones that are forwarded
//! as they come. Every write has a deadline. Knows nothing of answers.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::backend::connection::Connection;
use crate::model::settings::Trackers;
use crate::telemetry::clients::Registration;
use crate::wire::auth::Nonce;
use crate::wire::buffer::{Buffer, UNIT};
use crate::wire::packet::{FULL_FRAME, HEADER, read_packet};
use crate::wire::stream::Stream;

/// The connection to the client.
pub(super) struct ClientEnd {
    /// Goes before the stream: when a client sees the end of its connection, no KILL finds it any more.
    pub(super) registration: Registration,
    pub(super) stream: Stream,
    /// What the client sent and is not yet done with; the command being served stands at its front.
    pub(super) inbox: Buffer,
    /// Which session changes the client takes in OK packets; None: it takes none at all.
    pub(super) tracks: Option<Arc<Trackers>>,
    /// The relay took the command off the inbox itself, because more of it came from the client.
    pub(super) taken: bool,
    /// How many frames the command has, as far as they came: the number of the packet that answers it.
    pub(super) frames: u8,
    /// How long the client may take no byte, or send none in the middle of a command.
    pub(super) write_limit: Duration,
    /// The largest command, in bytes.
    pub(super) max_packet: u64,
    /// The last that it was given to answer to.
    pub(super) nonce: Nonce,
}

/// The bytes of the command itself, header included.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    /// The first so many bytes of the client's inbox.
    Inbox(usize),
    Bytes(&'a [u8]),
    /// The first so many bytes of the inbox, which are the start of a full frame, then the rest of the command as it
    /// comes from the client.
    Streamed {
        head: usize,
    },
    /// Only the prelude is sent, and answered.
    Nothing,
}

/// Why an exchange broke. The server connection is lost in all cases.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the client is gone: {0}")]
    Client(io::Error),
    /// `delivered` says whether the client has seen a byte of the answer.
    #[error("the server connection broke: {error}")]
    Server { delivered: bool, error: io::Error },
    #[error("the client was killed")]
    Killed,
    #[error("the client's command is larger than limits.max_packet_mib")]
    TooLarge,
    /// The server said no before it had the whole command, and closed; the payload of its ERR packet.
    #[error("the server took no more of a command")]
    Refused(Vec<u8>),
}

/// What of a frame chain is still to come from the client.
enum FrameEnd {
    /// A chain ends with the first frame that is not full.
    ShortFrame,
    /// LOCAL INFILE ends with an empty frame.
    EmptyFrame { number: u8 },
}

/// Length and number of a packet, in bytes.
/// How far a client may run ahead with pipelined commands while one is served.
const AHEAD: usize = 64 << 10;
/// A server that takes no byte for so long is as good as gone.
const SERVER_WRITE: Duration = Duration::from_secs(60);

/// Sends a command to the server, `prelude` before it in the same write.
pub(super) async fn send_command(
    client: &mut ClientEnd,
    connection: &mut Connection,
    prelude: &[u8],
    body: Body<'_>,
) -> Result<(), Broken> {
    let bytes = match body {
        Body::Inbox(length) => &client.inbox.bytes()[..length],
        Body::Streamed { head } => &client.inbox.bytes()[..head],
        Body::Bytes(bytes) => bytes,
        Body::Nothing => &[],
    };
    let sent = if bytes.is_empty() {
        send(&mut connection.stream, prelude, SERVER_WRITE).await
    } else if prelude.is_empty() {
        send(&mut connection.stream, bytes, SERVER_WRITE).await
    } else {
        let mut both = Vec::with_capacity(prelude.len() + bytes.len());
        both.extend_from_slice(prelude);
        both.extend_from_slice(bytes);
        send(&mut connection.stream, &both, SERVER_WRITE).await
    };
    sent.map_err(|error| Broken::Server { delivered: false, error })?;
    client.registration.relayed_to_server(prelude.len() + bytes.len());
    if let Body::Streamed { head } = body {
        // From here on there is no second try: what is forwarded is not kept.
        client.inbox.consume(head);
        client.taken = true;
        let first = FULL_FRAME - (head - HEADER);
        let forwarded =
            Box::pin(forward_frames(client, Some(connection), FrameEnd::ShortFrame, first, true)).await;
        if let Err(Broken::Server { error, .. }) = forwarded {
            return Err(match last_words(connection).await {
                Some(words) => Broken::Refused(words),
                None => Broken::Server { delivered: false, error },
            });
        }
        return forwarded;
    }
    Ok(())
}

/// What a server says that closes the connection in the middle of a command: usually that it is longer than its
/// max_allowed_packet. The payload of an ERR packet.
async fn last_words(connection: &mut Connection) -> Option<Vec<u8>> {
    const PATIENCE: Duration = Duration::from_secs(1);
    const LIMIT: usize = 64 << 10;
    let packet = timeout(PATIENCE, read_packet(&mut connection.stream, LIMIT)).await.ok()?.ok()?;
    (packet.payload.first() == Some(&0xFF)).then_some(packet.payload)
}

/// Ready when the client is gone. What it sends ahead goes to the inbox, up to a bound.
pub(super) fn poll_client_gone(client: &mut ClientEnd, context: &mut Context<'_>) -> Poll<io::Error> {
    while client.inbox.len() < AHEAD {
        match client.inbox.poll_read(&mut client.stream, context, 1) {
            Poll::Ready(Ok(0)) => return Poll::Ready(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(error),
            Poll::Pending => break,
        }
    }
    Poll::Pending
}

/// Takes the rest of a command off the client that no server gets; so many bytes of it are in the inbox and stay.
pub(super) async fn skip(client: &mut ClientEnd, head: usize) -> io::Result<()> {
    client.inbox.consume(head);
    client.taken = true;
    let first = FULL_FRAME - (head - HEADER);
    match Box::pin(forward_frames(client, None, FrameEnd::ShortFrame, first, true)).await {
        Ok(()) => Ok(()),
        Err(Broken::Client(error)) => Err(error),
        Err(other) => Err(io::Error::other(other)),
    }
}

/// Forwards the file of a LOAD DATA LOCAL as the client sends it; what is left of the inbox is its beginning. Its frames get
/// numbers from `number` on, for under compression the client counts otherwise.
pub(super) async fn forward_file(
    client: &mut ClientEnd,
    connection: &mut Connection,
    number: u8,
) -> Result<(), Broken> {
    Box::pin(forward_frames(client, Some(connection), FrameEnd::EmptyFrame { number }, 0, false)).await
}

/// Forwards frames of the client to the server (None: to nobody) as they come, also when the server takes no more.
/// `left` bytes of a frame that has begun come first; `full` says whether that frame is a full one.
async fn forward_frames(
    client: &mut ClientEnd,
    mut connection: Option<&mut Connection>,
    mut end: FrameEnd,
    mut left: usize,
    mut full: bool,
) -> Result<(), Broken> {
    let mut over = matches!(end, FrameEnd::ShortFrame) && !full;
    let mut total = 0;
    let mut failed = None;
    loop {
        let mut forward = 0;
        // As much of whole and cut frames as the inbox has.
        loop {
            let have = client.inbox.len() - forward;
            let step = left.min(have);
            forward += step;
            left -= step;
            if left > 0 || over {
                break;
            }
            let Some(&[l0, l1, l2, _]) = client.inbox.bytes().get(forward..forward + HEADER) else { break };
            let length = usize::from(l0) | usize::from(l1) << 8 | usize::from(l2) << 16;
            // An empty frame after a full one only ends that packet.
            let ends_packet = full;
            client.frames = client.frames.wrapping_add(1);
            full = length == FULL_FRAME;
            over = match &mut end {
                FrameEnd::ShortFrame => !full,
                FrameEnd::EmptyFrame { number } => {
                    client.inbox.bytes_mut()[forward + HEADER - 1] = *number;
                    *number = number.wrapping_add(1);
                    length == 0 && !ends_packet
                }
            };
            left = HEADER + length;
        }
        if let Some(server) = connection.as_mut() {
            match send(&mut server.stream, &client.inbox.bytes()[..forward], SERVER_WRITE).await {
                Ok(()) => client.registration.relayed_to_server(forward),
                Err(error) => (connection, failed) = (None, Some(error)),
            }
        }
        client.inbox.consume(forward);
        total += forward as u64;
        if total > client.max_packet && matches!(end, FrameEnd::ShortFrame) {
            return Err(Broken::TooLarge);
        }
        if over && left == 0 {
            return match failed {
                None => Ok(()),
                Some(error) => {
                    Err(Broken::Server { delivered: matches!(end, FrameEnd::EmptyFrame { .. }), error })
                }
            };
        }
        let read = poll_fn(|context| client.inbox.poll_read(&mut client.stream, context, UNIT));
        let read = timeout(client.write_limit, read).await;
        match read.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
            Ok(0) => return Err(Broken::Client(io::Error::from(io::ErrorKind::UnexpectedEof))),
            Ok(_) => {}
            Err(error) => return Err(Broken::Client(error)),
        }
    }
}

/// Writes what is taken at once.
pub(super) async fn send_some(stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
    poll_fn(|context| match Pin::new(&mut *stream).poll_write(context, bytes) {
        Poll::Pending => Poll::Ready(Ok(0)),
        ready => ready,
    })
    .await
}

/// Writes all bytes; the peer must take some within `limit`, again and again. The usual case, all at once, sets no
/// timer.
pub(super) async fn send(stream: &mut Stream, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    let first = send_some(stream, bytes).await?;
    bytes = &bytes[first..];
    if !bytes.is_empty() {
        Box::pin(send_slowly(stream, bytes, limit)).await?;
    }
    if stream.needs_flush() { stream.flush().await } else { Ok(()) }
}

async fn send_slowly(stream: &mut Stream, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(limit, stream.write(bytes)).await;
        match written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
            0 => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}
