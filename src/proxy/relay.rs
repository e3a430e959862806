//! Has one command sent to a server and relays its answer. Bytes are forwarded as they arrive; the tracker says where the
//! answer ends and which packets must be looked at. Knows nothing of routing.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::io::AsyncWrite;
use tokio::time::{Instant, sleep};

use super::errors::{is_read_only_refusal, may_be_mended_late};
use super::forward::{
    Body, Broken, ClientEnd, forward_file, poll_client_gone, send, send_command, send_some,
};
use super::frame::Numbers;
use super::reply;
use crate::backend::connection::Connection;
use crate::model::settings::Trackers;
use crate::routing::session::Answered;
use crate::telemetry::clients::Signals;
use crate::wire::buffer::{BULK, Buffer, UNIT};
use crate::wire::packet::HEADER;
use crate::wire::response::{self, Change, Malformed};
use crate::wire::tracker::{Answer, Next, Packet, Tracker};

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
    /// So is one that may come after columns or rows, of a result of which the client has not seen a byte.
    pub(super) keeps_late_errors: bool,
    /// So many results the client has already, from another server: what follows continues them.
    pub(super) seen: u32,
    pub(super) deliver: Deliver,
    /// What the client is told instead of the one number that the answer has.
    pub(super) number: Option<Number>,
    /// The server's trackers are as the client has set them: all that they tell is for the client.
    pub(super) tells_all: bool,
    /// It is a part of a read-only transaction that a replica has.
    pub(super) of_replica_transaction: bool,
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
            keeps_late_errors: false,
            seen: 0,
            deliver: Deliver::Discard,
            number: None,
            tells_all: false,
            of_replica_transaction: false,
        }
    }
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
    /// An error that was kept from the client: the whole packet. `results` are those before it, which the client has.
    Kept {
        code: u16,
        packet: Vec<u8>,
        results: u32,
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
    fn attend(&self, signals: Signals, connection: &mut Connection) -> Option<Broken>;
    /// The client is gone in the middle of a statement: nobody wants its answer.
    fn abandoned(&self, connection: &Connection);
}

/// Carries one order out. `prepared` receives what a COM_STMT_PREPARE brought.
pub(super) async fn exchange(
    client: &mut ClientEnd,
    connection: &mut Connection,
    order: &Order<'_>,
    prepared: &mut PreparedAnswer,
    attend: &impl Attend,
) -> Result<Relayed, Broken> {
    send_command(client, connection, order.prelude, order.body).await?;
    let number = client.frames;
    let mut relay = Relay {
        client,
        connection,
        attend,
        buffer: Buffer::default(),
        ready: 0,
        room: 1,
        delivered: false,
        begun: false,
        numbers: (order.seen > 0).then(|| Numbers::from(number)),
        tells_all: order.tells_all,
        of_replica_transaction: order.of_replica_transaction,
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
    /// The client has seen some of the result that comes.
    begun: bool,
    /// Those of the packets that follow what another server has answered.
    numbers: Option<Numbers>,
    tells_all: bool,
    of_replica_transaction: bool,
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
        let (mut first, mut results, mut rows_before) = (true, 0, 0);
        let discard = order.deliver == Deliver::Discard;
        loop {
            match tracker.next(&self.buffer.bytes()[self.ready..]).map_err(|error| self.malformed(error))? {
                Next::Pass(size) => {
                    self.ready += size;
                    first = false;
                }
                Next::Packet(size, packet) => {
                    if packet == Packet::Error {
                        if results < order.seen {
                            // It stands in the place of what the client is still waiting for.
                            self.flush(true).await?;
                            results = order.seen;
                        }
                        if let Some(kept) = self.keep(size, order, first, results) {
                            return Ok(kept);
                        }
                    }
                    first = false;
                    self.look(size, packet, order.deliver, prepared)?;
                    self.count_rows(packet, &tracker, &mut rows_before);
                    if packet == Packet::LocalInfile {
                        let number = self.buffer.bytes()[self.ready - size + HEADER - 1];
                        self.local_infile(order, number.wrapping_add(1)).await?;
                        tracker.local_infile_sent();
                    }
                    if tracker.is_before_result() {
                        results += 1;
                        self.end_result(order, discard, results <= order.seen).await?;
                    }
                }
                Next::End => break,
                Next::More => {
                    self.flush(discard || results < order.seen).await?;
                    self.read().await?;
                }
            }
        }
        if results < order.seen {
            return Err(self.malformed(Malformed("fewer results than before")));
        }
        self.flush(discard).await?;
        if !self.buffer.is_empty() {
            let error = io::Error::new(io::ErrorKind::InvalidData, "bytes after the end of an answer");
            return Err(Broken::Server { delivered: self.delivered, error });
        }
        Ok(Relayed::Answered(self.answered))
    }

    /// An error stands behind what is ready. Some: the client shall not see it yet.
    fn keep(&mut self, size: usize, order: &Order<'_>, first: bool, results: u32) -> Option<Relayed> {
        let bytes = &self.buffer.bytes()[self.ready..self.ready + size];
        let code = response::read_error_code(&bytes[HEADER..]).unwrap_or(0);
        let discard = order.deliver == Deliver::Discard;
        let unseen = order.keeps_late_errors && !self.begun && !discard;
        let late = match results {
            0 => may_be_mended_late(code),
            _ => !self.of_replica_transaction && is_read_only_refusal(code, bytes, self.connection.guard),
        };
        if !(first && ((order.keep_error)(code) || discard) || unseen && late) {
            return None;
        }
        let mut packet = bytes.to_vec();
        // It stands in the place of what came before it.
        let number = self.numbers.as_ref().map_or(self.buffer.bytes()[HEADER - 1], Numbers::next);
        packet[HEADER - 1] = number;
        if results > 0 {
            self.client.frames = number;
        }
        Some(Relayed::Kept { code, packet, results })
    }

    /// What is ready ends with a result, and another one follows. `seen`: the client has it already.
    async fn end_result(&mut self, order: &Order<'_>, discard: bool, seen: bool) -> Result<(), Broken> {
        let numbers = self.client.stream.numbers_results();
        if seen || numbers || order.keeps_late_errors {
            self.flush(discard || seen).await?;
            self.begun = false;
        }
        if numbers && !seen {
            self.client.stream.begin_result();
        }
        Ok(())
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
            let packet = self.buffer.bytes()[..self.ready].to_vec();
            return Ok(Relayed::Kept { code, packet, results: 0 });
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
                if self.of_replica_transaction && is_read_only_refusal(code, bytes, self.connection.guard) {
                    left = reword_refusal(bytes, self.connection.mariadb);
                }
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
            (self.delivered, self.begun) = (true, true);
            if let Some(numbers) = &mut self.numbers {
                numbers.give(&mut self.buffer.bytes_mut()[..self.ready]);
            }
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

    fn heed(&mut self, signals: Signals) -> Result<(), Broken> {
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

    /// LOAD DATA LOCAL: the client sends its file, then the server answers. `number` is that of the packet that the
    /// server expects.
    async fn local_infile(&mut self, order: &Order<'_>, number: u8) -> Result<(), Broken> {
        self.flush(false).await?;
        // The command is served as far as the client's bytes go; what follows in the inbox is the file.
        if let Body::Inbox(length) = order.body {
            self.client.inbox.consume(length);
            self.client.taken = true;
        }
        forward_file(self.client, self.connection, number).await
    }

    fn malformed(&self, error: Malformed) -> Broken {
        Broken::Server { delivered: self.delivered, error: io::Error::new(io::ErrorKind::InvalidData, error) }
    }
}

/// Makes a replica's refusal, which stands behind results, that of a read-only transaction, as the primary words it; the
/// packet's new length.
fn reword_refusal(packet: &mut [u8], mariadb: bool) -> usize {
    let words = reply::error(&reply::read_only_transaction(mariadb));
    let Some(place) = packet.get_mut(HEADER..words.len()) else { return packet.len() };
    place.copy_from_slice(&words[HEADER..]);
    packet[..HEADER - 1].copy_from_slice(&words[..HEADER - 1]);
    words.len()
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
    response::read_changes(&packet[HEADER..], |change| answered.take_change(change))?;
    response::retain_changes(packet, |change| tracks.is_some_and(|tracks| all || is_shown(change, tracks)))
}

/// Whether the client asked for this change; we track more for ourselves.
fn is_shown(change: Change<'_>, asked: &Trackers) -> bool {
    match change {
        Change::Variable { name, .. } => asked.tells(name),
        Change::Schema(_) => asked.schema,
        Change::State => asked.state_change,
        Change::Gtids(_) => asked.tells_gtids(),
        Change::Characteristics(_) => *asked.transaction_info == *b"CHARACTERISTICS",
        Change::Transaction => *asked.transaction_info != *b"OFF",
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
