//! What connections may take of this process, and what they take now.

use super::{MAX_HELD, MessageBus, Party, Visitor};
use crate::net::{CloseCause, Connection, ConnectionId, ReadBudget, Socket};
use crate::wire::client::Bound;
use crate::wire::frame::HEADER_BYTES;
use crate::wire::{MAX_CLIENT_FRAME_BYTES, MAX_PEER_FRAME_BYTES};

/// A client with more output than this waiting is not read until half of it has left.
pub(super) const CLIENT_SOFT_BYTES: usize = 1 << 20;
/// A client that waits for so many answers is not read until it has half of them.
const MAX_UNANSWERED: usize = 1024;
/// All output that clients have not taken, together. Beyond it, whoever has left most is closed.
const ALL_CLIENTS_OUTPUT_BYTES: usize = 256 << 20;
/// All that clients have sent of frames that are not complete, together. Beyond it, whoever has taken
/// longest over his is closed: others complete theirs within milliseconds.
pub(super) const ALL_CLIENTS_INPUT_BYTES: usize = 256 << 20;
/// What the withheld answers of one client hold on to. A read beyond it is refused as busy.
pub(super) const CLIENT_WITHHELD_BYTES: usize = 64 << 20;
/// The same, of all clients together.
pub(super) const ALL_CLIENTS_WITHHELD_BYTES: usize = 256 << 20;

impl<S: Socket> MessageBus<S> {
    /// Each bound, with the largest use of any one connection where it holds for each.
    pub(super) fn all_bounds(&self) -> Vec<Bound> {
        let is_client = |party| party == Party::Client;
        let is_peer = |party| party == Party::Peer;
        let output = |connection: &Connection<S>| connection.queued_bytes();
        let input = |connection: &Connection<S>| connection.buffered_bytes();
        let visitors = || self.connections.iter().map(|(_, _, visitor)| visitor);
        let unanswered = visitors().map(|visitor| visitor.unanswered).max();
        let withheld = visitors().map(|visitor| visitor.withheld_bytes).max();
        let (clients, unknown, claims) = self.admission.counts();
        let limits = self.admission.limits();
        [
            ("client_connections", clients, limits.clients),
            ("unknown_connections", unknown, limits.unknown),
            ("unconfirmed_nodes", claims, limits.claims),
            ("client_requests", unanswered.unwrap_or(0), MAX_UNANSWERED),
            ("client_input_bytes", self.largest(is_client, input), frame(MAX_CLIENT_FRAME_BYTES)),
            ("all_clients_input_bytes", self.queues.partial_bytes, ALL_CLIENTS_INPUT_BYTES),
            ("client_withheld_bytes", withheld.unwrap_or(0), CLIENT_WITHHELD_BYTES),
            ("all_clients_withheld_bytes", self.queues.withheld_bytes, ALL_CLIENTS_WITHHELD_BYTES),
            ("client_output_bytes", self.largest(is_client, output), limits.client_output_bytes),
            ("all_clients_output_bytes", self.backlog_bytes(), ALL_CLIENTS_OUTPUT_BYTES),
            ("peer_input_bytes", self.largest(is_peer, input), frame(MAX_PEER_FRAME_BYTES)),
            ("peer_output_bytes", self.largest(is_peer, output), limits.peer_output_bytes),
            ("messages_held_for_founding", self.telling.held.len(), MAX_HELD),
        ]
        .map(|(name, used, cap)| Bound { name: name.to_owned(), used: used as u64, cap: cap as u64 })
        .into()
    }

    /// Whether a client takes more than one `part` of what it may before it must wait.
    pub(super) fn is_beyond(connection: &Connection<S>, visitor: &Visitor, part: usize) -> bool {
        connection.queued_bytes() > CLIENT_SOFT_BYTES / part || visitor.unanswered >= MAX_UNANSWERED / part
    }

    /// No more than a client may still ask.
    pub(super) fn narrowed(budget: ReadBudget, visitor: &Visitor) -> ReadBudget {
        ReadBudget { frames: budget.frames.min(MAX_UNANSWERED - visitor.unanswered), ..budget }
    }

    /// A client's request is passed on.
    pub(super) fn note_request(&mut self, id: ConnectionId) {
        if let Some((_, visitor)) = self.connections.get_mut(id) {
            visitor.unanswered += 1;
        }
    }

    /// And answered: each once.
    pub(super) fn note_answer(&mut self, id: ConnectionId) {
        if let Some((_, visitor)) = self.connections.get_mut(id) {
            visitor.unanswered = visitor.unanswered.saturating_sub(1);
        }
    }

    /// Somebody was read from, who gave so many frames. Keeps what clients have sent of incomplete frames
    /// within its bound.
    pub(super) fn note_input(&mut self, id: ConnectionId, frames: usize) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        if visitor.party == Party::Peer {
            visitor.note_arrival(self.now, frames, connection.buffered_bytes());
        }
        if visitor.party != Party::Client {
            return;
        }
        let (bytes, before) = (connection.buffered_bytes(), visitor.partial.take());
        let since = before.filter(|_| frames == 0).map_or(self.now, |(since, _)| since);
        visitor.partial = (bytes > 0).then_some((since, bytes));
        self.queues.partial_bytes -= before.map_or(0, |(_, bytes)| bytes);
        self.queues.partial_bytes += bytes;
        while self.queues.partial_bytes > ALL_CLIENTS_INPUT_BYTES {
            let partial =
                self.connections.iter().filter_map(|(id, _, visitor)| Some((visitor.partial?.0, id)));
            let (_, slowest) = partial.min().expect("what is over a bound is not empty");
            self.close(slowest, &CloseCause::Overdue("its frame took longest while memory was short"));
        }
    }

    /// What a client has sent or has not taken is dropped with it.
    pub(super) fn forget_held(&mut self, visitor: &Visitor) {
        self.queues.withheld_bytes -= visitor.withheld_bytes;
        self.queues.partial_bytes -= visitor.partial.map_or(0, |(_, bytes)| bytes);
    }

    fn largest(&self, of: impl Fn(Party) -> bool, bytes: impl Fn(&Connection<S>) -> usize) -> usize {
        let connections = self.connections.iter().filter(|(_, _, visitor)| of(visitor.party));
        connections.map(|(_, connection, _)| bytes(connection)).max().unwrap_or(0)
    }

    fn backlog_bytes(&self) -> usize {
        self.queues.backlog.iter().map(|id| self.output_of(*id)).sum()
    }

    fn output_of(&self, id: ConnectionId) -> usize {
        self.connections.get(id).map_or(0, |(connection, _)| connection.queued_bytes())
    }

    /// Keeps all output of clients together within its bound.
    pub(super) fn bound_backlog(&mut self) {
        while self.backlog_bytes() > ALL_CLIENTS_OUTPUT_BYTES {
            let slowest = self.queues.backlog.iter().max_by_key(|id| self.output_of(**id)).copied();
            let slowest = slowest.expect("what is over a bound is not empty");
            self.close(slowest, &CloseCause::Overflow);
        }
    }
}

fn frame(payload_bytes: u32) -> usize {
    payload_bytes as usize + HEADER_BYTES
}
