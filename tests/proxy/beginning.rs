//! What servers give a session before it has asked for anything: by their global variables, and by `init_connect`.

use mysql_async::prelude::Queryable;
use mysql_async::{Error, Row};

use super::run;
use super::support::cluster::{Account, Cluster, ROOT, connect};
use super::support::proxy::Proxy;

/// An application without CONNECTION_ADMIN, for whom servers run `init_connect`.
const ANN: Account = Account { user: "ann", password: "secret" };

const BEGINNING: &str = "SELECT @@autocommit, @@completion_type, @@sql_mode, @@transaction_isolation, \
                         @@transaction_read_only, @@time_zone, @@group_concat_max_len FROM d.t WHERE id = 1";

/// What somebody does who relies on it.
const STORY: [&str; 16] = [
    "SELECT COUNT(*) FROM d.t",
    BEGINNING,
    "INSERT INTO d.t VALUES (2)",
    "SELECT COUNT(*) FROM d.t",
    "ROLLBACK",
    "SELECT COUNT(*) FROM d.t",
    "INSERT INTO d.t VALUES (3)",
    "COMMIT",
    "SELECT \"id\" FROM d.t",
    RESET,
    BEGINNING,
    "SELECT COUNT(*) FROM d.t",
    "INSERT INTO d.t VALUES (4)",
    "ROLLBACK",
    "SELECT id FROM d.t",
    "COMMIT",
];

const RESET: &str = "COM_RESET_CONNECTION";

/// What comes of a story at a server or at the proxy.
async fn tell(cluster: &Cluster, port: u16) -> Vec<String> {
    cluster.script("TRUNCATE d.t; INSERT INTO d.t VALUES (1); COMMIT").await;
    let mut client = connect(port, ANN).await.expect("a login");
    let mut told = Vec::new();
    for statement in STORY {
        let said = match statement {
            RESET => client.reset().await.map(|_| Vec::new()),
            _ => client.query::<Row, _>(statement).await,
        };
        told.push(match said {
            Ok(rows) => {
                let rows: Vec<_> = rows.into_iter().map(Row::unwrap).collect();
                format!("{statement}: {rows:?}, {}", client.affected_rows())
            }
            Err(Error::Server(error)) => format!("{statement}: error {}", error.code),
            Err(error) => panic!("{statement}: {error}"),
        });
    }
    client.disconnect().await.expect("a good-bye");
    told
}

#[test]
fn sessions_begin_as_on_the_primary() {
    run(async {
        let cluster = Cluster::start(1).await;
        cluster
            .script(
                "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); CREATE USER ann IDENTIFIED BY 'secret'; \
                 GRANT ALL ON d.* TO ann",
            )
            .await;
        // Every login sees what was set before it; the connections in the pools are from before.
        let proxy = Proxy::start(&cluster, "users: {recheck_ms: 0}").await;
        let set = async |ordinal: usize, assignments: &str| {
            let mut root = cluster.connect(ordinal, ROOT).await;
            root.query_drop(format!("SET {assignments}")).await.expect("root may");
        };
        // On both servers, and only on the replica.
        let cases = [
            ("@@global.autocommit = 0", ""),
            ("@@global.completion_type = CHAIN", ""),
            ("@@global.transaction_isolation = 'SERIALIZABLE'", ""),
            ("@@global.sql_mode = 'ANSI_QUOTES'", ""),
            ("@@global.init_connect = 'SET autocommit = 0'", ""),
            (
                "@@global.init_connect = \"SET sql_mode = 'ANSI_QUOTES', time_zone = '+05:00', group_concat_max_len = 77\"",
                "",
            ),
            ("@@global.init_connect = 'SET autocommit = 0'", "@@global.init_connect = ''"),
            (
                "@@global.autocommit = 1",
                "@@global.autocommit = 0, @@global.sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'",
            ),
            (
                "@@global.autocommit = 1",
                "@@global.completion_type = CHAIN, @@global.transaction_isolation = 'SERIALIZABLE'",
            ),
            ("@@global.autocommit = 1", "@@global.init_connect = 'SET autocommit = 0'"),
        ];
        for case @ (everywhere, on_replica) in cases {
            for ordinal in [0, 1] {
                set(ordinal, everywhere).await;
            }
            if !on_replica.is_empty() {
                set(1, on_replica).await;
            }
            let direct = tell(&cluster, cluster.server(0).port()).await;
            for _ in 0..2 {
                assert_eq!(tell(&cluster, proxy.port()).await, direct, "{case:?}\n{}", proxy.log());
            }
            for ordinal in [0, 1] {
                let all = "autocommit completion_type transaction_isolation sql_mode init_connect";
                let defaults = all.split(' ').map(|name| format!("@@global.{name} = DEFAULT"));
                set(ordinal, &defaults.collect::<Vec<_>>().join(", ")).await;
            }
        }
    });
}
