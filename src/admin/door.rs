//! Lets visitors of the admin ports in: so many at a time, and one more is closed at once. What they are told is up to
//! the port.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs a `visit` for each that comes, until `stop`; those under way then have a moment to end.
pub(super) async fn receive<Visit>(
    listener: TcpListener,
    visitors: usize,
    stop: &CancellationToken,
    visit: impl Fn(TcpStream) -> Visit,
) where
    Visit: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(visitors));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let visit = visit(stream);
                tasks.spawn(async move {
                    visit.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an admin port cannot accept");
                // Out of file descriptors, mostly: trying at once again would only spin.
                sleep(AFTER_FAILED_ACCEPT).await;
            }
        }
    }
    tasks.close();
    let _ = timeout(LAST_ANSWERS, tasks.wait()).await;
}

const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);
const LAST_ANSWERS: Duration = Duration::from_secs(1);
