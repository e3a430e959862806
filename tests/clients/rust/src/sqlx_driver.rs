//! `sqlx` with its pool: `query` prepares and keeps its statements, a text alone goes by the text protocol.

use std::time::Duration;

use futures_util::FutureExt;
use sqlx::mysql::types::{MySqlTime, MySqlTimeSign};
use sqlx::mysql::{
    MySqlArguments, MySqlConnectOptions, MySqlPool, MySqlPoolOptions, MySqlRow, MySqlSslMode,
};
use sqlx::query::Query;
use sqlx::types::chrono::{NaiveDate, NaiveDateTime};
use sqlx::types::{BigDecimal, JsonValue};
use sqlx::{Connection, Executor, MySql, MySqlConnection, Row};

use crate::report::{self, Checked, missing};
use crate::{ALTERS, ERRORS, blob, given, insert_types, tls};

fn options() -> MySqlConnectOptions {
    MySqlConnectOptions::new()
        .host(&given("HOST"))
        .port(given("PORT").parse().expect("a number"))
        .username(&given("USER"))
        .password(&given("PASSWORD"))
        .database(&given("SCHEMA"))
        .ssl_mode(if tls() { MySqlSslMode::Required } else { MySqlSslMode::Disabled })
}

async fn pool() -> MySqlPool {
    MySqlPoolOptions::new().max_connections(4).connect_with(options()).await.expect("it logs in")
}

fn refused<T>(outcome: Result<T, sqlx::Error>, number: u16, state: &str) {
    let error =
        outcome.err().and_then(|error| error.into_database_error()).expect("an error of the server's");
    assert_eq!(error.code().as_deref(), Some(state), "{error}");
    assert_eq!(error.downcast_ref::<sqlx::mysql::MySqlDatabaseError>().number(), number);
}

async fn count(conn: &mut MySqlConnection) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM notes").fetch_one(conn).await.expect("it counts")
}

async fn connects() -> Checked {
    let mut conn = MySqlConnection::connect_with(&options()).await?;
    let row =
        sqlx::query("SELECT DATABASE(), @@character_set_client, 'Grüße 😀'").fetch_one(&mut conn).await?;
    let words: [String; 3] = [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?];
    assert_eq!(words, [given("SCHEMA"), "utf8mb4".to_owned(), "Grüße 😀".to_owned()]);
    conn.ping().await?;
    refused(MySqlConnection::connect_with(&options().password("wrong")).await, 1045, "28000");
    Ok(())
}

/// A row of `types`, in the driver's own types.
#[derive(Debug, Default, PartialEq)]
struct Types {
    id: i32,
    tiny: Option<i8>,
    small: Option<u16>,
    big: Option<i64>,
    huge: Option<u64>,
    wide: Option<f64>,
    narrow: Option<f32>,
    exact: Option<BigDecimal>,
    flags: Option<u16>,
    day: Option<NaiveDate>,
    moment: Option<NaiveDateTime>,
    span: Option<MySqlTime>,
    vintage: Option<u16>,
    word: Option<String>,
    bytes: Option<Vec<u8>>,
    document: Option<JsonValue>,
    choice: Option<String>,
    several: Option<String>,
}

impl Types {
    fn read(row: &MySqlRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            tiny: row.try_get("tiny")?,
            small: row.try_get("small")?,
            big: row.try_get("big")?,
            huge: row.try_get("huge")?,
            wide: row.try_get("wide")?,
            narrow: row.try_get("narrow")?,
            exact: row.try_get("exact")?,
            flags: row.try_get("flags")?,
            day: row.try_get("day")?,
            moment: row.try_get("moment")?,
            span: row.try_get("span")?,
            vintage: row.try_get("vintage")?,
            word: row.try_get("word")?,
            bytes: row.try_get("bytes")?,
            document: row.try_get("document")?,
            choice: row.try_get("choice")?,
            several: row.try_get("several")?,
        })
    }

    fn bind<'q>(&'q self, sql: &'q str) -> Query<'q, MySql, MySqlArguments> {
        sqlx::query(sql)
            .bind(self.id)
            .bind(self.tiny)
            .bind(self.small)
            .bind(self.big)
            .bind(self.huge)
            .bind(self.wide)
            .bind(self.narrow)
            .bind(&self.exact)
            .bind(self.flags)
            .bind(self.day)
            .bind(self.moment)
            .bind(self.span)
            .bind(self.vintage)
            .bind(&self.word)
            .bind(&self.bytes)
            .bind(&self.document)
            .bind(&self.choice)
            .bind(&self.several)
    }
}

fn expected() -> [Types; 3] {
    let day = |year, month, day| NaiveDate::from_ymd_opt(year, month, day).expect("a day");
    let full = Types {
        id: 1,
        tiny: Some(-128),
        small: Some(65535),
        big: Some(i64::MIN),
        huge: Some(u64::MAX),
        wide: Some(-1.5e300),
        narrow: Some(0.5),
        exact: "12345678901234567890123456.0123456789".parse().ok(),
        flags: Some(513),
        day: Some(day(2024, 2, 29)),
        moment: day(2024, 12, 31).and_hms_micro_opt(23, 59, 59, 123_456),
        span: MySqlTime::new(MySqlTimeSign::Negative, 12, 34, 56, 123_456).ok(),
        vintage: Some(2155),
        word: Some("Grüße 😀 '\"\\%".to_owned()),
        bytes: Some(b"\x00\xff'\\\"\n\x1a".to_vec()),
        document: "{\"a\": [1, null, \"ü\"], \"b\": 1.5}".parse().ok(),
        choice: Some("b".to_owned()),
        several: Some("x,z".to_owned()),
    };
    let least = Types {
        id: 2,
        tiny: Some(0),
        small: Some(0),
        big: Some(0),
        huge: Some(0),
        wide: Some(0.0),
        narrow: Some(-0.25),
        exact: "-0.0000000001".parse().ok(),
        flags: Some(0),
        day: Some(day(1000, 1, 1)),
        moment: day(1000, 1, 1).and_hms_opt(0, 0, 0),
        span: Some(MySqlTime::ZERO),
        vintage: Some(1901),
        word: Some(String::new()),
        bytes: Some(Vec::new()),
        document: Some(JsonValue::Array(Vec::new())),
        choice: Some("a".to_owned()),
        several: Some(String::new()),
    };
    [full, least, Types { id: 3, ..Types::default() }]
}

/// What was written: the servers compare it too. In both ways, whichever wrote it.
async fn written(conn: &mut MySqlConnection) -> Checked {
    let same: Vec<i32> = sqlx::query_scalar("SELECT id FROM same ORDER BY id").fetch_all(&mut *conn).await?;
    assert_eq!(same, [1, 2, 3]);
    let texts = conn.fetch_all("SELECT * FROM types ORDER BY id").await?;
    let query = sqlx::query("SELECT * FROM types WHERE id > ? ORDER BY id").bind(0);
    let binary = query.fetch_all(&mut *conn).await?;
    for rows in [texts, binary] {
        let rows = rows.iter().map(Types::read).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(rows, expected());
    }
    Ok(())
}

/// The driver puts no values into texts: the rows go from table to table.
async fn text() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    conn.execute("DELETE FROM types").await?;
    conn.execute("INSERT INTO types SELECT * FROM expected").await?;
    written(&mut conn).await
}

async fn prepared() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    conn.execute("DELETE FROM types").await?;
    let insert = insert_types();
    for row in expected() {
        row.bind(&insert).execute(&mut *conn).await?;
    }
    written(&mut conn).await?;
    let mut other = pool.acquire().await?;
    for sql in ALTERS {
        sqlx::query("SELECT word FROM notes WHERE id < ?").bind(0).fetch_all(&mut *conn).await?;
        other.execute(sql).await?;
    }
    Ok(())
}

async fn own_writes() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    conn.execute("DELETE FROM notes").await?;
    for number in 0..50 {
        let word = format!("own {number}");
        sqlx::query("INSERT INTO notes (word) VALUES (?)").bind(&word).execute(&mut *conn).await?;
        let found: String = sqlx::query_scalar("SELECT word FROM notes WHERE word = ?")
            .bind(&word)
            .fetch_one(&mut *conn)
            .await?;
        assert_eq!((found, count(&mut conn).await), (word, number + 1));
    }
    Ok(())
}

async fn transaction() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    conn.execute("DELETE FROM notes").await?;
    let mut tx = conn.begin().await?;
    tx.execute("INSERT INTO notes (word) VALUES ('undone')").await?;
    assert_eq!(count(&mut tx).await, 1);
    tx.rollback().await?;
    assert_eq!(count(&mut conn).await, 0);
    let mut tx = conn.begin().await?;
    tx.execute("INSERT INTO notes (word) VALUES ('kept')").await?;
    // A transaction in a transaction is a savepoint.
    let mut inner = tx.begin().await?;
    inner.execute("INSERT INTO notes (word) VALUES ('undone')").await?;
    inner.rollback().await?;
    tx.commit().await?;
    assert_eq!(count(&mut conn).await, 1);
    conn.execute("START TRANSACTION READ ONLY").await?;
    refused(conn.execute("DELETE FROM notes").await, 1792, "25006");
    conn.execute("ROLLBACK").await?;
    Ok(())
}

async fn blobs() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    let blob = blob();
    conn.execute("DELETE FROM blobs").await?;
    sqlx::query("INSERT INTO blobs VALUES (1, ?)").bind(&blob).execute(&mut *conn).await?;
    let prepared: Vec<u8> =
        sqlx::query_scalar("SELECT body FROM blobs WHERE id = ?").bind(1).fetch_one(&mut *conn).await?;
    let text: Vec<u8> = conn.fetch_one("SELECT body FROM blobs").await?.try_get(0)?;
    assert!(prepared == blob && text == blob);
    conn.execute("DELETE FROM blobs").await?;
    Ok(())
}

async fn procedure() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    conn.execute("DELETE FROM notes").await?;
    // The driver gives all rows of all results.
    let rows = conn.fetch_all("CALL several(7, @doubled)").await?;
    assert_eq!(rows.len(), 3);
    assert_eq!(sqlx::query_scalar::<_, i64>("SELECT @doubled").fetch_one(&mut *conn).await?, 14);
    assert_eq!(count(&mut conn).await, 1);
    Ok(())
}

async fn batch() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    conn.execute("DELETE FROM notes").await?;
    let mut tx = conn.begin().await?;
    let mut last = 0;
    for number in 0..1000 {
        let insert = sqlx::query("INSERT INTO notes (word) VALUES (?)").bind(format!("batch {number}"));
        last = insert.execute(&mut *tx).await?.last_insert_id();
    }
    tx.commit().await?;
    let found: String =
        sqlx::query_scalar("SELECT word FROM notes WHERE id = ?").bind(last).fetch_one(&mut *conn).await?;
    assert_eq!((&found[..], count(&mut conn).await), ("batch 999", 1000));
    Ok(())
}

async fn errors() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    conn.execute("DELETE FROM notes").await?;
    conn.execute("INSERT INTO notes (word) VALUES ('one')").await?;
    for (sql, number, state) in ERRORS {
        refused(conn.execute(sql).await, number, state);
        refused(sqlx::query(sql).execute(&mut *conn).await, number, state);
        assert_eq!(count(&mut conn).await, 1);
    }
    Ok(())
}

async fn cancel() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    for kill in ["KILL QUERY", "KILL"] {
        let id: u64 = sqlx::query_scalar("SELECT CONNECTION_ID()").fetch_one(&mut *conn).await?;
        let mut sleeping = Box::pin(conn.execute("SELECT SLEEP(60) FROM expected"));
        let ended = loop {
            match tokio::time::timeout(Duration::from_millis(200), &mut sleeping).await {
                Ok(ended) => break ended,
                // What is gone before a second attempt has no such id (1094).
                Err(_) => drop(pool.execute(&*format!("{kill} {id}")).await),
            }
        };
        drop(sleeping);
        if kill == "KILL QUERY" {
            refused(ended, 1317, "70100");
            assert_eq!(sqlx::query_scalar::<_, i64>("SELECT 5").fetch_one(&mut *conn).await?, 5);
        } else {
            assert!(ended.is_err() || conn.ping().await.is_err());
        }
    }
    // A statement that is given up costs its connection; the pool goes on with another.
    let sleeping = sqlx::query("SELECT SLEEP(60)").execute(&pool);
    assert!(tokio::time::timeout(Duration::from_millis(300), sleeping).await.is_err());
    assert_eq!(sqlx::query_scalar::<_, i64>("SELECT 5").fetch_one(&pool).await?, 5);
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
        missing("the driver has none").boxed_local(),
        errors().boxed_local(),
        cancel().boxed_local(),
        missing("its pool does not reset").boxed_local(),
    ])
    .await
}
