//! The connections a session has in hand: taken for a decision, kept for a moment, given back; and what of the session
//! lives on them (LAST_INSERT_ID).

use std::sync::Arc;

use crate::backend::pool::Lease;
use crate::model::server::ServerId;
use crate::model::settings::TrackersView;
use crate::routing::session::{Answered, Session};
use crate::routing::{Decision, InHand, Target};
use crate::sql::{Kind, Statement};

use super::forward::Body;
use super::insert_id::InsertId;
use super::session::{ClientSession, FoundRows};
use super::work::Tried;

impl ClientSession {
    /// Takes the connection that was decided on into `hold`. True: it has run the session's last statement.
    pub(super) async fn obtain(&mut self, decision: &Decision, body: Body<'_>) -> Result<bool, Tried> {
        let snapshot = Arc::clone(&self.snapshot);
        let leased = match decision.target {
            Target::Held => return Ok(true),
            Target::Primary => {
                let Some(writer) = snapshot.writer() else {
                    return Err(Tried::NoPrimary(None));
                };
                self.save_beside_parked().await;
                if let Some(is_last) = self.takes_from_hand(&writer.server().id) {
                    return Ok(is_last);
                }
                self.let_go().await;
                self.shared.pools.lease_writer(&writer, &self.identity, self.session.settings()).await
            }
            Target::Replica(at) => {
                let server = &snapshot.servers[at];
                self.save_beside_parked().await;
                if let Some(is_last) = self.takes_from_hand(&server.id) {
                    return Ok(is_last);
                }
                self.let_go().await;
                self.shared.pools.lease(server, &self.identity, self.session.settings()).await
            }
        };
        match leased {
            Ok(lease) => {
                self.hold = Some(lease);
                Ok(false)
            }
            Err(error) => Err(self.without_connection(&error, decision, body)),
        }
    }

    /// Takes the parked connection or the one in hand, when it is to this server and can serve the session, and tells
    /// whether it has run the session's last statement.
    fn takes_from_hand(&mut self, server: &ServerId) -> Option<bool> {
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
            return Some(false);
        }
        suits(&mut self.hold, &self.session).then_some(true)
    }

    /// Gives back what is in hand, or parks it when it has a LAST_INSERT_ID that nobody else knows.
    pub(super) async fn let_go(&mut self) {
        self.save_found_rows().await;
        let Some(mut lease) = self.hold.take() else { return };
        // Only when it cannot be asked any more: its server is no longer the primary.
        lease.connection().doubtful |= std::mem::take(&mut self.untold);
        self.keeps_diagnostics = false;
        if self.insert_id.is_on_connection() && self.parked.is_none() {
            // One that has something for a next transaction must not come back: that may be over elsewhere by then.
            let goes = lease.is_spoiled() || lease.pool().is_pressed();
            self.parked = Some(lease);
            if goes {
                Box::pin(self.save_insert_id()).await;
                if let Some(lease) = self.parked.take() {
                    lease.release(self.last_activity);
                }
            }
        } else {
            lease.release(self.last_activity);
        }
    }

    /// True when others wait for a connection like one that is in hand or parked.
    pub(super) fn is_pressed(&self) -> bool {
        let is_pressed =
            |lease: &Option<Lease>| lease.as_ref().is_some_and(|lease| lease.pool().is_pressed());
        is_pressed(&self.hold) || is_pressed(&self.parked)
    }

    /// Gives back what is parked, and what is in hand unless the session is bound to it.
    pub(super) async fn give_way(&mut self) {
        if self.untold {
            // A connection that does not answer is dropped.
            let _ = self.hear().await;
        }
        self.save_insert_id().await;
        if !self.session.is_bound() {
            self.let_go().await;
        }
        if let Some(parked) = self.parked.take() {
            parked.release(self.last_activity);
        }
    }

    /// The parked connection may take the place of the one in hand.
    async fn save_beside_parked(&mut self) {
        if self.parked.is_some() {
            self.save_found_rows().await;
        }
    }

    /// Learns FOUND_ROWS() from the connection in hand, so that the connection can go.
    async fn save_found_rows(&mut self) {
        if self.found_rows == FoundRows::OnConnection {
            let found = Box::pin(self.ask_found_rows()).await;
            self.found_rows = found.map_or(FoundRows::Incidental, FoundRows::Known);
        }
    }

    async fn ask_found_rows(&mut self) -> Option<u64> {
        let deadline = self.shared.server_deadline;
        let lease = self.hold.as_mut()?;
        let packets =
            crate::backend::query(lease.connection(), "SELECT FOUND_ROWS() LIMIT 1", deadline).await;
        let found = packets.ok().as_deref().and_then(number_of_row);
        if found.is_none() {
            self.hold = None;
        }
        found
    }

    /// Learns LAST_INSERT_ID from the connection that has it, so that the connection can go.
    pub(super) async fn save_insert_id(&mut self) {
        if self.insert_id.is_on_connection() {
            // Asking for the one leaves a row found.
            if self.parked.is_none() {
                self.save_found_rows().await;
            }
            let found = self.ask_insert_id().await;
            self.insert_id = found.map_or(InsertId::NONE, |found| self.insert_id.save(found));
        }
    }

    /// Asks the connection that has LAST_INSERT_ID. A connection that does not answer as it should is dropped.
    pub(super) async fn ask_insert_id(&mut self) -> Option<u64> {
        let deadline = self.shared.server_deadline;
        let lease = self.parked.as_mut().or(self.hold.as_mut())?;
        let saved =
            crate::backend::query(lease.connection(), "SELECT LAST_INSERT_ID() LIMIT 1", deadline).await;
        let number = saved.ok().as_deref().and_then(number_of_row);
        if number.is_none() {
            tracing::warn!("LAST_INSERT_ID() could not be read from a connection that is given back");
            if self.parked.take().is_none() {
                self.hold = None;
            }
        }
        number
    }

    /// Makes sure that the connection in hand can be asked for LAST_INSERT_ID. Returns the number that must be set first.
    pub(super) async fn bring_insert_id(&mut self) -> Option<u64> {
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
    pub(super) async fn take_insert_id(&mut self, answered: &Answered) {
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

    pub(super) fn in_hand(&self) -> InHand {
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

    /// True when a command of ours has run on the connection in hand since the session's last one.
    pub(super) fn is_asked(&mut self) -> bool {
        self.hold.as_mut().is_some_and(|lease| lease.connection().asked)
    }

    /// The connection in hand now looks like the session.
    pub(super) fn applied(&mut self) {
        if self.reads_otherwise {
            return;
        }
        if let Some(lease) = self.hold.as_mut() {
            lease.connection().applied = Arc::clone(self.session.settings());
        }
    }

    /// The same behind a statement of the client's, which may have wanted the connection to look otherwise.
    pub(super) fn applied_to(&mut self, statement: &Statement) {
        if self.reads_otherwise {
            return;
        }
        let view = self.trackers_view();
        let Some(lease) = self.hold.as_mut() else { return };
        let settings = self.session.settings();
        let applied = &mut lease.connection().applied;
        // Nothing comes between a statement and one that asks about it, whatever the connection looks like.
        let view = match statement.needs.trackers {
            true => view,
            false if statement.kind == Kind::Previous => applied.trackers_view,
            false => TrackersView::Merged,
        };
        *applied = if view == TrackersView::Merged { Arc::clone(settings) } else { settings.viewed(view) };
    }

    pub(super) fn trackers_view(&self) -> TrackersView {
        if self.session.in_transaction() { TrackersView::AsSetInTransaction } else { TrackersView::AsSet }
    }

    pub(super) fn probe_held(&self) {
        if let Some(lease) = &self.hold {
            self.shared.probe_now(&lease.server().id);
        }
    }
}

/// The one number of an answer to a question of ours.
fn number_of_row(packets: &[Vec<u8>]) -> Option<u64> {
    let row = packets.get(packets.len().checked_sub(2)?)?;
    std::str::from_utf8(row.get(1..)?).ok()?.parse().ok()
}
