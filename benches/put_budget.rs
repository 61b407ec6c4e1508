//! What one put costs each node: system calls, syncs, bytes written, time on a processor, allocations.
//!
//! `cargo bench --bench put_budget` counts at 1, 64 and 256 clients, in a minute; `-- --quick`
//! with fewer puts. Processor time, switches and bytes are what the kernel counts of each process
//! (`/proc/PID`). Allocations are counted by the nodes themselves: this program is a node, too, with
//! an allocator that counts. System calls are counted by `strace` in a run of its own, since it makes
//! nodes slow, which makes their turns larger; without `strace` they are left out.

#[path = "load/mod.rs"]
#[expect(unused, reason = "other benches use the rest")]
mod load;

use std::alloc::System;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use kvstore::server::config::{
    Config, DEFAULT_ELECTION_MS, DEFAULT_HEARTBEAT_MS, DEFAULT_SNAPSHOT_LOG_KIB, Flags,
};
use kvstore::server::{Place, Server};
use kvstore::storage::{FileDisk, Options, Storage};
use kvstore::types::Incarnation;
use rustix::process::{Pid, Signal, kill_process};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tempfile::TempDir;

use load::{Nodes, figure, machine};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CLIENTS: [u64; 3] = [1, 64, 256];
/// What a node that counts says at its end, before two numbers.
const COUNTED: &str = "allocations and bytes:";
/// Ticks of the kernel's clock in a second, as `/proc/PID/stat` has them.
const TICKS: f64 = 100.0;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--id") {
        return serve(&words);
    }
    let is_quick = words.iter().any(|word| word == "--quick" || word == "--test");
    println!("{}. The load is kv_client bench, values of 64 bytes; all figures for each put.", machine());
    for clients in CLIENTS {
        let puts = if is_quick { 300 } else { 6_000 } * clients.min(10);
        let words = format!("--clients {clients} --count {puts}");
        println!("\n{clients} clients, {puts} puts\n");
        println!("| | leader | follower | follower |\n|---|---:|---:|---:|");
        by_kernel(&words, puts as f64)?;
        by_allocator(&words, puts as f64)?;
        by_strace(&words, puts as f64)?;
    }
    Ok(())
}

/// A node as `kvstore` runs it, but for the allocator and for the log.
fn serve(words: &[String]) -> Result<()> {
    let option = |name: &str| {
        let place = words.iter().position(|word| word == name).map(|place| place + 1);
        place.and_then(|place| words.get(place)).with_context(|| format!("{name} is missing"))
    };
    let config = Config::check(Flags {
        id: option("--id")?.parse()?,
        port: option("--port")?.parse()?,
        peers: option("--peers")?.clone(),
        host: "127.0.0.1".into(),
        advertise: None,
        data_dir: Some(PathBuf::from(option("--data-dir")?)),
        heartbeat_ms: DEFAULT_HEARTBEAT_MS,
        election_ms: DEFAULT_ELECTION_MS.into(),
        snapshot_log_kib: DEFAULT_SNAPSHOT_LOG_KIB,
        unsafe_no_fsync: false,
    })?;
    let place = Place::take(&config)?;
    let disk = FileDisk::open(&config.data_dir)?;
    // Seeds of its own, that no other node of this cluster has.
    let (incarnation, seed) = (Incarnation(config.node.0), [config.node.0 as u8; 32]);
    let (storage, recovered) = Storage::open(disk, config.node, Options::default(), incarnation)?;
    let server = Server::open(&config, place, storage, recovered, seed)?;
    println!("node {} listening on {}", config.node, config.listen);
    let region = Region::new(ALLOCATOR);
    server.run()?;
    let counted = region.change();
    println!("{COUNTED} {} {}", counted.allocations + counted.reallocations, counted.bytes_allocated);
    Ok(std::io::stdout().flush()?)
}

/// What the kernel counts of a process, by name.
fn counters(process: i32) -> Result<BTreeMap<&'static str, f64>> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}"));
    let (stat, status, io) = (read("stat")?, read("status")?, read("io")?);
    // After the name, which may hold anything; user and system time are the 12th and 13th from there.
    let (_, stat) = stat.rsplit_once(") ").context("a name in brackets")?;
    let ticks: Vec<f64> = stat.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    let field = |text: &str, name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
    };
    Ok(BTreeMap::from([
        ("microseconds of processor time", ticks.iter().sum::<f64>() / TICKS * 1e6),
        ("waits (voluntary switches)", field(&status, "voluntary_ctxt_switches")?),
        ("bytes given to write calls", field(&io, "wchar")?),
        ("bytes sent to the disk", field(&io, "write_bytes")?),
    ]))
}

fn by_kernel(words: &str, puts: f64) -> Result<()> {
    let nodes = Nodes::start(3)?;
    let all = || nodes.processes()?.into_iter().map(counters).collect::<Result<Vec<_>>>();
    let before = all()?;
    let summary = nodes.bench(words)?;
    ensure!(summary["ok"] == true, "not every put was answered: {summary}");
    let after = all()?;
    for name in before[0].keys() {
        print_row(name, before.iter().zip(&after).map(|(before, after)| (after[name] - before[name]) / puts));
    }
    println!("| (puts a second of this run: {:.0}) | | | |", figure(&summary, "ops_per_s")?);
    Ok(())
}

fn by_allocator(words: &str, puts: f64) -> Result<()> {
    let nodes = Nodes::start_as(std::env::current_exe()?, 3)?;
    nodes.bench(words)?;
    let counts = nodes.end(COUNTED)?.into_iter().map(|line| -> Result<Vec<f64>> {
        let (_, numbers) = line.split_once(COUNTED).context("it was looked for")?;
        Ok(numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    });
    let counts = counts.collect::<Result<Vec<_>>>()?;
    print_row("allocations", counts.iter().map(|numbers| numbers[0] / puts));
    print_row("bytes allocated", counts.iter().map(|numbers| numbers[1] / puts));
    Ok(())
}

fn by_strace(words: &str, puts: f64) -> Result<()> {
    if Command::new("strace").arg("--version").output().is_err() {
        println!("| system calls: `strace` is not installed | | | |");
        return Ok(());
    }
    let (nodes, directory) = (Nodes::start(3)?, TempDir::with_prefix("kvstore-strace-")?);
    let mut tracers = Vec::new();
    for process in nodes.processes()? {
        let summary = directory.path().join(process.to_string());
        match trace(process, &summary) {
            Ok(tracer) => tracers.push((tracer, summary)),
            Err(error) => {
                println!("| system calls: not counted, {error} | | | |");
                return Ok(());
            }
        }
    }
    nodes.bench(words)?;
    let mut calls = Vec::new();
    for (mut tracer, summary) in tracers {
        kill_process(Pid::from_child(&tracer), Signal::INT)?;
        tracer.wait()?;
        calls.push(read_summary(&fs::read_to_string(summary)?));
    }
    let leader = calls[0].clone();
    let mut names: Vec<&String> = leader.keys().collect();
    names.sort_by(|a, b| leader[*b].total_cmp(&leader[*a]));
    for name in names.into_iter().filter(|name| leader[*name] >= 0.01 * puts) {
        print_row(&format!("`{name}`"), calls.iter().map(|calls| calls.get(name).unwrap_or(&0.0) / puts));
    }
    Ok(())
}

/// Counts the calls of a process from now on.
fn trace(process: i32, summary: &std::path::Path) -> Result<Child> {
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-p", &process.to_string(), "-o"]).arg(summary);
    let mut tracer = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    // It says so once it is attached, to each thread.
    let mut said = std::io::BufReader::new(tracer.stderr.take().context("no stderr")?);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line)?;
    if !line.contains("attached") {
        tracer.wait()?;
        bail!("{}", line.trim());
    }
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    Ok(tracer)
}

/// Calls by name, of the table of `strace -c`: share, seconds, usecs/call, calls, (errors,) name.
fn read_summary(text: &str) -> BTreeMap<String, f64> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_call =
            words.len() >= 5 && words[0].parse::<f64>().is_ok() && words[words.len() - 1] != "total";
        is_call.then(|| Some((words[words.len() - 1].to_owned(), words[3].parse().ok()?)))?
    };
    text.lines().filter_map(row).collect()
}

fn print_row(name: &str, values: impl Iterator<Item = f64>) {
    let cells = values.map(|value| if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") });
    println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
}
