//! A server's pod, as far as the controller's word on it stands there: a label, a condition.

use std::sync::Arc;

use super::server::ServerId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) id: ServerId,
    /// The next pod of this name has another one.
    pub(crate) uid: Arc<str>,
    /// The value of the label `readwright.dev/role`.
    pub(crate) role: Option<Arc<str>>,
    /// The condition `readwright.dev/serving`.
    pub(crate) serving: Option<Condition>,
    /// The StatefulSet that made it.
    pub(crate) owner: Option<Owner>,
}

/// Whether reads may go there, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) truth: bool,
    /// One word in CamelCase.
    pub(crate) reason: Arc<str>,
    pub(crate) message: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) name: Arc<str>,
    pub(crate) uid: Arc<str>,
}
