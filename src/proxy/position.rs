//! What the primary has committed, for sessions that must not see less.

use std::sync::Arc;

use crate::model::gtid::GtidSet;

use super::session::ClientSession;
use super::work::Tried;

impl ClientSession {
    /// Of a statement that failed, and may have committed before, no server tells what: the session has seen all that the
    /// primary has committed by now.
    pub(super) async fn learn_writes(&mut self) {
        if let Ok(position) = self.primary_position().await {
            self.writes_untold = self.session.has_seen(position.as_bytes()).is_err();
        }
    }

    /// What the primary has committed by now.
    pub(super) async fn primary_position(&mut self) -> Result<String, Tried> {
        let failed = || Tried::AtPrimary("primary-position-unknown");
        let snapshot = Arc::clone(&self.snapshot);
        let writer = snapshot.writer().ok_or_else(failed)?;
        let deadline = self.shared.server_deadline;
        let position = match self.session.dialect().mariadb {
            true => "SELECT @@GLOBAL.gtid_binlog_pos LIMIT 1",
            false => "SELECT @@GLOBAL.gtid_executed LIMIT 1",
        };
        let held = self.hold.as_mut().filter(|lease| lease.server().id == writer.server().id);
        let packets = if let Some(lease) = held {
            crate::backend::query(lease.connection(), position, deadline).await.map_err(|_| failed())?
        } else {
            let settings = self.session.settings();
            let leased = self.shared.pools.lease_writer(&writer, &self.identity, settings).await;
            let mut lease = leased.map_err(|_| failed())?;
            let packets = crate::backend::query(lease.connection(), position, deadline).await;
            let packets = packets.map_err(|_| failed())?;
            lease.release(self.last_activity);
            packets
        };
        let row = packets.len().checked_sub(2).and_then(|at| packets.get(at)).ok_or_else(failed)?;
        let (length, size) = crate::wire::response::read_length(row).ok_or_else(failed)?;
        let text = row.get(size..).filter(|text| text.len() as u64 == length).ok_or_else(failed)?;
        // Only what a GTID set can have goes into our statement.
        GtidSet::parse(std::str::from_utf8(text).map_err(|_| failed())?)
            .map(|set| set.to_string())
            .map_err(|_| failed())
    }
}
