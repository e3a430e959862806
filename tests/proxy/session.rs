//! What belongs to a session: it is there wherever the session's statements run, and nobody else ever sees it.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::time::{Instant, sleep};

use super::support::cluster::{APP, Account, Cluster, ROOT};
use super::support::proxy::Proxy;
use super::support::raw::{Outcome, Raw, USUAL, command, flag, string};
use super::{own_table, proxy, run};

/// What the session looks like, on whichever server.
const LOOK: &str = "SELECT CONCAT_WS('|', DATABASE(), @@sql_mode, @@time_zone, @@character_set_client, \
     @@collation_connection, @@transaction_isolation, @@autocommit, @@foreign_key_checks, @a, @b, @@sql_safe_updates)";

const SET_UP: [&str; 10] = [
    "USE d",
    "SET NAMES latin1",
    "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
    "SET time_zone = '+05:30'",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET autocommit = 0",
    "SET foreign_key_checks = 0",
    "SET @a = 1, @b = 'it''s'",
    "SET sql_safe_updates = 1",
    "SET max_execution_time = 12345",
];

/// A proxy with one connection to each server, so that all sessions of a test share it.
async fn narrow() -> Proxy {
    proxy().await;
    Proxy::start(Cluster::shared().await, "pool: {max_per_server: 1, linger_ms: 0}").await
}

/// `LOOK` on both kinds of server.
async fn look(raw: &mut Raw) -> String {
    let read = format!("{LOOK} FROM d.home");
    let seen = raw.text(&read).await;
    assert_eq!(raw.text(&format!("{read} FOR UPDATE")).await, seen);
    seen
}

#[test]
fn settings_and_freshness_together_come_before_a_read_only_transaction() {
    run(async {
        proxy().await;
        let proxy = Proxy::start(Cluster::shared().await, "routing: {consistency: global}").await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        for mode in ["ANSI_QUOTES", "NO_ZERO_DATE"] {
            raw.run(&format!("SET sql_mode = '{mode}'")).await;
            raw.run("UPDATE d.one SET t = t WHERE id = 0").await;
            raw.run("START TRANSACTION READ ONLY").await;
            assert_eq!(
                raw.text("SELECT CONCAT_WS(' ', @@sql_mode, server > 0) FROM d.home").await,
                format!("{mode} 1")
            );
            raw.run("COMMIT").await;
        }
    });
}

#[test]
fn a_read_only_transaction_goes_on_where_the_server_would_go_on() {
    /// In a transaction, and a read-only one.
    const FLAGS: u16 = 0x2001;
    run(async {
        own_table("ending").await;
        let mut raw = Raw::connect(proxy().await.port(), APP, USUAL).await;
        raw.run("START TRANSACTION READ ONLY").await;
        raw.command(command::PING, b"").await;
        let Outcome::Done(ping) = raw.outcome().await else { panic!("PING is answered by OK") };
        assert_eq!(ping.status & FLAGS, FLAGS);
        for sql in ["UNLOCK INSTANCE", "UNLOCK TABLES"] {
            assert_eq!(raw.run(sql).await.status & FLAGS, FLAGS, "{sql}");
        }
        for sql in [
            "ALTER TABLE d.ending COMMENT 'x'",
            "LOCK TABLES d.ending READ",
            "FLUSH TABLES d.ending WITH READ LOCK",
            "FLUSH STATUS",
        ] {
            raw.run("START TRANSACTION READ ONLY").await;
            assert_eq!(raw.run(sql).await.status & FLAGS, 0, "{sql}");
            raw.run("UNLOCK TABLES").await;
        }
        // What has read nothing goes on at the primary; what has read stays, and only what would do harm there is refused.
        const WHERE: &str = "SELECT server FROM d.home";
        for (sql, harms) in [
            ("SELECT GET_LOCK('here', 0)", true),
            ("SET GLOBAL sort_buffer_size = 262144", true),
            ("LOCK INSTANCE FOR BACKUP", true),
            ("PREPARE p FROM 'SELECT 1'", false),
        ] {
            raw.run("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await;
            raw.run("START TRANSACTION READ ONLY").await;
            raw.query(sql).await;
            assert_eq!(raw.text(WHERE).await, "0", "{sql}");
            assert_eq!(raw.refused("UPDATE d.one SET t = t WHERE id = 1").await.code, 1792, "{sql}");
            raw.command(command::PING, b"").await;
            let Outcome::Done(ping) = raw.outcome().await else { panic!("PING is answered by OK") };
            assert_eq!(ping.status & FLAGS, FLAGS, "{sql}");
            raw.run("COMMIT").await;
            raw.run("UNLOCK INSTANCE").await;
            raw.text("SELECT RELEASE_ALL_LOCKS()").await;
            raw.command(command::RESET_CONNECTION, b"").await;
            assert_eq!(raw.packet().await[0], 0);
            raw.run("START TRANSACTION READ ONLY").await;
            assert_ne!(raw.text(WHERE).await, "0", "{sql}");
            match raw.query(sql).await {
                Outcome::Refused(refusal) => assert!(harms && refusal.code == 1792, "{sql}: {refusal:?}"),
                _ => assert!(!harms, "{sql}"),
            }
            assert_ne!(raw.text(WHERE).await, "0", "{sql}");
            raw.run("COMMIT").await;
            raw.command(command::RESET_CONNECTION, b"").await;
            assert_eq!(raw.packet().await[0], 0);
        }
        // A transaction that begins within a read-only one is one too, unless it says otherwise.
        raw.run("START TRANSACTION READ ONLY").await;
        assert_eq!(raw.run("BEGIN").await.status & FLAGS, FLAGS);
        assert_ne!(raw.text(WHERE).await, "0");
        // What is refused behind results is refused in the same words.
        let outcomes = raw.query_all(&format!("{WHERE}; UPDATE d.one SET t = t WHERE id = 1")).await;
        let [Outcome::Rows { .. }, Outcome::Refused(refusal)] = &outcomes[..] else { panic!("{outcomes:?}") };
        assert_eq!((refusal.code, &*refusal.state), (1792, "25006"), "{}", refusal.text);
        assert_eq!(raw.run("START TRANSACTION READ WRITE").await.status & FLAGS, 1);
        raw.run("UPDATE d.one SET t = t WHERE id = 1").await;
        raw.run("ROLLBACK").await;
    });
}

#[test]
fn a_setting_for_the_next_transaction_is_the_sessions_own() {
    const WRITE: &str = "UPDATE d.one SET t = t WHERE id = 0";
    run(async {
        let proxy = narrow().await;
        let mut one = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        // Said in a text that fails before any transaction, by a session that then does nothing more.
        one.query_all("SET TRANSACTION READ ONLY; SELECT nope FROM d.one FOR UPDATE").await;
        one.command(command::RESET_CONNECTION, b"").await;
        assert_eq!(one.packet().await[0], 0);
        other.run(WRITE).await;
        // Said alone, as text and prepared, and while the session is bound to its connection.
        let prepared = one.prepare("SET TRANSACTION READ ONLY").await.expect("it can be prepared");
        for (bound, by_text) in [(false, true), (false, false), (true, true), (true, false)] {
            if bound {
                assert_eq!(one.text("SELECT GET_LOCK('next', 0)").await, "1");
            }
            one.query("SELECT 1/0").await;
            match by_text {
                true => drop(one.run("SET TRANSACTION READ ONLY").await),
                false => drop(one.execute(prepared.id, 0, &[], &[], &[]).await),
            }
            let Outcome::Rows { rows, .. } = one.query("SHOW WARNINGS").await else { panic!("no rows") };
            assert_eq!(rows.len(), 0);
            if !bound {
                other.run(WRITE).await;
            }
            assert_eq!(one.refused(WRITE).await.code, 1792, "{bound} {by_text}");
            one.text("SELECT RELEASE_ALL_LOCKS()").await;
            // What was refused has begun no transaction, and the setting is still there for one.
            one.run("START TRANSACTION").await;
            one.run("COMMIT").await;
            one.run(WRITE).await;
        }
    });
}

/// What a procedure does before it fails, or without a word in the statement, is the session's own all the same.
#[test]
fn a_procedure_leaves_nothing_to_others() {
    const SET_UP: [&str; 6] = [
        "CREATE TABLE d.remains (n INT)",
        "CREATE PROCEDURE d.begins_and_fails() BEGIN START TRANSACTION; INSERT INTO d.remains VALUES (1); SIGNAL SQLSTATE '45000'; END",
        "CREATE PROCEDURE d.writes_and_fails() BEGIN INSERT INTO d.remains VALUES (2); SIGNAL SQLSTATE '45000'; END",
        "CREATE PROCEDURE d.sets_and_fails() BEGIN SET @a = 'left', time_zone = '+03:00'; SIGNAL SQLSTATE '45000'; END",
        "CREATE PROCEDURE d.prepares() SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",
        "CREATE PROCEDURE d.prepares_and_fails() BEGIN SET TRANSACTION READ ONLY; SIGNAL SQLSTATE '45000'; END",
    ];
    const CALLS: [&str; 4] = [
        "CALL d.begins_and_fails()",
        "CALL d.sets_and_fails()",
        "CALL d.prepares()",
        "CALL d.prepares_and_fails()",
    ];
    const WRITE: &str = "INSERT INTO d.remains (n) VALUES (3)";
    run(async {
        let proxy = narrow().await;
        let cluster = Cluster::shared().await;
        let mut root = cluster.connect(0, ROOT).await;
        for sql in SET_UP {
            root.query_drop(sql).await.expect("root may");
        }
        cluster.caught_up().await;
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        let untouched = look(&mut other).await;
        for call in CALLS {
            let mut one = Raw::connect(proxy.port(), APP, USUAL).await;
            one.query(call).await;
            drop(one);
            other.run(WRITE).await;
            assert_eq!(look(&mut other).await, untouched, "{call}");
            let seen: Option<u64> =
                root.query_first("SELECT COUNT(*) FROM d.remains WHERE n = 3").await.expect("root may");
            root.query_drop("DELETE FROM d.remains").await.expect("root may");
            assert_eq!(seen, Some(1), "{call}: it is committed");
        }
        // The session itself goes on as on a server.
        let mut one = Raw::connect(proxy.port(), APP, USUAL).await;
        one.refused("CALL d.begins_and_fails()").await;
        assert_eq!(one.text("SELECT COUNT(*) FROM d.remains").await, "1");
        one.run("ROLLBACK").await;
        assert_eq!(one.text("SELECT COUNT(*) FROM d.remains").await, "0");
        one.refused("CALL d.writes_and_fails()").await;
        assert_eq!(one.text("SELECT COUNT(*) FROM d.remains").await, "1", "a session sees its own writes");
        for call in ["CALL d.prepares()", "CALL d.prepares_and_fails()"] {
            one.query(call).await;
            one.run("SET @b = 1").await;
            assert_eq!(one.refused(WRITE).await.code, 1792, "{call}");
            one.run("COMMIT").await;
            one.run(WRITE).await;
        }
        one.refused("CALL d.sets_and_fails()").await;
        assert_eq!(one.text("SELECT CONCAT(@a, @@time_zone)").await, "left+03:00");
    });
}

#[test]
fn settings_follow_the_session_and_no_other() {
    run(async {
        let proxy = narrow().await;
        let mut fresh = Raw::connect(Cluster::shared().await.server(0).port(), APP, USUAL).await;
        let plain = look(&mut fresh).await;
        for sql in SET_UP {
            fresh.run(sql).await;
        }
        let expected = look(&mut fresh).await;
        fresh.command(command::RESET_CONNECTION, b"").await;
        assert_eq!(fresh.packet().await[0], 0);
        // The schema stays, and character sets are as the server has them, not as the login asked.
        let after_reset = look(&mut fresh).await;
        drop(fresh);
        let mut one = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        for sql in SET_UP {
            one.run(sql).await;
            one.run("COMMIT").await;
            assert_eq!(look(&mut other).await, plain, "after {sql}");
        }
        for _ in 0..4 {
            assert_eq!(look(&mut one).await, expected);
            one.run("COMMIT").await;
            assert_eq!(look(&mut other).await, plain);
        }
        // A reset takes all of it, prepared statements and locks too.
        one.run("CREATE TEMPORARY TABLE d.mine (i INT)").await;
        assert_eq!(one.text("SELECT GET_LOCK('reset', 0)").await, "1");
        one.command(command::RESET_CONNECTION, b"").await;
        assert_eq!(one.packet().await[0], 0);
        assert_eq!(look(&mut one).await, after_reset);
        assert_eq!(one.refused("SELECT * FROM d.mine").await.code, 1146);
        assert_eq!(other.text("SELECT IS_FREE_LOCK('reset')").await, "1");
        // So does the end of a session, whatever it leaves open.
        for sql in SET_UP {
            one.run(sql).await;
        }
        one.run("COMMIT").await;
        one.run("SET autocommit = 1").await;
        one.run("CREATE TEMPORARY TABLE d.mine (i INT)").await;
        one.run("BEGIN").await;
        one.run("INSERT INTO d.one VALUES (99, 'never')").await;
        assert_eq!(one.text("SELECT GET_LOCK('left', 0)").await, "1");
        drop(one);
        let patience = Instant::now() + Duration::from_secs(60);
        while other.text("SELECT IS_FREE_LOCK('left')").await != "1" {
            assert!(Instant::now() < patience, "the lock of a session that is gone is held");
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(look(&mut other).await, plain);
        assert_eq!(other.refused("SELECT * FROM d.mine").await.code, 1146);
        assert_eq!(other.text("SELECT COUNT(*) FROM d.one WHERE id = 99 FOR UPDATE").await, "0");
    });
}

/// The numbers of the collations that texts have, and the variables that say which character sets a session speaks.
async fn speech(raw: &mut Raw) -> String {
    const ASK: &str = "SELECT 'text', @@character_set_client, @@character_set_connection, \
         IFNULL(@@character_set_results, 'none'), @@collation_connection FROM d.home";
    let mut seen = String::new();
    for sql in [String::from(ASK), format!("{ASK} FOR UPDATE")] {
        let Outcome::Rows { columns, mut rows, .. } = raw.query(&sql).await else { panic!("{sql}") };
        let numbers: Vec<_> = columns.iter().map(|column| &column[column.len() - 12..][..2]).collect();
        // Rows of different servers are the same but for what they are read from.
        seen.push_str(&format!("{numbers:?} {}\n", rows.remove(0).escape_ascii()));
    }
    seen
}

#[test]
fn results_have_the_collation_that_the_session_wanted() {
    run(async {
        let proxy = narrow().await;
        let cluster = Cluster::shared().await;
        cluster.script("CREATE DATABASE d_bin COLLATE utf8mb4_bin").await;
        cluster.caught_up().await;
        let primary = cluster.server(0).port();
        for statements in [
            &[][..],
            &["SET collation_connection = utf8mb4_bin"],
            &["SET NAMES utf8mb4 COLLATE utf8mb4_bin"],
            &["SET NAMES utf8mb4 COLLATE utf8mb4_bin", "SET collation_connection = utf8mb4_general_ci"],
            &["SET NAMES latin1 COLLATE latin1_bin", "SET character_set_results = latin1"],
            &["SET NAMES latin1 COLLATE latin1_bin", "SET character_set_client = utf8mb4"],
            &["SET NAMES utf8mb4 COLLATE utf8mb4_bin, collation_connection = utf8mb4_general_ci"],
            &["SET CHARACTER SET DEFAULT", "SET collation_connection = utf8mb4_bin"],
            &["SET CHARACTER SET utf8mb4"],
            &["USE d_bin", "SET CHARACTER SET utf8mb4"],
            &["SET character_set_results = utf8mb4"],
            &["SET character_set_results = 46"],
            &["SET character_set_results = 46", "SET character_set_results = NULL"],
            &["SET NAMES binary"],
            &["SET character_set_results = ucs2", "SET character_set_connection = ucs2"],
        ] {
            let mut direct = Raw::connect(primary, APP, USUAL).await;
            let mut one = Raw::connect(proxy.port(), APP, USUAL).await;
            let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
            for sql in statements {
                direct.run(sql).await;
                one.run(sql).await;
                // The connection that they share is made to look like this one.
                other.run("SET NAMES latin1 COLLATE latin1_german1_ci").await;
                speech(&mut other).await;
            }
            assert_eq!(speech(&mut one).await, speech(&mut direct).await, "{statements:?}");
        }
    });
}

#[test]
fn insert_ids_and_warnings_are_the_sessions_own() {
    run(async {
        let proxy = proxy().await;
        let cluster = Cluster::shared().await;
        cluster
            .script(
                "CREATE TABLE d.ids (id INT AUTO_INCREMENT PRIMARY KEY, t TINYINT) AUTO_INCREMENT = 1000;\n\
                 DELIMITER //\nCREATE PROCEDURE d.inserts() BEGIN INSERT INTO d.ids (t) VALUES (7); END//",
            )
            .await;
        let mut one = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        assert_eq!(one.text("SELECT LAST_INSERT_ID()").await, "0");
        for (wait, value) in [(0, 1), (0, 2), (150, 3)] {
            let id = one.run(&format!("INSERT INTO d.ids (t) VALUES ({value})")).await.last_insert_id;
            other.run("INSERT INTO d.ids (t) VALUES (100)").await;
            // Right after it, after a read elsewhere, and when the connection has long been given back.
            assert_eq!(one.text("SELECT server > 0 FROM d.home").await.len(), 1);
            sleep(Duration::from_millis(wait)).await;
            assert_eq!(one.text("SELECT LAST_INSERT_ID()").await, id.to_string());
            assert_eq!(one.text("SELECT t FROM d.ids WHERE id = LAST_INSERT_ID()").await, value.to_string());
            assert_ne!(other.text("SELECT LAST_INSERT_ID()").await, id.to_string());
        }
        let mut direct = Raw::connect(cluster.server(0).port(), APP, USUAL).await;
        direct.run("CALL d.inserts()").await;
        one.run("CALL d.inserts()").await;
        let (there, here): (u64, u64) = (
            direct.text("SELECT LAST_INSERT_ID()").await.parse().unwrap(),
            one.text("SELECT LAST_INSERT_ID()").await.parse().unwrap(),
        );
        assert_eq!(here, there + 1);
        // The same in a transaction that reads on a replica, whose connection was another session's before.
        one.run("START TRANSACTION READ ONLY").await;
        assert_eq!(one.text("SELECT LAST_INSERT_ID()").await, here.to_string());
        one.run("COMMIT").await;
        assert_eq!(one.text("SELECT LAST_INSERT_ID(4711)").await, "4711");
        other.run("INSERT INTO d.ids (t) VALUES (100)").await;
        assert_eq!(one.text("SELECT LAST_INSERT_ID()").await, "4711");
        assert_eq!(one.refused("INSERT INTO d.ids (t) VALUES (1000)").await.code, 1264);
        match one.query("SHOW ERRORS").await {
            Outcome::Rows { rows, .. } => assert_eq!(rows.len(), 1),
            other => panic!("{other:?}"),
        }
        assert_eq!(one.text("SELECT CAST('x' AS SIGNED)").await, "0");
        match one.query("SHOW WARNINGS").await {
            Outcome::Rows { rows, .. } => assert_eq!(rows.len(), 1),
            other => panic!("{other:?}"),
        }
        match other.query("SHOW WARNINGS").await {
            Outcome::Rows { rows, .. } => assert_eq!(rows.len(), 0),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn session_changes_are_shown_to_those_who_ask() {
    run(async {
        let proxy = proxy().await;
        own_table("changed").await;
        // `Raw` panics when it sees any without the flag.
        let mut without = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut with = Raw::connect(proxy.port(), APP, USUAL | flag::SESSION_TRACK).await;
        for raw in [&mut without, &mut with] {
            for sql in [
                "USE d",
                "SET autocommit = 1",
                "SET NAMES utf8mb4",
                "SET @x = 1",
                "UPDATE d.changed SET t = 'ONE' WHERE id = 1",
                "UPDATE d.changed SET t = 'one' WHERE id = 1",
            ] {
                raw.run(sql).await;
            }
        }
        assert_eq!(with.run("USE d").await.changes, [(1, b"\x01d".to_vec())]);
        let names: Vec<_> = with
            .run("SET NAMES latin1")
            .await
            .changes
            .into_iter()
            .map(|(kind, data)| (kind, data[1..21].to_vec()))
            .collect();
        assert!(names.contains(&(0, b"character_set_client".to_vec())), "{names:?}");
        assert_eq!(with.run("UPDATE d.changed SET t = 'ONE' WHERE id = 1").await.changes, []);
        assert_eq!(with.run("UPDATE d.changed SET t = 'one' WHERE id = 1").await.changes, []);
    });
}

#[test]
fn a_schema_that_is_gone_does_not_end_the_session() {
    run(async {
        let proxy = narrow().await;
        let mut one = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        one.run("CREATE DATABASE passing").await;
        one.run("USE passing").await;
        assert_eq!(one.text("SELECT DATABASE()").await, "passing");
        other.run("DROP DATABASE passing").await;
        // Others have had the connections since.
        assert_eq!(other.text("SELECT t FROM d.one WHERE id = 1").await, "one");
        assert_eq!(one.text("SELECT t FROM d.one WHERE id = 1").await, "one");
        one.run("USE d").await;
        assert_eq!(one.text("SELECT t FROM one WHERE id = 1").await, "one");
        assert_eq!(one.text("SELECT t FROM one WHERE id = 1 FOR UPDATE").await, "one");
        // So with a prepared statement, which is prepared anew behind the choice of a schema that fails.
        let statement = one.prepare("SELECT t FROM d.one WHERE id = 1").await.unwrap();
        one.run("CREATE DATABASE passing").await;
        one.run("USE passing").await;
        other.run("DROP DATABASE passing").await;
        assert_eq!(other.text("SELECT t FROM d.one WHERE id = 1").await, "one");
        for _ in 0..3 {
            let all = one.execute(statement.id, 0, &[], &[], &[]).await;
            assert!(matches!(&all[..], [Outcome::Rows { rows, .. }] if rows.len() == 1), "{all:?}");
            assert_eq!(other.text("SELECT 'in step' FROM d.one WHERE id = 1").await, "in step");
            assert_eq!(one.text("SELECT 'in step' FROM d.one WHERE id = 1").await, "in step");
        }
    });
}

#[test]
fn users_change_at_once() {
    run(async {
        let proxy = proxy().await;
        let mut admin = Raw::connect(proxy.port(), ROOT, USUAL).await;
        for sql in ["CREATE USER second@'%' IDENTIFIED BY 'one'", "GRANT SELECT ON d.* TO second@'%'"] {
            admin.run(sql).await;
        }
        let account = |password| Account { user: "second", password };
        let mut second = Raw::connect(proxy.port(), account("one"), USUAL).await;
        assert_eq!(second.text("SELECT CURRENT_USER()").await, "second@%");
        assert_eq!(second.text("SELECT t FROM d.one WHERE id = 1").await, "one");
        assert_eq!(second.refused("INSERT INTO d.one VALUES (5, 'no')").await.code, 1142);
        let wrong = Raw::try_connect(proxy.port(), account("wrong"), USUAL, "").await.err().unwrap();
        assert_eq!((wrong.code, &*wrong.state), (1045, "28000"));
        let nowhere =
            Raw::try_connect(proxy.port(), account("one"), USUAL | flag::CONNECT_WITH_DB, "nowhere")
                .await
                .err()
                .unwrap();
        assert!(matches!(nowhere.code, 1044 | 1049), "{nowhere:?}");
        let mut there =
            Raw::try_connect(proxy.port(), account("one"), USUAL | flag::CONNECT_WITH_DB, "d").await.unwrap();
        assert_eq!(there.text("SELECT t FROM one WHERE id = 1").await, "one");
        // COM_CHANGE_USER: another user, nothing of the first.
        admin.run("SET @kept = 1").await;
        admin.run("USE d").await;
        admin.change_user(account("one"), "").await.unwrap();
        assert_eq!(admin.text("SELECT CONCAT_WS('|', CURRENT_USER(), @kept, DATABASE())").await, "second@%");
        assert_eq!(admin.refused("CREATE DATABASE nothing").await.code, 1044);
        admin.change_user(APP, "d").await.unwrap();
        assert_eq!(admin.text("SELECT CONCAT(CURRENT_USER(), DATABASE())").await, "app@%d");
        let mut driver = proxy.connect(APP).await;
        let wrong = mysql_async::ChangeUserOpts::new()
            .with_user(Some("second".into()))
            .with_pass(Some("wrong".into()));
        let refused = driver.change_user(wrong).await.unwrap_err().to_string();
        assert!(refused.contains("1045"), "{refused}");

        let mut admin = Raw::connect(proxy.port(), ROOT, USUAL).await;
        // Rights that servers look up at a login only.
        admin.run("GRANT CREATE ON *.* TO second@'%'").await;
        let mut later = Raw::connect(proxy.port(), account("one"), USUAL).await;
        later.run("CREATE DATABASE by_second").await;
        admin.run("DROP DATABASE by_second").await;
        admin.run("ALTER USER second@'%' IDENTIFIED BY 'two'").await;
        assert_eq!(Raw::try_connect(proxy.port(), account("one"), USUAL, "").await.err().unwrap().code, 1045);
        Raw::connect(proxy.port(), account("two"), USUAL).await;
        admin.run("DROP USER second@'%'").await;
        assert_eq!(Raw::try_connect(proxy.port(), account("two"), USUAL, "").await.err().unwrap().code, 1045);
    });
}

#[test]
fn kill_ends_a_statement_or_a_session() {
    run(async {
        let proxy = proxy().await;
        own_table("killed").await;
        let mut killer = Raw::connect(proxy.port(), APP, USUAL).await;
        for sleeps in [
            "SELECT SLEEP(300)",
            "SELECT SLEEP(300) FROM d.killed WHERE id = 1 FOR UPDATE",
            "SELECT SLEEP(300) FROM d.home",
        ] {
            let mut victim = Raw::connect(proxy.port(), APP, USUAL).await;
            let id = victim.connection_id;
            victim.send_query(sleeps.as_bytes()).await;
            until_running(1, "SLEEP(300)").await;
            killer.run(&format!("KILL QUERY {id}")).await;
            match victim.outcome().await {
                // SLEEP that is interrupted says 1, alone; else the statement ends with an error.
                Outcome::Rows { rows, .. } => assert!(rows.len() <= 1, "{rows:?}"),
                Outcome::Refused(refusal) => assert_eq!(refusal.code, 1317),
                other => panic!("{other:?}"),
            }
            assert_eq!(victim.text("SELECT 'alive'").await, "alive");
            victim.send_query(sleeps.as_bytes()).await;
            until_running(1, "SLEEP(300)").await;
            killer.run(&format!("KILL {id}")).await;
            assert!(victim.is_closed().await);
            assert_eq!(killer.refused(&format!("KILL {id}")).await.code, 1094);
            until_running(0, "SLEEP(300)").await;
        }
        // An idle one, and oneself.
        let mut idle = Raw::connect(proxy.port(), APP, USUAL).await;
        killer.run(&format!("KILL CONNECTION {}", idle.connection_id)).await;
        assert!(idle.is_closed().await);
        let own = killer.connection_id;
        assert_eq!(killer.refused(&format!("KILL {own}")).await.code, 1317);
        assert!(killer.is_closed().await);
    });
}

/// As on a server: who is told that the other is killed may know that it does nothing more.
#[test]
fn a_session_that_is_killed_serves_no_further_command() {
    run(async {
        let proxy = proxy().await;
        let mut killer = Raw::connect(proxy.port(), APP, USUAL).await;
        for _ in 0..50 {
            let mut victim = Raw::connect(proxy.port(), APP, USUAL).await;
            killer.run(&format!("KILL {}", victim.connection_id)).await;
            let _ = victim.send_bytes(b"\x01\0\0\0\x0E").await;
            assert!(victim.is_closed().await, "it was answered");
        }
    });
}

#[test]
fn kill_ends_no_later_statement() {
    run(async {
        let proxy = proxy().await;
        let mut killer = Raw::connect(proxy.port(), APP, USUAL).await;
        let mut victim = Raw::connect(proxy.port(), APP, USUAL).await;
        for _ in 0..20 {
            // Over by itself while the KILL is under way.
            victim.send_query(b"SELECT SLEEP(0.01)").await;
            killer.run(&format!("KILL QUERY {}", victim.connection_id)).await;
            victim.outcome().await;
            assert_eq!(victim.text("SELECT SLEEP(0.1)").await, "0");
        }
    });
}

/// The texts of the rows of a result.
fn texts(outcome: Outcome) -> Vec<Vec<String>> {
    let Outcome::Rows { rows, end: Ok(_), .. } = outcome else { panic!("{outcome:?}") };
    let values = |row: &Vec<u8>| {
        let mut rest = &row[..];
        let mut values = Vec::new();
        while !rest.is_empty() {
            let (value, after) = string(rest);
            values.push(String::from_utf8_lossy(value).into_owned());
            rest = after;
        }
        values
    };
    rows.iter().map(values).collect()
}

#[test]
fn a_session_tells_where_its_statements_go() {
    run(async {
        let proxy = proxy().await;
        for capabilities in [USUAL, USUAL & !flag::DEPRECATE_EOF | flag::OPTIONAL_RESULTSET_METADATA] {
            let mut raw = Raw::connect(proxy.port(), APP, capabilities).await;
            let read = "EXPLAIN ROUTE SELECT t FROM d.one WHERE id = 1";
            let told = texts(raw.query(read).await).remove(0);
            assert_eq!(
                told[..3],
                ["SELECT t FROM d.one WHERE id = 1", "read", "plain-read"].map(str::to_owned)
            );
            assert!(["mysql-1", "mysql-2"].contains(&&*told[3]), "{told:?}");
            let told =
                texts(raw.query("explain route update d.one set t = 'x' where id = -1;").await).remove(0);
            assert_eq!(told[1..4], ["write", "changes-data", "mysql-0"].map(str::to_owned));
            raw.run("BEGIN").await;
            raw.run("UPDATE d.one SET t = t WHERE id = 1").await;
            let told = texts(raw.query(read).await).remove(0);
            assert_eq!(told[1..4], ["read", "transaction", "mysql-0"].map(str::to_owned));
            let told = texts(raw.query("SHOW ROUTE").await);
            assert_eq!(told.iter().map(|row| &*row[1]).collect::<Vec<_>>(), ["read", "write"]);
            assert!(told.iter().all(|row| row[3] == "mysql-0"), "{told:?}");
            raw.run("ROLLBACK").await;
            // What servers know stays theirs.
            assert_eq!(raw.refused("EXPLAIN route").await.code, 1046);
            assert_eq!(raw.refused("DESC ROUTE SELECT 1").await.code, 1064);
        }
    });
}

#[test]
fn the_connection_id_is_the_one_that_kill_takes() {
    run(async {
        let proxy = proxy().await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        let id = raw.connection_id.to_string();
        for sql in
            ["SELECT CONNECTION_ID()", "select connection_id() as id;", "/* */ SELECT CONNECTION_ID ( ) id"]
        {
            assert_eq!(raw.text(sql).await, id);
        }
        let prepared = raw.prepare("SELECT CONNECTION_ID()").await.unwrap();
        match &raw.execute(prepared.id, 0, &[], &[], &[]).await[..] {
            [Outcome::Rows { rows, .. }] => {
                assert_eq!(rows[0][2..], u64::from(raw.connection_id).to_le_bytes());
            }
            other => panic!("{other:?}"),
        }
        // Others may be ended by those whom a server lets.
        let cluster = Cluster::shared().await;
        cluster
            .script(
                "CREATE USER plain@'%' IDENTIFIED BY 'plain'; CREATE ROLE ender; GRANT CONNECTION_ADMIN ON *.* TO ender;\n\
                 CREATE USER ends@'%' IDENTIFIED BY 'ends' DEFAULT ROLE ender;",
            )
            .await;
        let mut plain = Raw::connect(proxy.port(), Account { user: "plain", password: "plain" }, USUAL).await;
        assert_eq!(plain.refused(&format!("KILL {id}")).await.code, 1095);
        let mut ends = Raw::connect(proxy.port(), Account { user: "ends", password: "ends" }, USUAL).await;
        ends.run(&format!("KILL {id}")).await;
        assert!(raw.is_closed().await);
    });
}

/// Waits until so many statements with this text run on the servers.
pub(super) async fn until_running(count: u32, text: &str) {
    let cluster = Cluster::shared().await;
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE '%{text}%' AND ID <> CONNECTION_ID()"
    );
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let mut all = 0;
        for server in cluster.servers() {
            let mut direct = Raw::connect(server.port(), APP, USUAL).await;
            all += direct.text(&sql).await.parse::<u32>().expect("a count");
        }
        if all == count {
            return;
        }
        assert!(Instant::now() < patience, "{all} of {text}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_client_that_disappears_has_its_statement_ended() {
    run(async {
        let proxy = proxy().await;
        own_table("left").await;
        for sql in ["SELECT SLEEP(310)", "SELECT SLEEP(310), id FROM d.left FOR UPDATE", "DO SLEEP(310)"] {
            // More at once than KILLs may be under way.
            let mut clients = Vec::new();
            for _ in 0..40 {
                let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
                raw.send_query(sql.as_bytes()).await;
                clients.push(raw);
            }
            until_running(40, "SLEEP(310)").await;
            drop(clients);
            until_running(0, "SLEEP(310)").await;
        }
    });
}

/// Makes a view that cannot be looked into, as it is too long, and behind it a function that gives a user variable a value.
async fn make_unseen(proxy: &Proxy, view: &str, variable: &str) {
    let mut maker = Raw::connect(proxy.port(), ROOT, USUAL).await;
    let body = format!("NO SQL BEGIN SET @{variable} = 7; RETURN 1; END");
    maker.run(&format!("CREATE FUNCTION d.sets_{variable}() RETURNS INT {body}")).await;
    let long = "x".repeat(70_000);
    maker
        .run(&format!("CREATE VIEW d.{view} AS SELECT d.sets_{variable}() AS one WHERE '{long}' <> ''"))
        .await;
    Cluster::shared().await.caught_up().await;
}

#[test]
fn a_text_that_fails_behind_what_a_view_has_set_keeps_its_session() {
    run(async {
        let proxy = proxy().await;
        make_unseen(proxy, "setting", "behind").await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        let answers = raw.query_all("SELECT one FROM d.setting; SELECT one FROM d.nowhere").await;
        assert!(
            matches!(&answers[..], [Outcome::Rows { .. }, Outcome::Refused(refusal)] if refusal.code == 1146)
        );
        assert_eq!(raw.text("SELECT @behind").await, "7");
        raw.run("UPDATE d.one SET t = t WHERE id = 0").await;
        assert_eq!(raw.text("SELECT @behind FROM d.home").await, "7");
    });
}

#[test]
fn what_a_view_has_set_on_a_replica_is_never_left_behind_unsaid() {
    run(async {
        let proxy = proxy().await;
        make_unseen(proxy, "marking", "mark").await;
        for sql in ["UPDATE d.one SET t = t WHERE id = 0", "BEGIN"] {
            let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
            raw.run("START TRANSACTION READ ONLY").await;
            assert_eq!(raw.text("SELECT one FROM d.marking").await, "1");
            raw.run("COMMIT").await;
            // Where it was set it can be read.
            assert_eq!(raw.text("SELECT @mark FROM d.home").await, "7");
            let Outcome::Refused(refusal) = raw.query(sql).await else { panic!("{sql} was carried out") };
            assert!(refusal.text.contains("has left session state on mysql-"), "{refusal:?}");
        }
    });
}
