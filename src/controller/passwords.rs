//! Carries new passwords of our own accounts into the servers: the account gets the new one and keeps the old, replicas are
//! told the new one, one after another, and the old one is discarded when nobody needs it any more. What is still to be done
//! is asked of the servers each time. Works beside the plan, and leaves servers alone that are not well.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::execute::Tools;
use super::plan::Class;
use crate::dba::{self, Session};
use crate::model::progress::{Problem, Progress};
use crate::model::server::{Address, Endpoint, ServerId};

pub(crate) struct Passwords {
    pub(crate) tools: Tools,
    pub(crate) endpoints: watch::Receiver<Arc<[Endpoint]>>,
    /// How the servers are.
    pub(crate) progress: watch::Receiver<Arc<Progress>>,
    pub(crate) problems: watch::Sender<Vec<Problem>>,
    /// How long an old password stays good after every server has the new one: other proxies learn that from files of
    /// their own.
    pub(crate) keep_old: Duration,
}

/// How often to look while something is left to be done.
const SOON: Duration = Duration::from_secs(5);
/// And when nothing is: somebody may have set another password by hand.
const LATER: Duration = Duration::from_secs(60);

/// What one look leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Servers that are not well: whether they know the new passwords is seen later.
    Servers,
    /// Somebody has just been told a new password.
    News,
    OldPasswords,
}

impl Passwords {
    /// Cancel safety: what is left is seen again.
    pub(crate) async fn run(self) -> Infallible {
        let mut complete_since = None;
        loop {
            let (left, problems) = match self.look(complete_since).await {
                Ok(left) => (left, Vec::new()),
                Err(error) => {
                    let words = Arc::from(format!("passwords are not up to date: {error}"));
                    (Left::Servers, vec![Problem { reason: "PasswordsOutdated", server: None, words }])
                }
            };
            complete_since = match left {
                Left::OldPasswords => complete_since.or(Some(Instant::now())),
                // A replica that is behind for a moment puts nothing off for others.
                Left::Servers => complete_since,
                Left::Nothing | Left::News => None,
            };
            self.problems.send_if_modified(|known| {
                let news = *known != problems;
                *known = problems;
                news
            });
            sleep(if left == Left::Nothing { LATER } else { SOON }).await;
        }
    }

    /// `complete_since`: from then on every server has known the new passwords.
    async fn look(&self, complete_since: Option<Instant>) -> Result<Left, dba::Error> {
        let endpoints = Arc::clone(&self.endpoints.borrow());
        let is = |id: &ServerId, class: Class| {
            let progress = self.progress.borrow();
            progress.servers.iter().any(|server| server.id == *id && server.state == class.name())
        };
        let Some(primary) = endpoints.iter().find(|endpoint| is(&endpoint.id, Class::Primary)) else {
            return Ok(Left::Servers);
        };
        let accounts = &self.tools.accounts;
        if !self.all_log_in(&primary.address).await? {
            let mut session = self.open(&primary.address).await?;
            dba::create_accounts(&mut session, accounts, &self.tools.logins.tls, self.tools.deadline).await?;
            session.close().await;
            tracing::info!(server = %primary.id, "new passwords are set; the old ones stay good for now");
            return Ok(Left::News);
        }
        for replica in endpoints.iter().filter(|endpoint| endpoint.id != primary.id) {
            if !is(&replica.id, Class::Serving) || !self.all_log_in(&replica.address).await? {
                return Ok(Left::Servers);
            }
            let mut session = self.open(&replica.address).await?;
            let renewed = dba::renew_password(&mut session, &accounts.replication).await?;
            session.close().await;
            if renewed {
                // The next one when this one serves again.
                tracing::info!(server = %replica.id, "replication has the new password");
                return Ok(Left::News);
            }
        }
        let mut session = self.open(&primary.address).await?;
        let old = dba::with_old_password(&mut session, accounts).await?;
        let overdue = complete_since.is_some_and(|since| since.elapsed() >= self.keep_old);
        if overdue {
            for account in &old {
                dba::discard_old_password(&mut session, account).await?;
                tracing::info!(user = account.user, "its old password is discarded");
            }
        }
        session.close().await;
        Ok(if old.is_empty() || overdue { Left::Nothing } else { Left::OldPasswords })
    }

    async fn all_log_in(&self, address: &Address) -> Result<bool, dba::Error> {
        for account in self.tools.accounts.own() {
            if !dba::logs_in(address, account, &self.tools.logins.tls, self.tools.deadline).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn open(&self, address: &Address) -> Result<Session, dba::Error> {
        Ok(self.tools.logins.open(address, self.tools.deadline).await?.0)
    }
}
