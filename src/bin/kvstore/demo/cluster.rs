//! Real processes on free ports and a temporary directory, whose logs are read as they come.
//!
//! The demo plays with it, and so do the tests of real processes, which include this file.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
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

/// How long anything may take before it is given up, on however slow a machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A line of a node's log, and when it was read.
#[derive(Clone, Debug)]
pub(super) struct LogLine {
    pub(super) node: usize,
    pub(super) at: Instant,
    pub(super) text: String,
}

/// A port that was free, and that nobody else takes who asks for ports in this way: a name that
/// only one process can have at a time stands for it. The system takes the name back with the
/// process, however that ends.
pub(super) struct Port {
    number: u16,
    _claim: UnixListener,
}

/// One node: how it is started, and its process while it runs.
struct Node {
    port: Port,
    arguments: Vec<String>,
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
    /// Prepares so many nodes of `program`. Given all ports, `arguments` gives what each is started with
    /// besides its id, port and directory: its `--peers`, and further options.
    pub(super) fn new(
        program: PathBuf,
        nodes: usize,
        arguments: impl Fn(usize, &[u16]) -> Vec<String>,
    ) -> Result<Self> {
        let ports = free_ports(nodes)?;
        let numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        let node = |(node, port)| Node { port, arguments: arguments(node, &numbers), child: None };
        let nodes = ports.into_iter().enumerate().map(node).collect();
        let directory = TempDir::with_prefix("kvstore-demo-").context("no temporary directory")?;
        let (reports, lines) = mpsc::channel();
        Ok(Self { program, nodes, directory, lines, reports, log: Vec::new() })
    }

    pub(super) fn port(&self, node: usize) -> u16 {
        self.nodes[node].port.number()
    }

    pub(super) fn endpoint(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.port(node))
    }

    /// Where all nodes have their data.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where a node has its data.
    pub(super) fn data(&self, node: usize) -> PathBuf {
        self.directory().join(format!("node-{}", node + 1))
    }

    /// The command line of a node.
    pub(super) fn command(&self, node: usize) -> Command {
        let Node { port, arguments, .. } = &self.nodes[node];
        let mut command = Command::new(&self.program);
        command
            .args(["--id", &(node + 1).to_string(), "--port", &port.number().to_string()])
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data(node))
            .env("RUST_LOG", "info");
        command
    }

    /// Starts a node and waits for the line by which it says that it listens.
    pub(super) fn start(&mut self, node: usize) -> Result<()> {
        self.start_as(node, self.command(node))
    }

    /// The same with a command line of the caller's.
    pub(super) fn start_as(&mut self, node: usize, mut command: Command) -> Result<()> {
        let since = Instant::now();
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a node")?;
        let stdout = process.stdout.take().context("a node without stdout")?;
        let stderr = process.stderr.take().context("a node without stderr")?;
        self.nodes[node].child = Some(process);
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
        Self::last_lines(self.log.iter().filter(|line| line.node == node))
    }

    fn last_lines<'a>(lines: impl Iterator<Item = &'a LogLine>) -> String {
        let lines: Vec<&str> = lines.map(|line| line.text.as_str()).collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// What each node said of itself when it was asked, and in its log.
    fn told(&self, views: &[NodeStatus]) -> String {
        let unread: Vec<LogLine> = self.lines.try_iter().collect();
        let lines = || self.log.iter().chain(&unread);
        let of_node = |node: usize| {
            let id = u64::try_from(node + 1).unwrap_or(0);
            let view = views.iter().find(|view| view.id.0 == id).map(|view| {
                let NodeStatus { role, term, leader, commit, applied, last_index, .. } = view;
                format!("{role:?} in term {term}, leader {leader:?}, commit {commit}, applied {applied} of {last_index}")
            });
            let tail = Self::last_lines(lines().filter(|line| line.node == node));
            format!("\nnode {id}: {}\n{tail}", view.unwrap_or_else(|| "no answer".to_owned()))
        };
        (0..self.nodes.len()).map(of_node).collect()
    }

    /// A node's process, while it runs.
    pub(super) fn pid(&self, node: usize) -> Result<Pid> {
        let child = self.nodes[node].child.as_ref().context("the node does not run")?;
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process id")
    }

    /// Sends a signal to a node's process.
    pub(super) fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        kill_process(self.pid(node)?, signal).with_context(|| format!("cannot signal node {}", node + 1))
    }

    /// Waits until a node's process has ended.
    pub(super) fn wait_for_exit(&mut self, node: usize) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        let child = self.nodes[node].child.as_mut().context("the node does not run")?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.nodes[node].child = None;
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "node {} still runs after {PATIENCE:?}", node + 1);
            // Nothing tells when a child has ended, without waiting for ever.
            thread::sleep(Duration::from_millis(1));
        }
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

    /// Waits until, of all nodes that run, one leads, the others follow it, and all have applied the
    /// same. Gives the leader.
    pub(super) fn wait_until_whole(&self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        let running = || (0..self.nodes.len()).filter(|node| self.nodes[*node].child.is_some());
        loop {
            let views: Vec<NodeStatus> = running().filter_map(|node| self.status(node).ok()).collect();
            let leader = views.iter().find(|view| view.role == RoleName::Leader);
            if let Some(leader) = leader
                && views.len() == running().count()
                && views.iter().all(|view| view.leader == Some(leader.id) && view.applied == leader.commit)
            {
                return place_of(leader.id);
            }
            ensure!(Instant::now() < deadline, "the cluster did not become whole: {}", self.told(&views));
            // Nothing tells when a follower has applied all; asking again soon is the only way.
            thread::sleep(Duration::from_millis(2));
        }
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

impl Port {
    /// The port's number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Claims a port, if nobody has claimed it or listens on it.
    fn claim(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("kvstore port {number}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Self { number, _claim: claim })
    }
}

/// The place of the node with this id.
pub(super) fn place_of(id: NodeId) -> Result<usize> {
    Ok(usize::try_from(id.0.checked_sub(1).context("node ids begin at 1")?)?)
}

/// The `--peers` of a node: the ports of the others.
pub(super) fn list_of_others(node: usize, ports: &[u16]) -> Vec<String> {
    let others = ports.iter().enumerate().filter(|(other, _)| *other != node);
    let list = others.map(|(_, port)| port.to_string()).collect::<Vec<_>>().join(",");
    vec!["--peers".to_owned(), list]
}

/// Ports that are free, below the range from which outgoing connections take theirs.
pub(super) fn free_ports(count: usize) -> Result<Vec<Port>> {
    let start = 15_000 + u16::try_from(std::process::id() % 14_000)?;
    let ports: Vec<Port> = (start..30_000).chain(15_000..start).filter_map(Port::claim).take(count).collect();
    ensure!(ports.len() == count, "no {count} free ports between 15000 and 30000");
    Ok(ports)
}
