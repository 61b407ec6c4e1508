//! Where a scenario is played: a cluster, its clients, and what is known of the faults.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Error, Result, anyhow, ensure};
use kvstore::wire::client::RoleName;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use crate::cluster::{Cluster, PATIENCE, place_of};
use crate::judge;
use crate::load::{Load, REST, read_for_the_record};
use crate::proxy::{Mesh, Weather};
use crate::record::Recorder;
use crate::setup::{client_of, eventually, prepared_with, program, with_options};
use crate::stalls::StallWatch;

const HISTORY: &str = "history.jsonl";

/// What a scenario is played on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    /// Its name, also that of the directory that a failure leaves.
    pub(crate) name: &'static str,
    pub(crate) nodes: usize,
    pub(crate) clients: usize,
    /// Whether the links between nodes lead through cables that can be disturbed.
    pub(crate) cables: bool,
    /// Further options of all nodes.
    pub(crate) options: &'static [&'static str],
}

impl Scene {
    /// Three nodes that are linked directly, and six clients.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, nodes: 3, clients: 6, cables: false, options: &[] }
    }

    /// Plays a scenario on it, and judges what came of it.
    pub(crate) fn play(self, scenario: impl FnOnce(&mut Stage) -> Result<()>) -> Result<()> {
        let mut stage = Stage::new(self)?;
        let outcome = scenario(&mut stage).and_then(|()| stage.end());
        outcome.map_err(|error| stage.keep(error))
    }
}

/// What a scenario is given.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) load: Load,
    pub(crate) rng: StdRng,
    scene: Scene,
    mesh: Option<Mesh>,
    began: Instant,
    until: Instant,
    stalls: Option<StallWatch>,
    proven: usize,
}

fn number_from(variable: &str, otherwise: u64) -> Result<u64> {
    let Ok(text) = env::var(variable) else { return Ok(otherwise) };
    text.parse().with_context(|| format!("{variable}={text} is no number"))
}

impl Stage {
    fn new(scene: Scene) -> Result<Self> {
        let (seed, seconds) = (number_from("FAULT_SEED", 1)?, number_from("FAULT_SECONDS", 3)?);
        let began = Instant::now();
        let (mut cluster, mesh) = cluster_of(scene)?;
        (0..scene.nodes).try_for_each(|node| cluster.start(node))?;
        cluster.wait_until_whole()?;
        // What is logged of the founding is read before anybody looks for what came after it.
        cluster.wait_for(began, |line| line.text.contains("elected leader"))?;
        let recorder = Recorder::create(&cluster.directory().join(HISTORY))?;
        let endpoints = (0..scene.nodes).map(|node| cluster.endpoint(node)).collect();
        let mut load = Load::new(recorder, endpoints, seed);
        load.add_clients(scene.clients, REST);
        load.wait_for(20)?;
        let until = Instant::now() + Duration::from_secs(seconds);
        let (rng, stalls) = (StdRng::seed_from_u64(seed), Some(StallWatch::start()));
        Ok(Self { cluster, load, rng, scene, mesh, began, until, stalls, proven: 0 })
    }

    pub(crate) fn nodes(&self) -> usize {
        self.scene.nodes
    }

    /// Whether there is time for more.
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Lets the schedule pause for some time between these milliseconds.
    pub(crate) fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        thread::sleep(Duration::from_millis(self.rng.random_range(milliseconds)));
    }

    /// A fault is made.
    pub(crate) fn note(&self, fault: &str) {
        self.load.shared.recorder.fault(fault);
    }

    /// A fault was seen to have had its effect.
    pub(crate) fn prove(&mut self) {
        self.proven += 1;
    }

    /// The place of the node that leads in the latest term.
    pub(crate) fn leader(&self) -> Result<usize> {
        eventually("a leader", || self.leader_now())
    }

    /// Waits until another node than this one leads.
    pub(crate) fn leader_other_than(&self, old: usize) -> Result<usize> {
        eventually("another leader", || self.leader_now().filter(|leader| *leader != old))
    }

    /// Waits until a node follows the one that leads, or leads itself.
    pub(crate) fn wait_until_follows(&self, node: usize) -> Result<()> {
        eventually("a node that follows", || {
            let leader = self.leader_now()?;
            let followed = place_of(self.cluster.status(node).ok()?.leader?).ok()?;
            (followed == leader).then_some(())
        })
    }

    fn leader_now(&self) -> Option<usize> {
        // Who is dead would be asked until the patience of the one who asks is over.
        let running = (0..self.nodes()).filter(|node| self.cluster.pid(*node).is_ok());
        let views = running.filter_map(|node| Some((node, self.cluster.status(node).ok()?)));
        let leaders = views.filter(|(_, view)| view.role == RoleName::Leader);
        leaders.max_by_key(|(_, view)| view.term).map(|(node, _)| node)
    }

    /// The longest time between these that the machine stood still.
    pub(crate) fn longest_stall(&mut self, since: Instant, until: Instant) -> Duration {
        self.stalls.as_mut().map_or(Duration::ZERO, |stalls| stalls.longest(since, until))
    }

    /// A node that does not lead.
    pub(crate) fn follower(&mut self) -> Result<usize> {
        let leader = self.leader()?;
        Ok((leader + self.rng.random_range(1..self.nodes())) % self.nodes())
    }

    /// All nodes, in any order.
    pub(crate) fn shuffled(&mut self) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..self.nodes()).collect();
        nodes.shuffle(&mut self.rng);
        nodes
    }

    /// The term that a node is in.
    pub(crate) fn term(&self, node: usize) -> Result<u64> {
        Ok(self.cluster.status(node)?.term.0)
    }

    /// The cables.
    pub(crate) fn mesh(&self) -> &Mesh {
        self.mesh.as_ref().expect("the scene has cables")
    }

    /// All cables as they should be.
    pub(crate) fn mend(&self) {
        (0..self.nodes()).for_each(|node| self.mesh().set_around(node, Weather::default()));
    }

    /// Kills a node, and waits until it is gone.
    pub(crate) fn kill(&mut self, node: usize) -> Result<()> {
        self.note(&format!("SIGKILL to node {}", node + 1));
        self.cluster.signal(node, Signal::KILL)?;
        self.cluster.wait_for_exit(node)?;
        Ok(())
    }

    /// Starts a node again.
    pub(crate) fn start(&mut self, node: usize) -> Result<()> {
        self.note(&format!("start of node {}", node + 1));
        self.cluster.start(node)
    }

    /// Ends all faults and the load, and judges.
    fn end(&mut self) -> Result<()> {
        if self.mesh.is_some() {
            self.mend();
        }
        for node in 0..self.nodes() {
            match self.cluster.pid(node) {
                Ok(_) => self.cluster.signal(node, Signal::CONT)?,
                Err(_) => self.start(node)?,
            }
        }
        self.load.wait_for(20)?;
        self.load.stop();
        self.cluster.wait_until_whole()?;
        let path = self.cluster.directory().join(HISTORY);
        self.load.shared.recorder.flush()?;
        let keys: BTreeSet<String> = judge::read(&path)?.into_iter().map(|attempt| attempt.key).collect();
        self.check_all_nodes_alike(&keys.into_iter().collect::<Vec<_>>())?;
        self.load.shared.recorder.flush()?;
        let stalled = self.stalls.take().map_or(Duration::ZERO, StallWatch::stop);
        let summary = judge::judge(&judge::read(&path)?, stalled)?;
        self.check_logs()?;
        ensure!(self.proven > 0, "no fault was seen to have happened");
        println!(
            "{}: {} faults seen; {summary}; the machine stood still for {stalled:?}",
            self.scene.name, self.proven
        );
        Ok(())
    }

    /// Every node has the same rows; and each key is read from each node for the record, so that what
    /// was acknowledged and is gone is a violation.
    fn check_all_nodes_alike(&self, keys: &[String]) -> Result<()> {
        let mut all = Vec::new();
        for node in 0..self.nodes() {
            read_for_the_record(&self.load, node, keys)?;
            let mut client = client_of(&self.cluster, &[node], PATIENCE)?;
            let page = client.scan("", None, u32::MAX)?.value;
            ensure!(!page.more, "a run with more rows than a page");
            all.push(page.rows);
        }
        ensure!(all.windows(2).all(|pair| pair[0] == pair[1]), "nodes hold different rows");
        Ok(())
    }

    fn check_logs(&mut self) -> Result<()> {
        let panics = self.cluster.lines_since(self.began, |line| line.contains("panicked at"));
        ensure!(panics.is_empty(), "a node panicked: {panics:?}");
        Ok(())
    }

    /// Keeps the directory of a run that failed, with the logs, and says where.
    fn keep(&mut self, error: Error) -> Error {
        match self.keep_directory() {
            Ok(kept) => error.context(format!(
                "scenario {}; all of it is kept in {}",
                self.scene.name,
                kept.display()
            )),
            Err(why) => error.context(format!("scenario {}; nothing could be kept: {why}", self.scene.name)),
        }
    }

    fn keep_directory(&mut self) -> Result<PathBuf> {
        self.load.stop();
        self.load.shared.recorder.flush()?;
        for line in self.cluster.lines_since(self.began, |_| true) {
            let log = self.cluster.directory().join(format!("node-{}.log", line.node + 1));
            let mut file = fs::OpenOptions::new().create(true).append(true).open(log)?;
            let at = line.at.duration_since(self.began).as_secs_f64();
            std::io::Write::write_fmt(&mut file, format_args!("{at:.6} {}\n", line.text))?;
        }
        for node in 0..self.nodes() {
            // A node that does not run any more is as good.
            let _ = self.cluster.signal(node, Signal::KILL);
        }
        let directory = self.cluster.directory();
        let parent = directory.parent().ok_or_else(|| anyhow!("no directory above"))?;
        let kept = parent.join(format!("kvstore-fault-{}-{}", self.scene.name, std::process::id()));
        fs::rename(directory, &kept)?;
        Ok(kept)
    }
}

fn cluster_of(scene: Scene) -> Result<(Cluster, Option<Mesh>)> {
    if !scene.cables {
        return Ok((prepared_with(scene.nodes, scene.options)?, None));
    }
    let mesh = Mesh::new(scene.nodes)?;
    let cluster =
        Cluster::new(program(), scene.nodes, |node, _| with_options(mesh.peers(node), scene.options))?;
    mesh.connect(|node| cluster.endpoint(node))?;
    Ok((cluster, Some(mesh)))
}
