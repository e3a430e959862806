//! One command on its way to a server, and what came of it.

use crate::backend::connection::Guard;
use crate::routing::session::Answered;
use crate::wire::packet::ErrPacket;
use crate::wire::tracker::Answer;

use super::forward::Body;
use super::frame::Frame;
use super::relay::{Deliver, PreparedAnswer};

/// How a command is carried to a server.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) body: Body<'a>,
    pub(super) answer: Answer,
    pub(super) deliver: Deliver,
    /// The client's prepared statement that this executes.
    pub(super) execute: Option<u32>,
    /// Where the SQL text stands in the inbox, for what is to be learned of it.
    pub(super) sql: Option<(usize, usize)>,
}

/// What running a command came to, when the client has its answer.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// None when the proxy answered with an error of its own.
    pub(super) answered: Option<Answered>,
    pub(super) prepared: PreparedAnswer,
}

/// One try's end, seen by the loop over tries.
pub(super) enum Tried {
    Done(Ran),
    /// Another server shall do it.
    Elsewhere(&'static str),
    /// The primary shall do it.
    AtPrimary(&'static str),
    /// The same again: the server had forgotten a prepared statement.
    Again,
    /// There is no primary that takes writes; in the end the client is told so, in these words if there are any.
    NoPrimary(Option<ErrPacket>),
    /// The proxy says no.
    Refused(ErrPacket),
}

/// The commands of ours before a command of the client's.
#[derive(Default)]
pub(super) struct Prelude {
    pub(super) bytes: Vec<u8>,
    pub(super) answers: u32,
    pub(super) waits: bool,
    /// The guard that the connection has then.
    pub(super) guard: Option<Guard>,
}

/// A statement is tried on at most so many connections, waiting for a primary apart.
pub(super) const TRIES: u32 = 4;
/// The label of a statement that a replica refused and the primary ran.
pub(super) const REFUSED_BY_REPLICA: &str = "refused-by-replica";

impl<'a> Work<'a> {
    /// The command at the front of the inbox, its answer for the client.
    pub(super) fn of(frame: Frame, answer: Answer) -> Self {
        let body =
            if frame.streamed { Body::Streamed { head: frame.length } } else { Body::Inbox(frame.length) };
        Self { body, answer, deliver: Deliver::ToClient, execute: None, sql: None }
    }
}
