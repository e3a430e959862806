//! `sqlx` with its pool: `query` prepares and keeps its statements, a text alone goes by the text protocol.

use std::time::Duration;

use futures_util::FutureExt;
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions, MySqlSslMode};
use sqlx::{Connection, Executor, MySqlConnection, Row};

use crate::report::{self, Checked, missing};
use crate::{ALTERS, COLUMNS, ERRORS, blob, given, insert_types, tls};

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

/// By text: the rows go from table to table, and come back as they are written there.
async fn text() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    conn.execute("DELETE FROM types").await?;
    conn.execute("INSERT INTO types SELECT * FROM expected").await?;
    let rows = conn.fetch_all("SELECT id, exact, word, document FROM types ORDER BY id").await?;
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].try_get_unchecked::<String, _>(1)?, "12345678901234567890123456.0123456789");
    assert_eq!(rows[0].try_get::<String, _>(2)?, "Grüße 😀 '\"\\%");
    assert_eq!(rows[2].try_get::<Option<String>, _>(2)?, None);
    Ok(())
}

async fn prepared() -> Checked {
    let pool = pool().await;
    let mut conn = pool.acquire().await?;
    conn.execute("DELETE FROM types").await?;
    let insert = insert_types();
    sqlx::query(&insert)
        .bind(1)
        .bind(-128_i8)
        .bind(65535_u16)
        .bind(i64::MIN)
        .bind(u64::MAX)
        .bind(-1.5e300)
        .bind(0.5_f32)
        .bind("12345678901234567890123456.0123456789")
        .bind(513_u16)
        .bind("2024-02-29")
        .bind("2024-12-31 23:59:59.123456")
        .bind("-12:34:56.123456")
        .bind(2155)
        .bind("Grüße 😀 '\"\\%")
        .bind(&b"\x00\xff'\\\"\n\x1a"[..])
        .bind("{\"a\": [1, null, \"ü\"], \"b\": 1.5}")
        .bind("b")
        .bind("x,z")
        .execute(&mut *conn)
        .await?;
    let mut nothing = sqlx::query(&insert).bind(3);
    for _ in 1..COLUMNS {
        nothing = nothing.bind(None::<String>);
    }
    nothing.execute(&mut *conn).await?;
    let same: Vec<i32> = sqlx::query_scalar("SELECT id FROM same ORDER BY id").fetch_all(&mut *conn).await?;
    assert_eq!(same, [1, 3]);
    let row = sqlx::query("SELECT * FROM types WHERE id = ?").bind(1).fetch_one(&mut *conn).await?;
    assert_eq!((row.try_get::<i64, _>(3)?, row.try_get::<u64, _>(4)?), (i64::MIN, u64::MAX));
    assert_eq!((row.try_get::<f64, _>(5)?, row.try_get::<f32, _>(6)?), (-1.5e300, 0.5));
    assert_eq!(row.try_get::<Vec<u8>, _>(14)?, b"\x00\xff'\\\"\n\x1a");
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

/// A statement that is given up costs its connection; the pool goes on with another.
async fn cancel() -> Checked {
    let pool = pool().await;
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
