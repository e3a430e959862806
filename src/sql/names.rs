//! Names and literals out of tokens: unquoted, unescaped, in lower case. Text is bytes; it need not be UTF-8.

use super::Dialect;
use super::scan::{Token, TokenKind};

/// A word in lower case on the stack. Empty when it is longer than any word we know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folded {
    bytes: [u8; 48],
    length: usize,
}

impl Default for Folded {
    fn default() -> Self {
        Self { bytes: [0; 48], length: 0 }
    }
}

impl Folded {
    /// Of a keyword; empty for every other token.
    pub(super) fn keyword(token: &Token<'_>) -> Self {
        if token.is_keyword() { Self::name(token) } else { Self::default() }
    }

    /// Of a name, quoted or not; empty for every other token.
    pub(super) fn name(token: &Token<'_>) -> Self {
        let mut folded = Self::default();
        if let Some(bytes) = folded.bytes.get_mut(..token.text.len()).filter(|_| token.is_name()) {
            bytes.copy_from_slice(token.text);
            bytes.make_ascii_lowercase();
            folded.length = token.text.len();
        }
        folded
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// The name that a token is, in lower case: of a word, a quoted name, a user variable or, where the server takes a
/// string for a name, a string.
pub(super) fn lower_name(token: &Token<'_>) -> Box<[u8]> {
    let text = match (token.kind, token.text) {
        (TokenKind::Quoted, text) => undouble(text, b'`'),
        (TokenKind::UserVariable, [quote @ (b'`' | b'\'' | b'"'), inner @ .., _]) => undouble(inner, *quote),
        (_, text) => text.to_vec(),
    };
    text.to_ascii_lowercase().into_boxed_slice()
}

/// `schema.table` or `table`, in lower case.
pub(super) fn table_name(first: Option<&Token<'_>>, second: Option<&Token<'_>>) -> Box<[u8]> {
    let mut name = first.map(lower_name).unwrap_or_default().into_vec();
    if let Some(second) = second {
        name.push(b'.');
        name.extend_from_slice(&lower_name(second));
    }
    name.into_boxed_slice()
}

fn undouble(text: &[u8], quote: u8) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == quote {
            bytes.next_if_eq(&quote);
        }
        plain.push(byte);
    }
    plain
}

/// What a string literal says; for any other token its own bytes.
pub(super) fn literal_value(token: &Token<'_>, dialect: Dialect) -> Vec<u8> {
    let (quote, inner) = match token.text {
        [b'n' | b'N', quote @ (b'\'' | b'"'), inner @ .., _] | [quote @ (b'\'' | b'"'), inner @ .., _] => {
            (*quote, inner)
        }
        text => return text.to_vec(),
    };
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' && !dialect.no_backslash_escapes {
            plain.extend(bytes.next().map(|escaped| match escaped {
                b'0' => 0,
                b'b' => 8,
                b't' => b'\t',
                b'n' => b'\n',
                b'r' => b'\r',
                b'Z' => 26,
                other => other,
            }));
            continue;
        }
        if byte == quote {
            bytes.next_if_eq(&quote);
        }
        plain.push(byte);
    }
    plain
}
