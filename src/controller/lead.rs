//! Runs the controller while this process leads, with the record that is in the ConfigMap then, and stops it when it leads
//! no more: running steps are cancelled, and no statement is begun any more. What goes on at the servers all the same, the
//! next leader sees there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::record::BadRecord;
use super::{Record, SaveError, Settings, Store};
use crate::k8s::client::Access;
use crate::k8s::keep::{self, Keeper};
use crate::k8s::state::{EPOCH, HANDOVER, RECORD};
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
    /// Each term puts its own mandate in.
    pub(crate) settings: Settings,
    pub(crate) endpoints: watch::Receiver<Arc<[Endpoint]>>,
    pub(crate) wishes: watch::Receiver<Wishes>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Empty while this process does not lead.
    pub(crate) progress: watch::Sender<Arc<Progress>>,
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
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut trouble = None;
        while let Some(term) = self.elected(&stop).await {
            let mandate = Mandate::Term { term, leadership: self.leadership.clone() };
            let ending = stop.child_token();
            let outcome = {
                let mut acting = Box::pin(self.act(mandate, ending.clone()));
                tokio::select! {
                    outcome = &mut acting => outcome,
                    () = ended(self.leadership.clone(), term) => {
                        ending.cancel();
                        acting.await
                    }
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

    async fn act(&self, mandate: Mandate, ending: CancellationToken) -> Result<(), Error> {
        let name = self.state.clone();
        let taking =
            Keeper::take_over(self.access.clone(), name.clone(), Arc::clone(&self.me), mandate.clone());
        let keeper = tokio::select! {
            taken = taking => taken.map_err(|error| Error::State(name.clone(), error))?,
            () = ending.cancelled() => return Ok(()),
        };
        let record = match keeper.value(RECORD) {
            None => Record::default(),
            Some(text) => Record::from_text(text).map_err(|error| Error::Record(name, error))?,
        };
        let mut settings = self.settings.clone();
        settings.tools.logins.mandate = mandate;
        let (endpoints, wishes) = (self.endpoints.clone(), self.wishes.clone());
        let run = super::run(settings, endpoints, wishes, record, keeper, &self.progress, ending);
        Box::pin(run).await.map_err(Error::Save)
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
