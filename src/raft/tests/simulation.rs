//! A cluster in time: a network that loses, doubles and delays, disks that take their time, and
//! faults. Everything is drawn from one seed.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::{Cluster, Flight};
use crate::time::{Duration, Instant};
use crate::types::NodeId;

/// How bad it gets in one run. Each is drawn by the seed, and often is none.
#[derive(Debug)]
pub(super) struct Weather {
    pub(super) nodes: u64,
    /// Of a hundred messages.
    pub(super) lost: u32,
    pub(super) doubled: u32,
    pub(super) latency_max_ms: u64,
    pub(super) disk_min_ms: u64,
    pub(super) disk_max_ms: u64,
    /// Mean time between two faults.
    fault_every_ms: u64,
    crashes: bool,
    cuts: bool,
    breaks: bool,
    transfers: bool,
}

impl Weather {
    fn draw(rng: &mut StdRng) -> Self {
        let some = |rng: &mut StdRng, values: &[u64]| values[rng.random_range(0..values.len())];
        Self {
            nodes: some(rng, &[1, 3, 3, 3, 3, 5, 5]),
            lost: some(rng, &[0, 0, 2, 20]) as u32,
            doubled: some(rng, &[0, 0, 5, 30]) as u32,
            latency_max_ms: some(rng, &[1, 2, 10, 60]),
            disk_min_ms: 0,
            disk_max_ms: some(rng, &[0, 2, 10, 100]),
            fault_every_ms: some(rng, &[20, 60, 200]),
            crashes: rng.random_bool(0.8),
            cuts: rng.random_bool(0.6),
            breaks: rng.random_bool(0.6),
            transfers: rng.random_bool(0.5),
        }
    }
}

/// What will happen at some moment.
#[derive(Debug)]
enum Happening {
    Arrives(Flight),
    DiskIsDone {
        id: NodeId,
        boot: u64,
    },
    LinkGoesDown {
        id: NodeId,
        peer: NodeId,
    },
    LinkComesUp {
        id: NodeId,
        peer: NodeId,
    },
    /// Evidence that the process that `peer` ran as `boot` is dead.
    PeerIsDead {
        id: NodeId,
        peer: NodeId,
        boot: u64,
    },
    Restarts(NodeId),
    Heals,
    TurnEnds {
        id: NodeId,
        boot: u64,
    },
}

/// What waits for a node that is busy writing.
#[derive(Debug)]
enum Input {
    Message(Flight),
    LinkDown(NodeId),
    LinkUp(NodeId),
    PeerDead(NodeId),
}

pub(super) struct Simulation {
    pub(super) cluster: Cluster,
    pub(super) rng: StdRng,
    pub(super) weather: Weather,
    queue: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    waiting: BTreeMap<NodeId, VecDeque<Input>>,
    proposals: u64,
}

impl Simulation {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let weather = Weather::draw(&mut rng);
        Self::with(rng, weather)
    }

    fn with(rng: StdRng, weather: Weather) -> Self {
        let small = |config: &mut crate::raft::Config| {
            config.max_append_bytes = 100;
            config.window_messages = 3;
            config.max_uncommitted_bytes = 2000;
        };
        let mut cluster = Cluster::founded(weather.nodes, small);
        if std::env::var_os("RAFT_SEED").is_some() {
            println!("{weather:?}");
            cluster.begin_report();
        }
        let waiting = cluster.ids().into_iter().map(|id| (id, VecDeque::new())).collect();
        Self { cluster, rng, weather, queue: BTreeMap::new(), sequence: 0, waiting, proposals: 0 }
    }

    /// A cluster of `nodes` without any fault: a local network, quick disks.
    pub(super) fn calm(seed: u64, nodes: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let drawn = Weather::draw(&mut rng);
        let weather = Weather {
            nodes,
            lost: 0,
            doubled: 0,
            latency_max_ms: 1,
            disk_min_ms: 1,
            disk_max_ms: 4,
            ..drawn
        };
        Self::with(rng, weather)
    }

    fn schedule(&mut self, after_ms: u64, happening: Happening) {
        self.sequence += 1;
        // Not all at whole milliseconds, so that orders differ.
        let jitter = Duration::from_micros(self.rng.random_range(0..1000));
        let at = self.cluster.now + Duration::from_millis(after_ms) + jitter;
        self.queue.insert((at, self.sequence), happening);
    }

    pub(super) fn up_to(&mut self, max: u64) -> u64 {
        self.rng.random_range(0..=max)
    }

    pub(super) fn percent(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    pub(super) fn pick(&mut self, ids: &[NodeId]) -> Option<NodeId> {
        (!ids.is_empty()).then(|| ids[self.rng.random_range(0..ids.len())])
    }

    /// Lets everything happen until `end`.
    pub(super) fn run_until(&mut self, end: Instant, faults: bool) {
        let mut next_fault = self.cluster.now;
        let mut next_client = self.cluster.now;
        loop {
            let deadlines = self.cluster.running().into_iter().filter(|id| !self.cluster.is_writing(*id));
            let tick = deadlines.map(|id| (self.cluster.raft(id).next_deadline(), id)).min();
            let tick_at = tick.map_or(Instant::MAX, |(at, _)| at.max(self.cluster.now));
            let queued_at = self.queue.first_key_value().map_or(Instant::MAX, |((at, _), _)| *at);
            let fault_at = if faults { next_fault } else { Instant::MAX };
            let at = tick_at.min(queued_at).min(fault_at).min(next_client);
            if at > end {
                self.cluster.now = end;
                return;
            }
            self.cluster.now = self.cluster.now.max(at);
            let now = self.cluster.now;
            self.cluster.say(|| format!("--- {now}"));
            if at == queued_at {
                let (_, happening) = self.queue.pop_first().expect("the first was just seen");
                self.happen(happening);
            } else if at == tick_at {
                let (_, id) = tick.expect("a tick is due");
                self.cluster.tick(id);
                self.end_turn(id);
            } else if at == fault_at {
                self.fault();
                let pause = self.up_to(self.weather.fault_every_ms * 2);
                next_fault += Duration::from_millis(pause);
            } else {
                self.client();
                let pause = self.up_to(40);
                next_client += Duration::from_millis(pause);
            }
            for line in self.cluster.take_report() {
                println!("{line}");
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        let (id, input) = match happening {
            Happening::Arrives(flight) => (flight.to, Input::Message(flight)),
            Happening::LinkGoesDown { id, peer } => (id, Input::LinkDown(peer)),
            Happening::LinkComesUp { id, peer } => {
                let is_cut =
                    self.cluster.cuts.contains(&(id, peer)) || self.cluster.cuts.contains(&(peer, id));
                if is_cut || self.cluster.node(peer).raft.is_none() {
                    return;
                }
                (id, Input::LinkUp(peer))
            }
            Happening::PeerIsDead { id, peer, boot } => {
                let node = self.cluster.node(peer);
                assert!(node.boots > boot || node.raft.is_none(), "false evidence");
                (id, Input::PeerDead(peer))
            }
            Happening::DiskIsDone { id, boot } => {
                if self.cluster.node(id).boots == boot && self.cluster.is_writing(id) {
                    self.cluster.advance(id);
                    self.dispatch();
                    self.catch_up(id);
                }
                return;
            }
            Happening::TurnEnds { id, boot } => {
                if self.cluster.node(id).boots == boot && self.cluster.node(id).raft.is_some() {
                    self.end_turn(id);
                }
                return;
            }
            Happening::Restarts(id) => return self.restart(id),
            Happening::Heals => {
                self.cluster.cuts.clear();
                return self.reconnect();
            }
        };
        if let Input::Message(flight) = &input
            && self.cluster.cuts.contains(&(flight.from, flight.to))
        {
            return;
        }
        if self.cluster.node(id).raft.is_none() {
            return;
        }
        if self.cluster.is_writing(id) {
            self.waiting.get_mut(&id).unwrap().push_back(input);
        } else {
            self.take(id, input);
            // Often several messages are read in one turn.
            if self.percent(20) {
                let boot = self.cluster.node(id).boots;
                self.schedule(0, Happening::TurnEnds { id, boot });
            } else {
                self.end_turn(id);
            }
        }
    }

    fn take(&mut self, id: NodeId, input: Input) {
        match input {
            Input::Message(flight) => self.cluster.deliver(flight),
            Input::LinkDown(peer) => self.cluster.link_down(id, peer),
            Input::LinkUp(peer) => self.cluster.link_up(id, peer),
            Input::PeerDead(peer) => self.cluster.peer_dead(id, peer),
        }
    }

    /// After a write: first all that came in meanwhile, then what is due.
    fn catch_up(&mut self, id: NodeId) {
        while let Some(input) = self.waiting.get_mut(&id).unwrap().pop_front() {
            self.take(id, input);
        }
        self.cluster.tick(id);
        self.end_turn(id);
    }

    /// Works off what a turn left to do, until the disk is needed.
    fn end_turn(&mut self, id: NodeId) {
        for _ in 0..1000 {
            if !self.cluster.has_ready(id) {
                return;
            }
            let must_write = {
                let log = self.cluster.raft(id).log();
                log.stable() < log.last_index()
                    || self.cluster.raft(id).hard_state() != self.cluster.node(id).disk.hard_state
            };
            self.cluster.ready(id);
            self.dispatch();
            let latency = self.rng.random_range(self.weather.disk_min_ms..=self.weather.disk_max_ms);
            if must_write && latency > 0 {
                let boot = self.cluster.node(id).boots;
                return self.schedule(latency, Happening::DiskIsDone { id, boot });
            }
            self.cluster.advance(id);
            self.dispatch();
        }
        panic!("node {id} always has something to do");
    }

    /// Puts what was sent on its way, or loses it.
    fn dispatch(&mut self) {
        for flight in std::mem::take(&mut self.cluster.network) {
            let copies = match (self.percent(self.weather.lost), self.percent(self.weather.doubled)) {
                (true, _) => 0,
                (false, true) => 2,
                (false, false) => 1,
            };
            for _ in 0..copies {
                let latency = self.up_to(self.weather.latency_max_ms);
                self.schedule(latency, Happening::Arrives(flight.clone()));
            }
        }
    }

    fn fault(&mut self) {
        let running = self.cluster.running();
        let Some(id) = self.pick(&running) else { return };
        match self.up_to(3) {
            0 if self.weather.crashes => self.crash(id),
            1 if self.weather.cuts => self.cut(id),
            2 if self.weather.breaks => {
                let peers: Vec<NodeId> = running.into_iter().filter(|peer| *peer != id).collect();
                if let Some(peer) = self.pick(&peers) {
                    self.break_link(id, peer);
                    self.break_link(peer, id);
                }
            }
            3 if self.weather.transfers && !self.cluster.is_writing(id) => {
                let to = NodeId(1 + self.up_to(self.weather.nodes - 1));
                let _ = self.cluster.transfer(id, to);
                self.end_turn(id);
            }
            _ => {}
        }
    }

    /// One end learns that the link is gone, and soon that there is a new one.
    fn break_link(&mut self, id: NodeId, peer: NodeId) {
        let (down, up) = (self.up_to(30), self.up_to(60));
        self.schedule(down, Happening::LinkGoesDown { id, peer });
        self.schedule(down + 1 + up, Happening::LinkComesUp { id, peer });
    }

    pub(super) fn crash(&mut self, id: NodeId) {
        let with_hard_state = self.percent(50);
        let entries = self.cluster.entries_being_written(id) as u64;
        // A write goes from front to back: no entry without the hard state before it.
        let count = if with_hard_state { self.up_to(entries) } else { 0 };
        self.cluster.crash_keeping(id, with_hard_state, usize::try_from(count).unwrap());
        self.waiting.get_mut(&id).unwrap().clear();
        let boot = self.cluster.node(id).boots;
        for peer in self.cluster.running() {
            if self.percent(70) {
                let down = self.up_to(10);
                self.schedule(down, Happening::LinkGoesDown { id: peer, peer: id });
                if self.percent(70) {
                    let proof = down + 1 + self.up_to(20);
                    self.schedule(proof, Happening::PeerIsDead { id: peer, peer: id, boot });
                }
            }
        }
        let downtime = self.up_to(600);
        self.schedule(downtime, Happening::Restarts(id));
    }

    /// Ends a node's process for good; its peers see at once that the link is lost, and, with
    /// evidence, soon that its redial is refused.
    pub(super) fn kill(&mut self, id: NodeId, with_evidence: bool) {
        let boot = self.cluster.node(id).boots;
        self.cluster.crash(id);
        for peer in self.cluster.running() {
            if with_evidence {
                let proof = self.up_to(1);
                self.schedule(0, Happening::LinkGoesDown { id: peer, peer: id });
                self.schedule(1 + proof, Happening::PeerIsDead { id: peer, peer: id, boot });
            }
        }
    }

    fn restart(&mut self, id: NodeId) {
        if self.cluster.node(id).raft.is_some() {
            return;
        }
        self.cluster.start(id);
        let boot = self.cluster.node(id).boots;
        for peer in self.cluster.running().into_iter().filter(|peer| *peer != id) {
            let at = 1 + self.up_to(10);
            self.schedule(at, Happening::LinkComesUp { id, peer });
            // Its peers see the higher boot number in its handshake.
            self.schedule(at, Happening::LinkGoesDown { id: peer, peer: id });
            self.schedule(at + 1, Happening::PeerIsDead { id: peer, peer: id, boot: boot - 1 });
            self.schedule(at + 2, Happening::LinkComesUp { id: peer, peer: id });
        }
    }

    fn cut(&mut self, id: NodeId) {
        for peer in self.cluster.ids().into_iter().filter(|peer| *peer != id) {
            if self.percent(60) {
                if self.percent(80) {
                    self.cluster.cuts.insert((id, peer));
                }
                if self.percent(80) {
                    self.cluster.cuts.insert((peer, id));
                }
            }
        }
        let lasts = self.up_to(800);
        self.schedule(lasts, Happening::Heals);
    }

    fn reconnect(&mut self) {
        for id in self.cluster.running() {
            for peer in self.cluster.running().into_iter().filter(|peer| *peer != id) {
                let at = self.up_to(20);
                self.schedule(at, Happening::LinkComesUp { id, peer });
            }
        }
    }

    fn client(&mut self) {
        let running = self.cluster.running();
        let Some(id) = self.pick(&running) else { return };
        if self.cluster.is_writing(id) {
            return;
        }
        if self.percent(50) {
            self.cluster.read(id);
        } else {
            self.proposals += 1;
            let command = format!("c{}", self.proposals);
            let _ = self.cluster.propose(id, &command);
        }
        self.end_turn(id);
    }

    /// No more faults, but for directions that stay cut for ever.
    pub(super) fn calm_down(&mut self, lasting: &[(NodeId, NodeId)]) {
        self.weather.lost = 0;
        self.weather.doubled = 0;
        self.weather.latency_max_ms = 2;
        self.weather.disk_max_ms = self.weather.disk_max_ms.min(2);
        self.queue.retain(|_, happening| !matches!(happening, Happening::Heals));
        for id in self.cluster.ids() {
            self.restart(id);
        }
        self.cluster.cuts = lasting.iter().copied().collect();
        self.reconnect();
    }

    /// One leader, whose term stays; all that it can talk to have and apply its log; no read waits.
    pub(super) fn expect_rest(&mut self, lasting: &[(NodeId, NodeId)]) {
        self.run_until(self.cluster.now + Duration::from_secs(3), false);
        let leader = self.cluster.leader().expect("a healed cluster has a leader");
        let term = self.cluster.raft(leader).term();
        let committed = self.cluster.checks.committed_index();
        self.cluster.propose(leader, "last").expect("a leader at rest takes proposals");
        self.end_turn(leader);
        self.run_until(self.cluster.now + Duration::from_secs(1), false);
        assert_eq!(self.cluster.raft(leader).term(), term, "the term of a healed cluster stays");
        assert_eq!(self.cluster.leader(), Some(leader), "so does its leader");
        assert!(self.cluster.checks.committed_index() > committed, "proposals are committed");
        let is_cut = |a, b| lasting.contains(&(a, b)) || lasting.contains(&(b, a));
        let joined: Vec<NodeId> = self.cluster.ids().into_iter().filter(|id| !is_cut(*id, leader)).collect();
        self.drain(&joined);
        let last = self.cluster.raft(leader).log().last_index();
        assert_eq!(self.cluster.raft(leader).log().uncommitted_bytes(), 0, "nothing is left to commit");
        for id in joined {
            let raft = self.cluster.raft(id);
            assert_eq!((raft.term(), raft.leader()), (term, Some(leader)), "n{id} follows");
            assert_eq!(raft.log().applied(), last, "n{id} applied everything");
            assert_eq!(self.cluster.checks.open_reads(id), 0, "n{id} has no read left");
        }
    }

    /// Nobody asks for anything any more; what is under way arrives.
    fn drain(&mut self, joined: &[NodeId]) {
        let end = self.cluster.now + Duration::from_millis(300);
        while self.cluster.now < end {
            let tick = |id: &NodeId| !self.cluster.is_writing(*id);
            let ids: Vec<NodeId> = self.cluster.running().into_iter().filter(tick).collect();
            let deadline = ids.iter().map(|id| (self.cluster.raft(*id).next_deadline(), *id)).min();
            let (deadline, id) = deadline.unwrap_or((Instant::MAX, joined[0]));
            let queued = self.queue.first_key_value().map_or(Instant::MAX, |((at, _), _)| *at);
            self.cluster.now = self.cluster.now.max(deadline.min(queued).min(end));
            if queued <= self.cluster.now {
                let (_, happening) = self.queue.pop_first().expect("the first was just seen");
                self.happen(happening);
            } else if deadline <= self.cluster.now {
                self.cluster.tick(id);
                self.end_turn(id);
            }
        }
    }
}
