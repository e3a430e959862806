//! Carries one step out. No decisions: what to do is in the step, and whether it may be done has been verified. Each
//! step is bounded in time and safe to repeat.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::copies::GOES_DOWN_WITHIN;
use super::observe::Logins;
use super::plan::Step;
use super::world::World;
use crate::dba::{self, AccountPlan, CloneState, Session, Source};
use crate::model::access::Account;
use crate::model::server::{Address, Endpoint, ServerId};

/// What steps need besides the step itself.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) logins: Logins,
    pub(crate) accounts: AccountPlan,
    /// How long one statement may take.
    pub(crate) deadline: Duration,
    /// What a copy may take of the donor and of the network, in MiB/s; None is all.
    pub(crate) clone_bandwidth: Option<NonZeroU32>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Server(#[from] dba::Error),
    #[error("{0}; its volume is too small, or full: enlarge its claim")]
    NoRoom(#[source] dba::Error),
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
    /// Donor or source. Its name is for the server, its address for us.
    other: Option<Endpoint>,
}

impl Job {
    pub(super) fn new(step: &Step, world: &World) -> Result<Self, Error> {
        let endpoint = |id: &ServerId| {
            let node = world.node(id).ok_or_else(|| Error::Unknown(id.clone()))?;
            Ok::<_, Error>(node.endpoint.clone())
        };
        let other = match step {
            Step::Clone { donor: other, .. } | Step::Follow { source: other, .. } => Some(endpoint(other)?),
            _ => None,
        };
        Ok(Self { step: step.clone(), server: endpoint(step.server())?.address, other })
    }

    pub(super) fn step(&self) -> &Step {
        &self.step
    }

    pub(super) async fn run(&self, tools: &Tools) -> Result<(), Error> {
        let open = async || Ok::<_, Error>(tools.logins.open(&self.server, tools.deadline).await?.0);
        match (&self.step, &self.other) {
            (Step::Initialise { server, cluster }, _) => {
                let mut session = tools.logins.open_to_grant(&self.server, tools.deadline).await?;
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
                let mut session = tools.logins.open_to_grant(&self.server, tools.deadline).await?;
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
            (Step::Start { .. }, _) => {
                let mut session = open().await?;
                dba::fence(&mut session).await?;
                dba::start(&mut session).await?;
                session.close().await;
            }
            (Step::StayStopped { .. }, _) => {
                let mut session = open().await?;
                dba::stay_stopped(&mut session).await?;
                session.close().await;
            }
            (Step::SetServerId { number, .. }, _) => {
                let mut session = open().await?;
                dba::set_server_id(&mut session, *number).await?;
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
                let source = Source { address: &source.name, account, tls: &tools.logins.tls };
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
        let begun = dba::begun_transactions(session).await?;
        if begun > 0 && began.elapsed() < READERS {
            sleep(ASK_EVERY).await;
            continue;
        }
        let writing = dba::writing_sessions(session).await?;
        if writing.is_empty() {
            break;
        }
        if began.elapsed() >= WRITERS {
            if !impatient {
                return Err(Error::StillOpen(id.clone(), writing.len(), WRITERS));
            }
            tracing::warn!(server = %id, sessions = ?writing, "transactions that do not end are ended");
            for process in writing {
                dba::end_session(session, process).await?;
            }
            break;
        }
        sleep(dba::SNAPSHOT_OF_WRITING).await;
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
    donor: &Endpoint,
) -> Result<(), Error> {
    let donor_lacks_plugin = {
        let (mut giver, _) = tools.logins.open(&donor.address, tools.deadline).await?;
        let outcome = dba::install_clone_plugin(&mut giver).await;
        giver.close().await;
        outcome
    };
    // A donor that takes no writes has the plugin, or cannot be a donor: CLONE will say so.
    if let Err(error) = donor_lacks_plugin {
        tracing::debug!(%error, "the clone plugin was not installed on the donor");
    }
    dba::stop_for_copy(&mut session).await?;
    dba::install_clone_plugin(&mut session).await?;
    dba::allow_donor(&mut session, &donor.name, tools.clone_bandwidth).await?;
    let ended = dba::clone_from(session, &donor.name, &tools.accounts.ours, &tools.logins.tls).await;
    if let Err(error) = ended {
        // The server is as it was before, or empty; it says which in the next look.
        let (mut session, _) = tools.logins.open(address, tools.deadline).await?;
        dba::forget_donor(&mut session).await?;
        session.close().await;
        return Err(if error.lacks_room() { Error::NoRoom(error) } else { error.into() });
    }

    let (began, mut dead_since) = (Instant::now(), None);
    while began.elapsed() < BACK_WITHIN {
        sleep(LOOK_EVERY).await;
        let Ok((mut session, _)) = tools.logins.open(address, tools.deadline).await else { continue };
        let Ok(survey) = dba::survey(&mut session).await else { continue };
        session.close().await;
        let run = survey.clone;
        match run.as_ref().map(|run| run.state) {
            Some(CloneState::Running) => dead_since = None,
            // So it reads for a moment while the old process goes down, and for ever when that was killed.
            None | Some(CloneState::Dead) => {
                if dead_since.get_or_insert_with(Instant::now).elapsed() >= GOES_DOWN_WITHIN {
                    return Err(Error::CopyFailed(id.clone(), "it was cut off".into()));
                }
            }
            Some(CloneState::Completed) => return Ok(()),
            Some(CloneState::Failed) => {
                let error = run.and_then(|run| run.error);
                let why = error.map_or_else(|| "no reason given".into(), |error| error.message);
                return Err(Error::CopyFailed(id.clone(), why));
            }
        }
    }
    Err(Error::NotBack(id.clone(), BACK_WITHIN))
}
