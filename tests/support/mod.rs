//! What integration tests stand on: a real primary with replicas, a proxy in front of them, and a look into the servers'
//! general logs to see where a statement really ran. Everything lives in one folder below the target folder; it and every
//! process go when the test binary ends, in whatever way.

#![expect(dead_code, reason = "no test binary uses all of it")]

use std::future::Future;
use std::sync::LazyLock;

use tokio::runtime::Runtime;

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod general_log;
pub(crate) mod mariadb;
#[path = "../../src/demo/mysqld/mod.rs"]
pub(crate) mod mysqld;
pub(crate) mod proxy;
pub(crate) mod raw;

/// One runtime for the whole binary, never dropped: shared servers outlive the test that started them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime can be made"));

/// The body of a test: `#[test] fn name() { support::run(async { ... }) }`.
pub(crate) fn run<F: Future>(test: F) -> F::Output {
    RUNTIME.block_on(test)
}
