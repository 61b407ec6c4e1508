//! The plots of `docs/performance.md`: measured, written as JSON lines, drawn as SVG.
//!
//! `cargo bench --bench figures` (or `make figures`) measures and draws all, into `docs/plots`, and
//! takes about four minutes on two cores. `-- --quick` takes a minute and a half, and writes into
//! `target/plots`: it shows that the command works, not what the machine can do. `-- --draw` only
//! draws what was measured before.
//!
//! A file of JSON lines has the plot's title, axes and conditions in its first line, and a series,
//! or a mark, in every other.

#[path = "../load/mod.rs"]
#[expect(unused, reason = "other benches use the rest")]
mod load;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use load::{Nodes, figure, machine};
use svg::{Axis, Mark, Plot, Series};

/// How much is measured.
struct Extent {
    seconds: u64,
    trials: u32,
    clients: &'static [u32],
    directory: PathBuf,
}

const PLOTS: [&str; 4] = ["latency", "throughput", "fail-over", "timeline"];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| words.iter().any(|word| word == name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let quick = has("--quick") || has("--test");
    let extent = match quick {
        true => Extent { seconds: 1, trials: 5, clients: &[1, 64], directory: root.join("target/plots") },
        false => Extent {
            seconds: 5,
            trials: 100,
            clients: &[1, 4, 16, 64, 256, 1_024],
            directory: root.join("docs/plots"),
        },
    };
    fs::create_dir_all(&extent.directory)?;
    if !has("--draw") {
        latency(&extent)?;
        throughput(&extent)?;
        fail_over(&extent)?;
        timeline(&extent, quick)?;
    }
    PLOTS.iter().try_for_each(|name| draw(&extent.directory, name))
}

/// How long single requests last: shares of them, by latency.
fn latency(extent: &Extent) -> Result<()> {
    let nodes = Nodes::start(3)?;
    let mut lines = vec![json!({
        "title": "Latency of a request",
        "x": { "label": "microseconds", "log": true },
        "y": { "label": "share answered", "log": false },
        "conditions": conditions("three nodes"),
    })];
    for op in ["put", "get", "stale-get"] {
        for clients in [1, 64] {
            eprintln!("latency: {op}, {clients} clients");
            let words = format!("--op {op} --fill --clients {clients} --seconds {}", extent.seconds);
            let summary = nodes.bench(&words)?;
            let curve = summary["curve_us"].as_array().context("a curve")?;
            let points = curve.iter().map(|point| json!([point[1], point[0]])).collect::<Vec<Value>>();
            let name = format!("{op}, {clients} client{}", if clients == 1 { "" } else { "s" });
            lines.push(json!({ "series": name, "points": points }));
        }
    }
    write_lines(extent, "latency", &lines)
}

/// What more clients bring, in a closed loop.
fn throughput(extent: &Extent) -> Result<()> {
    let nodes = Nodes::start(3)?;
    let mut lines = vec![json!({
        "title": "Throughput against clients, one request in flight each",
        "x": { "label": "clients", "log": true },
        "y": { "label": "answers a second", "log": false },
        "conditions": conditions("three nodes"),
    })];
    for op in ["put", "get", "stale-get"] {
        let mut points = Vec::new();
        for clients in extent.clients {
            eprintln!("throughput: {op}, {clients} clients");
            let words = format!("--op {op} --fill --clients {clients} --seconds {}", extent.seconds);
            points.push(json!([clients, figure(&nodes.bench(&words)?, "ops_per_s")?]));
        }
        lines.push(json!({ "series": op, "points": points }));
    }
    write_lines(extent, "throughput", &lines)
}

/// How long a connected client waits when the leader goes, by kind.
fn fail_over(extent: &Extent) -> Result<()> {
    let mut lines = vec![json!({
        "title": format!("From the leader's end to the next acknowledged write, {} trials each", extent.trials),
        "x": { "label": "milliseconds", "log": true },
        "y": { "label": "share over", "log": false },
        "conditions": conditions("three nodes, one client"),
    })];
    for kind in ["kill", "term", "stop", "cut"] {
        eprintln!("fail-over: {kind}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvstore"));
        command.args(["demo", "--json", "--trials", &extent.trials.to_string(), "--signal", kind]);
        let output = command.output().context("cannot start kvstore demo")?;
        ensure!(output.status.success(), "kvstore demo: {}", String::from_utf8_lossy(&output.stderr));
        let trials = String::from_utf8(output.stdout)?;
        let waits = trials
            .lines()
            .map(|line| -> Result<f64> { figure(&serde_json::from_str(line)?, "first_write_ms") });
        let mut waits = waits.collect::<Result<Vec<f64>>>()?;
        waits.sort_by(f64::total_cmp);
        let count = waits.len() as f64;
        let points = waits.iter().enumerate().map(|(place, wait)| json!([wait, (place + 1) as f64 / count]));
        lines.push(json!({ "series": kind, "points": points.collect::<Vec<Value>>() }));
    }
    write_lines(extent, "fail-over", &lines)
}

/// An even stream of puts, while a snapshot is taken and while the leader dies.
fn timeline(extent: &Extent, quick: bool) -> Result<()> {
    let mut nodes = Nodes::start(3)?;
    // 64 MiB of log make a snapshot: at this rate after half of the time, about.
    let (seconds, rate, bytes) = if quick { (4, 1_000, 1_024) } else { (20, 3_000, 2_048) };
    eprintln!("timeline: {seconds} s");
    let words =
        format!("--rate {rate} --clients 16 --value-bytes {bytes} --seconds {seconds} --interval-ms 20");
    let load = nodes.begin_bench(&words)?;
    let began = load.began();
    // The time from which on the leader is missing is chosen here, not waited for.
    thread::sleep(Duration::from_secs(seconds * 3 / 4).saturating_sub(began.elapsed()));
    let killed = began.elapsed();
    nodes.kill_leader()?;
    let summary = load.finish()?;
    let mut lines = vec![json!({
        "title": format!("Puts over time, {rate} a second of {bytes} bytes, across a snapshot and a fail-over"),
        "x": { "label": "seconds", "log": false },
        "y": { "label": "microseconds", "log": true },
        "conditions": conditions("three nodes, open loop, intervals of 20 ms"),
    })];
    let intervals = summary["intervals"].as_array().context("intervals")?;
    for name in ["p50_us", "max_us"] {
        let points = intervals.iter().map(|interval| json!([interval["at_s"], interval[name]]));
        lines.push(json!({ "series": name.replace("_us", ""), "points": points.collect::<Vec<Value>>() }));
    }
    lines.push(json!({ "mark": "leader killed", "at": killed.as_secs_f64() }));
    for (node, at) in nodes.snapshots_since(began) {
        lines.push(json!({ "mark": format!("snapshot, node {node}"), "at": at.as_secs_f64() }));
    }
    write_lines(extent, "timeline", &lines)
}

fn conditions(what: &str) -> String {
    format!("{what}; {}; nodes and load share the machine; kvstore {}", machine(), env!("CARGO_PKG_VERSION"))
}

fn write_lines(extent: &Extent, name: &str, lines: &[Value]) -> Result<()> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Ok(fs::write(extent.directory.join(format!("{name}.jsonl")), text)?)
}

fn draw(directory: &Path, name: &str) -> Result<()> {
    let source = directory.join(format!("{name}.jsonl"));
    let text = fs::read_to_string(&source).with_context(|| format!("{}: measure first", source.display()))?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let plot = plot(&lines).with_context(|| source.display().to_string())?;
    let target = directory.join(format!("{name}.svg"));
    fs::write(&target, plot.to_svg())?;
    println!("{}", target.display());
    Ok(())
}

fn plot(lines: &[Value]) -> Result<Plot> {
    let (head, rest) = lines.split_first().context("an empty file")?;
    let word = |value: &Value| value.as_str().map(str::to_owned).context("a word is missing");
    let axis = |value: &Value| -> Result<Axis> {
        Ok(Axis { label: word(&value["label"])?, is_logarithmic: value["log"] == true })
    };
    let (mut series, mut marks) = (Vec::new(), Vec::new());
    for line in rest {
        if line["mark"].is_string() {
            marks.push(Mark { name: word(&line["mark"])?, at: figure(line, "at")? });
            continue;
        }
        let points = line["points"].as_array().context("points")?;
        let point = |point: &Value| Some((point[0].as_f64()?, point[1].as_f64()?));
        let points = points.iter().map(point).collect::<Option<Vec<_>>>().context("points are pairs")?;
        series.push(Series { name: word(&line["series"])?, points });
    }
    Ok(Plot {
        title: word(&head["title"])?,
        conditions: word(&head["conditions"])?,
        x: axis(&head["x"])?,
        y: axis(&head["y"])?,
        series,
        marks,
    })
}
