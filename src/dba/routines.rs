//! The stored routines, triggers and views of a server, for the verdict on statements that come to run them.

use super::error::Error;
use super::session::{Session, first};
use crate::model::routine::{Routine, RoutineKind};

/// Bodies longer than this, in bytes, are not read.
const LONGEST_BODY: u32 = 64 << 10;
/// More of a kind than this are not read: those beyond are as unknown as loadable functions.
const MOST: u32 = 5_000;

/// A kind of them, as `information_schema` has it: columns named alike, without what is the server's own. (Its functions
/// are about one server, or write.)
struct Source {
    kind: RoutineKind,
    rows: &'static str,
}

const SOURCES: &[Source] = &[
    Source {
        kind: RoutineKind::Called,
        rows: "SELECT ROUTINE_SCHEMA AS IN_SCHEMA, ROUTINE_NAME AS NAME, \
               ROUTINE_TYPE = 'FUNCTION' AND SQL_DATA_ACCESS IN ('NO SQL', 'READS SQL DATA') AS ONLY_READS, \
               SQL_MODE AS MODE, ROUTINE_DEFINITION AS BODY FROM information_schema.ROUTINES",
    },
    // As far as the account has the TRIGGER privilege for their tables. MariaDB opens every table to tell of them.
    // <https://dev.mysql.com/doc/refman/9.7/en/information-schema-triggers-table.html>
    Source {
        kind: RoutineKind::Trigger,
        rows: "SELECT TRIGGER_SCHEMA AS IN_SCHEMA, TRIGGER_NAME AS NAME, 0 AS ONLY_READS, \
               SQL_MODE AS MODE, ACTION_STATEMENT AS BODY FROM information_schema.TRIGGERS",
    },
    // As far as the account has SELECT and SHOW VIEW for them. Whatever the sql_mode that a view was made in, the server
    // writes it as the default one reads it. MariaDB opens every table here too.
    // <https://dev.mysql.com/doc/refman/9.7/en/information-schema-views-table.html>
    Source {
        kind: RoutineKind::View,
        rows: "SELECT TABLE_SCHEMA AS IN_SCHEMA, TABLE_NAME AS NAME, 1 AS ONLY_READS, \
               '' AS MODE, NULLIF(VIEW_DEFINITION, '') AS BODY FROM information_schema.VIEWS",
    },
];

impl Source {
    /// All that this server is asked for.
    fn of(session: &Session) -> &'static [Self] {
        if session.version().mariadb { &SOURCES[..1] } else { SOURCES }
    }

    fn select(&self, what: &str) -> String {
        format!(
            "SELECT {what} FROM ({}) AS ROWS_OF_IT \
             WHERE IN_SCHEMA NOT IN ('sys', 'mysql', 'information_schema', 'performance_schema')",
            self.rows
        )
    }
}

/// A number that changes when one of them does. Bodies stay on the server.
///
/// # Errors
/// When the server does not answer, or not with a number.
pub(crate) async fn routines_mark(session: &mut Session) -> Result<u64, Error> {
    let sum = "IFNULL(SUM(CRC32(CONCAT_WS(',', IN_SCHEMA, NAME, ONLY_READS, MODE, BODY))), 0) + COUNT(*)";
    let sums: Vec<String> =
        Source::of(session).iter().map(|source| format!("({})", source.select(sum))).collect();
    let sql = format!("SELECT CAST({} AS UNSIGNED)", sums.join(" + "));
    let rows = session.rows(&sql).await?;
    session.fields(first(&rows, session.address())?).value(0)
}

/// All of them, as far as the account may see them: MySQL shows the bodies of routines to whoever has SELECT on everything.
///
/// # Errors
/// When the server does not answer, or not with rows of this form.
pub(crate) async fn routines(session: &mut Session) -> Result<Vec<Routine>, Error> {
    let what =
        format!("IN_SCHEMA, NAME, ONLY_READS, MODE, IF(LENGTH(BODY) <= {LONGEST_BODY}, BODY, NULL) AS BODY");
    let mut routines = Vec::new();
    for source in Source::of(session) {
        let rows = session.rows(&format!("{} LIMIT {MOST}", source.select(&what))).await?;
        for row in &rows {
            let fields = session.fields(row);
            routines.push(Routine {
                kind: source.kind,
                schema: fields.text(0)?,
                name: fields.text(1)?,
                declares_reading: fields.value(2)?,
                sql_mode: fields.text(3)?,
                body: fields.optional(4)?,
            });
        }
    }
    Ok(routines)
}

/// True when [`routines`] gives all triggers and views that there are, and all bodies that are not too long.
///
/// # Errors
/// When the server does not answer.
pub(crate) async fn shows_all_routines(session: &mut Session) -> Result<bool, Error> {
    if session.version().mariadb {
        return Ok(false);
    }
    let sql = format!(
        "SELECT (SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES \
         WHERE GRANTEE = CONCAT(QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', 1)), '@', \
         QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', -1))) \
         AND PRIVILEGE_TYPE IN ('SELECT', 'SHOW VIEW', 'TRIGGER')) = 3 \
         AND NOT EXISTS (SELECT * FROM performance_schema.global_variables \
         WHERE VARIABLE_NAME = 'partial_revokes' AND VARIABLE_VALUE = 'ON') \
         AND (SELECT COUNT(*) FROM information_schema.TRIGGERS) <= {MOST} \
         AND (SELECT COUNT(*) FROM information_schema.VIEWS) <= {MOST}"
    );
    let rows = session.rows(&sql).await?;
    session.fields(first(&rows, session.address())?).value(0)
}
