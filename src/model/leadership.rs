//! Who acts as the controller, and until when. Only the monotonic clock of this process counts: clocks of different
//! machines are never compared.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

/// What the elector knows. The default: nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// This process leads until then, whatever it hears or does not hear; None: it does not lead.
    pub(crate) until: Option<Instant>,
    /// Counts changes of the leader.
    pub(crate) term: u32,
    /// Who leads, as last heard.
    pub(crate) leader: Option<Arc<str>>,
    /// Why the lease cannot be read or written, with the remedy.
    pub(crate) problem: Option<Arc<str>>,
}

impl Leadership {
    pub(crate) fn leads(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// The right to act, asked before every statement and every write. Once it has ended, another process may act.
#[derive(Clone, Debug)]
pub(crate) enum Mandate {
    /// Nobody else is there to act.
    Unlimited,
    /// As long as this process leads in this term.
    Term { term: u32, leadership: watch::Receiver<Leadership> },
}

impl Mandate {
    pub(crate) fn holds(&self) -> bool {
        match self {
            Self::Unlimited => true,
            Self::Term { term, leadership } => {
                let leadership = leadership.borrow();
                leadership.term == *term && leadership.leads()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_mandate_ends_by_itself_and_with_its_term() {
        let lead = |term, seconds| Leadership {
            until: Some(Instant::now() + Duration::from_secs(seconds)),
            term,
            ..Leadership::default()
        };
        let (sender, leadership) = watch::channel(lead(3, 10));
        let mandate = Mandate::Term { term: 3, leadership };
        assert!(mandate.holds());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!mandate.holds(), "nobody had to say so");
        sender.send_replace(lead(3, 10));
        assert!(mandate.holds());
        sender.send_replace(lead(4, 10));
        assert!(!mandate.holds());
        sender.send_replace(lead(3, 10));
        drop(sender);
        assert!(mandate.holds());
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(!mandate.holds() && Mandate::Unlimited.holds());
    }
}
