//! EXPLAIN ROUTE and SHOW ROUTE: where this session's statements would go now, told to the client. Decides by the same
//! functions as the statements themselves, and runs nothing.

use crate::routing::{self, Circumstances, Target};
use crate::sql::route_question;
use crate::wire::result::encode_result;

use super::session::{ClientSession, End};

const COLUMNS: [&str; 5] = ["statement", "route", "reason", "server", "because"];
/// What SHOW ROUTE stands for: a read and a write.
const EXAMPLES: [&[u8]; 2] = [b"SELECT a FROM t", b"UPDATE t SET a = 1"];

impl ClientSession {
    /// Answers the command at the front of the inbox, whose text stands at `sql`.
    pub(super) async fn tell_routes(&mut self, sql: (usize, usize)) -> Result<(), End> {
        self.refresh();
        let text = self.client.inbox.bytes()[sql.0..sql.1].to_vec();
        let rows: Vec<_> = match route_question(&text, self.session.dialect()) {
            Some(text) => vec![self.route(text)],
            None => EXAMPLES.iter().map(|text| self.route(text)).collect(),
        };
        let (capabilities, status) = (self.identity.capabilities, self.session.status());
        let answer = encode_result(&COLUMNS, &rows, capabilities, status, self.client.frames);
        self.send(&answer).await
    }

    fn route(&mut self, text: &[u8]) -> Vec<String> {
        let statement = self.shared.classifier.classify(text, self.session.dialect());
        // The number that the next statement will draw.
        let before = self.dice;
        let circumstances = Circumstances { in_hand: self.in_hand(), avoid: None, dice: self.roll() };
        self.dice = before;
        let decision =
            routing::decide(&statement, &self.session, &self.snapshot, circumstances, &self.shared.policy);
        let server = match decision.target {
            Target::Held => self.hold.as_ref().map(|lease| lease.server().id.as_str()),
            Target::Primary => self.snapshot.primary.map(|at| self.snapshot.servers[at].id.as_str()),
            Target::Replica(at) => Some(self.snapshot.servers[at].id.as_str()),
        };
        let (route, reason) = statement.verdict();
        vec![
            String::from_utf8_lossy(text).into_owned(),
            route.label().to_owned(),
            decision.why.to_owned(),
            server.unwrap_or_default().to_owned(),
            reason.words().to_owned(),
        ]
    }
}
