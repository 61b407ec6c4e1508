//! Clients: the shipped session, and a workload of few hot keys and values that are never used
//! twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvstore::client::Identity;
use kvstore::client::session::{LinkId, Session};
use kvstore::time::{Duration, Instant};
use kvstore::types::{ClientId, ClientName, Sequence};
use kvstore::wire::client::Operation;
use kvstore::wire::entry::SnapshotId;

use super::node::{Connection, address, id_of};
use super::operations::Asked;
use super::plan::ClientPlan;
use super::rng::Rng;

/// Operations on one key, before the next takes its place: so the search for a linear order stays
/// short.
const OPERATIONS_PER_KEY: u64 = 150;

/// A client's end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientLink {
    pub(crate) node: usize,
    /// Once the node has accepted it.
    pub(crate) connection: Option<Connection>,
}

/// What a client has of a backup.
#[derive(Debug)]
pub(crate) struct Backup {
    pub(crate) id: SnapshotId,
    pub(crate) bytes: Vec<u8>,
}

/// A client's process, and those that take its place.
pub(crate) struct SimClient {
    /// Counts the processes.
    pub(crate) life: u64,
    pub(crate) session: Session,
    pub(crate) links: BTreeMap<LinkId, ClientLink>,
    /// The operation under way.
    pub(crate) operation: Option<usize>,
    /// A named write whose outcome is unknown: to be asked again under its name.
    pub(crate) doubtful: Option<usize>,
    pub(crate) wake_at: Option<Instant>,
    /// When its operation began it knew a node that is well.
    pub(crate) knew_core: bool,
    pub(crate) backup: Option<Backup>,
    name: Option<ClientName>,
    next_sequence: u64,
    /// What it saw last of each key, to compare with.
    seen: BTreeMap<Bytes, Option<Bytes>>,
}

/// What the workload knows: keys in use, values given out.
pub(crate) struct Workload {
    plan: ClientPlan,
    nodes: usize,
    pub(crate) rng: Rng,
    uses: Vec<u64>,
    values: u64,
}

impl SimClient {
    pub(crate) fn new(index: usize, workload: &mut Workload) -> Self {
        let is_named = workload.rng.chance(workload.plan.named_per_million);
        let name = is_named.then(|| format!("client {index}"));
        Self {
            life: 0,
            session: workload.session(),
            links: BTreeMap::new(),
            operation: None,
            doubtful: None,
            wake_at: None,
            knew_core: false,
            backup: None,
            name: name.map(|name| ClientName::new(name.as_bytes()).expect("a short name")),
            next_sequence: 1,
            seen: BTreeMap::new(),
        }
    }

    /// The process ended; the next knows the same name, but nothing else.
    pub(crate) fn begin_life(&mut self, session: Session) {
        self.life += 1;
        self.session = session;
        self.links.clear();
        self.backup = None;
        self.operation = None;
        self.wake_at = None;
    }

    /// A name for a write, if this client writes under one.
    pub(crate) fn next_identity(&mut self) -> Option<Identity> {
        let client = ClientId::Named(self.name.clone()?);
        self.next_sequence += 1;
        Some(Identity { client, sequence: Sequence(self.next_sequence - 1) })
    }

    /// It saw the value of a key.
    pub(crate) fn see(&mut self, key: Bytes, value: Option<Bytes>) {
        self.seen.insert(key, value);
    }
}

impl Workload {
    pub(crate) fn new(plan: ClientPlan, nodes: usize, rng: Rng) -> Self {
        let uses = vec![0; plan.keys];
        Self { plan, nodes, rng, uses, values: 0 }
    }

    /// A session that knows one node, some or all, in any order.
    pub(crate) fn session(&mut self) -> Session {
        let nodes: Vec<usize> = (0..self.nodes).collect();
        let known = self.rng.between(1, self.nodes as u64) as usize;
        let endpoints: Vec<String> = self.rng.shuffled(&nodes).into_iter().take(known).map(address).collect();
        Session::new(&endpoints, self.rng.u64())
    }

    /// How long a client waits before its next request.
    pub(crate) fn pause(&mut self) -> Duration {
        self.rng.around(self.plan.think)
    }

    /// How long a client gives its next request.
    pub(crate) fn patience(&mut self) -> Duration {
        self.rng.duration(self.plan.least_patience, self.plan.patience)
    }

    /// From now on nobody is in a hurry.
    pub(crate) fn be_patient(&mut self, patience: Duration) {
        (self.plan.least_patience, self.plan.patience) = (patience * 2 / 3, patience);
        self.plan.mix[7] = 0;
    }

    fn key(&mut self) -> Bytes {
        let slot = self.rng.index(self.uses.len());
        self.uses[slot] += 1;
        Bytes::from(format!("k{slot}.{}", self.uses[slot] / OPERATIONS_PER_KEY))
    }

    fn value(&mut self) -> Bytes {
        self.values += 1;
        let value = format!("value {}", self.values);
        let padding =
            if self.rng.chance(self.plan.large_per_million) { self.rng.below(3_000) as usize } else { 0 };
        Bytes::from(value + &".".repeat(padding))
    }

    /// What a client asks next: often the next bytes of a backup that it has begun.
    pub(crate) fn draw(&mut self, client: &SimClient) -> Asked {
        if let Some(Backup { id, bytes }) = client.backup.as_ref().filter(|_| self.rng.chance(700_000)) {
            return Asked::Backup { snapshot: Some(*id), offset: bytes.len() as u64 };
        }
        match self.rng.weighted(&self.plan.mix) {
            0 => Asked::Write(Operation::Put { key: self.key(), value: self.value() }),
            1 => Asked::Write(Operation::Delete { key: self.key() }),
            2 => {
                let key = self.key();
                let expected = client.seen.get(&key).cloned().flatten();
                Asked::Write(Operation::CompareAndSet { key, expected, new: self.value() })
            }
            3 => Asked::Get { key: self.key(), stale: false },
            4 => Asked::Get { key: self.key(), stale: true },
            kind @ (5 | 6) => {
                let prefix = if self.rng.chance(500_000) { Bytes::from_static(b"k") } else { self.key() };
                Asked::Scan { prefix, limit: self.rng.between(1, 12) as u32, stale: kind == 6 }
            }
            _ => match self.rng.below(3) {
                0 => Asked::Status,
                1 => Asked::Transfer { to: id_of(self.rng.index(self.nodes)) },
                _ => Asked::Backup { snapshot: None, offset: 0 },
            },
        }
    }
}
