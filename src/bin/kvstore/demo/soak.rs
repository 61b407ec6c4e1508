//! Full load for a long time: whoever loses an election to it has a fault, unless the machine
//! itself stood still.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvstore::client::{Client, Error};
use kvstore::server::config::DEFAULT_ELECTION_MS;

use super::bystander::Bystander;
use super::cluster::{Cluster, list_of_others};
use super::footprint::Footprint;
use super::trials::percentile;

const NODES: usize = 3;
/// Connections that are kept busy, each with one request after the other.
const LOADERS: usize = 64;
/// Each of them writes its own keys, one after the other and again.
const KEYS: u64 = 1_000;
/// Of so many requests one is a write, the others read.
const READS_PER_WRITE: u64 = 3;
const VALUE: [u8; 64] = [b'v'; 64];
const PROBE_PERIOD: Duration = Duration::from_millis(100);
const PROGRESS_PERIOD: Duration = Duration::from_secs(10);
/// How far before an election its excuse may lie.
const EXCUSE_WINDOW: Duration = Duration::from_secs(1);

/// Loads a cluster for so long and judges what it saw.
///
/// # Errors
/// An election that the machine does not excuse, a request that failed, or what kept the soak from
/// being measured.
pub(super) fn run(seconds: u64) -> Result<()> {
    ensure!(seconds > 0, "--soak 0 shows nothing: ask for at least one second");
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut cluster = Cluster::new(program, 3, list_of_others)?;
    (0..NODES).try_for_each(|node| cluster.start(node))?;
    cluster.wait_until_whole()?;
    let mut bystander = Bystander::start()?;
    println!("{LOADERS} clients for {seconds} s, three nodes, data in {}", cluster.directory().display());

    let (begin, before) = (Instant::now(), Footprint::of_each(&cluster, NODES)?);
    let end = begin + Duration::from_secs(seconds);
    let measured = load(&cluster, end)?;
    let after = Footprint::of_each(&cluster, NODES)?;

    measured.report(begin.elapsed());
    for (node, (before, after)) in before.iter().zip(&after).enumerate() {
        let (mib_before, mib_after) = (before.resident_mib(), after.resident_mib());
        let (open_before, open_after) = (before.descriptors, after.descriptors);
        print!("  node {}: {mib_before} MiB resident before, {mib_after} MiB after; ", node + 1);
        println!("{open_before} open descriptors before, {open_after} after");
    }
    let now = Instant::now();
    println!("  the bystander's longest gap: {:.1} ms", millis(bystander.longest(begin, now)));
    let unexcused = judge(&mut cluster, &mut bystander, begin)?;
    ensure!(unexcused == 0, "{unexcused} elections that the machine does not excuse");
    let failed: u64 = measured.all().map(|requests| requests.failed).sum();
    ensure!(failed == 0, "{failed} requests failed");
    println!("\nheld");
    Ok(())
}

/// Tells of each election since `begin`, and counts those that no gap of the bystander excuses.
fn judge(cluster: &mut Cluster, bystander: &mut Bystander, begin: Instant) -> Result<usize> {
    let shortest = DEFAULT_ELECTION_MS.split('-').next().context("a shortest election timeout")?;
    let excuse = Duration::from_millis(shortest.parse()?) / 2;
    let elections = cluster.lines_since(begin, |line| line.contains("election started"));
    println!("  elections: {}", elections.len());
    let mut unexcused = 0;
    for election in &elections {
        let gap = bystander.longest(election.at - EXCUSE_WINDOW, election.at);
        unexcused += usize::from(gap <= excuse);
        let at = election.at.duration_since(begin).as_secs_f64();
        println!("    {at:.1} s, {:.1} ms of gap in the second before: {}", millis(gap), election.text);
    }
    Ok(unexcused)
}

/// Requests of one kind, and how long each took, in microseconds.
#[derive(Default)]
struct Requests {
    name: String,
    took_us: Vec<u32>,
    failed: u64,
    first_error: Option<Error>,
}

impl Requests {
    fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    fn measure<T>(&mut self, request: impl FnOnce() -> Result<T, Error>) {
        let begin = Instant::now();
        match request() {
            Ok(_) => self.took_us.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX)),
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn absorb(&mut self, other: Requests) {
        self.took_us.extend(other.took_us);
        self.failed += other.failed;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn report(&self) {
        let mut ascending = self.took_us.clone();
        ascending.sort_unstable();
        print!("  {:<26} {:>10}", self.name, ascending.len());
        if !ascending.is_empty() {
            let at = |share| f64::from(percentile(&ascending, share)) / 1e3;
            print!(" {:>9.2} {:>9.2} {:>9.2}", at(0.5), at(0.99), at(1.0));
        }
        println!();
        if let Some(error) = &self.first_error {
            println!("    {} failed, the first: {error}", self.failed);
        }
    }
}

/// What was measured.
struct Measured {
    writes: Requests,
    reads: Requests,
    probes: Vec<Requests>,
}

impl Measured {
    fn all(&self) -> impl Iterator<Item = &Requests> {
        [&self.writes, &self.reads].into_iter().chain(&self.probes)
    }

    fn report(&self, took: Duration) {
        let count = self.writes.took_us.len() + self.reads.took_us.len();
        println!("\n  {:.0} requests a second", count as f64 / took.as_secs_f64());
        println!("  {:<26} {:>10} {:>9} {:>9} {:>9}", "milliseconds", "count", "median", "99 %", "max");
        self.all().for_each(Requests::report);
    }
}

/// Loads and probes the cluster until `end`.
fn load(cluster: &Cluster, end: Instant) -> Result<Measured> {
    let clients = (0..LOADERS).map(|_| cluster.client()).collect::<Result<Vec<_>>>()?;
    let mut put = cluster.client()?;
    let mut gets = (0..NODES).map(|node| cluster.client_of(node)).collect::<Result<Vec<_>>>()?;
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        let loaders: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                scope.spawn({
                    let done = &done;
                    move || keep_busy(number, client, done, end)
                })
            })
            .collect();
        let put_probe = scope.spawn(move || probe("probe: put", end, || put.put("probe", VALUE)));
        let get_probes: Vec<_> = gets
            .drain(..)
            .enumerate()
            .map(|(node, mut client)| {
                let name = format!("probe: get at node {}", node + 1);
                scope.spawn(move || probe(name, end, || client.get("probe")))
            })
            .collect();
        show_progress(&done, end);
        let (mut writes, mut reads) = (Requests::named("put"), Requests::named("linearizable get"));
        for loader in loaders {
            let (more_writes, more_reads) = loader.join().expect("loading does not panic");
            writes.absorb(more_writes);
            reads.absorb(more_reads);
        }
        let probes = [put_probe].into_iter().chain(get_probes);
        let probes = probes.map(|probe| probe.join().expect("probing does not panic")).collect();
        Ok(Measured { writes, reads, probes })
    })
}

/// One connection's part of the load: its puts and its gets.
fn keep_busy(number: usize, mut client: Client, done: &AtomicU64, end: Instant) -> (Requests, Requests) {
    let (mut writes, mut reads) = (Requests::default(), Requests::default());
    for turn in 0.. {
        if Instant::now() >= end {
            break;
        }
        let key = format!("{number}/{}", turn / (READS_PER_WRITE + 1) % KEYS);
        if turn % (READS_PER_WRITE + 1) == 0 {
            writes.measure(|| client.put(&key, VALUE));
        } else {
            reads.measure(|| client.get(&key));
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    (writes, reads)
}

/// Asks once in every period; what was late is not made up for.
fn probe<T>(
    name: impl Into<String>,
    end: Instant,
    mut request: impl FnMut() -> Result<T, Error>,
) -> Requests {
    let mut requests = Requests::named(name);
    while Instant::now() < end {
        let next = Instant::now() + PROBE_PERIOD;
        requests.measure(&mut request);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    requests
}

fn show_progress(done: &AtomicU64, end: Instant) {
    let mut before = 0;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let period = left.min(PROGRESS_PERIOD);
        thread::sleep(period);
        let now = done.load(Ordering::Relaxed);
        let rate = (now - before) as f64 / period.as_secs_f64();
        before = now;
        println!("  {rate:>8.0} requests a second, {:>4} s left", left.saturating_sub(period).as_secs());
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
