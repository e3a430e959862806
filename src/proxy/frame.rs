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
