//! How the transaction that a session is in began.

use crate::routing::session::NextTransaction;
use crate::sql::{Isolation, Kind, Statement};

/// How a transaction began, and whether another server could still take it over unseen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Begun {
    /// What SET TRANSACTION had said.
    pub(super) isolation: Option<Isolation>,
    /// It has a view of the data that no other server has.
    pub(super) has_read: bool,
}

impl Begun {
    /// What a transaction would be that this statement begins.
    pub(super) fn by(statement: &Statement, next: NextTransaction) -> Self {
        let only_begins = matches!(statement.kind, Kind::Begin(_)) && statement.effects.is_empty();
        Self { isolation: next.isolation, has_read: !only_begins }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Classifier, Dialect};

    #[test]
    fn what_has_read_nothing_can_still_move() {
        for (sql, expected) in [
            ("START TRANSACTION READ ONLY", false),
            ("BEGIN", false),
            ("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", true),
            ("SELECT a FROM t", true),
        ] {
            let statement = Classifier::new(16).classify(sql.as_bytes(), Dialect::for_tests());
            assert_eq!(Begun::by(&statement, NextTransaction::default()).has_read, expected, "{sql}");
        }
    }
}
