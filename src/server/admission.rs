//! Who may connect: clients up to a cap, nodes always, and nobody unknown for long.
//!
//! Nodes and clients come through one port, and which of the two somebody is shows in his first
//! frame. So the caps apply at two moments. At the first frame: a client beyond the cap gets a
//! refusal that says so. Before it: if too many connections have not introduced themselves, the
//! one that had the longest time to do it makes room for the newest. The same holds, apart, for
//! those who say that they are nodes and are not confirmed. Neither clients nor silent connections
//! can therefore take the place of a node. Whoever does not read what is sent to him is closed when
//! too much of it waits.

use std::collections::BTreeSet;

use crate::net::ConnectionId;
use crate::wire::hello::Inquiry;

/// Descriptors for everything but connections: log files, poll, signals, listener, standard
/// streams, and a few to spare.
const RESERVED_DESCRIPTORS: u64 = 32;
/// A link each way to every node, one of the boot before, and an inquiry each way.
const DESCRIPTORS_PER_PEER: u64 = 5;
/// The most clients, whatever the system would allow.
const MAX_CLIENTS: u64 = 65_536;
/// The most connections that have not introduced themselves, or are being refused.
const MAX_UNKNOWN: u64 = 256;
/// The most connections that say they are nodes and are not confirmed.
const MAX_CLAIMS: u64 = Inquiry::MAX_DIALS as u64;

/// Connections accepted in one turn, at most.
const ACCEPTS_PER_TURN: usize = 64;

/// A client with more output than this waiting is closed.
const CLIENT_OUTPUT_BYTES: usize = 8 << 20;
/// A link with more output than this waiting is closed: what was queued is Raft's to send again.
const PEER_OUTPUT_BYTES: usize = 16 << 20;

/// How many connections there may be, and how much may wait to leave on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients.
    pub clients: usize,
    /// Connections that have not introduced themselves, or are being refused.
    pub unknown: usize,
    /// Connections that say they are nodes and are not confirmed.
    pub claims: usize,
    /// Bytes that one client has not taken yet; above the largest answer by a mebibyte at least.
    pub client_output_bytes: usize,
    /// Bytes that one node has not taken yet; above all that Raft may have under way to it.
    pub peer_output_bytes: usize,
}

impl Limits {
    /// What `descriptors`, the process' limit on open files, leaves beside the needs of a node
    /// with so many peers.
    #[must_use]
    pub fn for_descriptors(descriptors: u64, peers: usize) -> Self {
        let reserved = RESERVED_DESCRIPTORS + DESCRIPTORS_PER_PEER * peers as u64;
        let free = descriptors.saturating_sub(reserved).max(2);
        let unknown = (free / 4).clamp(1, MAX_UNKNOWN);
        let claims = (free / 8).clamp(1, MAX_CLAIMS);
        let clients = free.saturating_sub(unknown + claims).clamp(1, MAX_CLIENTS);
        Self {
            clients: clients as usize,
            unknown: unknown as usize,
            claims: claims as usize,
            client_output_bytes: CLIENT_OUTPUT_BYTES,
            peer_output_bytes: PEER_OUTPUT_BYTES,
        }
    }
}

/// The state of the door.
///
/// Invariant: `unknown` and `claims` never hold more than their limits between two calls, and no
/// connection stands in both.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    clients: usize,
    unknown: BTreeSet<ConnectionId>,
    claims: BTreeSet<ConnectionId>,
    /// Somebody may be waiting outside.
    listener_ready: bool,
    /// The process has run out of descriptors: nobody is let in until some are free again.
    paused: bool,
}

impl Admission {
    /// An open door. Somebody may have come before it was looked at.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let (unknown, claims) = (BTreeSet::new(), BTreeSet::new());
        Self { limits, clients: 0, unknown, claims, listener_ready: true, paused: false }
    }

    /// Whether accepting makes sense now.
    #[must_use]
    pub fn may_accept(&self) -> bool {
        self.listener_ready && !self.paused
    }

    /// How many may be let in within one turn. No more than may be unknown: those who make room for
    /// others keep their descriptors until the turn's end.
    #[must_use]
    pub fn accepts_per_turn(&self) -> usize {
        self.limits.unknown.min(ACCEPTS_PER_TURN)
    }

    /// An event says that somebody waits.
    pub fn on_listener_ready(&mut self) {
        self.listener_ready = true;
    }

    /// Nobody waits any more.
    pub fn on_listener_empty(&mut self) {
        self.listener_ready = false;
    }

    /// Out of descriptors. Those who wait cause no further event, so the door must be opened again
    /// by [`Admission::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Tries again after a pause: some time has passed, or something was closed.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Somebody came in. If that makes one too many, the one to be closed.
    pub fn on_unknown(&mut self, connection: ConnectionId) -> Option<ConnectionId> {
        self.claims.remove(&connection);
        self.unknown.insert(connection);
        if self.unknown.len() > self.limits.unknown { self.unknown.pop_first() } else { None }
    }

    /// Somebody unknown says that he is a node. If that makes one claim too many, the one to be closed.
    pub fn on_claim(&mut self, connection: ConnectionId) -> Option<ConnectionId> {
        self.unknown.remove(&connection);
        self.claims.insert(connection);
        if self.claims.len() > self.limits.claims { self.claims.pop_first() } else { None }
    }

    /// A connection was recognised as a node's or a client's, or closed.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.unknown.remove(&connection);
        self.claims.remove(&connection);
    }

    /// A client introduces itself: whether there is room for it. If so, it counts from now on.
    pub fn admit_client(&mut self) -> bool {
        let room = self.clients < self.limits.clients;
        self.clients += usize::from(room);
        room
    }

    /// A client that was admitted is gone.
    pub fn on_client_gone(&mut self) {
        self.clients = self.clients.checked_sub(1).expect("every client that goes was admitted");
    }

    /// How many there may be.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// How many clients there are, connections that have not said, and nodes that are not confirmed.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.clients, self.unknown.len(), self.claims.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(clients: usize, unknown: usize, claims: usize) -> Limits {
        Limits { clients, unknown, claims, ..Limits::for_descriptors(0, 0) }
    }

    fn connection(generation: u32) -> ConnectionId {
        ConnectionId { generation, slot: 100 - generation }
    }

    #[test]
    fn limits_leave_room_for_files_and_nodes_whatever_the_system_allows() {
        for (descriptors, expected) in [
            (0, limits(1, 1, 1)),
            (64, limits(15, 5, 2)),
            (1024, limits(615, 245, 122)),
            (1 << 40, limits(65_536, 256, 256)),
        ] {
            assert_eq!(Limits::for_descriptors(descriptors, 2), expected, "{descriptors}");
        }
    }

    #[test]
    fn turn_lets_in_no_more_than_may_be_unknown() {
        let admission = |unknown| Admission::new(limits(1, unknown, 1));
        assert_eq!(admission(6).accepts_per_turn(), 6);
        assert_eq!(admission(256).accepts_per_turn(), ACCEPTS_PER_TURN);
    }

    #[test]
    fn unknown_beyond_the_cap_pushes_out_the_oldest() {
        let mut admission = Admission::new(limits(1, 2, 1));
        assert_eq!(admission.on_unknown(connection(1)), None);
        assert_eq!(admission.on_unknown(connection(2)), None);
        assert_eq!(admission.on_unknown(connection(3)), Some(connection(1)));
        admission.forget(connection(2));
        assert_eq!(admission.on_unknown(connection(4)), None);
    }

    #[test]
    fn claim_beyond_the_cap_pushes_out_the_oldest_and_nobody_unknown() {
        let mut admission = Admission::new(limits(1, 2, 2));
        assert_eq!(admission.on_unknown(connection(9)), None);
        assert_eq!(admission.on_claim(connection(1)), None);
        assert_eq!(admission.on_claim(connection(2)), None);
        assert_eq!(admission.on_claim(connection(3)), Some(connection(1)));
        assert_eq!(admission.counts(), (0, 1, 2));
    }

    #[test]
    fn client_beyond_the_cap_is_refused_until_one_goes() {
        let mut admission = Admission::new(limits(1, 2, 1));
        assert!(admission.admit_client());
        assert!(!admission.admit_client());
        admission.on_client_gone();
        assert!(admission.admit_client());
    }

    #[test]
    fn paused_door_stays_shut_whatever_the_listener_says() {
        let mut admission = Admission::new(limits(1, 2, 1));
        admission.pause();
        admission.on_listener_ready();
        assert!(!admission.may_accept());
        admission.resume();
        assert!(admission.may_accept(), "those who waited caused no new event");
        admission.on_listener_empty();
        assert!(!admission.may_accept());
    }
}
