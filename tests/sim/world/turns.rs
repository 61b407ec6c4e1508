//! Processes: started, taking turns, ended.

use kvstore::storage::OpenError;
use kvstore::time::{Duration, Instant};
use kvstore::types::{ClusterId, Incarnation};
use kvstore::wire::entry::{Configuration, Member};

use super::{Event, Phase, ToClient, World};
use crate::sim::checker::violated;
use crate::sim::clock::LocalClock;
use crate::sim::disk::End;
use crate::sim::message_node::Input;
use crate::sim::node::{Connection, Engine, Sent, Start, TurnEffects, id_of};
use crate::sim::pipe_plan::SocketFault;
use crate::sim::plan::Fault;

impl World {
    /// A node gets its process.
    pub(super) fn start(&mut self, node: usize) {
        self.nodes[node].is_on = true;
        if self.nodes[node].process.is_some() {
            return;
        }
        let ppm = self.plan.clock_error_ppm;
        let rate = 1_000_000 - ppm + self.streams.starts.between(0, 2 * ppm);
        let origin = Instant::from_millis(self.streams.starts.pick(&[0, 0, 1 << 31, 1 << 42]));
        let start = Start {
            number: self.take_number(),
            timing: self.plan.timing,
            caps: self.plan.caps,
            snapshots: self.plan.snapshots,
            segment_bytes: self.plan.disk.segment_bytes,
            seed: self.streams.starts.u64(),
            clock: LocalClock::new(self.now, origin, rate),
            pipes: self.is_bytes().then(|| {
                let limits = self.plan.pipes.limits(&self.plan.caps, &self.plan.snapshots);
                (self.network.pipes.clone(), self.plan.nodes, limits)
            }),
        };
        self.network.pipes.set_power(node, true);
        self.trace.speaker(Some((self.now, node)));
        let result = self.nodes[node].start(self.now, start);
        match result {
            Ok(recovered) => {
                let (boot, entries) = (recovered.boot, recovered.entries.len());
                self.trace.line(self.now, || {
                    format!(
                        "node {} starts, boot {boot}, {entries} entries, {:?}",
                        node + 1,
                        recovered.hard_state
                    )
                });
                self.trace.note(self.now, &[1, node as u64, boot.0, entries as u64]);
                self.checker.on_start(node, &recovered);
                self.schedule_turn(node, self.now);
                if self.is_bytes() {
                    self.open_door(node);
                } else {
                    self.dial_others(node);
                }
            }
            Err(error @ (OpenError::Read { .. } | OpenError::Write(_))) => {
                self.trace.line(self.now, || format!("node {} does not start: {error}", node + 1));
                self.nodes[node].disk.end_process(End::PowerCut);
                self.queue.add(self.now + Duration::from_millis(50), Event::Start { node });
            }
            Err(error) => violated!("a sound disk is not refused", "node {}: {error}", node + 1),
        }
    }

    /// Something arrives at a process. `other` is the process at the other end of a new link.
    pub(super) fn on_arrival(&mut self, node: usize, number: u64, input: Input, other: u64) {
        let Some(process) = self.nodes[node].process.as_mut().filter(|process| process.number == number)
        else {
            return;
        };
        let link = match input {
            Input::LinkUp { peer, connection, .. } => Some((peer, connection)),
            _ => None,
        };
        let Engine::Messages(messages) = &mut process.engine else { return };
        messages.inbox.push(input);
        self.schedule_turn_when_free(node);
        if let Some((peer, connection)) = link
            && self.process_number(peer) != Some(other)
        {
            self.lose_link_end(node, peer, connection, Duration::from_millis(300));
        }
    }

    /// A process is told to leave.
    pub(super) fn on_leave(&mut self, node: usize, number: u64) {
        if let Some(process) = self.nodes[node].process.as_mut().filter(|process| process.number == number) {
            process.leave(process.clock.at(self.now));
            self.schedule_turn_when_free(node);
        }
    }

    /// Lets a process take a turn as soon as it can.
    pub(super) fn schedule_turn_when_free(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let at = self.now.max(process.schedule.busy_until).max(process.schedule.paused_until);
        self.schedule_turn(node, at);
    }

    /// Puts the next turn at `at`, or leaves it where it is if that is earlier.
    pub(super) fn schedule_turn(&mut self, node: usize, at: Instant) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.schedule.turn_at.is_none_or(|scheduled| at < scheduled) {
            process.schedule.turn_at = Some(at);
            self.queue.add(at, Event::Turn { node });
        }
    }

    pub(super) fn on_turn_due(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.schedule.turn_at != Some(self.now) {
            return; // it was put to another moment
        }
        process.schedule.turn_at = None;
        let free_at = process.schedule.busy_until.max(process.schedule.paused_until);
        if free_at > self.now {
            return self.schedule_turn(node, free_at);
        }
        self.take_turn(node);
    }

    fn take_turn(&mut self, node: usize) {
        self.interrupt_poll(node);
        let before = self.before_turn(node);
        self.trace.speaker(Some((self.now, node)));
        let effects = self.nodes[node].turn(self.now);
        self.trace.speaker(None);
        let replica = self.nodes[node].process.as_ref().expect("it runs").replica();
        let raft = replica.raft();
        let words = [2, node as u64, raft.term().0, raft.log().last_index().0, raft.log().committed().0];
        self.trace.note(self.now, &words);
        self.trace.note(self.now, &[replica.state().digest()]);
        if self.checker.on_turn(node, replica, &effects) && effects.failed.is_none() {
            self.on_snapshot(node);
        }
        self.check_leader_of(node, &before, &effects);
        let departures = self.departures(node, &effects);
        self.dispatch(node, &effects, &departures);
        self.launch(&departures);
        self.stats.faults.late_messages += effects.late;
        let end = *departures.last().expect("the turn ends after its last sync");
        let process = self.nodes[node].process.as_mut().expect("it runs");
        process.schedule.busy_until = end;
        if let Some(error) = &effects.failed {
            self.trace.line(self.now, || format!("node {} fails: {error}", node + 1));
            self.stats.on_fault(Fault::DiskError);
            let how = if self.streams.faults.chance(500_000) { End::PowerCut } else { End::Kill };
            self.end_process(node, how);
        } else if process.may_exit(process.clock.at(self.now)) {
            self.trace.line(self.now, || format!("node {} has left", node + 1));
            self.end_process(node, End::Kill);
        } else {
            if let Some(wake) = process.end_turn(process.clock.at(end)) {
                let at = end.max(process.clock.when(wake));
                self.schedule_turn(node, at);
            }
            self.found_if_all_met();
        }
    }

    /// A process that was stopped and goes on may find that its poll was interrupted.
    fn interrupt_poll(&mut self, node: usize) {
        let process = self.nodes[node].process.as_mut().expect("it runs");
        if let Engine::Bytes(bytes) = &mut process.engine
            && process.schedule.paused_until == self.now
            && self.streams.faults.chance(500_000)
        {
            bytes.is_interrupted = true;
            self.network.pipes.on_fault(SocketFault::InterruptedPoll);
        }
    }

    /// When what left after so many syncs is on its way: a turn's work takes time, its syncs most.
    fn departures(&mut self, node: usize, effects: &TurnEffects) -> Vec<Instant> {
        let disk = &self.plan.disk;
        let rng = &mut self.streams.disks;
        let work = 20 + 2 * (effects.sends.len() + effects.replies.len()) as u64;
        let mut at = self.now + Duration::from_micros(work);
        let mut departures = vec![at];
        for _ in 0..effects.syncs {
            at += rng.duration(disk.sync.0, disk.sync.1);
            if disk.slow_per_million > 0 && rng.chance(disk.slow_per_million) {
                at += rng.duration(Duration::ZERO, disk.slow);
            }
            let (slow_until, slow) = self.nodes[node].slow_until;
            if self.now < slow_until {
                at += rng.duration(Duration::ZERO, slow);
            }
            departures.push(at);
        }
        departures
    }

    fn dispatch(&mut self, node: usize, effects: &TurnEffects, departures: &[Instant]) {
        for (connection, welcome) in &effects.welcomes {
            let Some(end) = self.clients.ends.get(connection).copied() else { continue };
            let site = self.site_of(end.client);
            for at in self.network.send(node, site, departures[0]).into_iter().flatten() {
                let what = ToClient::Welcome(*connection, Box::new(welcome.clone()));
                self.queue
                    .add(at, Event::ToClient { client: end.client, life: end.life, link: end.link, what });
            }
        }
        for Sent { what: (to, message), syncs, bytes, .. } in &effects.sends {
            self.stats.on_message(bytes);
            self.trace.note_bytes(bytes);
            let depart = departures[*syncs as usize];
            self.trace.line(self.now, || {
                format!("node {} -> {}: {}", node + 1, to + 1, crate::sim::words::of_message(message))
            });
            if self.is_bytes() {
                continue;
            }
            if let Some(bytes) = self.network.trim(message) {
                self.send_to_peer(node, *to, bytes, depart);
            }
            self.send_to_peer(node, *to, bytes.clone(), depart);
        }
        for Sent { what: (connection, response), syncs, bytes, .. } in &effects.replies {
            self.trace.note_bytes(bytes);
            let Some(end) = self.clients.ends.get(connection).copied() else { continue };
            self.trace.line(self.now, || format!("node {} -> client {}: {response:?}", node + 1, end.client));
            let site = self.site_of(end.client);
            for at in self.network.send(node, site, departures[*syncs as usize]).into_iter().flatten() {
                let what = ToClient::Answer(bytes.clone());
                self.queue
                    .add(at, Event::ToClient { client: end.client, life: end.life, link: end.link, what });
            }
        }
        for peer in &effects.lost {
            let pause = self.network.latency() * 2;
            self.queue.add(self.now + pause, Event::Dial { one: node, other: *peer });
        }
    }

    /// The lowest id founds once every node has met every other and none belongs to a cluster.
    fn found_if_all_met(&mut self) {
        let others = self.plan.nodes - 1;
        let is_ready = |process: &crate::sim::node::Process| {
            let messages = process.messages().filter(|_| process.replica().configuration().is_none());
            messages.is_some_and(|messages| messages.links.len() == others)
        };
        if !self.nodes.iter().all(|node| node.process.as_ref().is_some_and(is_ready)) {
            return;
        }
        let member = |node: usize| Member { id: id_of(node), incarnation: Incarnation(1_000 + node as u64) };
        let members = (0..self.plan.nodes).map(member).collect();
        // The same one again if the first founding never reached a disk.
        let cluster = ClusterId(7);
        let configuration = Configuration::new(cluster, members).expect("distinct ids");
        let number = self.process_number(0).expect("it runs");
        self.queue.add(
            self.now,
            Event::Arrive { node: 0, process: number, input: Input::Found(configuration), other: 0 },
        );
    }

    /// A process ends, with or without its machine.
    pub(super) fn end_process(&mut self, node: usize, how: End) {
        let Some(process) = self.nodes[node].process.take() else { return };
        let has_power = how == End::Kill;
        self.nodes[node].disk.end_process(how);
        self.nodes[node].is_on = has_power;
        self.network.pipes.set_power(node, has_power);
        self.trace.line(self.now, || format!("node {} ends ({how:?})", node + 1));
        self.trace.note(self.now, &[3, node as u64, u64::from(how == End::Kill)]);
        let number = process.number;
        drop(process); // its sockets are closed
        if self.is_bytes() {
            self.close_door(node, has_power);
        } else {
            self.lose_connections_of(node, number, how);
        }
        let longest = match self.phase {
            Phase::Turmoil => self.plan.longest_fault,
            Phase::Liveness { .. } | Phase::Calm => Duration::from_millis(100),
        };
        let downtime = self.streams.faults.duration(Duration::from_millis(5), longest);
        self.queue.add(self.now + downtime, Event::Start { node });
    }

    /// Message mode: whoever was connected to a process learns that it ended.
    fn lose_connections_of(&mut self, node: usize, number: u64, how: End) {
        for other in 0..self.plan.nodes {
            if let Some(connection) = self.link_between(other, node) {
                let pause = self.notice_of_end(node, other, how);
                self.lose_link_end(other, node, connection, pause);
            }
        }
        let ends = self.clients.ends.iter().filter(|(_, end)| end.process == number);
        let connections: Vec<Connection> = ends.map(|(connection, _)| *connection).collect();
        for connection in connections {
            let end = self.clients.ends.remove(&connection).expect("it was just seen");
            let pause = self.notice_of_end(node, self.site_of(end.client), how);
            let what = ToClient::Lost("reset");
            let event = Event::ToClient { client: end.client, life: end.life, link: end.link, what };
            self.queue.add(self.now + pause, event);
        }
    }

    /// After how long the other end learns that a process ended: at once if the machine is there to
    /// say so, else when it has waited long enough.
    fn notice_of_end(&mut self, node: usize, site: usize, how: End) -> Duration {
        if how == End::Kill && self.network.is_open(node, site) {
            self.network.latency()
        } else {
            self.streams.faults.duration(Duration::from_millis(300), Duration::from_secs(4))
        }
    }
}
