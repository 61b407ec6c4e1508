//! One kind of fail-over, many times: how long a connected client waits, and where the time goes.

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::process::Signal;

use super::cluster::{Cluster, list_of_others};
use super::footprint::Footprint;
use super::proxy::{Mesh, Weather};

const NODES: usize = 3;

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strike {
    /// SIGKILL: the process dies, its connections are reset.
    Kill,
    /// SIGTERM: it hands over and leaves.
    Term,
    /// SIGSTOP: it falls silent, its connections stay.
    Stop,
    /// Its cables to the other nodes are cut, in both directions, without a word.
    Cut,
    /// The leader goes deaf: nothing that the other nodes send reaches it, all that it sends reaches them.
    Deaf,
}

impl Strike {
    /// Whether the links between the nodes must lead through cables.
    fn needs_cables(self) -> bool {
        matches!(self, Strike::Cut | Strike::Deaf)
    }

    fn as_str(self) -> &'static str {
        match self {
            Strike::Kill => "SIGKILL of the leader",
            Strike::Term => "SIGTERM of the leader",
            Strike::Stop => "SIGSTOP of the leader",
            Strike::Cut => "the leader's cables cut, both directions",
            Strike::Deaf => "a leader that is heard and hears nothing",
        }
    }
}

/// What is repeated, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How often.
    pub(super) count: u32,
    pub(super) strike: Strike,
    /// How many keys are put before the first trial.
    pub(super) keys: u64,
    /// Whether each trial is a line of JSON, instead of the distribution.
    pub(super) json: bool,
}

/// One trial's durations since the strike, and as the winner saw them since it last heard the old
/// leader.
#[derive(Clone, Copy)]
struct Trial {
    first_write: Duration,
    noticed_ms: f64,
    won_ms: f64,
    first_commit_ms: f64,
}

impl Trial {
    fn to_json(self) -> serde_json::Value {
        serde_json::json!({
            "first_write_ms": self.first_write.as_secs_f64() * 1e3,
            "noticed_ms": self.noticed_ms,
            "won_ms": self.won_ms,
            "first_commit_ms": self.first_commit_ms,
        })
    }
}

/// Repeats a fail-over and prints the distribution, or every trial as a line of `json`.
///
/// # Errors
/// Whatever went wrong in a trial: a trial that fails is no number to leave out.
pub(super) fn run(plan: Plan) -> Result<()> {
    let Plan { count, strike, keys, json } = plan;
    let (mut cluster, mesh) = prepare(strike)?;
    for node in 0..NODES {
        cluster.start(node)?;
    }
    if !json {
        println!(
            "{}, {count} trials, three nodes, data in {}",
            strike.as_str(),
            cluster.directory().display()
        );
    }
    if keys > 0 {
        fill(&cluster, keys)?;
    }
    if json {
        return (0..count).try_for_each(|_| {
            println!("{}", try_once(&mut cluster, mesh.as_ref(), strike)?.to_json());
            Ok(())
        });
    }
    println!("measured from the signal to the first acknowledged write of a connected client");
    let mut trials = Vec::new();
    for number in 1..=count {
        let trial = try_once(&mut cluster, mesh.as_ref(), strike)?;
        trials.push(trial);
        show_progress(number, count, trial.first_write);
    }
    report(&trials);
    cluster.wait_until_whole()?;
    report_size(&cluster, keys)
}

/// Puts so many keys of 16 bytes with values of 100, as `kv_client bench` does, which tells how far it is.
fn fill(cluster: &Cluster, keys: u64) -> Result<()> {
    let program =
        std::env::current_exe().context("cannot find this program's own file")?.with_file_name("kv_client");
    let ports: Vec<String> = (0..NODES).map(|node| cluster.port(node).to_string()).collect();
    let mut command = Command::new(&program);
    command.args([
        "--timeout-ms",
        "20000",
        "--port",
        &ports.join(","),
        "bench",
        "--fill",
        "--value-bytes",
        "100",
    ]);
    command.args(["--clients", "64", "--pipeline", "16", "--count", "1", "--keys", &keys.to_string()]);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status
        .with_context(|| format!("--keys needs {}: build it beside this program", program.display()))?;
    ensure!(status.success(), "kv_client bench could not put {keys} keys: see its lines above");
    Ok(())
}

/// How large the processes were that died or fell silent.
fn report_size(cluster: &Cluster, keys: u64) -> Result<()> {
    let nodes = Footprint::of_each(cluster, NODES)?;
    let resident: Vec<String> = nodes.iter().map(|node| node.resident_mib().to_string()).collect();
    println!("\n  {keys} keys put before; the nodes have {} MiB resident", resident.join(", "));
    Ok(())
}

/// The cluster; with cables between its nodes, if they are to be cut.
fn prepare(strike: Strike) -> Result<(Cluster, Option<Mesh>)> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    if !strike.needs_cables() {
        return Ok((Cluster::new(program, NODES, list_of_others)?, None));
    }
    let mesh = Mesh::new(NODES)?;
    let cluster = Cluster::new(program, NODES, |node, _| mesh.peers(node))?;
    mesh.connect(|node| cluster.endpoint(node))?;
    Ok((cluster, Some(mesh)))
}

fn try_once(cluster: &mut Cluster, mesh: Option<&Mesh>, strike: Strike) -> Result<Trial> {
    let leader = cluster.wait_until_whole()?;
    let mut client = cluster.client()?;
    client.put("connected", "before")?;
    let held_up_before = mesh.map_or(0, Mesh::disturbed);
    let struck = Instant::now();
    match strike {
        Strike::Kill => cluster.signal(leader, Signal::KILL)?,
        Strike::Term => cluster.signal(leader, Signal::TERM)?,
        Strike::Stop => cluster.signal(leader, Signal::STOP)?,
        Strike::Cut => set_around(mesh, leader, Weather::cut())?,
        Strike::Deaf => deafen(mesh, leader)?,
    }
    client.put("connected", "after")?;
    let first_write = struck.elapsed();
    let line = cluster.wait_for(struck, |line| line.text.contains("elected leader"))?;
    match strike {
        Strike::Kill | Strike::Term => {
            cluster.wait_for_exit(leader)?;
            cluster.start(leader)?;
        }
        Strike::Stop => cluster.signal(leader, Signal::CONT)?,
        Strike::Cut | Strike::Deaf => {
            let held_up = mesh.map_or(0, Mesh::disturbed);
            ensure!(held_up > held_up_before, "the cut held nothing up");
            set_around(mesh, leader, Weather::default())?;
        }
    }
    let step = |name: &str| {
        let field = line.text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let field = field.with_context(|| format!("no {name} in: {}", line.text))?;
        field.parse::<f64>().with_context(|| format!("{name} is no number in: {}", line.text))
    };
    Ok(Trial {
        first_write,
        noticed_ms: step("noticed_ms")?,
        won_ms: step("won_ms")?,
        first_commit_ms: step("first_commit_ms")?,
    })
}

/// Nothing of what the other nodes send reaches a node.
fn deafen(mesh: Option<&Mesh>, node: usize) -> Result<()> {
    let mesh = mesh.context("only a cluster with cables is cut")?;
    (0..NODES).filter(|other| *other != node).for_each(|other| mesh.set(other, node, Weather::cut()));
    Ok(())
}

fn set_around(mesh: Option<&Mesh>, node: usize, weather: Weather) -> Result<()> {
    mesh.context("only a cluster with cables is cut")?.set_around(node, weather);
    Ok(())
}

fn show_progress(number: u32, count: u32, last: Duration) {
    let last = last.as_secs_f64() * 1e3;
    if std::io::stdout().is_terminal() {
        print!("\r  trial {number} of {count}: {last:8.1} ms ");
        // A terminal that cannot be written to shows nothing; the figures at the end would tell.
        let _ = std::io::stdout().flush();
    } else if number.is_multiple_of(20) || number == count {
        println!("  trial {number} of {count}: {last:8.1} ms");
    }
}

fn report(trials: &[Trial]) {
    let columns: [(&str, Vec<f64>); 4] = [
        ("signal to first acknowledged write", column(trials, |trial| trial.first_write.as_secs_f64() * 1e3)),
        ("  last heard to noticed", column(trials, |trial| trial.noticed_ms)),
        ("  last heard to won", column(trials, |trial| trial.won_ms)),
        ("  last heard to first commit", column(trials, |trial| trial.first_commit_ms)),
    ];
    println!("\n\n  {:<36} {:>9} {:>9} {:>9} {:>9}", "milliseconds", "min", "median", "99 %", "max");
    for (name, values) in &columns {
        let at = |share: f64| percentile(values, share);
        println!("  {name:<36} {:>9.1} {:>9.1} {:>9.1} {:>9.1}", at(0.0), at(0.5), at(0.99), at(1.0));
    }
    println!("\n  first acknowledged write:");
    histogram(&columns[0].1);
}

/// The values in ascending order.
fn column(trials: &[Trial], value: impl Fn(&Trial) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = trials.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The least value that at least this share of them does not exceed (nearest rank).
pub(super) fn percentile<T: Copy>(ascending: &[T], share: f64) -> T {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending[rank.saturating_sub(1)]
}

/// Bars on a scale that doubles, so that a tail is seen beside the bulk.
fn histogram(ascending: &[f64]) {
    let mut low = 0.0;
    let mut high = 1.0;
    let mut rest = ascending;
    while !rest.is_empty() {
        let count = rest.iter().take_while(|value| **value < high).count();
        if count > 0 || rest.len() < ascending.len() {
            let bar = "#".repeat((count * 50).div_ceil(ascending.len()));
            println!("  {low:>6.0} to {high:>6.0} ms {count:>6}  {bar}");
        }
        rest = &rest[count..];
        (low, high) = (high, high * 2.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_of_a_hundred_values_is_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        let found = [0.0, 0.5, 0.99, 1.0].map(|share| percentile(&values, share));
        assert_eq!(found, [1.0, 50.0, 99.0, 100.0]);
    }
}
