//! `readwright switchover`, `pause` and `resume`: write a wish where the controller reads it, and follow what becomes of
//! it. Nothing here acts on a server; what is done, and whether, is the controller's to say.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use super::configuration::chain;
use super::{Failure, StateArguments, SwitchoverArguments, output};
use crate::demo;
use crate::k8s::client::Access;
use crate::k8s::state::{self, Outcome};
use crate::model::server::ServerId;
use crate::model::wishes::Wish;

pub(super) fn switch(arguments: &SwitchoverArguments) -> Result<(), Failure> {
    let to = arguments.to.as_deref().map(ServerId::new);
    let wish = Wish { id: Arc::from(demo::random_uuid()), to, force: arguments.force };
    let patience = Duration::from_secs(arguments.timeout);
    block_on(async {
        let access = access(&arguments.state).await?;
        state::wish(&access, &arguments.state.state, &wish).await.map_err(failed)?;
        let outcome = follow(&access, &arguments.state.state, &wish, patience).await;
        if outcome.is_err() {
            // What nobody waits for any more should not happen later by surprise.
            state::withdraw(&access, &arguments.state.state, &wish).await.map_err(failed)?;
        }
        outcome
    })
}

pub(super) fn pause(arguments: &StateArguments, paused: bool) -> Result<(), Failure> {
    block_on(async {
        let access = access(arguments).await?;
        state::pause(&access, &arguments.state, paused).await.map_err(failed)?;
        output::print(match paused {
            true => b"the controller looks and reports, and changes nothing until `readwright resume`\n",
            false => b"the controller goes on\n",
        })
    })
}

/// Says what the controller does about the wish, until it has an answer.
async fn follow(access: &Access, name: &str, wish: &Wish, patience: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let words = match state::outcome(access, name, wish).await {
            Ok(Outcome::Done { primary }) => {
                let line =
                    format!("{primary} is the primary, after {:.1} s\n", began.elapsed().as_secs_f64());
                return output::print(line.as_bytes());
            }
            Ok(Outcome::Failed { why }) => {
                return Err(Failure::Failed(format!("{why}; the primary is as before")));
            }
            Ok(Outcome::Runs { from, to }) => format!("{from} hands over to {to}"),
            Ok(Outcome::Waits) => "waits for the controller".to_owned(),
            // The API server may be away for a moment; the wish is written.
            Err(error) => error.to_string(),
        };
        if words != said {
            output::print(format!("{words}\n").as_bytes())?;
            said = words;
        }
        if began.elapsed() >= patience {
            let seconds = patience.as_secs();
            let advice =
                "is a controller running, and not paused? `readwright status` says what it waits for";
            return Err(Failure::Failed(format!("no answer within {seconds} s ({said}); {advice}")));
        }
        sleep(LOOK_EVERY).await;
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(250);

async fn access(arguments: &StateArguments) -> Result<Access, Failure> {
    Access::find(arguments.namespace.as_deref()).await.map_err(failed)
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    Builder::new_current_thread().enable_all().build().map_err(failed)?.block_on(work)
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::Failed(chain(&error))
}
