//! The shape of a statement: 128 bits over everything that its verdict can depend on. Literals count as one and the
//! same, and lists of them as one literal. A collision would be a wrong route, so the hash is keyed at random.

use std::hash::{BuildHasher, RandomState};

use super::scan::{Lexer, Token, TokenKind};
use super::{Charset, Dialect, Hint};

/// The random key of one cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShapeKey {
    start: Pair,
    multipliers: [u64; 2],
}

impl ShapeKey {
    pub(super) fn random() -> Self {
        let word = |n: u64| RandomState::new().hash_one(n);
        Self { start: Pair(word(0), word(1)), multipliers: [word(2) | 1, word(3) | 1] }
    }

    /// The shape of a text that is read to its end.
    pub(super) fn shape(&self, text: &[u8], dialect: Dialect) -> u128 {
        let mut lexer = Lexer::new(text, dialect);
        let mut hasher =
            Hasher { at: self.start, multipliers: self.multipliers, last: Last::Other, row: Row::None };
        hasher.mix(dialect_bits(dialect));
        while let Some(token) = lexer.next() {
            hasher.token(&token);
        }
        let hint = match lexer.hint() {
            None => 0,
            Some(Hint::Primary) => 1,
            Some(Hint::Replica) => 2,
        };
        let sets = u64::from(lexer.sets_variables());
        hasher.mix(TAG_END | sets << 3 | hint << 1 | u64::from(lexer.is_malformed()));
        u128::from(hasher.at.0) << 64 | u128::from(hasher.at.1)
    }
}

#[derive(Clone, Copy, Debug)]
struct Pair(u64, u64);

struct Hasher {
    at: Pair,
    multipliers: [u64; 2],
    last: Last,
    row: Row,
}

/// For `?, ?, ?` as one `?`.
#[derive(Clone, Copy)]
enum Last {
    Other,
    Literal,
    /// A comma behind a literal, and the hash before it.
    Comma(Pair),
}

/// For `(?), (?), (?)` as one `(?)`.
#[derive(Clone, Copy)]
enum Row {
    None,
    /// `(`; the hash behind the row before it, if there was one.
    Open(Option<Pair>),
    Filled(Option<Pair>),
    Closed(Pair),
    Comma(Pair),
}

impl Hasher {
    #[inline]
    fn mix(&mut self, value: u64) {
        let fold = |state: u64, multiplier: u64| {
            let product = u128::from(state) * u128::from(multiplier);
            product as u64 ^ (product >> 64) as u64
        };
        self.at.0 = fold(self.at.0 ^ value, self.multipliers[0]);
        self.at.1 = fold(self.at.1 ^ value.rotate_left(32), self.multipliers[1]);
    }

    #[inline]
    fn token(&mut self, token: &Token<'_>) {
        match token.kind {
            TokenKind::Word => {
                let tag = if token.after_dot { TAG_NAME_AFTER_DOT } else { TAG_WORD };
                self.bytes(tag, token.text);
                self.other();
            }
            TokenKind::Text | TokenKind::Number | TokenKind::Placeholder => self.literal(),
            TokenKind::Sign(b',') => {
                let before = self.at;
                self.mix(TAG_SIGN | u64::from(b','));
                self.last =
                    if matches!(self.last, Last::Literal) { Last::Comma(before) } else { Last::Other };
                self.row = match self.row {
                    Row::Closed(behind) => Row::Comma(behind),
                    row @ Row::Filled(_) => row,
                    _ => Row::None,
                };
            }
            TokenKind::Sign(b'(') => {
                let behind = match self.row {
                    Row::Comma(behind) => Some(behind),
                    _ => None,
                };
                self.mix(TAG_OPEN | token.gap as u64);
                self.last = Last::Other;
                self.row = Row::Open(behind);
            }
            TokenKind::Sign(b')') => {
                self.mix(TAG_SIGN | u64::from(b')'));
                self.last = Last::Other;
                self.row = match self.row {
                    Row::Filled(Some(behind)) => {
                        self.at = behind;
                        Row::Closed(behind)
                    }
                    Row::Filled(None) => Row::Closed(self.at),
                    _ => Row::None,
                };
            }
            TokenKind::Sign(sign) => {
                self.mix(TAG_SIGN | u64::from(sign));
                self.other();
            }
            TokenKind::Quoted => {
                self.bytes(TAG_QUOTED, token.text);
                self.other();
            }
            TokenKind::UserVariable => {
                self.bytes(TAG_USER_VARIABLE, token.text);
                self.other();
            }
            TokenKind::SystemMark => {
                self.mix(TAG_SYSTEM_MARK);
                self.other();
            }
            TokenKind::Assign => {
                self.mix(TAG_ASSIGN);
                self.other();
            }
        }
    }

    #[inline]
    fn other(&mut self) {
        self.last = Last::Other;
        self.row = Row::None;
    }

    #[inline]
    fn literal(&mut self) {
        match self.last {
            Last::Comma(before) => self.at = before,
            _ => self.mix(TAG_LITERAL),
        }
        // `'a' 'b'` is no list.
        self.row = match (self.row, self.last) {
            (Row::Open(behind), _) | (Row::Filled(behind), Last::Comma(_)) => Row::Filled(behind),
            _ => Row::None,
        };
        self.last = Last::Literal;
    }

    #[inline]
    fn bytes(&mut self, tag: u64, bytes: &[u8]) {
        if bytes.len() < 8 {
            self.mix(tag | (bytes.len() as u64) << 56 | lower(load(bytes)));
            return;
        }
        self.mix(tag | 0xf << 56 | bytes.len() as u64);
        let (chunks, tail) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.mix(lower(u64::from_le_bytes(*chunk)));
        }
        self.mix(lower(load(tail)));
    }
}

/// Up to seven bytes as a number.
#[inline]
fn load(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            let high = u64::from(u32::from_le_bytes(*last)) << (8 * (bytes.len() - 4));
            u64::from(u32::from_le_bytes(*first)) | high
        }
        _ => match *bytes {
            [a, b, c] => u64::from(a) | u64::from(b) << 8 | u64::from(c) << 16,
            [a, b] => u64::from(a) | u64::from(b) << 8,
            [a] => u64::from(a),
            _ => 0,
        },
    }
}

/// ASCII letters in lower case. Other ASCII bytes of names stay distinct; bytes above are left alone.
#[inline]
fn lower(bytes: u64) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let ascii = bytes & !HIGH;
    // Adding makes the high bit of each byte say whether it is at least 'A' or beyond 'Z'.
    let from_a = ascii + 0x3f3f_3f3f_3f3f_3f3f;
    let beyond_z = ascii + 0x2525_2525_2525_2525;
    let upper = from_a & !beyond_z & HIGH & !bytes;
    bytes | upper >> 2
}

fn dialect_bits(dialect: Dialect) -> u64 {
    let charset = match dialect.charset {
        Charset::AsciiSafe => 0,
        Charset::Gbk => 1,
        Charset::Gb18030 => 2,
        Charset::Big5 => 3,
        Charset::Sjis => 4,
        Charset::EightBit => 5,
    };
    u64::from(dialect.version) << 32
        | charset << 8
        | u64::from(dialect.no_backslash_escapes) << 4
        | u64::from(dialect.ansi_quotes) << 3
        | u64::from(dialect.ignore_space) << 2
        | u64::from(dialect.mariadb) << 1
        | u64::from(dialect.multi_statements)
}

// The top four bits tell kinds of tokens apart; the next four hold the length of a short name.
const TAG_WORD: u64 = 1 << 60;
const TAG_NAME_AFTER_DOT: u64 = 2 << 60;
const TAG_QUOTED: u64 = 3 << 60;
const TAG_USER_VARIABLE: u64 = 4 << 60;
const TAG_LITERAL: u64 = 5 << 60;
const TAG_SIGN: u64 = 6 << 60;
const TAG_OPEN: u64 = 7 << 60;
const TAG_SYSTEM_MARK: u64 = 8 << 60;
const TAG_ASSIGN: u64 = 9 << 60;
const TAG_END: u64 = 10 << 60;
