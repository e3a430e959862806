//! Runs the controller while this process leads, with the record that is in the ConfigMap then, and stops it when it leads
//! no more: running steps are cancelled, and no statement is begun any more. What goes on at the servers all the same, the
//! next leader sees there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::passwords::Passwords;
use super::record::BadRecord;
use super::{Record, SaveError, Settings, Store, Tools};
use crate::k8s::client::Access;
use crate::k8s::keep::{self, Keeper};
use crate::k8s::state::{EPOCH, HANDOVER, RECORD};
use crate::model::access::Credential;
use crate::model::leadership::{Leadership, Mandate};
use crate::model::progress::{Problem, Progress};
use crate::model::server::Endpoint;
use crate::model::wishes::Wishes;

pub(crate) struct Lead {
    pub(crate) access: Access,
    /// The ConfigMap.
    pub(crate) state: String,
    /// This process, among those that may lead.
    pub(crate) me: Arc<str>,
    /// Each term puts its own mandate in, and the accounts as they are then.
    pub(crate) settings: Settings,
    /// How long old passwords stay good at least.
    pub(crate) keep_old: Duration,
    pub(crate) endpoints: watch::Receiver<Arc<[Endpoint]>>,
    pub(crate) wishes: watch::Receiver<Wishes>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Empty while this process does not lead.
    pub(crate) progress: watch::Sender<Arc<Progress>>,
}

/// The accounts that the controller works with, whose passwords may change.
pub(crate) struct Accounts {
    pub(crate) ours: watch::Receiver<Credential>,
    pub(crate) replication: watch::Receiver<Credential>,
    pub(crate) installation: watch::Receiver<Credential>,
    /// The proxies' own, where it is the controller's to create.
    pub(crate) probes: Option<watch::Receiver<Credential>>,
}

impl Accounts {
    fn put_into(&mut self, tools: &mut Tools) {
        tools.logins.ours = self.ours.borrow_and_update().clone();
        tools.logins.installation = Some(self.installation.borrow_and_update().clone());
        tools.accounts.ours = tools.logins.ours.account.clone();
        tools.accounts.replication = self.replication.borrow_and_update().account.clone();
        tools.accounts.probes = self.probes.as_mut().map(|probes| probes.borrow_and_update().account.clone());
    }

    /// Waits until a password changes.
    async fn changed(&mut self) {
        let changed = async |account: &mut watch::Receiver<Credential>| {
            if account.changed().await.is_err() {
                // It has no file that anybody follows.
                std::future::pending::<()>().await;
            }
        };
        let probes = async {
            match &mut self.probes {
                Some(probes) => changed(probes).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed(&mut self.ours) => {}
            () = changed(&mut self.replication) => {}
            () = changed(&mut self.installation) => {}
            () = probes => {}
        }
    }
}

/// Why a term was cut short.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the controller's ConfigMap `{0}`: {1}")]
    State(String, #[source] keep::Error),
    #[error("{1}; restore the ConfigMap `{0}`, or remove it")]
    Record(String, #[source] BadRecord),
    #[error(transparent)]
    Save(SaveError),
}

impl Error {
    fn problem(&self) -> Problem {
        let reason = match self {
            Self::State(..) | Self::Save(_) => "StateUnavailable",
            Self::Record(..) => "RecordUnreadable",
        };
        Problem { reason, server: None, words: Arc::from(self.to_string()) }
    }
}

/// The pause after a term that was cut short.
const PAUSE: Duration = Duration::from_secs(2);

impl Lead {
    pub(crate) async fn run(mut self, mut accounts: Accounts, stop: CancellationToken) {
        let mut trouble = None;
        while let Some(term) = self.elected(&stop).await {
            let mandate = Mandate::Term { term, leadership: self.leadership.clone() };
            let ending = stop.child_token();
            let mut settings = self.settings.clone();
            settings.tools.logins.mandate = mandate;
            accounts.put_into(&mut settings.tools);
            let mut acting = Box::pin(self.act(settings, ending.clone()));
            let outcome = tokio::select! {
                outcome = &mut acting => outcome,
                () = ended(self.leadership.clone(), term) => {
                    ending.cancel();
                    acting.await
                }
                () = accounts.changed() => {
                    tracing::info!("a password has changed: the controller begins anew with it");
                    ending.cancel();
                    let _ = acting.await;
                    continue;
                }
            };
            let mut seen = Progress::default();
            if let Err(error) = outcome {
                let problem = error.problem();
                if trouble.as_ref() != Some(&problem) {
                    tracing::error!(%error, "controller");
                }
                seen.problems.push(problem.clone());
                trouble = Some(problem);
            }
            self.progress.send_replace(Arc::new(seen));
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = stop.cancelled() => break,
            }
        }
    }

    /// Waits until this process leads, and gives the term; None when it is to stop.
    async fn elected(&mut self, stop: &CancellationToken) -> Option<u32> {
        loop {
            let leadership = self.leadership.borrow_and_update().clone();
            if leadership.leads() {
                return Some(leadership.term);
            }
            // Not leading, it knows nothing of how the servers are.
            self.progress.send_if_modified(|seen| {
                let stale = **seen != Progress::default();
                if stale {
                    *seen = Arc::default();
                }
                stale
            });
            tokio::select! {
                changed = self.leadership.changed() => changed.ok()?,
                () = stop.cancelled() => return None,
            }
        }
    }

    async fn act(&self, mut settings: Settings, ending: CancellationToken) -> Result<(), Error> {
        let (name, mandate) = (self.state.clone(), settings.tools.logins.mandate.clone());
        let taking = Keeper::take_over(self.access.clone(), name.clone(), Arc::clone(&self.me), mandate);
        let keeper = tokio::select! {
            taken = taking => taken.map_err(|error| Error::State(name.clone(), error))?,
            () = ending.cancelled() => return Ok(()),
        };
        let record = match keeper.value(RECORD) {
            None => Record::default(),
            Some(text) => Record::from_text(text).map_err(|error| Error::Record(name, error))?,
        };
        let (problems, troubles) = watch::channel(Vec::new());
        settings.troubles = troubles;
        let passwords = Passwords {
            tools: settings.tools.clone(),
            endpoints: self.endpoints.clone(),
            progress: self.progress.subscribe(),
            problems,
            keep_old: self.keep_old,
        };
        let (endpoints, wishes) = (self.endpoints.clone(), self.wishes.clone());
        let run = super::run(settings, endpoints, wishes, record, keeper, &self.progress, ending);
        tokio::select! {
            outcome = Box::pin(run) => outcome.map_err(Error::Save),
            never = Box::pin(passwords.run()) => match never {},
        }
    }
}

/// Returns when this process does not lead any more in this term.
async fn ended(mut leadership: watch::Receiver<Leadership>, term: u32) {
    loop {
        let now = leadership.borrow_and_update().clone();
        let Some(until) = now.until.filter(|_| now.term == term) else { return };
        tokio::select! {
            () = sleep_until(until) => return,
            changed = leadership.changed() => if changed.is_err() { return sleep_until(until).await },
        }
    }
}

impl Store for Keeper {
    async fn save(&mut self, record: &Record) -> Result<(), SaveError> {
        let handover = record.handover.as_ref().map(|handover| handover.to.to_string());
        let changes = vec![
            (RECORD, Some(record.to_text())),
            (EPOCH, Some(record.epoch.to_string())),
            (HANDOVER, handover),
        ];
        self.write(&changes).await.map_err(|error| SaveError(error.to_string()))
    }
}
