//! Nodes that nobody asks anything.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::hostile::{processor_time, resident_bytes};
use crate::setup::running;

/// What a node may hold while it has next to no data.
const RESIDENT_BYTES: u64 = 32 << 20;
/// The time over which processor time is measured.
const PERIOD: Duration = Duration::from_secs(4);
/// What of it an idle node may take here, where programs are hardly optimised. It says so what it was:
/// `cargo test --release --test cluster idle -- --nocapture` shows how it is for users.
const SHARE: f64 = 0.03;

#[test]
fn idle_node_takes_little_memory_and_next_to_no_processor_time() -> Result<()> {
    let (cluster, _) = running(3)?;
    cluster.client()?.put("k", "v")?;
    let times = || (0..3).map(|node| processor_time(&cluster, node)).collect::<Result<Vec<_>>>();
    let before = times()?;
    // Nothing happens while they are idle; that is what is measured.
    thread::sleep(PERIOD);
    for (node, (before, after)) in before.into_iter().zip(times()?).enumerate() {
        let share = (after - before).as_secs_f64() / PERIOD.as_secs_f64();
        let resident = resident_bytes(&cluster, node)?;
        println!("node {}: {:.2} % of a core, {} KiB resident", node + 1, share * 100.0, resident >> 10);
        ensure!(share <= SHARE, "node {} takes {:.2} % of a core", node + 1, share * 100.0);
        ensure!(resident <= RESIDENT_BYTES, "node {} holds {resident} bytes", node + 1);
    }
    Ok(())
}
