//! Keeps what is known of stored routines, triggers and views true: asks the primary for them, again when they change. Asks it
//! too what named locks a connection has, since nothing tells of those that a routine takes or lets go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Prober;
use crate::dba::{self, Login, Session};
use crate::model::server::Address;
use crate::model::topology::Topology;
use crate::sql::{Classifier, Dialect, Routines};

/// How old the knowledge of routines may be that were changed past this proxy.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long the primary may take to tell of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a session waits until what it has asked is known.
const WAIT: Duration = Duration::from_secs(2);

/// Asks at once what a session needs to know. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RoutinesNow {
    requests: mpsc::Sender<Request>,
    /// Who asks for locks has it.
    turn: Arc<Semaphore>,
}

/// What the primary says of the named locks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamedLocks {
    Counted(u64),
    /// Another session asks: those who take locks all the time must not wait for each other.
    AskLater,
    /// Nobody can tell.
    Untold,
}

/// The other end of [`RoutinesNow`], for [`run`].
#[derive(Debug)]
pub(crate) struct RoutinesRequests(mpsc::Receiver<Request>);

#[derive(Debug)]
enum Request {
    /// A session has changed a routine.
    Look(oneshot::Sender<()>),
    /// How many named locks the connection with this id has on this server.
    Locks { address: Address, connection: u32, found: oneshot::Sender<u64> },
}

impl RoutinesNow {
    pub(crate) fn channel() -> (Self, RoutinesRequests) {
        let (sender, receiver) = mpsc::channel(64);
        (Self { requests: sender, turn: Arc::new(Semaphore::new(1)) }, RoutinesRequests(receiver))
    }

    /// Comes back when the routines of this moment are known, or after a bounded time.
    pub(crate) async fn look(&self) {
        let (done, looked) = oneshot::channel();
        let _ = timeout(WAIT, async {
            if self.requests.send(Request::Look(done)).await.is_ok() {
                let _ = looked.await;
            }
        })
        .await;
    }

    /// How many named locks this connection has on the primary at this address.
    pub(crate) async fn locks(&self, address: &Address, connection: u32) -> NamedLocks {
        let Ok(_turn) = self.turn.try_acquire() else { return NamedLocks::AskLater };
        let (found, locks) = oneshot::channel();
        let request = Request::Locks { address: address.clone(), connection, found };
        let asked = timeout(WAIT, async {
            self.requests.send(request).await.ok()?;
            locks.await.ok()
        });
        asked.await.ok().flatten().map_or(NamedLocks::Untold, NamedLocks::Counted)
    }
}

/// What the primary was last asked over, and what it said.
struct Asked {
    address: Address,
    session: Session,
    mark: Option<u64>,
}

/// Tells `classifier` of the primary's routines, until `stop`.
pub(crate) async fn run(
    mut topology: watch::Receiver<Arc<Topology>>,
    prober: Prober,
    classifier: Arc<Classifier>,
    mut requests: RoutinesRequests,
    stop: CancellationToken,
) {
    let mut asked: Option<Asked> = None;
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        let primary = primary(&topology.borrow_and_update());
        if let Some(address) = &primary {
            let looked = tokio::select! {
                looked = look(asked.take(), address, &prober, &classifier) => looked,
                () = stop.cancelled() => return,
            };
            match looked {
                Ok(now) => asked = Some(now),
                Err(error) => tracing::debug!(%error, "the stored routines could not be asked for"),
            }
        }
        waiting.drain(..).for_each(|done| {
            let _ = done.send(());
        });
        let again = Instant::now() + INTERVAL;
        while waiting.is_empty() {
            let moved = topology.wait_for(|topology| self::primary(topology) != primary);
            let request = tokio::select! {
                moved = moved => {
                    if moved.is_err() {
                        return;
                    }
                    None
                }
                () = sleep_until(again) => None,
                Some(request) = requests.0.recv() => Some(request),
                () = stop.cancelled() => return,
            };
            match request {
                None => break,
                Some(Request::Look(done)) => waiting.push(done),
                Some(Request::Locks { address, connection, found }) => {
                    if let Some(asked) = asked.as_mut().filter(|asked| asked.address == address)
                        && let Ok(Some(locks)) = dba::named_locks(&mut asked.session, connection).await
                    {
                        let _ = found.send(locks);
                    }
                }
            }
        }
    }
}

fn primary(topology: &Topology) -> Option<Address> {
    topology.primary.map(|at| topology.servers[at].address.clone())
}

async fn look(
    asked: Option<Asked>,
    address: &Address,
    prober: &Prober,
    classifier: &Classifier,
) -> Result<Asked, dba::Error> {
    let mut asked = match asked.filter(|asked| asked.address == *address && asked.session.usable()) {
        Some(asked) => asked,
        None => {
            let credential = prober.account.borrow().clone();
            let login = Login::new(credential, &prober.tls, PATIENCE);
            let session = Session::open_for_probes(address, &login).await?;
            Asked { address: address.clone(), session, mark: None }
        }
    };
    let mark = dba::routines_mark(&mut asked.session).await?;
    if asked.mark != Some(mark) {
        let routines = dba::routines(&mut asked.session).await?;
        let complete = dba::shows_all_routines(&mut asked.session).await?;
        let version = asked.session.version();
        let dialect = Dialect::plain(version.comment_number(), version.mariadb);
        classifier.learn_routines(Routines::new(&routines, complete, dialect));
        asked.mark = Some(mark);
    }
    Ok(asked)
}
