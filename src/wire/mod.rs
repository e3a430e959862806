//! The MySQL client/server protocol: bytes in, meaning out. Imports nothing else of ours.

pub(crate) mod auth;
pub(crate) mod buffer;
pub(crate) mod command;
pub(crate) mod compress;
pub(crate) mod flags;
pub(crate) mod handshake;
pub(crate) mod packet;
pub(crate) mod proxied;
pub(crate) mod response;
pub(crate) mod result;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod tracker;
