//! Full load for a long time, with what must not matter beside it: whoever loses an election to that
//! has a fault, unless the machine itself stood still.

mod guests;
mod judge;
mod load;
mod stretch;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::bystander::Bystander;
use super::cluster::Cluster;
use super::proxy::Mesh;
use load::{Requests, Shared, keep_busy, probe};
use stretch::{Seen, Stage, Stretch};

const NODES: usize = 3;
/// Connections that are kept busy, each with one request after the other.
const LOADERS: usize = 64;
/// A tenth of a soak must be longer than the second for which a follower is stopped.
pub(super) const SHORTEST_SECONDS: u64 = 20;

/// Loads a cluster for so long and judges what it saw.
///
/// # Errors
/// An election that the machine does not excuse, a request that failed, guests who were felt, or what
/// kept the soak from being measured.
pub(super) fn run(seconds: u64) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mesh = Mesh::new(NODES)?;
    let mut cluster = Cluster::new(program, NODES, |node, _| mesh.peers(node))?;
    mesh.connect(|node| cluster.endpoint(node))?;
    (0..NODES).try_for_each(|node| cluster.start(node))?;
    cluster.wait_until_whole()?;
    let mut bystander = Bystander::start()?;
    println!(
        "{LOADERS} clients for {seconds} s, three nodes whose links lead through proxies of this process"
    );
    println!("data in {}\n", cluster.directory().display());

    let (stretches, requests) = play(&cluster, &mesh, Duration::from_secs(seconds))?;
    println!("\n  {:<26} {:>10} {:>9} {:>9} {:>9}", "milliseconds", "count", "median", "99 %", "max");
    requests.iter().for_each(Requests::report);
    let light = stretches.iter().map(|seen| &seen.light);
    let failed = requests.iter().chain(light).map(|requests| requests.failed).sum();
    judge::judge(&mut cluster, &mut bystander, &stretches, failed)?;
    println!("\nheld");
    Ok(())
}

/// Plays all stretches under load.
fn play(cluster: &Cluster, mesh: &Mesh, length: Duration) -> Result<(Vec<Seen>, Vec<Requests>)> {
    let clients = (0..LOADERS).map(|_| cluster.client()).collect::<Result<Vec<_>>>()?;
    let probing = (0..NODES).map(|node| cluster.client_of(node)).collect::<Result<Vec<_>>>()?;
    let shared = Shared::default();
    let mut stage = Stage { cluster, mesh, shared: &shared, light: cluster.client()? };
    thread::scope(|scope| {
        let shared = &shared;
        let loaders = clients.into_iter().enumerate();
        let loaders: Vec<_> =
            loaders.map(|(number, client)| scope.spawn(move || keep_busy(number, client, shared))).collect();
        let probes = probing.into_iter().enumerate();
        let probes: Vec<_> =
            probes.map(|(node, client)| scope.spawn(move || probe(node, client, shared))).collect();
        let play = |(stretch, tenths)| stage.play(stretch, length * tenths / 10);
        let seen = Stretch::ALL.into_iter().map(play).collect::<Result<Vec<_>>>();
        shared.is_over.store(true, Ordering::Relaxed);
        let (mut writes, mut reads) = (Requests::named("put"), Requests::named("linearizable get"));
        for loader in loaders {
            let (more_writes, more_reads) = loader.join().expect("loading does not panic");
            writes.absorb(more_writes);
            reads.absorb(more_reads);
        }
        let probes = probes.into_iter().map(|probe| probe.join().expect("probing does not panic"));
        Ok((seen?, [writes, reads].into_iter().chain(probes).collect()))
    })
}
