//! What the requests ask.

use std::collections::HashMap;

use bytes::Bytes;
use kvstore::client::Comparison;
use kvstore::wire::client::{Operation, RequestBody, ResponseBody};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::arguments::{DataArguments, Op};
use super::distribution::Distribution;

/// From how many places of the one block of random letters values are cut.
const VALUES: usize = 4096;

/// One request.
#[derive(Debug)]
pub(super) struct Task {
    /// Which key, from 0.
    pub(super) key: u64,
    pub(super) asked: Asked,
}

/// What it asks of that key.
#[derive(Debug)]
pub(super) enum Asked {
    Write(Operation),
    Read(RequestBody),
}

/// What an answer means to the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    NotFound,
    Mismatch,
}

/// Makes requests, one after the other.
#[derive(Debug)]
pub(super) struct Workload {
    op: Op,
    /// Of 100 requests of `Op::Mixed`.
    reads: u32,
    distribution: Distribution,
    /// Values are slices of it: nothing is copied or allocated for a value.
    block: Bytes,
    value_bytes: usize,
    /// What each key was last seen to hold, for `Op::Cas`.
    seen: HashMap<u64, Bytes>,
    rng: StdRng,
}

impl Workload {
    pub(super) fn new(op: Op, data: &DataArguments, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let value_bytes = data.value_bytes as usize;
        let letters = (0..value_bytes + VALUES).map(|_| rng.random_range(b'a'..=b'z'));
        let block: Vec<u8> = letters.collect();
        Self {
            op,
            reads: data.reads.unwrap_or(50),
            distribution: Distribution::new(data.distribution, data.keys),
            block: block.into(),
            value_bytes,
            seen: HashMap::new(),
            rng,
        }
    }

    /// The next request of the load.
    pub(super) fn next(&mut self) -> Task {
        let reads = match self.op {
            Op::Put | Op::Cas => false,
            Op::Get | Op::StaleGet => true,
            Op::Mixed => self.rng.random_range(0..100) < self.reads,
        };
        if reads {
            let key = self.distribution.read(&mut self.rng);
            let stale = self.op == Op::StaleGet;
            return Task { key, asked: Asked::Read(RequestBody::Get { key: name(key), stale }) };
        }
        let key = self.distribution.write(&mut self.rng);
        match self.op {
            Op::Cas => {
                let (expected, new) = (self.seen.get(&key).cloned(), self.value());
                let operation = Operation::CompareAndSet { key: name(key), expected, new };
                Task { key, asked: Asked::Write(operation) }
            }
            _ => self.put(key),
        }
    }

    /// A put of one key.
    pub(super) fn put(&mut self, key: u64) -> Task {
        let operation = Operation::Put { key: name(key), value: self.value() };
        Task { key, asked: Asked::Write(operation) }
    }

    /// Takes note of what came of a request.
    pub(super) fn on_answer(&mut self, task: Task, body: ResponseBody) -> Outcome {
        match (task.asked, body) {
            (Asked::Read(_), ResponseBody::Value(None)) => Outcome::NotFound,
            (Asked::Write(Operation::CompareAndSet { new, .. }), ResponseBody::Written { outcome, .. }) => {
                match Comparison::of(outcome) {
                    Comparison::Set => {
                        self.seen.insert(task.key, new);
                        Outcome::Done
                    }
                    Comparison::Mismatch { current, truncated } => {
                        let current = current.and_then(|current| self.whole(&current, truncated));
                        match current {
                            Some(current) => self.seen.insert(task.key, current),
                            None => self.seen.remove(&task.key),
                        };
                        Outcome::Mismatch
                    }
                }
            }
            _ => Outcome::Done,
        }
    }

    fn value(&mut self) -> Bytes {
        let start = self.rng.random_range(0..VALUES);
        self.block.slice(start..start + self.value_bytes)
    }

    /// The value that begins so, if it was cut; one that we did not write cannot be completed.
    fn whole(&self, current: &[u8], truncated: bool) -> Option<Bytes> {
        if !truncated {
            return Some(Bytes::copy_from_slice(current));
        }
        let start = (0..VALUES).find(|start| self.block[*start..].starts_with(current))?;
        Some(self.block.slice(start..start + self.value_bytes))
    }
}

/// A key of 16 bytes.
fn name(key: u64) -> Bytes {
    format!("bench/{key:010}").into()
}

#[cfg(test)]
mod tests {
    use kvstore::wire::client::Outcome as Result;

    use super::super::arguments::DistributionName;
    use super::*;

    fn workload(op: Op, value_bytes: u32) -> Workload {
        let distribution = DistributionName::Uniform;
        Workload::new(
            op,
            &DataArguments { keys: 1, value_bytes, distribution, reads: Some(20), fill: false },
            3,
        )
    }

    fn expected_of(task: &Task) -> Option<Bytes> {
        match &task.asked {
            Asked::Write(Operation::CompareAndSet { expected, .. }) => expected.clone(),
            other => panic!("{other:?} is no comparison"),
        }
    }

    #[test]
    fn mixed_load_reads_as_often_as_it_was_told() {
        let mut workload = workload(Op::Mixed, 64);
        let reads = (0..10_000).filter(|_| matches!(workload.next().asked, Asked::Read(_))).count();
        assert!((1_800..2_200).contains(&reads), "{reads} of 10,000");
    }

    #[test]
    fn cas_expects_what_it_saw_last_even_of_a_value_that_was_cut() {
        let mut workload = workload(Op::Cas, 5_000);
        let first = workload.next();
        assert_eq!(expected_of(&first), None);
        let current = workload.block.slice(17..17 + 1_024);
        let mismatch = Result::Mismatch { current: Some(current), truncated: true };
        let answer = ResponseBody::Written { outcome: mismatch, cached: false };
        assert_eq!(workload.on_answer(first, answer), Outcome::Mismatch);
        let second = workload.next();
        assert_eq!(expected_of(&second), Some(workload.block.slice(17..17 + 5_000)));
        let Asked::Write(Operation::CompareAndSet { new, .. }) = &second.asked else { unreachable!() };
        let new = new.clone();
        let answer = ResponseBody::Written { outcome: Result::Done, cached: false };
        assert_eq!(workload.on_answer(second, answer), Outcome::Done);
        assert_eq!(expected_of(&workload.next()), Some(new));
    }
}
