//! The byte buffer between a socket and a decision. Storage comes from a small store of the thread and goes back to it,
//! so a client or a connection that has nothing in flight holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes received and not yet used. Grows only when asked to.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    storage: Vec<u8>,
    start: usize,
    end: usize,
}

/// One read's worth: large enough for most statements and answers, small enough to stay in cache.
pub(crate) const UNIT: usize = 16 << 10;
/// What a bulk answer is relayed with.
pub(crate) const BULK: usize = 128 << 10;
/// What a thread keeps for reuse: this many storages of one unit, and so many for bulk.
const KEPT: usize = 64;
const KEPT_BULK: usize = 4;

type Store = RefCell<Vec<Vec<u8>>>;

thread_local! {
    static UNITS: Store = const { RefCell::new(Vec::new()) };
    static BULKS: Store = const { RefCell::new(Vec::new()) };
}

/// An empty buffer's storage with room for `room` bytes.
fn storage(room: usize) -> Vec<u8> {
    let (store, size) = if room <= UNIT {
        (&UNITS, UNIT)
    } else if room <= BULK {
        (&BULKS, BULK)
    } else {
        return vec![0; room.next_power_of_two()];
    };
    store.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; size])
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.end]
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// Takes `count` bytes off the front; an empty buffer starts over at its front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Takes `count` bytes out at `at` (both counted from the front); what follows moves up.
    pub(crate) fn cut(&mut self, at: usize, count: usize) {
        let from = self.start + at;
        self.storage.copy_within(from + count..self.end, from);
        self.end -= count;
    }

    #[cfg(test)]
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.storage[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Makes room for `more` bytes behind those that are there.
    pub(crate) fn reserve(&mut self, more: usize) {
        if self.storage.is_empty() {
            self.storage = storage(more);
        }
        if self.storage.len() - self.end >= more {
            return;
        }
        self.storage.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.storage.len() - self.end < more {
            self.storage.resize((self.end + more).next_power_of_two(), 0);
        }
    }

    /// Gives the storage back when nothing is in it.
    pub(crate) fn rest(&mut self) {
        if !self.is_empty() || self.storage.is_empty() {
            return;
        }
        let storage = std::mem::take(&mut self.storage);
        (self.start, self.end) = (0, 0);
        let (store, kept) = match storage.len() {
            UNIT => (&UNITS, KEPT),
            BULK => (&BULKS, KEPT_BULK),
            _ => return,
        };
        store.with_borrow_mut(|store| {
            if store.len() < kept {
                store.push(storage);
            }
        });
    }

    /// Reads once into the free room, at least `room` bytes of it; the number of bytes, 0 at the end of the stream. A
    /// buffer that was empty holds no storage while it waits.
    ///
    /// Cancel safety: nothing is read unless this returns `Ready`.
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        self.reserve(room);
        let mut free = ReadBuf::new(&mut self.storage[self.end..]);
        let result = Pin::new(stream).poll_read(context, &mut free);
        let count = free.filled().len();
        if result.is_pending() {
            self.rest();
        }
        ready!(result)?;
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        (self.start, self.end) = (0, 0);
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consume_cut_and_grow() {
        let mut buffer = Buffer::default();
        buffer.append(b"abcdef");
        buffer.consume(2);
        buffer.cut(1, 2);
        assert_eq!(buffer.bytes(), b"cf");
        buffer.append(&[b'x'; UNIT]);
        assert_eq!((buffer.len(), &buffer.bytes()[..3]), (UNIT + 2, &b"cfx"[..]));
        buffer.consume(UNIT + 2);
        buffer.rest();
        assert_eq!((buffer.capacity(), buffer.len()), (0, 0));
    }

    #[tokio::test]
    async fn holds_nothing_while_it_waits() {
        let (mut near, far) = tokio::io::duplex(64);
        let mut buffer = Buffer::default();
        let waited =
            std::future::poll_fn(|context| Poll::Ready(buffer.poll_read(&mut near, context, 1).is_pending()));
        assert!(waited.await);
        assert_eq!(buffer.capacity(), 0);
        drop(far);
    }
}
