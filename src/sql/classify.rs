//! The door of this module: text in, verdict out, remembered by the shape of the text. It holds the only state here,
//! a bounded cache.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;

use super::parse;
use super::shape::ShapeKey;
use super::walk::{Judged, judge, judge_head};
use super::{Dialect, Kind, Reason, Routines, Statement};

/// Judges statements; one for the whole process, shared by all sessions.
pub(crate) struct Classifier {
    key: ShapeKey,
    shapes: Cache<u128, Shape, UnitWeighter, ShapeIsHash>,
    routines: ArcSwap<Routines>,
    /// How often `routines` has changed. What was judged with others is no longer found.
    generation: AtomicU64,
}

/// What is known of a shape.
#[derive(Clone, Debug)]
enum Shape {
    /// The verdict on every text of it.
    Same(Arc<Statement>),
    /// The verdict depends on the literals.
    Varies,
    /// A replica refused a text of it, and the verdict depends on the literals.
    VariesAndWrites,
}

impl Classifier {
    /// `capacity` is the number of statement shapes that are remembered.
    pub(crate) fn new(capacity: usize) -> Self {
        let shapes = Cache::with(
            capacity,
            capacity as u64,
            UnitWeighter,
            ShapeIsHash,
            quick_cache::sync::DefaultLifecycle::default(),
        );
        let (routines, generation) = (ArcSwap::default(), AtomicU64::new(0));
        Self { key: ShapeKey::random(), shapes, routines, generation }
    }

    /// From now on statements are judged by these stored routines and views. Verdicts that were given out stay as they are.
    pub(crate) fn learn_routines(&self, routines: Routines) {
        if **self.routines.load() == routines {
            return;
        }
        self.routines.store(Arc::new(routines));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Changes when statements may be judged otherwise than before.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn shape(&self, sql: &[u8], dialect: Dialect) -> u128 {
        // First of all: a verdict may be newer than its shape says, but never older.
        let generation = self.generation();
        self.key.shape(sql, dialect) ^ u128::from(generation)
    }

    fn judge(&self, sql: &[u8], dialect: Dialect) -> Judged {
        let routines = self.routines.load();
        let mut judged = judge(sql, routines.views(), dialect);
        routines.refine(&mut judged.statement);
        judged
    }

    /// The verdict on a whole statement text.
    pub(crate) fn classify(&self, sql: &[u8], dialect: Dialect) -> Arc<Statement> {
        let shape = self.shape(sql, dialect);
        let learned = match self.shapes.get(&shape) {
            Some(Shape::Same(statement)) => return statement,
            Some(Shape::Varies) => return Arc::new(self.judge(sql, dialect).statement),
            Some(Shape::VariesAndWrites) => true,
            None => false,
        };
        let Judged { mut statement, varies } = self.judge(sql, dialect);
        if learned {
            return Arc::new(refused(statement));
        }
        // Not where literals decide: such text is judged every time, and parsing costs many times more.
        if statement.kind == Kind::Read && !varies && parse::contradicts(sql, dialect) {
            (statement.kind, statement.reason) = (Kind::Write, Reason::ParsersDisagree);
        }
        let statement = Arc::new(statement);
        let known = if varies || !is_small(&statement, sql) {
            Shape::Varies
        } else {
            Shape::Same(Arc::clone(&statement))
        };
        self.shapes.insert(shape, known);
        statement
    }

    /// The verdict on a statement of which only the first bytes are held: never a read.
    pub(crate) fn classify_head(&self, head: &[u8], dialect: Dialect) -> Arc<Statement> {
        let routines = self.routines.load();
        let mut statement = judge_head(head, routines.views(), dialect);
        routines.refine(&mut statement);
        Arc::new(statement)
    }

    /// A replica refused this shape as a write (1290, 1792, 1836): from now on it is one.
    pub(crate) fn learn_write(&self, sql: &[u8], dialect: Dialect) {
        let Judged { statement, varies } = self.judge(sql, dialect);
        let statement = refused(statement);
        let varies = varies || !is_small(&statement, sql);
        let known = if varies { Shape::VariesAndWrites } else { Shape::Same(Arc::new(statement)) };
        self.shapes.insert(self.shape(sql, dialect), known);
    }
}

/// Names in effects come from the text; a long text may hold many.
fn is_small(statement: &Statement, sql: &[u8]) -> bool {
    let named: usize = statement.calls.iter().map(|name| name.len()).sum();
    (statement.effects.is_empty() && named <= 1 << 10) || sql.len() <= 16 << 10
}

/// The same statement, known to write.
fn refused(statement: Statement) -> Statement {
    match statement.kind {
        Kind::Write | Kind::Kill { .. } | Kind::AskRoute => statement,
        _ => Statement { kind: Kind::Write, reason: Reason::RefusedByReplica, ..statement },
    }
}

/// A shape is a keyed hash already.
#[derive(Clone, Copy, Debug, Default)]
struct ShapeIsHash;

impl BuildHasher for ShapeIsHash {
    type Hasher = LowHalf;

    fn build_hasher(&self) -> LowHalf {
        LowHalf(0)
    }
}

struct LowHalf(u64);

impl Hasher for LowHalf {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}
