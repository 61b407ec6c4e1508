//! `kv_client bench` on a real cluster: what it counts is what happened.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::setup::{founded, kv, stop};

/// A load that runs beside the test.
struct Running {
    process: Child,
    progress: BufReader<ChildStderr>,
}

impl Running {
    /// Starts it on all nodes, and waits for its first line of progress: then it runs at full speed.
    fn start(cluster: &Cluster, words: &str) -> Result<Self> {
        let ports = [0, 1, 2].map(|node| cluster.port(node).to_string()).join(",");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kv_client"));
        command.args(["--timeout-ms", "20000", "--json", "--port", &ports, "bench"]).args(words.split(' '));
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut progress = BufReader::new(process.stderr.take().context("no stderr")?);
        for _ in ["what it does", "heading", "first interval"] {
            ensure!(progress.read_line(&mut String::new())? > 0, "it ended before it ran");
        }
        Ok(Self { process, progress })
    }

    /// Its summary, once it has ended.
    fn end(mut self) -> Result<(i32, Value)> {
        self.progress.read_to_string(&mut String::new())?;
        let mut stdout = String::new();
        self.process.stdout.take().context("no stdout")?.read_to_string(&mut stdout)?;
        let status = self.process.wait()?.code().context("ended by a signal")?;
        Ok((status, serde_json::from_str(&stdout).with_context(|| stdout)?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test failed before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn number(summary: &Value, name: &str) -> Result<f64> {
    summary[name].as_f64().with_context(|| format!("no {name} in {summary}"))
}

fn revision(cluster: &Cluster) -> Result<u64> {
    kv(cluster, 0, "--json put revision now")?.json()["revision"].as_u64().context("a revision")
}

#[test]
fn bench_counts_as_many_writes_as_the_log_has() -> Result<()> {
    let cluster = founded(3)?;
    let before = revision(&cluster)?;
    let words = "--count 500 --clients 4 --pipeline 5 --idle 30 --keys 400 --distribution latest";
    let (status, summary) = Running::start(&cluster, &format!("{words} --interval-ms 1"))?.end()?;
    ensure!(status == 0 && summary["ok"] == true && summary["idle_connections"] == 30, "{summary}");
    ensure!(summary["answers"] == 500 && summary["errors"] == 0 && summary["unknown"] == 0, "{summary}");
    ensure!(number(&summary, "p50_us")? > 0.0, "{summary}");
    ensure!(number(&summary, "p50_us")? <= number(&summary, "p99_us")?, "{summary}");
    ensure!(number(&summary, "p99_us")? <= number(&summary, "max_us")?, "{summary}");
    // Besides the 500: the first of each of 20 sessions, and the end of each; this write and the
    // end of the session of the one before.
    let entries = revision(&cluster)? - before;
    ensure!((521..=542).contains(&entries), "{entries} entries: {summary}");
    let keys = kv(&cluster, 1, "scan bench/")?.text().lines().count();
    ensure!(keys == 400, "{keys} keys");
    Ok(())
}

#[test]
fn bench_of_every_operation_finds_what_it_filled_in() -> Result<()> {
    let cluster = founded(3)?;
    for operation in ["get", "stale-get", "mixed", "cas"] {
        let words = format!("--op {operation} --fill --keys 50 --count 300 --clients 3 --interval-ms 1");
        let (status, summary) = Running::start(&cluster, &words)?.end()?;
        ensure!(status == 0 && summary["answers"] == 300 && summary["op"] == operation, "{summary}");
        // A stale read may come before the write that it looks for.
        ensure!(summary["not_found"] == 0 || operation == "stale-get", "{summary}");
        // Each key is unknown to a comparison once at most; what three clients do to one at once
        // comes on top.
        ensure!(number(&summary, "mismatches")? < 150.0, "{summary}");
    }
    Ok(())
}

#[test]
fn bench_across_a_fail_over_shows_a_gap_and_no_error() -> Result<()> {
    let mut cluster = founded(3)?;
    let words = "--seconds 3 --clients 8 --pipeline 2 --op mixed --interval-ms 50";
    let load = Running::start(&cluster, words)?;
    cluster.signal(0, Signal::KILL)?;
    cluster.wait_for_exit(0)?;
    let (status, summary) = load.end()?;
    ensure!(status == 0 && summary["errors"] == 0 && summary["unknown"] == 0, "{summary}");
    // Requests that the dead leader had were asked again, and waited for the new one.
    ensure!(number(&summary, "sent_again")? >= 1.0, "{summary}");
    ensure!(number(&summary, "longest_gap_ms")? > 0.0, "{summary}");
    ensure!(cluster.wait_until_whole()? != 0, "another node leads");
    Ok(())
}

#[test]
fn bench_that_is_interrupted_says_what_it_came_to() -> Result<()> {
    let cluster = founded(3)?;
    let load = Running::start(&cluster, "--seconds 86400 --clients 3 --interval-ms 50")?;
    kill_process(Pid::from_child(&load.process), Signal::INT)?;
    let (status, summary) = load.end()?;
    ensure!(status == 0 && summary["ok"] == true, "{summary}");
    ensure!(number(&summary, "answers")? >= 1.0 && number(&summary, "seconds")? < 3_600.0, "{summary}");
    Ok(())
}

#[test]
fn bench_in_an_open_loop_counts_the_wait_for_a_stopped_leader() -> Result<()> {
    const STALL: Duration = Duration::from_secs(1);
    let cluster = founded(3)?;
    // One client: whatever is due during the stall waits for it.
    let load = Running::start(&cluster, "--rate 200 --seconds 3 --interval-ms 100")?;
    stop(&cluster, 0)?;
    // The stall that is to be seen. What came before it may be read late, and be taken for a part of it.
    thread::sleep(STALL);
    cluster.signal(0, Signal::CONT)?;
    let (status, summary) = load.end()?;
    ensure!(status == 0, "{summary}");
    ensure!(number(&summary, "longest_gap_ms")? >= 500.0, "{summary}");
    // Two hundred of six hundred were due while it was stopped. A closed loop would have one slow answer.
    ensure!(number(&summary, "p99_us")? >= 500_000.0, "{summary}");
    Ok(())
}
