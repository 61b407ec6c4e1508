//! What snapshots, compaction, catching up and restarts cost: each number that is to be held, beside its
//! target.
//!
//! `cargo bench --bench bounded` takes about five minutes: three nodes, a million keys of 16 bytes with
//! values of 100. `-- --quick` is a look at each with a hundredth of that, and judges nothing. `-- memory`
//! runs only the rows whose names begin so: pauses, disk, memory, restart, catch-up.

#[path = "load/mod.rs"]
#[expect(unused, reason = "other benches use the rest")]
mod load;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use load::{Nodes, figure, machine};

const MIB: u64 = 1 << 20;

/// How much is written.
struct Extent {
    keys: u64,
    is_quick: bool,
}

impl Extent {
    /// A number of requests that goes with a million keys.
    fn scaled(&self, of_a_million: u64) -> u64 {
        of_a_million * self.keys / 1_000_000
    }

    fn data(&self) -> String {
        format!("--keys {} --value-bytes 100", self.keys)
    }
}

/// What was measured, and what it must not exceed.
struct Row {
    what: &'static str,
    measured: f64,
    target: f64,
    unit: &'static str,
}

type Part = fn(&Extent) -> Result<Vec<Row>>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let is_quick = words.iter().any(|word| word == "--quick" || word == "--test");
    let extent = Extent { keys: if is_quick { 10_000 } else { 1_000_000 }, is_quick };
    println!("{}. Nodes and load share it.", machine());
    println!("{} keys of 16 bytes, values of 100, three nodes, every write synced.\n", extent.keys);
    println!("| what | measured | at most | |\n|---|---:|---:|---|");
    let parts: [(&str, Part); 5] = [
        ("pauses", pauses),
        ("disk", disk),
        ("memory", memory),
        ("restart", restart),
        ("catch-up", catch_up),
    ];
    let names: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|word| name.starts_with(word.as_str()));
    for (_, part) in parts.into_iter().filter(|(name, _)| is_wanted(name)) {
        for Row { what, measured, target, unit } in part(&extent)? {
            let verdict = match measured <= target {
                true => "",
                false if extent.is_quick => "(not judged)",
                false => "**missed**",
            };
            println!("| {what} | {measured:.1} {unit} | {target:.1} {unit} | {verdict} |");
        }
    }
    Ok(())
}

/// Three nodes that hold all keys.
fn filled(extent: &Extent) -> Result<Nodes> {
    let nodes = Nodes::start(3)?;
    nodes.bench(&format!("--clients 64 --pipeline 16 --count 1000 --fill {}", extent.data()))?;
    Ok(nodes)
}

/// Puts at a rate that leaves room: calm, and then while each node takes a snapshot.
fn pauses(extent: &Extent) -> Result<Vec<Row>> {
    let mut nodes = filled(extent)?;
    let seconds = if extent.is_quick { 2 } else { 20 };
    let load = format!("--clients 16 --rate 500 --seconds {seconds} {}", extent.data());
    let calm = figure(&nodes.bench(&load)?, "p999_us")?;
    let since = Instant::now();
    let running = nodes.begin_bench(&load)?;
    nodes.snapshot_each()?;
    let during = figure(&running.finish()?, "p999_us")?;
    let longest = nodes.longest_snapshot_turn_ms(since)?;
    Ok(vec![
        Row {
            what: "put p99.9 during a snapshot, against calm",
            measured: during / calm,
            target: 2.0,
            unit: "times",
        },
        Row {
            what: "longest turn with snapshot or compaction in it",
            measured: longest,
            target: 10.0,
            unit: "ms",
        },
    ])
}

/// Ten overwrites of each key.
fn disk(extent: &Extent) -> Result<Vec<Row>> {
    let nodes = Nodes::start(3)?;
    let count = extent.scaled(10_000_000);
    nodes.bench(&format!("--clients 64 --pipeline 16 --count {count} {}", extent.data()))?;
    let (log, snapshot) = nodes.log_and_snapshot_bytes()?;
    let target = (256 * MIB).max(snapshot * 3 / 2);
    let (measured, target) = ((log / MIB) as f64, (target / MIB) as f64);
    Ok(vec![Row { what: "log on disk after ten overwrites of each key", measured, target, unit: "MiB" }])
}

fn memory(extent: &Extent) -> Result<Vec<Row>> {
    let mut nodes = filled(extent)?;
    let holding = nodes.resident_mib()?;
    let running = nodes.begin_bench(&format!("--clients 16 --rate 500 --seconds 5 {}", extent.data()))?;
    nodes.snapshot_each()?;
    running.finish()?;
    let peak = nodes.peak_resident_mib()?;
    let row = |what, measured: u64| Row { what, measured: measured as f64, target: 400.0, unit: "MiB" };
    Ok(vec![row("memory that holds all keys", holding), row("the most of it, with snapshots", peak)])
}

/// Killed with as much log as there is ever before a snapshot releases it.
fn restart(extent: &Extent) -> Result<Vec<Row>> {
    let mut nodes = filled(extent)?;
    nodes.snapshot_each()?;
    // 64 MiB of log is when the next snapshot is due, and an entry takes some 250 bytes of it.
    nodes.bench(&format!(
        "--clients 64 --pipeline 16 --count {} {}",
        extent.scaled(220_000),
        extent.data()
    ))?;
    let took = nodes.restart_follower()?;
    let measured = took.as_secs_f64();
    Ok(vec![Row { what: "restart to the first linearizable read", measured, target: 2.0, unit: "s" }])
}

/// A follower that was away for five writes of each key, back under load.
fn catch_up(extent: &Extent) -> Result<Vec<Row>> {
    let mut nodes = filled(extent)?;
    let load = |seconds| format!("--clients 16 --rate 500 --seconds {seconds} {}", extent.data());
    let calm = figure(&nodes.bench(&load(if extent.is_quick { 2 } else { 10 }))?, "p99_us")?;
    let away = nodes.kill_follower()?;
    let count = extent.scaled(5_000_000);
    nodes.bench(&format!("--clients 64 --pipeline 16 --count {count} {}", extent.data()))?;
    let since = Instant::now();
    let running = nodes.begin_bench(&load(if extent.is_quick { 3 } else { 25 }))?;
    let took = nodes.start_and_catch_up(away)?;
    let during = figure(&running.finish()?, "p99_us")?;
    let elections = nodes.elections_since(since);
    ensure!(took < Duration::from_secs(120), "it does not catch up");
    Ok(vec![
        Row {
            what: "follower back after five writes of each key",
            measured: took.as_secs_f64(),
            target: 20.0,
            unit: "s",
        },
        Row { what: "elections meanwhile", measured: elections as f64, target: 0.0, unit: "" },
        Row { what: "put p99 meanwhile, against calm", measured: during / calm, target: 2.0, unit: "times" },
    ])
}
