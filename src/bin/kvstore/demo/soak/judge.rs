//! What a soak must not do, and what it did.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvstore::server::config::DEFAULT_ELECTION_MS;

use super::super::bystander::Bystander;
use super::super::cluster::{Cluster, LogLine};
use super::NODES;
use super::load::Requests;
use super::stretch::{Seen, Stretch};

/// How far before an election its excuse may lie.
const EXCUSE_WINDOW: Duration = Duration::from_secs(1);
/// What guests may cost another client: so many times what a calm stretch shows, and so many milliseconds.
const LIGHT_TIMES: f64 = 2.0;
const LIGHT_MORE_MS: f64 = 5.0;
/// What a node may keep of guests: warm buffers and the allocator's share. It comes on top of the most that the
/// node held before them, and of its growth in the calm stretch before them: the log that is kept in memory grows
/// until a snapshot, and is no leak.
const KEPT_MIB: u64 = 24;
/// Sockets that are open for a moment: links that are dialled, the look at a status. Files are shown and not judged,
/// as the log opens segments of its own accord and closes them after a snapshot.
const KEPT_SOCKETS: usize = 4;

/// The elections of a stretch.
struct Elections {
    all: usize,
    unexcused: usize,
}

/// One line of the judgement.
struct Row {
    what: String,
    seen: String,
    at_most: String,
    holds: bool,
    note: String,
}

/// Prints what was seen of each stretch, and how it compares with what may be.
///
/// # Errors
/// What did not hold.
pub(super) fn judge(
    cluster: &mut Cluster,
    bystander: &mut Bystander,
    stretches: &[Seen],
    failed: u64,
) -> Result<()> {
    println!(
        "\n  {:<28} {:>7} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "stretch", "seconds", "requests/s", "median", "99 %", "max", "gap ms", "elections"
    );
    let mut rows = vec![Row::count("requests that failed", failed)];
    for seen in stretches {
        let elections = judge_elections(cluster, bystander, seen)?;
        seen.report(bystander.longest(seen.began, seen.ended), elections.all);
        let what = format!("unexcused elections, {}", seen.stretch.as_str());
        rows.push(Row::count(&what, elections.unexcused as u64));
    }
    println!(
        "  median, 99 %, max: ms that a light client's puts took; gap: the longest nap of the bystander"
    );
    rows.push(judge_light(bystander, stretches)?);
    rows.extend(judge_footprints(stretches)?);
    println!("\n  {:<52} {:>10} {:>10}", "", "seen", "at most");
    rows.iter().for_each(Row::report);
    let missed: Vec<&str> = rows.iter().filter(|row| !row.holds).map(|row| row.what.as_str()).collect();
    ensure!(missed.is_empty(), "{}", missed.join("; "));
    Ok(())
}

impl Row {
    fn count(what: &str, seen: u64) -> Self {
        Self::of(what.to_owned(), seen, 0)
    }

    fn of(what: String, seen: u64, at_most: u64) -> Self {
        let (holds, note) = (seen <= at_most, String::new());
        Self { what, seen: seen.to_string(), at_most: at_most.to_string(), holds, note }
    }

    fn report(&self) {
        let verdict = if self.holds { "held" } else { "MISSED" };
        println!("  {:<52} {:>10} {:>10}  {verdict}{}", self.what, self.seen, self.at_most, self.note);
    }
}

impl Seen {
    fn report(&self, gap: Duration, elections: usize) {
        let seconds = (self.ended - self.began).as_secs_f64();
        let rate = self.done as f64 / seconds;
        let [median, most, longest] = self.light.millis().unwrap_or([f64::NAN; 3]);
        let gap = gap.as_secs_f64() * 1e3;
        print!("  {:<28} {seconds:>7.0} {rate:>10.0} ", self.stretch.as_str());
        println!("{median:>9.2} {most:>9.2} {longest:>9.2} {gap:>9.1} {elections:>9}");
    }
}

/// Tells of each election that began in a stretch, and counts those that no gap of the bystander excuses.
fn judge_elections(cluster: &mut Cluster, bystander: &mut Bystander, seen: &Seen) -> Result<Elections> {
    let shortest = DEFAULT_ELECTION_MS.split('-').next().context("a shortest election timeout")?;
    let excuse = Duration::from_millis(shortest.parse()?) / 2;
    let lines = cluster.lines_since(seen.began, |line| line.contains("election started"));
    let lines: Vec<LogLine> = lines.into_iter().filter(|line| line.at < seen.ended).collect();
    let mut unexcused = 0;
    for line in &lines {
        let gap = bystander.longest(line.at - EXCUSE_WINDOW, line.at);
        unexcused += usize::from(gap <= excuse);
        let gap = gap.as_secs_f64() * 1e3;
        println!("    {gap:.1} ms of gap in the second before: {}", line.text);
    }
    Ok(Elections { all: lines.len(), unexcused })
}

/// The light client among the guests, against itself before them.
fn judge_light(bystander: &mut Bystander, stretches: &[Seen]) -> Result<Row> {
    let (before, with) = (find(stretches, Stretch::Before)?, find(stretches, Stretch::Guests)?);
    let most = |requests: &Requests| {
        let [_, most, _] = requests.millis().context("the light client got no answer at all")?;
        Ok::<_, anyhow::Error>(most)
    };
    let (calm, seen) = (most(&before.light)?, most(&with.light)?);
    let at_most = LIGHT_TIMES * calm + LIGHT_MORE_MS;
    // Load makes gaps too: only one that is no part of the calm stretch is a pause of the machine.
    let usual = bystander.longest(before.began, before.ended).mul_f64(LIGHT_TIMES);
    let mut note = format!(", {} guests came", with.happened);
    let mut holds = seen <= at_most;
    if !holds {
        let took = without_pauses(with, usual, |since, until| bystander.longest(since, until));
        let rest = most(&took)?;
        holds = rest <= at_most;
        note +=
            &format!("; {rest:.2} without pauses of the machine beyond {:.1} ms", usual.as_secs_f64() * 1e3);
    }
    let what = "99 % of a light client's puts beside guests, ms".to_owned();
    Ok(Row { what, seen: format!("{seen:.2}"), at_most: format!("{at_most:.2}"), holds, note })
}

/// The light client's puts, each without the pause that touched it, if that was longer than `usual`.
fn without_pauses(
    seen: &Seen,
    usual: Duration,
    mut longest: impl FnMut(Instant, Instant) -> Duration,
) -> Requests {
    let mut rest = Requests::named("");
    for (took_us, began) in seen.light.took_us.iter().zip(&seen.light_began) {
        let gap = longest(*began, *began + Duration::from_micros(u64::from(*took_us)));
        let pause = if gap > usual { gap } else { Duration::ZERO };
        let pause_us = u32::try_from(pause.as_micros()).unwrap_or(u32::MAX);
        rest.took_us.push(took_us.saturating_sub(pause_us));
    }
    rest
}

/// What each node holds when the guests are gone, against what it held before them.
fn judge_footprints(stretches: &[Seen]) -> Result<Vec<Row>> {
    let of = |stretch, node: usize| Ok::<_, anyhow::Error>(find(stretches, stretch)?.nodes[node]);
    let mut rows = Vec::new();
    for node in 0..NODES {
        let (start, before) = (of(Stretch::Stop, node)?, of(Stretch::Before, node)?);
        let (with, after) = (of(Stretch::Guests, node)?, of(Stretch::After, node)?);
        ensure!(with.sockets > before.sockets, "node {} let no guest in", node + 1);
        // The load goes on meanwhile, for one and a half times as long as in the calm stretch before.
        let growth = before.resident_mib().saturating_sub(start.resident_mib()) * 3 / 2;
        let usual = before.peak_mib().max(before.resident_mib() + growth);
        let what = format!("node {}: resident after the guests, MiB", node + 1);
        let note = format!(
            ", {} before the calm, {} after it, peak {}, {} beside guests",
            start.resident_mib(),
            before.resident_mib(),
            before.peak_mib(),
            with.resident_mib()
        );
        rows.push(Row { note, ..Row::of(what, after.resident_mib(), usual + KEPT_MIB) });
        let what = format!("node {}: open sockets after the guests", node + 1);
        let note = format!(
            ", {} before them, {} beside them; {} files before, {} after",
            before.sockets, with.sockets, before.files, after.files
        );
        let at_most = before.sockets + KEPT_SOCKETS;
        rows.push(Row { note, ..Row::of(what, after.sockets as u64, at_most as u64) });
    }
    Ok(rows)
}

fn find(stretches: &[Seen], stretch: Stretch) -> Result<&Seen> {
    stretches.iter().find(|seen| seen.stretch == stretch).context("a stretch was left out")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred puts, 10 ms apart, of which the last five took 50 ms.
    fn five_slow_puts(began: Instant) -> Seen {
        let mut light = Requests::named("light");
        light.took_us = [vec![1_000; 95], vec![50_000; 5]].concat();
        let light_began = (0..100).map(|put| began + Duration::from_millis(10 * put)).collect();
        let ended = began + Duration::from_secs(2);
        let stretch = Stretch::Guests;
        Seen { stretch, began, ended, done: 0, light, light_began, nodes: Vec::new(), happened: 1 }
    }

    fn most_without(pause: Duration, from_ms: u64) -> f64 {
        let began = Instant::now();
        let paused = began + Duration::from_millis(from_ms);
        let gap = |_, until| if until >= paused { pause } else { Duration::ZERO };
        let rest = without_pauses(&five_slow_puts(began), Duration::from_millis(10), gap);
        rest.millis().expect("there are some")[1]
    }

    #[test]
    fn pause_of_the_machine_explains_the_puts_that_it_touched_and_no_others() {
        assert_eq!(most_without(Duration::from_millis(45), 900), 5.0);
        assert_eq!(most_without(Duration::from_millis(45), 5_000), 50.0);
    }

    #[test]
    fn gap_as_the_load_makes_them_explains_nothing() {
        assert_eq!(most_without(Duration::from_millis(10), 900), 50.0);
    }
}
