//! `readwright explain`: asks the classifier that the proxy asks, and prints its verdict a line each.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{ExplainArguments, Failure, output};
use crate::config::raw::Problem;
use crate::model::version::Version;
use crate::sql::{Charset, Classifier, Dialect};

pub(super) fn run(arguments: &ExplainArguments) -> Result<(), Failure> {
    let dialect = dialect(arguments).map_err(|problem| Failure::Configuration(vec![problem]))?;
    let classifier = Classifier::new(SHAPES);
    let mut out = Vec::new();
    let mut judge = |sql: &[u8], shown: &[u8], last: bool| {
        let statement = classifier.classify(sql, dialect);
        let (route, reason) = statement.verdict();
        let reason = if arguments.words { reason.words() } else { reason.label() };
        out.extend_from_slice(format!("{}\t{reason}\t", route.label()).as_bytes());
        out.extend_from_slice(shown);
        out.push(b'\n');
        if last || out.len() >= PRINTED_AT_ONCE {
            output::print(&out)?;
            out.clear();
        }
        Ok(())
    };
    if let Some(sql) = &arguments.sql {
        return judge(sql.as_bytes(), &escape(sql.as_bytes()), true);
    }
    let path = arguments.file.as_deref().unwrap_or(Path::new("-"));
    let unreadable = |error: io::Error| {
        let wrong = format!("{} cannot be read ({error})", path.display());
        Failure::Configuration(vec![Problem::new("--file", wrong, "give a file or -")])
    };
    let mut lines: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(std::fs::File::open(path).map_err(unreadable)?))
    };
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).map_err(unreadable)? > 0 {
        let written = line.strip_suffix(b"\n").unwrap_or(&line);
        let written = written.strip_suffix(b"\r").unwrap_or(written);
        judge(&unescape(written), written, false)?;
        line.clear();
    }
    output::print(&out)
}

fn dialect(arguments: &ExplainArguments) -> Result<Dialect, Problem> {
    let version = Version::parse(&arguments.server_version).ok_or_else(|| {
        let wrong = format!("`{}` is no version", arguments.server_version);
        Problem::new("--server-version", wrong, "write it as @@version shows it, such as 9.7.4")
    })?;
    let mut dialect = Dialect {
        charset: Charset::named(arguments.charset.as_bytes()),
        multi_statements: true,
        ..Dialect::plain(version.comment_number(), version.mariadb)
    };
    let mode: Vec<u8> = arguments.sql_mode.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    dialect.read_sql_mode(&mode);
    Ok(dialect)
}

/// Replaces `\\ \t \n \r \xHH`; any other backslash stands for itself.
fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let hex = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let (value, length) = match (byte, after) {
            (b'\\', [b'\\', ..]) => (b'\\', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b'x', high, low, ..]) => match hex(&[*high, *low]) {
                Some(value) => (value, 4),
                None => (b'\\', 1),
            },
            _ => (*byte, 1),
        };
        bytes.push(value);
        rest = &rest[length..];
    }
    Cow::Owned(bytes)
}

/// The opposite, so that a statement stays one line.
fn escape(sql: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(sql.len());
    for &byte in sql {
        match byte {
            b'\\' => text.extend_from_slice(b"\\\\"),
            b'\t' => text.extend_from_slice(b"\\t"),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            0x20..=0x7e => text.push(byte),
            _ => text.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
    text
}

/// Statement shapes kept; a file of them may repeat itself.
const SHAPES: usize = 1024;
const PRINTED_AT_ONCE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let check = |written: &str, sql: &[u8]| {
            assert_eq!(&*unescape(written.as_bytes()), sql, "{written}");
            assert_eq!(&*unescape(&escape(sql)), sql, "{written}");
        };
        check("SELECT 1", b"SELECT 1");
        check(r"a\\b\tc\nd\re", b"a\\b\tc\nd\re");
        check(r"\xff\x00\x5C", b"\xff\x00\\");
        check(r"\xZZ \q \", br"\xZZ \q \");
        check(r"\x4", br"\x4");
    }
}
