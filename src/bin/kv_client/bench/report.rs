//! What people and programs read of the figures.
//!
//! Progress goes to stderr while the load runs, the summary to stdout at its end.

use std::io::{self, Write};

use kvstore::types::NodeId;
use serde_json::{Value, json};

use super::arguments::BenchArguments;
use super::figures::{Figures, Interval};

/// What a load came to, apart from its figures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Result<'a> {
    pub(super) arguments: &'a BenchArguments,
    pub(super) figures: &'a Figures,
    /// Requests of an open loop that were due, and never sent.
    pub(super) unsent: u64,
    /// Idle connections that were open at the end.
    pub(super) idle: usize,
}

/// The heading of [`progress`].
pub(super) fn heading(what: &str) {
    say(&format!(
        "{what}\n{:>8} {:>10} {:>9} {:>9} {:>7} {:>7}",
        "seconds", "per second", "p50 us", "p99 us", "leader", "errors"
    ));
}

/// A line of progress.
pub(super) fn progress(interval: &Interval, leader: Option<NodeId>) {
    let leader = leader.map_or("-".to_owned(), |leader| leader.to_string());
    say(&format!(
        "{:>8.1} {:>10.0} {:>9.0} {:>9.0} {leader:>7} {:>7}",
        interval.at.as_secs_f64(),
        interval.answers_per_second(),
        interval.p50_us,
        interval.p99_us,
        interval.failures,
    ));
}

/// Whoever looked on may have gone; the measurement goes on.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

impl Result<'_> {
    /// The summary for people.
    pub(super) fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let figures = self.figures;
        let seconds = figures.duration().as_secs_f64();
        let (answers, rate) = (figures.answers, figures.answers_per_second());
        writeln!(out, "{}", describe(self.arguments))?;
        writeln!(out, "  {answers} answers in {seconds:.3} s, {rate:.0} a second")?;
        let latencies = &figures.latencies;
        let shown = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
        let mut columns: Vec<String> =
            shown.iter().map(|(name, share)| format!("{name} {:.0}", latencies.at(*share))).collect();
        columns.push(format!("max {:.0}", latencies.max()));
        writeln!(out, "  latency in us: {}", columns.join(", "))?;
        let gap = figures.longest_gap().as_secs_f64() * 1e3;
        writeln!(out, "  longest gap between two acknowledgements: {gap:.1} ms")?;
        let errors = figures.errors.iter().map(|(word, count)| format!(" {word} {count}"));
        let errors = errors.collect::<Vec<_>>().join(",");
        let (count, unknown) = (figures.errors.values().sum::<u64>(), figures.unknown);
        writeln!(
            out,
            "  errors: {count}{}{errors}; unknown outcomes: {unknown}",
            if count > 0 { ":" } else { "" }
        )?;
        for (what, count) in self.remarks().into_iter().filter(|(_, count)| *count > 0) {
            writeln!(out, "  {what}: {count}")?;
        }
        Ok(())
    }

    /// The summary for programs: one object on one line.
    pub(super) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let BenchArguments { op, clients, pipeline, rate, data, .. } = self.arguments;
        let figures = self.figures;
        let latencies = &figures.latencies;
        let curve = curve_shares().map(|share| json!([share, latencies.at(share)])).collect::<Vec<Value>>();
        let intervals = figures.intervals.iter().map(|interval| {
            json!({
                "at_s": interval.at.as_secs_f64(),
                "ops_per_s": interval.answers_per_second(),
                "p50_us": interval.p50_us,
                "p99_us": interval.p99_us,
                "max_us": interval.max_us,
                "errors": interval.failures,
            })
        });
        let mut object = json!({
            "ok": figures.failures() == 0,
            "op": op.as_str(),
            "clients": clients,
            "pipeline": pipeline,
            "rate": rate,
            "keys": data.keys,
            "value_bytes": data.value_bytes,
            "distribution": data.distribution.as_str(),
            "answers": figures.answers,
            "seconds": figures.duration().as_secs_f64(),
            "ops_per_s": figures.answers_per_second(),
            "p50_us": latencies.at(0.5),
            "p90_us": latencies.at(0.9),
            "p99_us": latencies.at(0.99),
            "p999_us": latencies.at(0.999),
            "max_us": latencies.max(),
            "longest_gap_ms": figures.longest_gap().as_secs_f64() * 1e3,
            "errors": figures.errors.values().sum::<u64>(),
            "errors_by_word": figures.errors,
            "unknown": figures.unknown,
            "curve_us": curve,
            "intervals": intervals.collect::<Vec<Value>>(),
        });
        for (what, count) in self.remarks() {
            object[what.replace(' ', "_")] = json!(count);
        }
        writeln!(out, "{object}")
    }

    /// What else happened, if it did.
    fn remarks(&self) -> [(&'static str, u64); 5] {
        [
            ("not found", self.figures.not_found),
            ("mismatches", self.figures.mismatches),
            ("sent again", self.figures.resent),
            ("due and never sent", self.unsent),
            ("idle connections", self.idle as u64),
        ]
    }
}

/// The shares whose latencies make the curve of `--json`: every hundredth, and the tail.
fn curve_shares() -> impl Iterator<Item = f64> {
    let hundredths = (0..100).map(|hundredth| f64::from(hundredth) / 100.0);
    hundredths.chain([0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0])
}

/// The load in a line.
pub(super) fn describe(arguments: &BenchArguments) -> String {
    let BenchArguments { op, clients, pipeline, rate, data, .. } = arguments;
    let rate = rate.map_or("closed loop".to_owned(), |rate| format!("open loop of {rate} a second"));
    format!(
        "{}, {clients} clients with {pipeline} in flight each, {rate}, {} keys ({}), values of {} bytes",
        op.as_str(),
        data.keys,
        data.distribution.as_str(),
        data.value_bytes,
    )
}
