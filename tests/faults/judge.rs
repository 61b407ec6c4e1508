//! What a run is judged by.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::history::{Attempt, Ending, History};
use crate::history_lines::parse_attempts;
use crate::linearizability::{Verdict, check};
use crate::load::deadline_of;
use crate::revisions;
use crate::store_model::Input;

/// Steps for one key, far more than a key of a run needs. A key that takes more is not decided, and
/// that is no success.
const STEP_LIMIT: u64 = 2_000_000;
/// A run with fewer answered reads or writes shows nothing.
const LEAST_ANSWERS: usize = 50;
/// How far beyond its deadline a call may end on a machine that does not stall.
const GRACE: Duration = Duration::from_millis(500);

/// What the calls of a run came to.
#[derive(Default)]
pub(crate) struct Summary {
    answered: usize,
    failed: usize,
    unknown: usize,
    sent_again: usize,
    longest: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, failed, unknown, sent_again, longest } = self;
        write!(f, "{answered} answered, {failed} refused, {unknown} unknown, {sent_again} sent again, ")?;
        write!(f, "the longest took {:.1} ms", longest.as_secs_f64() * 1e3)
    }
}

/// The attempts of a history in a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Attempt>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_attempts(&text).map_err(|malformed| anyhow::anyhow!("{}: {malformed}", path.display()))
}

/// Judges a history. The machine stood still for `stalled` in all.
pub(crate) fn judge(attempts: &[Attempt], stalled: Duration) -> Result<Summary> {
    let summary = summarise(attempts);
    let is_late = |attempt: &&Attempt| took(attempt) > deadline_of(attempt.client) + GRACE + stalled;
    let late = attempts.iter().find(is_late);
    ensure!(late.is_none(), "not answered within its deadline: {late:?}");
    check_coverage(attempts)?;
    let history = match History::new(attempts.to_vec()) {
        Ok(history) => history,
        Err(contradiction) => bail!("not applied once: {contradiction}"),
    };
    holds("linearizable", check(&history.by_key(), STEP_LIMIT))?;
    holds("revisions", revisions::check(&history, STEP_LIMIT))?;
    Ok(summary)
}

fn holds<V: fmt::Display>(rule: &str, verdict: Verdict<V>) -> Result<()> {
    ensure!(matches!(verdict, Verdict::Holds), "{rule}: {verdict}");
    Ok(())
}

/// Both kinds of calls were answered, and reads by followers too: by more nodes than lead at a time.
fn check_coverage(attempts: &[Attempt]) -> Result<()> {
    let answered = || attempts.iter().filter(|attempt| attempt.answer().is_some());
    let reads = answered().filter(|attempt| attempt.input == Input::Get).count();
    let writes = answered().count() - reads;
    ensure!(reads >= LEAST_ANSWERS && writes >= LEAST_ANSWERS, "only {reads} reads and {writes} writes");
    let readers: BTreeSet<_> = answered().filter(|a| a.input == Input::Get).map(|a| a.node).collect();
    ensure!(readers.len() > 1, "only {readers:?} answered reads");
    Ok(())
}

fn summarise(attempts: &[Attempt]) -> Summary {
    let mut summary = Summary::default();
    let mut writes = BTreeSet::new();
    for attempt in attempts {
        *match attempt.ending {
            Ending::Ok { .. } => &mut summary.answered,
            Ending::Fail { .. } => &mut summary.failed,
            Ending::Unknown { .. } => &mut summary.unknown,
        } += 1;
        summary.longest = summary.longest.max(took(attempt));
        if let Some(sequence) = attempt.sequence {
            summary.sent_again += usize::from(!writes.insert((attempt.client, sequence)));
        }
    }
    summary
}

/// How long a call took.
fn took(attempt: &Attempt) -> Duration {
    let ended = match attempt.ending {
        Ending::Ok { ret_ns, .. } | Ending::Fail { ret_ns } => ret_ns,
        Ending::Unknown { ret_ns } => ret_ns.expect("the driver notes every end"),
    };
    Duration::from_nanos(ended - attempt.call_ns)
}
