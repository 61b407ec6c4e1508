//! What was acknowledged is there after every node was killed at once.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use crate::setup::running;
use crate::writers::{Writers, check_nothing_is_lost};

#[test]
fn all_nodes_killed_at_once_right_after_acknowledgements_lose_nothing() -> Result<()> {
    let (mut cluster, _) = running(3)?;
    let mut all = Vec::new();
    for round in 0..3 {
        let writers = Writers::start(&cluster, 3, 4, &format!("round{round}"), Duration::from_millis(500));
        writers.wait_for(40)?;
        for node in 0..3 {
            cluster.signal(node, Signal::KILL)?;
        }
        for node in 0..3 {
            cluster.wait_for_exit(node)?;
        }
        all.push(writers.stop());
        for node in [2, 0, 1] {
            cluster.start(node)?;
        }
        cluster.wait_until_whole()?;
        for written in &all {
            for node in 0..3 {
                check_nothing_is_lost(&cluster, node, written)?;
            }
        }
    }
    Ok(())
}
