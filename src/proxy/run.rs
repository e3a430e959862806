//! Runs one command: decides, takes a connection, makes it look like the session, sends, relays, and tries again
//! elsewhere where that is safe. When [`ClientSession::run_command`] returns, the client has an answer.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::backend::connection::{Connection, Guard, Identity};
use crate::backend::reset;
use crate::model::health::Health;
use crate::model::topology::{Server, Topology};
use crate::routing::session::Answered;
use crate::routing::{self, Circumstances, Decision, Freshness, InHand, Target};
use crate::sql::{Access, Isolation, Kind, Statement};
use crate::telemetry::clients::Signals;
use crate::wire::packet::push_packet;
use crate::wire::tracker::Answer;

use super::begun::Begun;
use super::errors::{ER_NET_PACKETS_OUT_OF_ORDER, may_be_mended};
use super::forward::{Body, Broken};
use super::hold::Held;
use super::relay::{self, Attend, Order, PreparedAnswer, Relayed};
use super::session::{ClientSession, End};
use super::work::{Prelude, REFUSED_BY_REPLICA, Ran, Tried, Work};
use super::{Shared, reply};

/// A statement that does nothing but begin its diagnostics anew. On MariaDB only those do that read a table.
/// <https://mariadb.com/kb/en/show-warnings/>
fn forgets_diagnostics(mariadb: bool) -> &'static str {
    if mariadb { "DO (SELECT 0 FROM (SELECT 0) AS nothing)" } else { "DO 0" }
}

impl ClientSession {
    pub(super) async fn run_command(&mut self, statement: &Statement, work: Work<'_>) -> Result<Ran, End> {
        let shared = Arc::clone(&self.shared);
        let mut held: Option<Held<'_>> = None;
        let mut avoid = None;
        let mut forced = None;
        let mut tries = 0;
        self.results_seen = 0;
        if std::mem::take(&mut self.locks_uncounted) && self.session.is_pinned_by_lock() {
            Box::pin(self.count_locks()).await;
        }
        if self.session.is_bound() {
            if let Some(refusal) = Box::pin(self.leave_replica(statement, work.answer)).await? {
                self.refuse(&refusal).await?;
                return Ok(Ran::default());
            }
        } else if statement.kind != Kind::Previous && !statement.needs.previous {
            self.begun = Begun::by(statement, self.session.next_transaction());
            // What runs where the last statement has run needs no news of it, and may keep its diagnostics (COM_INIT_DB).
            let stays = statement.kind == Kind::Anywhere
                && statement.hint.is_none()
                && matches!(self.in_hand(), InHand::Lingering(_));
            if self.writes_untold && !stays {
                Box::pin(self.learn_writes()).await;
                forced = self.writes_untold.then_some("primary-position-unknown");
            }
            if self.is_pressed() {
                // Else a session that always has a next statement would keep its connection, and others waiting.
                Box::pin(self.give_way()).await;
            }
        }
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
                    if matches!(decision.target, Target::Replica(_)) && self.has_hidden_state() {
                        let error = ran.answered.as_ref().and_then(|answered| answered.error);
                        Box::pin(self.bring_state_home(statement, work, error)).await?;
                    }
                    if let Some(Answered { error: Some(ER_NET_PACKETS_OUT_OF_ORDER), .. }) = ran.answered {
                        // It is about the client's own frames; a server closes the connection then.
                        return Err(End::Malformed);
                    }
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
                    // A replica will do as well for a read that only found none.
                    let is_read = forced.is_none() && decision.why == routing::NO_REPLICA;
                    if let Err(why) = self.await_primary(&shared, &mut held, work.body, is_read).await? {
                        let words = words.unwrap_or_else(|| reply::no_primary(&why, &self.topology.borrow()));
                        self.refuse(&words).await?;
                        self.count(decision, None);
                        return Ok(Ran::default());
                    }
                    tries -= 1;
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

    pub(super) async fn try_command(
        &mut self,
        statement: &Statement,
        mut work: Work<'_>,
        decision: Decision,
        tries: u32,
    ) -> Result<Tried, End> {
        let is_last = match self.obtain(&decision, work.body).await {
            Ok(is_last) => is_last && !self.answered_here,
            Err(tried) => return Ok(tried),
        };
        let mut prelude = match self.prelude(statement, decision, is_last, work.answer).await {
            Ok(prelude) => prelude,
            Err(tried) => return Ok(tried),
        };
        // A write must not run when what goes before it fails: then the prelude goes alone. Nor must what is to be guarded.
        let harmless = matches!(statement.kind, Kind::Read | Kind::Anywhere) && prelude.guard.is_none();
        if prelude.answers > 0 && !harmless {
            let alone = Order { waits: prelude.waits, ..Order::alone(&prelude.bytes, prelude.answers) };
            match Box::pin(self.exchange(&alone)).await {
                Ok((relayed @ (Relayed::PreludeRefused(_) | Relayed::NotFresh), _)) => {
                    return self.judge(statement, relayed, decision, work, tries).await;
                }
                Ok(_) => self.applied_to(statement),
                Err(broken) => return self.broke(broken, statement, work, tries).await,
            }
            if let (Some(guard), Some(lease)) = (prelude.guard, self.hold.as_mut()) {
                lease.connection().guard = guard;
            }
            prelude = Prelude::default();
        }
        let counts = is_last && prelude.bytes.is_empty() && !self.is_asked();
        let counted = if counts { None } else { self.with_counts(statement, work) };
        if let Some(counted) = &counted {
            work.body = Body::Bytes(counted);
        }
        let bytes;
        if let Some(id) = work.execute {
            match Box::pin(self.ready_to_execute(id, &mut prelude, work.body)).await {
                Ok(Ok(execute)) => bytes = execute,
                Ok(Err(relayed)) => {
                    return Box::pin(self.judge(statement, relayed, decision, work, tries)).await;
                }
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
            keeps_late_errors: matches!(decision.target, Target::Replica(_)),
            seen: self.results_seen,
            deliver: work.deliver,
            number: self.number_for(statement, work),
            tells_all: statement.needs.trackers,
            of_replica_transaction: self.session.in_transaction()
                && self.hold.as_ref().is_some_and(|lease| !self.snapshot.is_primary(&lease.server().id)),
        };
        let _in_flight = self.hold.as_ref().map(|lease| lease.server().load.enter());
        match self.exchange(&order).await {
            Ok((Relayed::Answered(answered), prepared)) => {
                if decision.freshness == Freshness::AwaitSession {
                    self.note_applied();
                }
                self.after(statement, &answered, work).await?;
                Ok(Tried::Done(Ran { answered: Some(answered), prepared }))
            }
            Ok((relayed, _)) => {
                let tried = self.judge(statement, relayed, decision, work, tries).await?;
                if let Tried::Done(Ran { answered: Some(answered), .. }) = &tried {
                    Box::pin(self.after(statement, answered, work)).await?;
                }
                Ok(tried)
            }
            Err(broken) => self.broke(broken, statement, work, tries).await,
        }
    }

    /// An exchange that brought the client nothing yet.
    async fn judge(
        &mut self,
        statement: &Statement,
        relayed: Relayed,
        decision: Decision,
        work: Work<'_>,
        tries: u32,
    ) -> Result<Tried, End> {
        match relayed {
            Relayed::Kept { code, packet, results } => {
                self.applied_to(statement);
                if results > 0 {
                    // What they have set here the primary sets once more.
                    self.results_seen = results;
                    if let Some(lease) = self.hold.as_mut() {
                        lease.connection().doubtful = true;
                    }
                }
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

    /// What must be said on the connection before this statement, and whether it has run the one before. Err: a try that
    /// ended before it began.
    async fn prelude(
        &mut self,
        statement: &Statement,
        decision: Decision,
        is_last: bool,
        answer: Answer,
    ) -> Result<Prelude, Tried> {
        let mut prelude = Prelude::default();
        let wait = match decision.freshness {
            Freshness::Any => None,
            Freshness::AwaitSession => Some(self.session.watermark().to_string()),
            Freshness::AwaitPrimary => Some(Box::pin(self.primary_position()).await?),
        };
        let in_transaction = self.session.in_transaction();
        let settings = match statement.needs.trackers {
            false => Arc::clone(self.session.settings()),
            true => self.session.settings().viewed(self.trackers_view()),
        };
        let next = self.session.next_transaction();
        let insert_id = match statement.needs.last_insert_id && answer == Answer::Results {
            true => Box::pin(self.bring_insert_id()).await,
            false => None,
        };
        let wait_seconds = self.shared.policy.gtid_wait.as_secs_f64();
        let Some(lease) = self.hold.as_mut() else { return Err(Tried::NoPrimary(None)) };
        let connection = lease.connection();
        let guard = match decision.target {
            Target::Primary => Guard::None,
            Target::Replica(at) if self.snapshot.servers[at].refuses_writes() => Guard::None,
            Target::Held if connection.guard == Guard::None => Guard::None,
            Target::Replica(_) | Target::Held if statement.needs.access_mode => Guard::Lifted,
            Target::Replica(_) | Target::Held => Guard::Up,
        };
        let head = reset::query_head(connection.capabilities);
        let wait_function = match self.session.dialect().mariadb {
            true => "MASTER_GTID_WAIT",
            false => "WAIT_FOR_EXECUTED_GTID_SET",
        };
        let say = |prelude: &mut Prelude, sql: String| {
            let mut command = head.clone();
            command.extend_from_slice(sql.as_bytes());
            push_packet(&mut prelude.bytes, 0, &command);
        };
        // First of all: what follows may need what is waited for (a schema that was just made).
        if let Some(set) = wait {
            say(&mut prelude, format!("SELECT {wait_function}('{set}',{wait_seconds}) LIMIT 1"));
            prelude.waits = true;
        }
        // Nothing comes between a statement and one that asks about it.
        if statement.kind != Kind::Previous || decision.target != Target::Held {
            self.reads_otherwise = false;
            prelude.answers += reset::write_difference(connection, &settings, &mut prelude.bytes);
            let said = reset::write_guard(connection, guard, &settings, &mut prelude.bytes);
            prelude.answers += said;
            if said > 0 {
                prelude.guard = Some(guard);
            } else {
                connection.guard = guard;
            }
        }
        let mut spoils = false;
        if !in_transaction
            && let Some(set) = set_transaction(next.access, next.isolation)
            && matches!(answer, Answer::Results | Answer::Prepared)
            && statement.may_use_next_transaction()
        {
            say(&mut prelude, set);
            prelude.answers += 1;
            // Until the server says that it is used up.
            spoils = true;
        }
        if let Some(number) = insert_id {
            say(&mut prelude, format!("SET SESSION last_insert_id={number}"));
            prelude.answers += 1;
        }
        // Another session's warnings and row counts may still be on the connection.
        if (statement.kind == Kind::Previous || statement.needs.previous) && !is_last {
            say(&mut prelude, String::from(forgets_diagnostics(self.session.dialect().mariadb)));
            prelude.answers += 1;
            if self.row_count < 0 {
                // Answered by an EOF packet, as a query is.
                reset::write_option(connection.capabilities, &settings, &mut prelude.bytes);
                prelude.answers += 1;
            }
        }
        connection.spoiled |= spoils;
        Ok(prelude)
    }

    pub(super) async fn exchange(&mut self, order: &Order<'_>) -> Result<(Relayed, PreparedAnswer), Broken> {
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
        lease.connection().asked = matches!(order.body, Body::Nothing);
        let mut prepared = PreparedAnswer::default();
        let relayed =
            relay::exchange(&mut self.client, lease.connection(), order, &mut prepared, &attend).await?;
        // A KILL that comes too late would end what runs here next, of whichever session.
        if let Some(killing) = lease.connection().killing.take() {
            let ended = timeout(self.shared.server_deadline, killing).await;
            lease.connection().doubtful |= ended.is_err();
        }
        Ok((relayed, prepared))
    }

    /// The server has just applied what this session has written and seen: others need not wait for the same.
    fn note_applied(&self) {
        let server = self.hold.as_ref().and_then(|lease| self.snapshot.server(&lease.server().id));
        if let Some(up) = server.and_then(|server| server.health.up()) {
            up.note_applied(self.session.watermark());
        }
    }

    /// The next random number (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>): spreads reads also over the first
    /// statements of many short sessions, whose seeds are alike.
    pub(super) fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.dice ^ self.dice >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
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
    fn attend(&self, signals: Signals, connection: &mut Connection) -> Option<Broken> {
        if signals.contains(Signals::KILL_CONNECTION) {
            self.shared.kill(self.server, self.identity, connection.thread_id, true);
            return Some(Broken::Killed);
        }
        if signals.contains(Signals::KILL_STATEMENT)
            && connection.killing.as_ref().is_none_or(JoinHandle::is_finished)
        {
            let killing = self.shared.kill(self.server, self.identity, connection.thread_id, false);
            connection.killing = Some(killing);
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
