//! The frames that a command comes in.

use std::borrow::Cow;

use crate::wire::command::Command;
use crate::wire::packet::{FULL_FRAME, HEADER};

/// The command at the front of the inbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// Header and payload; for a command of several frames that is streamed, what of it is in the inbox.
    pub(super) length: usize,
    pub(super) streamed: bool,
}

/// What a chain of frames at the front of an inbox is.
pub(super) enum Frames {
    /// All of it is there: so many bytes, headers included.
    Whole(usize),
    /// At least so many bytes are needed to know more.
    Need(usize),
    TooLarge,
}

/// COM_STMT_EXECUTE is taken whole because its head must be rewritten, COM_STMT_PREPARE because its text is kept.
pub(super) fn is_taken_whole(command: u8) -> bool {
    !matches!(Command::from_byte(command), Command::Query | Command::StmtSendLongData)
}

/// Follows the frames of the command at the front of `bytes`, of at most `limit` payload bytes.
pub(super) fn frames(bytes: &[u8], limit: u64) -> Frames {
    let mut at = 0;
    loop {
        let Some(&[l0, l1, l2, _]) = bytes.get(at..at + HEADER) else { return Frames::Need(at + HEADER) };
        let length = usize::from(l0) | usize::from(l1) << 8 | usize::from(l2) << 16;
        at += HEADER + length;
        if at as u64 > limit {
            return Frames::TooLarge;
        }
        if length < FULL_FRAME {
            return if bytes.len() >= at { Frames::Whole(at) } else { Frames::Need(at) };
        }
    }
}

/// The payload of a whole command, whatever frames it came in.
pub(super) fn payload_of(bytes: &[u8]) -> Cow<'_, [u8]> {
    if bytes.len() < HEADER + FULL_FRAME {
        return Cow::Borrowed(&bytes[HEADER..]);
    }
    let mut payload = Vec::with_capacity(bytes.len());
    for frame in bytes.chunks(HEADER + FULL_FRAME) {
        payload.extend_from_slice(&frame[HEADER..]);
    }
    Cow::Owned(payload)
}

/// Gives packets that pass the numbers that their receiver expects, in the place of the sender's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    next: u8,
    /// Bytes of the last frame that have still to come.
    passing: usize,
}

impl Numbers {
    pub(super) fn from(next: u8) -> Self {
        Self { next, passing: 0 }
    }

    pub(super) fn next(&self) -> u8 {
        self.next
    }

    /// Numbers the frames that begin in these bytes, which follow those of the last call. No header may be cut.
    pub(super) fn give(&mut self, bytes: &mut [u8]) {
        let mut at = self.passing;
        while let Some(&mut [l0, l1, l2, ref mut number]) = bytes.get_mut(at..at + HEADER) {
            *number = self.next;
            self.next = self.next.wrapping_add(1);
            at += HEADER + (usize::from(l0) | usize::from(l1) << 8 | usize::from(l2) << 16);
        }
        self.passing = at.saturating_sub(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_across_reads() {
        let mut numbers = Numbers::from(254);
        let mut whole =
            [&[1, 0, 0, 9, b'a'][..], &[3, 0, 0, 10, 7, 7, 7], &[0, 0, 0, 11], &[1, 0, 0, 12, b'b']].concat();
        let (head, tail) = whole.split_at_mut(10);
        numbers.give(head);
        let (middle, tail) = tail.split_at_mut(1);
        numbers.give(middle);
        numbers.give(tail);
        assert_eq!(
            whole,
            [&[1, 0, 0, 254, b'a'][..], &[3, 0, 0, 255, 7, 7, 7], &[0, 0, 0, 0], &[1, 0, 0, 1, b'b']]
                .concat()
        );
        assert_eq!(numbers.next(), 2);
    }
}
