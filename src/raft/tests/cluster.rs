//! Cores in a cluster of their own: a network of single messages, disks that keep exactly what was
//! written, and around every call into a node all that Raft promises (`checks.rs`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::checks::Checks;
use super::report::{self, Snapshot};
use crate::raft::{Config, Event, ProposeError, Raft, Ready, TransferError, invariants};
use crate::time::{Duration, Instant};
use crate::types::{ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Term};
use crate::wire::codec::Writer;
use crate::wire::entry::{Configuration, Entry, HardState, Member, Payload};
use crate::wire::peer::{Envelope, Message};

/// What a node finds again after a crash.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    pub(super) entries: Vec<Entry>,
}

impl Disk {
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        let offset = usize::try_from(index.0.checked_sub(1)?).ok()?;
        self.entries.get(offset).map(|entry| entry.term)
    }

    /// Keeps of a batch its hard state, if `with_hard_state`, and the first `count` entries: all of
    /// it, or what a crash in the middle leaves.
    fn write(&mut self, ready: &Ready, with_hard_state: bool, count: usize) {
        if let Some(hard_state) = ready.hard_state.filter(|_| with_hard_state) {
            let old = self.hard_state;
            let kept = old.term < hard_state.term
                || old == hard_state
                || (old.term == hard_state.term && old.voted_for.is_none());
            assert!(kept, "the disk's {old:?} is followed by {hard_state:?}");
            self.hard_state = hard_state;
        }
        for entry in ready.entries.iter().take(count) {
            self.entries.truncate(usize::try_from(entry.index.0 - 1).unwrap());
            self.entries.push(entry.clone());
        }
    }
}

/// One node: a process that runs, or only its disk.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) raft: Option<Raft>,
    pub(super) disk: Disk,
    pub(super) applied: Vec<Entry>,
    writing: Option<Ready>,
    /// How often it was started. Also the generation by which evidence of its death is true.
    pub(super) boots: u64,
}

/// A message under way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) message: Message,
}

/// The cluster. Nothing happens in it by itself, not even time.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) now: Instant,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// What was sent and is not delivered, oldest first.
    pub(super) network: Vec<Flight>,
    /// Directions in which nothing arrives.
    pub(super) cuts: BTreeSet<(NodeId, NodeId)>,
    /// Processes that are stopped: they do nothing, and what arrives waits for them.
    pub(super) stopped: BTreeSet<NodeId>,
    pub(super) checks: Checks,
    pub(super) events: Vec<(NodeId, Event)>,
    /// Changes to the default settings of each node.
    tune: fn(&mut Config),
    configuration: Configuration,
    /// The referee's report, if anybody reads it.
    report: Option<Vec<String>>,
}

impl Cluster {
    /// `count` nodes that run and belong to no cluster yet.
    pub(super) fn unfounded(count: u64, tune: fn(&mut Config)) -> Self {
        let ids = (1..=count).map(NodeId);
        let members = ids.clone().map(|id| Member { id, incarnation: Incarnation(id.0) }).collect();
        let mut cluster = Self {
            now: Instant::from_millis(1000),
            nodes: BTreeMap::new(),
            network: Vec::new(),
            cuts: BTreeSet::new(),
            stopped: BTreeSet::new(),
            checks: Checks::default(),
            events: Vec::new(),
            tune,
            configuration: Configuration::new(ClusterId(7), members).expect("ids are distinct"),
            report: None,
        };
        for id in ids {
            let node = Node { raft: None, disk: Disk::default(), applied: vec![], writing: None, boots: 0 };
            cluster.nodes.insert(id, node);
            cluster.start(id);
        }
        cluster
    }

    /// `count` nodes that run, linked to each other, each with the founding entry on its disk.
    pub(super) fn founded(count: u64, tune: fn(&mut Config)) -> Self {
        let mut cluster = Self::unfounded(count, tune);
        let founding = cluster.founding();
        for id in cluster.ids() {
            cluster.node_mut(id).disk.entries = vec![founding.clone()];
            cluster.crash(id);
            cluster.start(id);
        }
        cluster.link_all();
        cluster
    }

    /// From now on everything that happens is written down.
    pub(super) fn begin_report(&mut self) {
        self.report = Some(Vec::new());
    }

    /// What was written down since the last call.
    pub(super) fn take_report(&mut self) -> Vec<String> {
        self.report.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(report) = &mut self.report {
            report.push(line());
        }
    }

    /// The founding configuration as entry 1.
    pub(super) fn founding(&self) -> Entry {
        let payload = Payload::Configuration(self.configuration.clone());
        Entry::new(LogIndex(1), Term::ZERO, ClusterTime::ZERO, payload)
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn running(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.raft.is_some()).map(|(id, _)| *id).collect()
    }

    /// Those that run and are not stopped.
    fn awake(&self) -> Vec<NodeId> {
        self.running().into_iter().filter(|id| !self.stopped.contains(id)).collect()
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    /// The core of a node that runs.
    pub(super) fn raft(&self, id: NodeId) -> &Raft {
        self.node(id).raft.as_ref().unwrap_or_else(|| panic!("node {id} does not run"))
    }

    /// Starts a node from its disk.
    pub(super) fn start(&mut self, id: NodeId) {
        let (now, tune) = (self.now, self.tune);
        let node = self.node_mut(id);
        assert!(node.raft.is_none(), "node {id} runs already");
        node.boots += 1;
        node.applied.clear();
        let mut config = Config::new(id, id.0 * 1000 + node.boots);
        tune(&mut config);
        let Disk { hard_state, entries } = node.disk.clone();
        node.raft = Some(Raft::new(config, hard_state, entries, now));
        self.say(|| format!("n{id} starts"));
    }

    /// Ends a node's process. Its disk keeps what was written, and nothing of a batch under way.
    pub(super) fn crash(&mut self, id: NodeId) {
        self.crash_keeping(id, false, 0);
    }

    /// Ends a node's process in the middle of a write that got so far.
    pub(super) fn crash_keeping(&mut self, id: NodeId, with_hard_state: bool, count: usize) {
        let node = self.node_mut(id);
        assert!(node.raft.take().is_some(), "node {id} does not run");
        if let Some(ready) = node.writing.take() {
            node.disk.write(&ready, with_hard_state, count);
        }
        self.checks.on_crash(id);
        self.say(|| format!("n{id} dies"));
    }

    /// Entries in the batch that is being written.
    pub(super) fn entries_being_written(&self, id: NodeId) -> usize {
        self.node(id).writing.as_ref().map_or(0, |ready| ready.entries.len())
    }

    /// Calls into a node's core, with every check before and after.
    pub(super) fn call<T>(&mut self, id: NodeId, f: impl FnOnce(&mut Raft, Instant) -> T) -> T {
        let (now, reports) = (self.now, self.report.is_some());
        let node = self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no node {id}"));
        let raft = node.raft.as_mut().unwrap_or_else(|| panic!("node {id} does not run"));
        let before = invariants::View::of(raft);
        let snapshot = reports.then(|| Snapshot::of(raft));
        let result = f(raft, now);
        invariants::check(raft);
        invariants::check_step(&before, &invariants::View::of(raft));
        let (events, reads) = (raft.take_events(), raft.take_reads());
        let changes = snapshot.and_then(|snapshot| report::changes(&snapshot, &Snapshot::of(raft)));
        if let Some(changes) = changes {
            self.say(|| format!("n{id} {changes}"));
        }
        self.checks.observe(&self.nodes, id, &before);
        for event in events {
            self.say(|| format!("n{id} event: {}", report::event(&event)));
            self.events.push((id, event));
        }
        for read in reads {
            self.checks.on_read_answered(id, read);
            self.say(|| format!("n{id} {}", report::read(&read)));
        }
        result
    }

    /// Both ends of a link learn that it is there.
    pub(super) fn link_up(&mut self, id: NodeId, peer: NodeId) {
        self.call(id, |raft, now| raft.on_link_up(now, peer));
    }

    /// Every node that runs is linked to every other that runs.
    pub(super) fn link_all(&mut self) {
        for id in self.running() {
            for peer in self.running().into_iter().filter(|peer| *peer != id) {
                self.link_up(id, peer);
            }
        }
    }

    pub(super) fn link_down(&mut self, id: NodeId, peer: NodeId) {
        self.call(id, |raft, now| raft.on_link_down(now, peer));
    }

    pub(super) fn peer_dead(&mut self, id: NodeId, peer: NodeId) {
        self.call(id, |raft, now| raft.on_peer_dead(now, peer));
    }

    pub(super) fn found(&mut self, id: NodeId) {
        let configuration = self.configuration.clone();
        self.call(id, |raft, now| raft.found(now, configuration));
    }

    pub(super) fn tick(&mut self, id: NodeId) {
        self.call(id, Raft::tick);
        // A loop that sleeps until the next deadline must not spin.
        let (raft, now) = (self.raft(id), self.now);
        let is_calm = raft.next_deadline() > now || raft.has_ready(now);
        assert!(is_calm, "node {id} wants to be ticked again at once, for nothing");
    }

    pub(super) fn propose(&mut self, id: NodeId, command: &str) -> Result<LogIndex, ProposeError> {
        let command = Bytes::copy_from_slice(command.as_bytes());
        let stamp = ClusterTime(self.now.as_millis());
        self.call(id, |raft, _| raft.propose(stamp, command))
    }

    /// Registers a read. Whatever is committed anywhere by now it must see.
    pub(super) fn read(&mut self, id: NodeId) -> u64 {
        let batch = self.checks.on_read_registered(id);
        self.call(id, |raft, _| raft.read_index(batch));
        batch
    }

    pub(super) fn transfer(&mut self, id: NodeId, to: NodeId) -> Result<(), TransferError> {
        self.call(id, |raft, now| raft.transfer_leadership(now, to))
    }

    /// The first half of a turn's end: what promises nothing leaves, what is committed is applied,
    /// the rest is being written.
    pub(super) fn ready(&mut self, id: NodeId) {
        let mut ready = self.call(id, |raft, now| raft.ready(now));
        self.send(id, std::mem::take(&mut ready.messages));
        self.apply(id);
        if let Some(write) = report::write(&ready) {
            self.say(|| format!("n{id} writes {write}"));
        }
        self.node_mut(id).writing = Some(ready);
    }

    /// The second half: all of it is durable, and the promises leave.
    pub(super) fn advance(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        let ready = node.writing.take().unwrap_or_else(|| panic!("node {id} writes nothing"));
        node.disk.write(&ready, true, usize::MAX);
        let promises = self.call(id, |raft, now| raft.advance(now, ready.mark));
        if !promises.is_empty() {
            self.say(|| format!("n{id} has it on disk"));
        }
        self.send(id, promises);
        self.apply(id);
    }

    pub(super) fn is_writing(&self, id: NodeId) -> bool {
        self.node(id).writing.is_some()
    }

    fn apply(&mut self, id: NodeId) {
        let mut applied = Vec::new();
        while let Some(entry) = self.call(id, |raft, _| raft.next_to_apply()) {
            applied.push(entry);
        }
        if !applied.is_empty() {
            self.say(|| format!("n{id} applies {}", report::entries(&applied)));
            self.node_mut(id).applied.extend(applied);
        }
    }

    fn send(&mut self, from: NodeId, envelopes: Vec<Envelope>) {
        for Envelope { to, message } in envelopes {
            self.checks.on_sent(from, &self.nodes[&from].disk, &message);
            let is_lost = self.cuts.contains(&(from, to));
            self.say(|| {
                let line = format!("n{from} -> n{to} {}", report::message(&message));
                if is_lost { format!("{line} (lost)") } else { line }
            });
            if !is_lost {
                let mut bytes = Writer::new();
                message.encode(&mut bytes);
                let message = Message::decode(bytes.into_bytes()).expect("what is sent can be read");
                self.network.push(Flight { from, to, message });
            }
        }
    }

    /// Delivers one message, wherever it comes from, unless its receiver is dead.
    pub(super) fn deliver(&mut self, flight: Flight) {
        let Flight { from, to, message } = flight;
        if self.node(to).raft.is_some() {
            self.call(to, |raft, now| raft.step(now, from, message));
        }
    }

    /// Whether a node has something to do at the end of this turn.
    pub(super) fn has_ready(&self, id: NodeId) -> bool {
        !self.is_writing(id) && self.raft(id).has_ready(self.now)
    }

    /// Finishes turns and delivers messages until there is nothing left of either. No time passes.
    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            let mut is_quiet = true;
            for id in self.awake() {
                if self.is_writing(id) {
                    self.advance(id);
                    is_quiet = false;
                }
                if self.has_ready(id) {
                    self.ready(id);
                    self.advance(id);
                    is_quiet = false;
                }
            }
            for flight in std::mem::take(&mut self.network) {
                if self.stopped.contains(&flight.to) {
                    self.network.push(flight);
                    continue;
                }
                self.deliver(flight);
                is_quiet = false;
            }
            if is_quiet {
                return;
            }
        }
        panic!("the cluster never comes to rest: somebody always has something to do");
    }

    /// Lets time pass: nodes tick when they asked to, disks and the network take no time.
    pub(super) fn elapse(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run();
        loop {
            let deadlines = self.awake().into_iter().map(|id| (self.raft(id).next_deadline(), id));
            let Some((deadline, id)) = deadlines.min().filter(|(deadline, _)| *deadline <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(deadline);
            self.tick(id);
            self.run();
        }
    }

    /// The node that leads in the highest term, if one leads at all.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let leads = |id: &NodeId| self.raft(*id).leader() == Some(*id);
        self.running().into_iter().filter(leads).max_by_key(|id| self.raft(*id).term())
    }
}
