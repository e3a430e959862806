//! Runs one command: decides, takes a connection, makes it look like the session, sends, relays, and tries again
//! elsewhere where that is safe. When [`ClientSession::run_command`] returns, the client has an answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::backend::connection::{Connection, Executed, Identity, PreparedText};
use crate::backend::pool::{Lease, LeaseError};
use crate::backend::reset;
use crate::model::health::Health;
use crate::model::server::ServerId;
use crate::model::topology::{Server, Topology};
use crate::routing::session::{Answered, PinCause, Session};
use crate::routing::{self, Circumstances, Decision, Freshness, InHand, Target};
use crate::sql::{Access, Dialect, Effect, Isolation, Kind, Statement};
use crate::telemetry::clients::{ServerThread, Signals};
use crate::telemetry::metrics::{self, Outcome};
use crate::wire::flags::Capabilities;
use crate::wire::packet::{ErrPacket, Reader, push_packet};
use crate::wire::response::status;
use crate::wire::tracker::Answer;

use super::hold::{Held, NotHeld};
use super::insert_id::InsertId;
use super::relay::{self, Attend, Body, Broken, Deliver, Order, PreparedAnswer, Relayed};
use super::session::{ClientSession, End};
use super::{Shared, command, prepared, reply};

/// How a command is carried to a server.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) body: Body<'a>,
    pub(super) answer: Answer,
    pub(super) deliver: Deliver,
    /// The client's prepared statement that this executes.
    pub(super) execute: Option<u32>,
    /// Where the SQL text stands in the inbox, for what is to be learned of it.
    pub(super) sql: Option<(usize, usize)>,
}

/// What running a command came to, when the client has its answer.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// None when the proxy answered with an error of its own.
    pub(super) answered: Option<Answered>,
    pub(super) prepared: PreparedAnswer,
}

/// One try's end, seen by the loop over tries.
enum Tried {
    Done(Ran),
    /// Another server shall do it.
    Elsewhere(&'static str),
    /// The primary shall do it.
    AtPrimary(&'static str),
    /// The same again: the server had forgotten a prepared statement.
    Again,
    /// There is no primary that takes writes; in the end the client is told so, in these words if there are any.
    NoPrimary(Option<ErrPacket>),
    /// The proxy says no.
    Refused(ErrPacket),
}

/// The commands of ours before a command of the client's.
#[derive(Default)]
struct Prelude {
    bytes: Vec<u8>,
    answers: u32,
    waits: bool,
}

/// A statement is tried on at most so many connections, waiting for a primary apart.
const TRIES: u32 = 4;
/// The label of a statement that a replica refused and the primary ran.
const REFUSED_BY_REPLICA: &str = "refused-by-replica";

const ER_DBACCESS_DENIED: u16 = 1044;
const ER_BAD_DB: u16 = 1049;
const ER_SERVER_SHUTDOWN: u16 = 1053;
const ER_UNKNOWN_STMT_HANDLER: u16 = 1243;
const ER_OPTION_PREVENTS_STATEMENT: u16 = 1290;
const ER_MAX_PREPARED_STMT_COUNT_REACHED: u16 = 1461;
const ER_NEED_REPREPARE: u16 = 1615;
const ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION: u16 = 1792;
const ER_READ_ONLY_MODE: u16 = 1836;

impl ClientSession {
    pub(super) async fn run_command(&mut self, statement: &Statement, work: Work<'_>) -> Result<Ran, End> {
        let shared = Arc::clone(&self.shared);
        let mut held: Option<Held<'_>> = None;
        let mut avoid = None;
        let mut forced = None;
        let mut tries = 0;
        loop {
            tries += 1;
            self.refresh();
            let circumstances = Circumstances { in_hand: self.in_hand(), avoid, dice: self.roll() };
            let mut decision =
                routing::decide(statement, &self.session, &self.snapshot, circumstances, &shared.policy);
            if let Some(why) = forced
                && circumstances.in_hand != InHand::Bound
            {
                decision = Decision { target: Target::Primary, why, freshness: Freshness::Any };
            }
            match self.try_command(statement, work, decision, tries).await {
                Ok(Tried::Done(ran)) => {
                    self.count(decision, ran.answered.as_ref());
                    return Ok(ran);
                }
                Ok(Tried::Elsewhere(why)) => {
                    shared.metrics.retried(why);
                    if let Target::Replica(at) = decision.target {
                        avoid = Some(at);
                    }
                    if tries > 1 {
                        forced = Some("replica-failed");
                    }
                }
                Ok(Tried::AtPrimary(why)) => {
                    shared.metrics.retried(why);
                    forced = Some(why);
                    if why == REFUSED_BY_REPLICA {
                        self.learn(work);
                    }
                }
                Ok(Tried::Again) => {}
                Ok(Tried::NoPrimary(words)) => {
                    if let Err(why) = self.await_primary(&shared, &mut held, work.body).await? {
                        self.refuse(&words.unwrap_or_else(|| reply::no_primary(&why))).await?;
                        self.count(decision, None);
                        return Ok(Ran::default());
                    }
                }
                Ok(Tried::Refused(error)) => {
                    self.refuse(&error).await?;
                    self.count(decision, None);
                    return Ok(Ran::default());
                }
                Err(end) => {
                    self.count(decision, None);
                    return Err(end);
                }
            }
        }
    }

    async fn try_command(
        &mut self,
        statement: &Statement,
        mut work: Work<'_>,
        decision: Decision,
        tries: u32,
    ) -> Result<Tried, End> {
        if let Some(tried) = self.obtain(&decision, work.body).await {
            return Ok(tried);
        }
        let mut prelude = match self.prelude(statement, decision, work.answer).await {
            Ok(prelude) => prelude,
            Err(tried) => return Ok(tried),
        };
        // A write must not run when what goes before it fails: then the prelude goes alone.
        if prelude.answers > 0 && !matches!(statement.kind, Kind::Read | Kind::Anywhere) {
            match Box::pin(self.exchange(&Order::alone(&prelude.bytes, prelude.answers))).await {
                Ok((Relayed::PreludeRefused(packet), _)) => {
                    return self.prelude_refused(&packet, decision).await;
                }
                Ok(_) => self.applied(),
                Err(broken) => return self.broke(broken, statement, work, tries).await,
            }
            prelude = Prelude::default();
        }
        let bytes;
        if let Some(id) = work.execute {
            match Box::pin(self.ready_to_execute(id, &mut prelude, work.body)).await {
                Ok(Ok(execute)) => bytes = execute,
                Ok(Err(relayed)) => return Box::pin(self.judge(relayed, decision, work, tries)).await,
                Err(broken) => return self.broke(broken, statement, work, tries).await,
            }
            if !bytes.is_empty() {
                work.body = Body::Bytes(&bytes);
            }
        }
        let order = Order {
            prelude: &prelude.bytes,
            prelude_answers: prelude.answers,
            waits: prelude.waits,
            body: work.body,
            answer: work.answer,
            keep_error: may_be_mended,
            deliver: work.deliver,
        };
        let _in_flight = self.hold.as_ref().map(|lease| lease.server().load.enter());
        match self.exchange(&order).await {
            Ok((Relayed::Answered(answered), prepared)) => {
                self.after(statement, &answered, work).await;
                Ok(Tried::Done(Ran { answered: Some(answered), prepared }))
            }
            Ok((relayed, _)) => self.judge(relayed, decision, work, tries).await,
            Err(broken) => self.broke(broken, statement, work, tries).await,
        }
    }

    /// An exchange that brought the client nothing yet.
    async fn judge(
        &mut self,
        relayed: Relayed,
        decision: Decision,
        work: Work<'_>,
        tries: u32,
    ) -> Result<Tried, End> {
        match relayed {
            Relayed::Kept { code, packet } => {
                self.applied();
                self.judge_error(code, &packet, decision, work, tries).await
            }
            Relayed::PreludeRefused(packet) => self.prelude_refused(&packet, decision).await,
            Relayed::NotFresh => {
                // The read itself is under way behind the wait: this connection is out of step.
                self.hold = None;
                Ok(Tried::AtPrimary("replica-behind"))
            }
            Relayed::Answered(answered) => {
                Ok(Tried::Done(Ran { answered: Some(answered), prepared: PreparedAnswer::default() }))
            }
        }
    }

    /// Takes the connection that was decided on. None: it is in `hold`.
    async fn obtain(&mut self, decision: &Decision, body: Body<'_>) -> Option<Tried> {
        let snapshot = Arc::clone(&self.snapshot);
        let leased = match decision.target {
            Target::Held => return None,
            Target::Primary => {
                let Some(writer) = snapshot.writer() else {
                    return Some(Tried::NoPrimary(None));
                };
                if self.takes_from_hand(&writer.server().id) {
                    return None;
                }
                self.let_go().await;
                self.shared.pools.lease_writer(&writer, &self.identity, self.session.settings()).await
            }
            Target::Replica(at) => {
                let server = &snapshot.servers[at];
                if self.takes_from_hand(&server.id) {
                    return None;
                }
                self.let_go().await;
                self.shared.pools.lease(server, &self.identity, self.session.settings()).await
            }
        };
        match leased {
            Ok(lease) => {
                self.hold = Some(lease);
                None
            }
            Err(error) => Some(self.without_connection(&error, decision, body)),
        }
    }

    /// True when the connection in hand, or the parked one, is to this server and can serve the session.
    fn takes_from_hand(&mut self, server: &ServerId) -> bool {
        let suits = |lease: &mut Option<Lease>, session: &Session| {
            // One that is not quiet was closed by the server since.
            lease.as_mut().is_some_and(|lease| {
                lease.server().id == *server
                    && lease.connection().stream.is_quiet()
                    && (lease.connection().applied.schema.is_none() || session.settings().schema.is_some())
            })
        };
        if suits(&mut self.parked, &self.session) {
            std::mem::swap(&mut self.hold, &mut self.parked);
            if let Some(other) = self.parked.take() {
                other.release(self.last_activity);
            }
            return true;
        }
        suits(&mut self.hold, &self.session)
    }

    /// Gives back what is in hand, or parks it when it has a LAST_INSERT_ID that nobody else knows.
    pub(super) async fn let_go(&mut self) {
        let Some(lease) = self.hold.take() else { return };
        self.keeps_diagnostics = false;
        if self.insert_id.is_on_connection() && self.parked.is_none() {
            self.parked = Some(lease);
            if self.parked.as_ref().is_some_and(|lease| lease.pool().is_pressed()) {
                Box::pin(self.save_insert_id()).await;
                if let Some(lease) = self.parked.take() {
                    lease.release(self.last_activity);
                }
            }
        } else {
            lease.release(self.last_activity);
        }
    }

    /// Learns LAST_INSERT_ID from the connection that has it, so that the connection can go.
    pub(super) async fn save_insert_id(&mut self) {
        if self.insert_id.is_on_connection() {
            let found = self.ask_insert_id().await;
            self.insert_id = found.map_or(InsertId::NONE, |found| self.insert_id.save(found));
        }
    }

    /// Asks the connection that has LAST_INSERT_ID. A connection that does not answer as it should is dropped.
    async fn ask_insert_id(&mut self) -> Option<u64> {
        let deadline = self.shared.server_deadline;
        let lease = self.parked.as_mut().or(self.hold.as_mut())?;
        let saved = crate::backend::query(lease.connection(), "SELECT LAST_INSERT_ID()", deadline).await;
        let number = saved.ok().and_then(|packets| {
            let row = packets.get(packets.len().checked_sub(2)?)?;
            std::str::from_utf8(row.get(1..)?).ok()?.parse().ok()
        });
        if number.is_none() {
            tracing::warn!("LAST_INSERT_ID() could not be read from a connection that is given back");
            if self.parked.take().is_none() {
                self.hold = None;
            }
        }
        number
    }

    /// Makes sure that the connection in hand can be asked for LAST_INSERT_ID. Returns the number that must be set first.
    async fn bring_insert_id(&mut self) -> Option<u64> {
        if self.parked.is_some() {
            self.save_insert_id().await;
            if let Some(parked) = self.parked.take() {
                parked.release(self.last_activity);
            }
        } else if matches!(self.insert_id, InsertId::Reported { .. }) {
            let found = self.ask_insert_id().await;
            self.insert_id = found.map_or(InsertId::NONE, |found| self.insert_id.settle(found));
        }
        match self.insert_id {
            InsertId::Saved(number) => Some(number),
            _ => None,
        }
    }

    /// An answer has reported an id: it lives on the connection in hand now, and what was parked is old news.
    async fn take_insert_id(&mut self, answered: &Answered) {
        if self.parked.is_some() {
            self.save_insert_id().await;
            if let Some(parked) = self.parked.take() {
                parked.release(self.last_activity);
            }
        }
        let number = answered.last_insert_id;
        self.insert_id = match self.insert_id.report(number) {
            _ if answered.several_insert_ids => InsertId::OnConnection,
            Some(known) => known,
            None => {
                let found = Box::pin(self.ask_insert_id()).await;
                let settled = found.map_or(InsertId::NONE, |found| self.insert_id.settle(found));
                settled.report(number).unwrap_or(InsertId::OnConnection)
            }
        };
    }

    /// What must be said on the connection before this statement. Err: a try that ended before it began.
    async fn prelude(
        &mut self,
        statement: &Statement,
        decision: Decision,
        answer: Answer,
    ) -> Result<Prelude, Tried> {
        let mut prelude = Prelude::default();
        let wait = match decision.freshness {
            Freshness::Any => None,
            Freshness::AwaitSession => Some(self.session.watermark().to_string()),
            Freshness::AwaitPrimary => Some(Box::pin(self.primary_position()).await?),
        };
        let bound = self.session.is_bound();
        let settings = Arc::clone(self.session.settings());
        let next = self.session.next_transaction();
        let insert_id = match statement.needs.last_insert_id && answer == Answer::Results {
            true => Box::pin(self.bring_insert_id()).await,
            false => None,
        };
        let wait_seconds = self.shared.policy.gtid_wait.as_secs_f64();
        let Some(lease) = self.hold.as_mut() else { return Err(Tried::NoPrimary(None)) };
        let connection = lease.connection();
        let head = reset::query_head(connection.capabilities);
        let say = |prelude: &mut Prelude, sql: String| {
            let mut command = head.clone();
            command.extend_from_slice(sql.as_bytes());
            push_packet(&mut prelude.bytes, 0, &command);
        };
        // First of all: what follows may need what is waited for (a schema that was just made).
        if let Some(set) = wait {
            say(&mut prelude, format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{set}',{wait_seconds})"));
            prelude.waits = true;
        }
        prelude.answers += reset::write_difference(connection, &settings, &mut prelude.bytes);
        let mut spoils = false;
        if !bound {
            if let Some(set) = set_transaction(next.access, next.isolation)
                && answer == Answer::Results
                && !matches!(statement.kind, Kind::Anywhere | Kind::Previous)
            {
                say(&mut prelude, set);
                prelude.answers += 1;
                // Until the transaction has begun: what uses the setting up depends on the statement and its fate.
                spoils = true;
            }
            // Another session's warnings and row counts may still be on the connection.
            if statement.kind == Kind::Previous && decision.target != Target::Held {
                say(&mut prelude, String::from("DO 0"));
                prelude.answers += 1;
            }
        }
        if let Some(number) = insert_id {
            say(&mut prelude, format!("SET SESSION last_insert_id={number}"));
            prelude.answers += 1;
        }
        connection.spoiled |= spoils;
        Ok(prelude)
    }

    /// What the primary has committed by now (`routing.consistency: global`).
    async fn primary_position(&mut self) -> Result<String, Tried> {
        let failed = || Tried::AtPrimary("primary-position-unknown");
        let writer = self.snapshot.writer().ok_or_else(failed)?;
        let leased = self.shared.pools.lease_writer(&writer, &self.identity, self.session.settings()).await;
        let mut lease = leased.map_err(|_| failed())?;
        let deadline = self.shared.server_deadline;
        let packets =
            crate::backend::query(lease.connection(), "SELECT @@GLOBAL.gtid_executed", deadline).await;
        let packets = packets.map_err(|_| failed())?;
        lease.release(self.last_activity);
        let row = packets.len().checked_sub(2).and_then(|at| packets.get(at)).ok_or_else(failed)?;
        let (length, size) = crate::wire::response::read_length(row).ok_or_else(failed)?;
        let text = row.get(size..).filter(|text| text.len() as u64 == length).ok_or_else(failed)?;
        // Only what a GTID set can have goes into our statement.
        crate::model::gtid::GtidSet::parse(std::str::from_utf8(text).map_err(|_| failed())?)
            .map(|set| set.to_string())
            .map_err(|_| failed())
    }

    /// Makes sure that the connection knows the statement, and gives the bytes of the EXECUTE for it; empty when those
    /// in the inbox will do. The inner Err is an exchange that went otherwise.
    async fn ready_to_execute(
        &mut self,
        id: u32,
        prelude: &mut Prelude,
        body: Body<'_>,
    ) -> Result<Result<Vec<u8>, Relayed>, Broken> {
        let Some(known) = self.statements.find(id).cloned() else {
            let packet = reply::error(&reply::unknown_statement(id, "EXECUTE"));
            return Ok(Err(Relayed::Kept { code: ER_UNKNOWN_STMT_HANDLER, packet }));
        };
        // Long data comes before anybody knows how the statement will be executed.
        let cursor = matches!(body, Body::Inbox(_)) && command::has_cursor(self.client.inbox.bytes());
        let Some(lease) = self.hold.as_mut() else { return Ok(Ok(Vec::new())) };
        let cache = &mut lease.connection().prepared;
        if !cursor
            && cache.find(&known.text).is_some_and(|on_server| on_server.executed == Executed::WithCursor)
            && let Some(old) = cache.forget(&known.text)
        {
            prepared::push_close(&mut prelude.bytes, old);
        }
        if cache.find(&known.text).is_none() {
            let packet = prepared::prepare_packet(&known.text);
            let order = Order {
                prelude: &prelude.bytes,
                prelude_answers: prelude.answers,
                waits: prelude.waits,
                body: Body::Bytes(&packet),
                answer: Answer::Prepared,
                keep_error: |_| true,
                deliver: Deliver::Discard,
            };
            match self.exchange(&order).await? {
                (Relayed::Answered(_), answer) => {
                    self.applied();
                    let bytes = self.remember_prepared(&known.text, answer.id);
                    *prelude = Prelude { bytes, ..Prelude::default() };
                }
                (Relayed::Kept { code, mut packet }, _) => {
                    // It answered a PREPARE of ours; the client's command may have more frames.
                    packet[3] = self.client.frames;
                    return Ok(Err(Relayed::Kept { code, packet }));
                }
                (other, _) => return Ok(Err(other)),
            }
        }
        let Some(lease) = self.hold.as_mut() else { return Ok(Ok(Vec::new())) };
        let Some(on_server) = lease.connection().prepared.find(&known.text) else {
            return Ok(Ok(Vec::new()));
        };
        Ok(Ok(command::execute_bytes(
            &mut self.client.inbox,
            body,
            &known,
            on_server,
            self.identity.capabilities.contains(Capabilities::QUERY_ATTRIBUTES),
        )))
    }

    /// The connection has prepared this. Returns the commands that close what had to go for it.
    pub(super) fn remember_prepared(&mut self, text: &Arc<PreparedText>, id: u32) -> Vec<u8> {
        let mut closes = Vec::new();
        let capacity = self.shared.pools.prepared_per_connection();
        let pinned = self.session.pins().iter().filter_map(|pin| match pin.cause {
            PinCause::Prepared(id) => self.statements.find(id),
            _ => None,
        });
        let kept: Vec<_> = pinned.map(|known| Arc::clone(&known.text)).collect();
        if let Some(lease) = self.hold.as_mut() {
            let cache = &mut lease.connection().prepared;
            for old in
                cache.forget(text).into_iter().chain(cache.insert(Arc::clone(text), id, capacity, &kept))
            {
                prepared::push_close(&mut closes, old);
            }
        }
        closes
    }

    /// The server has no room for prepared statements: closes those that this connection keeps for reuse. False when
    /// there were none.
    async fn close_prepared(&mut self) -> bool {
        let mut closes = Vec::new();
        if let Some(lease) = self.hold.as_mut() {
            for id in lease.connection().prepared.take_all() {
                prepared::push_close(&mut closes, id);
            }
        }
        self.send_to_server(&closes).await;
        !closes.is_empty() && self.hold.is_some()
    }

    /// An error that came before anything of an answer, of a kind that may be ours to mend.
    async fn judge_error(
        &mut self,
        code: u16,
        packet: &[u8],
        decision: Decision,
        work: Work<'_>,
        tries: u32,
    ) -> Result<Tried, End> {
        let bound = self.session.is_bound();
        let at_primary = self.hold.as_ref().is_some_and(|lease| self.snapshot.is_primary(&lease.server().id));
        let streamed = matches!(work.body, Body::Streamed { .. });
        if self.session.in_transaction() && !at_primary && is_read_only_refusal(code, packet) {
            // Only transactions that said they were read-only are on a replica.
            let refused = reply::error(&reply::read_only_transaction());
            return self.answer_with(&refused).await;
        }
        if !bound && !streamed {
            if is_read_only_refusal(code, packet) {
                if !at_primary {
                    return Ok(Tried::AtPrimary(REFUSED_BY_REPLICA));
                }
                // The primary was just made read-only: a new one, or the same, will take writes in a moment.
                self.probe_held();
                self.hold = None;
                return Ok(Tried::NoPrimary(ErrPacket::parse(&packet[4..])));
            }
            if is_sign_of_delay(code) && !at_primary {
                return Ok(Tried::AtPrimary("replica-behind"));
            }
            if code == ER_SERVER_SHUTDOWN && matches!(decision.target, Target::Replica(_)) && tries < TRIES {
                self.probe_held();
                self.hold = None;
                return Ok(Tried::Elsewhere("server-stopping"));
            }
        }
        if code == ER_MAX_PREPARED_STMT_COUNT_REACHED && tries < TRIES && self.close_prepared().await {
            return Ok(Tried::Again);
        }
        if let Some(known) = work.execute.and_then(|id| self.statements.find(id))
            && matches!(code, ER_UNKNOWN_STMT_HANDLER | ER_NEED_REPREPARE)
            && tries < TRIES
            && let Some(lease) = self.hold.as_mut()
        {
            lease.connection().prepared.forget(&known.text);
            self.shared.metrics.retried("prepared-again");
            return Ok(Tried::Again);
        }
        self.answer_with(packet).await
    }

    /// Gives the client this ERR packet of the server's as the answer.
    async fn answer_with(&mut self, packet: &[u8]) -> Result<Tried, End> {
        self.send(packet).await?;
        self.keeps_diagnostics = true;
        let error = crate::wire::response::read_error_code(packet.get(4..).unwrap_or_default()).unwrap_or(0);
        let answered = Answered { error: Some(error), ..Answered::default() };
        Ok(Tried::Done(Ran { answered: Some(answered), prepared: PreparedAnswer::default() }))
    }

    /// A command of ours failed (the schema is gone, say): the client is told what the server said.
    async fn prelude_refused(&mut self, packet: &[u8], decision: Decision) -> Result<Tried, End> {
        self.hold = None;
        if let Target::Replica(_) = decision.target {
            // A schema that another session has just made is not there yet.
            return Ok(Tried::AtPrimary("replica-behind"));
        }
        let bound = self.session.is_bound();
        self.session.lose_connection();
        if !bound && self.leaves_schema(ErrPacket::parse(&packet[4..]).as_ref()) {
            return Ok(Tried::Again);
        }
        // It answered a command of ours; the client's may have more frames.
        let mut packet = packet.to_vec();
        self.number(&mut packet).await?;
        self.answer_with(&packet).await
    }

    /// The session's schema was dropped, by whomever: as on a server the session goes on without it, or it could not even
    /// choose another one.
    fn leaves_schema(&mut self, error: Option<&ErrPacket>) -> bool {
        let gone = error.is_some_and(|error| matches!(error.code, ER_DBACCESS_DENIED | ER_BAD_DB));
        let left = gone && self.session.leave_schema();
        if left {
            self.session.intern(&self.shared.settings);
            self.show_schema();
        }
        left
    }

    fn without_connection(&mut self, error: &LeaseError, decision: &Decision, body: Body<'_>) -> Tried {
        let mut unreachable = matches!(error, LeaseError::StaleWriter(_));
        if let LeaseError::Connect(server, connect) = error {
            tracing::debug!(%server, error = %connect, "no connection");
            // A replica may not know yet what was granted a moment ago.
            if connect.is_access_denied() && decision.target == Target::Primary {
                self.shared.login.users.forget(&self.identity.credentials);
            }
            if connect.retry_elsewhere() {
                self.shared.probe_now(server);
                unreachable = connect.server_error().is_none();
            }
        }
        let said = match error {
            LeaseError::Connect(_, connect) => connect.server_error(),
            _ => None,
        };
        match decision.target {
            Target::Replica(_) => Tried::Elsewhere("no-connection"),
            _ if self.leaves_schema(said) => Tried::Again,
            _ if unreachable && !matches!(body, Body::Streamed { .. }) => Tried::NoPrimary(None),
            _ => Tried::Refused(reply::no_connection(error)),
        }
    }

    /// Holds the statement until there is a primary again. The inner Err: it will not be held any longer.
    async fn await_primary<'a>(
        &mut self,
        shared: &'a Shared,
        held: &mut Option<Held<'a>>,
        body: Body<'_>,
    ) -> Result<Result<(), NotHeld>, End> {
        let bytes = match body {
            Body::Inbox(length) => length,
            Body::Bytes(bytes) => bytes.len(),
            Body::Streamed { .. } | Body::Nothing => 0,
        };
        if held.is_none() {
            match shared.hold.enter(bytes) {
                Ok(place) => *held = Some(place),
                Err(full) => return Ok(Err(full)),
            }
        }
        let Some(place) = held.as_ref() else { return Ok(Ok(())) };
        let client = &mut self.client;
        let waited = {
            let mut primary = pin!(place.primary(&mut self.topology));
            poll_fn(|context| {
                if let Poll::Ready(result) = primary.as_mut().poll(context) {
                    return Poll::Ready(Ok(result));
                }
                if let Poll::Ready(error) = relay::poll_client_gone(client, context) {
                    return Poll::Ready(Err(End::ClientGone(error)));
                }
                match client.registration.poll_signals(context) {
                    Poll::Ready(signals) if signals.contains(Signals::KILL_CONNECTION) => {
                        Poll::Ready(Err(End::Killed))
                    }
                    _ => Poll::Pending,
                }
            })
            .await?
        };
        // The wait has taken the news.
        self.snapshot = Arc::clone(&self.topology.borrow_and_update());
        Ok(waited)
    }

    /// The server connection broke in the middle.
    async fn broke(
        &mut self,
        broken: Broken,
        statement: &Statement,
        work: Work<'_>,
        tries: u32,
    ) -> Result<Tried, End> {
        let bound = self.session.is_bound();
        let server = self.hold.as_ref().map(|lease| lease.server().id.clone());
        let (delivered, error) = match broken {
            Broken::Client(error) => {
                self.hold = None;
                return Err(End::ClientGone(error));
            }
            Broken::Killed => {
                self.hold = None;
                return Err(End::Killed);
            }
            Broken::TooLarge => {
                self.hold = None;
                return self.refuse(&reply::too_large()).await.and(Err(End::Malformed));
            }
            Broken::Server { delivered, error } => (delivered, error),
        };
        self.probe_held();
        self.hold = None;
        if self.parked.is_none() {
            self.insert_id = InsertId::NONE;
        }
        self.session.lose_connection();
        self.show_pins(b"");
        if let Some(server) = &server {
            tracing::info!(%server, %error, "a server connection broke");
        }
        if delivered {
            return Err(End::ServerLost);
        }
        let harmless = matches!(statement.kind, Kind::Read | Kind::Anywhere | Kind::Previous);
        let repeatable = !matches!(work.body, Body::Streamed { .. });
        if !bound && harmless && repeatable && tries < TRIES {
            return Ok(Tried::Elsewhere("connection-lost"));
        }
        if let Some(server) = &server {
            self.refuse(&reply::lost(server, bound)).await?;
        }
        // What the session had on that connection is gone; only a new one is honest.
        if bound { Err(End::ServerLost) } else { Ok(Tried::Done(Ran::default())) }
    }

    async fn exchange(&mut self, order: &Order<'_>) -> Result<(Relayed, PreparedAnswer), Broken> {
        let Some(lease) = self.hold.as_mut() else {
            let error = std::io::Error::from(std::io::ErrorKind::NotConnected);
            return Err(Broken::Server { delivered: false, error });
        };
        let server = Arc::clone(lease.server());
        let attend = Attending {
            shared: &self.shared,
            identity: &self.identity,
            server: &server,
            topology: &self.topology,
        };
        let mut prepared = PreparedAnswer::default();
        let relayed =
            relay::exchange(&mut self.client, lease.connection(), order, &mut prepared, &attend).await?;
        Ok((relayed, prepared))
    }

    /// The connection in hand now looks like the session.
    pub(super) fn applied(&mut self) {
        if let Some(lease) = self.hold.as_mut() {
            lease.connection().applied = Arc::clone(self.session.settings());
        }
    }

    /// Takes in what a statement did to the session and to its connection.
    async fn after(&mut self, statement: &Statement, answered: &Answered, work: Work<'_>) {
        let before = Arc::clone(self.session.settings());
        if work.answer == Answer::Results {
            let missing = self.session.apply(statement, answered);
            if !missing.is_empty() {
                Box::pin(self.learn_variables(&missing, work)).await;
            }
        } else {
            self.session.apply_status(answered);
        }
        if !Arc::ptr_eq(&before, self.session.settings()) {
            self.session.intern(&self.shared.settings);
            if before.schema != self.session.settings().schema {
                self.show_schema();
            }
        }
        self.applied();
        if answered.last_insert_id != 0 {
            Box::pin(self.take_insert_id(answered)).await;
        } else if statement.needs.last_insert_id && work.answer == Answer::Results {
            // It was brought there before, and may have been changed: LAST_INSERT_ID(5).
            self.insert_id = InsertId::OnConnection;
        }
        if self.session.in_transaction()
            && let Some(lease) = self.hold.as_mut()
        {
            lease.connection().spoiled = false;
        }
        if statement.kind != Kind::Previous {
            self.keeps_diagnostics = answered.warnings > 0
                || answered.error.is_some()
                || statement.effects.contains(&Effect::CountsFoundRows);
        }
        // Which of several settings a failed text has made nobody knows: the connection must not serve another session.
        let sets = |effect: &Effect| {
            matches!(effect, Effect::SetVariables(_) | Effect::SetUserVariable { .. } | Effect::Pin(_))
        };
        if answered.error.is_some() && !self.session.is_bound() && statement.effects.iter().any(sets) {
            self.hold = None;
        }
        for effect in &statement.effects {
            match effect {
                Effect::AccountsChange => {
                    self.shared.login.users.forget_all_verifications();
                    // What is pooled was opened with the rights of before.
                    self.shared.pools.retire();
                }
                Effect::Disconnects if answered.error.is_none() => self.hold = None,
                _ => {}
            }
        }
        if self.session.is_bound() || !self.shown_causes.is_empty() {
            self.show_pins_of(work);
        }
    }

    /// Asks the server for values that its tracker does not report (SET NAMES tells nothing of collation_connection).
    async fn learn_variables(&mut self, names: &[Box<str>], work: Work<'_>) {
        let text = match (work.body, work.sql) {
            (Body::Inbox(_), Some((start, end))) => {
                self.client.inbox.bytes().get(start..end).unwrap_or_default()
            }
            _ => &[],
        };
        // A SET of literals gives the same values every time, and drivers begin every session with one.
        let plain = !text.is_empty() && text.len() < 200 && !text.iter().any(|byte| b"@(".contains(byte));
        let plain = plain && self.session.settings().variable(b"default_collation_for_utf8mb4").is_none();
        let text: Box<[u8]> = Box::from(text);
        let known = if plain { self.shared.values.get(&text) } else { None };
        let values = match known {
            Some(values) => values,
            None => match self.ask_variables(names).await {
                Some(values) => {
                    let values: Arc<[Box<[u8]>]> = values.into();
                    if plain {
                        self.shared.values.insert(text, Arc::clone(&values));
                    }
                    values
                }
                None => return self.session.pin(PinCause::ServerState),
            },
        };
        for (name, value) in names.iter().zip(values.iter()) {
            self.session.learn_variable(name.as_bytes(), value);
        }
    }

    async fn ask_variables(&mut self, names: &[Box<str>]) -> Option<Vec<Box<[u8]>>> {
        let columns: Vec<String> = names.iter().map(|name| format!("IFNULL(@@SESSION.{name},'')")).collect();
        let deadline = self.shared.server_deadline;
        let connection = self.hold.as_mut()?.connection();
        let sql = format!("SELECT {}", columns.join(","));
        let packets = crate::backend::query(connection, &sql, deadline).await;
        let packets = match packets {
            Ok(packets) => packets,
            Err(error) => {
                // A server's no leaves the connection in step; anything else does not.
                if error.server_error().is_none() {
                    self.hold = None;
                }
                return None;
            }
        };
        let mut row = Reader::new(packets.get(packets.len().checked_sub(2)?)?);
        names.iter().map(|_| row.lenenc_bytes().ok().map(Box::from)).collect()
    }

    fn show_schema(&self) {
        let schema = self.session.settings().schema.as_deref().map(String::from_utf8_lossy);
        self.client.registration.schema(schema.as_deref());
    }

    /// Shows to others what binds the session, when it changed; `statement` is the text that changed it.
    pub(super) fn show_pins(&mut self, statement: &[u8]) {
        let causes = self.causes();
        if causes != self.shown_causes {
            self.show_causes(causes, statement);
        }
    }

    /// The same after a statement that is still at hand. Its text is copied only when there is something to show.
    fn show_pins_of(&mut self, work: Work<'_>) {
        /// More of a statement is never shown.
        const SHOWN: usize = 512;
        let causes = self.causes();
        if causes == self.shown_causes {
            return;
        }
        let text = match (work.body, work.sql) {
            (Body::Inbox(_), Some((start, end))) => self.client.inbox.bytes().get(start..end),
            _ => work.execute.and_then(|id| self.statements.find(id)).map(|known| &known.text.sql[..]),
        };
        let text = text.unwrap_or_default();
        let text: Box<[u8]> = Box::from(&text[..text.len().min(SHOWN)]);
        self.show_causes(causes, &text);
    }

    fn causes(&self) -> Vec<&'static str> {
        let mut causes: Vec<&'static str> = self.session.pins().iter().map(|pin| pin.cause.label()).collect();
        if self.session.in_transaction() {
            causes.push("transaction");
        }
        causes
    }

    fn show_causes(&mut self, causes: Vec<&'static str>, statement: &[u8]) {
        let registration = &self.client.registration;
        let holds = self.hold.as_mut().filter(|_| !causes.is_empty()).map(|lease| {
            let server = Arc::from(lease.server().id.as_str());
            ServerThread { server, thread: lease.connection().thread_id }
        });
        registration.holds(holds);
        for cause in registration.pinned(&causes, statement) {
            if cause != "transaction" {
                self.shared.metrics.pinned(cause);
            }
        }
        self.shown_causes = causes;
    }

    fn in_hand(&self) -> InHand {
        match &self.hold {
            None => InHand::Nothing,
            Some(_) if self.session.is_bound() => InHand::Bound,
            Some(lease) => {
                let id = &lease.server().id;
                let at = self.snapshot.servers.iter().position(|server| server.id == *id);
                at.map_or(InHand::Nothing, InHand::Lingering)
            }
        }
    }

    fn probe_held(&self) {
        if let Some(lease) = &self.hold {
            self.shared.probe_now(&lease.server().id);
        }
    }

    /// A replica refused this shape: it writes after all.
    fn learn(&mut self, work: Work<'_>) {
        let dialect = self.session.dialect();
        if let Some((start, end)) = work.sql
            && let Some(text) = self.client.inbox.bytes().get(start..end)
        {
            self.shared.classifier.learn_write(text, dialect);
        } else if let Some(known) = work.execute.and_then(|id| self.statements.find_mut(id)) {
            let dialect = Dialect { multi_statements: false, ..dialect };
            self.shared.classifier.learn_write(&known.text.sql, dialect);
            known.statement = self.shared.classifier.classify(&known.text.sql, dialect);
        }
    }

    fn count(&self, decision: Decision, answered: Option<&Answered>) {
        let target = match decision.target {
            Target::Replica(_) => metrics::Target::Replica,
            Target::Primary => metrics::Target::Primary,
            Target::Held => match &self.hold {
                Some(lease) if !self.snapshot.is_primary(&lease.server().id) => metrics::Target::Replica,
                _ => metrics::Target::Primary,
            },
        };
        let outcome = match answered {
            None => Outcome::Failed,
            Some(answered) if answered.error.is_some() => Outcome::Refused,
            Some(_) => Outcome::Answered,
        };
        let elapsed = Instant::now().duration_since(self.last_activity);
        self.shared.metrics.query(target, decision.why, outcome, elapsed);
    }

    /// The next random number (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>): spreads reads also over the first
    /// statements of many short sessions, whose seeds are alike.
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.dice ^ self.dice >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// Follows an open cursor: while the server keeps rows for it, the session is bound.
    pub(super) fn follow_cursor(&mut self, id: u32, flags: u16) {
        let cause = PinCause::Prepared(id);
        if flags & status::CURSOR_EXISTS != 0 && flags & status::LAST_ROW_SENT == 0 {
            self.session.pin(cause);
        } else {
            self.session.unpin(&cause);
        }
        self.show_pins(b"");
    }
}

/// What a session does about signals while it waits for a server.
struct Attending<'a> {
    shared: &'a Arc<Shared>,
    identity: &'a Arc<Identity>,
    server: &'a Arc<Server>,
    topology: &'a watch::Receiver<Arc<Topology>>,
}

impl Attend for Attending<'_> {
    fn attend(&self, signals: Signals, connection: &Connection) -> Option<Broken> {
        if signals.contains(Signals::KILL_CONNECTION) {
            self.shared.kill(self.server, self.identity, connection.thread_id, true);
            return Some(Broken::Killed);
        }
        if signals.contains(Signals::KILL_STATEMENT) {
            self.shared.kill(self.server, self.identity, connection.thread_id, false);
        }
        if signals.contains(Signals::LOOK) {
            let topology = self.topology.borrow();
            if topology.server(&self.server.id).is_none_or(|server| matches!(server.health, Health::Down(_)))
            {
                let error =
                    std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not answer probes");
                return Some(Broken::Server { delivered: false, error });
            }
        }
        None
    }

    fn abandoned(&self, connection: &Connection) {
        self.shared.kill(self.server, self.identity, connection.thread_id, true);
    }
}

/// Errors of a replica that may only mean that it has not yet heard of what another session has made or granted:
/// ER_DBACCESS_DENIED_ERROR, ER_BAD_DB_ERROR, ER_BAD_FIELD_ERROR, ER_TABLEACCESS_DENIED_ERROR,
/// ER_COLUMNACCESS_DENIED_ERROR, ER_NO_SUCH_TABLE, ER_SP_DOES_NOT_EXIST, ER_PROCACCESS_DENIED_ERROR.
fn is_sign_of_delay(code: u16) -> bool {
    matches!(code, 1044 | 1049 | 1054 | 1142 | 1143 | 1146 | 1305 | 1370)
}

/// Errors that are looked at before the client sees them.
fn may_be_mended(code: u16) -> bool {
    is_sign_of_delay(code)
        || matches!(
            code,
            ER_SERVER_SHUTDOWN
                | ER_MAX_PREPARED_STMT_COUNT_REACHED
                | ER_UNKNOWN_STMT_HANDLER
                | ER_OPTION_PREVENTS_STATEMENT
                | ER_NEED_REPREPARE
                | ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
                | ER_READ_ONLY_MODE
        )
}

/// 1290 has other reasons too (--secure-file-priv, --skip-grant-tables), which no other server mends.
fn is_read_only_refusal(code: u16, packet: &[u8]) -> bool {
    match code {
        ER_READ_ONLY_MODE => true,
        ER_OPTION_PREVENTS_STATEMENT => memchr::memmem::find(packet, b"read-only").is_some(),
        _ => false,
    }
}

/// SET TRANSACTION as the session said it before, for the connection that now opens the transaction.
fn set_transaction(access: Option<Access>, isolation: Option<Isolation>) -> Option<String> {
    let access = match access {
        Some(Access::ReadOnly) => Some("READ ONLY"),
        Some(Access::ReadWrite) => Some("READ WRITE"),
        Some(Access::Unspecified) | None => None,
    };
    let isolation = isolation.map(|isolation| match isolation {
        Isolation::ReadUncommitted => "ISOLATION LEVEL READ UNCOMMITTED",
        Isolation::ReadCommitted => "ISOLATION LEVEL READ COMMITTED",
        Isolation::RepeatableRead => "ISOLATION LEVEL REPEATABLE READ",
        Isolation::Serializable => "ISOLATION LEVEL SERIALIZABLE",
    });
    match (isolation, access) {
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => Some(format!("SET TRANSACTION {one}")),
        (Some(isolation), Some(access)) => Some(format!("SET TRANSACTION {isolation}, {access}")),
    }
}
