//! The commands of prepared statements. A statement's id is ours; each server prepares it when it first has to execute it.

use std::sync::Arc;

use crate::backend::connection::{Executed, OnServer, PreparedText, TypeHistory};
use crate::backend::reset;
use crate::routing::session::PinCause;
use crate::sql::{Dialect, Kind, Reason, Statement};
use crate::wire::command;
use crate::wire::flags::Capabilities;
use crate::wire::packet::{ErrPacket, HEADER};
use crate::wire::tracker::Answer;

use super::command::hint_of;
use super::errors::{ER_UNKNOWN_ERROR, ER_UNKNOWN_STMT_HANDLER, ER_WRONG_ARGUMENTS};
use super::forward::{self, Body, Broken};
use super::frame::{Frame, payload_of};
use super::prepared::{Prepared, execute_bytes, has_cursor, prepare_packet, push_close};
use super::relay::{Deliver, Order, Relayed};
use super::reply;
use super::session::{ClientSession, End};
use super::work::{Prelude, Ran, Work};

/// More open prepared statements than a server allows by default make no sense for one client.
const MAX_STATEMENTS: usize = 16_382;

impl ClientSession {
    pub(super) async fn prepare(&mut self, frame: Frame) -> Result<(), End> {
        if self.statements.len() >= MAX_STATEMENTS {
            return self.refuse(&reply::too_many_statements()).await;
        }
        let dialect = Dialect { multi_statements: false, ..self.session.dialect() };
        let payload = payload_of(&self.client.inbox.bytes()[..frame.length]);
        let generation = self.shared.classifier.generation();
        let statement = self.shared.classifier.classify(&payload[1..], dialect);
        let mut text = PreparedText::new(&payload[1..], self.session.settings());
        text.copy = self.statements.next_copy(&text);
        let text = Arc::new(text);
        // Preparing does nothing of what the statement will do.
        let preparing = Statement { effects: Vec::new(), ..prepared_verdict(&statement) };
        let id = self.statements.next_id();
        let work = Work {
            deliver: Deliver::Prepared(id),
            sql: Some((HEADER + 1, frame.length)),
            ..Work::of(frame, Answer::Prepared)
        };
        let Ran { answered, prepared } = self.run_command(&preparing, work).await?;
        if answered.is_some_and(|answered| answered.error.is_none()) {
            let closes = self.remember_prepared(&text, prepared.id);
            self.send_to_server(&closes).await;
            let known = Prepared {
                text,
                statement,
                dialect,
                generation,
                parameters: prepared.parameters,
                types: Arc::new([]),
                history: TypeHistory::default(),
            };
            self.statements.insert(id, known);
        }
        Ok(())
    }

    pub(super) async fn execute(&mut self, frame: Frame) -> Result<(), End> {
        let attributes = self.identity.capabilities.contains(Capabilities::QUERY_ATTRIBUTES);
        let bytes = &self.client.inbox.bytes()[..frame.length];
        let payload = payload_of(bytes);
        let id = match command::read_statement_id(&payload) {
            Ok(id) => id,
            Err(_) => return self.refuse(&reply::malformed()).await,
        };
        let Some(known) = self.statements.find_mut(id) else {
            return self.refuse(&self.unknown_statement(id, "mysqld_stmt_execute")).await;
        };
        let execute = match command::read_execute(&payload, known.parameters, attributes) {
            Ok(execute) => execute,
            Err(_) => return self.refuse(&reply::malformed()).await,
        };
        let generation = self.shared.classifier.generation();
        if known.generation != generation {
            known.statement = self.shared.classifier.classify(&known.text.sql, known.dialect);
            known.generation = generation;
        }
        let mut statement = Arc::clone(&known.statement);
        if let Some(parameters) = &execute.parameters {
            let types = &payload[parameters.types.clone()];
            if !types.is_empty() && *types != *known.types {
                known.types = Arc::from(types);
                let kinds = command::read_kinds(types, known.parameters, attributes);
                known.history = known.history.then(&kinds);
            }
            if let Some(hint) = parameters.hint.clone().and_then(|at| hint_of(&payload[at])) {
                Arc::make_mut(&mut statement).hint = Some(hint);
            }
        }
        if execute.cursor && matches!(statement.kind, Kind::Read | Kind::Anywhere) {
            statement = Arc::new(at_home(&statement));
        }
        let types = Arc::clone(&known.types);
        let (text, history) = (Arc::clone(&known.text), known.history.clone());
        if self.untold && !self.will_tell(&statement) {
            Box::pin(self.hear()).await?;
        }
        if self.keeps_for_later(&statement) {
            return self.answer_ok().await;
        }
        let work = Work { execute: Some(id), ..Work::of(frame, Answer::Results) };
        let ran = self.run_command(&statement, work).await?;
        let Some(answered) = ran.answered else { return Ok(()) };
        if let Some(lease) = self.hold.as_mut()
            && let Some(on_server) = lease.connection().prepared.find(&text)
        {
            if *on_server.types != *types {
                on_server.types = Box::from(&*types);
            }
            on_server.was_executed(&history);
            if on_server.executed == Executed::Never {
                on_server.executed = if execute.cursor { Executed::WithCursor } else { Executed::Plain };
            }
        }
        // Long data that was wrong stays with the statement on its connection, for every EXECUTE until a reset.
        let keeps_error = matches!(answered.error, Some(ER_UNKNOWN_ERROR | ER_WRONG_ARGUMENTS));
        if !keeps_error && (execute.cursor || !self.session.pins().is_empty()) {
            self.follow_cursor(id, answered.status.unwrap_or(0));
        }
        Ok(())
    }

    fn unknown_statement(&self, id: u32, command: &str) -> ErrPacket {
        reply::unknown_statement(id, command, self.session.dialect().mariadb)
    }

    /// A command that has no answer was cut short: MySQL says so all the same, MariaDB does not.
    async fn complain(&mut self) -> Result<(), End> {
        if self.session.dialect().mariadb {
            return Ok(());
        }
        self.refuse(&reply::malformed()).await
    }

    /// Long data comes before the EXECUTE it belongs to and is never answered: the session is bound to the connection
    /// that gets the first piece until it has executed.
    pub(super) async fn send_long_data(&mut self, frame: Frame) -> Result<(), End> {
        let Ok(id) = command::read_statement_id(self.payload(frame)) else { return self.complain().await };
        let Some(known) = self.statements.find(id).cloned() else { return Ok(()) };
        if !self.session.pins().iter().any(|pin| pin.cause == PinCause::Prepared(id)) {
            let ready = Statement { effects: Vec::new(), ..at_home(&known.statement) };
            let work = Work { body: Body::Nothing, execute: Some(id), ..Work::of(frame, Answer::Prepared) };
            if self.run_command(&ready, work).await?.answered.is_none_or(|answered| answered.error.is_some())
            {
                // The client was sent an error although it expects no answer: only a new connection is in step.
                return Err(End::ServerLost);
            }
            self.session.pin(PinCause::Prepared(id));
            self.show_pins(&known.text.sql);
        }
        if !self.patch_id(frame, &known) {
            return Err(End::ServerLost);
        }
        let Some(lease) = self.hold.as_mut() else { return Err(End::ServerLost) };
        let body = Work::of(frame, Answer::Status).body;
        forward::send_command(&mut self.client, lease.connection(), &[], body).await.map_err(|error| {
            tracing::debug!(%error, "long data was not delivered");
            End::ServerLost
        })
    }

    pub(super) async fn fetch(&mut self, frame: Frame) -> Result<(), End> {
        let Ok(id) = command::read_statement_id(self.payload(frame)) else {
            return self.refuse(&reply::malformed()).await;
        };
        let Some(known) = self.statements.find(id).cloned() else {
            return self.refuse(&self.unknown_statement(id, "mysqld_stmt_fetch")).await;
        };
        if !self.session.pins().iter().any(|pin| pin.cause == PinCause::Prepared(id)) {
            return self.refuse(&reply::no_cursor(id, self.session.dialect().mariadb)).await;
        }
        if !self.patch_id(frame, &known) {
            return self.refuse(&reply::no_cursor(id, self.session.dialect().mariadb)).await;
        }
        let shared = Arc::clone(&self.shared);
        let ran = self.run_command(&shared.verdicts.read, Work::of(frame, Answer::Rows)).await?;
        if let Some(answered) = ran.answered {
            self.follow_cursor(id, answered.status.unwrap_or(0));
        }
        Ok(())
    }

    pub(super) async fn reset_statement(&mut self, frame: Frame) -> Result<(), End> {
        let Ok(id) = command::read_statement_id(self.payload(frame)) else {
            return self.refuse(&reply::malformed()).await;
        };
        let Some(known) = self.statements.find(id).cloned() else {
            return self.refuse(&self.unknown_statement(id, "mysqld_stmt_reset")).await;
        };
        if !self.session.pins().iter().any(|pin| pin.cause == PinCause::Prepared(id)) {
            return self.answer_ok().await;
        }
        if !self.patch_id(frame, &known) {
            return self.answer_ok().await;
        }
        let shared = Arc::clone(&self.shared);
        self.forward(frame, &shared.verdicts.anywhere, Answer::Status).await?;
        self.follow_cursor(id, 0);
        Ok(())
    }

    pub(super) async fn close_statement(&mut self, frame: Frame) -> Result<(), End> {
        let Ok(id) = command::read_statement_id(self.payload(frame)) else { return self.complain().await };
        let Some(known) = self.statements.remove(id) else { return Ok(()) };
        let cause = PinCause::Prepared(id);
        if self.session.pins().iter().any(|pin| pin.cause == cause) {
            // Its cursor or its long data go with it, so the server must forget it too.
            let mut close = Vec::new();
            if let Some(lease) = self.hold.as_mut()
                && let Some(on_server) = lease.connection().prepared.forget(&known.text)
            {
                push_close(&mut close, on_server);
            }
            self.send_to_server(&close).await;
            self.session.unpin(&cause);
            self.show_pins(b"");
        }
        Ok(())
    }

    /// Puts the server's statement id in the place of ours. False when the connection in hand does not know it.
    fn patch_id(&mut self, frame: Frame, known: &Prepared) -> bool {
        let Some(lease) = self.hold.as_mut() else { return false };
        let Some(on_server) = lease.connection().prepared.find(&known.text) else { return false };
        let id = on_server.id.to_le_bytes();
        let place = self.client.inbox.bytes_mut()[..frame.length].get_mut(HEADER + 1..HEADER + 5);
        place.map(|place| place.copy_from_slice(&id)).is_some()
    }

    /// Makes sure that the connection knows the statement, and gives the bytes of the EXECUTE for it; empty when those
    /// in the inbox will do. The inner Err is an exchange that went otherwise.
    pub(super) async fn ready_to_execute(
        &mut self,
        id: u32,
        prelude: &mut Prelude,
        body: Body<'_>,
    ) -> Result<Result<Vec<u8>, Relayed>, Broken> {
        let Some(known) = self.statements.find(id).cloned() else {
            let packet = reply::error(&self.unknown_statement(id, "mysqld_stmt_execute"));
            return Ok(Err(Relayed::Kept { code: ER_UNKNOWN_STMT_HANDLER, packet, results: 0 }));
        };
        // Long data comes before anybody knows how the statement will be executed.
        let cursor = matches!(body, Body::Inbox(_)) && has_cursor(self.client.inbox.bytes());
        let Some(lease) = self.hold.as_mut() else { return Ok(Ok(Vec::new())) };
        let cache = &mut lease.connection().prepared;
        let is_of_no_use = |on_server: &mut OnServer| {
            !cursor && on_server.executed == Executed::WithCursor || !on_server.suits(&known.history)
        };
        if cache.find(&known.text).is_some_and(is_of_no_use)
            && let Some(old) = cache.forget(&known.text)
        {
            push_close(&mut prelude.bytes, old);
        }
        if cache.find(&known.text).is_none()
            && let Some(relayed) = self.prepare_on_server(&known.text, prelude).await?
        {
            return Ok(Err(relayed));
        }
        let Some(lease) = self.hold.as_mut() else { return Ok(Ok(Vec::new())) };
        let Some(on_server) = lease.connection().prepared.find(&known.text) else {
            return Ok(Ok(Vec::new()));
        };
        Ok(Ok(execute_bytes(
            &mut self.client.inbox,
            body,
            &known,
            on_server,
            self.identity.capabilities.contains(Capabilities::QUERY_ATTRIBUTES),
        )))
    }

    /// Has the connection in hand prepare a statement of the client's, as its text was read when the client sent it. What is
    /// left to be said before the EXECUTE is in `prelude`. Some: an exchange that went otherwise.
    async fn prepare_on_server(
        &mut self,
        text: &Arc<PreparedText>,
        prelude: &mut Prelude,
    ) -> Result<Option<Relayed>, Broken> {
        let session = Arc::clone(self.session.settings());
        let reading = session.reading_as(&text.reading);
        let reads_otherwise = *reading != *session;
        if reads_otherwise {
            if let Some(refused) = self.say(prelude).await? {
                return Ok(Some(refused));
            }
            let Some(lease) = self.hold.as_mut() else { return Ok(None) };
            prelude.answers = reset::write_difference(lease.connection(), &reading, &mut prelude.bytes);
        }
        let packet = prepare_packet(text);
        let order = Order {
            waits: prelude.waits,
            body: Body::Bytes(&packet),
            answer: Answer::Prepared,
            keep_error: |_| true,
            ..Order::alone(&prelude.bytes, prelude.answers)
        };
        let (mut relayed, answer) = self.exchange(&order).await?;
        let bytes = match &mut relayed {
            Relayed::Answered(_) => self.remember_prepared(text, answer.id),
            Relayed::Kept { packet, .. } => {
                // It answered a PREPARE of ours; the client's command may have more frames.
                packet[3] = self.client.frames;
                Vec::new()
            }
            _ => return Ok(Some(relayed)),
        };
        self.applied();
        *prelude = Prelude { bytes, ..Prelude::default() };
        if reads_otherwise && let Some(lease) = self.hold.as_mut() {
            let connection = lease.connection();
            connection.applied = reading;
            if matches!(relayed, Relayed::Kept { .. }) {
                // The client may ask for the diagnostics.
                self.reads_otherwise = true;
                return Ok(Some(relayed));
            }
            prelude.answers = reset::write_difference(connection, &session, &mut prelude.bytes);
            if let Some(refused) = self.say(prelude).await? {
                return Ok(Some(refused));
            }
        }
        Ok(matches!(relayed, Relayed::Kept { .. }).then_some(relayed))
    }

    /// Sends what makes the connection in hand look like the session. Some: the server said no.
    async fn say(&mut self, prelude: &mut Prelude) -> Result<Option<Relayed>, Broken> {
        let said = std::mem::take(prelude);
        let alone = Order { waits: said.waits, ..Order::alone(&said.bytes, said.answers) };
        if !said.bytes.is_empty()
            && let (refused @ (Relayed::PreludeRefused(_) | Relayed::NotFresh), _) =
                self.exchange(&alone).await?
        {
            return Ok(Some(refused));
        }
        self.applied();
        Ok(None)
    }

    /// The connection has prepared this. Returns the commands that close what had to go for it.
    fn remember_prepared(&mut self, text: &Arc<PreparedText>, id: u32) -> Vec<u8> {
        let mut closes = Vec::new();
        let capacity = self.shared.pools.prepared_per_connection();
        let kept = self.pinned_statements();
        if let Some(lease) = self.hold.as_mut() {
            let cache = &mut lease.connection().prepared;
            for old in
                cache.forget(text).into_iter().chain(cache.insert(Arc::clone(text), id, capacity, &kept))
            {
                push_close(&mut closes, old);
            }
        }
        closes
    }

    /// Those with an open cursor or long data on the connection in hand.
    fn pinned_statements(&self) -> Vec<Arc<PreparedText>> {
        let pinned = self.session.pins().iter().filter_map(|pin| match pin.cause {
            PinCause::Prepared(id) => self.statements.find(id),
            _ => None,
        });
        pinned.map(|known| Arc::clone(&known.text)).collect()
    }

    /// The server has no room for prepared statements: closes those that this connection keeps for reuse. False when
    /// there were none.
    pub(super) async fn close_prepared(&mut self) -> bool {
        let mut closes = Vec::new();
        let kept = self.pinned_statements();
        if let Some(lease) = self.hold.as_mut() {
            for id in lease.connection().prepared.take_all(&kept) {
                push_close(&mut closes, id);
            }
        }
        self.send_to_server(&closes).await;
        !closes.is_empty() && self.hold.is_some()
    }
}

/// A KILL in a prepared statement has no id yet; the primary judges it. No server knows EXPLAIN ROUTE, and it says so.
fn prepared_verdict(statement: &Statement) -> Statement {
    match statement.kind {
        Kind::Kill { .. } | Kind::AskRoute => Statement { kind: Kind::Write, ..statement.clone() },
        _ => statement.clone(),
    }
}

/// An open cursor and long data bind the session to the connection that has them, and what else the session does meanwhile
/// may write: not on a replica.
fn at_home(statement: &Statement) -> Statement {
    match statement.kind {
        Kind::Read | Kind::Anywhere => {
            Statement { kind: Kind::Write, reason: Reason::Cursor, ..statement.clone() }
        }
        _ => prepared_verdict(statement),
    }
}
