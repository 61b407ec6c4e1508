//! Sessions against nodes that do anything the protocol allows, checked for what they report.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::types::{ClientId, ClusterId, Sequence, Term};
use crate::wire::client::{Outcome, Refused, Write};

const NODES: u64 = 3;

type Name = (ClientId, Sequence);

/// Nodes that share one state and are all allowed to apply: what a session can see of a cluster
/// whose leader changes all the time. A name is applied once; an expired client's never again.
struct Cluster {
    rng: StdRng,
    term: u64,
    revision: u64,
    dials: Vec<(LinkId, u64)>,
    links: BTreeMap<LinkId, u64>,
    /// Copies that a node holds.
    held: Vec<(LinkId, u64, Write)>,
    /// Copies that nobody can call back: they may be applied at any time.
    loose: Vec<Write>,
    applied: BTreeMap<Name, u64>,
    expired: BTreeSet<ClientId>,
    sent: BTreeSet<Name>,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            term: 1,
            revision: 1,
            dials: Vec::new(),
            links: BTreeMap::new(),
            held: Vec::new(),
            loose: Vec::new(),
            applied: BTreeMap::new(),
            expired: BTreeSet::new(),
            sent: BTreeSet::new(),
        }
    }

    fn address(node: u64) -> String {
        format!("n{node}:1")
    }

    fn on_action(&mut self, action: Action) {
        match action {
            Action::Dial { link, address } => {
                let node = (1..=NODES).find(|node| Self::address(*node) == address).unwrap();
                self.dials.push((link, node));
            }
            Action::Send { link, request } => {
                assert!(self.links.contains_key(&link), "sent over a link that is not up");
                let RequestBody::Write(write) = request.body else { panic!("not a write") };
                self.sent.insert(name(&write));
                self.held.push((link, request.id, write));
            }
            Action::Close { link } => self.drop_link(link),
            Action::Wait { .. } | Action::Finished(_) => unreachable!("handled by the caller"),
        }
    }

    /// Copies on a lost link are loose: whether they were taken in, nobody knows.
    fn drop_link(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.dials.retain(|(dial, _)| *dial != link);
        let (lost, held) = self.held.drain(..).partition(|(holder, ..)| *holder == link);
        self.held = held;
        let lost: Vec<(LinkId, u64, Write)> = lost;
        self.loose.extend(lost.into_iter().map(|(.., write)| write));
    }

    /// One event, of whatever kind.
    fn step(&mut self, session: &mut Session, now: Instant) {
        match self.rng.random_range(0..10) {
            0..3 => self.end_dial(session, now),
            3 if !self.links.is_empty() => {
                let nth = self.rng.random_range(0..self.links.len());
                let link = *self.links.keys().nth(nth).unwrap();
                self.drop_link(link);
                session.on_lost(now, link, "reset");
            }
            4 if !self.loose.is_empty() => {
                let write = self.loose.swap_remove(self.rng.random_range(0..self.loose.len()));
                self.apply(&write);
            }
            5 => self.term += 1,
            _ if !self.held.is_empty() => {
                let (link, id, write) = self.held.swap_remove(self.rng.random_range(0..self.held.len()));
                let body = self.answer(&write);
                let revision = Revision(self.applied.get(&name(&write)).copied().unwrap_or(self.revision));
                session.on_response(now, link, Response { id, revision, body });
            }
            _ => {}
        }
    }

    fn end_dial(&mut self, session: &mut Session, now: Instant) {
        let Some((link, node)) = self.dials.pop() else { return };
        if self.rng.random_bool(0.4) {
            return session.on_lost(now, link, "refused");
        }
        self.links.insert(link, node);
        let member = |id| MemberAddress { id: NodeId(id), address: Self::address(id) };
        let welcome = Welcome {
            cluster: Some(ClusterId(1)),
            node: NodeId(node),
            cluster_time: ClusterTime(self.revision),
            revision: Revision(self.revision),
            term: Term(self.term),
            leader: self.rng.random_bool(0.7).then(|| NodeId(self.rng.random_range(1..=NODES))),
            members: (1..=NODES).map(member).collect(),
        };
        session.on_connected(now, link, &welcome);
    }

    /// Applies a write unless it was, or its client has expired.
    fn apply(&mut self, write: &Write) -> bool {
        let is_new = !self.applied.contains_key(&name(write)) && !self.expired.contains(&write.client);
        if is_new {
            self.revision += 1;
            self.applied.insert(name(write), self.revision);
        }
        is_new
    }

    fn answer(&mut self, write: &Write) -> ResponseBody {
        let id = self.rng.random_range(1..=NODES);
        let leader =
            self.rng.random_bool(0.7).then(|| MemberAddress { id: NodeId(id), address: Self::address(id) });
        let refused = match self.rng.random_range(0..12) {
            0..4 => Refused::NotLeader { term: Term(self.term), leader },
            4 => Refused::NoLeader,
            5 => Refused::Busy("full".into()),
            6 => {
                self.loose.push(write.clone());
                Refused::LeadershipLost
            }
            7 if !self.applied.contains_key(&name(write)) => {
                self.expired.insert(write.client.clone());
                Refused::SessionExpired
            }
            8 if self.rng.random_bool(0.2) => Refused::TooLarge("by some other measure".into()),
            _ if self.expired.contains(&write.client) => Refused::SessionExpired,
            _ => {
                let cached = !self.apply(write);
                return ResponseBody::Written { outcome: Outcome::Done, cached };
            }
        };
        ResponseBody::Refused(refused)
    }

    /// Whether this name can still be applied by a copy that is under way.
    fn may_yet_be_applied(&self, name_of_write: &Name) -> bool {
        let is_it = |write: &Write| name(write) == *name_of_write && !self.expired.contains(&write.client);
        self.loose.iter().any(is_it) || self.held.iter().any(|(.., write)| is_it(write))
    }
}

fn name(write: &Write) -> Name {
    (write.client.clone(), write.sequence)
}

/// One write under random events; what was reported, and under how many names it was sent.
fn run_write(session: &mut Session, cluster: &mut Cluster, now: &mut Instant) -> Result<Answer, Error> {
    let deadline = *now + Duration::from_secs(2);
    let operation = Operation::Put { key: Bytes::from_static(b"k"), value: Bytes::new() };
    session.begin_write(*now, deadline, operation, None);
    cluster.sent.clear();
    loop {
        let mut actions = 0;
        loop {
            actions += 1;
            assert!(actions < 50, "the session runs in circles");
            match session.pull(*now) {
                Action::Finished(result) => return result,
                Action::Wait { until } => {
                    assert!(*now < until && until <= deadline, "a wait into the past or past the deadline");
                    break;
                }
                action => cluster.on_action(action),
            }
        }
        assert!(*now < deadline, "the deadline passed and the request goes on");
        cluster.step(session, *now);
        *now += Duration::from_micros(cluster.rng.random_range(0..40_000));
    }
}

#[test]
fn random_events_never_lead_to_a_false_report() {
    let (mut done, mut definite, mut unknown, mut cached) = (0, 0, 0, 0);
    for seed in 0..3_000 {
        let endpoints: Vec<String> = (1..=2).map(Cluster::address).collect();
        let (mut session, mut cluster) = (Session::new(&endpoints, seed), Cluster::new(seed));
        let mut now = Instant::ZERO;
        for _ in 0..4 {
            let result = run_write(&mut session, &mut cluster, &mut now);
            let sent: Vec<Name> = cluster.sent.iter().cloned().collect();
            let applied = sent.iter().filter(|name| cluster.applied.contains_key(name)).count();
            let open = sent.iter().filter(|name| cluster.may_yet_be_applied(name));
            let open = open.filter(|name| !cluster.applied.contains_key(name)).count();
            match result {
                Ok(answer) => {
                    assert_eq!((applied, open), (1, 0), "seed {seed}: {sent:?}");
                    assert!(!answer.cached, "seed {seed}: nothing of it was applied before it began");
                    cached += usize::from(1 < answer.attempts);
                    done += 1;
                }
                Err(error) if error.is_definite() => {
                    assert_eq!((applied, open), (0, 0), "seed {seed}: {error}");
                    definite += 1;
                }
                Err(error) => {
                    assert!(applied <= 1, "seed {seed}: {error}");
                    unknown += 1;
                }
            }
        }
        if let Some((_, request)) = session.farewell() {
            let RequestBody::Write(write) = request.body else { panic!("no write") };
            let Operation::CloseSession { client } = write.operation else { panic!("no close") };
            let names = cluster.applied.keys().filter(|(owner, _)| *owner == client).cloned();
            let names: Vec<Name> = names.collect();
            let again = names.iter().find(|name| cluster.may_yet_be_applied(name));
            assert_eq!(again, None, "seed {seed}: a copy would be applied a second time");
        }
    }
    let least = done.min(definite).min(unknown).min(cached);
    assert!(
        200 < least,
        "one-sided: {done} done, {cached} of them retried, {definite} definite, {unknown} unknown"
    );
}
