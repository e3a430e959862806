//! Which names a server takes for functions of its own, asked of real servers, and held against what `readwright explain`
//! says: a name that may be a stored function is never a read.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use support::cluster::{Cluster, ROOT};
use support::mariadb::{MariaDb, Release};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

mod support;

#[test]
fn of_mysql() {
    support::run(async {
        let cluster = Cluster::start(0).await;
        check(cluster.connect(0, ROOT).await).await;
        cluster.close().await;
    });
}

#[test]
fn of_mariadb() {
    support::run(async {
        let cluster = MariaDb::start(Release::Own, 0).await;
        check(cluster.connect(0, ROOT).await).await;
    });
}

#[test]
fn of_the_newest_mariadb() {
    support::run(async {
        let cluster = MariaDb::start(Release::Newest, 0).await;
        check(cluster.connect(0, ROOT).await).await;
    });
}

async fn check(mut conn: Conn) {
    for sql in ["CREATE DATABASE d", "USE d", "SET SESSION sql_mode = ''"] {
        conn.query_drop(sql).await.expect("root may");
    }
    let version: String = conn.query_first("SELECT @@version").await.expect("it answers").expect("a row");
    let mut calls = Vec::new();
    for name in names(&mut conn).await {
        for name in [name.clone(), format!("{name} "), format!("`{name}`")] {
            for arguments in ["", "1", "1, 1", "1, 1, 1"] {
                let sql = format!("SELECT {name}({arguments})");
                let found = ask(&mut conn, &sql).await;
                calls.extend(found.map(|found| (sql, found)));
            }
        }
    }
    let verdicts = explain(&version, calls.iter().map(|(sql, _)| &sql[..])).await;
    assert_eq!(calls.len(), verdicts.len());
    let mut wrong: [BTreeSet<&str>; 2] = Default::default();
    for ((sql, found), verdict) in calls.iter().zip(&verdicts) {
        match (found, &verdict[..]) {
            (Found::Stored, verdict) if !verdict.starts_with("write\t") => wrong[0].insert(sql),
            // A shape does not count its literals, and with another number of them MariaDB looks for a stored function.
            (Found::BuiltIn, _) if matches!(&sql[..], "SELECT point(1, 1)" | "SELECT point (1, 1)") => {
                continue;
            }
            // In quotes hardly anybody writes them.
            (Found::BuiltIn, "write\tunknown-function") if !sql.contains('`') => wrong[1].insert(sql),
            _ => continue,
        };
    }
    let [stored, built_in] = wrong;
    assert!(
        stored.is_empty() && built_in.is_empty(),
        "{version} takes for stored functions {stored:#?} and has of its own {built_in:#?}"
    );
}

/// Since 9.6 MySQL has them in a component only. Where that is not installed a stored function may have the name, but they
/// are too common in reads to doubt every one.
const IN_A_COMPONENT: [&str; 3] = ["md5", "sha", "sha1"];

/// Every name in the lists of the sources, and every word and function that the server tells of.
async fn names(conn: &mut Conn) -> BTreeSet<String> {
    let literals = include_str!("../src/sql/functions.rs").split('"').skip(1).step_by(2);
    let mut names: BTreeSet<String> = literals.map(str::to_owned).collect();
    for name in IN_A_COMPONENT {
        names.remove(name);
    }
    names.extend(
        conn.query::<String, _>("SELECT WORD FROM information_schema.KEYWORDS").await.expect("it has them"),
    );
    // MySQL has no such table.
    names.extend(
        conn.query::<String, _>("SELECT `FUNCTION` FROM information_schema.SQL_FUNCTIONS")
            .await
            .unwrap_or_default(),
    );
    names
        .into_iter()
        .map(|name| name.to_ascii_lowercase())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        // Galera's.
        .filter(|name| !name.starts_with("wsrep_"))
        .collect()
}

/// What a server takes the name in a call for.
enum Found {
    /// A stored function, which this server has not.
    Stored,
    BuiltIn,
}

/// None for what is no call of a function.
async fn ask(conn: &mut Conn, sql: &str) -> Option<Found> {
    match conn.query_drop(format!("PREPARE p FROM '{sql}'")).await {
        // ER_PARSE_ERROR.
        Err(Error::Server(error)) if error.code == 1064 => None,
        // ER_SP_DOES_NOT_EXIST, ER_FUNC_INEXISTENT_NAME_COLLISION.
        Err(Error::Server(error)) if matches!(error.code, 1305 | 1630) => Some(Found::Stored),
        Err(Error::Server(_)) | Ok(()) => Some(Found::BuiltIn),
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// The route and the reason of each statement, by a server of this version.
async fn explain(version: &str, statements: impl Iterator<Item = &str>) -> Vec<String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_readwright"))
        .args(["explain", "--file", "-", "--server-version", version])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("cargo built it");
    let mut input = child.stdin.take().expect("piped");
    let lines: String = statements.flat_map(|sql| [sql, "\n"]).collect();
    let write = async move { input.write_all(lines.as_bytes()).await.expect("it reads") };
    let both = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = timeout(Duration::from_secs(120), both).await.expect("in time").expect("it runs");
    let said = String::from_utf8(output.stdout).expect("as it was written");
    said.lines().map(|line| line.rsplit_once('\t').expect("three columns").0.to_owned()).collect()
}
