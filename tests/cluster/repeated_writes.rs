//! The same write sent again by hand: by another process, to another leader, after a restart.

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::setup::{founded, kv};

const WRITE: &str = "--client-id shop --seq 3 put stock 10";
const COMPARE: &str = "--client-id shop --seq 4 cas stock 10 9";
const DELETE: &str = "--client-id shop --seq 5 delete nothing";

#[test]
fn write_sent_again_after_fail_over_and_after_restart_of_all_is_applied_once() -> Result<()> {
    let mut cluster = founded(3)?;
    expect(&cluster, 0, WRITE, 0, "OK\n")?;
    expect(&cluster, 1, COMPARE, 0, "OK\n")?;
    expect(&cluster, 2, DELETE, 1, "")?;
    expect(&cluster, 0, "put stock 500", 0, "OK\n")?;
    all_are_cached(&cluster, 2)?;

    cluster.signal(0, Signal::KILL)?;
    cluster.wait_for_exit(0)?;
    all_are_cached(&cluster, 1)?;
    all_are_cached(&cluster, 2)?;

    for node in [1, 2] {
        cluster.signal(node, Signal::KILL)?;
        cluster.wait_for_exit(node)?;
    }
    for node in 0..3 {
        cluster.start(node)?;
    }
    cluster.wait_until_whole()?;
    for node in 0..3 {
        all_are_cached(&cluster, node)?;
    }
    let reused = kv(&cluster, 1, "--client-id shop --seq 3 put stock 11")?;
    ensure!(reused.status == 4 && reused.stderr.contains("seq reused"), "{reused:?}");
    expect(&cluster, 0, "get stock", 0, "500\n")
}

#[test]
fn close_sent_again_after_fail_over_is_answered_alike_and_spares_a_session_opened_since() -> Result<()> {
    let mut cluster = founded(3)?;
    expect(&cluster, 0, WRITE, 0, "OK\n")?;
    let close = "--client-id admin --seq 1 session close shop";
    let closed = kv(&cluster, 0, &format!("--json {close}"))?.json();
    ensure!(closed["existed"] == true && closed["cached"] == false, "{closed}");
    expect(&cluster, 1, "session close shop", 0, "OK (no such session)\n")?;
    expect(&cluster, 2, WRITE, 0, "OK\n")?;

    cluster.signal(0, Signal::KILL)?;
    cluster.wait_for_exit(0)?;
    let again = kv(&cluster, 1, &format!("--json {close}"))?.json();
    ensure!(again["existed"] == true && again["cached"] == true, "{again}");
    expect(&cluster, 2, WRITE, 0, "OK (cached)\n")?;
    let own = kv(&cluster, 1, "--client-id shop --seq 9 session close shop")?;
    ensure!(own.status == 4 && own.stderr.contains("cannot end its own session"), "{own:?}");
    Ok(())
}

fn expect(cluster: &Cluster, node: usize, words: &str, status: i32, stdout: &str) -> Result<()> {
    let ended = kv(cluster, node, words)?;
    ensure!((ended.status, ended.text()) == (status, stdout), "{words}: {ended:?}");
    Ok(())
}

/// Every copy gets the first answer, and the value that somebody else wrote since stays.
fn all_are_cached(cluster: &Cluster, node: usize) -> Result<()> {
    expect(cluster, node, WRITE, 0, "OK (cached)\n")?;
    for (words, status) in [(COMPARE, 0), (DELETE, 1)] {
        let ended = kv(cluster, node, &format!("--json {words}"))?;
        ensure!(ended.status == status, "{words}: {ended:?}");
        ensure!(ended.json()["cached"] == true, "{words}: {ended:?}");
    }
    expect(cluster, node, "get stock", 0, "500\n")
}
