//! How tests begin: a cluster that is whole, and `kv_client` to talk to it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use kvstore::client::{Client, Options};
use rustix::process::Signal;

use crate::cluster::{Cluster, PATIENCE, list_of_others};

/// Timings so long that a loaded machine disturbs nobody: an election is the test's own doing.
pub(crate) const CALM: [&str; 4] = ["--heartbeat-ms", "200", "--election-ms", "4000-8000"];

/// Timings of nodes whose leader goes on to lead though it hears of nobody for half a minute.
pub(crate) const PATIENT: [&str; 4] = ["--heartbeat-ms", "1000", "--election-ms", "30000-60000"];

/// A node's program.
pub(crate) fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_kvstore").into()
}

/// So many nodes, none of which runs, with the timings that users have.
pub(crate) fn prepared(nodes: usize) -> Result<Cluster> {
    prepared_with(nodes, &[])
}

/// The same, with further options of all nodes at each start.
pub(crate) fn prepared_with(nodes: usize, options: &[&str]) -> Result<Cluster> {
    Cluster::new(program(), nodes, |node, ports| with_options(list_of_others(node, ports), options))
}

/// A node's arguments, with these options too.
pub(crate) fn with_options(mut arguments: Vec<String>, options: &[&str]) -> Vec<String> {
    arguments.extend(options.iter().map(|option| (*option).to_owned()));
    arguments
}

/// So many nodes that run and agree, with timings that are [`CALM`]; node 1, at place 0, leads.
pub(crate) fn founded(nodes: usize) -> Result<Cluster> {
    founded_with(nodes, &CALM)
}

/// The same with other options. Where timings are as short as users have them, who leads then may be
/// chance on a machine that pauses; see [`running`].
pub(crate) fn founded_with(nodes: usize, options: &[&str]) -> Result<Cluster> {
    let (cluster, leader) = run_all(prepared_with(nodes, options)?, nodes)?;
    ensure!(leader == 0, "the lowest id founds and leads first, not node {}", leader + 1);
    Ok(cluster)
}

/// So many nodes that run and agree, with the timings that users have, and the place of the one that
/// leads now. A machine that pauses for as long as a follower's patience may cause an election at any time.
pub(crate) fn running(nodes: usize) -> Result<(Cluster, usize)> {
    run_all(prepared(nodes)?, nodes)
}

fn run_all(mut cluster: Cluster, nodes: usize) -> Result<(Cluster, usize)> {
    let since = Instant::now();
    (0..nodes).try_for_each(|node| cluster.start(node))?;
    let leader = cluster.wait_until_whole()?;
    // That line is read by now, then, and not taken for one of an election that a test causes.
    cluster.wait_for_line(leader, since, |line| line.contains("elected leader"))?;
    Ok((cluster, leader))
}

/// A client of these nodes alone, in this order.
pub(crate) fn client_of(cluster: &Cluster, nodes: &[usize], timeout: Duration) -> Result<Client> {
    let endpoints = nodes.iter().map(|node| cluster.endpoint(*node));
    Ok(Client::connect(Options::new(endpoints).with_timeout(timeout))?)
}

/// Stops a node, and waits until it has stopped: the signal alone may find it in the middle of an
/// answer.
pub(crate) fn stop(cluster: &Cluster, node: usize) -> Result<()> {
    cluster.signal(node, Signal::STOP)?;
    let stat = format!("/proc/{}/stat", cluster.pid(node)?.as_raw_nonzero());
    eventually("a node that has stopped", || {
        // After the name, which may hold anything, comes the state.
        let stat = fs::read_to_string(&stat).ok()?;
        stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
    })
}

/// Looks again and again until there is something to see.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        // For what a node neither logs nor says by itself: it must be asked again.
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a program came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// What it printed.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text on stdout")
    }

    /// The JSON object that it printed.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).expect("one JSON object on stdout")
    }
}

/// `kv_client` with the port of a node.
pub(crate) fn kv_client<A: AsRef<OsStr>>(cluster: &Cluster, node: usize, arguments: &[A]) -> Result<Ended> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv_client"));
    command.args(["--port", &cluster.port(node).to_string()]).args(arguments);
    if arguments.iter().all(|argument| argument.as_ref() != "--timeout-ms") {
        command.args(["--timeout-ms", "20000"]);
    }
    run(command, b"")
}

/// The same, for a line of words.
pub(crate) fn kv(cluster: &Cluster, node: usize, words: &str) -> Result<Ended> {
    kv_client(cluster, node, &words.split(' ').collect::<Vec<_>>())
}

/// A node's own answer, as an object. A client asks another one if the one that it was given is silent
/// for a quarter of a second, as it is on a machine that pauses; then it is asked again.
pub(crate) fn answered_by(cluster: &Cluster, node: usize, words: &str) -> Result<serde_json::Value> {
    eventually(&format!("an answer of node {} itself to {words}", node + 1), || {
        let object = kv(cluster, node, words).ok()?.json();
        (object["node"] == node + 1).then_some(object)
    })
}

/// Runs a program that is expected to end, and ends it if it does not.
pub(crate) fn run(mut command: Command, stdin: &[u8]) -> Result<Ended> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut child = Ending(child);
    let mut input = child.0.stdin.take().context("no stdin")?;
    let stdout = gather(child.0.stdout.take().context("no stdout")?);
    let stderr = gather(child.0.stderr.take().context("no stderr")?);
    // A program may refuse without having read its input.
    let _ = input.write_all(stdin);
    drop(input);
    let status = eventually(&format!("the end of {command:?}"), || child.0.try_wait().ok().flatten())?;
    let stdout = stdout.join().expect("reading does not panic");
    let stderr = String::from_utf8_lossy(&stderr.join().expect("reading does not panic")).into_owned();
    Ok(Ended { status: status.code().context("ended by a signal")?, stdout, stderr })
}

/// A process that does not outlive this value.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gather(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is all there is.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}
