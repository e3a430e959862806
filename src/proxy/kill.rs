//! KILL, by text and by command.

use std::sync::Arc;

use crate::telemetry::clients::{FIRST_ID, Signals};
use crate::wire::packet::Reader;
use crate::wire::tracker::Answer;

use super::frame::Frame;
use super::reply;
use super::session::{ClientSession, End};

impl ClientSession {
    /// KILL of one of our clients (None: of this one) ends what that client runs, wherever it runs; any other id is the
    /// primary's own.
    pub(super) async fn kill(
        &mut self,
        frame: Frame,
        id: Option<u64>,
        whole_connection: bool,
    ) -> Result<(), End> {
        let id = id.unwrap_or_else(|| u64::from(self.client.registration.id()));
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
            // It is what a session that kills itself reads.
            let mariadb = self.session.dialect().mariadb;
            self.refuse(&reply::killed_itself(whole_connection && mariadb)).await?;
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
}

/// The text of the one row of an answer to a statement of ours.
fn row_text(packets: &[Vec<u8>]) -> Option<String> {
    let row = packets.get(packets.len().checked_sub(2)?)?;
    let text = Reader::new(row).lenenc_bytes().ok()?;
    Some(String::from_utf8_lossy(text).into_owned())
}
