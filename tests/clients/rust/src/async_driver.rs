//! `mysql_async`: `query` is its text protocol, `exec` prepares.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, future, stream};
use mysql_async::prelude::*;
use mysql_async::{
    Conn, Error, Opts, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts, Row, SslOpts, TxOpts, Value,
    from_value_opt,
};

use crate::report::{self, Checked};
use crate::{ALTERS, COLUMNS, ERRORS, blob, given, insert_types, tls};

fn options() -> OptsBuilder {
    let tls = tls().then(|| SslOpts::default().with_danger_accept_invalid_certs(true));
    OptsBuilder::default()
        .ip_or_hostname(given("HOST"))
        .tcp_port(given("PORT").parse().expect("a number"))
        .user(Some(given("USER")))
        .pass(Some(given("PASSWORD")))
        .db_name(Some(given("SCHEMA")))
        .prefer_socket(false)
        .ssl_opts(tls)
}

async fn connect() -> Conn {
    Conn::new(options()).await.expect("it logs in")
}

fn expected() -> [Vec<Value>; 3] {
    let bytes = |text: &[u8]| Value::Bytes(text.to_vec());
    [
        vec![
            Value::Int(1),
            Value::Int(-128),
            Value::Int(65535),
            Value::Int(i64::MIN),
            Value::UInt(u64::MAX),
            Value::Double(-1.5e300),
            Value::Float(0.5),
            bytes(b"12345678901234567890123456.0123456789"),
            bytes(b"\x02\x01"),
            Value::Date(2024, 2, 29, 0, 0, 0, 0),
            Value::Date(2024, 12, 31, 23, 59, 59, 123_456),
            Value::Time(true, 0, 12, 34, 56, 123_456),
            Value::Int(2155),
            bytes("Grüße 😀 '\"\\%".as_bytes()),
            bytes(b"\x00\xff'\\\"\n\x1a"),
            bytes("{\"a\": [1, null, \"ü\"], \"b\": 1.5}".as_bytes()),
            bytes(b"b"),
            bytes(b"x,z"),
        ],
        vec![
            Value::Int(2),
            Value::Int(0),
            Value::Int(0),
            Value::Int(0),
            Value::UInt(0),
            Value::Double(0.0),
            Value::Float(-0.25),
            bytes(b"-0.0000000001"),
            bytes(b"\x00\x00"),
            Value::Date(1000, 1, 1, 0, 0, 0, 0),
            Value::Date(1000, 1, 1, 0, 0, 0, 0),
            Value::Time(false, 0, 0, 0, 0, 0),
            Value::Int(1901),
            bytes(b""),
            bytes(b""),
            bytes(b"[]"),
            bytes(b"a"),
            bytes(b""),
        ],
        std::iter::once(Value::Int(3)).chain(std::iter::repeat_n(Value::NULL, COLUMNS - 1)).collect(),
    ]
}

/// The driver's own types are compared after its conversions: by text all comes as bytes. Dates have no type in it: see
/// [`DATES`].
fn alike(found: &Value, wanted: &Value) -> bool {
    fn is<T: FromValue + PartialEq>(found: &Value, wanted: &T) -> bool {
        from_value_opt::<T>(found.clone()).is_ok_and(|found| found == *wanted)
    }
    match wanted {
        Value::Int(number) => is(found, number),
        Value::UInt(number) => is(found, number),
        Value::Float(number) => is(found, number),
        Value::Double(number) => is(found, number),
        Value::Date(..) | Value::Time(..) if matches!(found, Value::Bytes(_)) => true,
        _ => found == wanted,
    }
}

/// `day`, `moment` and `span` as texts.
const DATES: [[&str; 3]; 2] = [
    ["2024-02-29", "2024-12-31 23:59:59.123456", "-12:34:56.123456"],
    ["1000-01-01", "1000-01-01 00:00:00.000000", "00:00:00.000000"],
];

/// Reads what was written, in both ways: the servers compare it too.
async fn written(conn: &mut Conn) -> Checked {
    assert_eq!(conn.query::<u32, _>("SELECT id FROM same ORDER BY id").await?, [1, 2, 3]);
    let texts: Vec<Row> = conn.query("SELECT * FROM types WHERE id > 0 ORDER BY id").await?;
    let binary: Vec<Row> = conn.exec("SELECT * FROM types WHERE id > ? ORDER BY id", (0,)).await?;
    for (row, dates) in texts.iter().zip(DATES) {
        assert_eq!([9, 10, 11].map(|at| row.get::<String, _>(at)), dates.map(|date| Some(date.to_owned())));
    }
    for rows in [texts, binary] {
        assert_eq!(rows.len(), 3);
        for (row, wanted) in rows.into_iter().zip(expected()) {
            for (at, (found, wanted)) in row.unwrap().iter().zip(&wanted).enumerate() {
                assert!(alike(found, wanted), "column {at}: {found:?}, not {wanted:?}");
            }
        }
    }
    Ok(())
}

async fn text() -> Checked {
    let mut conn = connect().await;
    conn.query_drop("DELETE FROM types").await?;
    for row in expected() {
        let text = row.iter().enumerate().map(|(at, value)| match value {
            // A text of two bytes would be taken for characters.
            Value::Bytes(bytes) if at == 8 || at == 14 => {
                format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            }
            // Written out, it would be a decimal number of 301 digits.
            Value::Double(number) => format!("{number:e}"),
            value => value.as_sql(false),
        });
        let text = text.collect::<Vec<_>>().join(", ");
        conn.query_drop(format!("INSERT INTO types VALUES ({text})")).await?;
    }
    written(&mut conn).await
}

async fn count(conn: &mut Conn) -> u32 {
    conn.query_first("SELECT COUNT(*) FROM notes").await.expect("it counts").expect("one row")
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, code: u16, state: &str) {
    match outcome {
        Err(Error::Server(error)) => assert_eq!((error.code, &error.state[..]), (code, state), "{error}"),
        other => panic!("{other:?}, not {code}"),
    }
}

async fn connects() -> Checked {
    let mut conn = connect().await;
    let (schema, charset, word): (String, String, String) =
        conn.query_first("SELECT DATABASE(), @@character_set_client, 'Grüße 😀'").await?.expect("one row");
    assert_eq!((schema, &charset[..], &word[..]), (given("SCHEMA"), "utf8mb4", "Grüße 😀"));
    conn.ping().await?;
    conn.disconnect().await?;
    refused(Conn::new(options().pass(Some("wrong"))).await, 1045, "28000");
    Ok(())
}

async fn prepared() -> Checked {
    let (mut conn, mut other) = (connect().await, connect().await);
    conn.query_drop("DELETE FROM types").await?;
    for row in expected() {
        conn.exec_drop(insert_types(), Params::Positional(row)).await?;
    }
    written(&mut conn).await?;
    let statement = conn.prep("SELECT * FROM notes WHERE id < ?").await?;
    for sql in ALTERS {
        conn.exec_drop(&statement, (0,)).await?;
        other.query_drop(sql).await?;
    }
    conn.close(statement).await?;
    Ok(())
}

async fn own_writes() -> Checked {
    let mut conn = connect().await;
    conn.query_drop("DELETE FROM notes").await?;
    for number in 0..50 {
        let word = format!("own {number}");
        conn.exec_drop("INSERT INTO notes (word) VALUES (?)", (&word,)).await?;
        let found: Option<String> =
            conn.exec_first("SELECT word FROM notes WHERE word = ?", (&word,)).await?;
        assert_eq!((found, count(&mut conn).await), (Some(word), number + 1));
    }
    Ok(())
}

async fn transaction() -> Checked {
    let mut conn = connect().await;
    conn.query_drop("DELETE FROM notes").await?;
    let mut tx = conn.start_transaction(TxOpts::default()).await?;
    tx.query_drop("INSERT INTO notes (word) VALUES ('undone')").await?;
    assert_eq!(tx.query_first::<u32, _>("SELECT COUNT(*) FROM notes").await?, Some(1));
    tx.rollback().await?;
    assert_eq!(count(&mut conn).await, 0);
    let mut tx = conn.start_transaction(TxOpts::default()).await?;
    for sql in [
        "INSERT INTO notes (word) VALUES ('kept')",
        "SAVEPOINT here",
        "INSERT INTO notes (word) VALUES ('undone')",
        "ROLLBACK TO SAVEPOINT here",
    ] {
        tx.query_drop(sql).await?;
    }
    tx.commit().await?;
    let mut options = TxOpts::default();
    options.with_readonly(true);
    let mut tx = conn.start_transaction(options).await?;
    assert_eq!(tx.exec_first::<String, _, _>("SELECT word FROM notes", ()).await?.as_deref(), Some("kept"));
    refused(tx.query_drop("DELETE FROM notes").await, 1792, "25006");
    tx.rollback().await?;
    assert_eq!(count(&mut conn).await, 1);
    Ok(())
}

async fn blobs() -> Checked {
    let (mut conn, blob) = (connect().await, blob());
    conn.query_drop("DELETE FROM blobs").await?;
    let hex: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
    conn.query_drop(format!("INSERT INTO blobs VALUES (1, x'{hex}')")).await?;
    // In pieces: COM_STMT_SEND_LONG_DATA.
    conn.exec_drop("INSERT INTO blobs VALUES (?, ?)", (2, &blob)).await?;
    for id in 1..=2 {
        let text: Option<Vec<u8>> =
            conn.query_first(format!("SELECT body FROM blobs WHERE id = {id}")).await?;
        let prepared: Option<Vec<u8>> = conn.exec_first("SELECT body FROM blobs WHERE id = ?", (id,)).await?;
        assert!(text.as_ref() == Some(&blob) && prepared.as_ref() == Some(&blob));
    }
    conn.query_drop("DELETE FROM blobs").await?;
    Ok(())
}

async fn procedure() -> Checked {
    let mut conn = connect().await;
    conn.query_drop("DELETE FROM notes").await?;
    for prepared in [false, true] {
        let number = 7 + u32::from(prepared);
        if prepared {
            let mut result = conn.exec_iter("CALL several(?, @doubled)", (number,)).await?;
            assert_eq!(result.collect::<u32>().await?, [number, number + 1]);
            assert_eq!(result.collect::<(String, Option<u32>)>().await?, [("second".to_owned(), None)]);
            result.drop_result().await?;
        } else {
            let mut result = conn.query_iter(format!("CALL several({number}, @doubled)")).await?;
            assert_eq!(result.collect::<u32>().await?, [number, number + 1]);
            assert_eq!(result.collect::<(String, Option<u32>)>().await?, [("second".to_owned(), None)]);
            result.drop_result().await?;
        }
        assert_eq!(conn.query_first::<u32, _>("SELECT @doubled").await?, Some(2 * number));
    }
    assert_eq!(count(&mut conn).await, 2);
    Ok(())
}

async fn batch() -> Checked {
    let mut conn = connect().await;
    conn.query_drop("DELETE FROM notes").await?;
    let rows = (0..1000).map(|number| (format!("batch {number}"),));
    conn.exec_batch("INSERT INTO notes (word) VALUES (?)", rows).await?;
    let last = conn.last_insert_id();
    assert_eq!(conn.query_first("SELECT LAST_INSERT_ID()").await?, last);
    let found: Option<String> = conn.exec_first("SELECT word FROM notes WHERE id = ?", (last,)).await?;
    assert_eq!((found.as_deref(), count(&mut conn).await), (Some("batch 999"), 1000));
    Ok(())
}

async fn local_infile() -> Checked {
    let mut conn = connect().await;
    conn.query_drop("DELETE FROM notes").await?;
    let rows = std::fs::read(given("ROWS"))?;
    let rows = stream::once(future::ready(Ok(rows.into())));
    conn.set_infile_handler(async { Ok(rows.boxed()) });
    conn.query_drop("LOAD DATA LOCAL INFILE 'rows' INTO TABLE notes (word)").await?;
    assert_eq!((conn.affected_rows(), count(&mut conn).await), (1000, 1000));
    Ok(())
}

async fn errors() -> Checked {
    let mut conn = connect().await;
    conn.query_drop("DELETE FROM notes").await?;
    conn.query_drop("INSERT INTO notes (word) VALUES ('one')").await?;
    for (sql, code, state) in ERRORS {
        refused(conn.query_drop(sql).await, code, state);
        refused(conn.exec_drop(sql, ()).await, code, state);
        assert_eq!(count(&mut conn).await, 1);
    }
    Ok(())
}

async fn cancel() -> Checked {
    let (mut conn, mut other) = (connect().await, connect().await);
    let id = conn.id();
    for (kill, code) in [("KILL QUERY", 1317), ("KILL", 0)] {
        let mut sleeping = Box::pin(conn.query_drop("SELECT SLEEP(60) FROM expected"));
        let ended = loop {
            match tokio::time::timeout(Duration::from_millis(200), &mut sleeping).await {
                Ok(ended) => break ended,
                // What is gone before a second attempt has no such id (1094).
                Err(_) => drop(other.query_drop(format!("{kill} {id}")).await),
            }
        };
        drop(sleeping);
        if code != 0 {
            refused(ended, code, "70100");
            assert_eq!(conn.query_first::<u32, _>("SELECT 5").await?, Some(5));
        } else {
            assert!(ended.is_err() || conn.ping().await.is_err());
        }
    }
    Ok(())
}

async fn reset() -> Checked {
    let constraints = PoolConstraints::new(1, 1).expect("one is not more than one");
    let pool = Pool::new(Opts::from(options().pool_opts(PoolOpts::default().with_constraints(constraints))));
    let mut conn = pool.get_conn().await?;
    for sql in ["SET @mine = 5", "SET sql_mode = ''", "CREATE TEMPORARY TABLE mine (id INT)"] {
        conn.query_drop(sql).await?;
    }
    drop(conn);
    let mut conn = pool.get_conn().await?;
    let (mine, mode): (Option<u32>, String) =
        conn.query_first("SELECT @mine, @@sql_mode").await?.expect("a row");
    assert!(mine.is_none() && !mode.is_empty(), "{mine:?} {mode}");
    refused(conn.query_drop("SELECT * FROM mine").await, 1146, "42S02");
    drop(conn);
    pool.disconnect().await?;
    Ok(())
}

pub(crate) async fn run() -> bool {
    report::run([
        connects().boxed_local(),
        text().boxed_local(),
        prepared().boxed_local(),
        own_writes().boxed_local(),
        transaction().boxed_local(),
        blobs().boxed_local(),
        procedure().boxed_local(),
        batch().boxed_local(),
        local_infile().boxed_local(),
        errors().boxed_local(),
        cancel().boxed_local(),
        reset().boxed_local(),
    ])
    .await
}
