//! What each command of the protocol means here: which go to a server, which the proxy answers, which end something.

use std::sync::Arc;

use crate::backend::connection::Identity;
use crate::model::settings::Settings;
use crate::sql::{Access, Counts, Dialect, Effect, Ends, Hint, Kind, Needs, Reason, Statement};
use crate::wire::command::{self, Command};
use crate::wire::flags::Capabilities;
use crate::wire::packet::{FULL_FRAME, HEADER};
use crate::wire::tracker::Answer;

use super::forward;
use super::frame::Frame;
use super::session::{ClientSession, End, FoundRows};
use super::work::Work;
use super::{login, reply};

/// Verdicts on commands that have no SQL text.
#[derive(Debug)]
pub(super) struct Verdicts {
    pub(super) anywhere: Statement,
    pub(super) read: Statement,
    pub(super) administration: Statement,
    /// START TRANSACTION READ ONLY, in a text of our own.
    pub(super) opens_read_only: Statement,
}

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
            leaves_nothing: false,
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
                    Ok(id) => Box::pin(self.kill(frame, Some(id), true)).await,
                    Err(_) => self.refuse(&reply::malformed()).await,
                }
            }
            Command::ResetConnection => {
                let mut dialect = self.shared.dialect(&self.identity, &self.beginning.reset_charset);
                let mut settings = self.beginning.reset.clone();
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
            Command::RegisterReplica => self.refuse(&reply::no_replication()).await,
            Command::Dump => {
                self.refuse(&reply::no_replication()).await?;
                Err(End::Quit)
            }
            Command::Unknown(_) => self.refuse(&reply::unknown_command()).await,
        }
    }

    pub(super) fn payload(&self, frame: Frame) -> &[u8] {
        &self.client.inbox.bytes()[HEADER..frame.length]
    }

    pub(super) async fn answer_ok(&mut self) -> Result<(), End> {
        self.row_count = 0;
        let mut ok = reply::ok(&self.session);
        self.number(&mut ok).await?;
        self.send(&ok).await
    }

    /// Sends a command as it is to where its verdict says.
    pub(super) async fn forward(
        &mut self,
        frame: Frame,
        verdict: &Statement,
        answer: Answer,
    ) -> Result<(), End> {
        self.run_command(verdict, Work::of(frame, answer)).await.map(|_| ())
    }

    async fn query(&mut self, frame: Frame) -> Result<(), End> {
        let attributes = self.identity.capabilities.contains(Capabilities::QUERY_ATTRIBUTES);
        let payload = self.payload(frame);
        let query = match command::read_query(payload, attributes) {
            Ok(query) => query,
            Err(_) => return self.refuse(&reply::malformed()).await,
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
    pub(super) fn keeps_for_later(&mut self, statement: &Statement) -> bool {
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
            self.client.nonce,
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
        self.client.nonce = claimed.nonce;
        self.beginning = claimed.beginning;
        let mut settings = self.beginning.reset.in_schema(claimed.schema.map(Arc::from));
        // It is a matter of the connection.
        settings.multi_statements = self.session.settings().multi_statements;
        let multi_statements = self.session.dialect().multi_statements;
        self.identity = Arc::new(Identity {
            credentials: claimed.credentials,
            capabilities: self.identity.capabilities,
            collation: claimed.collation,
            attributes: claimed.attributes,
        });
        let dialect = self.shared.dialect(&self.identity, &self.beginning.login_charset);
        let dialect = Dialect { multi_statements, ..dialect };
        self.start_over(settings, dialect).await;
        let schema = self.session.settings().schema.as_deref().map(String::from_utf8_lossy);
        self.client.registration.logged_in(&self.identity.credentials.user, schema.as_deref());
        Ok(())
    }

    /// Everything that the session had set up is gone, here and on every connection.
    async fn start_over(&mut self, settings: Settings, dialect: Dialect) {
        self.insert_id = super::insert_id::InsertId::NONE;
        self.row_count = 0;
        // MariaDB goes on with what there was.
        if !dialect.mariadb {
            self.found_rows = FoundRows::Known(0);
        }
        if self.session.is_bound() {
            self.hold = None;
        }
        self.let_go().await;
        if let Some(parked) = self.parked.take() {
            parked.release(self.last_activity);
        }
        self.statements.forget_all();
        self.session.reset(settings, dialect);
        self.session.intern(&self.shared.settings);
        self.learn_patience();
        self.tell_as_asked();
        self.show_pins(b"");
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

pub(super) fn hint_of(value: &[u8]) -> Option<Hint> {
    match value.to_ascii_lowercase().as_slice() {
        b"primary" => Some(Hint::Primary),
        b"replica" => Some(Hint::Replica),
        _ => None,
    }
}
