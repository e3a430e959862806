//! What becomes of a try that went wrong: mended unseen on another server where that is safe, held for a primary that is
//! away, else told to the client in the server's own words.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::backend::connection::Identity;
use crate::backend::pool::LeaseError;
use crate::routing::session::Answered;
use crate::routing::{Decision, Target};
use crate::sql::{Kind, Statement};
use crate::telemetry::clients::Signals;
use crate::wire::packet::{ErrPacket, push_packet};

use super::errors::{
    ER_BAD_DB, ER_CLIENT_INTERACTION_TIMEOUT, ER_DBACCESS_DENIED, ER_MAX_PREPARED_STMT_COUNT_REACHED,
    ER_NEED_REPREPARE, ER_SERVER_SHUTDOWN, ER_UNKNOWN_STMT_HANDLER, is_interruption, is_read_only_refusal,
    is_sign_of_delay,
};
use super::forward::{self, Body, Broken};
use super::hold::{Held, NotHeld};
use super::insert_id::InsertId;
use super::relay::PreparedAnswer;
use super::session::{ClientSession, End};
use super::work::{REFUSED_BY_REPLICA, Ran, TRIES, Tried, Work};
use super::{Shared, reply};

impl ClientSession {
    /// An error that came before anything of an answer, of a kind that may be ours to mend.
    pub(super) async fn judge_error(
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
        if code == ER_CLIENT_INTERACTION_TIMEOUT {
            // The server's good-bye was on its way before it saw the statement.
            self.hold = None;
            if !bound && !streamed && tries < TRIES {
                self.shared.metrics.retried("server-said-goodbye");
                return Ok(Tried::Again);
            }
            self.session.lose_connection();
            self.show_pins(b"");
            let mut packet = packet.to_vec();
            self.number(&mut packet).await?;
            self.send(&packet).await?;
            return Err(End::ServerLost);
        }
        let guard = self.hold.as_mut().map(|lease| lease.connection().guard).unwrap_or_default();
        let refused = is_read_only_refusal(code, packet, guard);
        if self.session.in_transaction() && !at_primary && refused {
            // Only transactions that said they were read-only are on a replica.
            let refused = reply::error(&reply::read_only_transaction(self.session.dialect().mariadb));
            return self.answer_with(&refused).await;
        }
        if !bound && !streamed {
            if refused {
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
            if is_interruption(code)
                && matches!(decision.target, Target::Replica(_))
                && tries < TRIES
                && (code == ER_SERVER_SHUTDOWN || !self.still_answers().await)
            {
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

    /// A server that stops interrupts what runs with the same error as KILL QUERY does, and then closes the connection.
    async fn still_answers(&mut self) -> bool {
        let deadline = self.shared.server_deadline;
        match self.hold.as_mut() {
            Some(lease) => crate::backend::query(lease.connection(), "DO 0", deadline).await.is_ok(),
            None => false,
        }
    }

    /// Gives the client this ERR packet of the server's as the answer, if it is to hear any.
    pub(super) async fn answer_with(&mut self, packet: &[u8]) -> Result<Tried, End> {
        if !self.unheard {
            self.send(packet).await?;
        }
        self.row_count = -1;
        self.keeps_diagnostics = true;
        let error = crate::wire::response::read_error_code(packet.get(4..).unwrap_or_default()).unwrap_or(0);
        let answered = Answered { error: Some(error), ..Answered::default() };
        Ok(Tried::Done(Ran { answered: Some(answered), prepared: PreparedAnswer::default() }))
    }

    /// A command of ours failed (the schema is gone, say): the client is told what the server said.
    pub(super) async fn prelude_refused(&mut self, packet: &[u8], decision: Decision) -> Result<Tried, End> {
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
    pub(super) fn leaves_schema(&mut self, error: Option<&ErrPacket>) -> bool {
        let gone = error.is_some_and(|error| matches!(error.code, ER_DBACCESS_DENIED | ER_BAD_DB));
        let left = gone && self.session.leave_schema();
        if left {
            self.session.intern(&self.shared.settings);
            self.show_schema();
        }
        left
    }

    /// What the session has changed of accounts was its own: no other connection lets it in.
    pub(super) async fn is_locked_out(&self) -> bool {
        self.hold.is_some() && self.shared.refuses(&self.identity).await
    }

    /// Another session of this user has logged in with another password since: as on a server, this one lives on.
    fn takes_new_password(&mut self) -> bool {
        let mine = &self.identity;
        let users = &self.shared.login.users;
        let known = users.find(&mine.credentials.user).filter(|known| !known.is_same(&mine.credentials));
        let Some(known) = known else { return false };
        self.identity = Arc::new(Identity {
            credentials: Arc::clone(&known.credentials),
            capabilities: mine.capabilities,
            collation: mine.collation,
            attributes: mine.attributes.clone(),
        });
        true
    }

    pub(super) fn without_connection(
        &mut self,
        error: &LeaseError,
        decision: &Decision,
        body: Body<'_>,
    ) -> Tried {
        let mut unreachable = matches!(error, LeaseError::StaleWriter(_));
        if let LeaseError::Connect(server, connect) = error {
            tracing::debug!(%server, error = %connect, "no connection");
            // A replica may not know yet what was granted a moment ago.
            if connect.is_access_denied() && decision.target == Target::Primary {
                self.shared.login.users.forget(&self.identity.credentials);
                if self.takes_new_password() {
                    return Tried::Again;
                }
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

    /// Holds the statement until there is a primary again, or for a read somebody who serves reads. The inner Err: it will
    /// not be held any longer.
    pub(super) async fn await_primary<'a>(
        &mut self,
        shared: &'a Shared,
        held: &mut Option<Held<'a>>,
        body: Body<'_>,
        is_read: bool,
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
            let mut primary = pin!(place.primary(&mut self.topology, is_read));
            poll_fn(|context| {
                if let Poll::Ready(result) = primary.as_mut().poll(context) {
                    return Poll::Ready(Ok(result));
                }
                if let Poll::Ready(error) = forward::poll_client_gone(client, context) {
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
    pub(super) async fn broke(
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
                let for_the_server = self.client.max_packet < self.shared.limits.max_packet;
                return self.refuse(&reply::too_large(for_the_server)).await.and(Err(End::Malformed));
            }
            Broken::Refused(words) => {
                self.hold = None;
                let mut packet = Vec::new();
                push_packet(&mut packet, 0, &words);
                self.number(&mut packet).await?;
                return self.send(&packet).await.and(Err(End::Quit));
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
}
