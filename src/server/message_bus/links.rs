//! The life of connections: dials, deadlines, ends, and what the rules of [`Peers`] ask for.
//!
//! [`Peers`]: crate::server::peers::Peers

use std::io;

use log::{debug, info};

use super::{
    DRAIN_TIMEOUT, FOUNDING_LINE_PERIOD, FOUNDING_PERIOD, HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, Inbound,
    MAX_HELLO_BYTES, MAX_PEER_FRAME_BYTES, MessageBus, PROGRESS_TIMEOUT, Party, Timer, Visitor,
};
use crate::net::{CloseCause, Connection, ConnectionId, Socket};
use crate::planted::{Bug, is_planted};
use crate::replica::ClientConnection;
use crate::server::dialler::{DIAL_TIMEOUT, Failure};
use crate::server::peers::Effect;
use crate::time::Duration;
use crate::types::NodeId;
use crate::wire::entry::Configuration;
use crate::wire::frame::FrameKind;
use crate::wire::hello::{Refusal, RefusalReason};
use crate::wire::peer::Message;

impl<S: Socket> MessageBus<S> {
    /// Does what the rules ask for, until they ask for nothing more.
    pub(super) fn run_effects(&mut self) {
        loop {
            let effects = self.peers.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.run_effect(effect);
            }
        }
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Dial(entry) => self.dial(entry),
            Effect::DialAfter(entry, pause) => self.dial_after(entry, pause),
            Effect::Hello(id) => self.queue_hello(id),
            Effect::Inquire(entry) => self.inquire(entry),
            Effect::InquireAfter(entry, pause) => {
                self.timers.wheel.insert(self.now + pause, Timer::Inquiry(entry));
            }
            Effect::Admit(id) => self.become_party(id, Party::Peer, MAX_PEER_FRAME_BYTES),
            Effect::Close(id) => self.dismiss(id),
            Effect::Refuse(id, refusal) => self.refuse(id, refusal),
            Effect::TellFounded(id, node, configuration) => self.tell_founded(id, node, configuration),
            Effect::Up(node, boot, address) => {
                debug!("there is a link to node {node}, boot {boot}");
                self.inbox.push_back(Inbound::LinkUp(node, boot, address));
            }
            Effect::Down(node) => {
                debug!("the link to node {node} is lost");
                self.inbox.push_back(Inbound::LinkDown(node));
            }
            Effect::Dead(node) => self.inbox.push_back(Inbound::PeerDead(node)),
            Effect::Found(configuration) => self.inbox.push_back(Inbound::Found(configuration)),
            Effect::Listed(node, address) => self.inbox.push_back(Inbound::PeerListed(node, address)),
        }
    }

    fn dial(&mut self, entry: usize) {
        if let Some(timer) = self.timers.redials[entry].take() {
            self.timers.wheel.cancel(timer);
        }
        let id = self.connections.next_id();
        self.peers.on_dial(entry, id);
        match S::dial(&mut self.driver, id, self.addresses[entry]) {
            Ok(socket) => {
                let visitor = Visitor { party: Party::Dialled(entry), ..Visitor::default() };
                self.connections.insert(Connection::dialled(socket, MAX_HELLO_BYTES), visitor);
                self.set_deadline(id, DIAL_TIMEOUT);
            }
            Err(error) => self.on_dial_failed(id, entry, &error.into()),
        }
    }

    /// People are told, once in a while: a member that cannot be reached is no secret, and a node that
    /// reaches nobody should say so. Before the founding its own line names who is missing.
    fn on_dial_failed(&mut self, id: ConnectionId, entry: usize, cause: &CloseCause) {
        if self.peers.configuration().is_some()
            && let CloseCause::Io(error) = cause
        {
            let line = format!("no link to {}: {error}; trying again", self.peers.address(entry));
            self.complaints.warn(self.now, line);
        }
        self.peers.on_dial_failed(self.now, entry, id, failure(cause));
    }

    /// Asks at an entry about those who came in, on a connection of its own.
    fn inquire(&mut self, entry: usize) {
        let id = self.connections.next_id();
        match S::dial(&mut self.driver, id, self.addresses[entry]) {
            Ok(socket) => {
                let visitor = Visitor { party: Party::Inquiring(entry), ..Visitor::default() };
                self.connections.insert(Connection::dialled(socket, MAX_HELLO_BYTES), visitor);
                self.set_deadline(id, DIAL_TIMEOUT);
            }
            Err(_) => self.peers.on_inquiry_ended(self.now, entry),
        }
    }

    fn dial_after(&mut self, entry: usize, pause: Duration) {
        if let Some(timer) = self.timers.redials[entry].take() {
            self.timers.wheel.cancel(timer);
        }
        self.timers.redials[entry] = Some(self.timers.wheel.insert(self.now + pause, Timer::Redial(entry)));
    }

    pub(super) fn on_redial(&mut self, entry: usize) {
        self.timers.redials[entry] = None;
        self.peers.on_dial_timer(entry);
    }

    /// A dial has ended, perhaps; if well, this node introduces itself, or asks.
    pub(super) fn finish_connect(&mut self, id: ConnectionId) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        let party = visitor.party;
        match connection.finish_connect() {
            Ok(false) => {}
            Ok(true) => {
                if let Party::Inquiring(entry) = party {
                    let inquiry = self.peers.inquiry(entry);
                    self.queue(id, FrameKind::Inquiry, |out| inquiry.encode(out));
                } else {
                    self.queue_hello(id);
                }
                self.set_deadline(id, HANDSHAKE_TIMEOUT);
                self.enlist(id);
            }
            Err(cause) => self.close(id, &cause),
        }
    }

    fn queue_hello(&mut self, id: ConnectionId) {
        let hello = self.peers.hello(id);
        self.queue(id, FrameKind::PeerHello, |out| hello.encode(out));
    }

    /// The founding goes first, then what was held back for it.
    fn tell_founded(&mut self, id: ConnectionId, node: NodeId, configuration: Configuration) {
        if self.timers.founding.is_none() {
            let timer = self.timers.wheel.insert(self.now + FOUNDING_PERIOD, Timer::Founding);
            self.timers.founding = Some(timer);
        }
        if self.telling.by_snapshot {
            self.telling.held.retain(|(to, _)| *to != node);
            self.inbox.push_back(Inbound::Newcomer(node));
            return;
        }
        let message = Message::Found(configuration);
        self.queue(id, FrameKind::Message, |out| message.encode(out));
        for (to, message) in std::mem::take(&mut self.telling.held) {
            if to == node {
                self.queue(id, FrameKind::Message, |out| message.encode(out));
            } else {
                self.telling.held.push((to, message));
            }
        }
    }

    pub(super) fn on_founding_timer(&mut self) {
        self.timers.founding = None;
        let waiting = self.peers.waiting();
        if let Some(waiting) = &waiting
            && self.now.since(self.timers.founding_line) >= FOUNDING_LINE_PERIOD
        {
            info!("no cluster yet: {waiting}");
            self.timers.founding_line = self.now;
        }
        if self.peers.configuration().is_some() {
            self.peers.tell_founded_again();
        }
        if waiting.is_some() || self.peers.has_untold() {
            let timer = self.timers.wheel.insert(self.now + FOUNDING_PERIOD, Timer::Founding);
            self.timers.founding = Some(timer);
        }
    }

    pub(super) fn set_deadline(&mut self, id: ConnectionId, after: Duration) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        if let Some(timer) = visitor.deadline.take() {
            self.timers.wheel.cancel(timer);
        }
        visitor.progress = (connection.frames_read(), connection.bytes_written());
        visitor.deadline = Some(self.timers.wheel.insert(self.now + after, Timer::Deadline(id)));
    }

    pub(super) fn clear_deadline(&mut self, id: ConnectionId) {
        let Some((_, visitor)) = self.connections.get_mut(id) else { return };
        if let Some(timer) = visitor.deadline.take() {
            self.timers.wheel.cancel(timer);
        }
    }

    /// Sets a deadline if the other end owes the rest of a frame, or must take output.
    pub(super) fn watch(&mut self, id: ConnectionId) {
        let Some((connection, visitor)) = self.connections.get(id) else { return };
        let owes = connection.has_partial_frame() || connection.queued_bytes() > 0;
        if owes && visitor.deadline.is_none() {
            self.set_deadline(id, PROGRESS_TIMEOUT);
        }
    }

    pub(super) fn on_deadline(&mut self, id: ConnectionId) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        visitor.deadline = None;
        let (frames, bytes) = visitor.progress;
        let sends =
            !connection.has_partial_frame() || connection.has_input() || connection.frames_read() != frames;
        let reads = connection.queued_bytes() == 0 || connection.bytes_written() != bytes;
        let overdue = match visitor.party {
            Party::Dialled(_) | Party::Inquiring(_) if connection.is_connecting() => {
                Some("no answer to the dial")
            }
            Party::Dialled(_) | Party::Inquiring(_) | Party::Unknown => Some("no introduction in time"),
            Party::Claimant => Some("not confirmed in time"),
            Party::Dismissed => Some("done with"),
            Party::Peer | Party::Client if !sends => Some("a frame did not end in time"),
            Party::Peer | Party::Client if !reads => Some("output was not taken in time"),
            Party::Peer | Party::Client => None,
        };
        if let Some(refusal) = self.peers.refusal_of_overdue(id) {
            return self.refuse(id, refusal);
        }
        match overdue {
            Some(overdue) => self.close(id, &CloseCause::Overdue(overdue)),
            None => self.watch(id),
        }
    }

    /// Looks at a client again after the time that it may be idle.
    pub(super) fn watch_idleness(&mut self, id: ConnectionId) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        let timer = self.timers.wheel.insert(self.now + IDLE_TIMEOUT, Timer::Idle(id));
        visitor.idle = Some((timer, connection.frames_read()));
    }

    /// Closes a client that has asked nothing since the timer was set; for any other it is set
    /// anew, so that a request costs no timer.
    pub(super) fn on_idle(&mut self, id: ConnectionId) {
        let Some((connection, visitor)) = self.connections.get(id) else { return };
        let asked = visitor.idle.is_none_or(|(_, frames)| frames != connection.frames_read());
        if asked || visitor.unanswered > 0 {
            self.watch_idleness(id);
        } else {
            self.close(id, &CloseCause::Overdue("it asked nothing for long"));
        }
    }

    /// What is left of a connection that could not be read on.
    pub(super) fn on_read_error(&mut self, id: ConnectionId, cause: CloseCause) {
        match cause {
            CloseCause::Frame(error) if error.header_was_sound() => {
                let reason = match error {
                    crate::wire::frame::FrameError::TooLarge { .. } => RefusalReason::FrameTooLarge,
                    _ => RefusalReason::Malformed,
                };
                self.refuse(id, Refusal { reason, message: error.to_string() });
            }
            cause => self.close(id, &cause),
        }
    }

    /// Tells the other end why, then closes.
    pub(super) fn refuse(&mut self, id: ConnectionId, refusal: Refusal) {
        let Some((_, visitor)) = self.connections.get_mut(id) else { return };
        let party = std::mem::replace(&mut visitor.party, Party::Dismissed);
        let line = format!("refused a connection: {}", refusal.message);
        match party {
            Party::Dialled(entry) => {
                let line = format!("refused {}: {}", self.peers.address(entry), refusal.message);
                self.complaints.warn(self.now, line);
            }
            Party::Claimant | Party::Peer => self.complaints.warn(self.now, line),
            _ => self.complaints.warn_of_stranger(self.now, line),
        }
        self.queue(id, FrameKind::Refusal, |out| refusal.encode(out));
        self.dismiss(id);
        self.on_parted(id, party, &CloseCause::Refusal);
    }

    /// Delivers what is queued, ignores what arrives, and lets the other end close. What the socket takes is
    /// delivered at once: whoever has said all that he will may be read to his end, and closed, before
    /// this turn's flush.
    pub(super) fn dismiss(&mut self, id: ConnectionId) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        connection.drain();
        visitor.party = Party::Dismissed;
        self.set_deadline(id, DRAIN_TIMEOUT);
        self.enlist(id);
        if let Some(oldest) = self.admission.on_unknown(id) {
            self.close(oldest, &CloseCause::Overdue("no time to part while others waited"));
        }
        self.flush_one(id);
    }

    /// Ends a connection.
    pub(super) fn close(&mut self, id: ConnectionId, cause: &CloseCause) {
        let Some(visitor) = self.connections.close(id) else { return };
        for timer in visitor.deadline.into_iter().chain(visitor.idle.map(|(timer, _)| timer)) {
            self.timers.wheel.cancel(timer);
        }
        self.forget_held(&visitor);
        debug!("connection {id:?} of {:?} ended: {cause}", visitor.party);
        self.admission.forget(id);
        self.queues.backlog.remove(&id);
        self.on_parted(id, visitor.party, cause);
    }

    /// Whoever was behind a connection is not there any more.
    fn on_parted(&mut self, id: ConnectionId, party: Party, cause: &CloseCause) {
        match party {
            Party::Unknown | Party::Dismissed => {}
            Party::Dialled(entry) => self.on_dial_failed(id, entry, cause),
            Party::Inquiring(entry) => self.peers.on_inquiry_ended(self.now, entry),
            Party::Claimant | Party::Peer => self.peers.on_closed(self.now, id),
            Party::Client => {
                self.admission.on_client_gone();
                self.inbox.push_back(Inbound::ClientGone(ClientConnection(id.to_u64())));
            }
        }
    }
}

/// What the end of a dial, or of a connection before its handshake, proves.
fn failure(cause: &CloseCause) -> Failure {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset};
    match cause {
        CloseCause::EndOfStream if is_planted(Bug::ClosedIsDead) => Failure::Refused,
        CloseCause::EndOfStream => Failure::ClosedEarly,
        CloseCause::Io(error) => match error.kind() {
            ConnectionRefused => Failure::Refused,
            ConnectionReset if is_planted(Bug::ClosedIsDead) => Failure::Refused,
            ConnectionReset | ConnectionAborted | BrokenPipe => Failure::ClosedEarly,
            _ => Failure::Other,
        },
        CloseCause::Refusal => Failure::Refusal,
        _ => Failure::Other,
    }
}
