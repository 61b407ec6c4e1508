//! The same work on our cluster, on etcd and on Redis, one after the other in one run.
//!
//! `cargo bench --bench compare` prints a Markdown table; `-- --seconds N` (5 without it) says how
//! long each work lasts, `-- --rounds N` (1) how often the whole is repeated: the median counts.
//! What is not installed is named as missing (Debian: `etcd-server`, `etcd-client`,
//! `redis-server`). Each work begins with empty directories; the three take turns with every work,
//! so that whatever disturbs the machine disturbs each alike. The last line is the floor of `floor`. The load is one thread for each:
//! `kv_client bench` for ours, [`driver`] for the others.

mod driver;
mod etcd;
#[path = "../floor/processes.rs"]
mod floor;
#[path = "../load/mod.rs"]
#[expect(unused, reason = "other benches use the rest")]
mod load;
mod redis;
mod work;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use driver::Measured;
use etcd::Etcd;
use floor::Floor;
use load::{Nodes, Ports, figure, machine};
use redis::Redis;
use work::{KEYS, Op, Row, VALUE_BYTES, WORKS, Work};

/// One that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Ours,
    Etcd,
    Redis,
}

const SYSTEMS: [System; 3] = [System::Ours, System::Etcd, System::Redis];

const PROMISES: &str = "\
What an answer promises, and what it does not:

- **kvstore**: a put is on the disks of a majority, in an order that all nodes agree on, applied exactly once though it
  be sent again, and survives the loss of any one node without anybody's doing. A get sees every put that was answered
  before it was sent, whichever node is asked. A stale get does not.
- **etcd**: the same for puts, but for the exactly-once: a put that is sent again is another put. A get here is its
  linearizable one, a stale get its `serializable` one. It has transactions, leases, watches and users, which cost
  it something and which we have not.
- **Redis**: a put is on the master's disk, and one replica has acknowledged that it received it. Nobody elects
  a new master here (Sentinel would), and a put that was answered can be lost when one takes over. A get reads
  the master, and is linearizable only while no other master can be. Its protocol and data types do far more than ours.
";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(played) = floor::play(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        return played;
    }
    let is_quick = words.iter().any(|word| word == "--test" || word == "--quick");
    let option = |name: &str, default: u64| -> Result<u64> {
        let place = words.iter().position(|word| word == name);
        let value =
            place.map(|place| words.get(place + 1).context("a number must follow").map(String::as_str));
        let number = value.transpose()?.map(str::parse).transpose().with_context(|| name.to_owned())?;
        Ok(number.unwrap_or(default))
    };
    let seconds = option("--seconds", if is_quick { 1 } else { 5 })?;
    let rounds = option("--rounds", 1)?;
    ensure!(seconds > 0 && rounds > 0, "--seconds and --rounds must be 1 or more");
    let time = Duration::from_secs(seconds);
    print_conditions(seconds, rounds);
    // The quick pass of the gate judges our own program alone: others' may be absent, or old, or slow.
    let is_gate = words.iter().any(|word| word == "--test");
    let is_asked = |system: &System| matches!(system, System::Ours) || !is_gate;
    let present = SYSTEMS.into_iter().filter(|system| is_asked(system) && system.version().is_some());
    let present: Vec<System> = present.collect();
    // Beside the work that it is compared with, which is the first.
    let floor = floor_us(time)?;
    let mut table = Vec::new();
    for work in WORKS {
        let mut rows: Vec<Vec<Row>> = present.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (system, rows) in present.iter().zip(&mut rows) {
                eprintln!("{}: {}", system.name(), work.name());
                let row = system.measure(work, time);
                rows.push(row.with_context(|| format!("{}, {}", system.name(), work.name()))?);
            }
        }
        table.push((work, rows.iter().map(|rows| median(rows)).collect::<Vec<Row>>()));
    }
    print_table(&present, &table);
    print_floor(floor, &table);
    println!("\n{PROMISES}");
    Ok(())
}

impl System {
    fn name(self) -> &'static str {
        match self {
            System::Ours => "kvstore",
            System::Etcd => "etcd",
            System::Redis => "Redis + WAIT 1",
        }
    }

    /// `None` if it is not installed.
    fn version(self) -> Option<String> {
        let first_line = |program: &str| {
            let output = Command::new(program).arg("--version").output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
        };
        match self {
            System::Ours => Some(format!("kvstore {}, no flags", env!("CARGO_PKG_VERSION"))),
            System::Etcd => {
                let control = Command::new("etcdctl").arg("version").output();
                let version = first_line(etcd::PROGRAM).filter(|_| control.is_ok())?;
                Some(format!("{version}, defaults, `--initial-cluster` of three"))
            }
            System::Redis => Some(format!(
                "{}, `{}`, two of three `--replicaof`",
                first_line(redis::PROGRAM)?,
                redis::FLAGS
            )),
        }
    }

    fn measure(self, work: Work, time: Duration) -> Result<Row> {
        match self {
            System::Ours => measure_ours(work, time),
            System::Etcd => Ok(row(&Etcd::start()?.run(work, time)?)),
            System::Redis => Ok(row(&Redis::start()?.run(work, time)?)),
        }
    }
}

fn measure_ours(work: Work, time: Duration) -> Result<Row> {
    let op = match work.op {
        Op::Put => "put",
        Op::Get => "get --fill",
        Op::StaleGet => "stale-get --fill",
    };
    let (clients, pipeline, seconds) = (work.clients, work.pipeline, time.as_secs());
    let summary = Nodes::start(3)?.bench(&format!(
        "--op {op} --clients {clients} --pipeline {pipeline} --seconds {seconds} --keys {KEYS} --value-bytes {VALUE_BYTES}"
    ))?;
    ensure!(summary["ok"] == true, "not every request was answered: {summary}");
    let figure = |name| figure(&summary, name);
    Ok(Row { per_second: figure("ops_per_s")?, p50_us: figure("p50_us")?, p99_us: figure("p99_us")? })
}

fn row(measured: &Measured) -> Row {
    let at = |share| measured.latencies.value_at_quantile(share) as f64 / 1e3;
    let per_second = measured.latencies.len() as f64 / measured.duration.as_secs_f64();
    Row { per_second, p50_us: at(0.5), p99_us: at(0.99) }
}

fn median(rows: &[Row]) -> Row {
    let middle = |value: fn(&Row) -> f64| {
        let mut values: Vec<f64> = rows.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Row {
        per_second: middle(|row| row.per_second),
        p50_us: middle(|row| row.p50_us),
        p99_us: middle(|row| row.p99_us),
    }
}

fn print_conditions(seconds: u64, rounds: u64) {
    println!("{}. Three nodes of each, and the load, on this one machine.", machine());
    println!(
        "Each work {seconds} s, median of {rounds} rounds; {KEYS} keys of 16 bytes, values of {VALUE_BYTES}.\n"
    );
    for system in SYSTEMS {
        let version = system.version();
        println!("- {}: {}", system.name(), version.as_deref().unwrap_or("**not installed, missing here**"));
    }
    println!();
}

/// The least that a durable write on two of three can cost here: the median, in microseconds.
fn floor_us(time: Duration) -> Result<f64> {
    let ports = Ports::claim(3)?;
    let mut floor = Floor::start([0, 1, 2].map(|place| ports.number(place)))?;
    let (began, mut micros) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let before = Instant::now();
        floor.write()?;
        micros.push(before.elapsed().as_secs_f64() * 1e6);
    }
    micros.sort_by(f64::total_cmp);
    Ok(micros[micros.len() / 2])
}

fn print_floor(floor: f64, table: &[(Work, Vec<Row>)]) {
    let rows = table.first().map_or(&[][..], |(_, rows)| rows);
    let times = rows.iter().map(|row| format!("{:.2} times", row.p50_us / floor)).collect::<Vec<_>>();
    println!("| put, 1 client, p50, beside the floor of {floor:.0} us | {} | |", times.join(" | "));
}

fn print_table(present: &[System], table: &[(Work, Vec<Row>)]) {
    let names: Vec<&str> = present.iter().map(|system| system.name()).collect();
    println!("| work | {} | first |", names.join(" | "));
    println!("|---|{}---|", "---|".repeat(names.len()));
    for (work, rows) in table {
        let cells = rows.iter().map(|row| {
            format!("{:.0}/s, p50 {:.0} us, p99 {:.0} us", row.per_second, row.p50_us, row.p99_us)
        });
        let best = rows.iter().map(|row| row.per_second).fold(0.0, f64::max);
        let first = rows.iter().zip(&names).find(|(row, _)| row.per_second == best);
        let first = first.map_or("", |(_, name)| *name);
        println!("| {} | {} | {first} |", work.name(), cells.collect::<Vec<_>>().join(" | "));
    }
}
