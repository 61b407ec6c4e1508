//! A process in byte mode: the server's node, whole, over simulated sockets.
//!
//! The loop around it is the server's with another poll: tell what events say, take the turn, end
//! it, and sleep until the next event or timer.

use bytes::Bytes;
use kvstore::net::{ConnectionId, Readiness};
use kvstore::replica::Replica;
use kvstore::server::admission::{Admission, Limits};
use kvstore::server::config::PeerEntry;
use kvstore::server::message_bus::MessageBus;
use kvstore::server::node::Node;
use kvstore::server::peers::{Identity, Peers};
use kvstore::storage::{Recovered, WriteError};
use kvstore::time::{Duration, Instant};
use kvstore::wire::client::Response;
use kvstore::wire::frame::FrameKind;
use kvstore::wire::peer::Message;

use super::checker::violated;
use super::disk::SimDisk;
use super::node::{Sent, TurnEffects, address};
use super::pipes::{Left, Pipes, address_of};
use super::rng::Rng;
use super::sockets::{Driver, SimSocket};

/// A process that runs the server's node.
pub(crate) struct ByteNode {
    pub(crate) node: Node<SimDisk, SimSocket>,
    pipes: Pipes,
    site: usize,
    /// The next poll is interrupted.
    pub(crate) is_interrupted: bool,
}

/// What a process is told at its start, besides its replica.
pub(crate) struct Surroundings<'a> {
    pub(crate) site: usize,
    pub(crate) nodes: usize,
    pub(crate) limits: Limits,
    pub(crate) heartbeat: Duration,
    pub(crate) recovered: &'a Recovered,
    pub(crate) seed: u64,
}

impl ByteNode {
    /// As `Server::open` does it.
    pub(crate) fn start(
        now: Instant,
        replica: Replica<SimDisk>,
        pipes: Pipes,
        surroundings: Surroundings<'_>,
    ) -> Self {
        let Surroundings { site, nodes, limits, heartbeat, recovered, seed } = surroundings;
        let identity = Identity {
            node: recovered.node,
            incarnation: recovered.incarnation,
            boot: recovered.boot,
            last_index: replica.durable_index(),
            advertise: address(site),
            restored: None,
        };
        let mut rng = Rng::new(seed, 8);
        // One list may serve all nodes: the own entry is found out by dialling it.
        let is_listed = |entry: &usize| *entry != site || seed.is_multiple_of(4);
        let listed: Vec<usize> = (0..nodes).filter(is_listed).collect();
        let entries = listed.iter().map(|entry| PeerEntry { node: None, address: address(*entry) });
        let addresses = listed.iter().map(|entry| address_of(*entry)).collect();
        let configuration = replica.configuration().cloned();
        let seed = std::array::from_fn(|_| rng.u64() as u8);
        let entries = entries.collect();
        let peers = Peers::new(identity, heartbeat, entries, configuration, &recovered.peers, seed);
        let driver = Driver::new(pipes.clone(), site);
        let bus = MessageBus::new(driver, peers, addresses, Admission::new(limits), now);
        Self { node: Node::new(bus, replica, heartbeat, now), pipes, site, is_interrupted: false }
    }

    /// One turn.
    pub(crate) fn turn(&mut self, now: Instant, disk: &SimDisk) -> TurnEffects {
        let before = (disk.operations().1, disk.log_syncs());
        self.pipes.begin_turn(self.site, disk);
        if std::mem::take(&mut self.is_interrupted) {
            self.node.on_interrupted();
        } else {
            tell(&mut self.node, self.pipes.take_events(self.site));
        }
        let poll_again = |node: &mut Node<SimDisk, SimSocket>| {
            tell(node, self.pipes.take_events(self.site));
            Ok::<(), WriteError>(())
        };
        let result = self.node.turn(now, poll_again, || now);
        let mut effects = TurnEffects {
            syncs: disk.operations().1 - before.0,
            log_syncs: disk.log_syncs() - before.1,
            failed: result.err(),
            ..TurnEffects::default()
        };
        for left in self.pipes.end_turn(self.site) {
            self.note(left, &mut effects);
        }
        self.check_bounds();
        effects
    }

    /// A frame has left: what it means to the checkers. Of one that waited in front of a full socket
    /// nobody knows any more what the disk had when it was made.
    fn note(&self, left: Left, effects: &mut TurnEffects) {
        let Left { pipe, to, frame, syncs, after_log, is_late, is_outlived } = left;
        let bytes: Bytes = frame.payload;
        match frame.kind {
            FrameKind::Message if is_late => {
                effects.late += 1;
                effects.late_sends.push(Message::decode(bytes).expect("what a node sends can be read"));
            }
            FrameKind::Message => {
                if is_outlived {
                    violated!(
                        "a link of an older boot loses",
                        "node {} talks on it to {}",
                        self.site + 1,
                        to + 1
                    );
                }
                let message = Message::decode(bytes.clone()).expect("what a node sends can be read");
                effects.sends.push(Sent { what: (to, message), syncs, after_log, bytes });
            }
            FrameKind::Response => {
                let response = Response::decode(bytes.clone()).expect("what a node answers can be read");
                effects.replies.push(Sent { what: (pipe, response), syncs, after_log, bytes });
            }
            _ => {}
        }
    }

    /// Nothing that connections take exceeds its cap.
    fn check_bounds(&self) {
        for bound in kvstore::replica::Transport::bounds(self.node.bus()) {
            if bound.used > bound.cap {
                violated!(
                    "caps",
                    "node {}: {} is {} of {}",
                    self.site + 1,
                    bound.name,
                    bound.used,
                    bound.cap
                );
            }
        }
    }
}

fn tell(
    node: &mut Node<SimDisk, SimSocket>,
    (events, is_door_ready): (Vec<(ConnectionId, Readiness)>, bool),
) {
    for (id, readiness) in events {
        node.bus_mut().on_event(id, readiness);
    }
    if is_door_ready {
        node.bus_mut().on_listener_ready();
    }
}
