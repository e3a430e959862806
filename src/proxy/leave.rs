//! A session that a replica serves beyond one statement: read-only transactions begin there, and it leaves them when a
//! statement needs the primary. Nothing but such a transaction may bind a session to a replica.

use crate::backend::reset;
use crate::routing::session::{Answered, PinCause};
use crate::routing::{Decision, Freshness, Target};
use crate::sql::{Access, Cause, Effect, Ends, Kind, Reason, Statement};
use crate::wire::packet::{ErrPacket, push_packet};
use crate::wire::response::read_ok;
use crate::wire::tracker::Answer;

use super::forward::Body;
use super::relay::Deliver;
use super::reply;
use super::session::{ClientSession, End};
use super::work::{REFUSED_BY_REPLICA, Ran, TRIES, Tried, Work};

/// What a statement means to a read-only transaction that a replica has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It belongs to the transaction.
    Part,
    /// It reads, or runs what may read.
    Reads,
    /// The server commits the transaction before it does anything else.
    Ends,
    /// It is for the primary if that can still be; it does nothing wrong where the transaction is.
    Better,
    /// It would lock, write or end something on the wrong server.
    Wrong,
}

impl ClientSession {
    /// Makes sure that a session that is bound to a replica is not when its next statement is for the primary. Some: it must
    /// not run, and the client is to be told so.
    pub(super) async fn leave_replica(
        &mut self,
        statement: &Statement,
        answer: Answer,
    ) -> Result<Option<ErrPacket>, End> {
        // A session that was idle has none.
        self.refresh();
        if self.hold.as_ref().is_none_or(|lease| self.snapshot.is_primary(&lease.server().id)) {
            return Ok(None);
        }
        if self.session.in_transaction() && !self.session.is_read_only() {
            // It was begun at the primary, which is being relieved: it ends there as it can.
            return Ok(None);
        }
        if self.session.in_transaction() && matches!(answer, Answer::Results | Answer::Status) {
            let meaning = meaning(statement);
            if !self.begun.has_read && matches!(meaning, Meaning::Better | Meaning::Wrong) {
                self.bring_user_variables_home().await;
            }
            let moves = !self.begun.has_read && self.session.pins().is_empty();
            match meaning {
                Meaning::Part => {}
                Meaning::Ends => {
                    self.end_on_replica().await;
                    if let Kind::Begin(said) = statement.kind {
                        // What the transaction was, the next one is as far as it does not say otherwise.
                        let access = (said == Access::Unspecified).then_some(Access::ReadOnly);
                        self.session.set_next_transaction(access, self.begun.isolation);
                        self.begun.has_read = !statement.effects.is_empty();
                    }
                }
                Meaning::Better | Meaning::Wrong if moves => self.move_to_primary().await?,
                Meaning::Wrong => return Ok(Some(reply::not_on_a_replica())),
                Meaning::Reads | Meaning::Better => self.begun.has_read = true,
            }
        }
        if !self.session.in_transaction() && statement.kind != Kind::Previous {
            self.bring_user_variables_home().await;
            if !self.session.pins().is_empty() && !self.may_stay(statement) {
                // What a view has set in the transaction nobody can bring along, and here each write would be refused.
                if let Some(lease) = &self.hold {
                    let told = reply::left_on_a_replica(&lease.server().id);
                    self.refuse(&told).await?;
                }
                return Err(End::ServerLost);
            }
        }
        Ok(None)
    }

    /// True when a statement outside transactions may run on a replica that the session is bound to.
    fn may_stay(&self, statement: &Statement) -> bool {
        match statement.kind {
            Kind::Read => self.session.autocommit(),
            Kind::Begin(said) => self.session.access(said) == Access::ReadOnly,
            Kind::Anywhere | Kind::Previous | Kind::AskRoute | Kind::Kill { .. } => true,
            Kind::Write => false,
        }
    }

    async fn end_on_replica(&mut self) {
        let Some(lease) = self.hold.as_mut() else { return };
        let deadline = self.shared.server_deadline;
        let commit = "COMMIT AND NO CHAIN NO RELEASE";
        match crate::backend::query(lease.connection(), commit, deadline).await {
            Ok(packets) => {
                let status = packets.first().and_then(|ok| read_ok(ok).ok()).map(|ok| ok.status);
                self.session.apply_status(&Answered { status, ..Answered::default() });
            }
            Err(error) => tracing::debug!(%error, "a read-only transaction could not be ended"),
        }
    }

    /// Begins the transaction, which has read nothing yet, once more on the primary.
    async fn move_to_primary(&mut self) -> Result<(), End> {
        let server = self.hold.as_ref().map(|lease| lease.server().id.clone());
        self.end_on_replica().await;
        self.session.set_next_transaction(None, self.begun.isolation);
        let mut begin = reset::query_head(self.identity.capabilities);
        begin.extend_from_slice(b"START TRANSACTION READ ONLY");
        let mut bytes = Vec::new();
        push_packet(&mut bytes, 0, &begin);
        let work = Work {
            body: Body::Bytes(&bytes),
            answer: Answer::Results,
            deliver: Deliver::Discard,
            execute: None,
            sql: None,
        };
        let shared = std::sync::Arc::clone(&self.shared);
        let opened = self.run_unheard(&shared.verdicts.opens_read_only, work, "leaves-replica").await;
        if opened == Some(None) && self.session.in_transaction() {
            return Ok(());
        }
        if let Some(server) = &server {
            self.refuse(&reply::lost(server, true)).await?;
        }
        Err(End::ServerLost)
    }

    /// A read on a replica called something that left state on that connection. It is run once more on the primary,
    /// where the session stays from now on; nobody sees that answer. `error` is what the first one ended with: a text may
    /// fail behind a statement that has left something.
    pub(super) async fn bring_state_home(
        &mut self,
        statement: &Statement,
        work: Work<'_>,
        error: Option<u16>,
    ) -> Result<(), End> {
        self.hold = None;
        self.session.unpin(&PinCause::ServerState);
        let work = Work { deliver: Deliver::Discard, ..work };
        // Else what the client believes to have set is nowhere.
        match self.run_unheard(statement, work, REFUSED_BY_REPLICA).await {
            Some(ended) if ended == error => Ok(()),
            _ => Err(End::ServerLost),
        }
    }

    /// Runs a statement on the primary of which the client hears nothing; the error that the server ended it with. None:
    /// nobody knows whether it has run.
    async fn run_unheard(
        &mut self,
        statement: &Statement,
        work: Work<'_>,
        why: &'static str,
    ) -> Option<Option<u16>> {
        let decision = Decision { target: Target::Primary, why, freshness: Freshness::Any };
        self.unheard = true;
        let tried = self.try_command(statement, work, decision, TRIES).await;
        self.unheard = false;
        match tried {
            Ok(Tried::Done(Ran { answered: Some(answered), .. })) => Some(answered.error),
            _ => None,
        }
    }
}

fn meaning(statement: &Statement) -> Meaning {
    match statement.kind {
        Kind::Begin(_) => return Meaning::Ends,
        Kind::Read => return Meaning::Reads,
        Kind::Anywhere | Kind::Previous | Kind::AskRoute => return Meaning::Part,
        Kind::Kill { .. } => return Meaning::Wrong,
        Kind::Write if statement.ends == Ends::First => return Meaning::Ends,
        // The statements behind that one would be out of place.
        Kind::Write if statement.ends == Ends::Later => return Meaning::Wrong,
        Kind::Write => {}
    }
    let locks = |effect: &Effect| matches!(effect, Effect::Pin(Cause::NamedLock(_)));
    match statement.reason {
        // Perhaps in a routine.
        _ if statement.effects.iter().any(locks) => Meaning::Wrong,
        // Refused, or done for the session, by whichever server has the transaction.
        Reason::TemporaryTable | Reason::Xa => Meaning::Part,
        Reason::TransactionPart | Reason::OpensTransaction | Reason::TextExecute => Meaning::Part,
        // User variables are brought home, and cursors end with their transaction.
        Reason::UserVariable | Reason::Cursor => Meaning::Reads,
        Reason::LockFunction
        | Reason::LockingRead
        | Reason::TableLock
        | Reason::ServerSetting
        | Reason::Administration
        | Reason::WritesFile
        | Reason::ReadsServerFile => Meaning::Wrong,
        _ => Meaning::Better,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Classifier, Dialect};

    #[test]
    fn meanings() {
        for (sql, expected) in [
            ("SELECT a FROM t", Meaning::Reads),
            ("SELECT 1", Meaning::Part),
            ("SAVEPOINT s", Meaning::Part),
            ("UPDATE t SET a = 1", Meaning::Better),
            ("COMMIT", Meaning::Part),
            ("COMMIT AND CHAIN", Meaning::Part),
            ("BEGIN", Meaning::Ends),
            ("ANALYZE TABLE t", Meaning::Ends),
            ("FLUSH STATUS", Meaning::Ends),
            ("LOAD INDEX INTO CACHE t", Meaning::Ends),
            ("RESET PERSIST", Meaning::Wrong),
            ("LOCK TABLES t READ", Meaning::Ends),
            ("LOCK INSTANCE FOR BACKUP", Meaning::Wrong),
            ("FLUSH TABLES WITH READ LOCK", Meaning::Ends),
            ("DROP TABLE t", Meaning::Ends),
            ("ROLLBACK; INSERT INTO t VALUES (1)", Meaning::Ends),
            ("SELECT 1; DROP TABLE t", Meaning::Wrong),
            ("SELECT GET_LOCK('a', 1)", Meaning::Wrong),
            ("SELECT a FROM t FOR SHARE", Meaning::Wrong),
            ("SET GLOBAL sort_buffer_size = 1", Meaning::Wrong),
            ("PURGE BINARY LOGS TO 'x'", Meaning::Wrong),
            ("CALL p()", Meaning::Better),
            ("SELECT f()", Meaning::Better),
            ("PREPARE s FROM 'SELECT 1'", Meaning::Better),
        ] {
            let statement = Classifier::new(16).classify(sql.as_bytes(), Dialect::for_tests());
            assert_eq!(meaning(&statement), expected, "{sql}");
        }
    }
}
