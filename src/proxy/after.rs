//! What a command that was answered leaves behind: the session's new state, what is shown of it, what is counted and
//! learned.

use std::sync::Arc;

use tokio::time::Instant;

use crate::backend::UNUSED;
use crate::backend::connection::Guard;
use crate::backend::reset;
use crate::model::settings::{RESULTS_COLLATION, is_access_mode};
use crate::monitor::routines::NamedLocks;
use crate::routing::session::{Answered, PinCause};
use crate::routing::{Decision, Target};
use crate::sql::{Cause, Counts, Effect, Ends, Kind, Question, Reason, Release, Statement, with_counts};
use crate::telemetry::clients::ServerThread;
use crate::telemetry::metrics::{self, Outcome};
use crate::wire::flags::Capabilities;
use crate::wire::packet::{HEADER, Reader, push_packet};
use crate::wire::response::{Change, read_changes, read_ok, status};
use crate::wire::tracker::Answer;

use super::forward::Body;
use super::insert_id::InsertId;
use super::relay::Number;
use super::session::{ClientSession, End, FoundRows};
use super::work::Work;

impl ClientSession {
    /// Takes in what a statement did to the session and to its connection.
    pub(super) async fn after(
        &mut self,
        statement: &Statement,
        answered: &Answered,
        work: Work<'_>,
    ) -> Result<(), End> {
        let before = Arc::clone(self.session.settings());
        if work.answer == Answer::Results {
            let bound = self.session.is_bound();
            let missing = self.session.apply(statement, answered);
            self.keep_from_others(answered);
            if self.is_told(answered) {
                let state = answered.changes.as_ref().is_some_and(|changes| changes.state);
                if self.tells_of_before(answered) && std::mem::take(&mut self.untold) && state {
                    // Not of this statement, or not only.
                    self.session.pin(PinCause::ServerState);
                }
            } else if self.may_be_untold(statement) {
                // GTIDs are told with the answer itself or never.
                let may_commit = statement.may_commit() || self.has_ended(statement);
                self.writes_untold |= may_commit;
                self.untold = true;
                if may_commit || !self.is_plainly_at_primary() {
                    Box::pin(self.hear_at_once()).await?;
                }
            }
            let at_replica =
                self.hold.as_ref().is_some_and(|lease| !self.snapshot.is_primary(&lease.server().id));
            // A switch of schemas is reported as a change of state too, and may be all there is: of those who run the same in
            // their own schema it says nothing.
            let switched = answered.changes.as_ref().is_some_and(|changes| changes.schema.is_some());
            if at_replica && !bound && self.has_hidden_state() && !switched {
                // A view called a function that sets session state: from now on that is for the primary.
                self.learn(work);
            }
            if !missing.is_empty() {
                Box::pin(self.learn_variables(&missing, work)).await;
            }
        } else {
            self.session.apply_status(answered);
        }
        // What asks about the statement before leaves its diagnostics there, or has some of its own. On MariaDB so does what
        // reads no table.
        let mariadb = self.session.dialect().mariadb;
        let leaves = statement.kind == Kind::Previous || mariadb && statement.kind == Kind::Anywhere;
        self.keeps_diagnostics =
            self.keeps_diagnostics && leaves || answered.warnings > 0 || answered.error.is_some();
        if !statement.effects.is_empty() {
            Box::pin(self.after_effects(statement, answered)).await;
        }
        if !Arc::ptr_eq(&before, self.session.settings()) {
            self.session.intern(&self.shared.settings);
            self.learn_patience();
            if before.schema != self.session.settings().schema {
                self.show_schema();
            }
        }
        self.applied_to(statement);
        if answered.last_insert_id != 0 {
            Box::pin(self.take_insert_id(answered)).await;
        } else if statement.needs.last_insert_id && work.answer == Answer::Results {
            // It was brought there before, and may have been changed: LAST_INSERT_ID(5).
            self.insert_id = InsertId::OnConnection;
        }
        if work.answer == Answer::Results {
            self.count_results(statement, answered);
        } else if answered.error.is_some() || work.answer == Answer::Columns {
            self.row_count = -1;
        }
        self.answered_here = false;
        if self.session.is_bound() || !self.shown_causes.is_empty() {
            self.show_pins_of(work);
        }
        Ok(())
    }

    /// What the effects of a statement, which most statements do not have, mean to what is kept here.
    async fn after_effects(&mut self, statement: &Statement, answered: &Answered) {
        let (mut sets, mut locks, mut accounts) = (false, false, false);
        for effect in &statement.effects {
            locks |= matches!(
                effect,
                Effect::Pin(Cause::NamedLock(_))
                    | Effect::Release(Release::NamedLock(_) | Release::TextPrepared(_))
            );
            match effect {
                Effect::SetUserVariable { name, literal } => {
                    sets = true;
                    if literal.eq_ignore_ascii_case(b"NULL") && self.session.is_pinned_by_variable(name) {
                        // NULL, of a type that only the connection knows.
                        self.learn_user_variable(name).await;
                    }
                }
                Effect::SetVariables(_) | Effect::Pin(_) => sets = true,
                Effect::CountsFoundRows => self.keeps_diagnostics = true,
                Effect::AccountsChange => {
                    accounts = answered.error.is_none();
                    self.shared.login.users.forget_all_verifications();
                    // What is pooled was opened with the rights of before.
                    self.shared.pools.retire();
                }
                Effect::RoutinesChange if answered.error.is_none() => self.shared.routines.look().await,
                Effect::Disconnects if answered.error.is_none() => self.hold = None,
                _ => {}
            }
        }
        if locks && self.session.is_pinned_by_lock() && !self.session.has_text_prepared() {
            self.count_locks().await;
        }
        if accounts && Box::pin(self.is_locked_out()).await {
            self.session.pin(PinCause::OwnAccount);
        }
        // Which of several settings a failed text has made nobody knows: the connection must not serve another session, and
        // a session whose first statements were carried out must stay on it.
        if answered.error.is_some()
            && sets
            && let bound = self.session.is_bound()
            && let Some(lease) = self.hold.as_mut()
            && (!bound || self.snapshot.is_primary(&lease.server().id))
        {
            lease.connection().doubtful |= !bound;
            // Also one that stays for now: what it stays for may end first.
            if statement.kind == Kind::Write && statement.several {
                self.session.pin(PinCause::ServerState);
            }
        }
    }

    /// A GET_LOCK that got none, and routines that let go what they took, must not hold the session for ever.
    pub(super) async fn count_locks(&mut self) {
        let Some(lease) = self.hold.as_mut() else { return };
        let (server, connection) = (Arc::clone(lease.server()), lease.connection().thread_id);
        let locks = self.shared.routines.locks(&server.address, connection).await;
        if locks == NamedLocks::Counted(0) {
            self.session.has_no_lock();
        }
        self.locks_uncounted = locks == NamedLocks::AskLater;
    }

    /// A connection that has something for a next transaction must not serve another session, nor one whose guard is gone as
    /// if it were up.
    fn keep_from_others(&mut self, answered: &Answered) {
        let Some(lease) = self.hold.as_mut() else { return };
        let connection = lease.connection();
        let changes = answered.changes.iter().flat_map(|changes| &changes.variables);
        if connection.guard == Guard::Up && changes.into_iter().any(|(name, _)| is_access_mode(name)) {
            // A routine has set it.
            connection.guard = Guard::Lifted;
        }
        let spoiled = &mut connection.spoiled;
        if let Some(next) = answered.next_transaction {
            *spoiled = next.is_said();
        }
        *spoiled &= !self.session.in_transaction();
    }

    /// True when the answer tells what became of the session. One that ended with an error does not, nor do rows in the old form:
    /// only OK packets tell.
    fn is_told(&self, answered: &Answered) -> bool {
        answered.error.is_none()
            && (answered.rows.is_none() || self.identity.capabilities.contains(Capabilities::DEPRECATE_EOF))
    }

    /// MariaDB tells of what came before only when something changes.
    fn tells_of_before(&self, answered: &Answered) -> bool {
        let changes = answered.status.is_some_and(|flags| flags & status::SESSION_STATE_CHANGED != 0);
        changes || !self.session.dialect().mariadb
    }

    /// True when the session may have changed in a statement whose answer does not tell.
    fn may_be_untold(&self, statement: &Statement) -> bool {
        statement.may_hide()
            || self.has_ended(statement)
            || self.hold.as_ref().is_some_and(|lease| lease.is_spoiled())
    }

    /// True when a transaction has been open that this statement, which has failed, may have ended before it did.
    fn has_ended(&self, statement: &Statement) -> bool {
        self.session.in_transaction() && statement.ends != Ends::Nothing
    }

    /// True when what is untold can wait for the next answer of the connection in hand.
    fn is_plainly_at_primary(&self) -> bool {
        self.hold
            .as_ref()
            .is_some_and(|lease| !lease.is_spoiled() && self.snapshot.is_primary(&lease.server().id))
    }

    /// True when this statement runs where the last one has failed, whatever that one has left, and its answer tells of that as
    /// well: nothing of ours comes before it, and it changes nothing of its own.
    pub(super) fn will_tell(&mut self, statement: &Statement) -> bool {
        if self.session.dialect().mariadb {
            // Hearing would wipe away what it asks for.
            return statement.kind == Kind::Previous && self.hold.is_some();
        }
        let stays = self.session.is_bound()
            || matches!(statement.kind, Kind::Write | Kind::Previous)
                && !self.writes_untold
                && !self.is_pressed();
        let is_bare = statement.effects.is_empty()
            && !statement.needs.last_insert_id
            && !statement.needs.trackers
            && !self.session.next_transaction().is_said();
        let (bound, settings) = (self.session.is_bound(), self.session.settings());
        stays
            && is_bare
            && self.parked.is_none()
            && self.hold.as_mut().is_some_and(|lease| {
                let is_here = bound || self.snapshot.is_primary(&lease.server().id);
                let connection = lease.connection();
                is_here
                    && Arc::ptr_eq(&connection.applied, settings)
                    && (bound || connection.stream.is_quiet())
            })
    }

    /// Lets the server tell what no answer has told: a transaction that a procedure has begun before it failed, say.
    pub(super) async fn hear(&mut self) -> Result<(), End> {
        self.untold = false;
        self.ask_to_tell(self.session.dialect().mariadb).await
    }

    /// The same while the diagnostics may still be asked for: a PING leaves them as they are. On MariaDB it brings no more than
    /// the status flags; the rest has to wait for the next statement.
    async fn hear_at_once(&mut self) -> Result<(), End> {
        self.untold = self.session.dialect().mariadb;
        self.ask_to_tell(false).await
    }

    async fn ask_to_tell(&mut self, by_a_change: bool) -> Result<(), End> {
        let Some(lease) = self.hold.as_mut() else { return Ok(()) };
        let mut heard = Answered::default();
        let deadline = self.shared.server_deadline;
        let ok = match by_a_change {
            true => crate::backend::change_nothing(lease.connection(), deadline).await,
            false => crate::backend::ping(lease.connection(), deadline).await,
        };
        let told = match ok {
            Ok(ok) => {
                heard.status = read_ok(&ok).ok().map(|ok| ok.status);
                let take = |change: Change<'_>| match change {
                    Change::Variable { name, .. } if by_a_change && name == UNUSED.as_bytes() => {}
                    change => heard.take_change(change),
                };
                read_changes(&ok, take).is_ok() && heard.status.is_some()
            }
            Err(_) => false,
        };
        if !told {
            // What it had is gone with it.
            self.hold = None;
            if self.parked.is_none() {
                self.insert_id = InsertId::NONE;
            }
            return if self.session.is_bound() { Err(End::ServerLost) } else { Ok(()) };
        }
        self.session.apply_hidden(&heard);
        self.keep_from_others(&heard);
        Ok(())
    }

    /// What the answer means to ROW_COUNT() and FOUND_ROWS() of the next statement.
    fn count_results(&mut self, statement: &Statement, answered: &Answered) {
        if statement.counts != Counts::NotEven || answered.error.is_some() {
            self.row_count = match answered.rows {
                None if answered.error.is_none() => i64::try_from(answered.affected_rows).unwrap_or(i64::MAX),
                _ => -1,
            };
        } else if answered.warnings > 0 {
            // GET DIAGNOSTICS of a condition that is not there fails, and only warns of it.
            self.row_count = -1;
        }
        self.found_rows = match statement.counts {
            // A statement that fails leaves what was there, but those have run others before.
            _ if answered.error.is_some() => match statement.reason {
                Reason::CallsProcedure | Reason::TextExecute => FoundRows::OnConnection,
                _ if answered.status.is_some() => FoundRows::OnConnection,
                _ => self.found_rows,
            },
            // Its rows are still to be fetched.
            Counts::Rows if answered.status.is_some_and(|flags| flags & status::CURSOR_EXISTS != 0) => {
                FoundRows::OnConnection
            }
            // SELECT .. INTO has no rows to show.
            Counts::Rows => FoundRows::Known(answered.rows.unwrap_or(answered.affected_rows)),
            Counts::One => FoundRows::Known(1),
            Counts::Unknown => FoundRows::OnConnection,
            Counts::Incidental => FoundRows::Incidental,
            Counts::Nothing | Counts::NotEven => self.found_rows,
        };
    }

    /// The number with which the proxy answers this statement, whatever the server says.
    pub(super) fn number_for(&self, statement: &Statement, work: Work<'_>) -> Option<Number> {
        let value = match statement.asks? {
            _ if work.answer != Answer::Results => return None,
            Question::ConnectionId => i64::from(self.client.registration.id()),
            Question::RowCount => self.row_count,
            Question::FoundRows => match self.found_rows {
                FoundRows::Known(found) => i64::try_from(found).ok()?,
                FoundRows::OnConnection | FoundRows::Incidental => return None,
            },
        };
        Some(Number { value, binary: work.execute.is_some() })
    }

    /// The command with the numbers in it that a longer expression asks for, for a connection that does not know them. None: it
    /// asks for none.
    pub(super) fn with_counts(&self, statement: &Statement, work: Work<'_>) -> Option<Vec<u8>> {
        /// Nobody writes a longer one for a number.
        const LONGEST: usize = 64 << 10;
        let (start, end) = work.sql.filter(|(start, end)| end - start <= LONGEST)?;
        let asks = statement.needs.previous && statement.asks.is_none() && !statement.several;
        if !asks || work.answer != Answer::Results || !matches!(work.body, Body::Inbox(_)) {
            return None;
        }
        let found_rows = match self.found_rows {
            FoundRows::Known(found) => Some(found),
            FoundRows::OnConnection | FoundRows::Incidental => None,
        };
        let inbox = self.client.inbox.bytes();
        let text = inbox.get(start..end)?;
        let said = with_counts(text, self.session.dialect(), self.row_count, found_rows)?;
        // The command and its attributes stand before the text.
        let mut packet = Vec::new();
        push_packet(&mut packet, 0, &[inbox.get(HEADER..start)?, &said[..]].concat());
        Some(packet)
    }

    /// Asks the server for values that its tracker does not report (SET NAMES tells nothing of collation_connection).
    pub(super) async fn learn_variables(&mut self, names: &[Box<str>], work: Work<'_>) {
        let text = match (work.body, work.sql) {
            (Body::Inbox(_), Some((start, end))) => {
                self.client.inbox.bytes().get(start..end).unwrap_or_default()
            }
            _ => &[],
        };
        // A SET of literals gives the same values every time, and drivers begin every session with one.
        let plain = !text.is_empty() && text.len() < 200 && !text.iter().any(|byte| b"@(".contains(byte));
        // DEFAULT is what the server has by then.
        let plain = plain && !text.windows(7).any(|word| word.eq_ignore_ascii_case(b"default"));
        let plain = plain && self.session.settings().variable(b"default_collation_for_utf8mb4").is_none();
        // Of SET CHARACTER SET also the schema decides.
        let schema = self.session.settings().schema.as_deref().unwrap_or_default();
        let text: Box<[u8]> = [text, b"\0", schema].concat().into();
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
        let defaults = self.shared.pools.default_trackers();
        for (name, value) in names.iter().zip(values.iter()) {
            self.session.learn_variable(name.as_bytes(), value, &defaults);
        }
        self.tell_as_asked();
    }

    pub(super) async fn ask_variables(&mut self, names: &[Box<str>]) -> Option<Vec<Box<[u8]>>> {
        let columns = names.iter().map(|name| match &**name {
            // Any text will do.
            RESULTS_COLLATION => String::from("IFNULL(@@SESSION.character_set_results,'')"),
            // Binary, since texts come in the session's character set, which may be ucs2.
            name => format!("CAST(IFNULL(@@SESSION.{name},'') AS BINARY)"),
        });
        let columns: Vec<String> = columns.collect();
        let deadline = self.shared.server_deadline;
        let connection = self.hold.as_mut()?.connection();
        // A session's sql_select_limit may be 0.
        let sql = format!("SELECT {} LIMIT 1", columns.join(","));
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
        let values = names.iter().enumerate().map(|(at, name)| {
            let value = row.lenenc_bytes().ok()?;
            match &**name {
                RESULTS_COLLATION => Some(reset::collation_of_texts(&packets, at)),
                _ => Some(Box::from(value)),
            }
        });
        values.collect()
    }

    /// State that the statement does not explain.
    pub(super) fn has_hidden_state(&self) -> bool {
        self.session.pins().iter().any(|pin| pin.cause == PinCause::ServerState)
    }

    /// A statement on a replica gave user variables values (GET DIAGNOSTICS, SELECT .. INTO in a read-only transaction).
    /// Asks for them, so that they can be replayed: nothing may be pinned to a replica. Not at once, for the next
    /// statement may still ask for diagnostics, which our question wipes away.
    pub(super) async fn bring_user_variables_home(&mut self) {
        let names = self.session.pins().iter().filter_map(|pin| match &pin.cause {
            PinCause::Statement(Cause::UserVariable(Some(name))) => Some(name.clone()),
            _ => None,
        });
        for name in names.collect::<Vec<_>>() {
            self.learn_user_variable(&name).await;
        }
    }

    /// Asks for a user variable that binds the session, so that it can be replayed.
    async fn learn_user_variable(&mut self, name: &[u8]) {
        let Some(lease) = self.hold.as_mut() else { return };
        let deadline = self.shared.server_deadline;
        let question = reset::user_variable_question(name);
        let literal = match crate::backend::query(lease.connection(), &question, deadline).await {
            Ok(packets) => reset::user_variable_literal(&packets),
            Err(_) => None,
        };
        match literal {
            Some(literal) => {
                // Else the next session of that connection would find it.
                Arc::make_mut(&mut lease.connection().applied).set_user_variable(name, &literal);
                self.session.set_user_variable(name, &literal);
            }
            None => tracing::warn!("a user variable could not be read; its session stays on a server"),
        }
    }

    /// From now on the client is told of those changes of its session that it has asked for.
    pub(super) fn tell_as_asked(&mut self) {
        let asked = &self.session.settings().trackers;
        if let Some(tracks) = self.client.tracks.as_mut()
            && asked.as_ref().is_none_or(|asked| !Arc::ptr_eq(asked, tracks))
        {
            *tracks = asked.clone().unwrap_or_else(|| self.shared.pools.default_trackers());
        }
    }

    pub(super) fn show_schema(&self) {
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
    pub(super) fn show_pins_of(&mut self, work: Work<'_>) {
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

    pub(super) fn causes(&self) -> Vec<&'static str> {
        let mut causes: Vec<&'static str> = self.session.pins().iter().map(|pin| pin.cause.label()).collect();
        if self.session.in_transaction() {
            causes.push("transaction");
        }
        causes
    }

    pub(super) fn show_causes(&mut self, causes: Vec<&'static str>, statement: &[u8]) {
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

    /// A replica refused this shape: it writes after all.
    pub(super) fn learn(&mut self, work: Work<'_>) {
        if let Some((start, end)) = work.sql
            && let Some(text) = self.client.inbox.bytes().get(start..end)
        {
            self.shared.classifier.learn_write(text, self.session.dialect());
        } else if let Some(known) = work.execute.and_then(|id| self.statements.find_mut(id)) {
            self.shared.classifier.learn_write(&known.text.sql, known.dialect);
            known.statement = self.shared.classifier.classify(&known.text.sql, known.dialect);
        }
    }

    pub(super) fn count(&self, decision: Decision, answered: Option<&Answered>) {
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
