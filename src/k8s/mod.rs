//! The Kubernetes API: how it is reached, and what of ours is kept there. Decides nothing about MySQL.

pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod follow;
pub(crate) mod keep;
pub(crate) mod lease;
pub(crate) mod pods;
pub(crate) mod state;
