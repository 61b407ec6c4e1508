//! Reads from every node, while writes go on: whoever reads after an acknowledgement sees the write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use kvstore::client::Client;

use crate::cluster::PATIENCE;
use crate::setup::{client_of, founded};

const WRITES: u64 = 300;

#[test]
fn read_after_an_acknowledged_write_sees_it_on_every_node() -> Result<()> {
    let cluster = founded(3)?;
    let mut writer = cluster.client()?;
    writer.put("counter", "0")?;
    let readers = [0, 1, 2].map(|node| client_of(&cluster, &[node], PATIENCE));
    let (acknowledged, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let readers = readers.map(|reader| scope.spawn(|| read_on(reader?, &acknowledged, &is_over)));
        for number in 1..=WRITES {
            writer.put("counter", number.to_string())?;
            acknowledged.store(number, Ordering::SeqCst);
        }
        is_over.store(true, Ordering::SeqCst);
        for (node, reader) in readers.into_iter().enumerate() {
            let reads = reader.join().expect("a reader does not panic")?;
            ensure!(reads >= 10, "node {} answered only {reads} reads", node + 1);
        }
        Ok(())
    })
}

/// Reads until it is over. How many reads that were.
fn read_on(mut client: Client, acknowledged: &AtomicU64, is_over: &AtomicBool) -> Result<u64> {
    let (mut reads, mut last) = (0, 0);
    let mut revision = None;
    while !is_over.load(Ordering::SeqCst) {
        let at_least = acknowledged.load(Ordering::SeqCst).max(last);
        let reply = client.get("counter")?;
        let value: u64 = std::str::from_utf8(&reply.value.context("the counter is there")?)?.parse()?;
        ensure!(value >= at_least, "node {} answered {value} after {at_least}", reply.node);
        ensure!(revision <= Some(reply.revision), "the revision went back to {}", reply.revision);
        (last, revision) = (value, Some(reply.revision));
        reads += 1;
    }
    Ok(reads)
}
