//! A connection to a client or a server, whatever carries it: TCP, a Unix socket, TLS on either, compression on any. Holds
//! no buffer of its own while idle.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::compress::{Algorithm, Compressed};
use super::tls::{Acceptor, Initiator, TlsError, TlsStream};

pub(crate) struct Stream {
    transport: Transport,
    /// Read next, before anything from `transport`. Empty but for a moment around a login.
    unread: Vec<u8>,
    /// Whom a load balancer brings through this connection.
    brought: Option<Box<SocketAddr>>,
}

enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<Stream>>),
    Compressed(Box<Compressed<Stream>>),
}

/// The other end, for logs and for the connection list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix,
    /// The connection is gone already.
    Unknown,
}

impl Stream {
    /// A TCP connection; see [`tune`] for the options it should have.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        Self::over(Transport::Tcp(stream))
    }

    pub(crate) fn unix(stream: UnixStream) -> Self {
        Self::over(Transport::Unix(stream))
    }

    /// Takes the client's TLS handshake; from here on everything is encrypted. The deadline is the caller's.
    pub(crate) async fn accept_tls(self, acceptor: &Acceptor) -> Result<Self, TlsError> {
        Ok(Self::over(Transport::Tls(Box::new(acceptor.accept(self).await?))))
    }

    /// Starts the TLS handshake with a server, as the client of `host` (a name or an IP address). The deadline is the
    /// caller's.
    pub(crate) async fn start_tls(self, initiator: &Initiator, host: &str) -> Result<Self, TlsError> {
        Ok(Self::over(Transport::Tls(Box::new(initiator.connect(self, host).await?))))
    }

    fn over(transport: Transport) -> Self {
        Self { transport, unread: Vec::new(), brought: None }
    }

    /// From here on everything goes and comes in compressed packets.
    pub(crate) fn compressed(self, algorithm: Algorithm) -> Self {
        let compressed = Compressed::new(self, algorithm);
        Self::over(Transport::Compressed(Box::new(compressed)))
    }

    /// True when nobody on the way can read along: TLS, or a Unix socket. Then a password may be sent in the clear.
    pub(crate) fn is_secure(&self) -> bool {
        match &self.transport {
            Transport::Tcp(_) => false,
            Transport::Unix(_) | Transport::Tls(_) => true,
            Transport::Compressed(stream) => stream.inner.is_secure(),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        match &self.transport {
            Transport::Tcp(_) | Transport::Unix(_) => false,
            Transport::Tls(_) => true,
            Transport::Compressed(stream) => stream.inner.is_tls(),
        }
    }

    /// True for a process on this machine that came through the Unix socket.
    pub(crate) fn is_local(&self) -> bool {
        self.peer() == Peer::Unix
    }

    /// True when the other side has shown a certificate, which TLS has then checked.
    pub(crate) fn shows_certificate(&self) -> bool {
        match &self.transport {
            Transport::Tcp(_) | Transport::Unix(_) => false,
            Transport::Tls(stream) => stream.get_ref().1.peer_certificates().is_some(),
            Transport::Compressed(stream) => stream.inner.shows_certificate(),
        }
    }

    /// True when what was written leaves only with a flush.
    pub(crate) fn needs_flush(&self) -> bool {
        matches!(self.transport, Transport::Tls(_) | Transport::Compressed(_))
    }

    /// True when the packets of each result are numbered anew: see [`Self::begin_result`].
    pub(crate) fn numbers_results(&self) -> bool {
        matches!(self.transport, Transport::Compressed(_))
    }

    /// What was written so far ends a result that others of the same command follow.
    pub(crate) fn begin_result(&mut self) {
        if let Transport::Compressed(stream) = &mut self.transport {
            stream.begin_result();
        }
    }

    /// From here on the other end is this client, for a trusted load balancer says so.
    pub(crate) fn brings(&mut self, client: SocketAddr) {
        self.brought = Some(Box::new(client));
    }

    /// The client whom a load balancer brings.
    pub(crate) fn brought(&self) -> Option<SocketAddr> {
        match &self.transport {
            Transport::Tcp(_) | Transport::Unix(_) => self.brought.as_deref().copied(),
            Transport::Tls(stream) => stream.get_ref().0.brought(),
            Transport::Compressed(stream) => stream.inner.brought(),
        }
    }

    pub(crate) fn peer(&self) -> Peer {
        if let Some(client) = self.brought() {
            return Peer::Tcp(client);
        }
        match &self.transport {
            Transport::Tcp(stream) => stream.peer_addr().map_or(Peer::Unknown, Peer::Tcp),
            Transport::Unix(_) => Peer::Unix,
            Transport::Tls(stream) => stream.get_ref().0.peer(),
            Transport::Compressed(stream) => stream.inner.peer(),
        }
    }

    /// Puts bytes back that were received too early; they are read before all others.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        self.unread.splice(..0, bytes.iter().copied());
    }

    /// Closes the connection so that what was sent last arrives: closing with input unread resets it, and the other side
    /// would lose the error that tells why. Takes a bounded time and amount of input.
    pub(crate) async fn close_after_last_words(&mut self) {
        const WAIT: Duration = Duration::from_secs(1);
        const INPUT: usize = 64 << 20;
        // What is only thrown away need not be decompressed, and perhaps cannot be.
        if let Transport::Compressed(stream) = &mut self.transport {
            return Box::pin(stream.inner.close_after_last_words()).await;
        }
        let take_all = async {
            self.shutdown().await?;
            let mut taken = 0;
            let mut sink = vec![0; 16 << 10];
            while taken < INPUT {
                match self.read(&mut sink).await? {
                    0 => break,
                    count => taken += count,
                }
            }
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(WAIT, take_all).await;
    }

    /// True when the other side neither closed the connection nor sent anything that waits to be read. Costs no system
    /// call as long as nothing happened. A connection that is not quiet between two answers is good for nothing.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.transport {
            Transport::Tcp(_) => "TCP",
            Transport::Unix(_) => "Unix socket",
            Transport::Tls(_) => "TLS",
            Transport::Compressed(stream) => return stream.fmt(f),
        };
        write!(f, "Stream({kind}, {})", self.peer())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("localhost"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// Sets what every TCP connection of ours has: no delay for small packets, and probes so that a peer that vanished is
/// noticed within some two minutes. Set on a listener, its connections inherit it (Linux), which saves five system calls
/// for each.
pub(crate) fn tune<S: AsFd>(socket: &S) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    socket.set_tcp_keepalive(&keepalive)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = buffer.remaining().min(self.unread.len());
            buffer.put_slice(&self.unread[..count]);
            if count == self.unread.len() {
                self.unread = Vec::new();
            } else {
                self.unread.drain(..count);
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Compressed(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Compressed(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Compressed(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
            Transport::Compressed(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Compressed(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
