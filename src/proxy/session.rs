//! One client's session: reads its commands, lets routing decide, runs each on the right connection, and keeps what
//! lives on connections where it belongs. The only place that takes and gives back leases.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::backend::connection::Identity;
use crate::backend::pool::Lease;
use crate::model::settings::{Beginning, Settings};
use crate::model::topology::Topology;
use crate::routing::session::Session;
use crate::sql::Dialect;
use crate::telemetry::clients::Signals;
use crate::wire::buffer::UNIT;
use crate::wire::packet::{ErrPacket, FULL_FRAME, HEADER};

use super::begun::Begun;
use super::forward::{self, ClientEnd};
use super::frame::{Frame, Frames, frames, is_taken_whole};
use super::insert_id::InsertId;
use super::patience::Patience;
use super::prepared::Statements;
use super::{Shared, reply};

/// A logged-in client and everything that belongs to it.
pub(super) struct ClientSession {
    pub(super) shared: Arc<Shared>,
    pub(super) client: ClientEnd,
    pub(super) identity: Arc<Identity>,
    pub(super) session: Session,
    pub(super) statements: Statements,
    /// What its server gives a session, to which COM_RESET_CONNECTION returns.
    pub(super) beginning: Arc<Beginning>,
    /// The `wait_timeout` that it has until it sets another one.
    pub(super) login_patience: Duration,
    pub(super) topology: watch::Receiver<Arc<Topology>>,
    pub(super) snapshot: Arc<Topology>,
    /// The connection in hand: bound to the session, or kept for a moment after a statement.
    pub(super) hold: Option<Lease>,
    /// A connection to the primary that still has this session's LAST_INSERT_ID, while reads run elsewhere.
    pub(super) parked: Option<Lease>,
    pub(super) insert_id: InsertId,
    /// How the transaction began that a replica may have.
    pub(super) begun: Begun,
    /// A write has failed on the connection in hand, which is the primary's, and may have changed the session before it did:
    /// the next OK packet tells.
    pub(super) untold: bool,
    /// The session has written something of which no answer has told the GTID.
    pub(super) writes_untold: bool,
    /// The connection in hand reads texts otherwise than the session, and is to be changed back before the next statement.
    pub(super) reads_otherwise: bool,
    /// Whether the session has a named lock is to be asked before its next statement.
    pub(super) locks_uncounted: bool,
    /// What ROW_COUNT() and FOUND_ROWS() say, as far as it is known.
    pub(super) row_count: i64,
    pub(super) found_rows: FoundRows,
    /// The last statement left warnings, errors or a row count that the next one may ask for.
    pub(super) keeps_diagnostics: bool,
    /// The last statement was answered without a server: no connection has its diagnostics.
    pub(super) answered_here: bool,
    pub(super) shown_causes: Vec<&'static str>,
    /// Results of the command that is served which a replica has brought the client, before it refused the rest.
    pub(super) results_seen: u32,
    /// A command runs once more and the client must not hear of it: nothing may be sent.
    pub(super) unheard: bool,
    /// How much of the command that is served was seen before it is streamed.
    pub(super) streamed: Option<usize>,
    /// How long the client may be idle, and whose rule that is.
    pub(super) patience: Patience,
    memory: Option<OwnedSemaphorePermit>,
    alarm: Pin<Box<Sleep>>,
    pub(super) last_activity: Instant,
    pub(super) dice: u64,
}

/// Why a session is over. Nothing is left to say to the client.
#[derive(Debug)]
pub(super) enum End {
    Quit,
    ClientGone(io::Error),
    Killed,
    Drained,
    IdleTooLong,
    /// The client broke the protocol.
    Malformed,
    /// The server connection broke where the client could not be told otherwise.
    ServerLost,
}

/// What FOUND_ROWS() says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundRows {
    Known(u64),
    /// Only the connection in hand knows; it is asked before it goes.
    OnConnection,
    /// The same, but it is nothing that anybody would ask for.
    Incidental,
}

impl FoundRows {
    /// Of a session that has asked nothing yet. MariaDB gives 1 then.
    fn at_first(dialect: Dialect) -> Self {
        Self::Known(u64::from(dialect.mariadb))
    }
}

/// What woke an idle session.
enum Happened {
    Read,
    Gone(io::Error),
    Signals(Signals),
    Alarm,
}

/// How much of a command that is streamed must be seen first.
const HEAD: usize = 64 << 10;
/// How often an idle session that keeps warnings looks whether somebody needs its connection.
const DIAGNOSTICS_AGAIN: Duration = Duration::from_secs(1);
/// How long a large statement waits for memory.
const MEMORY_WAIT: Duration = Duration::from_secs(5);

impl ClientSession {
    pub(super) fn new(
        shared: Arc<Shared>,
        client: ClientEnd,
        identity: Arc<Identity>,
        settings: Settings,
        beginning: Arc<Beginning>,
        dialect: Dialect,
        login_patience: Duration,
    ) -> Self {
        let mut topology = shared.topology.clone();
        let snapshot = Arc::clone(&topology.borrow_and_update());
        let mut session = Session::new(settings, dialect);
        session.intern(&shared.settings);
        let now = Instant::now();
        let patience = Patience::Limits(shared.limits.client_idle);
        let mut made = Self {
            beginning,
            dice: shared.seed ^ u64::from(client.registration.id()) << 17 | 1,
            shared,
            client,
            identity,
            session,
            statements: Statements::default(),
            topology,
            snapshot,
            hold: None,
            parked: None,
            insert_id: InsertId::NONE,
            begun: Begun::default(),
            writes_untold: false,
            reads_otherwise: false,
            locks_uncounted: false,
            row_count: 0,
            found_rows: FoundRows::at_first(dialect),
            untold: false,
            keeps_diagnostics: false,
            answered_here: false,
            shown_causes: Vec::new(),
            results_seen: 0,
            unheard: false,
            streamed: None,
            login_patience,
            patience,
            memory: None,
            alarm: Box::pin(sleep_until(now)),
            last_activity: now,
        };
        made.learn_patience();
        made
    }

    /// Serves the client until it is gone; then nothing of its session is left on any server.
    pub(super) async fn run(mut self: Box<Self>) -> End {
        let end = loop {
            match self.next_command().await {
                Ok(frame) => {
                    self.last_activity = Instant::now();
                    if let Err(end) = self.serve(frame).await {
                        break end;
                    }
                }
                Err(end) => break end,
            }
        };
        if matches!(end, End::Malformed) {
            self.shared.metrics.protocol_error("client");
        }
        if self.untold {
            let _ = self.hear().await;
        }
        // What is bound to the session must not be pooled: closing it rolls back, unlocks and drops.
        if self.session.is_bound() {
            self.hold = None;
        }
        (self.insert_id, self.found_rows) = (InsertId::NONE, FoundRows::Known(0));
        self.let_go().await;
        if let Some(parked) = self.parked.take() {
            parked.release(self.last_activity);
        }
        if matches!(end, End::Malformed) {
            self.client.stream.close_after_last_words().await;
        }
        end
    }

    /// Waits for a whole command (or enough of one that is to be streamed) at the front of the inbox.
    async fn next_command(&mut self) -> Result<Frame, End> {
        loop {
            let bytes = self.client.inbox.bytes();
            let mut need = HEADER + 1;
            if let Some(&[l0, l1, l2, number, ref rest @ ..]) = bytes.get(..) {
                // (Under compression the servers do not look at it.)
                if number != 0 && !self.client.stream.numbers_results() {
                    return self.out_of_order().await;
                }
                let length = usize::from(l0) | usize::from(l1) << 8 | usize::from(l2) << 16;
                if length == 0 {
                    // Servers read COM_SLEEP, which nobody may send.
                    self.refuse(&reply::unknown_command()).await?;
                    self.client.inbox.consume(HEADER);
                    continue;
                }
                if length as u64 > self.client.max_packet {
                    return self.too_large().await;
                }
                if let Some(&command) = rest.first() {
                    need = HEADER + length;
                    if length == FULL_FRAME {
                        match frames(bytes, self.client.max_packet) {
                            Frames::Whole(length) => return Ok(Frame { length, streamed: false }),
                            Frames::Need(more) if is_taken_whole(command) => need = more,
                            Frames::Need(_) if bytes.len() >= HEAD => {
                                return Ok(Frame { length: HEAD, streamed: true });
                            }
                            Frames::Need(_) => need = HEAD,
                            Frames::TooLarge => return self.too_large().await,
                        }
                    } else if bytes.len() >= need {
                        return Ok(Frame { length: need, streamed: false });
                    }
                }
            }
            self.read_more(need).await?;
        }
    }

    /// Waits for more bytes of the client; `need` is how many the inbox must have at the least.
    async fn read_more(&mut self, need: usize) -> Result<(), End> {
        let room = need.saturating_sub(self.client.inbox.len());
        if need > UNIT {
            self.take_memory(need).await?;
        }
        if self.client.inbox.is_empty() {
            // The signal to drain may have come while a transaction was open that is over now.
            self.drain_if_asked().await?;
        }
        self.arm();
        loop {
            let happened = poll_fn(|context| {
                let ClientEnd { inbox, stream, registration, .. } = &mut self.client;
                // Room for all that is missing, but a read of any size will do.
                match inbox.poll_read(stream, context, room.min(UNIT)) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Happened::Gone(io::ErrorKind::UnexpectedEof.into()));
                    }
                    Poll::Ready(Ok(_)) => return Poll::Ready(Happened::Read),
                    Poll::Ready(Err(error)) => return Poll::Ready(Happened::Gone(error)),
                    Poll::Pending => {}
                }
                if let Poll::Ready(signals) = registration.poll_signals(context) {
                    return Poll::Ready(Happened::Signals(signals));
                }
                self.alarm.as_mut().poll(context).map(|()| Happened::Alarm)
            })
            .await;
            match happened {
                // Who has said KILL and was answered may know that nothing more is carried out.
                Happened::Read if self.client.registration.is_killed() => return Err(End::Killed),
                Happened::Read => return Ok(()),
                Happened::Gone(error) => {
                    if let Some(wording) = reply::broken_compression(&error) {
                        return self.refuse(&wording).await.and(Err(End::Malformed));
                    }
                    return Err(match self.client.inbox.is_empty() {
                        true => End::Quit,
                        false => End::ClientGone(error),
                    });
                }
                Happened::Signals(signals) => self.attend_idle(signals).await?,
                Happened::Alarm => self.ring().await?,
            }
        }
    }

    /// Sets the alarm for what happens next when the client stays idle. Usually it is set already: a timer is touched
    /// once a while, not once a statement.
    fn arm(&mut self) {
        let due = self.last_activity + self.next_wait();
        if self.alarm.deadline() > due || self.alarm.deadline() <= self.last_activity {
            self.alarm.as_mut().reset(due);
        }
    }

    /// How long after the last activity the alarm is to ring.
    fn next_wait(&self) -> Duration {
        let patience = self.patience.duration();
        if self.lingers() { self.shared.pools.linger().min(patience) } else { patience }
    }

    fn lingers(&self) -> bool {
        self.parked.is_some() || (self.hold.is_some() && !self.session.is_bound())
    }

    /// The alarm rang while the client was idle.
    async fn ring(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let idle = now.duration_since(self.last_activity);
        if idle >= self.patience.duration() {
            let mut packet = reply::error(&reply::idle_too_long(self.patience));
            // As from a server: it answers no command. Drivers tell by it that the connection was lost.
            packet[3] = 0;
            let _ = self.send(&packet).await;
            return Err(End::IdleTooLong);
        }
        if self.lingers() && idle >= self.shared.pools.linger() {
            let kept =
                self.hold.as_ref().is_some_and(|lease| self.keeps_diagnostics && !lease.pool().is_pressed());
            if kept {
                // The next statement may ask for warnings: the connection is kept as long as nobody else needs it.
                self.alarm.as_mut().reset(now + DIAGNOSTICS_AGAIN);
                return Ok(());
            }
            Box::pin(self.give_way()).await;
            // An idle session must not keep an old snapshot alive; the next statement takes the newest.
            self.snapshot = Arc::default();
            self.topology.mark_changed();
        }
        // Not `arm`: the deadline has passed and must be set in any case.
        let due = self.last_activity + self.next_wait();
        self.alarm.as_mut().reset(due.max(now + Duration::from_millis(1)));
        Ok(())
    }

    /// As servers answer: without a number of the client's to go on from.
    async fn out_of_order(&mut self) -> Result<Frame, End> {
        let mut packet = reply::error(&reply::out_of_order());
        packet[3] = 0;
        self.send(&packet).await.and(Err(End::Malformed))
    }

    async fn too_large(&mut self) -> Result<Frame, End> {
        let wording = reply::too_large(self.client.max_packet < self.shared.limits.max_packet);
        self.refuse(&wording).await.and(Err(End::Malformed))
    }

    /// Takes the session's idle limit from its settings; to be called when they have changed.
    pub(super) fn learn_patience(&mut self) {
        let set = self.session.settings().variable(b"wait_timeout");
        let set = set.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok()).map(Duration::from_secs);
        let session = set.unwrap_or(self.login_patience);
        let limit = self.shared.limits.client_idle;
        self.patience = if session < limit { Patience::Session(session) } else { Patience::Limits(limit) };
    }

    async fn attend_idle(&mut self, signals: Signals) -> Result<(), End> {
        if signals.contains(Signals::KILL_CONNECTION) {
            return Err(End::Killed);
        }
        // KILL QUERY of an idle session and LOOK mean nothing here.
        self.drain_if_asked().await
    }

    async fn drain_if_asked(&mut self) -> Result<(), End> {
        if self.shared.is_draining() && !self.session.is_bound() {
            let _ = self.refuse(&reply::draining()).await;
            return Err(End::Drained);
        }
        Ok(())
    }

    /// A place for a statement larger than a buffer, all clients together.
    async fn take_memory(&mut self, bytes: usize) -> Result<(), End> {
        let have = self.memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(1024).saturating_sub(have);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.shared.statement_memory).acquire_many_owned(more);
        match tokio::time::timeout(MEMORY_WAIT, taken).await {
            Ok(Ok(permit)) => {
                match &mut self.memory {
                    Some(memory) => memory.merge(permit),
                    none => *none = Some(permit),
                }
                Ok(())
            }
            _ => self.refuse(&reply::out_of_statement_memory()).await.and(Err(End::Malformed)),
        }
    }

    /// The command at the front is served.
    pub(super) fn done_with(&mut self, length: usize) {
        if !std::mem::take(&mut self.client.taken) {
            self.client.inbox.consume(length);
        }
        if self.memory.is_some() && self.client.inbox.is_empty() {
            self.memory = None;
        }
    }

    pub(super) async fn refuse(&mut self, error: &ErrPacket) -> Result<(), End> {
        let mut packet = reply::error(error);
        self.number(&mut packet).await?;
        self.send(&packet).await
    }

    /// Gives a packet of ours the number that the client expects: one more than its last frame has. What of a streamed
    /// command no server got is taken off first, for it must not be read as commands.
    pub(super) async fn number(&mut self, packet: &mut [u8]) -> Result<(), End> {
        if let Some(head) = self.streamed.take()
            && !self.client.taken
        {
            forward::skip(&mut self.client, head).await.map_err(End::ClientGone)?;
        }
        packet[3] = self.client.frames;
        Ok(())
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        if self.unheard {
            return Err(End::ServerLost);
        }
        forward::send(&mut self.client.stream, bytes, self.client.write_limit).await.map_err(End::ClientGone)
    }

    /// Takes the newest snapshot; one atomic load when there is none.
    pub(super) fn refresh(&mut self) {
        if self.topology.has_changed().unwrap_or(false) {
            self.snapshot = Arc::clone(&self.topology.borrow_and_update());
        }
    }
}
