//! Prepared statements: their ids are the proxy's, their homes are several servers.

use std::time::Duration;

use mysql_async::Value;
use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use super::support::cluster::{APP, Account, Cluster, ROOT};
use super::support::proxy::Proxy;
use super::support::raw::{Outcome, Raw, USUAL, command, flag, refusal};
use super::{proxy, run};

/// A parameter of type LONGLONG.
const LONGLONG: &[u8] = &[8, 0];
const CURSOR: u8 = 1;
const CURSOR_EXISTS: u16 = 0x40;
const LAST_ROW_SENT: u16 = 0x80;

fn rows(mut all: Vec<Outcome>) -> Vec<Vec<u8>> {
    match (all.len(), all.pop()) {
        (1, Some(Outcome::Rows { rows, end: Ok(_), .. })) => rows,
        (_, other) => panic!("{all:?} {other:?}"),
    }
}

fn refused(mut all: Vec<Outcome>) -> u16 {
    match all.pop() {
        Some(Outcome::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// The one number of the one row of a binary result of LONGLONG.
fn number(all: Vec<Outcome>) -> i64 {
    let rows = rows(all);
    assert_eq!(rows.len(), 1, "{rows:?}");
    i64::from_le_bytes(rows[0][2..].try_into().expect("eight bytes"))
}

/// A text of the one column of a binary row.
fn text(row: &[u8]) -> &[u8] {
    super::support::raw::string(&row[2..]).0
}

#[test]
fn types_are_remembered_for_every_server() {
    run(async {
        let proxy = proxy().await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        let read = raw.prepare("SELECT ? + 0, server FROM d.home").await.unwrap();
        let write = raw.prepare("SELECT ? + 0, server FROM d.home FOR UPDATE").await.unwrap();
        assert_ne!(read.id, write.id);
        // The types are said once; every later EXECUTE relies on them, wherever it lands.
        for statement in [read, write] {
            let all = raw.execute(statement.id, 0, &[0], LONGLONG, &7i64.to_le_bytes()).await;
            assert_eq!(rows(all).len(), 1);
        }
        let mut servers = std::collections::HashSet::new();
        for round in 0..60i64 {
            let statement = if round % 3 == 0 { write } else { read };
            let all = rows(raw.execute(statement.id, 0, &[0], &[], &round.to_le_bytes()).await);
            assert_eq!(all[0][2..10], round.to_le_bytes());
            servers.insert(all[0][10..].to_vec());
            if round % 7 == 0 {
                // Another session's turn on the connections in between.
                sleep(Duration::from_millis(70)).await;
                let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
                let same = other.prepare("SELECT ? + 0, server FROM d.home").await.unwrap();
                // A string here, which must not be taken for the type there.
                let all = other.execute(same.id, 0, &[0], &[0xFD, 0], b"\x0212").await;
                assert_eq!(rows(all).len(), 1);
            }
        }
        assert_eq!(servers.len(), 3, "{servers:?}");
        // NULL by the bitmap, with and without types.
        for types in [LONGLONG, &[]] {
            let all = rows(raw.execute(read.id, 0, &[1], types, &[]).await);
            assert_eq!(all[0][1] & 0x04, 0x04, "{all:?}");
        }
        // Never said at all: the server's own error.
        let fresh = raw.prepare("SELECT ? + 1").await.unwrap();
        assert_eq!(refused(raw.execute(fresh.id, 0, &[0], &[], &[0; 8]).await), 1210);
    });
}

/// A server reads a text as a number where the same statement was given a number before: another session's must not count.
#[test]
fn types_of_other_sessions_do_not_count() {
    run(async {
        super::proxy().await;
        let proxy = Proxy::start(Cluster::shared().await, "pool: {max_per_server: 1}").await;
        let sql = "SELECT ? FROM d.one WHERE id = 1 FOR UPDATE";
        const TEXT: &[u8] = &[0xFD, 0];
        for _ in 0..2 {
            let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
            let statement = raw.prepare(sql).await.unwrap();
            assert_eq!(number(raw.execute(statement.id, 0, &[0], LONGLONG, &7i64.to_le_bytes()).await), 7);
            let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
            let same = other.prepare(sql).await.unwrap();
            let said = rows(other.execute(same.id, 0, &[0], TEXT, b"\x04text").await);
            assert_eq!(text(&said[0]), b"text");
            assert_eq!(number(raw.execute(statement.id, 0, &[0], &[], &8i64.to_le_bytes()).await), 8);
            let said = rows(other.execute(same.id, 0, &[0], &[], b"\x04more").await);
            assert_eq!(text(&said[0]), b"more");
            // A session that changes them itself finds what a server makes of it.
            assert_eq!(number(raw.execute(statement.id, 0, &[0], &[], &8i64.to_le_bytes()).await), 8);
            assert_eq!(number(raw.execute(statement.id, 0, &[0], TEXT, b"\x019").await), 9);
        }
    });
}

#[test]
fn a_driver_binds_every_type() {
    run(async {
        let proxy = proxy().await;
        let mut connection = proxy.connect(APP).await;
        let values = vec![
            Value::NULL,
            Value::Int(-5),
            Value::UInt(u64::MAX),
            Value::Float(1.5),
            Value::Double(-2.25),
            Value::Bytes(vec![b'x'; 300]),
            Value::Bytes(vec![b'y'; 70_000]),
            Value::Date(2024, 2, 29, 1, 2, 3, 4),
            Value::Time(true, 30, 1, 2, 3, 4),
        ];
        let sql = "SELECT ?,?,?,?,?,LENGTH(?),LENGTH(?),CAST(? AS CHAR),CAST(? AS CHAR)";
        for round in 0..5 {
            let row: Vec<Value> = connection
                .exec_first::<mysql_async::Row, _, _>(sql, values.clone())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert_eq!(row[0], Value::NULL);
            assert_eq!(row[1], Value::Int(-5));
            assert_eq!(row[2], Value::UInt(u64::MAX));
            assert_eq!((&row[5], &row[6]), (&Value::Int(300), &Value::Int(70_000)));
            assert_eq!(row[7], Value::Bytes(b"2024-02-29 01:02:03.000004".to_vec()), "round {round}");
            assert_eq!(row[8], Value::Bytes(b"-721:02:03.000004".to_vec()));
            connection.query_drop("UPDATE d.one SET t = t WHERE id = 7").await.unwrap();
        }
        connection.disconnect().await.unwrap();
    });
}

#[test]
fn cursors_are_fetched_in_pieces() {
    run(async {
        let proxy = proxy().await;
        let numbers =
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT i FROM n";
        for capabilities in [USUAL, USUAL & !flag::DEPRECATE_EOF] {
            let mut raw = Raw::connect(proxy.port(), APP, capabilities).await;
            // Two statements of one text, each with a cursor of its own.
            let first = raw.prepare(numbers).await.unwrap();
            let second = raw.prepare(numbers).await.unwrap();
            for statement in [first, second] {
                let all = raw.execute(statement.id, CURSOR, &[], &[], &[]).await;
                match &all[..] {
                    [Outcome::Rows { rows, end: Ok(end), .. }] => {
                        assert_eq!((rows.len(), end.status & CURSOR_EXISTS), (0, CURSOR_EXISTS));
                    }
                    other => panic!("{other:?}"),
                }
            }
            let mut seen = Vec::new();
            for statement in [first, second, first, second, first, second] {
                let count = 4u32.to_le_bytes();
                raw.command(command::STMT_FETCH, &[&statement.id.to_le_bytes()[..], &count[..]].concat())
                    .await;
                let (rows, end) = raw.rows().await;
                let last = end.unwrap().status & LAST_ROW_SENT != 0;
                seen.push((rows.len(), last));
                // Other work in between, on the same connection.
                assert_eq!(raw.text("SELECT 'between'").await, "between");
            }
            assert_eq!(seen, [(4, false), (4, false), (4, false), (4, false), (2, true), (2, true)]);
            // No cursor is left: the server's error, and the session goes on.
            raw.command(command::STMT_FETCH, &[&first.id.to_le_bytes()[..], &[1, 0, 0, 0]].concat()).await;
            assert_eq!(refusal(&raw.packet().await).code, 1421);
            // A cursor that is given up by RESET, by CLOSE, by another EXECUTE.
            for end in [command::STMT_RESET, command::STMT_CLOSE, command::STMT_EXECUTE] {
                let statement = raw.prepare(numbers).await.unwrap();
                raw.execute(statement.id, CURSOR, &[], &[], &[]).await;
                match end {
                    command::STMT_EXECUTE => {
                        assert_eq!(rows(raw.execute(statement.id, 0, &[], &[], &[]).await).len(), 10);
                    }
                    end => {
                        raw.command(end, &statement.id.to_le_bytes()).await;
                        if end == command::STMT_RESET {
                            assert_eq!(raw.packet().await[0], 0);
                        }
                    }
                }
                raw.command(command::STMT_FETCH, &[&statement.id.to_le_bytes()[..], &[1, 0, 0, 0]].concat())
                    .await;
                let code = refusal(&raw.packet().await).code;
                assert_eq!(code, if end == command::STMT_CLOSE { 1243 } else { 1421 });
                assert_eq!(pins(proxy, raw.connection_id).await, 0, "after {end:#x}");
            }
            // A server answers a statement that ran with a cursor first wrongly when it runs without: whoever gets the
            // connection next must not see that.
            for _ in 0..4 {
                drop(raw);
                sleep(Duration::from_millis(20)).await;
                raw = Raw::connect(proxy.port(), APP, capabilities).await;
                let statement = raw.prepare(numbers).await.unwrap();
                assert_eq!(rows(raw.execute(statement.id, 0, &[], &[], &[]).await).len(), 10);
            }
        }
    });
}

/// How many causes bind a session, as the admin port says it.
async fn pins(proxy: &Proxy, client: u32) -> usize {
    let mut admin = super::support::cluster::connect(proxy.sql().port(), super::support::proxy::ADMIN)
        .await
        .expect("the admin port lets us in");
    let rows: Vec<mysql_async::Row> = admin.query("SHOW PINS").await.expect("a table");
    let id = client.to_string();
    rows.iter()
        .filter(|row| row.as_ref(0).is_some_and(|value| value.as_sql(true).trim_matches('\'') == id))
        .count()
}

#[test]
fn long_data_belongs_to_its_statement() {
    run(async {
        let proxy = proxy().await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        let sql = "SELECT CONCAT(LENGTH(?), ':', LENGTH(?))";
        let first = raw.prepare(sql).await.unwrap();
        let second = raw.prepare(sql).await.unwrap();
        let blobs = [0xFC, 0, 0xFC, 0];
        let long = |id: u32, parameter: u16, data: &[u8]| {
            [&id.to_le_bytes()[..], &parameter.to_le_bytes(), data].concat()
        };
        for _ in 0..3 {
            for _ in 0..20 {
                raw.command(command::STMT_SEND_LONG_DATA, &long(first.id, 0, &[7; 100_000])).await;
            }
            raw.command(command::STMT_SEND_LONG_DATA, &long(first.id, 1, b"short")).await;
            let all = rows(raw.execute(second.id, 0, &[0], &blobs, b"\x03abc\x04defg").await);
            assert_eq!(text(&all[0]), b"3:4");
            let all = rows(raw.execute(first.id, 0, &[0], &blobs, &[]).await);
            assert_eq!(text(&all[0]), b"2000000:5");
            // What is shown follows the answer, and comes before the next one.
            raw.command(command::PING, b"").await;
            assert_eq!(raw.packet().await[0], 0);
            assert_eq!(pins(proxy, raw.connection_id).await, 0);
            // Long data that is taken back.
            raw.command(command::STMT_SEND_LONG_DATA, &long(first.id, 0, b"never")).await;
            raw.command(command::STMT_RESET, &first.id.to_le_bytes()).await;
            assert_eq!(raw.packet().await[0], 0);
            let all = rows(raw.execute(first.id, 0, &[0], &blobs, b"\x01a\x01b").await);
            assert_eq!(text(&all[0]), b"1:1");
        }
        // Of no statement: no answer, no harm.
        raw.command(command::STMT_SEND_LONG_DATA, &long(4711, 0, b"x")).await;
        assert_eq!(raw.text("SELECT 'in step'").await, "in step");
    });
}

#[test]
fn unknown_statements_are_refused() {
    run(async {
        let mut raw = Raw::connect(proxy().await.port(), APP, USUAL).await;
        assert_eq!(refused(raw.execute(1, 0, &[], &[], &[]).await), 1243);
        let statement = raw.prepare("SELECT 1").await.unwrap();
        assert_eq!(number(raw.execute(statement.id, 0, &[], &[], &[]).await), 1);
        raw.command(command::STMT_CLOSE, &statement.id.to_le_bytes()).await;
        assert_eq!(refused(raw.execute(statement.id, 0, &[], &[], &[]).await), 1243);
        for unknown in [command::STMT_RESET, command::STMT_FETCH] {
            raw.command(unknown, &[&77u32.to_le_bytes()[..], &[1, 0, 0, 0]].concat()).await;
            assert_eq!(refusal(&raw.packet().await).code, 1243, "{unknown:#x}");
        }
        // As servers look at it: the length before the id.
        for cut in [command::STMT_EXECUTE, command::STMT_FETCH] {
            raw.command(cut, &[77, 0, 0, 0, 0, 0, 0]).await;
            assert_eq!(refusal(&raw.packet().await).code, 1835, "{cut:#x}");
        }
        assert_eq!(raw.prepare("SELEKT").await.unwrap_err().code, 1064);
        assert_eq!(raw.prepare("SELECT 1; SELECT 2").await.unwrap_err().code, 1064);
        // Another session's statements are not this one's.
        let statement = raw.prepare("SELECT 1").await.unwrap();
        let mut other = Raw::connect(proxy().await.port(), APP, USUAL).await;
        assert_eq!(refused(other.execute(statement.id, 0, &[], &[], &[]).await), 1243);
        raw.command(command::RESET_CONNECTION, b"").await;
        assert_eq!(raw.packet().await[0], 0);
        assert_eq!(refused(raw.execute(statement.id, 0, &[], &[], &[]).await), 1243);
        // Nor does who still has the id find another statement under it.
        let after = raw.prepare("SELECT 2").await.unwrap();
        assert_eq!(refused(raw.execute(statement.id, 0, &[], &[], &[]).await), 1243);
        assert_eq!(number(raw.execute(after.id, 0, &[], &[], &[]).await), 2);
    });
}

/// A server keeps what is wrong with long data in the statement, until a reset: no other session may find it there.
#[test]
fn long_data_that_is_wrong_stays_with_its_session() {
    run(async {
        super::proxy().await;
        let proxy = Proxy::start(Cluster::shared().await, "pool: {max_per_server: 1}").await;
        let sql = "SELECT ? + 0 FROM d.one WHERE id = 1 FOR UPDATE";
        let long = |id: u32| [&id.to_le_bytes()[..], &[9, 0], b"of no parameter"].concat();
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        let statement = raw.prepare(sql).await.unwrap();
        for _ in 0..2 {
            raw.command(command::STMT_SEND_LONG_DATA, &long(statement.id)).await;
            for _ in 0..2 {
                let all = raw.execute(statement.id, 0, &[0], LONGLONG, &[0; 8]).await;
                assert_eq!(refused(all), 1210);
            }
            raw.command(command::STMT_RESET, &statement.id.to_le_bytes()).await;
            assert_eq!(raw.packet().await[0], 0);
            assert_eq!(number(raw.execute(statement.id, 0, &[0], LONGLONG, &[0; 8]).await), 0);
        }
        raw.command(command::STMT_SEND_LONG_DATA, &long(statement.id)).await;
        assert_eq!(refused(raw.execute(statement.id, 0, &[0], LONGLONG, &[0; 8]).await), 1210);
        drop(raw);
        let mut other = Raw::connect(proxy.port(), APP, USUAL).await;
        let same = other.prepare(sql).await.unwrap();
        assert_eq!(number(other.execute(same.id, 0, &[0], LONGLONG, &[0; 8]).await), 0);
    });
}

#[test]
fn statements_outlive_connections_tables_and_the_cache() {
    run(async {
        let cluster = Cluster::shared().await;
        super::proxy().await;
        // Its connections will be killed: nobody else may have the same user.
        let mortal = Account { user: "mortal", password: "mortal-password" };
        let Account { user, password } = mortal;
        cluster
            .script(&format!(
                "CREATE TABLE d.changes (id BIGINT PRIMARY KEY); INSERT INTO d.changes VALUES (1); \
                 CREATE USER {user} IDENTIFIED BY '{password}'; GRANT ALL ON d.* TO {user}"
            ))
            .await;
        let proxy = Proxy::start(cluster, "pool: {prepared_per_connection: 2, linger_ms: 0}").await;
        let mut raw = Raw::connect(proxy.port(), mortal, USUAL).await;
        // More statements than a connection keeps, reads and writes by turns.
        let mut statements = Vec::new();
        for number in 0..6 {
            let lock = if number % 2 == 0 { "" } else { " FOR UPDATE" };
            statements.push(
                raw.prepare(&format!("SELECT {number} + id FROM d.changes WHERE id = ?{lock}"))
                    .await
                    .unwrap(),
            );
        }
        for round in 0..3 {
            for (offset, statement) in (0..).zip(&statements) {
                let types = if round == 0 { LONGLONG } else { &[] };
                let all = raw.execute(statement.id, 0, &[0], types, &1i64.to_le_bytes()).await;
                assert_eq!(number(all), 1 + offset);
            }
        }
        // A cursor keeps its statement while others come and go.
        raw.run("BEGIN").await;
        let cursor = raw.prepare("SELECT id FROM d.changes").await.unwrap();
        raw.execute(cursor.id, CURSOR, &[], &[], &[]).await;
        for statement in &statements {
            raw.execute(statement.id, 0, &[0], &[], &1i64.to_le_bytes()).await;
        }
        raw.command(command::STMT_FETCH, &[&cursor.id.to_le_bytes()[..], &[9, 0, 0, 0]].concat()).await;
        assert_eq!(raw.rows().await.0.len(), 1);
        raw.run("COMMIT").await;
        // The servers forget nothing more than they must: at most two statements on each connection.
        let mut root = cluster.connect(0, ROOT).await;
        let most: Option<u64> = root
            .query_first(
                "SELECT MAX(c) FROM (SELECT COUNT(*) c FROM performance_schema.prepared_statements_instances \
                 JOIN performance_schema.threads t ON t.THREAD_ID = OWNER_THREAD_ID \
                 WHERE SQL_TEXT LIKE '%d.changes%' GROUP BY OWNER_THREAD_ID) x",
            )
            .await
            .unwrap()
            .flatten();
        assert!(most.is_some_and(|most| most <= 2), "{most:?}");
        // The table changes below them.
        cluster.script("ALTER TABLE d.changes ADD COLUMN more INT, MODIFY id INT; FLUSH TABLES d.changes; ALTER TABLE d.changes MODIFY id BIGINT").await;
        for (offset, statement) in (0..).zip(&statements) {
            assert_eq!(
                number(raw.execute(statement.id, 0, &[0], &[], &1i64.to_le_bytes()).await),
                1 + offset
            );
        }
        // The connections die below them.
        let mut killed = 0;
        for ordinal in 0..3 {
            let mut root = cluster.connect(ordinal, ROOT).await;
            let threads: Vec<u64> = root
                .exec("SELECT id FROM information_schema.PROCESSLIST WHERE user = ?", (user,))
                .await
                .unwrap();
            for thread in &threads {
                let _ = root.query_drop(format!("KILL {thread}")).await;
            }
            killed += threads.len();
        }
        assert!(killed >= 2, "{killed}");
        for (offset, statement) in (0..).zip(&statements) {
            assert_eq!(
                number(raw.execute(statement.id, 0, &[0], &[], &1i64.to_le_bytes()).await),
                1 + offset
            );
        }
    });
}

#[test]
fn a_statement_means_what_it_meant_when_it_was_prepared() {
    run(async {
        let cluster = Cluster::shared().await;
        super::proxy().await;
        let both = ["p1", "p2"].map(|schema| {
            format!("CREATE DATABASE {schema}; CREATE TABLE {schema}.t (s TEXT); INSERT INTO {schema}.t VALUES ('{schema}');")
        });
        cluster.script(&both.concat()).await;
        cluster.caught_up().await;
        // Each connection keeps one statement, so all are prepared anew where they are executed.
        let proxy = Proxy::start(cluster, "pool: {prepared_per_connection: 1, linger_ms: 0}").await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL).await;
        raw.run("USE p1").await;
        let mut statements = Vec::new();
        for sql in [
            "SELECT CONCAT(s, \"-\", DATABASE()) FROM t LIMIT 1",
            "SELECT CONCAT(s, \"-\", DATABASE()) FROM t LIMIT 1 FOR UPDATE",
            "UPDATE t SET s = CONCAT(s, \"!\")",
        ] {
            statements.push(raw.prepare(sql).await.expect("it may"));
        }
        raw.run("USE p2").await;
        raw.run("SET sql_mode = 'ANSI_QUOTES', character_set_client = latin1").await;
        for round in 0..4 {
            let expected = format!("p1{}-p1", "!".repeat(round));
            for statement in &statements[..2] {
                let rows = rows(raw.execute(statement.id, 0, &[], &[], &[]).await);
                assert_eq!(String::from_utf8_lossy(text(&rows[0])), expected);
            }
            let updated = raw.execute(statements[2].id, 0, &[], &[], &[]).await;
            assert!(matches!(&updated[..], [Outcome::Done(done)] if done.affected_rows == 1), "{updated:?}");
            // The session itself reads as it has said since.
            assert_eq!(raw.text("SELECT \"s\" FROM t").await, "p2");
            assert_eq!(raw.text("SELECT CONCAT(DATABASE(), @@character_set_client)").await, "p2latin1");
        }
    });
}

#[test]
fn executes_with_attributes_decide_where_they_run() {
    run(async {
        let proxy = proxy().await;
        let mut raw = Raw::connect(proxy.port(), APP, USUAL | flag::QUERY_ATTRIBUTES).await;
        let statement = raw.prepare("SELECT server + ? FROM d.home").await.unwrap();
        // Parameter count, NULL bitmap, types follow, each type with a name, values.
        for (hint, primary) in [("primary", true), ("replica", false), ("primary", true)] {
            let mut payload = vec![command::STMT_EXECUTE];
            payload.extend_from_slice(&statement.id.to_le_bytes());
            payload.extend_from_slice(&[8, 1, 0, 0, 0, 2, 0, 1]);
            payload.extend_from_slice(b"\x08\x00\x00\xfe\x00\x0areadwright");
            payload.extend_from_slice(&1i64.to_le_bytes());
            payload.push(7);
            payload.extend_from_slice(hint.as_bytes());
            raw.send(&payload).await;
            let all = raw.outcomes().await;
            assert_eq!(number(all) == 1, primary, "{hint}");
        }
    });
}
