//! Processes that stand still for a while, with all their connections open.

use std::time::Instant;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::setup::{CALM, stop};
use crate::stage::{Scene, Stage};

/// From a tenth of the longest default election timeout to five times that.
const PAUSES_MS: std::ops::Range<u64> = 25..1250;

/// While it stands still others may lead and be written to; what it answers when it goes on is read
/// by clients that prefer it.
#[test]
fn leader_stopped_and_continued_answers_nothing_stale() -> Result<()> {
    Scene::new("leader-stopped").play(|stage| {
        while stage.goes_on() {
            let leader = stage.leader()?;
            pause(stage, leader)?;
            stage.load.wait_for(10)?;
        }
        Ok(())
    })
}

#[test]
fn follower_stopped_and_continued_answers_nothing_stale() -> Result<()> {
    Scene { nodes: 5, ..Scene::new("follower-stopped") }.play(|stage| {
        while stage.goes_on() {
            let follower = stage.follower()?;
            pause(stage, follower)?;
            stage.load.wait_for(10)?;
        }
        Ok(())
    })
}

/// Where nodes wait for seconds before they doubt their leader, nobody does because of a follower.
#[test]
fn follower_stopped_for_less_than_a_timeout_causes_no_election() -> Result<()> {
    Scene { options: &CALM, ..Scene::new("follower-stopped-calm") }.play(|stage| {
        let began = Instant::now();
        while stage.goes_on() {
            let follower = stage.follower()?;
            pause(stage, follower)?;
            stage.load.wait_for(10)?;
        }
        let elections = stage.cluster.lines_since(began, |line| line.contains("election started"));
        ensure!(elections.is_empty(), "{elections:?}");
        Ok(())
    })
}

fn pause(stage: &mut Stage, node: usize) -> Result<()> {
    stage.note(&format!("SIGSTOP to node {}", node + 1));
    stop(&stage.cluster, node)?;
    stage.prove();
    stage.pause(PAUSES_MS);
    stage.note(&format!("SIGCONT to node {}", node + 1));
    stage.cluster.signal(node, Signal::CONT)
}
