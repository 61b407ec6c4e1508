//! Three real processes on free ports and a temporary directory, whose logs are read as they come.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvstore::client::{Client, Options};
use kvstore::types::NodeId;
use kvstore::wire::client::{NodeStatus, RoleName};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take before the demo gives up on it.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A line of a node's log, and when it was read.
#[derive(Clone, Debug)]
pub(super) struct LogLine {
    pub(super) node: usize,
    pub(super) at: Instant,
    pub(super) text: String,
}

/// One node: how it is started, and its process while it runs.
struct Node {
    port: u16,
    peers: String,
    child: Option<Child>,
}

/// The cluster. Dropping it ends every process and removes the directory.
pub(super) struct Cluster {
    program: PathBuf,
    nodes: Vec<Node>,
    directory: TempDir,
    lines: Receiver<LogLine>,
    reports: Sender<LogLine>,
    /// Every line read so far, for those who look for one that came early.
    log: Vec<LogLine>,
}

impl Cluster {
    /// Prepares three nodes of `program`; `peers` gives the `--peers` list of each, given all ports.
    pub(super) fn new(program: PathBuf, peers: impl Fn(usize, &[u16]) -> String) -> Result<Self> {
        let ports = free_ports(3)?;
        let nodes = (0..3).map(|node| Node { port: ports[node], peers: peers(node, &ports), child: None });
        let directory = TempDir::with_prefix("kvstore-demo-").context("no temporary directory")?;
        let (reports, lines) = mpsc::channel();
        Ok(Self { program, nodes: nodes.collect(), directory, lines, reports, log: Vec::new() })
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }

    pub(super) fn port(&self, node: usize) -> u16 {
        self.nodes[node].port
    }

    pub(super) fn endpoint(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.port(node))
    }

    /// Starts a node and waits for the line by which it says that it listens.
    pub(super) fn start(&mut self, node: usize) -> Result<()> {
        let data = self.directory.path().join(format!("node-{}", node + 1));
        let Node { port, peers, child } = &mut self.nodes[node];
        let since = Instant::now();
        let mut process = Command::new(&self.program)
            .args(["--id", &(node + 1).to_string(), "--port", &port.to_string(), "--peers", peers])
            .arg("--data-dir")
            .arg(data)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a node")?;
        let stdout = process.stdout.take().context("a node without stdout")?;
        let stderr = process.stderr.take().context("a node without stderr")?;
        *child = Some(process);
        for stream in [Box::new(stdout) as Box<dyn std::io::Read + Send>, Box::new(stderr)] {
            let reports = self.reports.clone();
            thread::spawn(move || report_lines(node, stream, &reports));
        }
        self.wait_for_line(node, since, |line| line.contains("listening on"))?;
        Ok(())
    }

    /// Waits for a line of `node` that was read at or after `since`.
    pub(super) fn wait_for_line(
        &mut self,
        node: usize,
        since: Instant,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<LogLine> {
        self.wait_for(since, |line| line.node == node && wanted(&line.text))
            .with_context(|| format!("the last lines of node {}:\n{}", node + 1, self.tail(node)))
    }

    /// Waits for a line of any node that was read at or after `since`.
    pub(super) fn wait_for(&mut self, since: Instant, wanted: impl Fn(&LogLine) -> bool) -> Result<LogLine> {
        let is_it = |line: &LogLine| line.at >= since && wanted(line);
        if let Some(line) = self.log.iter().find(|line| is_it(line)) {
            return Ok(line.clone());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if is_it(&line) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("nothing was logged as expected within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the cluster holds a sender itself"),
            }
        }
    }

    /// All lines that were read at or after `since` so far, of those wanted.
    pub(super) fn lines_since(&mut self, since: Instant, wanted: impl Fn(&str) -> bool) -> Vec<LogLine> {
        self.log.extend(self.lines.try_iter());
        self.log.iter().filter(|line| line.at >= since && wanted(&line.text)).cloned().collect()
    }

    fn tail(&self, node: usize) -> String {
        let of_node: Vec<&str> =
            self.log.iter().filter(|line| line.node == node).map(|line| line.text.as_str()).collect();
        of_node[of_node.len().saturating_sub(8)..].join("\n")
    }

    /// A node's process.
    pub(super) fn process_id(&self, node: usize) -> Result<u32> {
        Ok(self.nodes[node].child.as_ref().context("the node does not run")?.id())
    }

    /// Sends a signal to a node's process.
    pub(super) fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        let pid =
            i32::try_from(self.process_id(node)?).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal node {}", node + 1))
    }

    /// Waits until a node's process has ended.
    pub(super) fn wait_for_exit(&mut self, node: usize) -> Result<ExitStatus> {
        let mut child = self.nodes[node].child.take().context("the node does not run")?;
        Ok(child.wait()?)
    }

    /// A client that knows all nodes.
    pub(super) fn client(&self) -> Result<Client> {
        let endpoints: Vec<String> = (0..self.nodes.len()).map(|node| self.endpoint(node)).collect();
        Ok(Client::connect(Options::new(endpoints).with_timeout(PATIENCE))?)
    }

    /// A client that asks this node alone.
    pub(super) fn client_of(&self, node: usize) -> Result<Client> {
        Ok(Client::connect(Options::new([self.endpoint(node)]).with_timeout(Duration::from_secs(5)))?)
    }

    /// A node's own view.
    pub(super) fn status(&self, node: usize) -> Result<NodeStatus> {
        Ok(self.client_of(node)?.status()?.value)
    }

    /// Waits until all three run, one leads, the others follow it, and all have applied the same.
    /// Gives the leader.
    pub(super) fn wait_until_whole(&self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let views: Vec<NodeStatus> =
                (0..self.nodes.len()).filter_map(|node| self.status(node).ok()).collect();
            let leader = views.iter().find(|view| view.role == RoleName::Leader);
            if let Some(leader) = leader
                && views.len() == self.nodes.len()
                && views.iter().all(|view| view.leader == Some(leader.id) && view.applied == leader.commit)
            {
                return Ok(usize::try_from(leader.id.0 - 1)?);
            }
            ensure!(Instant::now() < deadline, "the cluster did not become whole: {views:?}");
            // Nothing tells when a follower has applied all; asking again soon is the only way.
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The place of the node with this id.
    pub(super) fn node_of(id: NodeId) -> Result<usize> {
        Ok(usize::try_from(id.0.checked_sub(1).context("node ids begin at 1")?)?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            // A stopped process dies of this too. It may have ended by itself, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn report_lines(node: usize, stream: Box<dyn std::io::Read + Send>, reports: &Sender<LogLine>) {
    for text in BufReader::new(stream).lines().map_while(Result::ok) {
        if reports.send(LogLine { node, at: Instant::now(), text }).is_err() {
            return;
        }
    }
}

/// The `--peers` list of a node: the ports of the others.
pub(super) fn list_of_others(node: usize, ports: &[u16]) -> String {
    let others = ports.iter().enumerate().filter(|(other, _)| *other != node);
    others.map(|(_, port)| port.to_string()).collect::<Vec<_>>().join(",")
}

/// Ports that are free now, below the range from which outgoing connections take theirs.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All are held until the last is found, so that none is found twice.
    free_listeners(count)?.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Listeners on such ports.
pub(super) fn free_listeners(count: usize) -> Result<Vec<TcpListener>> {
    let start = 15_000 + u16::try_from(std::process::id() % 14_000)?;
    let candidates = (start..30_000).chain(15_000..start);
    let free = candidates.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    let listeners: Vec<TcpListener> = free.take(count).collect();
    ensure!(listeners.len() == count, "no {count} free ports between 15000 and 30000");
    Ok(listeners)
}
