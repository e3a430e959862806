//! What operators see of the process while it runs: log lines, metrics and the live table of clients. Knows nothing
//! of statements, servers or sessions; callers give it words and numbers.

pub(crate) mod clients;
pub(crate) mod logging;
pub(crate) mod metrics;
