//! A primary and its replicas, of MySQL or of MariaDB.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::support::cluster::{Cluster, ROOT};
use super::support::mariadb::{MariaDb, Release};
use super::support::proxy::Proxy;

/// What the servers of a run are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    MySql,
    MariaDb(Release),
}

pub(crate) enum Servers {
    MySql(Box<Cluster>),
    MariaDb(MariaDb),
}

impl Make {
    /// As `READWRIGHT_FUZZ_SERVERS` says it.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "mysql" => Self::MySql,
            "mariadb" => Self::MariaDb(Release::Own),
            "mariadb-newest" => Self::MariaDb(Release::Newest),
            _ => panic!("`{name}` is none of mysql, mariadb, mariadb-newest"),
        }
    }

    /// MySQL's statements as this server understands them.
    pub(crate) fn adapt(self, script: &str) -> String {
        match self {
            Self::MySql => script.to_owned(),
            Self::MariaDb(_) => {
                script.replace("utf8mb4_0900_ai_ci", "utf8mb4_unicode_ci").replace(" STACKED ", " ")
            }
        }
    }

    /// Of those who have it MariaDB's `read_only` stops none from writing on a replica.
    pub(crate) fn takes_from(self, user: &str) -> Option<String> {
        (self != Self::MySql).then(|| format!("REVOKE READ_ONLY ADMIN ON *.* FROM {user}@'%'"))
    }
}

impl Servers {
    pub(crate) async fn start(make: Make, replicas: u32) -> Self {
        match make {
            Make::MySql => Self::MySql(Box::new(Cluster::start(replicas).await)),
            Make::MariaDb(release) => Self::MariaDb(MariaDb::start(release, replicas).await),
        }
    }

    pub(crate) async fn behind_proxy(&self, overrides: &str) -> Proxy {
        match self {
            Self::MySql(cluster) => Proxy::start(cluster, overrides).await,
            Self::MariaDb(cluster) => {
                Proxy::start_over(cluster.folder(), &cluster.servers(), overrides).await
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::MySql(cluster) => cluster.servers().len(),
            Self::MariaDb(cluster) => cluster.servers().len(),
        }
    }

    /// By ordinal; 0 is the primary's.
    pub(crate) fn port(&self, ordinal: usize) -> u16 {
        match self {
            Self::MySql(cluster) => cluster.server(ordinal).port(),
            Self::MariaDb(cluster) => cluster.servers()[ordinal].1,
        }
    }

    /// Root's connection to one server, past any proxy.
    pub(crate) async fn root(&self, ordinal: usize) -> Conn {
        match self {
            Self::MySql(cluster) => cluster.connect(ordinal, ROOT).await,
            Self::MariaDb(cluster) => cluster.connect(ordinal, ROOT).await,
        }
    }

    /// Waits until every replica has applied what the primary has committed by now.
    pub(crate) async fn caught_up(&self) {
        match self {
            Self::MySql(cluster) => cluster.caught_up().await,
            Self::MariaDb(cluster) => {
                let mut primary = cluster.connect(0, ROOT).await;
                let written: Option<String> =
                    primary.query_first("SELECT @@gtid_binlog_pos").await.expect("it can be asked");
                for ordinal in 1..self.len() {
                    let mut replica = cluster.connect(ordinal, ROOT).await;
                    let overdue: Option<i64> = replica
                        .exec_first("SELECT MASTER_GTID_WAIT(?, 300)", (&written,))
                        .await
                        .expect("it can be asked");
                    assert_eq!(overdue, Some(0), "mariadb-{ordinal} does not catch up with {written:?}");
                }
            }
        }
    }
}
