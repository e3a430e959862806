//! `--exec`: runs statements through the proxy as an application would, and asks the servers themselves which of them
//! ran each. Every statement carries a comment that no other one has.

use std::io::{self, Write};
use std::time::Duration;

use tokio::time::sleep;

use crate::dba::{self, Answer, Login, Session};
use crate::model::server::{Address, Endpoint};

/// Runs them in one session of the application's (with its schema), in order, until one fails. Writes each with the server that ran it, then its result.
///
/// # Errors
/// When the proxy lets nobody in, or `out` cannot be written to. That a statement fails is no error: false.
pub(crate) async fn run(
    statements: &str,
    proxy: &Address,
    application: (&Login, &str),
    servers: &[Endpoint],
    root: &Login,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let mut session = Session::guest(proxy, application.0, application.1).await?;
    let mut witnesses = Vec::new();
    for server in servers {
        witnesses.push((server.id.to_string(), Session::open(&server.address, root).await?));
    }
    let mut good = true;
    for (number, statement) in split(statements).into_iter().enumerate() {
        // On a line of its own: the statement may end in a comment.
        let mark = format!("\n/* {MARK}{number} */");
        let marked = format!("{statement}{mark}");
        let answer = session.ask(&marked).await;
        let ran = witness(&mut witnesses, number).await?;
        writeln!(out, "{ran}\t{}", one_line(statement))?;
        match answer {
            Ok(answer) => write_answer(out, &answer)?,
            Err(error) => {
                let error = one_line(&error.to_string().replace(&mark, ""));
                writeln!(out, "  error: {error}")?;
                good = false;
                break;
            }
        }
    }
    session.close().await;
    for (_, witness) in witnesses {
        witness.close().await;
    }
    Ok(good)
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Server(#[from] dba::Error),
    #[error("cannot write the results: {0}")]
    Output(#[from] io::Error),
}

const MARK: &str = "readwright-demo-";
/// What has ended is not always seen at once.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// The servers that ran the statement with this number, by what each says of its threads; `proxy` when none did. What has
/// been answered is still the thread's current statement until it is history.
async fn witness(witnesses: &mut [(String, Session)], number: usize) -> Result<String, dba::Error> {
    // Written in two halves, so that the question does not find itself; of clients' threads only, since what a replica
    // applies has the same text.
    let sql = format!(
        "SELECT 1 FROM (SELECT THREAD_ID, SQL_TEXT FROM performance_schema.events_statements_current UNION ALL \
         SELECT THREAD_ID, SQL_TEXT FROM performance_schema.events_statements_history) AS ran \
         JOIN performance_schema.threads USING (THREAD_ID) \
         WHERE NAME = 'thread/sql/one_connection' AND SQL_TEXT LIKE CONCAT('%/* {MARK}', '{number} */') LIMIT 1"
    );
    for look in 0..LOOKS {
        if look > 0 {
            sleep(BETWEEN_LOOKS).await;
        }
        let mut ran = Vec::new();
        for (name, session) in witnesses.iter_mut() {
            if matches!(session.ask(&sql).await?, Answer::Rows { rows, .. } if !rows.is_empty()) {
                ran.push(name.as_str());
            }
        }
        if !ran.is_empty() {
            return Ok(ran.join("+"));
        }
    }
    Ok("proxy".to_owned())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn write_answer(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    match answer {
        Answer::Done { affected } => writeln!(out, "  ok, {affected} rows affected"),
        Answer::Rows { columns, rows } => {
            writeln!(out, "  {}", columns.join("\t"))?;
            for row in rows {
                let cells: Vec<&str> = row.iter().map(|cell| cell.as_deref().unwrap_or("NULL")).collect();
                writeln!(out, "  {}", cells.join("\t"))?;
            }
            Ok(())
        }
    }
}

/// Splits at semicolons that are in no string, name or comment. Empty statements fall out.
fn split(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut start, mut at) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        let rest = &text[at..];
        let length = match bytes[at] {
            b';' => {
                statements.push(&text[start..at]);
                start = at + 1;
                1
            }
            quote @ (b'\'' | b'"' | b'`') => quoted_length(rest.as_bytes(), quote),
            b'#' => rest.find('\n').unwrap_or(rest.len()),
            b'-' if rest.starts_with("-- ") || rest == "--" || rest.starts_with("--\n") => {
                rest.find('\n').unwrap_or(rest.len())
            }
            b'/' if rest.starts_with("/*") => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        at += length;
    }
    statements.push(&text[start..]);
    statements.into_iter().map(str::trim).filter(|statement| !statement.is_empty()).collect()
}

/// The length of a string with its quotes. A doubled quote is two strings side by side, which is as good.
fn quoted_length(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quote != b'`' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_split() {
        let check = |text: &str, expected: &[&str]| assert_eq!(split(text), expected, "{text}");
        check("", &[]);
        check(" ; ;", &[]);
        check("SELECT 1", &["SELECT 1"]);
        check("SELECT 1; SELECT 2 ;", &["SELECT 1", "SELECT 2"]);
        check("SELECT ';', \";\", `;`; B", &["SELECT ';', \";\", `;`", "B"]);
        check(r"SELECT 'a\';b'; B", &[r"SELECT 'a\';b'", "B"]);
        check("SELECT 'a'';b'; B", &["SELECT 'a'';b'", "B"]);
        check("SELECT 1 /* ; */; B -- ; c\n; C # ;", &["SELECT 1 /* ; */", "B -- ; c", "C # ;"]);
        check("SELECT 5--1; B", &["SELECT 5--1", "B"]);
        check("SELECT 'é;ü'; 'open", &["SELECT 'é;ü'", "'open"]);
        check("/* open; B", &["/* open; B"]);
    }
}
