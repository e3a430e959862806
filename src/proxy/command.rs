//! What each command of the protocol means here: which go to a server, which the proxy answers, which end something.

use std::sync::Arc;

use crate::backend::connection::{Executed, Identity, OnServer, PreparedText};
use crate::model::settings::Settings;
use crate::routing::session::PinCause;
use crate::sql::{Access, Charset, Counts, Dialect, Effect, Ends, Hint, Kind, Needs, Reason, Statement};
use crate::telemetry::clients::{FIRST_ID, Signals};
use crate::wire::buffer::Buffer;
use crate::wire::command::{self, Command};
use crate::wire::flags::Capabilities;

use crate::wire::tracker::Answer;

use super::forward::{self, Body};
use super::prepared::{Prepared, execute_with_types, push_close};
use super::relay::Deliver;
use super::run::{Ran, Work};
use super::session::{ClientSession, End, FoundRows, Frame};
use super::{login, reply};

/// What a chain of frames at the front of an inbox is.
pub(super) enum Frames {
    /// All of it is there: so many bytes, headers included.
    Whole(usize),
    /// At least so many bytes are needed to know more.
    Need(usize),
    TooLarge,
}

/// Verdicts on commands that have no SQL text.
#[derive(Debug)]
pub(super) struct Verdicts {
    anywhere: Statement,
    read: Statement,
    administration: Statement,
    /// START TRANSACTION READ ONLY, in a text of our own.
    pub(super) opens_read_only: Statement,
}

const HEADER: usize = 4;
const FULL_FRAME: usize = 0xFF_FFFF;
/// More open prepared statements than a server allows by default make no sense for one client.
const MAX_STATEMENTS: usize = 16_382;

impl Default for Verdicts {
    fn default() -> Self {
        let verdict = |kind, reason| Statement {
            kind,
            reason,
            effects: Vec::new(),
            needs: Needs::default(),
            hint: None,
            asks: None,
            counts: Counts::Nothing,
            several: false,
            calls: Vec::new(),
            ends: Ends::Nothing,
        };
        Self {
            anywhere: verdict(Kind::Anywhere, Reason::SessionState),
            read: verdict(Kind::Read, Reason::Catalog),
            administration: verdict(Kind::Write, Reason::Administration),
            opens_read_only: verdict(Kind::Begin(Access::ReadOnly), Reason::OpensReadOnly),
        }
    }
}

impl ClientSession {
    /// Serves the command at the front of the inbox and takes it off.
    pub(super) async fn serve(&mut self, frame: Frame) -> Result<(), End> {
        self.client.registration.busy(true);
        self.streamed = frame.streamed.then_some(frame.length);
        // (The number wraps by protocol.)
        self.client.frames = (frame.length / (HEADER + FULL_FRAME) + 1) as u8;
        let served = self.serve_command(frame).await;
        self.client.registration.busy(false);
        self.client.frames = 1;
        self.done_with(frame.length);
        served
    }

    async fn serve_command(&mut self, frame: Frame) -> Result<(), End> {
        let shared = Arc::clone(&self.shared);
        let command = Command::from_byte(self.client.inbox.bytes()[HEADER]);
        // Statements see to it themselves.
        if self.untold && !matches!(command, Command::Query | Command::StmtExecute | Command::Quit) {
            Box::pin(self.hear()).await?;
        }
        match command {
            Command::Query => self.query(frame).await,
            Command::StmtExecute => self.execute(frame).await,
            Command::StmtPrepare => Box::pin(self.prepare(frame)).await,
            Command::StmtClose => Box::pin(self.close_statement(frame)).await,
            Command::StmtSendLongData => Box::pin(self.send_long_data(frame)).await,
            Command::StmtFetch => Box::pin(self.fetch(frame)).await,
            Command::StmtReset => Box::pin(self.reset_statement(frame)).await,
            Command::Quit => Err(End::Quit),
            Command::Ping => self.answer_ok().await,
            Command::InitDb => Box::pin(self.init_db(frame, &shared.verdicts.anywhere)).await,
            Command::SetOption => Box::pin(self.set_option(frame, &shared.verdicts.anywhere)).await,
            Command::FieldList => self.forward(frame, &shared.verdicts.read, Answer::Columns).await,
            Command::Statistics => self.forward(frame, &shared.verdicts.administration, Answer::Text).await,
            Command::ProcessKill => {
                let id = command::read_statement_id(self.payload(frame)).map(u64::from);
                match id {
                    Ok(id) => Box::pin(self.kill(frame, id, true)).await,
                    Err(error) => self.refuse(&reply::malformed(&error)).await,
                }
            }
            Command::ResetConnection => {
                let (settings, mut dialect) = self.login.clone();
                dialect.charset = Charset::named(&self.shared.pools.default_charset());
                let mut settings = (*settings).clone();
                // The schema stays, the rest is as the server has it.
                settings.schema.clone_from(&self.session.settings().schema);
                settings.after_reset = true;
                // It is a matter of the connection, and no reset is one of it.
                settings.multi_statements = self.session.settings().multi_statements;
                dialect.multi_statements = self.session.dialect().multi_statements;
                Box::pin(self.start_over(settings, dialect)).await;
                self.answer_ok().await
            }
            Command::ChangeUser => Box::pin(self.change_user(frame)).await,
            command @ Command::Administration(_) => {
                self.forward(frame, &shared.verdicts.administration, command.answer()).await
            }
            Command::Replication(_) => {
                self.refuse(&reply::no_replication()).await?;
                Err(End::Quit)
            }
            Command::Unknown(_) => self.refuse(&reply::unknown_command()).await,
        }
    }

    fn payload(&self, frame: Frame) -> &[u8] {
        &self.client.inbox.bytes()[HEADER..frame.length]
    }

    async fn answer_ok(&mut self) -> Result<(), End> {
        self.row_count = 0;
        let mut ok = reply::ok(&self.session);
        self.number(&mut ok).await?;
        self.send(&ok).await
    }

    /// Sends a command as it is to where its verdict says.
    async fn forward(&mut self, frame: Frame, verdict: &Statement, answer: Answer) -> Result<(), End> {
        self.run_command(verdict, Work::of(frame, answer)).await.map(|_| ())
    }

    async fn query(&mut self, frame: Frame) -> Result<(), End> {
        let attributes = self.identity.capabilities.contains(Capabilities::QUERY_ATTRIBUTES);
        let payload = self.payload(frame);
        let query = match command::read_query(payload, attributes) {
            Ok(query) => query,
            Err(error) => return self.refuse(&reply::malformed(&error)).await,
        };
        let dialect = self.session.dialect();
        // Frame headers in the middle of a text would be read as a part of it.
        let mut statement = if frame.streamed || frame.length > FULL_FRAME {
            self.shared.classifier.classify_head(query.sql, dialect)
        } else {
            self.shared.classifier.classify(query.sql, dialect)
        };
        let sql = (frame.length - query.sql.len(), frame.length);
        if let Some(hint) = query.hint.and_then(hint_of) {
            Arc::make_mut(&mut statement).hint = Some(hint);
        }
        if self.untold && !self.will_tell(&statement) {
            Box::pin(self.hear()).await?;
        }
        match statement.kind {
            Kind::Kill { id, whole_connection } => {
                return Box::pin(self.kill(frame, id, whole_connection)).await;
            }
            Kind::AskRoute => return Box::pin(self.tell_routes(sql)).await,
            _ if self.keeps_for_later(&statement) => return self.answer_ok().await,
            _ => {}
        }
        let ran =
            self.run_command(&statement, Work { sql: Some(sql), ..Work::of(frame, Answer::Results) }).await?;
        let disconnects = statement.effects.contains(&Effect::Disconnects);
        if disconnects && ran.answered.is_some_and(|answered| answered.error.is_none()) {
            return Err(End::Quit);
        }
        Ok(())
    }

    /// True when this is SET TRANSACTION and nothing else, which no server is told before the transaction.
    fn keeps_for_later(&mut self, statement: &Statement) -> bool {
        match statement.effects[..] {
            [Effect::NextTransaction { access, isolation }]
                if statement.kind == Kind::Anywhere
                    && !statement.several
                    && !self.session.in_transaction() =>
            {
                self.session.set_next_transaction(access, isolation);
                self.answered_here = true;
                true
            }
            _ => false,
        }
    }

    async fn prepare(&mut self, frame: Frame) -> Result<(), End> {
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
            };
            self.statements.insert(id, known);
        }
        Ok(())
    }

    async fn execute(&mut self, frame: Frame) -> Result<(), End> {
        let attributes = self.identity.capabilities.contains(Capabilities::QUERY_ATTRIBUTES);
        let bytes = &self.client.inbox.bytes()[..frame.length];
        let payload = payload_of(bytes);
        let id = match command::read_statement_id(&payload) {
            Ok(id) => id,
            Err(error) => return self.refuse(&reply::malformed(&error)).await,
        };
        let Some(known) = self.statements.find_mut(id) else {
            return self.refuse(&reply::unknown_statement(id, "mysqld_stmt_execute")).await;
        };
        let execute = match command::read_execute(&payload, known.parameters, attributes) {
            Ok(execute) => execute,
            Err(error) => return self.refuse(&reply::malformed(&error)).await,
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
            }
            if let Some(hint) = parameters.hint.clone().and_then(|at| hint_of(&payload[at])) {
                Arc::make_mut(&mut statement).hint = Some(hint);
            }
        }
        if execute.cursor && matches!(statement.kind, Kind::Read | Kind::Anywhere) {
            statement = Arc::new(at_home(&statement));
        }
        let types = Arc::clone(&known.types);
        let text = Arc::clone(&known.text);
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
            if on_server.executed == Executed::Never {
                on_server.executed = if execute.cursor { Executed::WithCursor } else { Executed::Plain };
            }
        }
        if execute.cursor || !self.session.pins().is_empty() {
            self.follow_cursor(id, answered.status.unwrap_or(0));
        }
        Ok(())
    }

    /// Long data comes before the EXECUTE it belongs to and is never answered: the session is bound to the connection
    /// that gets the first piece until it has executed.
    async fn send_long_data(&mut self, frame: Frame) -> Result<(), End> {
        let Ok(id) = command::read_statement_id(self.payload(frame)) else { return Ok(()) };
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

    async fn fetch(&mut self, frame: Frame) -> Result<(), End> {
        let Ok(id) = command::read_statement_id(self.payload(frame)) else {
            return self.refuse(&reply::malformed(&"COM_STMT_FETCH")).await;
        };
        let Some(known) = self.statements.find(id).cloned() else {
            return self.refuse(&reply::unknown_statement(id, "mysqld_stmt_fetch")).await;
        };
        if !self.session.pins().iter().any(|pin| pin.cause == PinCause::Prepared(id)) {
            return self.refuse(&reply::no_cursor(id)).await;
        }
        if !self.patch_id(frame, &known) {
            return self.refuse(&reply::no_cursor(id)).await;
        }
        let shared = Arc::clone(&self.shared);
        let ran = self.run_command(&shared.verdicts.read, Work::of(frame, Answer::Rows)).await?;
        if let Some(answered) = ran.answered {
            self.follow_cursor(id, answered.status.unwrap_or(0));
        }
        Ok(())
    }

    async fn reset_statement(&mut self, frame: Frame) -> Result<(), End> {
        let Ok(id) = command::read_statement_id(self.payload(frame)) else {
            return self.refuse(&reply::malformed(&"COM_STMT_RESET")).await;
        };
        let Some(known) = self.statements.find(id).cloned() else {
            return self.refuse(&reply::unknown_statement(id, "mysqld_stmt_reset")).await;
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

    async fn close_statement(&mut self, frame: Frame) -> Result<(), End> {
        let Ok(id) = command::read_statement_id(self.payload(frame)) else { return Ok(()) };
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

    async fn init_db(&mut self, frame: Frame, verdict: &Statement) -> Result<(), End> {
        let schema = self.payload(frame)[1..].to_vec();
        let ran = self.run_command(verdict, Work::of(frame, Answer::Status)).await?;
        if ran.answered.is_some_and(|answered| answered.error.is_none()) {
            self.row_count = 0;
            self.session.set_schema(&schema);
            self.session.intern(&self.shared.settings);
            self.applied();
        }
        Ok(())
    }

    async fn set_option(&mut self, frame: Frame, verdict: &Statement) -> Result<(), End> {
        let on = self.payload(frame).get(1..3) == Some(&[0, 0]);
        let ran = self.run_command(verdict, Work::of(frame, Answer::Status)).await?;
        if ran.answered.is_some_and(|answered| answered.error.is_none()) {
            // It is answered by an EOF packet.
            self.row_count = -1;
            self.session.set_multi_statements(on);
            self.session.intern(&self.shared.settings);
            self.applied();
        }
        Ok(())
    }

    async fn change_user(&mut self, frame: Frame) -> Result<(), End> {
        let payload = self.payload(frame).to_vec();
        let shared = Arc::clone(&self.shared);
        let check = shared.check();
        let claimed = login::change_user(
            &mut self.client.stream,
            &payload,
            self.identity.capabilities,
            self.identity.collation,
            &shared.login,
            &check,
        );
        let claimed = match tokio::time::timeout(self.shared.limits.login, claimed).await {
            Ok(Ok(claimed)) => claimed,
            Ok(Err(error)) => {
                tracing::info!(%error, "a change of user was refused");
                return Err(End::Quit);
            }
            Err(_) => return Err(End::IdleTooLong),
        };
        let settings = Settings::with_schema(claimed.schema.map(Arc::from));
        self.identity = Arc::new(Identity {
            credentials: claimed.credentials,
            capabilities: self.identity.capabilities,
            collation: claimed.collation,
            attributes: claimed.attributes,
        });
        let dialect = self.shared.dialect(&self.identity);
        self.start_over(settings, dialect).await;
        self.login = (Arc::clone(self.session.settings()), self.session.dialect());
        let schema = self.session.settings().schema.as_deref().map(String::from_utf8_lossy);
        self.client.registration.logged_in(&self.identity.credentials.user, schema.as_deref());
        Ok(())
    }

    /// Everything that the session had set up is gone, here and on every connection.
    async fn start_over(&mut self, settings: Settings, dialect: Dialect) {
        self.insert_id = super::insert_id::InsertId::NONE;
        (self.row_count, self.found_rows) = (0, FoundRows::Known(0));
        if self.session.is_bound() {
            self.hold = None;
        }
        self.let_go().await;
        if let Some(parked) = self.parked.take() {
            parked.release(self.last_activity);
        }
        self.statements = super::prepared::Statements::default();
        self.session.reset(settings, dialect);
        self.session.intern(&self.shared.settings);
        self.learn_patience();
        self.tell_as_asked();
        self.show_pins(b"");
    }

    /// KILL of one of our clients ends what that client runs, wherever it runs; any other id is the primary's own.
    async fn kill(&mut self, frame: Frame, id: u64, whole_connection: bool) -> Result<(), End> {
        let ours = u32::try_from(id).ok().filter(|&id| id >= FIRST_ID);
        let Some(victim) = ours.and_then(|id| self.shared.clients.find(id)) else {
            if ours.is_some() {
                return self.refuse(&reply::no_such_thread(id)).await;
            }
            let shared = Arc::clone(&self.shared);
            let answer = Answer::Status;
            return self.forward(frame, &shared.verdicts.administration, answer).await;
        };
        let own = *victim.user == *self.identity.credentials.user;
        if !own && !self.may_kill_others().await {
            return self.refuse(&reply::not_owner(id)).await;
        }
        if victim.id == self.client.registration.id() {
            // ER_QUERY_INTERRUPTED is what a session that kills its own statement reads.
            let interrupted =
                crate::wire::packet::ErrPacket::new(1317, "70100", "Query execution was interrupted");
            self.refuse(&interrupted).await?;
            return if whole_connection { Err(End::Killed) } else { Ok(()) };
        }
        let signal = if whole_connection { Signals::KILL_CONNECTION } else { Signals::KILL_STATEMENT };
        self.shared.clients.signal(victim.id, signal);
        self.answer_ok().await
    }

    /// Whether the servers would let this user end what others run (CONNECTION_ADMIN). Doubt says no.
    async fn may_kill_others(&mut self) -> bool {
        let snapshot = Arc::clone(&self.snapshot);
        let Some(writer) = snapshot.writer() else { return false };
        let settings = self.session.settings();
        let Ok(mut lease) = self.shared.pools.lease_writer(&writer, &self.identity, settings).await else {
            return false;
        };
        let deadline = self.shared.server_deadline;
        let roles =
            "SELECT IF(CURRENT_ROLE() = 'NONE', '', CONCAT('FOR CURRENT_USER() USING ', CURRENT_ROLE()))";
        let Ok(roles) = crate::backend::query(lease.connection(), roles, deadline).await else {
            return false;
        };
        let using = row_text(&roles).unwrap_or_default();
        let grants =
            crate::backend::query(lease.connection(), &format!("SHOW GRANTS {using}"), deadline).await;
        let Ok(grants) = grants else { return false };
        lease.release(self.last_activity);
        let has = |row: &[u8], words: &str| memchr::memmem::find(row, words.as_bytes()).is_some();
        let everywhere = |row: &&Vec<u8>| has(row, " ON *.* TO ");
        let rights = ["CONNECTION_ADMIN", "SUPER", "ALL PRIVILEGES"];
        grants.iter().filter(everywhere).any(|row| rights.iter().any(|right| has(row, right)))
    }

    /// Puts the server's statement id in the place of ours. False when the connection in hand does not know it.
    fn patch_id(&mut self, frame: Frame, known: &Prepared) -> bool {
        let Some(lease) = self.hold.as_mut() else { return false };
        let Some(on_server) = lease.connection().prepared.find(&known.text) else { return false };
        let id = on_server.id.to_le_bytes();
        let place = self.client.inbox.bytes_mut()[..frame.length].get_mut(HEADER + 1..HEADER + 5);
        place.map(|place| place.copy_from_slice(&id)).is_some()
    }

    /// Sends what no server answers; a connection that does not take it is no longer pooled.
    pub(super) async fn send_to_server(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let limit = self.shared.server_deadline;
        if let Some(lease) = self.hold.as_mut()
            && forward::send(&mut lease.connection().stream, bytes, limit).await.is_err()
        {
            self.hold = None;
            self.session.lose_connection();
        }
    }
}

impl<'a> Work<'a> {
    /// The command at the front of the inbox, its answer for the client.
    fn of(frame: Frame, answer: Answer) -> Self {
        let body =
            if frame.streamed { Body::Streamed { head: frame.length } } else { Body::Inbox(frame.length) };
        Self { body, answer, deliver: Deliver::ToClient, execute: None, sql: None }
    }
}

/// COM_STMT_EXECUTE is taken whole because its head must be rewritten, COM_STMT_PREPARE because its text is kept.
pub(super) fn is_taken_whole(command: u8) -> bool {
    !matches!(Command::from_byte(command), Command::Query | Command::StmtSendLongData)
}

/// Follows the frames of the command at the front of `bytes`, of at most `limit` payload bytes.
pub(super) fn frames(bytes: &[u8], limit: u64) -> Frames {
    let mut at = 0;
    loop {
        let Some(&[l0, l1, l2, _]) = bytes.get(at..at + HEADER) else { return Frames::Need(at + HEADER) };
        let length = usize::from(l0) | usize::from(l1) << 8 | usize::from(l2) << 16;
        at += HEADER + length;
        if at as u64 > limit {
            return Frames::TooLarge;
        }
        if length < FULL_FRAME {
            return if bytes.len() >= at { Frames::Whole(at) } else { Frames::Need(at) };
        }
    }
}

/// The bytes of an EXECUTE for a connection that knows the statement by this id and these types. Empty when those in
/// the inbox will do, in which the id has been put.
pub(super) fn execute_bytes(
    inbox: &mut Buffer,
    body: Body<'_>,
    known: &Prepared,
    on_server: &OnServer,
    attributes: bool,
) -> Vec<u8> {
    let Body::Inbox(length) = body else { return Vec::new() };
    let bytes = &mut inbox.bytes_mut()[..length];
    if let Some(place) = bytes.get_mut(HEADER + 1..HEADER + 5) {
        place.copy_from_slice(&on_server.id.to_le_bytes());
    }
    if known.types.is_empty() || *known.types == *on_server.types {
        return Vec::new();
    }
    let payload = payload_of(bytes);
    match command::read_execute(&payload, known.parameters, attributes) {
        Ok(execute) if execute.parameters.as_ref().is_some_and(|parameters| parameters.types.is_empty()) => {
            execute_with_types(&payload, &execute, &known.types)
        }
        _ => Vec::new(),
    }
}

/// True when the EXECUTE at the front of these bytes opens a cursor.
pub(super) fn has_cursor(bytes: &[u8]) -> bool {
    bytes.get(HEADER + 5).is_some_and(|flags| flags & command::CURSORS != 0)
}

/// The payload of a whole command, whatever frames it came in.
fn payload_of(bytes: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if bytes.len() < HEADER + FULL_FRAME {
        return std::borrow::Cow::Borrowed(&bytes[HEADER..]);
    }
    let mut payload = Vec::with_capacity(bytes.len());
    for frame in bytes.chunks(HEADER + FULL_FRAME) {
        payload.extend_from_slice(&frame[HEADER..]);
    }
    std::borrow::Cow::Owned(payload)
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

/// The text of the one row of an answer to a statement of ours.
fn row_text(packets: &[Vec<u8>]) -> Option<String> {
    let row = packets.get(packets.len().checked_sub(2)?)?;
    let text = crate::wire::packet::Reader::new(row).lenenc_bytes().ok()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn hint_of(value: &[u8]) -> Option<Hint> {
    match value.to_ascii_lowercase().as_slice() {
        b"primary" => Some(Hint::Primary),
        b"replica" => Some(Hint::Replica),
        _ => None,
    }
}
