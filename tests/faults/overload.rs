//! Ten times the load, and then the usual again.

use std::time::{Duration, Instant};

use anyhow::Result;
use kvstore::client::Client;

use crate::load::Load;
use crate::setup::{eventually, founded};
use crate::stage::Scene;

/// Calls of which a typical one is taken.
const SAMPLE: usize = 31;

fn typical_call(client: &mut Client) -> Result<Duration> {
    let mut calls = Vec::new();
    for number in 0..SAMPLE {
        let began = Instant::now();
        client.put("sample", number.to_string())?;
        calls.push(began.elapsed());
    }
    calls.sort();
    Ok(calls[SAMPLE / 2])
}

/// A store that has fallen behind must not stay behind: calls come to take as long as before. On a machine
/// that has got busier meanwhile, with other tests, they take longer for a cluster that nobody loads, too;
/// five times as long as either is the most.
#[test]
fn load_ten_times_as_high_is_borne_and_leaves_nothing_behind() -> Result<()> {
    Scene::new("overload").play(|stage| {
        let calm = founded(3)?;
        let (mut client, mut bystander) = (stage.cluster.client()?, calm.client()?);
        let before = typical_call(&mut client)?;
        stage.note("ten times the clients, without a rest");
        let mut crowd = Load::beside(&stage.load);
        crowd.add_clients(60, Duration::ZERO);
        while stage.goes_on() {
            stage.load.wait_for(200)?;
        }
        let during = typical_call(&mut client)?;
        crowd.stop();
        stage.note("the usual load");
        let after = eventually("calls as fast as before", || {
            let now = typical_call(&mut bystander).ok()?;
            typical_call(&mut client).ok().filter(|after| *after <= 5 * before.max(now))
        })?;
        println!("a typical put took {before:.1?} before, {during:.1?} during, {after:.1?} after it");
        stage.prove();
        Ok(())
    })
}
