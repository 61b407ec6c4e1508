//! How much a run exercised.

use std::collections::BTreeMap;

use kvstore::time::Duration;

use super::pipe_plan::{Mode, SOCKET_FAULTS, SocketFault};
use super::plan::Fault;
use super::transfers::SnapshotCounts;

/// How many types of messages there are between nodes.
const MESSAGE_TYPES: usize = 15;

/// In so many runs everything that becomes of snapshots must have happened.
const RUNS_WITH_ALL_OF_SNAPSHOTS: u64 = 200;
/// In so many runs every fault of sockets must have happened.
const RUNS_WITH_ALL_OF_SOCKETS: u64 = 100;

/// What became of disks that were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskCounts {
    /// Read back as a power cut would leave them.
    pub(crate) read_back: u64,
    /// Refused, with a bit that was another.
    pub(crate) refused: u64,
    /// Requests refused since disks were nearly full.
    pub(crate) refusing: u64,
}

/// Counts over one run or many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) runs: u64,
    pub(crate) simulated: Duration,
    /// Of it, what had at least 20 answers a second on average.
    pub(crate) counted: Duration,
    pub(crate) answers: u64,
    pub(crate) unknown: u64,
    pub(crate) leaders: u64,
    pub(crate) events: u64,
    pub(crate) disks: DiskCounts,
    /// Runs in which the search for a linear order was given up.
    pub(crate) undecided: u64,
    pub(crate) snapshots: SnapshotCounts,
    pub(crate) faults: FaultCounts,
    messages: [u64; MESSAGE_TYPES + 1],
}

/// What went wrong, and how often.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultCounts {
    planned: BTreeMap<Fault, u64>,
    pub(crate) at_sockets: BTreeMap<SocketFault, u64>,
    /// Messages that waited in front of a full socket.
    pub(crate) late_messages: u64,
}

impl FaultCounts {
    fn add(&mut self, run: &FaultCounts) {
        for (fault, count) in &run.planned {
            *self.planned.entry(*fault).or_insert(0) += count;
        }
        for (fault, count) in &run.at_sockets {
            *self.at_sockets.entry(*fault).or_insert(0) += count;
        }
        self.late_messages += run.late_messages;
    }
}

impl Stats {
    pub(crate) fn on_fault(&mut self, fault: Fault) {
        *self.faults.planned.entry(fault).or_insert(0) += 1;
    }

    /// A message's first byte is its type.
    pub(crate) fn on_message(&mut self, bytes: &[u8]) {
        self.messages[bytes[0] as usize] += 1;
    }

    pub(crate) fn add(&mut self, run: &Stats) {
        self.runs += run.runs;
        self.simulated += run.simulated;
        self.counted += run.counted;
        self.answers += run.answers;
        self.unknown += run.unknown;
        self.leaders += run.leaders;
        self.events += run.events;
        self.disks.read_back += run.disks.read_back;
        self.disks.refused += run.disks.refused;
        self.undecided += run.undecided;
        self.snapshots.add(&run.snapshots);
        self.disks.refusing += run.disks.refusing;
        self.faults.add(&run.faults);
        for (sum, count) in self.messages.iter_mut().zip(run.messages) {
            *sum += count;
        }
    }

    pub(crate) fn fault_count(&self) -> u64 {
        self.faults.planned.values().sum()
    }

    /// What a run of this length should have exercised and did not; empty if all is well.
    pub(crate) fn shortcomings(&self, mode: Mode) -> Vec<String> {
        let mut found = Vec::new();
        let seconds = self.simulated.as_secs();
        let missing: Vec<usize> = (1..=MESSAGE_TYPES).filter(|kind| self.messages[*kind] == 0).collect();
        if !missing.is_empty() {
            found.push(format!("no message of the types {missing:?}"));
        }
        let faults = super::plan::all_faults(mode);
        let missing: Vec<&Fault> =
            faults.iter().filter(|fault| !self.faults.planned.contains_key(fault)).collect();
        if !missing.is_empty() {
            found.push(format!("no fault of the kinds {missing:?}"));
        }
        let missing = self.snapshots.missing();
        if !missing.is_empty() && self.runs >= RUNS_WITH_ALL_OF_SNAPSHOTS {
            found.push(format!("no snapshot was {missing:?}"));
        }
        if self.disks.refusing == 0 && self.runs >= RUNS_WITH_ALL_OF_SNAPSHOTS {
            found.push("no request refused for want of space".to_owned());
        }
        let missing: Vec<&SocketFault> =
            SOCKET_FAULTS.iter().filter(|fault| !self.faults.at_sockets.contains_key(fault)).collect();
        if mode == Mode::Bytes && !missing.is_empty() && self.runs >= RUNS_WITH_ALL_OF_SOCKETS {
            found.push(format!("nothing of {missing:?} at any socket"));
        }
        if self.fault_count() < seconds / 5 {
            found.push(format!("{} faults in {seconds} s", self.fault_count()));
        }
        if self.leaders < seconds / 30 {
            found.push(format!("{} leaders in {seconds} s", self.leaders));
        }
        if self.counted < self.simulated / 2 {
            found.push(format!("{} s of {seconds} s had 20 answers a second", self.counted.as_secs()));
        }
        found
    }

    /// Simulated cluster-seconds a real second.
    pub(crate) fn speed(&self, real: Duration) -> f64 {
        self.simulated.as_secs_f64() / real.as_secs_f64().max(1e-9)
    }

    /// The figures, for people.
    pub(crate) fn report(&self, real: Duration) -> String {
        format!(
            "{} runs, {} simulated cluster-seconds ({} counted) in {:.1} s: {:.0} a second\n\
             {} events, {} answers, {} unknown outcomes, {} leaders, {} disk images read back, {} damaged ones refused, {} undecided\n\
             {:?}, {} requests without space\n{} faults: {:?}\nmessages by type: {:?}\n\
             sockets: {} messages late, {:?}",
            self.runs,
            self.simulated.as_secs(),
            self.counted.as_secs(),
            real.as_secs_f64(),
            self.speed(real),
            self.events,
            self.answers,
            self.unknown,
            self.leaders,
            self.disks.read_back,
            self.disks.refused,
            self.undecided,
            self.snapshots,
            self.disks.refusing,
            self.fault_count(),
            self.faults.planned,
            &self.messages[1..],
            self.faults.late_messages,
            self.faults.at_sockets,
        )
    }
}
