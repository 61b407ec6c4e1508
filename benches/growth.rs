//! Growth, and whether there is a cliff: more clients, larger values, more nodes, more keys, and idle
//! connections beside busy ones.
//!
//! `cargo bench --bench growth` prints Markdown tables and takes about six minutes; `-- --quick` is a
//! look at each in half a minute; `-- --keys 10000000` goes on to so many keys (1,000,000 without
//! it; 10 million take some 10 GB of memory and five minutes more). `-- clients` runs only the
//! sweeps whose names begin so: clients, values, nodes, keys, idle.
//!
//! Past its peak, throughput must stay above 80 % of it: a row that does not is marked as a cliff.

#[path = "load/mod.rs"]
#[expect(unused, reason = "other benches use the rest")]
mod load;

use anyhow::{Context, Result};

use load::{Nodes, figure, machine};

/// Bytes of all values together, at most, in the sweep of their size.
const MAX_DATA: u64 = 64 << 20;
/// How much of the peak must be left.
const LEAST_SHARE: f64 = 0.8;

/// How long, and how far.
struct Extent {
    seconds: u64,
    is_quick: bool,
    max_keys: u64,
}

/// A line of a table.
struct Row {
    what: String,
    put: Measured,
    get: Measured,
    /// Of the largest node, in MiB.
    memory: u64,
}

struct Measured {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    failures: f64,
}

type Sweep = fn(&Extent) -> Result<()>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let is_quick = words.iter().any(|word| word == "--quick" || word == "--test");
    let after = words.iter().position(|word| word == "--keys").map(|place| place + 1);
    let max_keys = after.map(|place| words.get(place).context("--keys N")?.parse().context("--keys N"));
    let extent = Extent {
        seconds: if is_quick { 1 } else { 5 },
        is_quick,
        max_keys: max_keys.transpose()?.unwrap_or(if is_quick { 10_000 } else { 1_000_000 }),
    };
    println!("{}. Nodes and load share it.", machine());
    println!(
        "Each figure of {} s; 64 clients, 10,000 keys, values of 64 bytes where nothing else is said.",
        extent.seconds
    );
    let sweeps: [(&str, Sweep); 5] =
        [("clients", clients), ("values", values), ("nodes", nodes), ("keys", keys), ("idle", idle)];
    let names: Vec<&String> = words.iter().filter(|word| word.chars().all(char::is_alphabetic)).collect();
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|word| name.starts_with(word.as_str()));
    sweeps.into_iter().filter(|(name, _)| is_wanted(name)).try_for_each(|(_, sweep)| sweep(&extent))
}

fn clients(extent: &Extent) -> Result<()> {
    let nodes = Nodes::start(3)?;
    let counts: &[u32] = if extent.is_quick { &[1, 64, 1_024] } else { &[1, 4, 16, 64, 256, 1_024] };
    let row = |count: &u32| measure(&nodes, extent, count.to_string(), &format!("--clients {count}"));
    table("clients", &counts.iter().map(row).collect::<Result<Vec<_>>>()?, true);
    Ok(())
}

fn values(extent: &Extent) -> Result<()> {
    let nodes = Nodes::start(3)?;
    let sizes: &[u64] = if extent.is_quick { &[16, 1 << 20] } else { &[16, 256, 4 << 10, 64 << 10, 1 << 20] };
    let row = |size: &u64| {
        let keys = (MAX_DATA / size).min(10_000);
        measure(
            &nodes,
            extent,
            format!("{size} bytes"),
            &format!("--clients 16 --keys {keys} --value-bytes {size}"),
        )
    };
    let rows = sizes.iter().map(row).collect::<Result<Vec<_>>>()?;
    // More bytes cost more: fewer requests are no cliff.
    table("values, 16 clients", &rows, false);
    Ok(())
}

fn nodes(extent: &Extent) -> Result<()> {
    let counts: &[usize] = if extent.is_quick { &[3, 5] } else { &[3, 5, 7] };
    let row =
        |count: &usize| measure(&Nodes::start(*count)?, extent, format!("{count} nodes"), "--clients 64");
    table("nodes", &counts.iter().map(row).collect::<Result<Vec<_>>>()?, false);
    Ok(())
}

fn keys(extent: &Extent) -> Result<()> {
    let powers = (4..).map(|power| 10_u64.pow(power)).take_while(|keys| *keys <= extent.max_keys);
    let row = |keys: u64| {
        let what = format!("{keys} keys");
        measure(&Nodes::start(3)?, extent, what, &format!("--clients 64 --keys {keys}"))
    };
    // A tree grows deeper, and its leaves leave the processor's caches: no load is past its peak.
    table("keys", &powers.map(row).collect::<Result<Vec<_>>>()?, false);
    Ok(())
}

fn idle(extent: &Extent) -> Result<()> {
    let nodes = Nodes::start(3)?;
    let counts: &[u32] = if extent.is_quick { &[0, 500] } else { &[0, 1_000, 10_000] };
    let row = |count: &u32| {
        measure(&nodes, extent, format!("{count} idle"), &format!("--clients 64 --idle {count}"))
    };
    table("idle connections beside 64 busy ones", &counts.iter().map(row).collect::<Result<Vec<_>>>()?, true);
    Ok(())
}

/// Puts, then gets of what was put.
fn measure(nodes: &Nodes, extent: &Extent, what: String, words: &str) -> Result<Row> {
    eprintln!("{what}");
    let run = |op: &str, words: &str| -> Result<Measured> {
        let summary = nodes.bench(&format!("--op {op} --seconds {} {words}", extent.seconds))?;
        let figure = |name| figure(&summary, name);
        Ok(Measured {
            per_second: figure("ops_per_s")?,
            p50_us: figure("p50_us")?,
            p99_us: figure("p99_us")?,
            failures: figure("errors")? + figure("unknown")?,
        })
    };
    let put = run("put", &format!("--fill {words}"))?;
    // What was filled in for the puts is still there.
    let get = run("get", words)?;
    Ok(Row { what, put, get, memory: nodes.resident_mib()? })
}

/// Prints the rows; with `has_peak`, how much is left of the best before, or of a row with less load.
fn table(title: &str, rows: &[Row], has_peak: bool) {
    println!("\n| {title} | put/s | p50 us | p99 us | get/s | p50 us | p99 us | failed | MiB | |");
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|");
    let (mut put_peak, mut get_peak) = (0.0_f64, 0.0_f64);
    for Row { what, put, get, memory } in rows {
        put_peak = put_peak.max(put.per_second);
        get_peak = get_peak.max(get.per_second);
        let is_less = put.per_second < LEAST_SHARE * put_peak || get.per_second < LEAST_SHARE * get_peak;
        let remark = if has_peak && is_less { "**cliff**: below 80 % of the peak" } else { "" };
        println!(
            "| {what} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {memory} | {remark} |",
            put.per_second,
            put.p50_us,
            put.p99_us,
            get.per_second,
            get.p50_us,
            get.p99_us,
            put.failures + get.failures,
        );
    }
}
