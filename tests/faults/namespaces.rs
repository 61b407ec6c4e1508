//! Nodes on machines of their own, as far as their networks go: real cables that can be pulled out.
//!
//! A proxy's cable, cut, still has two kernels that acknowledge all that reaches them. Here nothing is
//! acknowledged, so it shows what TCP does by itself. It takes the right to make network namespaces;
//! where that is missing the tests say that they are skipped.

use std::io::Write;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cluster::{Cluster, list_of_others};
use crate::setup::{CALM, eventually, program};

const PORT: &str = "9000";

/// A switch, and a machine at each of its ports. Dropping it takes all away.
struct Lab {
    name: String,
    nodes: usize,
}

impl Lab {
    /// So many machines; none where this process may not make them.
    fn build(nodes: usize) -> Option<Self> {
        let lab = Self { name: format!("kvstore-{}", std::process::id()), nodes };
        let switch = lab.switch();
        let mut works = ip(&format!("netns add {switch}"))
            && ip(&format!("-n {switch} link add bridge type bridge"))
            && ip(&format!("-n {switch} link set bridge up"));
        for node in 0..nodes {
            let (machine, address) = (lab.machine(node), address(node));
            works = works
                && ip(&format!("netns add {machine}"))
                && ip(&format!(
                    "link add port{node} netns {switch} type veth peer name cable netns {machine}"
                ))
                && ip(&format!("-n {machine} address add {address}/24 dev cable"))
                && ip(&format!("-n {machine} link set cable up"))
                && ip(&format!("-n {machine} link set lo up"))
                && ip(&format!("-n {switch} link set port{node} up"))
                && lab.plug_in(node);
        }
        works.then_some(lab)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn machine(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    fn plug_in(&self, node: usize) -> bool {
        ip(&format!("-n {} link set port{node} master bridge", self.switch()))
    }

    /// The switch no longer passes anything on from this machine or to it. The machine is not told.
    fn cut(&self, node: usize) -> bool {
        ip(&format!("-n {} link set port{node} nomaster", self.switch()))
    }

    /// A program on a machine.
    fn command(&self, node: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.machine(node), program]);
        command
    }

    /// `kv_client` on a node's machine, asking that node.
    fn ask(&self, node: usize, words: &str) -> Result<Output> {
        let mut command = self.command(node, env!("CARGO_BIN_EXE_kv_client"));
        command.args(["--host", &address(node), "--port", PORT]).args(words.split(' '));
        Ok(command.output()?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What was not made cannot be taken away, which is as good.
        (0..self.nodes).for_each(|node| _ = ip(&format!("netns delete {}", self.machine(node))));
        ip(&format!("netns delete {}", self.switch()));
    }
}

fn address(node: usize) -> String {
    format!("10.77.0.{}", node + 1)
}

fn ip(words: &str) -> bool {
    Command::new("ip").args(words.split(' ')).output().is_ok_and(|output| output.status.success())
}

/// Three nodes, each on its machine, which tell of their links.
fn founded(lab: &Lab) -> Result<Cluster> {
    let mut cluster = Cluster::new(program(), lab.nodes, list_of_others)?;
    for node in 0..lab.nodes {
        let others = (0..lab.nodes).filter(|other| *other != node);
        let peers: Vec<String> = others.map(|other| format!("{}:{PORT}", address(other))).collect();
        let mut command = lab.command(node, &program().to_string_lossy());
        command
            .args(["--id", &(node + 1).to_string(), "--host", &address(node), "--port", PORT])
            .args(["--peers", &peers.join(",")])
            .args(CALM)
            .arg("--data-dir")
            .arg(cluster.data(node))
            .env("RUST_LOG", "debug");
        cluster.start_as(node, command)?;
    }
    for node in 0..lab.nodes {
        eventually("a put at each node", || {
            lab.ask(node, "put key before").ok().filter(|output| output.status.success())
        })?;
    }
    Ok(cluster)
}

/// TCP waits twice as long after each attempt: after seven seconds the next one would come when twelve are
/// over. So a link without an acknowledgement is closed after two seconds, and redialled until that works.
#[test]
fn cable_cut_for_seconds_ends_its_links_and_is_found_mended_at_once() -> Result<()> {
    const CUT: Duration = Duration::from_secs(7);
    let Some(lab) = Lab::build(3) else {
        let test = "cable_cut_for_seconds_ends_its_links_and_is_found_mended_at_once";
        // Past the capture of test output.
        writeln!(std::io::stderr(), "SKIPPED {test}: no network namespaces can be made here")?;
        return Ok(());
    };
    let mut cluster = founded(&lab)?;
    let (leader, follower) = (0, 2);
    let began = Instant::now();
    ensure!(lab.cut(follower), "the cable cannot be cut");
    let lost = cluster.wait_for_line(leader, began, |line| line.contains("the link to node 3 is lost"))?;
    let noticed = lost.at.duration_since(began);
    ensure!((1_500..3_500).contains(&noticed.as_millis()), "the link ended after {noticed:?}");
    cluster.wait_for_line(follower, began, |line| line.contains("the link to node 1 is lost"))?;
    let put = lab.ask(leader, "put key after")?;
    ensure!(put.status.success(), "the other two go on: {put:?}");
    // How long the cut lasts is what is tried.
    thread::sleep(CUT.saturating_sub(began.elapsed()));
    let mended = Instant::now();
    ensure!(lab.plug_in(follower), "the cable cannot be mended");
    eventually("what was written meanwhile", || {
        lab.ask(follower, "--timeout-ms 1000 get key --stale")
            .ok()
            .filter(|output| output.stdout == b"after\n")
    })?;
    let took = mended.elapsed();
    ensure!(took < Duration::from_secs(3), "the mended cable was found after {took:?}");
    println!("noticed after {noticed:?}, found mended after {took:?}");
    let elections = cluster.lines_since(began, |line| line.contains("election started"));
    ensure!(elections.is_empty(), "{elections:?}");
    Ok(())
}
