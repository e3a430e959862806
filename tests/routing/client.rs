//! A client that sends the bytes it is given and asks nothing by itself, and what the routing tests look at in an answer.

use crate::support::cluster::Account;
use crate::support::raw::{Done, Outcome, PreparedAs, Raw, Refusal, USUAL, command, flag, string};

/// Logged in, with the schema `route`.
pub(crate) struct Client(Raw);

/// All results of a command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer(Vec<Outcome>);

const IN_TRANSACTION: u16 = 0x0001;
const NULL: u8 = 0xFB;

impl Client {
    pub(crate) async fn connect(port: u16, account: Account) -> Self {
        let capabilities = USUAL | flag::CONNECT_WITH_DB;
        let raw = Raw::try_connect(port, account, capabilities, "route").await;
        Self(raw.expect("the login is accepted"))
    }

    /// Sends COM_QUERY with these bytes.
    pub(crate) async fn query(&mut self, sql: impl AsRef<[u8]>) -> Answer {
        self.0.send_query(sql.as_ref()).await;
        Answer(self.0.outcomes().await)
    }

    pub(crate) async fn init_db(&mut self, schema: &[u8]) -> Answer {
        self.0.command(command::INIT_DB, schema).await;
        Answer(self.0.outcomes().await)
    }

    pub(crate) async fn reset(&mut self) -> Answer {
        self.0.command(command::RESET_CONNECTION, b"").await;
        Answer(self.0.outcomes().await)
    }

    pub(crate) async fn prepare(&mut self, sql: &str) -> Result<PreparedAs, Answer> {
        self.0.prepare(sql).await.map_err(|refusal| Answer(vec![Outcome::Refused(refusal)]))
    }

    /// Executes a statement that has no parameters.
    pub(crate) async fn execute(&mut self, prepared: PreparedAs) -> Answer {
        Answer(self.0.execute(prepared.id, 0, b"", b"", b"").await)
    }
}

impl Answer {
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self.0.last()? {
            Outcome::Refused(refusal) | Outcome::Rows { end: Err(refusal), .. } => Some(refusal),
            _ => None,
        }
    }

    pub(crate) fn code(&self) -> Option<u16> {
        self.refusal().map(|refusal| refusal.code)
    }

    /// What the server says at the end of an answer without an error.
    pub(crate) fn leaves_transaction(&self) -> bool {
        let end: Option<&Done> = match self.0.last() {
            Some(Outcome::Done(done) | Outcome::Rows { end: Ok(done), .. }) => Some(done),
            _ => None,
        };
        end.is_some_and(|done| done.status & IN_TRANSACTION != 0)
    }

    /// Rows of each result.
    pub(crate) fn counts(&self) -> Vec<usize> {
        let rows = |outcome: &Outcome| match outcome {
            Outcome::Rows { rows, .. } => rows.len(),
            _ => 0,
        };
        self.0.iter().map(rows).collect()
    }

    /// The first value of the last result, of the text protocol.
    pub(crate) fn first(&self) -> Option<String> {
        let Some(Outcome::Rows { rows, .. }) = self.0.last() else { return None };
        let row = rows.first().filter(|row| row.first() != Some(&NULL))?;
        Some(String::from_utf8_lossy(string(row).0).into_owned())
    }
}
