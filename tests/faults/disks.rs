//! Disks whose syncs fail or take long.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rand::RngExt;

use crate::setup::eventually;
use crate::stage::{Scene, Stage};
use crate::syscalls::{Injection, can_inject};

fn inject(stage: &Stage, node: usize, fault: &str) -> Result<Injection> {
    stage.note(&format!("fdatasync of node {}: {fault}", node + 1));
    let report = stage.cluster.directory().join(format!("syncs-{}", node + 1));
    Injection::attach(stage.cluster.pid(node)?, fault, &report)?.context("attached before, and cannot now")
}

/// Once, on a leader and on a follower in turn. The node must end at once and say why: that the next
/// sync would succeed proves nothing. Started again it has lost nothing.
#[test]
fn node_whose_sync_fails_ends_and_comes_back_with_all_it_promised() -> Result<()> {
    if !can_inject("node_whose_sync_fails_ends_and_comes_back_with_all_it_promised")? {
        return Ok(());
    }
    Scene::new("sync-fails").play(|stage| {
        for turn in 0.. {
            if turn >= 2 && !stage.goes_on() {
                break;
            }
            let victim = if turn % 2 == 0 { stage.leader()? } else { stage.follower()? };
            let since = Instant::now();
            // The second is what a file system says that went over to reading alone.
            let (error, words) =
                if turn % 2 == 0 { ("EIO", "error 5") } else { ("EROFS", "mount it for writing") };
            let injection = inject(stage, victim, &format!("error={error}:when=1"))?;
            let status = stage.cluster.wait_for_exit(victim)?;
            ensure!(status.code() == Some(1), "node {} ended with {status}", victim + 1);
            eventually("the one sync that failed", || (injection.injected() == 1).then_some(()))?;
            stage
                .cluster
                .wait_for_line(victim, since, |line| line.contains("cannot sync") && line.contains(words))?;
            stage.prove();
            stage.load.wait_for(20)?;
            stage.start(victim)?;
            stage.load.wait_for(10)?;
        }
        Ok(())
    })
}

/// Each sync takes longer than an election timeout, or nearly as long. Whoever leads then, there is
/// one history.
#[test]
fn leader_whose_syncs_take_long_splits_nothing() -> Result<()> {
    if !can_inject("leader_whose_syncs_take_long_splits_nothing")? {
        return Ok(());
    }
    Scene::new("sync-slow").play(|stage| {
        while stage.goes_on() {
            let leader = stage.leader()?;
            let milliseconds = stage.rng.random_range(50..600);
            let injection = inject(stage, leader, &format!("delay_exit={}", milliseconds * 1000))?;
            eventually("a slow sync", || (injection.injected() > 0).then_some(()))?;
            stage.pause(300..1200);
            drop(injection);
            stage.prove();
            stage.load.wait_for(20)?;
        }
        Ok(())
    })
}
