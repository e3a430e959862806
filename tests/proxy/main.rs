//! The data path over real servers: what a client may send, and what it gets. Where statements run is in `routing`.

use std::future::Future;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use support::cluster::{APP, Cluster, ROOT};
use support::proxy::Proxy;
use tokio::sync::OnceCell;

mod beginning;
mod compressed;
mod large;
mod left;
mod lifecycle;
mod malformed;
mod prepared;
mod proxied;
mod routines;
mod session;
#[path = "../support/mod.rs"]
mod support;
mod text;
mod variables;

/// The body of a test, which ends, however busy the machine is.
fn run<F: Future>(test: F) -> F::Output {
    support::run(async {
        tokio::time::timeout(Duration::from_secs(1200), test).await.expect("the test ends in time")
    })
}

/// The proxy that the tests share, in front of the shared cluster, which has a schema `d`.
async fn proxy() -> &'static Proxy {
    static SHARED: OnceCell<Proxy> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let cluster = Cluster::shared().await;
            cluster
                .script("CREATE DATABASE d; CREATE TABLE d.one (id INT PRIMARY KEY, t TEXT); INSERT INTO d.one VALUES (1, 'one'), (2, NULL)")
                .await;
            make_homes(cluster).await;
            let proxy = Proxy::start(cluster, "pool: {linger_ms: 50}").await;
            // From here on the password is known.
            drop(proxy.connect(APP).await);
            proxy
        })
        .await
}

/// A table of a test's own that is like `d.one`, which many tests read: for rows that it changes or keeps locked.
async fn own_table(name: &str) {
    proxy().await;
    let sql = format!("CREATE TABLE d.{name} LIKE d.one; INSERT INTO d.{name} VALUES (1, 'one'), (2, NULL)");
    Cluster::shared().await.script(&sql).await;
}

/// Where a statement ran can be read from its answer: each server says its own ordinal. And on a busy machine nobody is to give
/// a lock up.
async fn make_homes(cluster: &Cluster) {
    for ordinal in 0..cluster.servers().len() {
        let mut root = cluster.connect(ordinal, ROOT).await;
        for sql in [
            "SET sql_log_bin = 0",
            "SET GLOBAL super_read_only = OFF",
            "SET GLOBAL innodb_lock_wait_timeout = 600",
            "CREATE TABLE d.home (server BIGINT PRIMARY KEY)",
            &format!("INSERT INTO d.home VALUES ({ordinal})"),
        ] {
            root.query_drop(sql).await.expect("root may");
        }
        if ordinal > 0 {
            root.query_drop("SET GLOBAL super_read_only = ON").await.expect("root may");
        }
    }
}
