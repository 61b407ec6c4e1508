//! Message mode: connections between nodes. Both modes: the cuts between sites.

use bytes::Bytes;
use kvstore::time::{Duration, Instant};

use super::{Event, World};
use crate::sim::message_node::Input;
use crate::sim::node::Connection;

/// How long a dial that gets no answer waits for the next.
const REDIAL: Duration = Duration::from_millis(100);

impl World {
    /// A process that has just started dials all others.
    pub(super) fn dial_others(&mut self, node: usize) {
        for other in (0..self.plan.nodes).filter(|other| *other != node) {
            let pause = self.network.latency();
            self.queue.add(self.now + pause, Event::Dial { one: node, other });
        }
    }

    /// The connection that a process has to another node.
    pub(super) fn link_between(&self, node: usize, peer: usize) -> Option<Connection> {
        let messages = self.nodes[node].process.as_ref()?.messages()?;
        messages.links.get(&peer).map(|link| link.connection)
    }

    /// Two nodes that have no connection in common try to get one.
    pub(super) fn on_dial(&mut self, one: usize, other: usize) {
        let ends = [self.link_between(one, other), self.link_between(other, one)];
        if ends[0].is_some() && ends[0] == ends[1] {
            return;
        }
        if !self.network.is_open_both_ways(one, other) {
            return; // it is tried again when the way is open
        }
        match (self.process_number(one), self.process_number(other)) {
            (Some(_), Some(_)) if self.is_paused(one) || self.is_paused(other) => {
                self.queue.add(self.now + REDIAL, Event::Dial { one, other });
            }
            (Some(_), Some(_)) => self.connect(one, other),
            (Some(number), None) if self.nodes[other].is_on => self.refuse(one, number, other),
            (None, Some(number)) if self.nodes[one].is_on => self.refuse(other, number, one),
            _ => {} // it is tried again when the other starts
        }
    }

    fn refuse(&mut self, node: usize, process: u64, peer: usize) {
        let at = self.now + self.network.latency();
        let input = Input::Refused { peer, dial: self.take_number() };
        self.queue.add(at, Event::Arrive { node, process, input, other: 0 });
    }

    fn connect(&mut self, one: usize, other: usize) {
        let connection = Connection(self.take_number());
        for (node, peer) in [(one, other), (other, one)] {
            let at = self.now + self.network.latency();
            let there = self.nodes[peer].process.as_ref().expect("it runs");
            let (boot, other) = (there.boot, there.number);
            let is_founded = there.replica().configuration().is_some();
            let last_index = there.replica().durable_index();
            let process = self.process_number(node).expect("it runs");
            let input = Input::LinkUp { peer, connection, boot, last_index, is_founded };
            self.queue.add(at, Event::Arrive { node, process, input, other });
        }
    }

    fn is_paused(&self, node: usize) -> bool {
        self.nodes[node].process.as_ref().is_some_and(|process| process.schedule.paused_until > self.now)
    }

    /// One end of a connection finds out that it is lost.
    pub(super) fn lose_link_end(
        &mut self,
        node: usize,
        peer: usize,
        connection: Connection,
        after: Duration,
    ) {
        if let Some(process) = self.process_number(node) {
            let input = Input::LinkDown { peer, connection };
            self.queue.add(self.now + after, Event::Arrive { node, process, input, other: 0 });
        }
    }

    /// A connection is reset; both ends find out soon.
    pub(super) fn reset_link(&mut self, one: usize, other: usize) {
        if self.is_bytes() {
            return self.cut_pipes(one, |site| site == other);
        }
        for (node, peer) in [(one, other), (other, one)] {
            if let Some(connection) = self.link_between(node, peer) {
                let after = self.network.latency();
                self.lose_link_end(node, peer, connection, after);
            }
        }
    }

    /// A message leaves over the link that its sender has, and is taken by a receiver that has the
    /// same.
    pub(super) fn send_to_peer(&mut self, node: usize, to: usize, bytes: Bytes, depart: Instant) {
        let Some(connection) = self.link_between(node, to) else { return };
        let Some(process) = self.process_number(to) else { return };
        for at in self.network.send(node, to, depart).into_iter().flatten() {
            let input = Input::Peer { from: node, connection, bytes: bytes.clone() };
            self.queue.add(at, Event::Arrive { node: to, process, input, other: 0 });
        }
    }

    /// Cuts ways. Some of the ends that can hear each other no more find out after a while.
    pub(super) fn block(&mut self, ways: &[(usize, usize)]) {
        self.trace.line(self.now, || format!("cut: {}", shown(ways)));
        for (from, to) in ways.iter().copied() {
            self.network.block(from, to);
            if from.max(to) < self.plan.nodes
                && self.streams.faults.chance(500_000)
                && let Some(connection) = self.link_between(to, from)
            {
                let after = self.streams.faults.duration(Duration::from_millis(50), Duration::from_secs(3));
                self.lose_link_end(to, from, connection, after);
            }
        }
    }

    /// Opens ways again.
    pub(super) fn unblock(&mut self, ways: &[(usize, usize)]) {
        self.trace.line(self.now, || format!("open: {}", shown(ways)));
        for (from, to) in ways.iter().copied() {
            self.network.unblock(from, to);
            if from.max(to) < self.plan.nodes && !self.is_bytes() {
                let after = self.network.latency() * 3;
                self.queue.add(self.now + after, Event::Dial { one: from, other: to });
            }
        }
        self.release_held(false);
    }
}

fn shown(ways: &[(usize, usize)]) -> String {
    let ways: Vec<String> = ways.iter().map(|(from, to)| format!("{}>{}", from + 1, to + 1)).collect();
    ways.join(" ")
}
