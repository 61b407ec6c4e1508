//! What waits to leave: frames on every connection, and answers that a client has no room for yet.
//!
//! A client may ask for more in one breath than could ever wait as bytes: a thousand gets of large
//! values are a few kilobytes. Its answers are values that the store holds anyway; bytes are made of
//! them one after the other, as the client takes those before. So it is never closed for having
//! asked, only for not reading. But the store may not hold these values any longer, so what waits in
//! this way is bounded too: a read beyond that is refused as busy. What was done is not undone by a
//! lack of room, and "busy" would say that it was not: with that answer its client is closed.

use super::bounds::{ALL_CLIENTS_WITHHELD_BYTES, CLIENT_SOFT_BYTES, CLIENT_WITHHELD_BYTES};
use super::{MessageBus, Party, Visitor};
use crate::net::{CloseCause, Connection, ConnectionId, Socket};
use crate::planted::{Bug, is_planted};
use crate::wire::Writer;
use crate::wire::client::{Refused, Response, ResponseBody};
use crate::wire::frame::FrameKind;

/// What one flush writes to clients, but for the last one's; the rest waits for the next, behind what
/// nodes are sent.
const CLIENTS_FLUSH_BYTES: u64 = 4 << 20;

impl<S: Socket> MessageBus<S> {
    /// Queues a frame on a connection, if it still exists.
    pub(super) fn queue(&mut self, id: ConnectionId, kind: FrameKind, write: impl FnOnce(&mut Writer)) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        connection.queue(kind, write);
        let limits = self.admission.limits();
        let is_peer = visitor.party == Party::Peer;
        let cap = if is_peer { limits.peer_output_bytes } else { limits.client_output_bytes };
        if connection.queued_bytes() > cap && !is_planted(Bug::OutputUnbounded) {
            self.close(id, &CloseCause::Overflow);
        } else if !visitor.is_dirty {
            visitor.is_dirty = true;
            self.queues.dirty.push(id);
        }
    }

    /// Writes out what is queued, as far as the sockets take it now: to nodes first and all of it, to
    /// clients as much as one flush may, those first who have waited since the last one.
    pub(super) fn flush_all(&mut self) {
        let mut clients = std::mem::take(&mut self.queues.postponed);
        while !self.queues.dirty.is_empty() {
            for id in std::mem::take(&mut self.queues.dirty) {
                if self.is_client(id) {
                    clients.push(id);
                } else {
                    self.flush_one(id);
                }
            }
            self.run_effects();
        }
        let mut left_bytes = CLIENTS_FLUSH_BYTES;
        for id in clients {
            if left_bytes > 0 || !self.is_client(id) {
                left_bytes = left_bytes.saturating_sub(self.flush_one(id));
            } else {
                self.queues.backlog.insert(id);
                self.queues.postponed.push(id);
            }
        }
        self.bound_backlog();
    }

    fn is_client(&self, id: ConnectionId) -> bool {
        self.connections.get(id).is_some_and(|(_, visitor)| visitor.party == Party::Client)
    }

    /// Writes out what is queued on a connection, as far as the socket takes it now. How many bytes it took.
    pub(super) fn flush_one(&mut self, id: ConnectionId) -> u64 {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return 0 };
        visitor.is_dirty = false;
        let before = connection.bytes_written();
        let flushed = connection.flush();
        let bytes = connection.bytes_written() - before;
        if let Err(cause) = flushed {
            self.close(id, &cause);
            return bytes;
        }
        if visitor.party == Party::Client && connection.queued_bytes() > 0 {
            self.queues.backlog.insert(id);
        } else {
            self.queues.backlog.remove(&id);
        }
        if visitor.party == Party::Client && connection.queued_bytes() <= CLIENT_SOFT_BYTES / 2 {
            self.release(id);
        }
        self.watch(id);
        bytes
    }

    /// Answers a client: now, or once it has taken the answers before.
    pub(super) fn answer(&mut self, id: ConnectionId, response: &Response) {
        match self.connections.get_mut(id) {
            Some((connection, visitor)) if !has_room(connection, visitor) => {
                let bytes = held_bytes(response);
                let is_too_much = visitor.withheld_bytes + bytes > CLIENT_WITHHELD_BYTES
                    || self.queues.withheld_bytes + bytes > ALL_CLIENTS_WITHHELD_BYTES;
                if bytes > 0 && is_too_much {
                    if !is_of_a_read(response) {
                        return self.close(id, &CloseCause::Overflow);
                    }
                    visitor.withheld.push_back(busy(response));
                } else {
                    visitor.withheld_bytes += bytes;
                    self.queues.withheld_bytes += bytes;
                    visitor.withheld.push_back(response.clone());
                }
            }
            _ => {
                self.note_answer(id);
                self.queue(id, FrameKind::Response, |out| response.encode(out));
            }
        }
    }

    /// A client has room again: for the answers that were withheld, then for requests.
    fn release(&mut self, id: ConnectionId) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        let before = visitor.withheld.len();
        while connection.queued_bytes() <= CLIENT_SOFT_BYTES
            && let Some(response) = visitor.withheld.pop_front()
        {
            let bytes = held_bytes(&response);
            visitor.withheld_bytes -= bytes;
            self.queues.withheld_bytes -= bytes;
            connection.queue(FrameKind::Response, |out| response.encode(out));
            visitor.unanswered = visitor.unanswered.saturating_sub(1);
        }
        if visitor.withheld.len() < before {
            visitor.is_dirty = true;
            self.queues.postponed.push(id);
        } else if visitor.is_choked && !Self::is_beyond(connection, visitor, 2) {
            visitor.is_choked = false;
            self.enlist(id);
        }
    }
}

/// Whether a client may be given another answer now.
fn has_room<S: Socket>(connection: &Connection<S>, visitor: &Visitor) -> bool {
    connection.queued_bytes() <= CLIENT_SOFT_BYTES && visitor.withheld.is_empty()
}

/// Whether the answer tells what was found, not what was done: then it can be asked for again.
fn is_of_a_read(response: &Response) -> bool {
    use ResponseBody::{BackupChunk, Rows, Sessions, Status, Value};
    matches!(response.body, Value(_) | Rows { .. } | Status(_) | Sessions(_) | BackupChunk { .. })
}

/// What an answer holds on to while it is withheld.
fn held_bytes(response: &Response) -> usize {
    if matches!(response.body, ResponseBody::Refused(_)) { 0 } else { response.body.payload_bytes() }
}

/// Instead of the answer to a read that would hold on to too much.
fn busy(response: &Response) -> Response {
    let cure = "too many answers wait to be taken: take them, then ask again".to_owned();
    Response { body: ResponseBody::Refused(Refused::Busy(cure)), ..*response }
}
