//! A second opinion on what the walk calls a read, from a parser of another make. It can only take a read away: text
//! that it cannot parse, which is a third of what MySQL takes, says nothing. Asked once per shape, never on a cache hit.

use std::ops::ControlFlow;
use std::panic;

use sqlparser::ast::{Query, Select, Statement, Visit, Visitor};
use sqlparser::dialect::MySqlDialect;
use sqlparser::parser::Parser;

use super::scan::{Lexer, TokenKind};
use super::{Charset, Dialect};

/// True when the parser reads the text and finds anything but plain reads and statements about the session in it, or
/// cuts it into another number of statements than our own lexer does.
pub(super) fn contradicts(text: &[u8], dialect: Dialect) -> bool {
    let Some((text, statements)) = parsable(text, dialect) else {
        return false;
    };
    // A panic in there is no reason to lose a session whose statement the walk has understood.
    let parsed = panic::catch_unwind(|| {
        let parser = Parser::new(&MySqlDialect {}).with_recursion_limit(RECURSION_LIMIT);
        let tree = parser.try_with_sql(text).and_then(|mut parser| parser.parse_statements()).ok()?;
        Some(tree.len() != statements || tree.visit(&mut Doubt).is_break())
    });
    parsed.ok().flatten().unwrap_or(false)
}

/// The text and the number of its statements. None when the parser is known to read such text in another way than the
/// server does, or might need more stack or time than we grant it.
fn parsable(text: &[u8], dialect: Dialect) -> Option<(&str, usize)> {
    if text.len() > MAX_BYTES {
        return None;
    }
    // It takes backslashes and double quotes as the default sql_mode does, and any version comment as live.
    let misread = (dialect.no_backslash_escapes && memchr::memchr(b'\\', text).is_some())
        || (dialect.ansi_quotes && memchr::memchr(b'"', text).is_some())
        || (dialect.charset != Charset::AsciiSafe && !text.is_ascii())
        || ["/*!", "/*M!"].iter().any(|mark| memchr::memmem::find(text, mark.as_bytes()).is_some());
    if misread {
        return None;
    }
    let (mut depth, mut words_and_signs, mut joins, mut statements) = (0_usize, 0_usize, 0_usize, 0_usize);
    let mut at_start = true;
    let mut lexer = Lexer::new(text, dialect);
    while let Some(token) = lexer.next() {
        match token.kind {
            TokenKind::Sign(b'(' | b'[' | b'{') => depth += 1,
            TokenKind::Sign(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            TokenKind::Sign(b',' | b'.' | b';') => {}
            TokenKind::Word if token.after_dot => {}
            TokenKind::Word | TokenKind::Sign(_) | TokenKind::Assign => words_and_signs += 1,
            _ => {}
        }
        joins += usize::from(token.is("join") || token.is("straight_join"));
        let ends = token.is_sign(b';');
        statements += usize::from(at_start && !ends);
        at_start = ends;
        if depth > MAX_DEPTH || words_and_signs > MAX_WORDS_AND_SIGNS || joins > MAX_JOINS {
            return None;
        }
    }
    Some((std::str::from_utf8(text).ok()?, statements))
}

/// Breaks at the first thing that is no plain read.
struct Doubt;

impl Visitor for Doubt {
    type Break = ();

    /// Also the statements inside queries: `WITH ... DELETE` is a query whose body is one.
    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        doubt_unless(matches!(
            statement,
            Statement::Query(_)
                | Statement::Explain { .. }
                | Statement::ExplainTable { .. }
                | Statement::ShowCharset(_)
                | Statement::ShowCollation { .. }
                | Statement::ShowColumns { .. }
                | Statement::ShowCreate { .. }
                | Statement::ShowDatabases { .. }
                | Statement::ShowFunctions { .. }
                | Statement::ShowProcessList { .. }
                | Statement::ShowSchemas { .. }
                | Statement::ShowStatus { .. }
                | Statement::ShowTables { .. }
                | Statement::ShowVariable { .. }
                | Statement::ShowVariables { .. }
                // Beside a read in one text. What they do to the session is for the walk alone: their trees mislead.
                | Statement::Set(_)
                | Statement::Use(_)
                | Statement::Commit { .. }
                | Statement::Rollback { .. }
                | Statement::Execute { .. }
                | Statement::Deallocate { .. }
        ))
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        doubt_unless(query.locks.is_empty())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        doubt_unless(select.into.is_none())
    }
}

fn doubt_unless(plain: bool) -> ControlFlow<()> {
    if plain { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Longer text is left to the walk.
const MAX_BYTES: usize = 16 << 10;

/// Brackets within brackets.
const MAX_DEPTH: usize = 16;

/// A chain of n operators is a tree of depth n, and trees are visited and freed by recursion.
const MAX_WORDS_AND_SIGNS: usize = 1_024;

/// The parser calls itself for each join without a condition, some 50 KB of stack in a debug build, and does not count
/// that.
const MAX_JOINS: usize = 10;

/// For what the parser does count: queries, tables and expressions within one another; some 80 KB each in a debug build.
const RECURSION_LIMIT: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_parser_sees_what_is_no_plain_read() {
        let check = |sql: &str, expected: bool| {
            assert_eq!(contradicts(sql.as_bytes(), Dialect::for_tests()), expected, "{sql}");
        };
        for sql in [
            "DELETE FROM t",
            "SELECT 1; DELETE FROM t",
            "SELECT a FROM t FOR UPDATE",
            "SELECT a FROM t WHERE b IN (SELECT b FROM u FOR SHARE)",
            "SELECT a FROM (SELECT a FROM t FOR UPDATE SKIP LOCKED) d",
            "SELECT 1 UNION (SELECT a FROM t FOR UPDATE)",
            "SELECT a INTO b FROM t",
            "WITH c AS (SELECT 1) DELETE FROM t",
            "WITH c AS (SELECT 1) UPDATE t SET a=1",
            "WITH c AS (INSERT INTO t VALUES (1)) SELECT a FROM c",
            "EXPLAIN DELETE FROM t",
            "EXPLAIN ANALYZE SELECT a FROM t FOR UPDATE",
            "START TRANSACTION",
            "CREATE TABLE t (a INT)",
            "CALL p()",
        ] {
            check(sql, true);
        }
        for sql in [
            "",
            ";",
            "SELECT a, 'FOR UPDATE' FROM t -- FOR UPDATE",
            ";;SELECT 1;;SELECT a FROM t;",
            "USE d; SELECT a FROM t",
            "COMMIT; SET @a=1; SELECT a FROM t",
            "WITH RECURSIVE c AS (SELECT 1 UNION ALL SELECT a+1 FROM c) SELECT a FROM c",
            "EXPLAIN SELECT a FROM t",
            "DESCRIBE t",
            "SHOW FULL COLUMNS FROM t",
            "SHOW INDEX FROM t",
            "TABLE t",
            "VALUES ROW(1), ROW(2)",
            // It cannot parse these.
            "SELECT a FROM t LOCK IN SHARE MODE",
            "DELETE FROM t WHERE",
            // It would misread these.
            "SELECT a FROM t /*!99999 FOR UPDATE */",
            "SELECT a FROM t /*M!99999 FOR UPDATE */",
        ] {
            check(sql, false);
        }
    }

    #[test]
    fn text_that_it_reads_by_other_rules_says_nothing() {
        let default = Dialect::for_tests();
        let check = |sql: &[u8], dialect: Dialect, expected: bool| {
            let shown = String::from_utf8_lossy(sql);
            assert_eq!(contradicts(sql, dialect), expected, "{shown} {dialect:?}");
        };
        let no_escapes = Dialect { no_backslash_escapes: true, ..default };
        check(b"DELETE FROM t WHERE a='\\\\'", default, true);
        check(b"DELETE FROM t WHERE a='\\\\'", no_escapes, false);
        let ansi = Dialect { ansi_quotes: true, ..default };
        check(b"DELETE FROM t WHERE a=\"a\"", default, true);
        check(b"DELETE FROM t WHERE a=\"a\"", ansi, false);
        let latin = Dialect { charset: Charset::EightBit, ..default };
        check(b"DELETE FROM t WHERE a='a'", latin, true);
        check(b"DELETE FROM t WHERE a='\xc3\xa0'", latin, false);
        check(b"DELETE FROM t WHERE a='\xc3\xa0'", default, true);
        check(b"DELETE FROM t WHERE a='\xc3'", default, false);
    }

    /// Text around each bound, just inside and far beyond.
    fn deep_texts() -> Vec<String> {
        let chain = |head: &str, piece: &str| -> Vec<String> {
            [4, 8, 12, 16, 40, 300, 500, 1_000, 2_000, 5_000, 200_000]
                .iter()
                .map(|&count| format!("{head}{}", piece.repeat(count)))
                .collect()
        };
        let nest = |open: &str, core: &str, close: &str| -> Vec<String> {
            [1, 2, 3, 4, 5, 6, 8, 12, 16, 17, 40, 1_000, 100_000]
                .iter()
                .map(|&count| {
                    format!("SELECT a FROM t WHERE a={}{core}{}", open.repeat(count), close.repeat(count))
                })
                .collect()
        };
        let from = |open: &str, core: &str, close: &str| -> Vec<String> {
            [1, 2, 3, 4, 5, 6, 8, 12, 16, 17, 40, 1_000]
                .iter()
                .map(|&count| format!("SELECT a FROM {}{core}{}", open.repeat(count), close.repeat(count)))
                .collect()
        };
        [
            chain("SELECT 1", "+1"),
            chain("SELECT a FROM t WHERE a=1", " AND a=1"),
            chain("SELECT a FROM t WHERE a=1", " OR 1"),
            chain("SELECT a FROM t WHERE a IN (1", ",1"),
            chain("SELECT a", "->'$.a'"),
            chain("SELECT ", "NOT "),
            chain("SELECT ", "- "),
            chain("SELECT ", "CASE WHEN "),
            chain("SELECT ", "INTERVAL "),
            chain("SELECT 1", " UNION SELECT 1"),
            chain("SELECT 1", " UNION SELECT 1 INTERSECT SELECT 1"),
            chain("SELECT a FROM t", " JOIN t"),
            chain("SELECT a FROM t", " NATURAL JOIN t"),
            chain("SELECT a FROM t", " LEFT JOIN t ON a=a"),
            chain("SELECT a FROM t", " STRAIGHT_JOIN t"),
            chain("SELECT a FROM t", ", LATERAL t"),
            chain("", "EXPLAIN "),
            chain("SELECT 1", ";SELECT 1"),
            chain("SELECT a", ".a"),
            chain("SELECT 'a'", " 'a'"),
            nest("(", "1", ")"),
            nest("(SELECT ", "1", ")"),
            nest("(SELECT a FROM t WHERE a=", "1", ")"),
            nest("EXISTS (SELECT a FROM t WHERE a=", "1", ")"),
            nest("f(", "1", ")"),
            nest("CAST(", "1", " AS SIGNED)"),
            nest("CASE WHEN a THEN ", "1", " END"),
            nest("CASE (", "1", ") WHEN 1 THEN 1 END"),
            nest("a IN (", "1", ")"),
            nest("(1,", "1", ")"),
            nest("[", "1", "]"),
            nest("{", "1", "}"),
            from("(", "t", ")"),
            from("(", "SELECT 1", ") d"),
            from("(SELECT a FROM ", "t", ") d"),
            from("(t JOIN ", "t", ")"),
            nest("(SELECT a FROM t JOIN t JOIN t WHERE NOT a=", "1", ")"),
            nest("(SELECT a FROM t JOIN t JOIN t JOIN t JOIN (SELECT ", "1", ") d) "),
            chain(
                "SELECT a FROM t JOIN t JOIN t JOIN t JOIN t JOIN t JOIN t JOIN t JOIN t JOIN (SELECT ",
                "NOT ",
            ),
            from("(", "t", " JOIN t)"),
            from("(WITH c AS ", "(SELECT 1)", " SELECT 1)"),
        ]
        .concat()
    }

    #[test]
    fn no_text_overflows_the_stack() {
        // Three quarters of what threads of the runtime have.
        let thread = std::thread::Builder::new().stack_size(3 << 19).spawn(|| {
            for text in deep_texts() {
                let shown = &text[..text.len().min(80)];
                assert!(!contradicts(text.as_bytes(), Dialect::for_tests()), "{shown}");
            }
        });
        thread.expect("a thread").join().expect("every text was judged");
    }
}
