//! The door of this module: text in, verdict out, remembered by the shape of the text. It holds the only state here,
//! a bounded cache.

use std::sync::Arc;

use super::{Dialect, Kind, Needs, Reason, Statement};

/// Judges statements; one for the whole process, shared by all sessions.
pub(crate) struct Classifier {}

impl Classifier {
    /// `capacity` is the number of statement shapes that are remembered.
    pub(crate) fn new(_capacity: usize) -> Self {
        Self {}
    }

    /// The verdict on a whole statement text.
    pub(crate) fn classify(&self, _sql: &[u8], _dialect: Dialect) -> Arc<Statement> {
        Arc::new(Statement {
            kind: Kind::Write,
            reason: Reason::UnknownStatement,
            effects: Vec::new(),
            needs: Needs::default(),
            hint: None,
        })
    }

    /// The verdict on a statement of which only the first bytes are held: never a read.
    pub(crate) fn classify_head(&self, head: &[u8], dialect: Dialect) -> Arc<Statement> {
        self.classify(head, dialect)
    }

    /// A replica refused this shape as a write (1290, 1792, 1836): from now on it is one.
    pub(crate) fn learn_write(&self, _sql: &[u8], _dialect: Dialect) {}
}
