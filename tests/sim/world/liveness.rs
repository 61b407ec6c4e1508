//! After the turmoil: a majority is well, the rest is broken for good; later all is well.

use std::collections::BTreeSet;

use kvstore::client::Error;
use kvstore::client::session::Answer;
use kvstore::raft::Raft;
use kvstore::replica::{ClientConnection, Replica};
use kvstore::time::{Duration, Instant};
use kvstore::types::{LogIndex, NodeId, Term};
use kvstore::wire::client::{Request, RequestBody, ResponseBody, RoleName};

use super::{Event, Phase, World};
use crate::sim::checker::violated;
use crate::sim::disk::{self, End, SimDisk};
use crate::sim::linear_order;
use crate::sim::node::{Engine, id_of, index_of};
use crate::sim::operations::Asked;

/// How a node outside the core is broken for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// It does not run.
    Dead,
    /// Nothing reaches it.
    Deaf,
    /// Nothing that it says arrives.
    Mute,
    /// It sees one node of the core only.
    HalfConnected,
    /// Its links break again and again.
    Flapping,
    /// Its process ends again and again.
    Restarting,
    /// It sleeps most of the time.
    Sleepy,
    /// Its syncs take longer than an election timeout.
    SlowDisk,
    /// Other programs keep what is left of its disk.
    FullDisk,
}

const DEFECTS: [Defect; 9] = [
    Defect::Dead,
    Defect::Deaf,
    Defect::Mute,
    Defect::HalfConnected,
    Defect::Flapping,
    Defect::Restarting,
    Defect::Sleepy,
    Defect::SlowDisk,
    Defect::FullDisk,
];

/// For so many maximum election timeouts the cluster may look for a leader.
const SETTLING_TIMEOUTS: u32 = 20;
/// For so long (longer than any client waits) its term must stay as it is then, and every request be answered.
const STABLE: Duration = Duration::from_secs(6);

impl World {
    /// Chooses a majority and heals it; breaks the others for good. Within 20 election timeouts
    /// there must be a leader, then terms must stand still and every request be answered.
    pub(crate) fn check_liveness(&mut self) {
        if !self.checker.is_founded_everywhere() {
            return; // the founding needs all nodes
        }
        let core = self.choose_core();
        self.trace.line(self.now, || format!("liveness: the core is {:?}", shown(&core)));
        self.phase = Phase::Liveness { core: core.clone() };
        self.heal();
        let mut may_lead = None;
        for node in (0..self.plan.nodes).filter(|node| !core.contains(node)) {
            let how = self.streams.faults.pick(&DEFECTS);
            self.trace.line(self.now, || format!("node {} is broken for good: {how:?}", node + 1));
            self.break_for_good(node, how, &core);
            // A leader with a full disk gives way as often as it is made one.
            may_lead = may_lead.or((how != Defect::FullDisk).then_some(node));
        }
        if let Some(node) = may_lead {
            self.ask_for_hand_over(&core, id_of(node));
        }
        self.run_until(self.now + self.plan.timing.election_max * SETTLING_TIMEOUTS);
        while self.is_transferring() {
            self.run_until(self.now + Duration::from_millis(100));
        }
        let terms = (self.led_term(), self.highest_term(&core));
        if terms.0.is_none() {
            violated!("a healed majority elects", "no leader for {:?}: {terms:?}", shown(&core));
        }
        self.run_until(self.now + STABLE);
        let after = (self.led_term(), self.highest_term(&core));
        if after != terms {
            violated!("terms come to rest", "led and highest term {terms:?}, after {STABLE:?} {after:?}");
        }
    }

    /// An operator who does not know better wants a broken node to lead.
    fn ask_for_hand_over(&mut self, core: &[usize], to: NodeId) {
        let request =
            Request { id: 1, time_left_ms: 1, silent_leader: None, body: RequestBody::Transfer { to } };
        for step in 1..SETTLING_TIMEOUTS / 2 {
            let at = self.now + self.plan.timing.election_max * step;
            for node in core {
                self.queue.add(at, Event::Operator { node: *node, request: request.clone() });
            }
        }
    }

    /// Whether some client still asks for another leader.
    fn is_transferring(&self) -> bool {
        let numbers = self.clients.all.iter().filter_map(|client| client.operation);
        let mut asked = numbers.map(|number| &self.operations.record(number).asked);
        asked.any(|asked| matches!(asked, Asked::Transfer { .. }))
    }

    fn choose_core(&mut self) -> Vec<usize> {
        let all: Vec<usize> = (0..self.plan.nodes).collect();
        let size = self.plan.nodes / 2 + 1;
        let mut core: Vec<usize> = self.streams.faults.shuffled(&all).into_iter().take(size).collect();
        core.sort_unstable();
        core
    }

    /// Nothing goes wrong any more by itself, and everything that ended is started.
    fn heal(&mut self) {
        self.network.heal();
        self.plan.disk.slow_per_million = 0;
        self.plan.disk.sync = (Duration::from_micros(50), Duration::from_micros(500));
        self.clients.workload.be_patient(Duration::from_secs(4));
        for node in 0..self.plan.nodes {
            self.nodes[node].slow_until = (Instant::ZERO, Duration::ZERO);
            self.nodes[node].disk.set_capacity(u64::MAX);
            if let Some(process) = &mut self.nodes[node].process {
                process.schedule.paused_until = self.now;
                self.nodes[node].disk.set_fault(disk::Fault::None);
            }
            self.queue.add(self.now, Event::Start { node });
            let to_dial = if self.is_bytes() { 0 } else { node };
            for other in 0..to_dial {
                self.queue.add(self.now + Duration::from_millis(1), Event::Dial { one: node, other });
            }
        }
        self.heal_pipes();
    }

    fn break_for_good(&mut self, node: usize, how: Defect, core: &[usize]) {
        let sites = self.plan.nodes + self.plan.clients.count;
        let others = (0..sites).filter(|other| *other != node);
        let outwards: Vec<(usize, usize)> = others.map(|other| (node, other)).collect();
        let inwards: Vec<(usize, usize)> = outwards.iter().map(|(from, to)| (*to, *from)).collect();
        match how {
            Defect::Dead => self.end_process(node, End::PowerCut),
            Defect::Deaf => self.block(&inwards),
            Defect::Mute => self.block(&outwards),
            Defect::HalfConnected => {
                let friend = core[0];
                let ways = outwards.into_iter().chain(inwards);
                let ways = ways.filter(|(from, to)| *from < self.plan.nodes && *to < self.plan.nodes);
                let ways: Vec<_> = ways.filter(|(from, to)| *from != friend && *to != friend).collect();
                self.block(&ways);
            }
            Defect::SlowDisk => {
                self.nodes[node].slow_until = (Instant::MAX, self.plan.timing.election_max * 4);
            }
            Defect::Flapping | Defect::Restarting | Defect::Sleepy | Defect::FullDisk => {}
        }
        self.limp(node, how);
    }

    /// A node that is broken for good shows it, again and again.
    pub(super) fn limp(&mut self, node: usize, how: Defect) {
        if !matches!(self.phase, Phase::Liveness { .. }) {
            return;
        }
        let next = self.streams.faults.around(self.plan.timing.election_max);
        match how {
            Defect::Dead => self.end_process(node, End::PowerCut),
            Defect::Flapping => {
                (0..self.plan.nodes)
                    .filter(|other| *other != node)
                    .for_each(|other| self.reset_link(node, other));
            }
            Defect::Restarting => self.end_process(node, End::Kill),
            Defect::Sleepy => self.pause(node, self.now + next * 9 / 10),
            // Less than any snapshot takes: it is low from the beginning, and a leader gives way at once. What it
            // gives back itself is taken, too: else it may have room for a while, and be low again in the end.
            Defect::FullDisk => {
                let left = self.streams.faults.below(8 << 10);
                self.nodes[node].disk.leave_free(left);
            }
            _ => return,
        }
        let next = if how == Defect::Dead { Duration::from_millis(1) } else { next };
        self.queue.add(self.now + next, Event::Limp { node, how });
    }

    /// The term in which somebody leads a majority. That need not be the core: a node that is broken in
    /// that it sees a part of the core only can lead that part, and then the others of the core may
    /// be in a higher term, in which they are not heard.
    fn led_term(&self) -> Option<Term> {
        let rafts: Vec<&Raft> =
            self.nodes.iter().filter_map(|node| Some(node.process.as_ref()?.replica().raft())).collect();
        let leaders = rafts.iter().filter(|raft| raft.role_name() == RoleName::Leader);
        let is_of_majority =
            |term: &Term| rafts.iter().filter(|raft| raft.term() == *term).count() > self.plan.nodes / 2;
        leaders.map(|raft| raft.term()).find(is_of_majority)
    }

    fn highest_term(&self, core: &[usize]) -> Option<Term> {
        let term = |node: &usize| Some(self.nodes[*node].process.as_ref()?.replica().raft().term());
        core.iter().filter_map(term).max()
    }

    /// Whether a client knows a node that is well: else nobody can help it.
    pub(super) fn knows_core(&self, client: usize) -> bool {
        let Phase::Liveness { core } = &self.phase else { return true };
        let members = self.clients.all[client].session.members();
        members.iter().any(|member| core.contains(&index_of(member.id)))
    }

    /// In a healed cluster no request fails that began after it had settled.
    pub(super) fn check_liveness_of(&self, number: usize, result: &Result<Answer, Error>) {
        let settled = Instant::ZERO + self.plan.turmoil + self.plan.timing.election_max * SETTLING_TIMEOUTS;
        let record = self.operations.record(number);
        let is_served = matches!(
            result,
            Ok(_) | Err(Error::Busy(_) | Error::SessionExpired | Error::OutcomeForgotten)
        ) || matches!(
            result,
            Err(Error::Unknown { reason, .. }) if !matches!(reason, kvstore::client::UnknownReason::Deadline)
        );
        // A stale read and a status ask one very node, which may be broken; and full is full.
        let may_fail = self.checker.reference.is_near_caps()
            || !self.clients.all[record.client].knew_core
            || matches!(
                record.asked,
                Asked::Get { stale: true, .. } | Asked::Scan { stale: true, .. } | Asked::Status
            );
        if record.began > settled && !is_served && !may_fail {
            violated!("every request is answered", "operation {number}: {record:?} ended as {result:?}");
        }
    }

    /// All is well again: everybody comes to the same state, and nothing is left over.
    pub(crate) fn check_rest(&mut self) {
        self.phase = Phase::Calm;
        self.heal();
        // The longest deadline, and time for everybody to catch up.
        self.run_until(self.now + Duration::from_secs(11));
        // The leader proposes to expire sessions every now and then, perhaps just now.
        for _ in 0..20 {
            if !self.is_all_equal() {
                self.run_until(self.now + Duration::from_millis(10));
            }
        }
        let unanswered = self.clients.all.iter().filter(|client| client.operation.is_some()).count();
        if unanswered > 0 {
            violated!("every request is answered", "{unanswered} clients wait for ever");
        }
        self.check_all_equal();
        for node in 0..self.plan.nodes {
            self.check_tables_empty(node);
            self.check_disk(node);
        }
        self.operations.check_effects(&self.checker.reference);
        if !linear_order::check(&self.operations) {
            self.stats.undecided += 1;
        }
    }

    fn is_all_equal(&self) -> bool {
        let committed = LogIndex(self.checker.committed_index());
        let logs = self.nodes.iter().filter_map(|machine| machine.process.as_ref());
        let mut logs = logs.map(|process| process.replica().raft().log());
        logs.all(|log| (log.applied(), log.last_index()) == (committed, committed))
    }

    fn check_all_equal(&self) {
        let committed = LogIndex(self.checker.committed_index());
        for (node, machine) in self.nodes.iter().enumerate() {
            let Some(process) = &machine.process else {
                violated!("everybody comes back", "node {} does not run", node + 1);
            };
            let log = process.replica().raft().log();
            if (log.committed(), log.applied(), log.last_index()) != (committed, committed, committed) {
                violated!(
                    "everybody catches up",
                    "node {}: committed {}, applied {}, last {} of {committed}",
                    node + 1,
                    log.committed(),
                    log.applied(),
                    log.last_index()
                );
            }
        }
        let leads = |node: &usize| {
            self.nodes[*node].process.as_ref().map(|process| process.replica().raft().role_name())
                == Some(RoleName::Leader)
        };
        let leaders: BTreeSet<usize> = (0..self.plan.nodes).filter(leads).collect();
        if leaders.len() != 1 {
            violated!("a healed cluster has one leader", "{leaders:?} lead");
        }
    }

    /// Nobody waits for anything on a node at rest. What is left when it is asked may be an expiry that
    /// was proposed just then: only what stays is left over.
    fn check_tables_empty(&mut self, node: usize) {
        let mut left = self.left_over(node);
        for _ in 0..20 {
            if left.is_empty() {
                return;
            }
            self.run_until(self.now + Duration::from_millis(10));
            left = self.left_over(node);
        }
        violated!("nothing is left over", "node {} at rest has {left:?}", node + 1);
    }

    fn left_over(&mut self, node: usize) -> Vec<String> {
        let request = Request { id: 1, time_left_ms: 1, silent_leader: None, body: RequestBody::Status };
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let local = process.clock.at(self.now);
        let answer = match &mut process.engine {
            Engine::Messages(messages) => ask_replica(&mut messages.replica, local, request),
            Engine::Bytes(_) => self.ask_node(node, &request).map(|response| response.body),
        };
        let Some(ResponseBody::Status(status)) = answer else {
            violated!("status is answered", "node {} does not say how it is", node + 1);
        };
        let tables = [
            "uncommitted_bytes",
            "waiting_writes",
            "waiting_reads",
            "parked_requests",
            "unknown_connections",
            "messages_held_for_founding",
        ];
        let used =
            status.bounds.iter().filter(|bound| tables.contains(&bound.name.as_str()) && bound.used > 0);
        used.map(|bound| format!("{} {}", bound.used, bound.name)).collect()
    }
}

/// Takes what a replica answers to nobody.
#[derive(Default)]
struct Answers(Option<ResponseBody>);

fn ask_replica(replica: &mut Replica<SimDisk>, now: Instant, request: Request) -> Option<ResponseBody> {
    let mut answers = Answers::default();
    replica.on_request(now, ClientConnection(0), request);
    replica.process_ready(now, || now, &mut answers).expect("a sound disk takes what is written");
    answers.0
}

impl kvstore::replica::Transport for Answers {
    fn send(&mut self, _: NodeId, _: &kvstore::wire::peer::Message) {}

    fn reply(&mut self, client: ClientConnection, response: &kvstore::wire::client::Response) {
        if client == ClientConnection(0) {
            self.0 = Some(response.body.clone());
        }
    }

    fn flush(&mut self) {}
}

fn shown(nodes: &[usize]) -> Vec<usize> {
    nodes.iter().map(|node| node + 1).collect()
}
