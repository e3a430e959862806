//! Says ROW_COUNT() and FOUND_ROWS() in a statement by their numbers, for a connection that has not run the statement before.
//! The client must not see it: a column keeps its name.

use super::Dialect;
use super::names::Folded;
use super::scan::{Lexer, Token, TokenKind};

/// The longest name that a column has of its expression without being cut.
const LONGEST_NAME: usize = 64;

/// The same statement with numbers for the calls. None: it has none of them, or the client would see it.
pub(crate) fn with_counts(
    text: &[u8],
    dialect: Dialect,
    row_count: i64,
    found_rows: Option<u64>,
) -> Option<Vec<u8>> {
    let mut lexer = Lexer::new(text, dialect);
    let verb = lexer.next()?;
    let names = match Folded::keyword(&verb).as_str() {
        "insert" | "replace" | "update" | "delete" | "set" | "do" | "call" => false,
        "select" => true,
        _ => return None,
    };
    let mut said = Said { text, copied: 0, out: Vec::with_capacity(text.len() + 32), changed: false };
    let mut column = names.then(Column::default);
    let mut depth = 0_usize;
    loop {
        let before = lexer.position();
        let Some(token) = lexer.next() else { break };
        match token.kind {
            TokenKind::Sign(b'(') => depth += 1,
            TokenKind::Sign(b')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        let ends = depth == 0 && (token.is_sign(b',') || token.is_sign(b';') || ends_columns(&token));
        if let Some(found) = column.as_mut().filter(|_| ends) {
            said.name(found)?;
            column = token.is_sign(b',').then(Column::default);
            continue;
        }
        // Its names would be in the result.
        if token.is("returning") {
            return None;
        }
        let start = start_of(text, before, &lexer, &token);
        let number = match Folded::name(&token).as_str() {
            "row_count" if token.kind == TokenKind::Word => Some(row_count),
            "found_rows" => found_rows.and_then(|found| i64::try_from(found).ok()),
            _ => None,
        };
        let mut further = lexer;
        let called = !token.after_dot
            && further.next().is_some_and(|next| next.is_sign(b'('))
            && further.next().is_some_and(|next| next.is_sign(b')'));
        let mut end = lexer.position();
        if let Some(number) = number.filter(|_| called) {
            lexer = further;
            end = lexer.position();
            said.number(start, end, number);
            if let Some(column) = &mut column {
                column.take(start, end, Last::Value);
                column.counts = true;
            }
        } else if let Some(column) =
            column.as_mut().filter(|column| column.start.is_some() || !is_option(&token))
        {
            column.take(start, end, Last::of(&token));
        }
    }
    if let Some(column) = &column {
        said.name(column)?;
    }
    if lexer.is_malformed() || !said.changed {
        return None;
    }
    said.out.extend_from_slice(&text[said.copied..]);
    Some(said.out)
}

/// Where this token, the last that was read, begins.
fn start_of(text: &[u8], before: usize, lexer: &Lexer<'_>, token: &Token<'_>) -> usize {
    let quotes = match token.kind {
        TokenKind::Quoted => 2,
        TokenKind::UserVariable => 1,
        _ => 0,
    };
    (lexer.position() - token.text.len()).saturating_sub(quotes).clamp(before, text.len())
}

/// A text that is being written.
struct Said<'a> {
    text: &'a [u8],
    /// How much of it is in `out`.
    copied: usize,
    out: Vec<u8>,
    changed: bool,
}

impl Said<'_> {
    fn number(&mut self, start: usize, end: usize, number: i64) {
        self.out.extend_from_slice(&self.text[self.copied..start]);
        self.out.extend_from_slice(format!("CAST({number} AS SIGNED)").as_bytes());
        self.copied = end;
        self.changed = true;
    }

    /// Behind a column: it gets the name that it had of itself. None: who knows whether it has one.
    fn name(&mut self, column: &Column) -> Option<()> {
        let (Some(start), true) = (column.start, column.counts) else { return Some(()) };
        let name = &self.text[start..column.end];
        if column.is_named()? {
            return Some(());
        }
        if name.len() > LONGEST_NAME || !name.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'`')
        {
            return None;
        }
        self.out.extend_from_slice(&self.text[self.copied..column.end]);
        self.out.extend_from_slice(b" AS `");
        self.out.extend_from_slice(name);
        self.out.push(b'`');
        self.copied = column.end;
        Some(())
    }
}

/// One column of a result, as far as it was read.
#[derive(Default)]
struct Column {
    start: Option<usize>,
    end: usize,
    /// One of the calls is in it.
    counts: bool,
    last: [Last; 2],
}

/// What a token is to the question whether the last one names the column.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Last {
    As,
    /// `)`, a number, a variable: nothing but a name or an operator can follow.
    Value,
    /// A name, a string, or an operator that is a word.
    Name,
    /// It may end an expression.
    End,
    #[default]
    Operator,
}

impl Last {
    fn of(token: &Token<'_>) -> Self {
        match token.kind {
            _ if token.is("as") => Self::As,
            _ if token.is("end") => Self::End,
            TokenKind::Word | TokenKind::Quoted | TokenKind::Text => Self::Name,
            TokenKind::Sign(b')') | TokenKind::Number | TokenKind::UserVariable => Self::Value,
            _ => Self::Operator,
        }
    }
}

impl Column {
    fn take(&mut self, start: usize, end: usize, last: Last) {
        self.start.get_or_insert(start);
        self.end = end;
        self.last = [self.last[1], last];
    }

    /// None: nobody knows without knowing all operators.
    fn is_named(&self) -> Option<bool> {
        match self.last {
            [Last::As, _] | [Last::Value, Last::Name] => Some(true),
            [_, Last::As | Last::Value | Last::Operator] | [Last::Operator, _] => Some(false),
            _ => None,
        }
    }
}

/// Words behind SELECT that belong to no column.
fn is_option(token: &Token<'_>) -> bool {
    let word = Folded::keyword(token);
    matches!(word.as_str(), "all" | "distinct" | "distinctrow" | "high_priority" | "straight_join")
        || word.as_str().starts_with("sql_")
}

fn ends_columns(token: &Token<'_>) -> bool {
    matches!(
        Folded::keyword(token).as_str(),
        "from"
            | "where"
            | "group"
            | "having"
            | "order"
            | "limit"
            | "into"
            | "union"
            | "except"
            | "intersect"
            | "for"
            | "lock"
            | "window"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_calls() {
        let said = |sql: &str| {
            let said = with_counts(sql.as_bytes(), Dialect::for_tests(), 2, Some(7))?;
            Some(String::from_utf8(said).expect("ASCII"))
        };
        for (sql, expected) in [
            (
                "INSERT INTO t VALUES (ROW_COUNT(), `found_rows`())",
                "INSERT INTO t VALUES (CAST(2 AS SIGNED), CAST(7 AS SIGNED))",
            ),
            ("SET @a = row_count ( ) + 1", "SET @a = CAST(2 AS SIGNED) + 1"),
            ("SELECT FOUND_ROWS()+1", "SELECT CAST(7 AS SIGNED)+1 AS `FOUND_ROWS()+1`"),
            (
                "SELECT  SQL_NO_CACHE IF(ROW_COUNT()>0, 'y', 'n') , 1 ;",
                "SELECT  SQL_NO_CACHE IF(CAST(2 AS SIGNED)>0, 'y', 'n') AS `IF(ROW_COUNT()>0, 'y', 'n')` , 1 ;",
            ),
            (
                "SELECT ROW_COUNT() AS n, 1+FOUND_ROWS() FROM t",
                "SELECT CAST(2 AS SIGNED) AS n, 1+CAST(7 AS SIGNED) AS `1+FOUND_ROWS()` FROM t",
            ),
            (
                "SELECT ROW_COUNT() + 2 x, FOUND_ROWS() y",
                "SELECT CAST(2 AS SIGNED) + 2 x, CAST(7 AS SIGNED) y",
            ),
            ("SELECT ROW_COUNT() + t.x", "SELECT CAST(2 AS SIGNED) + t.x AS `ROW_COUNT() + t.x`"),
            ("SELECT ROW_COUNT() 'n', a FROM t", "SELECT CAST(2 AS SIGNED) 'n', a FROM t"),
            ("SELECT a FROM t WHERE a = ROW_COUNT()", "SELECT a FROM t WHERE a = CAST(2 AS SIGNED)"),
            (
                "SELECT 1 + (SELECT ROW_COUNT())",
                "SELECT 1 + (SELECT CAST(2 AS SIGNED)) AS `1 + (SELECT ROW_COUNT())`",
            ),
        ] {
            assert_eq!(said(sql).as_deref(), Some(expected), "{sql}");
        }
        for sql in [
            "SELECT 1",
            "SELECT d.row_count()",
            "SELECT `row_count`()",
            "SELECT 'ROW_COUNT()', row_count FROM t",
            "SELECT ROW_COUNT() DIV x",
            "SELECT CASE ROW_COUNT() WHEN 1 THEN 2 END",
            "SELECT ROW_COUNT() + `a`",
            "CREATE TABLE n SELECT ROW_COUNT()",
            "DELETE FROM t WHERE a = ROW_COUNT() RETURNING a",
        ] {
            assert_eq!(said(sql), None, "{sql}");
        }
        assert_eq!(with_counts(b"SELECT FOUND_ROWS()+1", Dialect::for_tests(), 2, None), None);
    }
}
