//! Which server is meant to be the primary, as the controller's record says it. Says nothing of what the server does:
//! that it takes writes is proven by probing it.

use std::sync::Arc;

use super::server::ServerId;

/// What the record appoints. The default appoints nobody: discovery's own word holds, as where there is no record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Appointment {
    /// None leaves it to discovery.
    pub(crate) primary: Option<ServerId>,
    /// The marker of this cluster's data; None where the first proven primary's counts.
    pub(crate) cluster: Option<Arc<str>>,
    /// Grows with every new appointment.
    pub(crate) epoch: u64,
    /// A planned switchover runs: new writes wait, and open transactions may end where they are.
    pub(crate) handover: bool,
}
