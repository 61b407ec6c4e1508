//! Which run: a seed in a mode, all of it or less.

use std::fmt;

use kvstore::time::Duration;

use super::pipe_plan::Mode;
use super::plan::{DueFault, Plan};

/// A run, as one can ask for it again.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) mode: Mode,
    pub(crate) seed: u64,
    pub(crate) reduction: Reduction,
}

/// What is left out of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reduction {
    /// The numbers of faults that do not happen.
    pub(crate) skipped: Numbers,
    /// Only the first so many clients ask.
    pub(crate) clients: Option<usize>,
    /// Things go wrong for so long only.
    pub(crate) turmoil: Option<Duration>,
}

/// Some numbers: ascending ranges that do not touch, first and last included. A last range up to
/// `u64::MAX` is written without its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers(Vec<(u64, u64)>);

impl Case {
    /// All of a seed's run.
    pub(crate) fn whole(mode: Mode, seed: u64) -> Self {
        Self { mode, seed, reduction: Reduction::default() }
    }

    /// Whether nothing is left out.
    pub(crate) fn is_whole(&self) -> bool {
        self.reduction == Reduction::default()
    }

    /// The seed's plan, less what is left out; `faults` are those of the whole run, and without need
    /// where nothing is left out.
    pub(crate) fn plan(&self, faults: &[DueFault]) -> Plan {
        let mut plan = Plan::draw(self.seed, self.mode);
        let Reduction { skipped, clients, turmoil } = &self.reduction;
        if !self.is_whole() {
            let kept = faults.iter().filter(|due| !skipped.contains(due.number));
            plan.faults.fixed = Some(kept.cloned().collect());
        }
        plan.clients.asking = plan.clients.count.min(clients.unwrap_or(usize::MAX));
        plan.turmoil = plan.turmoil.min(turmoil.unwrap_or(Duration::MAX));
        plan
    }

    /// The command that makes this run, with one more setting.
    pub(crate) fn command(&self, setting: &str) -> String {
        let Self { mode, seed, reduction } = self;
        let (mode, bug) = (mode.name(), planted());
        format!(
            "{bug}SIM_MODE={mode} SIM_SEED={seed} {reduction}{setting} \
             cargo test --test simulation -- --nocapture one_seed"
        )
    }
}

/// How to plant the bug that is planted now.
#[cfg(any(debug_assertions, feature = "planted-bugs"))]
fn planted() -> String {
    let bug = kvstore::planted::ALL.into_iter().find(|bug| kvstore::planted::is_planted(*bug));
    bug.map_or_else(String::new, |bug| format!("SIM_BUG={bug:?} "))
}

#[cfg(not(any(debug_assertions, feature = "planted-bugs")))]
fn planted() -> &'static str {
    ""
}

/// The settings that ask for it, each with a space behind it.
impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.skipped != Numbers::default() {
            write!(f, "SIM_SKIP={} ", self.skipped)?;
        }
        if let Some(clients) = self.clients {
            write!(f, "SIM_CLIENTS={clients} ")?;
        }
        match self.turmoil {
            Some(turmoil) => write!(f, "SIM_TURMOIL_MS={} ", turmoil.as_millis()),
            None => Ok(()),
        }
    }
}

impl Numbers {
    /// All from 1 on but these, which ascend.
    pub(crate) fn all_but(kept: &[u64]) -> Self {
        let before = kept.iter().scan(1, |from, kept| Some((std::mem::replace(from, kept + 1), kept - 1)));
        let after = (kept.last().map_or(1, |last| last + 1), u64::MAX);
        Self(before.filter(|(from, to)| from <= to).chain([after]).collect())
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&number))
    }

    /// Reads "1-14,16,20-"; the error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let ranges: Result<Vec<(u64, u64)>, String> = text.split(',').map(parse_range).collect();
        let ranges = ranges?;
        match ranges.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
            Some(pair) => Err(format!("{} does not come after what stands before it", Self(vec![pair[1]]))),
            None => Ok(Self(ranges)),
        }
    }
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let range = match text.split_once('-') {
        Some((from, "")) => from.parse().ok().map(|from| (from, u64::MAX)),
        Some((from, to)) => from.parse().ok().zip(to.parse().ok()),
        None => text.parse().ok().map(|number| (number, number)),
    };
    let is_range = |(from, to): &(u64, u64)| (1..=*to).contains(from);
    range.filter(is_range).ok_or_else(|| {
        format!(
            "{text:?} is neither a number from 1 on nor a range such as 3-7 or 9-; between them stand commas"
        )
    })
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (from, to)) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match *to {
                u64::MAX => write!(f, "{comma}{from}-")?,
                to if to == *from => write!(f, "{comma}{from}")?,
                to => write!(f, "{comma}{from}-{to}")?,
            }
        }
        Ok(())
    }
}

#[test]
fn skipped_numbers_are_read_as_they_are_written() {
    for text in ["3", "1-14,16,20-", "1-", "2-3,5-6"] {
        assert_eq!(Numbers::parse(text).unwrap().to_string(), text);
    }
    let kept = [2, 3, 17];
    let skipped = Numbers::all_but(&kept);
    assert_eq!(skipped.to_string(), "1,4-16,18-");
    assert_eq!((1..30).filter(|number| !skipped.contains(*number)).collect::<Vec<_>>(), kept);
    assert_eq!(Numbers::all_but(&[]).to_string(), "1-");
}

#[test]
fn skipped_numbers_that_make_no_sense_are_refused_by_name() {
    for (text, culprit) in
        [("", "\"\""), ("x", "\"x\""), ("0-3", "\"0-3\""), ("1,7-5", "\"7-5\""), ("1-2-3", "\"1-2-3\"")]
    {
        let error = Numbers::parse(text).unwrap_err();
        assert!(error.starts_with(culprit), "{text}: {error}");
    }
    assert_eq!(Numbers::parse("4-9,6").unwrap_err(), "6 does not come after what stands before it");
}
