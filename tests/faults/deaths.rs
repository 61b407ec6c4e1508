//! Processes that are killed, told to leave, and started again.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kvstore::client::Client;
use rustix::process::Signal;

use crate::proxy::Weather;
use crate::setup::{eventually, program, run};
use crate::stage::{Scene, Stage};

#[test]
fn leader_killed_again_and_again_loses_and_repeats_nothing() -> Result<()> {
    Scene::new("leader-killed").play(|stage| {
        while stage.goes_on() {
            stage.pause(100..600);
            let leader = stage.leader()?;
            stage.kill(leader)?;
            stage.leader_other_than(leader)?;
            stage.prove();
            stage.load.wait_for(20)?;
            stage.start(leader)?;
        }
        Ok(())
    })
}

#[test]
fn minority_killed_and_then_all_at_once_loses_and_repeats_nothing() -> Result<()> {
    Scene { nodes: 5, ..Scene::new("minority-then-all-killed") }.play(|stage| {
        while stage.goes_on() {
            let victims = stage.shuffled();
            for victim in &victims[..2] {
                stage.kill(*victim)?;
            }
            stage.load.wait_for(20)?;
            stage.prove();
            stage.note("SIGKILL to all that are left");
            for victim in &victims[2..] {
                stage.cluster.signal(*victim, Signal::KILL)?;
            }
            for victim in &victims[2..] {
                stage.cluster.wait_for_exit(*victim)?;
            }
            for node in stage.shuffled() {
                stage.start(node)?;
            }
            stage.load.wait_for(20)?;
            stage.prove();
        }
        Ok(())
    })
}

#[test]
fn leader_told_to_leave_again_and_again_drains_and_exits_well() -> Result<()> {
    Scene::new("leader-told-to-leave").play(|stage| {
        while stage.goes_on() {
            stage.pause(100..500);
            let leader = stage.leader()?;
            leave(stage, leader)?;
            stage.load.wait_for(10)?;
            stage.start(leader)?;
        }
        Ok(())
    })
}

#[test]
fn rolling_restart_of_five_loses_and_repeats_nothing() -> Result<()> {
    Scene { nodes: 5, ..Scene::new("rolling-restart") }.play(|stage| {
        // The first round is completed however little time there is.
        for round in 0.. {
            for node in stage.shuffled() {
                if round > 0 && !stage.goes_on() {
                    return Ok(());
                }
                leave(stage, node)?;
                stage.start(node)?;
                let committed = stage.cluster.status(stage.leader()?)?.commit;
                eventually("a node that has caught up", || {
                    (stage.cluster.status(node).ok()?.applied >= committed).then_some(())
                })?;
            }
        }
        Ok(())
    })
}

/// So many entries may reach a follower between a look at its log and its death, or be kept by a leader
/// though a snapshot stands for them.
const MARGIN: u64 = 200;

/// A log so small that there is a snapshot every few writes: nodes die while they take snapshots, send
/// and install them, and what is left on each disk must be sound.
#[test]
fn nodes_killed_while_they_compact_and_install_lose_and_repeat_nothing() -> Result<()> {
    Scene { options: &["--snapshot-log-kib", "64"], ..Scene::new("small-log") }.play(|stage| {
        let filler = Filler::start(stage.cluster.client()?);
        let mut installed = 0;
        while stage.goes_on() || installed == 0 {
            let follower = stage.follower()?;
            let had = stage.cluster.status(follower)?.last_index.0;
            let died = Instant::now();
            stage.kill(follower)?;
            for other in (0..stage.nodes()).filter(|other| *other != follower) {
                let is_beyond = |line: &str| saved_index(line).is_some_and(|index| index > had + MARGIN);
                stage.cluster.wait_for_line(other, died, is_beyond)?;
            }
            let started = Instant::now();
            stage.start(follower)?;
            stage.cluster.wait_for_line(follower, started, |line| line.contains("snapshot installed"))?;
            installed += 1;
            stage.prove();
            let victim = stage.shuffled()[0];
            stage.pause(0..100);
            stage.kill(victim)?;
            stage.load.wait_for(20)?;
            stage.start(victim)?;
            stage.wait_until_follows(victim)?;
        }
        filler.stop()?;
        kill_and_inspect_all(stage)
    })
}

/// The index of the snapshot that a node says it has saved.
fn saved_index(line: &str) -> Option<u64> {
    line.split_once("snapshot saved index=")?.1.split(' ').next()?.parse().ok()
}

/// Kills all nodes, and has each directory looked at before it is started from.
fn kill_and_inspect_all(stage: &mut Stage) -> Result<()> {
    for node in stage.shuffled() {
        stage.kill(node)?;
    }
    for node in stage.shuffled() {
        let mut command = Command::new(program());
        command.arg("inspect").arg(stage.cluster.data(node));
        let said = run(command, b"")?;
        ensure!(said.status == 0, "{}{}", said.text(), said.stderr);
        stage.start(node)?;
    }
    stage.prove();
    Ok(())
}

/// Writes of 4 KiB, one after the other and without a record, so that logs grow.
struct Filler {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Filler {
    fn start(mut client: Client) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let is_over_there = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            for number in 0_u64.. {
                if is_over_there.load(Ordering::SeqCst) {
                    break;
                }
                client.put(format!("filler/{}", number % 8), vec![b'x'; 4 << 10])?;
            }
            Ok(())
        });
        Self { is_over, thread }
    }

    fn stop(self) -> Result<()> {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().expect("the filler does not panic")
    }
}

fn leave(stage: &mut Stage, node: usize) -> Result<()> {
    stage.note(&format!("SIGTERM to node {}", node + 1));
    stage.cluster.signal(node, Signal::TERM)?;
    let status = stage.cluster.wait_for_exit(node)?;
    ensure!(status.success(), "node {} left with {status}", node + 1);
    stage.prove();
    Ok(())
}

/// How long a client that is connected waits, where the leader is killed and where its cables fall
/// silent. What is printed is no measurement: other tests run, and a proxy before a dead leader's port
/// accepts and closes, which is no evidence of a death. `kvstore demo --trials` measures.
#[test]
fn failovers_one_after_another_with_resets_and_in_silence_are_all_survived() -> Result<()> {
    Scene { cables: true, ..Scene::new("failovers") }.play(|stage| {
        let mut waits = [Vec::new(), Vec::new()];
        while stage.goes_on() || waits.iter().any(Vec::is_empty) {
            let leader = stage.leader()?;
            let is_silent = waits[1].len() < waits[0].len();
            let mut client = stage.cluster.client()?;
            client.put("failover", "before")?;
            let struck = Instant::now();
            if is_silent {
                stage.note(&format!("silence around node {}", leader + 1));
                stage.mesh().set_around(leader, Weather::cut());
            } else {
                stage.kill(leader)?;
            }
            client.put("failover", "after")?;
            waits[usize::from(is_silent)].push(struck.elapsed());
            stage.leader_other_than(leader)?;
            stage.prove();
            if is_silent {
                stage.mend();
            } else {
                stage.start(leader)?;
            }
            stage.wait_until_follows(leader)?;
        }
        for (how, mut waits) in ["killed", "silent"].into_iter().zip(waits) {
            waits.sort();
            let at = |place: usize| waits.get(place).copied().unwrap_or(Duration::ZERO);
            let (median, longest) = (at(waits.len() / 2), at(waits.len() - 1));
            println!(
                "leader {how} {} times: first write after {median:.1?}, at most {longest:.1?}",
                waits.len()
            );
        }
        Ok(())
    })
}
