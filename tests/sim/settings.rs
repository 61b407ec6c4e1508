//! What the environment asks of the simulator: variables that begin with `SIM_`, and `WIDE_SEEDS`.

use kvstore::time::Duration;

use super::case::{Numbers, Reduction};
use super::pipe_plan::Mode;

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The number that a variable holds.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = text(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// `SIM_MODE=messages` or `bytes`; both, one after the other, if nothing is asked for.
pub(crate) fn modes() -> Vec<Mode> {
    match text("SIM_MODE") {
        Some(name) => {
            vec![
                Mode::named(&name).unwrap_or_else(|| panic!("SIM_MODE={name} is neither messages nor bytes")),
            ]
        }
        None => vec![Mode::Messages, Mode::Bytes],
    }
}

/// `SIM_SKIP=1-14,16,20-` leaves out the faults of these numbers, `SIM_CLIENTS=n` lets only the first
/// so many clients ask, and `SIM_TURMOIL_MS=n` ends the faults earlier.
pub(crate) fn reduction() -> Reduction {
    let skipped = text("SIM_SKIP").map(|text| Numbers::parse(&text));
    Reduction {
        skipped: skipped.map_or_else(Numbers::default, |parsed| {
            parsed.unwrap_or_else(|error| panic!("SIM_SKIP: {error}"))
        }),
        clients: number("SIM_CLIENTS").map(|count| match count {
            0 => panic!("SIM_CLIENTS=0 leaves nobody to ask: at least 1"),
            count => count as usize,
        }),
        turmoil: number("SIM_TURMOIL_MS").map(Duration::from_millis),
    }
}

/// The bug that `SIM_BUG` names.
#[cfg(any(debug_assertions, feature = "planted-bugs"))]
pub(crate) fn bug() -> Option<kvstore::planted::Bug> {
    use kvstore::planted::ALL;
    let name = text("SIM_BUG")?;
    let bug = ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    Some(bug.unwrap_or_else(|| panic!("SIM_BUG={name} is none of {ALL:?}")))
}
