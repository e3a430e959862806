//! The words that the layers share: servers, topology, health, GTID sets. No I/O and no async.

pub(crate) mod access;
pub(crate) mod appointment;
pub(crate) mod claims;
pub(crate) mod gtid;
pub(crate) mod health;
pub(crate) mod leadership;
pub(crate) mod pod;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod routine;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod topology;
pub(crate) mod version;
pub(crate) mod wishes;
