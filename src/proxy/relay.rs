//! Sends one command to a server and relays its answer. Bytes are forwarded as they arrive; the tracker says where the
//! answer ends and which packets must be looked at. Knows nothing of routing.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::backend::connection::Connection;
use crate::model::settings::Trackers;
use crate::routing::session::{Answered, Changes};
use crate::sql::is_replayable;
use crate::telemetry::clients::{Registration, Signals};
use crate::wire::buffer::{BULK, Buffer, UNIT};
use crate::wire::packet::read_packet;
use crate::wire::response::{self, Change, Malformed};
use crate::wire::stream::Stream;
use crate::wire::tracker::{Answer, Next, Packet, Tracker};

/// The client's end of the relay.
pub(super) struct ClientEnd {
    pub(super) stream: Stream,
    /// What the client sent and is not yet done with; the command being served stands at its front.
    pub(super) inbox: Buffer,
    pub(super) registration: Registration,
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
}

/// One command for a server.
pub(super) struct Order<'a> {
    /// Commands of ours that go before it, in the same write.
    pub(super) prelude: &'a [u8],
    /// The prelude begins with a wait for GTIDs: WAIT_FOR_EXECUTED_GTID_SET or MASTER_GTID_WAIT.
    pub(super) waits: bool,
    /// How many answers of one OK each the prelude has after that.
    pub(super) prelude_answers: u32,
    pub(super) body: Body<'a>,
    pub(super) answer: Answer,
    /// An answer that is nothing but an error of which this says yes is kept from the client.
    pub(super) keep_error: fn(u16) -> bool,
    /// The same for one that comes after columns or rows, of which the client has not seen a byte.
    pub(super) keep_late_error: fn(u16) -> bool,
    pub(super) deliver: Deliver,
    /// What the client is told instead of the one number that the answer has.
    pub(super) number: Option<Number>,
    /// The server's trackers are as the client has set them: all that they tell is for the client.
    pub(super) tells_all: bool,
}

/// A number that the session knows better than its server.
#[derive(Clone, Copy)]
pub(super) struct Number {
    pub(super) value: i64,
    /// In the form of prepared statements.
    pub(super) binary: bool,
}

impl<'a> Order<'a> {
    /// Commands of ours and nothing else.
    pub(super) fn alone(prelude: &'a [u8], prelude_answers: u32) -> Self {
        Self {
            prelude,
            prelude_answers,
            waits: false,
            body: Body::Nothing,
            answer: Answer::Status,
            keep_error: |_| false,
            keep_late_error: |_| false,
            deliver: Deliver::Discard,
            number: None,
            tells_all: false,
        }
    }
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

/// What becomes of the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Deliver {
    ToClient,
    /// To the client, with this statement id instead of the server's.
    Prepared(u32),
    /// To nobody.
    Discard,
}

/// How an exchange that did not break ended.
pub(super) enum Relayed {
    Answered(Answered),
    /// An error that was kept from the client: the whole packet.
    Kept {
        code: u16,
        packet: Vec<u8>,
    },
    /// A command of the prelude was refused: the whole packet. The connection is out of step.
    PreludeRefused(Vec<u8>),
    /// The server has not applied in time what was waited for. The connection is out of step.
    NotFresh,
}

/// What a server said of a statement it prepared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PreparedAnswer {
    pub(super) id: u32,
    pub(super) parameters: u16,
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

/// What happened while the client was sent something.
enum Sending {
    Wrote(io::Result<usize>),
    Signals(Signals),
    Late,
}

/// What happened while the server was waited for.
enum Event {
    Server,
    Signals(Signals),
}

/// What a session does about the signals that reach it in the middle of a statement.
pub(super) trait Attend {
    /// Returns true when the wait is to be given up.
    fn attend(&self, signals: Signals, connection: &Connection) -> Option<Broken>;
    /// The client is gone in the middle of a statement: nobody wants its answer.
    fn abandoned(&self, connection: &Connection);
}

/// What of a frame chain is still to come from the client.
enum FrameEnd {
    /// A chain ends with the first frame that is not full.
    ShortFrame,
    /// LOCAL INFILE ends with an empty frame.
    EmptyFrame,
}

const HEADER: usize = 4;
const FULL_FRAME: usize = 0xFF_FFFF;
/// How far a client may run ahead with pipelined commands while one is served.
const AHEAD: usize = 64 << 10;
/// A server that takes no byte for so long is as good as gone.
const SERVER_WRITE: Duration = Duration::from_secs(60);

/// Carries one order out. `prepared` receives what a COM_STMT_PREPARE brought.
pub(super) async fn exchange(
    client: &mut ClientEnd,
    connection: &mut Connection,
    order: &Order<'_>,
    prepared: &mut PreparedAnswer,
    attend: &impl Attend,
) -> Result<Relayed, Broken> {
    send_order(client, connection, order).await?;
    let mut relay = Relay {
        client,
        connection,
        attend,
        buffer: Buffer::default(),
        ready: 0,
        room: 1,
        delivered: false,
        tells_all: order.tells_all,
        answered: Answered::default(),
    };
    if order.waits {
        let answer = relay.own_answer(Answer::Results).await?;
        if let Some(refused) = answer.error {
            return Ok(Relayed::PreludeRefused(refused));
        }
        // One row of one column: 0 when all is applied, 1 (MariaDB: -1) when the time was up.
        if !answer.is_zero {
            return Ok(Relayed::NotFresh);
        }
    }
    for _ in 0..order.prelude_answers {
        if let Some(refused) = relay.own_answer(Answer::Status).await?.error {
            return Ok(Relayed::PreludeRefused(refused));
        }
    }
    if matches!(order.body, Body::Nothing) {
        return Ok(Relayed::Answered(Answered::default()));
    }
    match order.number {
        None => relay.answer(order, prepared).await,
        Some(number) => Box::pin(relay.answer_with(order, number, prepared)).await,
    }
}

/// Sends a command that no server answers.
pub(super) async fn forward(
    client: &mut ClientEnd,
    connection: &mut Connection,
    body: Body<'_>,
) -> Result<(), Broken> {
    send_order(client, connection, &Order { body, ..Order::alone(&[], 0) }).await
}

async fn send_order(
    client: &mut ClientEnd,
    connection: &mut Connection,
    order: &Order<'_>,
) -> Result<(), Broken> {
    let body = match order.body {
        Body::Inbox(length) => &client.inbox.bytes()[..length],
        Body::Streamed { head } => &client.inbox.bytes()[..head],
        Body::Bytes(bytes) => bytes,
        Body::Nothing => &[],
    };
    let sent = if body.is_empty() {
        send(&mut connection.stream, order.prelude, SERVER_WRITE).await
    } else if order.prelude.is_empty() {
        send(&mut connection.stream, body, SERVER_WRITE).await
    } else {
        let mut both = Vec::with_capacity(order.prelude.len() + body.len());
        both.extend_from_slice(order.prelude);
        both.extend_from_slice(body);
        send(&mut connection.stream, &both, SERVER_WRITE).await
    };
    sent.map_err(|error| Broken::Server { delivered: false, error })?;
    client.registration.relayed_to_server(order.prelude.len() + body.len());
    if let Body::Streamed { head } = order.body {
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

struct Relay<'a, A> {
    client: &'a mut ClientEnd,
    connection: &'a mut Connection,
    attend: &'a A,
    buffer: Buffer,
    /// Bytes at the front of the buffer that belong to the client and are not yet sent.
    ready: usize,
    /// How much room the next read asks for; grows for bulk answers.
    room: usize,
    delivered: bool,
    tells_all: bool,
    answered: Answered,
}

/// What a command of ours was answered.
struct OwnAnswer {
    error: Option<Vec<u8>>,
    /// The last row was the text `0`.
    is_zero: bool,
}

impl<A: Attend> Relay<'_, A> {
    async fn answer(mut self, order: &Order<'_>, prepared: &mut PreparedAnswer) -> Result<Relayed, Broken> {
        let mut tracker = Tracker::new(order.answer, self.connection.format());
        let mut first = true;
        // Ends of columns in the old form count one, ends of results two or what makes two.
        let mut ends = 0;
        let mut rows_before = 0;
        let discard = order.deliver == Deliver::Discard;
        loop {
            match tracker.next(&self.buffer.bytes()[self.ready..]).map_err(|error| self.malformed(error))? {
                Next::Pass(size) => {
                    self.ready += size;
                    first = false;
                }
                Next::Packet(size, packet) => {
                    if packet == Packet::Error {
                        let bytes = &self.buffer.bytes()[self.ready..self.ready + size];
                        let code = response::read_error_code(&bytes[HEADER..]).unwrap_or(0);
                        let unseen = !self.delivered && !discard && ends < 2;
                        if first && ((order.keep_error)(code) || discard)
                            || unseen && (order.keep_late_error)(code)
                        {
                            let mut packet = bytes.to_vec();
                            // It stands in the place of what came before it.
                            packet[HEADER - 1] = self.buffer.bytes()[HEADER - 1];
                            return Ok(Relayed::Kept { code, packet });
                        }
                    }
                    first = false;
                    ends += match packet {
                        Packet::Ok => 2,
                        Packet::Eof => 1,
                        _ => 0,
                    };
                    self.look(size, packet, order.deliver, prepared)?;
                    self.count_rows(packet, &tracker, &mut rows_before);
                    if packet == Packet::LocalInfile {
                        self.local_infile(order).await?;
                        tracker.local_infile_sent();
                    }
                }
                Next::End => break,
                Next::More => {
                    self.flush(discard).await?;
                    self.read().await?;
                }
            }
        }
        self.flush(discard).await?;
        if !self.buffer.is_empty() {
            let error = io::Error::new(io::ErrorKind::InvalidData, "bytes after the end of an answer");
            return Err(Broken::Server { delivered: self.delivered, error });
        }
        Ok(Relayed::Answered(self.answered))
    }

    /// Rows of the result that ends with this packet.
    fn count_rows(&mut self, packet: Packet, tracker: &Tracker, before: &mut u64) {
        // OK by itself has been looked into; an end of rows has its first byte.
        if packet == Packet::Eof || packet == Packet::Ok && self.answered.ends_rows {
            self.answered.rows = Some(tracker.rows() - *before);
            *before = tracker.rows();
        }
    }

    /// Takes an answer of one number whole and tells the client another number.
    async fn answer_with(
        mut self,
        order: &Order<'_>,
        number: Number,
        prepared: &mut PreparedAnswer,
    ) -> Result<Relayed, Broken> {
        let mut tracker = Tracker::new(order.answer, self.connection.format());
        let mut rows_before = 0;
        loop {
            match tracker.next(&self.buffer.bytes()[self.ready..]).map_err(|error| self.malformed(error))? {
                Next::Pass(size) => self.ready += size,
                Next::Packet(size, packet) => {
                    self.look(size, packet, order.deliver, prepared)?;
                    self.count_rows(packet, &tracker, &mut rows_before);
                }
                Next::End => break,
                Next::More => self.read().await?,
            }
        }
        if let Some(code) = self.answered.error {
            return Ok(Relayed::Kept { code, packet: self.buffer.bytes()[..self.ready].to_vec() });
        }
        let answer = &self.buffer.bytes()[..self.ready];
        let told = response::with_number(answer, self.connection.format(), number.binary, number.value);
        if order.deliver != Deliver::Discard {
            let sent = send(&mut self.client.stream, &told, self.client.write_limit).await;
            sent.map_err(Broken::Client)?;
            self.client.registration.relayed_to_client(told.len());
        }
        Ok(Relayed::Answered(self.answered))
    }

    /// Reads the answer to a command of ours; nothing of it goes to the client.
    async fn own_answer(&mut self, answer: Answer) -> Result<OwnAnswer, Broken> {
        let mut tracker = Tracker::new(answer, self.connection.format());
        let mut own = OwnAnswer { error: None, is_zero: false };
        loop {
            match tracker.next(self.buffer.bytes()).map_err(|error| self.malformed(error))? {
                Next::Pass(size) => {
                    // Column definitions and the row may come as one: the row stands at the end.
                    own.is_zero = self.buffer.bytes()[..size].ends_with(b"\x010");
                    self.buffer.consume(size);
                }
                Next::Packet(size, packet) => {
                    if packet == Packet::Error {
                        own.error = Some(self.buffer.bytes()[..size].to_vec());
                    }
                    self.buffer.consume(size);
                }
                Next::End => return Ok(own),
                Next::More => self.read().await?,
            }
        }
    }

    /// Looks into a whole packet that stands behind what is ready, and makes it ready.
    fn look(
        &mut self,
        size: usize,
        packet: Packet,
        deliver: Deliver,
        prepared: &mut PreparedAnswer,
    ) -> Result<(), Broken> {
        let (tracks, all) = (self.client.tracks.as_deref(), self.tells_all);
        let at = self.ready;
        let bytes = &mut self.buffer.bytes_mut()[at..at + size];
        let mut left = size;
        let seen = match packet {
            Packet::Ok => look_into_ok(bytes, &mut self.answered, tracks, all).map(|length| left = length),
            Packet::Eof => response::read_eof(&bytes[HEADER..]).map(|eof| {
                self.answered.status = Some(eof.status);
                self.answered.warnings = eof.warnings;
            }),
            Packet::Error => response::read_error_code(&bytes[HEADER..]).map(|code| {
                self.answered.error = Some(code);
            }),
            Packet::Prepared => {
                if let [id @ .., _, _, _, _] = &mut bytes[HEADER + 1..HEADER + 9] {
                    prepared.id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
                    if let Deliver::Prepared(shown) = deliver {
                        id.copy_from_slice(&shown.to_le_bytes());
                    }
                }
                prepared.parameters = u16::from_le_bytes([bytes[HEADER + 7], bytes[HEADER + 8]]);
                Ok(())
            }
            Packet::LocalInfile => Ok(()),
        };
        seen.map_err(|error| self.malformed(error))?;
        self.buffer.cut(at + left, size - left);
        self.ready = at + left;
        Ok(())
    }

    /// Sends what is ready. The first byte of an answer leaves here, as soon as it came.
    async fn flush(&mut self, discard: bool) -> Result<(), Broken> {
        if self.ready == 0 {
            return Ok(());
        }
        if !discard {
            self.delivered = true;
            let stream = &mut self.client.stream;
            let sent = send_some(stream, &self.buffer.bytes()[..self.ready]).await;
            let sent = match sent {
                Ok(count) if count == self.ready && !stream.needs_flush() => Ok(()),
                Ok(count) => Box::pin(self.deliver_slowly(count)).await?,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                self.attend.abandoned(self.connection);
                return Err(Broken::Client(error));
            }
            self.client.registration.relayed_to_client(self.ready);
        }
        self.buffer.consume(self.ready);
        self.ready = 0;
        Ok(())
    }

    /// Sends the rest of what is ready to a client that does not take it all at once, and listens for signals meanwhile:
    /// a client that takes nothing can be killed too.
    async fn deliver_slowly(&mut self, mut at: usize) -> Result<io::Result<()>, Broken> {
        let mut patience = pin!(sleep(self.client.write_limit));
        while at < self.ready || self.client.stream.needs_flush() {
            let ClientEnd { stream, registration, .. } = &mut *self.client;
            let bytes = &self.buffer.bytes()[at..self.ready];
            let event = poll_fn(|context| {
                let written = match bytes {
                    [] => Pin::new(&mut *stream).poll_flush(context).map_ok(|()| 0),
                    _ => Pin::new(&mut *stream).poll_write(context, bytes),
                };
                if let Poll::Ready(written) = written {
                    return Poll::Ready(Sending::Wrote(written));
                }
                if let Poll::Ready(signals) = registration.poll_signals(context) {
                    return Poll::Ready(Sending::Signals(signals));
                }
                patience.as_mut().poll(context).map(|()| Sending::Late)
            });
            match event.await {
                Sending::Wrote(Ok(0)) if bytes.is_empty() => return Ok(Ok(())),
                Sending::Wrote(Ok(0)) => return Ok(Err(io::Error::from(io::ErrorKind::WriteZero))),
                Sending::Wrote(Ok(count)) => {
                    at += count;
                    patience.as_mut().reset(Instant::now() + self.client.write_limit);
                }
                Sending::Wrote(Err(error)) => return Ok(Err(error)),
                Sending::Late => return Ok(Err(io::Error::from(io::ErrorKind::TimedOut))),
                Sending::Signals(signals) => self.heed(signals)?,
            }
        }
        Ok(Ok(()))
    }

    fn heed(&self, signals: Signals) -> Result<(), Broken> {
        match self.attend.attend(signals, self.connection) {
            None => Ok(()),
            Some(Broken::Server { error, .. }) => Err(Broken::Server { delivered: self.delivered, error }),
            Some(other) => Err(other),
        }
    }

    async fn read(&mut self) -> Result<(), Broken> {
        loop {
            let before = self.buffer.len();
            match wait(self.client, self.connection, &mut self.buffer, self.room).await {
                Ok(Event::Server) => {
                    // A full read means that more waits: take larger bites.
                    if self.buffer.len() - before >= UNIT.min(self.buffer.capacity()) {
                        self.room = BULK;
                    }
                    return Ok(());
                }
                Ok(Event::Signals(signals)) => self.heed(signals)?,
                Err(Broken::Client(error)) => {
                    self.attend.abandoned(self.connection);
                    return Err(Broken::Client(error));
                }
                Err(Broken::Server { error, .. }) => {
                    return Err(Broken::Server { delivered: self.delivered, error });
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// LOAD DATA LOCAL: the client sends its file, then the server answers.
    async fn local_infile(&mut self, order: &Order<'_>) -> Result<(), Broken> {
        self.flush(false).await?;
        // The command is served as far as the client's bytes go; what follows in the inbox is the file.
        if let Body::Inbox(length) = order.body {
            self.client.inbox.consume(length);
            self.client.taken = true;
        }
        Box::pin(forward_frames(self.client, Some(self.connection), FrameEnd::EmptyFrame, 0, false)).await
    }

    fn malformed(&self, error: Malformed) -> Broken {
        Broken::Server { delivered: self.delivered, error: io::Error::new(io::ErrorKind::InvalidData, error) }
    }
}

/// Takes status and session changes out of an OK packet and leaves in it what the client asked for; its new length.
fn look_into_ok(
    packet: &mut [u8],
    answered: &mut Answered,
    tracks: Option<&Trackers>,
    all: bool,
) -> Result<usize, Malformed> {
    let ok = response::read_ok(&packet[HEADER..])?;
    answered.status = Some(ok.status);
    answered.warnings = ok.warnings;
    answered.affected_rows = ok.affected_rows;
    answered.ends_rows = packet[HEADER] == 0xFE;
    answered.rows = None;
    if ok.last_insert_id != 0 {
        answered.several_insert_ids |= answered.last_insert_id != 0;
        answered.last_insert_id = ok.last_insert_id;
    }
    if ok.status & response::status::SESSION_STATE_CHANGED == 0 {
        return Ok(packet.len());
    }
    let changes = answered.changes.get_or_insert_with(Box::default);
    response::read_changes(&packet[HEADER..], |change| take_change(changes, change))?;
    response::retain_changes(packet, |change| tracks.is_some_and(|tracks| all || is_shown(change, tracks)))
}

fn take_change(changes: &mut Changes, change: Change<'_>) {
    match change {
        // MariaDB's way of telling them; empty before the first.
        Change::Variable { name: b"last_gtid", value } => {
            if !value.is_empty() {
                changes.gtids.push(Box::from(value));
            }
        }
        // A client that wants to be told of all variables gets some that are no settings (`statement_id`).
        Change::Variable { name, value } if is_replayable(name) => {
            changes.variables.push((Box::from(name), Box::from(value)));
        }
        Change::Schema(schema) => changes.schema = Some(Box::from(schema)),
        Change::State => changes.state = true,
        Change::Gtids(gtids) => changes.gtids.push(Box::from(gtids)),
        Change::Variable { .. } | Change::Other(_) => {}
    }
}

/// Whether the client asked for this change; we track more for ourselves.
fn is_shown(change: Change<'_>, asked: &Trackers) -> bool {
    match change {
        Change::Variable { name, .. } => asked.tells(name),
        Change::Schema(_) => asked.schema,
        Change::State => asked.state_change,
        Change::Gtids(_) => asked.tells_gtids(),
        // Of these we ask for none on our own account.
        Change::Other(_) => true,
    }
}

/// Waits for bytes of the server, and notices meanwhile when the client goes or somebody signals.
async fn wait(
    client: &mut ClientEnd,
    connection: &mut Connection,
    buffer: &mut Buffer,
    room: usize,
) -> Result<Event, Broken> {
    poll_fn(|context| {
        match buffer.poll_read(&mut connection.stream, context, room) {
            Poll::Ready(Ok(0)) => {
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Poll::Ready(Err(Broken::Server { delivered: false, error }));
            }
            Poll::Ready(Ok(_)) => return Poll::Ready(Ok(Event::Server)),
            Poll::Ready(Err(error)) => {
                return Poll::Ready(Err(Broken::Server { delivered: false, error }));
            }
            Poll::Pending => {}
        }
        if let Poll::Ready(error) = poll_client_gone(client, context) {
            return Poll::Ready(Err(Broken::Client(error)));
        }
        client.registration.poll_signals(context).map(|signals| Ok(Event::Signals(signals)))
    })
    .await
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

/// Forwards frames of the client to the server (None: to nobody) as they come, also when the server takes no more. `left` bytes of a frame that has begun
/// come first; `full` says whether that frame is a full one.
async fn forward_frames(
    client: &mut ClientEnd,
    mut connection: Option<&mut Connection>,
    end: FrameEnd,
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
            over = match end {
                FrameEnd::ShortFrame => !full,
                FrameEnd::EmptyFrame => length == 0 && !ends_packet,
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
                Some(error) => Err(Broken::Server { delivered: matches!(end, FrameEnd::EmptyFrame), error }),
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
async fn send_some(stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
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
