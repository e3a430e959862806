//! What a statement leaves to the next one of its session: numbers, and state of which its own answer has not told.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use super::support::cluster::{APP, Account, Cluster, ROOT};
use super::support::proxy::Proxy;
use super::support::raw::{Outcome, Raw, USUAL, command, flag};
use super::{make_homes, proxy, run};

/// The status flag SERVER_STATUS_AUTOCOMMIT.
const AUTOCOMMIT: u16 = 2;
/// Longer than a session keeps a connection without need.
const IDLE: Duration = Duration::from_millis(200);

#[test]
fn what_a_failed_write_has_set_is_kept() {
    run(async {
        let proxy = proxy().await;
        let cluster = Cluster::shared().await;
        // Its own user, so that its commands can be told from those of other tests.
        let account = Account { user: "fails", password: "fails-password" };
        cluster
            .script(
                "CREATE USER fails IDENTIFIED BY 'fails-password'; GRANT ALL ON *.* TO fails; \
                 CREATE TABLE d.strict (id INT PRIMARY KEY, a INT); INSERT INTO d.strict VALUES (1, 0); \
                 CREATE TRIGGER d.leaves BEFORE INSERT ON d.strict FOR EACH ROW SET @left = NEW.a; \
                 CREATE TABLE d.unique (id INT PRIMARY KEY); INSERT INTO d.unique VALUES (1)",
            )
            .await;
        for (left, next) in [
            "SELECT server > 0 FROM d.home",
            "SELECT ROW_COUNT()",
            "SHOW WARNINGS",
            "UPDATE d.strict SET a = 1 WHERE id = 2",
            "INSERT INTO d.unique VALUES (1)",
            "SELECT nope FROM d.strict FOR UPDATE",
            "SET @more = 1",
            "SET time_zone = '+01:00'",
            "BEGIN; COMMIT",
            "SELECT LAST_INSERT_ID()",
            "",
        ]
        .iter()
        .enumerate()
        {
            for around in [["DO 0", "DO 0"], ["BEGIN", "COMMIT"]] {
                let mut raw = Raw::connect(proxy.port(), account, USUAL).await;
                raw.run(around[0]).await;
                let refused = raw.refused(&format!("INSERT INTO d.strict VALUES (1, {left})")).await;
                assert_eq!(refused.code, 1062);
                raw.query_all(next).await;
                raw.query_all(around[1]).await;
                sleep(IDLE).await;
                raw.text("SELECT server FROM d.home").await;
                assert_eq!(raw.text("SELECT @left").await, left.to_string(), "{around:?} {next}");
            }
        }
        // The transaction that a statement has begun before it failed goes on.
        let mut raw = Raw::connect(proxy.port(), account, USUAL).await;
        raw.run("SET autocommit = 0").await;
        raw.refused("INSERT INTO d.unique VALUES (1)").await;
        raw.run("INSERT INTO d.unique VALUES (2)").await;
        assert_eq!(raw.text("SELECT server FROM d.home WHERE 2 = (SELECT MAX(id) FROM d.unique)").await, "0");
        raw.run("ROLLBACK").await;
    });
}

/// A CALL that begins no transaction leaves what SET TRANSACTION has said to the next statement, which may run elsewhere.
#[test]
fn what_was_said_for_a_transaction_is_over_when_it_is() {
    run(async {
        // Not beside other tests, who would have connections taken away for want of more.
        let cluster = Cluster::start(1).await;
        cluster
            .script(
                "CREATE DATABASE d; CREATE TABLE d.said (id INT AUTO_INCREMENT PRIMARY KEY); CREATE PROCEDURE d.nothing() BEGIN END",
            )
            .await;
        make_homes(&cluster).await;
        let proxy = Proxy::start(&cluster, "").await;
        for capabilities in [USUAL, USUAL & !flag::DEPRECATE_EOF] {
            let mut raw = Raw::connect(proxy.port(), APP, capabilities).await;
            // Its connection has a LAST_INSERT_ID(), and so is kept beside the one of the read.
            let id = raw.run("INSERT INTO d.said VALUES ()").await.last_insert_id;
            raw.run("SET TRANSACTION READ ONLY").await;
            raw.run("CALL d.nothing()").await;
            assert_eq!(raw.text("SELECT server > 0 FROM d.home").await, "1");
            raw.run("INSERT INTO d.said VALUES ()").await;
            assert_eq!(raw.text("SELECT LAST_INSERT_ID()").await, (id + 1).to_string());
        }
    });
}

#[test]
fn what_is_committed_by_a_statement_that_fails_is_read() {
    run(async {
        // Not beside other tests, who would wait for the replicas.
        let cluster = Cluster::start(2).await;
        cluster.script("CREATE DATABASE d; CREATE TABLE d.ended (id INT AUTO_INCREMENT PRIMARY KEY)").await;
        let proxy = Proxy::start(&cluster, "routing: {gtid_wait_ms: 1000}").await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        for (number, fails) in
            ["TRUNCATE d.nothing", "CREATE TABLE d.ended (id INT)", "LOCK TABLES d.nothing READ"]
                .iter()
                .enumerate()
        {
            raw.run("BEGIN").await;
            // No replica has it for a while.
            let mut roots = Vec::new();
            for ordinal in [1, 2] {
                let mut root = cluster.connect(ordinal, ROOT).await;
                root.query_drop("LOCK TABLES d.ended READ").await.expect("root may");
                roots.push(root);
            }
            raw.run("INSERT INTO d.ended VALUES ()").await;
            raw.query(fails).await;
            raw.command(command::PING, b"").await;
            let Outcome::Done(done) = raw.outcome().await else { panic!("a PING is answered by OK") };
            assert_eq!(done.status, AUTOCOMMIT, "{fails}");
            assert_eq!(raw.text("SELECT COUNT(*) FROM d.ended").await, (number + 1).to_string(), "{fails}");
            for root in &mut roots {
                root.query_drop("UNLOCK TABLES").await.expect("root may");
            }
        }
    });
}

#[test]
fn what_is_learned_of_a_replica_is_not_left_there() {
    run(async {
        proxy().await;
        let narrow =
            Proxy::start(Cluster::shared().await, "pool: {max_per_server: 1, linger_ms: 1000}").await;
        let mut one = Raw::connect(narrow.port(), APP, USUAL).await;
        let mut other = Raw::connect(narrow.port(), APP, USUAL).await;
        for _ in 0..4 {
            // Replicas that other tests keep busy may be behind for a while.
            while one.text("SELECT server > 0 FROM d.home").await == "0" {
                sleep(IDLE).await;
            }
            one.run("GET DIAGNOSTICS @learned = NUMBER").await;
            one.run("UPDATE d.one SET t = t WHERE id = 0").await;
            for _ in 0..8 {
                assert_eq!(other.text("SELECT IFNULL(@learned, 'none') FROM d.home").await, "none");
            }
            assert_eq!(one.text("SELECT @learned FROM d.home").await, "0");
        }
    });
}

#[test]
fn writes_that_fail_cost_no_question() {
    run(async {
        let proxy = proxy().await;
        let cluster = Cluster::shared().await;
        let account = Account { user: "asks_nothing", password: "asks-nothing" };
        cluster
            .script(
                "CREATE USER asks_nothing IDENTIFIED BY 'asks-nothing'; GRANT ALL ON *.* TO asks_nothing; \
                 CREATE TABLE d.keys (id INT PRIMARY KEY); INSERT INTO d.keys VALUES (1)",
            )
            .await;
        let mut raw = Raw::connect(proxy.port(), account, USUAL).await;
        let (taken, free) = ("INSERT INTO d.keys VALUES (1)", "INSERT INTO d.keys VALUES (2)");
        let mark = cluster.mark();
        for sql in [taken, taken, "UPDATE d.keys SET id = 1 + SLEEP(0) WHERE id = 1", taken] {
            raw.query(sql).await;
        }
        raw.run("BEGIN").await;
        raw.refused(taken).await;
        assert_eq!(raw.text("SELECT 1").await, "1");
        raw.refused(taken).await;
        raw.run("ROLLBACK").await;
        raw.refused(taken).await;
        raw.run(free).await;
        let ran = cluster.ran_since(&mark, account.user);
        let texts: Vec<&str> = ran.iter().map(|ran| ran.text.as_str()).collect();
        assert_eq!(ran.iter().filter(|ran| ran.command == "Ping").count(), 0, "{texts:?}");
        assert_eq!(texts.iter().filter(|text| **text == taken).count(), 6, "{texts:?}");
    });
}

#[test]
fn found_rows_are_the_sessions_own() {
    run(async {
        proxy().await;
        let cluster = Cluster::shared().await;
        cluster
            .script(
                "CREATE TABLE d.found (id INT PRIMARY KEY); INSERT INTO d.found VALUES (1), (2), (3), (4);\n\
                 DELIMITER //\n\
                 CREATE PROCEDURE d.finds() BEGIN SELECT SQL_CALC_FOUND_ROWS id FROM d.found LIMIT 1; END//\n\
                 CREATE PROCEDURE d.finds_and_fails() BEGIN DO 1; SIGNAL SQLSTATE '45000'; END//\n\
                 CREATE FUNCTION d.third(id INT) RETURNS INT DETERMINISTIC NO SQL \
                 BEGIN IF id = 3 THEN SIGNAL SQLSTATE '45000'; END IF; RETURN id; END//",
            )
            .await;
        // One connection to each server: what is left on it the other client's next statement overwrites.
        // Nor are replicas waited for that other tests keep busy.
        let narrow = "pool: {max_per_server: 1, linger_ms: 0}\nrouting: {gtid_wait_ms: 50}";
        let narrow = Proxy::start(cluster, narrow).await;
        let calculated = "SELECT SQL_CALC_FOUND_ROWS id FROM d.found WHERE id > 1 LIMIT 1";
        for (sql, found) in [
            ("SELECT id FROM d.found", "4"),
            (calculated, "3"),
            ("CALL d.finds()", "4"),
            ("CALL d.finds_and_fails()", "1"),
            ("DO 1", "1"),
            // Those that fail leave what was there.
            ("SELECT nope FROM d.found", "2"),
            ("SELECT id, d.third(id) FROM d.found ORDER BY id", "2"),
            ("INSERT INTO d.found VALUES (1)", "2"),
            ("SELEC", "2"),
            ("SELECT id FROM d.found; SELECT nope", "4"),
        ] {
            for flags in [USUAL, USUAL & !flag::DEPRECATE_EOF] {
                let mut one = Raw::connect(narrow.port(), APP, flags).await;
                let mut other = Raw::connect(narrow.port(), APP, flags).await;
                // A CALL from another schema would keep its connection: the server reports a change of state for the switch.
                one.run("USE d").await;
                one.query("SELECT id FROM d.found WHERE id < 3").await;
                one.query_all(sql).await;
                for elsewhere in ["SELECT 1 FROM d.home", "UPDATE d.found SET id = 1 WHERE id = 1"] {
                    other.query(elsewhere).await;
                }
                one.run("SET @x = 1").await;
                other.query("SELECT 1 FROM d.home").await;
                assert_eq!(one.text("SELECT FOUND_ROWS()").await, found, "{sql}");
            }
        }
    });
}

/// Questions of ours come between a statement and the next one that asks for its count.
#[test]
fn row_counts_are_the_sessions_own() {
    run(async {
        let proxy = proxy().await;
        Cluster::shared().await.script("CREATE TABLE d.counted (id INT PRIMARY KEY)").await;
        let mut client = Raw::connect(proxy.port(), APP, USUAL).await;
        for (sql, expression, expected) in [
            ("INSERT INTO d.counted VALUES (1), (2)", "ROW_COUNT() + LAST_INSERT_ID()", "2"),
            ("UPDATE d.counted SET nope = 1", "ROW_COUNT()", "-1"),
            ("DELETE FROM d.counted; UPDATE d.counted SET nope = 1", "ROW_COUNT()", "-1"),
        ] {
            client.query_all(sql).await;
            client.run(&format!("SET @n = {expression}")).await;
            assert_eq!(client.text("SELECT @n").await, expected, "{sql}");
        }
    });
}

/// COM_INIT_DB leaves the conditions of the statement before it.
#[test]
fn the_conditions_of_a_text_that_fails_are_kept() {
    run(async {
        let proxy = proxy().await;
        let mut client = Raw::connect(proxy.port(), APP, USUAL).await;
        client.query_all("DO 1; UPDATE d.one SET nope = 1").await;
        client.command(command::INIT_DB, b"nowhere").await;
        assert!(matches!(client.outcome().await, Outcome::Refused(refusal) if refusal.code == 1049));
        let Outcome::Rows { rows, .. } = client.query("SHOW WARNINGS").await else { panic!("no rows") };
        assert_eq!(rows.len(), 2, "{rows:?}");
    });
}

/// The variable binds the session for a moment, the locks of the same text for longer.
#[test]
fn what_a_text_that_fails_has_locked_is_kept() {
    run(async {
        let proxy = proxy().await;
        Cluster::shared().await.script("CREATE TABLE d.locked (id INT PRIMARY KEY)").await;
        let mut client = Raw::connect(proxy.port(), APP, USUAL).await;
        client.query_all("SET @b = @a + 1; LOCK TABLES d.locked READ; SELECT nope FROM d.locked").await;
        client.run("SET @b = 2").await;
        assert_eq!(client.refused("SELECT * FROM d.home").await.code, 1100, "it was not locked");
    });
}

/// LOAD DATA makes numbers of which its answer does not tell.
#[test]
fn what_is_loaded_counts_for_last_insert_id() {
    run(async {
        let proxy = proxy().await;
        Cluster::shared()
            .await
            .script("SET GLOBAL local_infile = ON; CREATE TABLE d.counted_load (id INT AUTO_INCREMENT PRIMARY KEY, a INT)")
            .await;
        let mut client = Raw::connect(proxy.port(), APP, USUAL | flag::LOCAL_FILES).await;
        for (number, last) in [(7, ""), (8, "; SELECT COUNT(*) FROM d.counted_load")] {
            let sql = format!("LOAD DATA LOCAL INFILE 'rows' INTO TABLE d.counted_load (a){last}");
            client.send_query(sql.as_bytes()).await;
            assert!(matches!(client.outcome().await, Outcome::Infile(_)));
            client.continue_with(format!("{number}\n{number}\n").as_bytes()).await;
            client.continue_with(b"").await;
            client.outcomes().await;
            let first = format!("SELECT MIN(id) = LAST_INSERT_ID() FROM d.counted_load WHERE a = {number}");
            assert_eq!(client.text(&first).await, "1", "{sql}");
        }
    });
}

#[test]
fn what_a_hint_has_set_for_a_read_that_fails_costs_no_connection() {
    run(async {
        let mut raw = Raw::connect(proxy().await.port(), APP, USUAL).await;
        for _ in 0..10 {
            let hinted = "SELECT /*+ SET_VAR(max_sort_length = 23) */ @@max_sort_length, a FROM d.nothing";
            assert_eq!(raw.refused(hinted).await.code, 1146);
            let _ = raw.prepare("SELECT server FROM d.home WHERE server > ?").await;
            // The server tells of the hint later: here when it is asked what EXECUTE, which failed on a replica, has left.
            sleep(IDLE).await;
            assert_eq!(raw.refused("EXECUTE nothing USING @a").await.code, 1243);
        }
    });
}
