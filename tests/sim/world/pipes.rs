//! Byte mode: what becomes of the bytes between sites, and when.

use std::collections::BTreeMap;

use kvstore::time::{Duration, Instant};

use super::{Event, World};
use crate::sim::node::Connection;
use crate::sim::pipe_plan::SocketFault;
use crate::sim::pipes::{Action, Arrival, Deed, Door, Flight, Piece};
use crate::sim::plan::Fault;

/// After a segment was lost the sender waits so long before it sends it again.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// The way from a closed port back to the same port: so many of a million dials of a dead process
/// connect to themselves.
const SELF_CONNECTS_PER_MILLION: u64 = 10_000;

/// Something that is over again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Relief {
    /// A flow runs again: that of the bytes to this end.
    Flow(Connection, usize),
    /// A process has descriptors again.
    Descriptors(usize),
    /// A door is opened, or closed for good, as its process lives or not.
    Door(usize),
}

impl World {
    /// What went wrong with sockets so far.
    pub(crate) fn socket_faults(&self) -> BTreeMap<SocketFault, u64> {
        self.network.pipes.faults()
    }

    /// What processes did with their sockets takes its course. `departures` says when what was done
    /// after so many syncs of a turn is on its way.
    pub(super) fn launch(&mut self, departures: &[Instant]) {
        for action in self.network.pipes.take_actions() {
            self.launch_one(action, departures[action.syncs as usize]);
        }
        self.wake_ends();
    }

    fn launch_one(&mut self, Action { pipe, side, what, .. }: Action, depart: Instant) {
        let to = 1 - side;
        match what {
            Deed::Dialled => self.fly(pipe, side, depart, Flight::Syn),
            Deed::Wrote(upto) => {
                for Piece { upto, takes } in self.network.pipes.pieces(pipe, side, upto) {
                    self.fly_for(pipe, side, depart, takes, Flight::Segment { to, upto, fin: false });
                }
            }
            Deed::MadeRoom => self.fly(pipe, side, depart, Flight::Room { to }),
            Deed::Closed { reset: true } => self.fly(pipe, side, depart, Flight::Reset { to }),
            Deed::Closed { reset: false } => {
                let upto = self.network.pipes.written(pipe, side);
                self.fly(pipe, side, depart, Flight::Segment { to, upto, fin: true });
            }
        }
    }

    /// Something leaves an end. Of one end, all arrives in the order in which it left.
    fn fly(&mut self, pipe: Connection, from: usize, depart: Instant, flight: Flight) {
        self.fly_for(pipe, from, depart, Duration::ZERO, flight);
    }

    /// The same, if it keeps the link busy for so long.
    fn fly_for(&mut self, pipe: Connection, from: usize, depart: Instant, takes: Duration, flight: Flight) {
        let mut at = depart + self.network.latency();
        if self.network.is_lost() {
            at += RETRANSMISSION;
        }
        if let Some(at) = self.network.pipes.in_order(pipe, from, at, takes) {
            self.queue.add(at, Event::Flight { pipe, flight });
        }
    }

    pub(super) fn on_flight(&mut self, pipe: Connection, flight: Flight) {
        let Some(sites) = self.network.pipes.sites_of(pipe) else { return };
        let is_open = |from: usize, to: usize| self.network.is_open(sites[from], sites[to]);
        match flight {
            Flight::Syn if is_open(0, 1) => self.on_syn(pipe),
            Flight::SynAck if is_open(1, 0) => {
                if !self.network.pipes.on_connected(pipe) {
                    self.fly(pipe, 0, self.now, Flight::Reset { to: 1 });
                }
            }
            Flight::Refusal if is_open(1, 0) => {
                let to_itself = self.streams.faults.chance(SELF_CONNECTS_PER_MILLION);
                self.network.pipes.on_refused(pipe, to_itself);
            }
            Flight::Syn | Flight::SynAck | Flight::Refusal => {
                self.network.pipes.on_fault(SocketFault::Silence)
            }
            Flight::Segment { to, upto, fin } => {
                let arrives = is_open(1 - to, to);
                if self.network.pipes.on_segment(pipe, to, upto, fin, arrives) == Arrival::Unknown {
                    self.fly(pipe, to, self.now, Flight::Reset { to: 1 - to });
                }
            }
            Flight::Reset { to } if is_open(1 - to, to) => self.network.pipes.on_reset(pipe, to),
            Flight::Reset { .. } => {}
            Flight::Cut { to } => self.network.pipes.on_reset(pipe, to),
            Flight::Room { to } => self.network.pipes.on_room(pipe, to),
        }
        self.wake_ends();
    }

    fn on_syn(&mut self, pipe: Connection) {
        match self.network.pipes.on_syn(pipe) {
            Some(Door::Open) => self.fly(pipe, 1, self.now, Flight::SynAck),
            Some(Door::Dying) => {
                self.fly(pipe, 1, self.now, Flight::SynAck);
                let reset = self.streams.faults.chance(500_000);
                let thrown_out = if reset {
                    Flight::Reset { to: 0 }
                } else {
                    Flight::Segment { to: 0, upto: 0, fin: true }
                };
                self.fly(pipe, 1, self.now, thrown_out);
            }
            Some(Door::Closed) => self.fly(pipe, 1, self.now, Flight::Refusal),
            None => self.network.pipes.on_fault(SocketFault::Silence),
        }
    }

    /// Whoever has something to be told gets to it: nodes in their next turn, clients at once.
    fn wake_ends(&mut self) {
        for (pipe, side) in self.network.pipes.take_woken() {
            let Some(sites) = self.network.pipes.sites_of(pipe) else { continue };
            match sites[side].checked_sub(self.plan.nodes) {
                None => self.schedule_turn_when_free(sites[side]),
                Some(_) => self.on_line_ready(pipe),
            }
        }
    }

    /// All connections between a node and some others are cut, as by a box on the way.
    pub(super) fn cut_pipes(&mut self, node: usize, is_other: impl Fn(usize) -> bool) {
        for pipe in self.network.pipes.pipes_between(node, is_other) {
            for to in 0..2 {
                let at = self.now + self.network.latency();
                self.queue.add(at, Event::Flight { pipe, flight: Flight::Cut { to } });
            }
        }
    }

    /// What had to wait, and need not any more, arrives: at once or, as the sender tries again only
    /// now and then, later.
    pub(super) fn release_held(&mut self, at_once: bool) {
        let network = &self.network;
        for (pipe, to, upto, fin) in self.network.pipes.take_held(|from, to| network.is_open(from, to)) {
            let patience = if at_once { Duration::ZERO } else { RETRANSMISSION };
            let pause = self.streams.faults.duration(Duration::ZERO, patience) + self.network.latency();
            let flight = Flight::Segment { to, upto, fin };
            self.queue.add(self.now + pause, Event::Flight { pipe, flight });
        }
    }

    /// A fault that is byte mode's own.
    pub(super) fn on_socket_fault(&mut self, fault: Fault, node: usize) {
        match fault {
            Fault::StreamStall => self.stall_flow(node),
            Fault::NoDescriptors => self.exhaust(node),
            Fault::HauntedDoor => self.haunt_door(node),
            other => unreachable!("{other:?} is no fault of sockets"),
        }
    }

    /// Some stream between nodes gets stuck one way.
    fn stall_flow(&mut self, node: usize) {
        let nodes = self.plan.nodes;
        let pipes = self.network.pipes.pipes_between(node, |other| other < nodes);
        if pipes.is_empty() {
            return;
        }
        let (pipe, to) = (self.streams.faults.pick(&pipes), self.streams.faults.index(2));
        self.network.pipes.set_stalled(pipe, to, true);
        let until = self.now + self.how_long();
        self.queue.add(until, Event::Relief(Relief::Flow(pipe, to)));
    }

    fn exhaust(&mut self, node: usize) {
        self.network.pipes.set_exhausted(node, true);
        let until = self.now + self.how_long();
        self.queue.add(until, Event::Relief(Relief::Descriptors(node)));
    }

    /// A door lets everybody in and throws everybody out for a while, though its process is well: a
    /// box before it has lost its mind, and perhaps the connections that it knew.
    fn haunt_door(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            if self.streams.faults.chance(700_000) {
                self.cut_pipes(node, |_| true);
            }
            self.network.pipes.set_door(node, Door::Dying);
            let until = self.now + self.how_long();
            self.queue.add(until, Event::Relief(Relief::Door(node)));
            self.launch(&[self.now]);
        }
    }

    pub(super) fn on_relief(&mut self, relief: Relief) {
        match relief {
            Relief::Flow(pipe, to) => {
                self.network.pipes.set_stalled(pipe, to, false);
                self.release_held(false);
            }
            Relief::Descriptors(node) => self.network.pipes.set_exhausted(node, false),
            Relief::Door(node) => self.settle_door(node),
        }
    }

    fn settle_door(&mut self, node: usize) {
        let lives = self.nodes[node].process.is_some();
        self.network.pipes.set_door(node, if lives { Door::Open } else { Door::Closed });
        self.launch(&[self.now]);
    }

    /// A process starts to listen.
    pub(super) fn open_door(&mut self, node: usize) {
        self.network.pipes.set_power(node, true);
        self.network.pipes.set_exhausted(node, false);
        self.network.pipes.set_door(node, Door::Open);
        self.launch(&[self.now]);
        self.release_held(false);
    }

    /// A process has ended with its sockets; its listener may outlive it for a moment.
    pub(super) fn close_door(&mut self, node: usize, with_power: bool) {
        let lingers = with_power && self.streams.faults.chance(750_000);
        self.network.pipes.set_door(node, if lingers { Door::Dying } else { Door::Closed });
        if lingers {
            let pause = self.streams.faults.duration(Duration::ZERO, Duration::from_millis(5));
            self.queue.add(self.now + pause, Event::Relief(Relief::Door(node)));
        }
        self.launch(&[self.now]);
    }

    /// All sockets work again, and what had to wait arrives.
    pub(super) fn heal_pipes(&mut self) {
        for node in 0..self.plan.nodes {
            self.network.pipes.set_exhausted(node, false);
            self.settle_door(node);
        }
        self.network.pipes.end_stalls();
        self.forget_operators();
        self.release_held(true);
    }
}
