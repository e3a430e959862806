//! Follows the files that hold the passwords of our own accounts, as a mounted Secret changes them while we run.

use std::path::Path;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, KeptAccount};
use crate::model::access::{Credential, Secret};

/// How soon a change is seen; a Secret takes longer to reach the file.
const LOOK: Duration = Duration::from_secs(2);

/// The account as its file has it, until `stop`; without a file, as it was at the start.
pub(super) fn follow(
    kept: &KeptAccount,
    (control, tasks): (&Handle, &TaskTracker),
    stop: &CancellationToken,
) -> watch::Receiver<Credential> {
    let (sender, receiver) = watch::channel(Credential::from(kept.account.clone()));
    if let Some(file) = kept.file.clone() {
        let stop = stop.clone();
        let following = async move {
            let mut problem = None;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(LOOK) => {}
                }
                let read = read(&file);
                if let (Err(error), None) = (&read, &problem) {
                    tracing::warn!(file = %file.display(), error, "a password cannot be read; the last one holds");
                }
                problem = read.as_ref().err().cloned();
                let Ok(password) = read else { continue };
                sender.send_if_modified(|known| {
                    let news = known.account.password != password;
                    if news {
                        known.before = Some(std::mem::replace(&mut known.account.password, password));
                        tracing::info!(user = known.account.user, "its password has changed");
                    }
                    news
                });
            }
        };
        tasks.spawn_on(following, control);
    }
    receiver
}

fn read(file: &Path) -> Result<Secret, String> {
    let bytes = config::resolve::read_file(file).map_err(|error| error.to_string())?;
    config::password(bytes).ok_or_else(|| "it must be UTF-8 text of 1 to 1024 bytes".to_owned())
}
