//! Cuts SQL text into tokens the way the server's own lexer would for this session. One pass, no allocation. It never
//! repairs what it cannot read: such text is marked malformed and nobody may call it a read.

use super::{Charset, Dialect, Hint};

/// One token. `text` borrows from the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind,
    /// The bytes of the token; of a quoted name what stands between the quotes; of a user variable what follows `@`.
    pub(super) text: &'a [u8],
    /// Directly behind a dot, where even a keyword is a name.
    pub(super) after_dot: bool,
    pub(super) gap: Gap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A keyword or a name without quotes.
    Word,
    /// A name in backticks, or in double quotes under ANSI_QUOTES.
    Quoted,
    /// A string, `N'..'`, `X'..'`, `B'..'`.
    Text,
    Number,
    /// `?` of a prepared statement.
    Placeholder,
    /// `@name`, `` @`name` ``, `@'name'`.
    UserVariable,
    /// `@@`; scope and name follow as words.
    SystemMark,
    /// `:=`
    Assign,
    /// Any other byte.
    Sign(u8),
}

/// What stands between a token and the one before it. Only built-in functions care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    None,
    Blanks,
    Comment,
}

impl<'a> Token<'a> {
    /// True for the keyword `word` (lower case), never for a quoted name nor behind a dot.
    pub(super) fn is(&self, word: &str) -> bool {
        self.is_keyword() && self.text.eq_ignore_ascii_case(word.as_bytes())
    }

    pub(super) fn is_keyword(&self) -> bool {
        self.kind == TokenKind::Word && !self.after_dot
    }

    pub(super) fn is_name(&self) -> bool {
        matches!(self.kind, TokenKind::Word | TokenKind::Quoted)
    }

    /// `=` or `:=`.
    pub(super) fn is_assignment(&self) -> bool {
        self.kind == TokenKind::Assign || self.is_sign(b'=')
    }

    pub(super) fn is_sign(&self, sign: u8) -> bool {
        self.kind == TokenKind::Sign(sign)
    }
}

/// Yields the tokens of a text. Copying it is looking ahead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    dialect: Dialect,
    /// Inside `/*! ... */` whose content is run.
    in_live_comment: bool,
    after: After,
    hint: Option<Hint>,
    sets_variables: bool,
    malformed: bool,
}

/// What the last token was, as far as the next one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Name,
    Dot,
    Other,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8], dialect: Dialect) -> Self {
        // Servers refuse a byte order mark, so what follows it matters only to our own peace of mind.
        let at = if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self {
            text,
            at,
            dialect,
            in_live_comment: false,
            after: After::Other,
            hint: None,
            sets_variables: false,
            malformed: false,
        }
    }

    /// Wishes found in comments so far.
    pub(super) fn hint(&self) -> Option<Hint> {
        self.hint
    }

    /// There is an optimizer hint SET_VAR so far, of which the server reports a change of state.
    /// <https://dev.mysql.com/doc/refman/9.7/en/optimizer-hints.html#optimizer-hints-set-var>
    pub(super) fn sets_variables(&self) -> bool {
        self.sets_variables
    }

    /// Something so far was not closed, or could be read in two ways.
    pub(super) fn is_malformed(&self) -> bool {
        self.malformed
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    #[inline]
    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let mut gap = Gap::None;
        let class = loop {
            let Some(&byte) = self.text.get(self.at) else {
                self.malformed |= self.in_live_comment;
                return None;
            };
            match CLASS[usize::from(byte)] {
                Class::Blank => {
                    self.at += 1;
                    if gap == Gap::None {
                        gap = Gap::Blanks;
                    }
                }
                Class::CommentStart if self.skip_comment(byte) => gap = Gap::Comment,
                class => break class,
            }
        };
        let after_dot = self.after == After::Dot && gap == Gap::None;
        let start = self.at;
        let kind = self.token(class, after_dot, gap);
        let inner = match kind {
            TokenKind::Quoted => start + 1..(self.at - 1).max(start + 1),
            TokenKind::UserVariable => start + 1..self.at,
            _ => start..self.at,
        };
        self.after = match kind {
            TokenKind::Word => After::Name,
            TokenKind::Sign(b'.') => After::Dot,
            _ => After::Other,
        };
        Some(Token { kind, text: self.text.get(inner).unwrap_or_default(), after_dot, gap })
    }

    #[inline]
    fn token(&mut self, class: Class, after_dot: bool, gap: Gap) -> TokenKind {
        match class {
            Class::Letter => {
                if !after_dot && self.peek(1) == b'\'' && self.skip_prefixed() {
                    return TokenKind::Text;
                }
                self.skip_word();
                TokenKind::Word
            }
            Class::High | Class::Dollar => {
                if class == Class::Dollar && self.skip_dollar_quoted() {
                    return TokenKind::Text;
                }
                self.skip_word();
                TokenKind::Word
            }
            Class::Digit if after_dot => {
                self.skip_word();
                TokenKind::Word
            }
            Class::Digit => self.skip_number_or_word(),
            Class::Dot
                if self.peek(1).is_ascii_digit() && (self.after != After::Name || gap != Gap::None) =>
            {
                self.at += 1;
                self.skip_fraction();
                TokenKind::Number
            }
            Class::Quote => {
                let quote = self.peek(0);
                if quote == b'`' || (quote == b'"' && self.dialect.ansi_quotes) {
                    self.skip_quoted(quote, false);
                    TokenKind::Quoted
                } else {
                    self.skip_quoted(quote, !self.dialect.no_backslash_escapes);
                    TokenKind::Text
                }
            }
            Class::At => self.skip_variable(),
            Class::Colon if self.peek(1) == b'=' => {
                self.at += 2;
                TokenKind::Assign
            }
            Class::Question => {
                self.at += 1;
                TokenKind::Placeholder
            }
            _ => {
                let byte = self.peek(0);
                // The server's parser takes a zero byte for the end of the text.
                self.malformed |= byte == 0;
                self.at += 1;
                TokenKind::Sign(byte)
            }
        }
    }

    /// The byte `ahead` of the position; zero past the end, as in the server.
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    #[inline]
    fn skip_word(&mut self) {
        while let Some(&byte) = self.text.get(self.at) {
            match CLASS[usize::from(byte)] {
                Class::Letter | Class::Digit | Class::Dollar => self.at += 1,
                Class::High => self.skip_high(),
                _ => return,
            }
        }
    }

    /// A character outside ASCII in a name without quotes.
    fn skip_high(&mut self) {
        let length = match self.dialect.charset {
            Charset::AsciiSafe => utf8_length(self.rest()),
            // Some of these bytes are blanks in some of these character sets (0xA0 in latin1).
            Charset::EightBit => usize::from(!matches!(self.peek(0), 0x80..=0xa0 | 0xff)),
            charset => match wide_length(charset, self.rest()) {
                1 => 0,
                length => length,
            },
        };
        self.malformed |= length == 0;
        self.at += length.max(1);
    }

    fn skip_digits(&mut self) {
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
    }

    /// Digits behind the dot and an exponent.
    fn skip_fraction(&mut self) {
        self.skip_digits();
        self.skip_exponent();
    }

    fn skip_exponent(&mut self) -> bool {
        if !matches!(self.peek(0), b'e' | b'E') {
            return false;
        }
        let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
        let found = self.peek(1 + sign).is_ascii_digit();
        if found {
            self.at += 1 + sign;
            self.skip_digits();
        }
        found
    }

    fn skip_number_or_word(&mut self) -> TokenKind {
        let start = self.at;
        // Only the lower-case letter makes a hexadecimal or binary number; `0X1` is a name.
        let digits: fn(u8) -> bool = match (self.peek(0), self.peek(1)) {
            (b'0', b'x') => |byte| byte.is_ascii_hexdigit(),
            (b'0', b'b') => |byte| matches!(byte, b'0' | b'1'),
            _ => |_| false,
        };
        self.at += 2;
        while digits(self.peek(0)) {
            self.at += 1;
        }
        if self.at > start + 2 && !is_word_byte(self.peek(0)) {
            return TokenKind::Number;
        }
        self.at = start;
        self.skip_digits();
        match self.peek(0) {
            b'.' => {
                self.at += 1;
                self.skip_fraction();
                TokenKind::Number
            }
            byte if !is_word_byte(byte) => TokenKind::Number,
            _ if self.skip_exponent() => TokenKind::Number,
            _ => {
                self.skip_word();
                TokenKind::Word
            }
        }
    }

    /// From an opening quote to behind the closing one; two quotes are one of the content.
    fn skip_quoted(&mut self, quote: u8, escapes: bool) {
        self.at += 1;
        loop {
            self.skip_to_special(quote, escapes);
            let Some(&byte) = self.text.get(self.at) else {
                self.malformed = true;
                return;
            };
            if byte == quote {
                self.at += 1;
                if self.peek(0) != quote || self.at >= self.text.len() {
                    return;
                }
                self.at += 1;
            } else {
                // A backslash escapes one byte, even when that is the first of a wider character.
                self.at = (self.at + 2).min(self.text.len());
            }
        }
    }

    /// Moves to the next quote or escaping backslash that is no second byte of a character.
    fn skip_to_special(&mut self, quote: u8, escapes: bool) {
        let rest = self.rest();
        if matches!(self.dialect.charset, Charset::AsciiSafe | Charset::EightBit) {
            let found =
                if escapes { memchr::memchr2(quote, b'\\', rest) } else { memchr::memchr(quote, rest) };
            self.at += found.unwrap_or(rest.len());
            return;
        }
        while let Some(&byte) = self.text.get(self.at) {
            if byte == quote || (escapes && byte == b'\\') {
                return;
            }
            self.at += wide_length(self.dialect.charset, self.rest());
        }
    }

    /// `N'..'`, `X'..'` and `B'..'`; false when the letter is another one.
    fn skip_prefixed(&mut self) -> bool {
        let is_digit: fn(&u8) -> bool = match self.peek(0) {
            b'n' | b'N' => {
                self.at += 1;
                self.skip_quoted(b'\'', !self.dialect.no_backslash_escapes);
                return true;
            }
            b'x' | b'X' => u8::is_ascii_hexdigit,
            b'b' | b'B' => |byte| matches!(byte, b'0' | b'1'),
            _ => return false,
        };
        self.at += 2;
        let length = memchr::memchr(b'\'', self.rest());
        let digits = self.rest().get(..length.unwrap_or(0)).unwrap_or_default();
        self.malformed |= length.is_none() || !digits.iter().all(is_digit);
        self.at = length.map_or(self.text.len(), |length| self.at + length + 1);
        true
    }

    /// `$tag$ ... $tag$`, the body of a JavaScript routine. Elsewhere it is an error or, on old servers, a name: never
    /// certain.
    fn skip_dollar_quoted(&mut self) -> bool {
        let rest = self.rest();
        let tag = rest.iter().skip(1).take_while(|&&byte| byte != b'$' && is_word_byte(byte)).count() + 2;
        if rest.get(tag - 1) != Some(&b'$') {
            return false;
        }
        self.malformed = true;
        let (tag, body) = rest.split_at(tag);
        match memchr::memmem::find(body, tag) {
            Some(length) => {
                self.at += tag.len() + length + tag.len();
                true
            }
            None => false,
        }
    }

    /// `@@`, or `@` with a name, which may be quoted or empty.
    fn skip_variable(&mut self) -> TokenKind {
        self.at += 1;
        match self.peek(0) {
            b'@' => {
                self.at += 1;
                return TokenKind::SystemMark;
            }
            quote @ (b'`' | b'\'' | b'"') => {
                let escapes = quote != b'`' && !self.dialect.no_backslash_escapes;
                self.skip_quoted(quote, escapes && !(quote == b'"' && self.dialect.ansi_quotes));
            }
            _ => {
                while matches!(self.peek(0), b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'$' | b'.') {
                    self.at += 1;
                }
                // In some character sets letters outside ASCII belong to the name, in others they do not.
                self.malformed |= self.peek(0) >= 0x80;
            }
        }
        TokenKind::UserVariable
    }

    /// Skips the comment that starts here, or only the mark of one whose content is run. False when there is none.
    fn skip_comment(&mut self, byte: u8) -> bool {
        match (byte, self.peek(1)) {
            (b'#', _) => self.skip_line_comment(1),
            (b'-', b'-') => {
                let third = self.peek(2);
                self.malformed |= third >= 0x80;
                if third > b' ' && third != 0x7f {
                    return false;
                }
                self.skip_line_comment(2);
            }
            (b'*', b'/') if self.in_live_comment => {
                self.in_live_comment = false;
                self.at += 2;
            }
            (b'/', b'*') => match self.peek(2) {
                b'!' => self.skip_version_comment(3),
                b'M' if self.dialect.mariadb && self.peek(3) == b'!' => self.skip_version_comment(4),
                b'+' => {
                    self.check_optimizer_hint();
                    self.skip_block_comment();
                }
                _ => self.skip_block_comment(),
            },
            _ => return false,
        }
        true
    }

    fn skip_line_comment(&mut self, mark: usize) {
        let rest = self.rest();
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let body = rest.get(mark..length).unwrap_or_default();
        // A zero byte ends such a comment.
        self.malformed |= body.contains(&0);
        self.read_hint(body);
        self.at += length;
    }

    fn skip_block_comment(&mut self) {
        self.at += 2;
        match memchr::memmem::find(self.rest(), b"*/") {
            Some(length) => {
                self.read_hint(&self.rest()[..length]);
                self.at += length + 2;
            }
            None => {
                self.malformed = true;
                self.at = self.text.len();
            }
        }
    }

    /// `/*!` or `/*M!`: content that servers of that version run and others skip.
    fn skip_version_comment(&mut self, mark: usize) {
        self.at += mark;
        let digits = self.rest().iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
        // Five digits, since 8.0 also six.
        let digits = match digits {
            6 if self.dialect.version < 80_000 => 5,
            5 | 6 => digits,
            _ => 0,
        };
        let number =
            self.rest()[..digits].iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
        // MariaDB skips what MySQL wrote for 5.7 and later.
        let foreign = self.dialect.mariadb && mark == 3 && (50_700..=99_999).contains(&number);
        if number <= self.dialect.version && !foreign {
            self.at += digits;
            self.in_live_comment = true;
            return;
        }
        self.skip_dead_comment();
    }

    /// A comment for a newer server may hold comments of its own, one level deep.
    fn skip_dead_comment(&mut self) {
        let mut depth = 0;
        loop {
            let rest = self.rest();
            let Some(length) = memchr::memchr2(b'*', b'/', rest) else {
                self.malformed = true;
                self.at = self.text.len();
                return;
            };
            self.at += length + 1;
            match (rest[length], self.peek(0)) {
                (b'*', b'/') => {
                    self.at += 1;
                    if depth == 0 {
                        return;
                    }
                    depth -= 1;
                }
                (b'/', b'*') if depth == 0 => {
                    self.at += 1;
                    depth = 1;
                }
                _ => {}
            }
        }
    }

    /// The server reads strings inside `/*+ ... */` as strings. A hint where that makes a difference is not certain.
    fn check_optimizer_hint(&mut self) {
        let body = self.rest().get(3..).unwrap_or_default();
        let end = memchr::memmem::find(body, b"*/").unwrap_or(body.len());
        let mut quote = None;
        for &byte in &body[..end] {
            match (quote, byte) {
                (None, b'\'' | b'"' | b'`') => quote = Some(byte),
                (Some(open), byte) if open == byte => quote = None,
                _ => {}
            }
        }
        self.malformed |= quote.is_some();
        self.sets_variables |= body[..end].windows(7).any(|word| word.eq_ignore_ascii_case(b"set_var"));
    }

    fn read_hint(&mut self, comment: &[u8]) {
        let hint = match Hint::read(comment) {
            // Two wishes: the safe one.
            Some(hint) if self.hint == Some(Hint::Primary) || hint == Hint::Primary => Hint::Primary,
            Some(hint) => hint,
            None => return,
        };
        self.hint = Some(hint);
    }
}

impl Hint {
    /// Reads the inside of a comment.
    fn read(comment: &[u8]) -> Option<Self> {
        let comment = comment.trim_ascii();
        let (name, wish) = comment.split_at_checked(b"readwright".len())?;
        if !name.eq_ignore_ascii_case(b"readwright") {
            return None;
        }
        let wish = wish.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        if wish.eq_ignore_ascii_case(b"primary") {
            Some(Self::Primary)
        } else if wish.eq_ignore_ascii_case(b"replica") {
            Some(Self::Replica)
        } else {
            None
        }
    }
}

/// Bytes of the UTF-8 character at the start; 0 when there is none.
fn utf8_length(text: &[u8]) -> usize {
    let length = match text.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => return 0,
    };
    let tail = text.get(1..length).unwrap_or_default();
    if tail.len() + 1 == length && tail.iter().all(|byte| (0x80..=0xbf).contains(byte)) { length } else { 0 }
}

/// Bytes of the character at the start in a character set with ASCII second bytes; 1 when it is no wide character.
fn wide_length(charset: Charset, text: &[u8]) -> usize {
    let (Some(&first), Some(&second)) = (text.first(), text.get(1)) else {
        return 1;
    };
    let wide = match charset {
        Charset::AsciiSafe | Charset::EightBit => false,
        Charset::Gbk => matches!(first, 0x81..=0xfe) && matches!(second, 0x40..=0x7e | 0x80..=0xfe),
        Charset::Gb18030 => {
            let four = second.is_ascii_digit()
                && matches!(text.get(2), Some(0x81..=0xfe))
                && matches!(text.get(3), Some(b'0'..=b'9'));
            if matches!(first, 0x81..=0xfe) && four {
                return 4;
            }
            matches!(first, 0x81..=0xfe) && matches!(second, 0x40..=0x7e | 0x80..=0xfe)
        }
        Charset::Big5 => matches!(first, 0xa1..=0xf9) && matches!(second, 0x40..=0x7e | 0xa1..=0xfe),
        Charset::Sjis => {
            matches!(first, 0x81..=0x9f | 0xe0..=0xfc) && matches!(second, 0x40..=0x7e | 0x80..=0xfc)
        }
    };
    if wide { 2 } else { 1 }
}

fn is_word_byte(byte: u8) -> bool {
    matches!(CLASS[usize::from(byte)], Class::Letter | Class::Digit | Class::Dollar | Class::High)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Blank,
    /// Letters and the underscore.
    Letter,
    Digit,
    Dollar,
    High,
    Quote,
    At,
    Dot,
    Colon,
    Question,
    /// May begin or end a comment.
    CommentStart,
    Other,
}

static CLASS: [Class; 256] = {
    let mut table = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | 0x09..=0x0d => Class::Blank,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'$' => Class::Dollar,
            0x80..=0xff => Class::High,
            b'\'' | b'"' | b'`' => Class::Quote,
            b'@' => Class::At,
            b'.' => Class::Dot,
            b':' => Class::Colon,
            b'?' => Class::Question,
            b'/' | b'*' | b'-' | b'#' => Class::CommentStart,
            _ => Class::Other,
        };
        byte += 1;
    }
    table
};
