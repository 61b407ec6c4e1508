//! What a node writes in these tests, the model that says what it must find again, and its lives
//! from one start to the next.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvstore::storage::{Batch, OpenError, Options, Recovered, Storage};
use kvstore::types::{BootNumber, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Term};
use kvstore::wire::entry::{Configuration, Entry, HardState, Member, Payload, Reached};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

use crate::disk::SimDisk;

/// The node whose directory it is.
pub(crate) const NODE: NodeId = NodeId(2);
/// The smallest segments: two pages of records each.
pub(crate) const SMALL: Options = Options { segment_bytes: 16 << 10, sync: true };

/// One batch, owned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) peers: Vec<(NodeId, Reached)>,
}

impl Turn {
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { hard_state: self.hard_state, entries: &self.entries, peers: &self.peers }
    }
}

/// What must be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
    pub(crate) peers: BTreeMap<NodeId, Reached>,
}

impl Model {
    pub(crate) fn apply(&mut self, turn: &Turn) {
        self.hard_state = turn.hard_state.unwrap_or(self.hard_state);
        if let Some(first) = turn.entries.first() {
            self.entries.truncate(first.index.0 as usize - 1);
            self.entries.extend_from_slice(&turn.entries);
        }
        for (id, reached) in &turn.peers {
            self.peers.entry(*id).or_default().raise_to(*reached);
        }
    }

    pub(crate) fn of(recovered: &Recovered) -> Self {
        Self {
            hard_state: recovered.hard_state,
            entries: recovered.entries.clone(),
            peers: recovered.peers.iter().copied().collect(),
        }
    }
}

/// The founding record.
pub(crate) fn founding() -> Turn {
    let members = (1..=3).map(|id| Member { id: NodeId(id), incarnation: Incarnation(100 + id) });
    let configuration = Configuration::new(ClusterId(77), members.collect()).unwrap();
    let entry = Entry::new(LogIndex(1), Term(0), ClusterTime(0), Payload::Configuration(configuration));
    Turn { entries: vec![entry], ..Turn::default() }
}

/// One command of `bytes` bytes.
pub(crate) fn command(index: u64, term: u64, bytes: usize) -> Entry {
    let content: Vec<u8> = (0..bytes).map(|at| (index as usize + at) as u8 | 1).collect();
    Entry::new(LogIndex(index), Term(term), ClusterTime(index), Payload::Command(Bytes::from(content)))
}

/// A random turn that may follow `model`.
pub(crate) fn random_turn(model: &Model, rng: &mut Rng, max_bytes: usize) -> Turn {
    let mut turn = Turn::default();
    let mut hard_state = model.hard_state;
    if rng.random_bool(0.3) {
        hard_state.term = Term(hard_state.term.0 + rng.random_range(0..3));
        hard_state.voted_for = match model.hard_state {
            HardState { term, voted_for: Some(vote) } if term == hard_state.term => Some(vote),
            _ => rng.random_bool(0.5).then(|| NodeId(rng.random_range(0..4))),
        };
        turn.hard_state = Some(hard_state);
    }
    if rng.random_bool(0.1) {
        let reached = Reached {
            boot: BootNumber(model.entries.len() as u64),
            index: LogIndex(3),
            ..Reached::default()
        };
        turn.peers.push((NodeId(rng.random_range(1..4)), reached));
    }
    if rng.random_bool(0.8) || turn.batch().is_empty() {
        let last = model.entries.len() as u64;
        let kept = if rng.random_bool(0.2) { rng.random_range(1..=last) } else { last };
        let count = rng.random_range(1..4);
        let entries = (1..=count)
            .map(|position| command(kept + position, hard_state.term.0, rng.random_range(0..max_bytes)));
        turn.entries = entries.collect();
    }
    // Boots of a peer only rise.
    turn.peers.retain(|(id, boot)| model.peers.get(id).is_none_or(|known| known.boot < boot.boot));
    turn
}

/// Turns, and what must be there after each number of them.
pub(crate) fn script(seed: u64, turns: usize, max_bytes: usize) -> (Vec<Turn>, Vec<Model>) {
    let mut rng = Rng::seed_from_u64(seed);
    let (mut script, mut models) = (vec![founding()], vec![Model::default()]);
    while script.len() <= turns {
        let mut model = models.last().unwrap().clone();
        model.apply(script.last().unwrap());
        let next = random_turn(&model, &mut rng, max_bytes);
        script.push(next);
        models.push(model);
    }
    script.pop();
    (script, models)
}

/// A node that carries out a script over any number of starts.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) disk: SimDisk,
    pub(crate) turns: Vec<Turn>,
    pub(crate) models: Vec<Model>,
    /// How many turns were acknowledged.
    pub(crate) acknowledged: usize,
    /// How many turns were begun: one more may be durable than was acknowledged.
    begun: usize,
    /// The incarnation and the last boot that a start returned.
    identity: Option<(Incarnation, BootNumber)>,
    starts: u64,
}

/// Why a start did not live to the end of its script.
#[derive(Debug)]
pub(crate) enum Ended {
    Open(OpenError),
    Write,
}

impl Node {
    pub(crate) fn new(seed: u64, turns: usize, max_bytes: usize) -> Self {
        let (turns, models) = script(seed, turns, max_bytes);
        let disk = SimDisk::new(seed);
        Self { disk, turns, models, acknowledged: 0, begun: 0, identity: None, starts: 0 }
    }

    /// Starts, checks what is recovered, and goes on with the script until it ends or fails.
    pub(crate) fn live(&mut self) -> Result<(), Ended> {
        let mut storage = self.start().map_err(Ended::Open)?;
        let lived = self.write(&mut storage);
        if let Err(error) = lived {
            let refused = storage.persist(&self.turns[0].batch());
            assert_eq!(refused, Err(error.clone()), "nothing is written after a failure");
            assert_eq!(storage.persist(&Batch::default()), Err(error.clone()));
            assert_eq!(storage.mark_synced(), Err(error.clone()));
            assert_eq!(storage.prepare_spare(u64::MAX), Err(error));
            return Err(Ended::Write);
        }
        Ok(())
    }

    /// Opens the directory and checks what is recovered.
    pub(crate) fn start(&mut self) -> Result<Storage<SimDisk>, OpenError> {
        self.starts += 1;
        let drawn = Incarnation(self.starts);
        let (storage, recovered) = Storage::open(self.disk.clone(), NODE, SMALL, drawn)?;
        let (incarnation, boot) = self.identity.unwrap_or((recovered.incarnation, BootNumber(0)));
        assert_eq!(recovered.node, NODE);
        assert_eq!(recovered.incarnation, incarnation);
        assert!(recovered.boot > boot, "boot {} after boot {boot}", recovered.boot);
        self.identity = Some((incarnation, recovered.boot));

        let found = Model::of(&recovered);
        let possible = self.acknowledged..=self.begun;
        let position = possible.clone().find(|count| self.models[*count] == found);
        self.acknowledged = position.unwrap_or_else(|| {
            let elsewhere = self.models.iter().position(|model| *model == found);
            panic!("found the state after {elsewhere:?} turns, not after {possible:?}: {found:?}")
        });
        self.begun = self.acknowledged;
        Ok(storage)
    }

    pub(crate) fn write(
        &mut self,
        storage: &mut Storage<SimDisk>,
    ) -> Result<(), kvstore::storage::WriteError> {
        while self.acknowledged < self.turns.len() {
            self.begun = self.acknowledged + 1;
            storage.persist(&self.turns[self.acknowledged].batch())?;
            self.acknowledged = self.begun;
            if self.acknowledged.is_multiple_of(2) {
                storage.mark_synced()?;
            }
            if self.acknowledged.is_multiple_of(5) {
                storage.prepare_spare(5 << 10)?;
            }
        }
        Ok(())
    }
}
