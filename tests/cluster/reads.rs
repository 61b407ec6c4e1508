//! Reads from every node, while writes go on: whoever reads after an acknowledgement sees the write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use kvstore::client::Client;

use crate::cluster::PATIENCE;
use crate::setup::{client_of, founded};

const WRITES: u64 = 300;
/// So many reads of each node at least, however fast the writes and however late a reader begins.
const READS: u64 = 10;

#[test]
fn read_after_an_acknowledged_write_sees_it_on_every_node() -> Result<()> {
    let cluster = founded(3)?;
    let mut writer = cluster.client()?;
    writer.put("counter", "0")?;
    let (acknowledged, is_over) = (&AtomicU64::new(0), &AtomicBool::new(false));
    let reads = [(); 3].map(|()| AtomicU64::new(0));
    thread::scope(|scope| {
        let readers = [0, 1, 2].map(|node| {
            let (client, reads) = (client_of(&cluster, &[node], PATIENCE), &reads[node]);
            scope.spawn(move || read_on(client?, acknowledged, is_over, reads))
        });
        let are_read = || reads.iter().all(|reads| reads.load(Ordering::SeqCst) >= READS);
        // A reader ends before it is over only if it has found something wrong.
        let goes_on =
            |number| (number <= WRITES || !are_read()) && !readers.iter().any(|reader| reader.is_finished());
        let written = (1..).take_while(|number| goes_on(*number)).try_for_each(|number: u64| {
            writer.put("counter", number.to_string())?;
            acknowledged.store(number, Ordering::SeqCst);
            Ok(())
        });
        is_over.store(true, Ordering::SeqCst);
        for reader in readers {
            reader.join().expect("a reader does not panic")?;
        }
        written
    })
}

/// Reads until it is over, and counts.
fn read_on(
    mut client: Client,
    acknowledged: &AtomicU64,
    is_over: &AtomicBool,
    reads: &AtomicU64,
) -> Result<()> {
    let (mut last, mut revision) = (0, None);
    while !is_over.load(Ordering::SeqCst) {
        let at_least = acknowledged.load(Ordering::SeqCst).max(last);
        let reply = client.get("counter")?;
        let value: u64 = std::str::from_utf8(&reply.value.context("the counter is there")?)?.parse()?;
        ensure!(value >= at_least, "node {} answered {value} after {at_least}", reply.node);
        ensure!(revision <= Some(reply.revision), "the revision went back to {}", reply.revision);
        (last, revision) = (value, Some(reply.revision));
        reads.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}
