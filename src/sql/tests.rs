//! The verdicts, as tables: every single case of `tests/routing/cases`, and more of each kind.

use super::*;

const CASES: &str = include_str!("../../tests/routing/cases/routing_cases.tsv");

/// `\\ \t \n \r \xHH` of the case files.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (byte, used) = match tail {
            [b'\\', ..] => (b'\\', 1),
            [b't', ..] => (b'\t', 1),
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b'x', high, low, ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16).expect("the case has two digits") as u8;
                (digit(*high) << 4 | digit(*low), 3)
            }
            other => panic!("unknown escape in {text}: {other:?}"),
        };
        bytes.push(byte);
        rest = &tail[used..];
    }
    bytes
}

#[test]
fn every_single_case() {
    let classifier = Classifier::new(1000);
    let mut wrong = Vec::new();
    for line in CASES.lines() {
        let mut fields = line.split('\t');
        let (sql, expected) = (fields.next().expect("a case"), fields.next().expect("an expectation"));
        for _ in 0..2 {
            let statement = classifier.classify(&unescape(sql), Dialect::for_tests());
            let found = statement.route().label();
            if found != expected {
                wrong.push(format!("{sql}\n    expected {expected}, found {found}: {statement:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}
