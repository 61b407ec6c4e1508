//! What goes wrong, and for how long.

use kvstore::time::{Duration, Instant};

use kvstore::wire::client::{Request, RequestBody, RoleName};

use super::{Event, Phase, World};
use crate::sim::disk::{self, End};
use crate::sim::node::id_of;
use crate::sim::plan::{DueFault, Fault};

impl World {
    pub(super) fn schedule_fault(&mut self, fault: Fault, mean: Duration) {
        let at = self.now + self.streams.faults.around(mean);
        // Where faults are fixed this was drawn for the sake of the draws that follow.
        if at < Instant::ZERO + self.plan.turmoil && self.plan.faults.fixed.is_none() {
            self.queue.add(at, Event::Fault(fault));
        }
    }

    /// Faults of an earlier run come at their moments again.
    pub(super) fn schedule_fixed_faults(&mut self) {
        let end = Instant::ZERO + self.plan.turmoil;
        for due in self.plan.faults.fixed.iter().flatten().filter(|due| due.at < end) {
            self.queue.add(due.at, Event::FixedFault(Box::new(due.clone())));
        }
    }

    /// A fault draws what it drew in the earlier run, whatever became of those before it.
    pub(super) fn on_fixed_fault(&mut self, due: Box<DueFault>) {
        if self.phase != Phase::Turmoil {
            return;
        }
        if self.must_wait(due.fault) {
            return self.queue.add(self.now + self.plan.timing.heartbeat, Event::FixedFault(due));
        }
        self.streams.faults = due.draws.clone();
        self.bring_about(due.fault, due.number);
    }

    fn must_wait(&self, fault: Fault) -> bool {
        fault == Fault::PowerCutInSnapshot && self.writers_of_snapshots().is_empty()
    }

    pub(super) fn on_fault(&mut self, fault: Fault) {
        if self.phase != Phase::Turmoil {
            return;
        }
        if self.must_wait(fault) {
            return self.queue.add(self.now + self.plan.timing.heartbeat, Event::Fault(fault));
        }
        self.bring_about(fault, self.trace.faults.len() as u64 + 1);
    }

    fn bring_about(&mut self, fault: Fault, number: u64) {
        let draws = self.streams.faults.clone();
        self.trace.faults.push(DueFault { number, at: self.now, fault, draws });
        self.schedule_fault(fault, self.plan.faults.means[&fault]);
        self.trace.line(self.now, || format!("fault {number}: {fault:?}"));
        self.trace.note(self.now, &[5, fault as u64]);
        self.stats.on_fault(fault);
        let node = self.streams.faults.index(self.plan.nodes);
        let all = 0..self.plan.nodes;
        match fault {
            Fault::Kill => self.end_process(node, End::Kill),
            Fault::PowerCut => self.end_process(node, End::PowerCut),
            Fault::KillAll => all.for_each(|node| self.end_process(node, End::Kill)),
            Fault::PowerCutAll => all.for_each(|node| self.end_process(node, End::PowerCut)),
            Fault::PowerCutInWrite => {
                let operation = self.streams.faults.below(6);
                self.nodes[node].disk.set_fault(disk::Fault::Crash(operation));
            }
            Fault::PowerCutInSnapshot => {
                let writers = self.writers_of_snapshots();
                let operation = self.streams.faults.below(24);
                self.nodes[self.streams.faults.pick(&writers)].disk.set_fault(disk::Fault::Crash(operation));
            }
            Fault::DiskError => self.fail_disk(node),
            Fault::Damage => self.check_damage(node),
            Fault::DiskStall => {
                let until = self.now + self.how_long();
                let slow = self.plan.timing.election_max * 2;
                self.nodes[node].slow_until = (until, slow);
            }
            Fault::FullDisk => self.fill_disk(node),
            Fault::Pause => {
                let until = self.now + self.how_long();
                self.pause(node, until);
            }
            Fault::ClockJump => {
                // A client's id that is a session's lifetime ahead of the log was made up.
                let by = self.how_long().min(self.plan.caps.sessions.lifetime / 2);
                self.jump_clock(node, by);
            }
            Fault::Isolate | Fault::Split | Fault::Bridge | Fault::Ring | Fault::OneWay => {
                let ways = self.ways_of(fault, node);
                let until = self.now + self.how_long();
                self.block(&ways);
                self.queue.add(until, Event::Unblock(ways));
            }
            Fault::Swizzle => self.swizzle(),
            Fault::LeaderCut => self.cut_leader(),
            Fault::Lag => {
                let other = self.streams.faults.index(self.plan.nodes);
                self.lag((node, other));
            }
            Fault::Reset => {
                let other = self.streams.faults.index(self.plan.nodes);
                self.reset_link(node, other);
            }
            Fault::ResetClients => self.reset_clients_of(node),
            Fault::Leave => self.tell_to_leave(node),
            Fault::ClientExit => {
                let client = self.streams.faults.index(self.plan.clients.count);
                self.end_client(client);
            }
            of_sockets => self.on_socket_fault(of_sockets, node),
        }
    }

    /// A disk fails one of its next operations, or its next sync, and often takes its machine along.
    fn fail_disk(&mut self, node: usize) {
        let rng = &mut self.streams.faults;
        let fault = match rng.chance(500_000) {
            true => disk::Fault::Once(rng.below(6)),
            false => disk::Fault::NextSync,
        };
        self.nodes[node].disk.set_fault(fault);
        if rng.chance(500_000) {
            let after = rng.duration(Duration::ZERO, Duration::from_millis(60));
            self.queue.add(self.now + after, Event::PowerCut { node });
        }
    }

    /// So little is left of a disk that its node keeps it in reserve, or not even that.
    fn fill_disk(&mut self, node: usize) {
        let left = self.streams.faults.below(6 * self.plan.disk.segment_bytes);
        let until = self.now + self.how_long();
        self.nodes[node].disk.leave_free(left);
        self.queue.add(until, Event::FreeDisk { node });
    }

    /// The nodes that write a snapshot of their own or receive one.
    fn writers_of_snapshots(&self) -> Vec<usize> {
        let is_writer = |node: &usize| {
            let node = &self.nodes[*node];
            node.process.is_some() && node.disk.has_unfinished_snapshot()
        };
        (0..self.plan.nodes).filter(is_writer).collect()
    }

    /// How long a fault lasts: often short, at times very long.
    pub(super) fn how_long(&mut self) -> Duration {
        let longest = self.plan.longest_fault;
        let longest = if self.streams.faults.chance(600_000) { longest / 8 } else { longest };
        self.streams.faults.duration(Duration::from_millis(1), longest)
    }

    pub(super) fn pause(&mut self, node: usize, until: Instant) {
        if let Some(process) = &mut self.nodes[node].process {
            process.schedule.paused_until = process.schedule.paused_until.max(until);
        }
    }

    fn jump_clock(&mut self, node: usize, by: Duration) {
        if let Some(process) = &mut self.nodes[node].process {
            process.clock.jump(by);
            self.schedule_turn(node, self.now);
        }
    }

    fn tell_to_leave(&mut self, node: usize) {
        if let Some(process) = self.process_number(node) {
            self.queue.add(self.now, Event::Leave { node, process });
        }
    }

    /// The ways that a partition cuts. Clients stay with some of the nodes.
    fn ways_of(&mut self, fault: Fault, node: usize) -> Vec<(usize, usize)> {
        let nodes = self.plan.nodes;
        let sites = nodes + self.plan.clients.count;
        let rng = &mut self.streams.faults;
        let sides: Vec<bool> = (0..sites).map(|_| rng.chance(500_000)).collect();
        let clients_too = rng.chance(500_000);
        let outwards = rng.chance(500_000);
        let distance = |a: usize, b: usize| (a.abs_diff(b)).min(nodes - a.abs_diff(b));
        let is_cut = |from: usize, to: usize| {
            let is_client = from.max(to) >= nodes;
            match fault {
                Fault::Isolate if is_client => clients_too && sides[from.max(to)] && from.min(to) == node,
                Fault::Isolate => from == node || to == node,
                Fault::Split => (!is_client || clients_too) && sides[from] != sides[to],
                Fault::Bridge => !is_client && from != node && to != node && sides[from] != sides[to],
                Fault::Ring => !is_client && distance(from, to) > 1,
                _ => {
                    !is_client && if outwards { from == node } else { to == node } && sides[from + to - node]
                }
            }
        };
        let pairs = (0..sites).flat_map(|from| (0..sites).map(move |to| (from, to)));
        let ways = pairs.filter(|(from, to)| from != to && (*from < nodes || *to < nodes));
        ways.filter(|(from, to)| is_cut(*from, *to)).collect()
    }

    fn lag(&mut self, way: (usize, usize)) {
        let (until, by) = (self.now + self.how_long(), self.how_long());
        self.trace.line(self.now, || format!("late by {by:?}: {}>{}", way.0 + 1, way.1 + 1));
        self.network.delay(way, until, by);
    }

    /// The leader goes on for a while with most of the clients and a minority that it hears late;
    /// then an operator wants it to lead again.
    fn cut_leader(&mut self) {
        let leader = self.leader().unwrap_or_else(|| self.streams.faults.index(self.plan.nodes));
        let others: Vec<usize> = (0..self.plan.nodes).filter(|node| *node != leader).collect();
        let friends: Vec<usize> =
            self.streams.faults.shuffled(&others).into_iter().take(others.len() / 4).collect();
        let sites = self.plan.nodes + self.plan.clients.count;
        let is_near: Vec<bool> = (0..sites)
            .map(|site| match site < self.plan.nodes {
                true => site == leader || friends.contains(&site),
                false => self.streams.faults.chance(800_000),
            })
            .collect();
        let pairs = (0..sites).flat_map(|from| (0..sites).map(move |to| (from, to)));
        let ways: Vec<(usize, usize)> = pairs.filter(|(from, to)| is_near[*from] != is_near[*to]).collect();
        let patience = self.plan.timing.election_max;
        let until = self.now + self.streams.faults.duration(patience / 2, patience * 3);
        for friend in friends {
            let by = self.streams.faults.duration(patience, patience * 8);
            self.network.delay((friend, leader), until, by);
        }
        self.block(&ways);
        self.queue.add(until, Event::Unblock(ways));
        let body = RequestBody::Transfer { to: id_of(leader) };
        let request = Request { id: 1, time_left_ms: 1, silent_leader: None, body };
        let end = Instant::ZERO + self.plan.turmoil;
        for at in (1..8).map(|step| until + patience / 2 * step).filter(|at| *at < end) {
            others.iter().for_each(|node| {
                self.queue.add(at, Event::Operator { node: *node, request: request.clone() })
            });
        }
    }

    /// The leader of the highest term.
    fn leader(&self) -> Option<usize> {
        let raft = |node: &usize| Some(self.nodes[*node].process.as_ref()?.replica().raft());
        let leads = |node: &usize| raft(node).is_some_and(|raft| raft.role_name() == RoleName::Leader);
        (0..self.plan.nodes).filter(leads).max_by_key(|node| raft(node).map(kvstore::raft::Raft::term))
    }

    /// Cuts the links of some nodes one by one, and opens them in another order.
    fn swizzle(&mut self) {
        let all: Vec<usize> = (0..self.plan.nodes).collect();
        let count = self.streams.faults.between(1, self.plan.nodes as u64) as usize;
        let chosen: Vec<usize> = self.streams.faults.shuffled(&all).into_iter().take(count).collect();
        let step = self.how_long() / 4;
        let ways_of = |node: usize| -> Vec<(usize, usize)> {
            let others = all.iter().copied().filter(|other| *other != node);
            others.flat_map(|other| [(node, other), (other, node)]).collect()
        };
        let mut at = self.now;
        for node in &chosen {
            at += self.streams.faults.around(step.max(Duration::from_millis(1)));
            self.queue.add(at, Event::Block(ways_of(*node)));
        }
        for node in self.streams.faults.shuffled(&chosen) {
            at += self.streams.faults.around(step.max(Duration::from_millis(1)));
            self.queue.add(at, Event::Unblock(ways_of(node)));
        }
    }
}
