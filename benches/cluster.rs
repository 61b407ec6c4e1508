//! A real cluster of three processes on loopback and the real disk, asked by one idle client.
//!
//! How far a put is above what the machine can do at best is told by `floor`.

#[path = "../src/bin/kvstore/demo/cluster.rs"]
#[expect(unused, reason = "the demo uses all of it")]
mod cluster;

use std::time::Duration;

use anyhow::Result;
use criterion::Criterion;

use cluster::{Cluster, list_of_others};

const VALUE: [u8; 64] = [b'v'; 64];

fn main() -> Result<()> {
    let mut criterion =
        Criterion::default().sample_size(50).measurement_time(Duration::from_secs(3)).configure_from_args();
    let mut nodes = Cluster::new(env!("CARGO_BIN_EXE_kvstore").into(), 3, list_of_others)?;
    (0..3).try_for_each(|node| nodes.start(node))?;
    let leader = nodes.wait_until_whole()?;
    let follower = (leader + 1) % 3;

    let mut client = nodes.client()?;
    client.put("key", VALUE)?;
    criterion.bench_function("cluster/put", |bencher| {
        bencher.iter(|| client.put("key", VALUE).expect("a put"));
    });
    for (name, node) in [("leader", leader), ("follower", follower)] {
        let mut client = nodes.client_of(node)?;
        criterion.bench_function(&format!("cluster/linearizable get at the {name}"), |bencher| {
            bencher.iter(|| client.get("key").expect("a get"));
        });
        criterion.bench_function(&format!("cluster/stale get at the {name}"), |bencher| {
            bencher.iter(|| client.get_stale("key").expect("a get"));
        });
    }
    criterion.final_summary();
    Ok(())
}
