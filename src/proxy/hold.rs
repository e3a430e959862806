//! Holds statements for a primary that is away for a moment: a bounded number of them, bounded bytes, until a deadline.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use std::sync::Arc;

use crate::config;
use crate::model::topology::Topology;

/// What may be held, all clients together.
#[derive(Debug)]
pub(super) struct Hold {
    statements: Semaphore,
    kibibytes: Semaphore,
    pub(super) wait: Duration,
}

/// A statement that is held; its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Held<'a> {
    _statement: SemaphorePermit<'a>,
    _kibibytes: SemaphorePermit<'a>,
    deadline: Instant,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum NotHeld {
    #[error(
        "too many statements already wait for it (routing.primary_wait_statements, routing.primary_wait_mib)"
    )]
    Full,
    #[error("none came within routing.primary_wait_ms")]
    TimedOut,
    #[error("the topology is no longer followed")]
    Stopped,
}

impl Hold {
    pub(super) fn new(routing: &config::Routing) -> Self {
        let kibibytes = usize::try_from(routing.primary_wait_bytes / 1024).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            statements: Semaphore::new(routing.primary_wait_statements as usize),
            kibibytes: Semaphore::new(kibibytes.min(Semaphore::MAX_PERMITS)),
            wait: routing.primary_wait,
        }
    }

    /// Takes a place for a statement of so many bytes.
    pub(super) fn enter(&self, bytes: usize) -> Result<Held<'_>, NotHeld> {
        let statement = self.statements.try_acquire().map_err(|_| NotHeld::Full)?;
        let kibibytes = u32::try_from(bytes.div_ceil(1024)).map_err(|_| NotHeld::Full)?;
        let kibibytes = self.kibibytes.try_acquire_many(kibibytes).map_err(|_| NotHeld::Full)?;
        Ok(Held { _statement: statement, _kibibytes: kibibytes, deadline: Instant::now() + self.wait })
    }
}

impl Held<'_> {
    /// Waits until a snapshot has a primary: a new snapshot, or this one a moment later, since the primary may come back
    /// without any probe having missed it. A read waits for a replica as well.
    pub(super) async fn primary(
        &self,
        topology: &mut watch::Receiver<Arc<Topology>>,
        is_read: bool,
    ) -> Result<(), NotHeld> {
        const AGAIN: Duration = Duration::from_millis(50);
        if Instant::now() >= self.deadline {
            return Err(NotHeld::TimedOut);
        }
        let again = self.deadline.min(Instant::now() + AGAIN);
        if let Ok(Err(_)) = timeout_at(again, topology.changed()).await {
            return Err(NotHeld::Stopped);
        }
        loop {
            let snapshot = Arc::clone(&topology.borrow_and_update());
            if snapshot.writer().is_some() || is_read && !snapshot.readers.is_empty() {
                return Ok(());
            }
            match timeout_at(self.deadline, topology.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(NotHeld::Stopped),
                Err(_) => return Err(NotHeld::TimedOut),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(statements: u32, bytes: u64) -> config::Routing {
        config::Routing {
            consistency: config::Consistency::Session,
            gtid_wait: Duration::ZERO,
            max_lag: Duration::ZERO,
            primary_wait: Duration::from_secs(10),
            primary_wait_statements: statements,
            primary_wait_bytes: bytes,
            prefer_zone: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_no_longer_than_its_deadline() {
        let (_topology, mut snapshots) = watch::channel(Arc::new(Topology::default()));
        let hold = Hold::new(&routing(1, 4096));
        let held = hold.enter(100).expect("there is room");
        assert_eq!(held.primary(&mut snapshots, false).await, Err(NotHeld::TimedOut));
        assert_eq!(held.primary(&mut snapshots, true).await, Err(NotHeld::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_for_a_replica_as_well() {
        let (topology, mut snapshots) = watch::channel(Arc::new(Topology::default()));
        let hold = Hold::new(&routing(2, 4096));
        let (read, write) = (hold.enter(1).expect("room"), hold.enter(1).expect("room"));
        topology.send_replace(Arc::new(Topology { readers: vec![0], ..Topology::default() }));
        assert_eq!(read.primary(&mut snapshots.clone(), true).await, Ok(()));
        assert_eq!(write.primary(&mut snapshots, false).await, Err(NotHeld::TimedOut));
    }

    #[test]
    fn has_bounds() {
        let hold = Hold::new(&routing(2, 4096));
        let first = hold.enter(4000).expect("there is room");
        assert_eq!(hold.enter(5000).err(), Some(NotHeld::Full));
        drop(first);
        let both = (hold.enter(1).expect("room"), hold.enter(1).expect("room"));
        assert_eq!(hold.enter(1).err(), Some(NotHeld::Full));
        drop(both);
        assert!(hold.enter(1).is_ok());
    }
}
