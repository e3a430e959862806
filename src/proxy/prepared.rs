//! A client's prepared statements. Their ids are ours; servers prepare them when one first has to execute them, so this
//! is the one place that knows both sides of an EXECUTE.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::connection::{OnServer, PreparedText, TypeHistory};
use crate::sql::{Dialect, Statement};
use crate::wire::buffer::Buffer;
use crate::wire::command::{COM_STMT_CLOSE, COM_STMT_PREPARE, CURSORS, Execute, read_execute};
use crate::wire::packet::{HEADER, push_packet};

use super::forward::Body;
use super::frame::payload_of;

/// The statements of one client, by the id it knows.
#[derive(Debug, Default)]
pub(super) struct Statements {
    by_id: HashMap<u32, Prepared, rapidhash::fast::RandomState>,
    last_id: u32,
}

/// One prepared statement as the client knows it.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) text: Arc<PreparedText>,
    pub(super) statement: Arc<Statement>,
    /// How its text was read, and with which knowledge of stored routines.
    pub(super) dialect: Dialect,
    pub(super) generation: u64,
    pub(super) parameters: u16,
    /// The parameter types (and names) the client sent last; servers that have not heard them must be told.
    pub(super) types: Arc<[u8]>,
    /// All that they were.
    pub(super) history: TypeHistory,
}

impl Statements {
    /// The id the next statement will get.
    pub(super) fn next_id(&self) -> u32 {
        let mut id = self.last_id;
        loop {
            id = id.wrapping_add(1).max(1);
            if !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }

    /// Which copy of its text the next statement is.
    pub(super) fn next_copy(&self, text: &PreparedText) -> u32 {
        let same = self.by_id.values().filter(|prepared| prepared.text.is_same_text(text));
        same.map(|prepared| prepared.text.copy.wrapping_add(1)).max().unwrap_or(0)
    }

    pub(super) fn insert(&mut self, id: u32, prepared: Prepared) {
        self.last_id = id;
        self.by_id.insert(id, prepared);
    }

    pub(super) fn find(&self, id: u32) -> Option<&Prepared> {
        self.by_id.get(&id)
    }

    pub(super) fn find_mut(&mut self, id: u32) -> Option<&mut Prepared> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Prepared> {
        self.by_id.remove(&id)
    }

    /// The session begins anew; who still has an id of before must not find another statement under it.
    pub(super) fn forget_all(&mut self) {
        self.by_id = HashMap::default();
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// A COM_STMT_PREPARE of this text.
pub(super) fn prepare_packet(text: &PreparedText) -> Vec<u8> {
    let mut payload = Vec::with_capacity(1 + text.sql.len());
    payload.push(COM_STMT_PREPARE);
    payload.extend_from_slice(&text.sql);
    let mut packet = Vec::with_capacity(payload.len() + 4);
    push_packet(&mut packet, 0, &payload);
    packet
}

/// A COM_STMT_CLOSE, which no server answers.
pub(super) fn push_close(out: &mut Vec<u8>, id: u32) {
    let mut payload = [COM_STMT_CLOSE, 0, 0, 0, 0];
    payload[1..].copy_from_slice(&id.to_le_bytes());
    push_packet(out, 0, &payload);
}

/// The client's EXECUTE with the parameter types put in that it left out.
pub(super) fn execute_with_types(payload: &[u8], execute: &Execute, types: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(payload.len() + types.len());
    match &execute.parameters {
        Some(parameters) => {
            whole.extend_from_slice(&payload[..parameters.bound_at]);
            whole.push(1);
            whole.extend_from_slice(types);
            whole.extend_from_slice(&payload[parameters.types.end..]);
        }
        None => whole.extend_from_slice(payload),
    }
    let mut packet = Vec::with_capacity(whole.len() + 4);
    push_packet(&mut packet, 0, &whole);
    packet
}

/// The bytes of an EXECUTE for a connection that knows the statement by this id and these types. Empty when those in
/// the inbox will do, in which the id has been put.
pub(super) fn execute_bytes(
    inbox: &mut Buffer,
    body: Body<'_>,
    known: &Prepared,
    on_server: &OnServer,
    attributes: bool,
) -> Vec<u8> {
    let Body::Inbox(length) = body else { return Vec::new() };
    let bytes = &mut inbox.bytes_mut()[..length];
    if let Some(place) = bytes.get_mut(HEADER + 1..HEADER + 5) {
        place.copy_from_slice(&on_server.id.to_le_bytes());
    }
    if known.types.is_empty() || *known.types == *on_server.types {
        return Vec::new();
    }
    let payload = payload_of(bytes);
    match read_execute(&payload, known.parameters, attributes) {
        Ok(execute) if execute.parameters.as_ref().is_some_and(|parameters| parameters.types.is_empty()) => {
            execute_with_types(&payload, &execute, &known.types)
        }
        _ => Vec::new(),
    }
}

/// True when the EXECUTE at the front of these bytes opens a cursor.
pub(super) fn has_cursor(bytes: &[u8]) -> bool {
    bytes.get(HEADER + 5).is_some_and(|flags| flags & CURSORS != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn types_are_put_in() {
        let unbound = b"\x17\x01\0\0\0\x00\x01\0\0\0\x00\x00\x05\0\0\0";
        let bound = b"\x17\x01\0\0\0\x00\x01\0\0\0\x00\x01\x03\x00\x05\0\0\0";
        let execute = read_execute(unbound, 1, false).expect("well formed");
        assert_eq!(&execute_with_types(unbound, &execute, b"\x03\x00")[4..], bound);
    }

    #[test]
    fn ids_are_not_reused_while_in_use() {
        let mut statements = Statements { last_id: u32::MAX - 1, ..Statements::default() };
        assert_eq!(statements.next_id(), u32::MAX);
        statements.last_id = u32::MAX;
        assert_eq!(statements.next_id(), 1);
    }
}
