//! Bugs planted on purpose, to see whether the tests find them; `docs/testing.md` has the table.
//!
//! Without the feature `planted-bugs` there is none: [`is_planted`] is a constant `false`, and no
//! release is built with it.

/// A bug that some system really had, or that comes close to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Entries of earlier terms are committed by counting (the paper's Figure 8).
    OldTermCounted,
    /// A vote leaves before it is durable.
    VoteNotSynced,
    /// Entries are acknowledged before they are durable.
    AckBeforeSync,
    /// A leader counts entries that its own disk does not have yet.
    OwnEntriesCountedEarly,
    /// A vote is granted whatever the candidate's log.
    LogNotCompared,
    /// A vote is granted whoever had it before.
    VoteGivenTwice,
    /// An AppendEntries always removes what follows it.
    OverlapTruncated,
    /// A leader answers reads without a round.
    ReadWithoutRound,
    /// A new leader answers reads before it committed an entry of its own.
    ReadBeforeNoOp,
    /// A late answer to a round confirms the newest.
    LateRoundCounted,
    /// Acknowledgements of an earlier term count.
    LateAckCounted,
    /// A follower commits up to its own last entry.
    OwnTailCommitted,
    /// The vote is forgotten with a step-down within the term.
    VoteForgotten,
    /// Candidates ask for votes without asking first.
    NoPreVote,
    /// A hand-over that fails is never given up.
    TransferKept,
    /// What is lost behind a full window is never found out.
    LossNotNoticed,
    /// A failed sync is tried again, and believed.
    SyncRetried,
    /// Names of files are not made durable.
    NoDirectorySync,
    /// A new term or vote alone is not stored.
    HardStateNotStored,
    /// A compare-and-set sometimes compares with nothing.
    CompareSkipped,
    /// A session's record is not consulted.
    DuplicateApplied,
    /// Reads do not wait until their index is applied.
    ReadNotWaiting,
    /// Whoever waits for an entry is told that it was applied, though another took its place.
    OverwrittenAcknowledged,
    /// A write is acknowledged once it is in the leader's log.
    AnsweredBeforeCommit,
    /// Timers are fired before the sockets are read.
    TimersBeforeSockets,
    /// Output that nobody takes is kept without bound.
    OutputUnbounded,
    /// A connection's slot is free at once, and its name is the slot alone.
    SlotReused,
    /// Of two links the older is kept, whatever the boots behind them.
    OldBootKept,
    /// A redial that is accepted and closed counts as refused.
    ClosedIsDead,
}

/// All of them.
#[cfg(feature = "planted-bugs")]
pub const ALL: [Bug; 24] = [
    Bug::OldTermCounted,
    Bug::VoteNotSynced,
    Bug::AckBeforeSync,
    Bug::OwnEntriesCountedEarly,
    Bug::LogNotCompared,
    Bug::VoteGivenTwice,
    Bug::OverlapTruncated,
    Bug::ReadWithoutRound,
    Bug::ReadBeforeNoOp,
    Bug::LateRoundCounted,
    Bug::LateAckCounted,
    Bug::OwnTailCommitted,
    Bug::VoteForgotten,
    Bug::NoPreVote,
    Bug::TransferKept,
    Bug::LossNotNoticed,
    Bug::SyncRetried,
    Bug::NoDirectorySync,
    Bug::HardStateNotStored,
    Bug::CompareSkipped,
    Bug::DuplicateApplied,
    Bug::ReadNotWaiting,
    Bug::OverwrittenAcknowledged,
    Bug::AnsweredBeforeCommit,
];

/// Those that only byte streams can show.
#[cfg(feature = "planted-bugs")]
pub const OF_STREAMS: [Bug; 5] =
    [Bug::TimersBeforeSockets, Bug::OutputUnbounded, Bug::SlotReused, Bug::OldBootKept, Bug::ClosedIsDead];

/// Whether this bug is there: never, without the feature.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn is_planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, in place of any other.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is there.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
