//! Processes that are killed, told to leave, and started again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::proxy::Weather;
use crate::setup::eventually;
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
