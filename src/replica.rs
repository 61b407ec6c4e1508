//! (Signatures only for now: what the server calls.)

use crate::storage::{self, Disk, Recovered, Storage};
use crate::time::{Duration, Instant};
use crate::types::{BootNumber, NodeId};
use crate::wire::client::{Request, Response};
use crate::wire::entry::Configuration;
use crate::wire::hello::{MemberAddress, Welcome};
use crate::wire::peer::Message;

/// A client's connection, as the server names it; opaque here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientConnection(pub u64);

/// Where messages and answers go. The server's message bus implements it, and the simulator.
pub trait Transport {
    /// Queues a message to a member. Without a link to it the message is dropped: Raft sends again.
    fn send(&mut self, to: NodeId, message: &Message);
    /// Queues an answer. If the connection is gone it is dropped: the client asks again.
    fn reply(&mut self, client: ClientConnection, response: &Response);
    /// Writes out what is queued, as far as the sockets take it now.
    fn flush(&mut self);
}

/// What a replica is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `HOST:PORT` at which clients reach this node.
    pub address: String,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// The shortest election timeout.
    pub election_min: Duration,
    /// The longest.
    pub election_max: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

/// One node of the cluster without its sockets.
pub struct Replica<D: Disk> {
    #[allow(dead_code)]
    storage: Storage<D>,
}

impl<D: Disk> Replica<D> {
    /// Takes what storage recovered.
    pub fn new(_options: Options, _storage: Storage<D>, _recovered: Recovered, _now: Instant) -> Self {
        unimplemented!()
    }
    /// A message of a member arrived on its link.
    pub fn on_message(&mut self, _now: Instant, _from: NodeId, _message: Message) {
        unimplemented!()
    }
    /// A client's request arrived.
    pub fn on_request(&mut self, _now: Instant, _client: ClientConnection, _request: Request) {
        unimplemented!()
    }
    /// A client's connection is closed: its parked requests die with it.
    pub fn on_client_gone(&mut self, _client: ClientConnection) {
        unimplemented!()
    }
    /// There is a link to this member (again).
    pub fn on_link_up(&mut self, _now: Instant, _peer: NodeId, _boot: BootNumber, _address: &str) {
        unimplemented!()
    }
    /// The link to this member was lost; a redial will tell whether the member is dead.
    pub fn on_link_down(&mut self, _now: Instant, _peer: NodeId) {
        unimplemented!()
    }
    /// Evidence that the process behind the lost link is dead: the redial was refused, or was
    /// answered by a higher boot.
    pub fn on_peer_dead(&mut self, _now: Instant, _peer: NodeId) {
        unimplemented!()
    }
    /// Founds the cluster: makes the configuration durable as entry 1 at the next
    /// `process_ready` and, where this node is its lowest member, campaigns at once.
    pub fn found(&mut self, _now: Instant, _configuration: Configuration) {
        unimplemented!()
    }
    /// The members; none before the founding.
    pub fn configuration(&self) -> Option<&Configuration> {
        unimplemented!()
    }
    /// The leader of the current term, if known (possibly this node).
    pub fn leader(&self) -> Option<NodeId> {
        unimplemented!()
    }
    /// What a client is told first. `members`: all members with the addresses that are known.
    pub fn welcome(&self, _now: Instant) -> Welcome {
        unimplemented!()
    }
    /// All members with their addresses, as far as they are known.
    pub fn members(&self) -> Vec<MemberAddress> {
        unimplemented!()
    }
    /// Whether clients should be read at all: false while the uncommitted log is at its cap.
    pub fn takes_requests(&self) -> bool {
        unimplemented!()
    }
    /// Fires what is due.
    pub fn tick(&mut self, _now: Instant) {
        unimplemented!()
    }
    /// When `tick` must be called at the latest.
    pub fn next_wake(&self) -> Option<Instant> {
        unimplemented!()
    }
    /// Whether `process_ready` has work left that waits for nothing.
    pub fn has_work(&self) -> bool {
        unimplemented!()
    }
    /// The order of a turn's effects (house.md 3). An error is a failed write: the process must end.
    pub fn process_ready(
        &mut self,
        _now: Instant,
        _transport: &mut impl Transport,
    ) -> Result<(), storage::WriteError> {
        unimplemented!()
    }
    /// SIGTERM: hand leadership over if this node leads.
    pub fn begin_hand_over(&mut self, _now: Instant) {
        unimplemented!()
    }
    /// After `begin_hand_over`: whether the process may exit now.
    pub fn may_exit(&self, _now: Instant) -> bool {
        unimplemented!()
    }
}
