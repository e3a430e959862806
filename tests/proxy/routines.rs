//! Stored functions and procedures: what the proxy learns of them, and what it does with it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::support::cluster::{APP, Cluster, ROOT};
use super::support::proxy::Proxy;
use super::support::raw::{Outcome, Raw, USUAL};
use super::{make_homes, own_table, proxy, run};

/// The low byte of the number that a prepared statement gives.
async fn executed(client: &mut Raw, id: u32) -> u8 {
    match &client.execute(id, 0, &[], &[], &[]).await[..] {
        // Behind the header and the bits of the NULLs.
        [Outcome::Rows { rows, .. }] => rows[0][2],
        other => panic!("{other:?}"),
    }
}

/// Asks until this is the answer: on a busy machine a routine is known a moment after its maker has the answer.
async fn until(client: &mut Raw, sql: &str, answer: &str) {
    let patience = Instant::now() + Duration::from_secs(60);
    while client.text(sql).await != answer {
        assert!(Instant::now() < patience, "{sql} is not {answer}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn functions_that_only_read_run_on_replicas_until_they_do_more() {
    run(async {
        let proxy = proxy().await;
        let mut maker = Raw::connect(proxy.port(), ROOT, USUAL).await;
        let mut client = Raw::connect(proxy.port(), APP, USUAL).await;
        let here = |extra: &str| {
            format!(
                "CREATE FUNCTION d.here() RETURNS BIGINT READS SQL DATA BEGIN {extra} RETURN (SELECT server FROM d.home); END"
            )
        };
        maker.run(&here("")).await;
        let there = "SELECT d.here() > 0";
        until(&mut maker, there, "1").await;
        // Another session may be ahead of the replica.
        Cluster::shared().await.caught_up().await;
        assert_eq!(client.text(there).await, "1");
        client.run("USE d").await;
        assert_eq!(client.text("SELECT HERE() > 0 FROM d.one WHERE id = 1").await, "1");
        let prepared = client.prepare(there).await.expect("it can be prepared");
        assert_eq!(executed(&mut client, prepared.id).await, 1);
        assert_eq!(client.text("SELECT d.here() > 0 FROM d.one WHERE id = 1 FOR UPDATE").await, "0");
        maker.run("DROP FUNCTION d.here").await;
        maker.run(&here("SET @here = 1;")).await;
        until(&mut client, there, "0").await;
        assert_eq!(executed(&mut client, prepared.id).await, 0);
        // Made past the proxy: it looks again by itself. What is not known yet ties a session to the primary.
        let cluster = Cluster::shared().await;
        let body = "RETURNS BIGINT READS SQL DATA RETURN (SELECT server FROM d.home)";
        cluster.script(&format!("CREATE FUNCTION d.past() {body}")).await;
        let patience = Instant::now() + Duration::from_secs(120);
        loop {
            let mut client = Raw::connect(proxy.port(), APP, USUAL).await;
            if client.text("SELECT d.past() > 0").await == "1" {
                break;
            }
            assert!(Instant::now() < patience, "a new function is not noticed");
            sleep(Duration::from_millis(250)).await;
        }
    });
}

#[test]
fn a_lock_that_a_routine_takes_holds_the_session() {
    run(async {
        let proxy = proxy().await;
        own_table("locking").await;
        let mut maker = Raw::connect(proxy.port(), ROOT, USUAL).await;
        for sql in [
            "CREATE FUNCTION d.takes(name TEXT) RETURNS INT DETERMINISTIC RETURN GET_LOCK(name, 0)",
            "CREATE PROCEDURE d.takes_too(name TEXT) DO takes(name)",
        ] {
            maker.run(sql).await;
        }
        let mut client = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        for (name, sql) in [
            ("called", "CALL d.takes_too('called')"),
            ("selected", "SELECT d.takes('selected')"),
            ("in a write", "UPDATE d.locking SET t = d.takes('in a write') WHERE id = 2"),
        ] {
            client.query_all(sql).await;
            // Longer than a session keeps a connection without need.
            sleep(Duration::from_millis(200)).await;
            other.text("SELECT t FROM d.one WHERE id = 1 FOR UPDATE").await;
            let ours = format!("SELECT IS_USED_LOCK('{name}') = 0 + CONNECTION_ID()");
            assert_eq!(client.text(&ours).await, "1", "{sql}");
            assert_eq!(other.text(&format!("SELECT IS_FREE_LOCK('{name}')")).await, "0", "{sql}");
            assert_eq!(client.text("SELECT RELEASE_ALL_LOCKS()").await, "1", "{sql}");
            assert_eq!(other.text(&format!("SELECT IS_FREE_LOCK('{name}')")).await, "1", "{sql}");
        }
        // It goes with the session.
        client.query_all("CALL d.takes_too('left')").await;
        drop(client);
        let patience = Instant::now() + Duration::from_secs(60);
        while other.text("SELECT IS_FREE_LOCK('left')").await != "1" {
            assert!(Instant::now() < patience, "the lock of a session that is gone is held");
            sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn a_lock_that_a_trigger_takes_holds_the_session() {
    run(async {
        // With such a trigger there are questions behind all writes: not beside other tests.
        let cluster = Cluster::start(0).await;
        let proxy = Proxy::start(&cluster, "").await;
        let mut maker = Raw::connect(proxy.port(), ROOT, USUAL).await;
        for sql in [
            "CREATE DATABASE d",
            "CREATE TABLE d.held (name TEXT, n INT)",
            "CREATE TRIGGER d.takes BEFORE INSERT ON d.held FOR EACH ROW SET NEW.n = GET_LOCK(NEW.name, 0)",
        ] {
            maker.run(sql).await;
        }
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        // On a busy machine the trigger may be known a moment later.
        let patience = Instant::now() + Duration::from_secs(60);
        for name in 0.. {
            let mut client = Raw::connect(proxy.port(), APP, USUAL).await;
            client.run(&format!("INSERT INTO d.held (name) VALUES ('{name}')")).await;
            // Longer than a session keeps a connection without need, and then somebody has it.
            sleep(Duration::from_millis(200)).await;
            other.run("BEGIN").await;
            let ours = client.text(&format!("SELECT IS_USED_LOCK('{name}') = 0 + CONNECTION_ID()")).await;
            other.run("COMMIT").await;
            if ours == "1" {
                assert_eq!(client.text(&format!("SELECT RELEASE_LOCK('{name}')")).await, "1");
                break;
            }
            assert!(Instant::now() < patience, "the session is not held");
        }
        drop(proxy);
        cluster.close().await;
    });
}

#[test]
fn a_session_that_has_no_lock_is_not_held() {
    run(async {
        // One session at a time has its locks counted: not beside other tests.
        let cluster = Cluster::start(1).await;
        cluster.script("CREATE DATABASE d").await;
        make_homes(&cluster).await;
        let proxy = Proxy::start(&cluster, "").await;
        let mut maker = Raw::connect(proxy.port(), ROOT, USUAL).await;
        for sql in [
            "CREATE PROCEDURE d.takes_one(name TEXT) DO GET_LOCK(name, 0)",
            "CREATE PROCEDURE d.lets_go(name TEXT) DO RELEASE_LOCK(name)",
            "CREATE FUNCTION d.passes(name TEXT) RETURNS INT DETERMINISTIC RETURN GET_LOCK(name, 0) + RELEASE_LOCK(name)",
        ] {
            maker.run(sql).await;
        }
        const WHERE: &str = "SELECT server > 0 FROM d.home";
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            // What is not known yet ties a session to the primary.
            let mut early = Raw::connect(proxy.port(), APP, USUAL).await;
            early.text("SELECT d.passes('early')").await;
            if early.text(WHERE).await == "1" {
                break;
            }
            assert!(Instant::now() < patience, "the routines are not known");
        }
        let mut client = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        assert_eq!(other.text("SELECT GET_LOCK('theirs', 0)").await, "1");
        // It has its locks counted behind the answer, and before the next one.
        other.run("DO 1").await;
        for (sql, is_free) in [
            ("SELECT d.passes('ours')", "1"),
            ("SELECT GET_LOCK('theirs', 0)", "1"),
            ("CALL d.takes_one('ours')", "0"),
            ("SELECT GET_LOCK('theirs', 0)", "0"),
            ("CALL d.lets_go('nobody''s')", "0"),
            ("CALL d.lets_go('ours')", "1"),
            ("SELECT GET_LOCK(CONCAT('ou', 'rs'), 0)", "0"),
            ("SELECT RELEASE_LOCK(CONCAT('ou', 'rs'))", "1"),
        ] {
            client.query_all(sql).await;
            assert_eq!(client.text(WHERE).await, is_free, "{sql}");
        }
        assert_eq!(other.text("SELECT RELEASE_LOCK('theirs')").await, "1");
    });
}
