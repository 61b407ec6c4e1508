//! Bugs planted on purpose, to see whether the tests find them; `docs/testing.md` has the table.
//!
//! A release build has none: there [`is_planted`] is a constant `false`. What `cargo test` builds
//! asks a thread-local switch, which nothing but a test turns; so do optimised builds with the feature
//! `planted-bugs`, for those who want to try many seeds.
//!
//! Where code asks for a bug, the question is one term of the condition that the bug breaks, or alone
//! the condition of an `if` or an arm whose only work is the bug: without it the rest reads as it runs.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A bug that some system really had, or that comes close to one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        /// All of them.
        #[cfg(any(debug_assertions, feature = "planted-bugs"))]
        pub const ALL: [Bug; [$(Bug::$name),*].len()] = [$(Bug::$name),*];
    };
}

bugs! {
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
    /// A snapshot lacks the sessions.
    SessionsNotInSnapshot,
    /// Each node expires sessions by its own clock.
    ExpiryByLocalClock,
    /// The log is released when the snapshot that replaces it is begun.
    LogReleasedEarly,
    /// What follows an installed snapshot's index in the log is kept.
    TailKept,
    /// A log is cut at the first record that cannot be read, though it was synced.
    DamageCut,
    /// A snapshot is called installed with its last chunk.
    InstalledEarly,
    /// An entry that was compacted away has term 0.
    CompactedTermIsZero,
    /// A follower that lacks what was compacted away is sent nothing.
    NoSnapshotSent,
    /// A vote is lost with the segment that it was stored in.
    VoteReleased,
    /// At a start the replaced snapshot is removed before the record that names its successor is
    /// known to be durable.
    SnapshotRemovedEarly,
    /// The length that a frame claims is not compared with the limit.
    LengthUnchecked,
}

/// Those that only byte streams can show.
#[cfg(any(debug_assertions, feature = "planted-bugs"))]
pub const OF_STREAMS: [Bug; 5] =
    [Bug::TimersBeforeSockets, Bug::OutputUnbounded, Bug::SlotReused, Bug::OldBootKept, Bug::ClosedIsDead];

/// Whether this bug is there: never, in a release build.
#[cfg(not(any(debug_assertions, feature = "planted-bugs")))]
#[must_use]
pub const fn is_planted(_: Bug) -> bool {
    false
}

#[cfg(any(debug_assertions, feature = "planted-bugs"))]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, in place of any other.
#[cfg(any(debug_assertions, feature = "planted-bugs"))]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is there.
#[cfg(any(debug_assertions, feature = "planted-bugs"))]
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether a test fails while this bug is there, as it should.
#[cfg(any(debug_assertions, feature = "planted-bugs"))]
#[must_use]
pub fn is_caught(bug: Bug, test: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    plant(Some(bug));
    let result = std::panic::catch_unwind(test);
    plant(None);
    result.is_err()
}
