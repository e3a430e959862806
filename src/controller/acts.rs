//! What the controller does, in words: for the log that `status` shows, and for Events. Pure.

use super::plan::{Change, Step};
use crate::model::progress::{Acts, Tone};

/// What takes long is told when it begins.
pub(super) fn begun(acts: &mut Acts, step: &Step) {
    if let Step::Clone { server, donor } = step {
        let words = format!("its data is replaced by a copy of {donor}'s");
        acts.note(Some(server), "CopyStarted", words, Tone::Normal);
    }
}

pub(super) fn done(acts: &mut Acts, step: &Step) {
    let (reason, words, tone) = match step {
        Step::Initialise { cluster, .. } => (
            "ClusterInitialised",
            format!("it is the first primary of cluster {cluster}: it has the accounts, and takes writes"),
            Tone::Normal,
        ),
        Step::Adopt { cluster, .. } => (
            "ClusterAdopted",
            format!("it is the primary of cluster {cluster}, which is taken over as it is"),
            Tone::Normal,
        ),
        Step::CreateAccounts { .. } => {
            ("AccountsCreated", "Readwright's own accounts are on it".to_owned(), Tone::Normal)
        }
        Step::AllowWrites { .. } => ("WritesAllowed", "it takes writes".to_owned(), Tone::Normal),
        Step::ForbidWrites { .. } => {
            ("WritesForbidden", "it was not read-only, and is now".to_owned(), Tone::Normal)
        }
        Step::StopCopy { .. } => (
            "CopyStopped",
            "the copy to it did not move any more, and was ended; it is made again".to_owned(),
            Tone::Warning,
        ),
        Step::Follow { source, .. } => {
            ("ReplicationStarted", format!("it replicates from {source}"), Tone::Normal)
        }
        Step::Start { .. } => ("ReplicationStarted", "it replicates again".to_owned(), Tone::Normal),
        Step::SetServerId { number, .. } => (
            "ServerIdSet",
            format!("its server_id is {number} from now on; it had another's, or none"),
            Tone::Warning,
        ),
        Step::StopReceiving { .. } => (
            "ReceivingStopped",
            "it receives nothing any more, so that nothing is mixed that must not be".to_owned(),
            Tone::Warning,
        ),
        Step::DropChannel { .. } => (
            "ReplicationRemoved",
            "it is the primary, and replicated; it does no more".to_owned(),
            Tone::Normal,
        ),
        Step::Fence { .. } => (
            "WritesStopped",
            "it hands over: transactions have ended, and it takes no writes any more".to_owned(),
            Tone::Normal,
        ),
        // How much was copied is seen in the next look; a setting for the next restart is no news.
        Step::Clone { .. } | Step::StayStopped { .. } | Step::AwaitExecuted { .. } => return,
    };
    acts.note(Some(step.server()), reason, words, tone);
}

pub(super) fn failed(acts: &mut Acts, step: &Step, why: &str) {
    let reason = match step {
        Step::Initialise { .. } => "InitialiseFailed",
        Step::Adopt { .. } => "AdoptFailed",
        Step::CreateAccounts { .. } => "CreateAccountsFailed",
        Step::AllowWrites { .. } => "AllowWritesFailed",
        Step::ForbidWrites { .. } => "ForbidWritesFailed",
        Step::Clone { .. } => "CopyFailed",
        Step::StopCopy { .. } => "StopCopyFailed",
        Step::Follow { .. } | Step::Start { .. } => "StartReplicationFailed",
        Step::StayStopped { .. } => "StayStoppedFailed",
        Step::SetServerId { .. } => "SetServerIdFailed",
        Step::StopReceiving { .. } => "StopReceivingFailed",
        Step::DropChannel { .. } => "RemoveReplicationFailed",
        Step::Fence { .. } => "StopWritesFailed",
        // It is asked again until time is up.
        Step::AwaitExecuted { .. } => return,
    };
    acts.note(Some(step.server()), reason, why, Tone::Warning);
}

/// A step of a switchover, once it is in the record.
pub(super) fn changed(acts: &mut Acts, change: &Change) {
    let (reason, words, tone) = match change {
        Change::Begin { handover } => (
            "SwitchoverStarted",
            format!("{} hands over to {}; new writes wait", handover.from, handover.to),
            Tone::Normal,
        ),
        Change::Appoint { server, .. } => (
            APPOINTED,
            format!("{server} is the primary; it has every transaction of the one before"),
            Tone::Normal,
        ),
        Change::GiveUp { from, server, lost, .. } => {
            let lost = match lost.count() {
                0 => "nothing that is known of is lost".to_owned(),
                count => format!("lost are {count} transactions that only {from} had: {lost}"),
            };
            (APPOINTED, format!("{from} is given up, and {server} is the primary; {lost}"), Tone::Warning)
        }
        Change::End => ("SwitchoverDone", "the new primary takes writes".to_owned(), Tone::Normal),
        Change::Abandon { why } => {
            ("SwitchoverFailed", format!("{why}; the primary stays the one it was"), Tone::Warning)
        }
        Change::Refuse { why, .. } => ("SwitchoverRefused", why.to_string(), Tone::Warning),
    };
    acts.note(None, reason, words, tone);
}

const APPOINTED: &str = "PrimaryAppointed";
