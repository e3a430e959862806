//! Carries one step out. No decisions: what to do is in the step, and whether it may be done has been verified. Each
//! step is bounded in time and safe to repeat.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::observe::Logins;
use super::plan::Step;
use super::world::World;
use crate::dba::{self, AccountPlan, CloneState, Session, Source};
use crate::model::access::Account;
use crate::model::server::{Address, ServerId};

/// What steps need besides the step itself.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) logins: Logins,
    pub(crate) accounts: AccountPlan,
    /// The uuid's text for the marker is in the step; this is how long one statement may take.
    pub(crate) deadline: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Server(#[from] dba::Error),
    #[error("{0} is no longer known")]
    Unknown(ServerId),
    #[error("{0} did not come back within {1:?} after it was copied to")]
    NotBack(ServerId, Duration),
    #[error("the copy to {0} failed: {1}")]
    CopyFailed(ServerId, Arc<str>),
    #[error(
        "{1} transactions that have written on {0} did not end within {2:?}; commit them, or end their sessions"
    )]
    StillOpen(ServerId, usize, Duration),
    #[error("{0} already has the marker {1}")]
    OtherMarker(ServerId, String),
}

/// A step with the addresses it needs, so that it can run while the world goes on.
#[derive(Clone, Debug)]
pub(super) struct Job {
    step: Step,
    server: Address,
    /// Donor or source.
    other: Option<Address>,
}

impl Job {
    pub(super) fn new(step: &Step, world: &World) -> Result<Self, Error> {
        let address = |id: &ServerId| {
            let node = world.node(id).ok_or_else(|| Error::Unknown(id.clone()))?;
            Ok::<_, Error>(node.endpoint.address.clone())
        };
        let other = match step {
            Step::Clone { donor, .. } => Some(address(donor)?),
            Step::Follow { source, .. } => Some(address(source)?),
            _ => None,
        };
        Ok(Self { step: step.clone(), server: address(step.server())?, other })
    }

    pub(super) fn step(&self) -> &Step {
        &self.step
    }

    pub(super) async fn run(&self, tools: &Tools) -> Result<(), Error> {
        let open = async || Ok::<_, Error>(tools.logins.open(&self.server, tools.deadline).await?.0);
        match (&self.step, &self.other) {
            (Step::Initialise { server, cluster }, _) => {
                let mut session = open().await?;
                dba::set_writable(&mut session).await?;
                dba::create_accounts(&mut session, &tools.accounts, &tools.logins.tls, tools.deadline)
                    .await?;
                let stands = dba::create_marker(&mut session, cluster).await?;
                session.close().await;
                if stands != **cluster {
                    return Err(Error::OtherMarker(server.clone(), stands));
                }
            }
            (Step::Adopt { .. }, _) => {}
            (Step::CreateAccounts { .. }, _) => {
                let mut session = open().await?;
                dba::create_accounts(&mut session, &tools.accounts, &tools.logins.tls, tools.deadline)
                    .await?;
                session.close().await;
            }
            (Step::AllowWrites { .. }, _) => {
                let mut session = open().await?;
                dba::set_writable(&mut session).await?;
                session.close().await;
            }
            (Step::ForbidWrites { .. }, _) => {
                let mut session = open().await?;
                dba::fence(&mut session).await?;
                session.close().await;
            }
            (Step::StopReceiving { .. }, _) => {
                let mut session = open().await?;
                dba::stop_receiving(&mut session).await?;
                session.close().await;
            }
            (Step::StopCopy { process, .. }, _) => {
                let mut session = open().await?;
                dba::stop_clone(&mut session, *process).await?;
                session.close().await;
            }
            (Step::DropChannel { .. }, _) => {
                let mut session = open().await?;
                dba::drop_channel(&mut session).await?;
                session.close().await;
            }
            (Step::Fence { server, impatient }, _) => {
                let mut session = open().await?;
                fence(&mut session, server, *impatient).await?;
                session.close().await;
            }
            (Step::AwaitExecuted { executed, .. }, _) => {
                let mut session = open().await?;
                // What it has by then is seen in the next look.
                dba::await_executed(&mut session, executed, AWAIT).await?;
                session.close().await;
            }
            (Step::Follow { .. }, Some(source)) => {
                let mut session = open().await?;
                dba::fence(&mut session).await?;
                let account: &Account = &tools.accounts.replication;
                let source = Source { address: source, account, tls: &tools.logins.tls };
                dba::follow(&mut session, &source).await?;
                session.close().await;
            }
            (Step::Clone { server, .. }, Some(donor)) => {
                let session = open().await?;
                copy(tools, server, &self.server, session, donor).await?;
            }
            (Step::Follow { server, .. } | Step::Clone { server, .. }, None) => {
                return Err(Error::Unknown(server.clone()));
            }
        }
        Ok(())
    }
}

/// How long open transactions may take to end before a switchover goes on without them, or not at all.
const WRITERS: Duration = Duration::from_secs(5);
/// The same of those that have written nothing: connections that never commit what they read keep some open for ever.
const READERS: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long statements that write may keep the fence from closing; meanwhile they keep everybody else too.
const CLOSING: Duration = Duration::from_secs(2);
/// One wait for a replica; the look that follows says whether to wait on.
const AWAIT: Duration = Duration::from_secs(1);

/// Waits for open transactions, then closes. Proxies hold what is new by now, so that their number only falls.
async fn fence(session: &mut Session, id: &ServerId, impatient: bool) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        let open = dba::open_transactions(session).await?;
        let waited = began.elapsed();
        if open.writing.is_empty() && (open.begun == 0 || waited >= READERS) {
            break;
        }
        if waited >= WRITERS {
            if !impatient {
                return Err(Error::StillOpen(id.clone(), open.writing.len(), WRITERS));
            }
            tracing::warn!(server = %id, sessions = ?open.writing, "transactions that do not end are ended");
            for process in open.writing {
                dba::end_session(session, process).await?;
            }
            break;
        }
        sleep(ASK_EVERY).await;
    }
    Ok(dba::fence_within(session, CLOSING).await?)
}

/// How long mysqld may take to come back after a copy: crash recovery of the copied data is part of it.
const BACK_WITHIN: Duration = Duration::from_secs(900);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Copies, and waits until the server that was overwritten is back and says how the copy ended. However CLONE itself
/// ends, only the restarted server knows.
async fn copy(
    tools: &Tools,
    id: &ServerId,
    address: &Address,
    mut session: Session,
    donor: &Address,
) -> Result<(), Error> {
    let donor_lacks_plugin = {
        let (mut giver, _) = tools.logins.open(donor, tools.deadline).await?;
        let outcome = dba::install_clone_plugin(&mut giver).await;
        giver.close().await;
        outcome
    };
    // A donor that takes no writes has the plugin, or cannot be a donor: CLONE will say so.
    if let Err(error) = donor_lacks_plugin {
        tracing::debug!(%error, "the clone plugin was not installed on the donor");
    }
    dba::prepare_recipient(&mut session, donor).await?;
    dba::install_clone_plugin(&mut session).await?;
    dba::clone_from(session, donor, &tools.accounts.ours, &tools.logins.tls).await?;

    let began = Instant::now();
    while began.elapsed() < BACK_WITHIN {
        sleep(LOOK_EVERY).await;
        let Ok((mut session, _)) = tools.logins.open(address, tools.deadline).await else { continue };
        let Ok(survey) = dba::survey(&mut session).await else { continue };
        session.close().await;
        let Some(run) = survey.clone else { continue };
        match run.state {
            // The old process may still answer while it goes down; its clone reads as running or dead.
            CloneState::Running | CloneState::Dead => {}
            CloneState::Completed => return Ok(()),
            CloneState::Failed => {
                let why = run.error.map_or_else(|| "no reason given".into(), |error| error.message);
                return Err(Error::CopyFailed(id.clone(), why));
            }
        }
    }
    Err(Error::NotBack(id.clone(), BACK_WITHIN))
}
