//! More than a cluster can take, by clients that do nothing wrong otherwise.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvstore::types::{ClientId, ClientName};
use kvstore::wire::client::{Refused, RequestBody, ResponseBody};
use rustix::process::Signal;

use super::Target;
use super::raw::{Raw, get, put, request};
use crate::setup::{PATIENT, eventually, kv, stop};

/// Answers are read as they come, so far more may be asked for than could ever wait as bytes. What
/// is too much even to remember is refused, and asked for again.
#[test]
fn large_values_asked_for_in_one_breath_are_all_answered() -> Result<()> {
    const GETS: u64 = 200;
    let target = Target::new()?;
    target.cluster.client()?.put("large", vec![b'v'; 1 << 20])?;
    target.withstands(|| {
        let (mut raw, _) = Raw::client(target.port())?;
        let gets: Vec<u8> = (0..GETS).flat_map(|id| get(id, "large")).collect();
        raw.send(&gets)?;
        let (withheld, cap) = target.bound("client_withheld_bytes")?;
        ensure!(withheld <= cap, "{withheld} bytes are withheld, {cap} may be");
        let mut answered = 0;
        while answered < GETS {
            let response = raw.response().with_context(|| format!("after {answered} answers"))?;
            match response.body {
                ResponseBody::Value(Some(value)) if value.len() == 1 << 20 => answered += 1,
                ResponseBody::Refused(Refused::Busy(_)) => raw.send(&get(response.id, "large"))?,
                other => anyhow::bail!("{other:?}"),
            }
        }
        Ok(())
    })
}

/// More named sessions than the cluster remembers: the rest is refused, and told so.
#[test]
fn flood_of_sessions_is_refused_as_busy_beyond_the_cap() -> Result<()> {
    const BEYOND: u64 = 100;
    let target = Target::new()?;
    let (_, cap) = target.bound("named_sessions")?;
    target.withstands(|| {
        let (mut raw, _) = Raw::client(target.port())?;
        let (mut written, mut busy) = (0, 0);
        for first in (0..cap + BEYOND).step_by(512) {
            let numbers = first..(first + 512).min(cap + BEYOND);
            let name = |number: u64| ClientName::new(format!("flood-{number}").as_bytes()).expect("a name");
            let puts =
                numbers.clone().flat_map(|number| put(number, ClientId::Named(name(number)), "k", b"v"));
            raw.send(&puts.collect::<Vec<u8>>())?;
            for _ in numbers {
                match raw.response()?.body {
                    ResponseBody::Written { .. } => written += 1,
                    ResponseBody::Refused(Refused::Busy(cure)) if cure.contains("session close") => busy += 1,
                    other => anyhow::bail!("{other:?}"),
                }
            }
        }
        ensure!((written, busy) == (cap, BEYOND), "{written} written, {busy} busy");
        Ok(())
    })
}

/// The followers are stopped, so nothing is committed: the log takes what it may, and then says no.
#[test]
fn flood_of_writes_without_followers_is_refused_as_busy_and_the_rest_is_kept() -> Result<()> {
    let target = Target::with(&PATIENT)?;
    let cluster = &target.cluster;
    for node in [1, 2] {
        stop(cluster, node)?;
    }
    let (mut raw, welcome) = Raw::client(target.port())?;
    let client = |nonce| ClientId::Library { born: welcome.cluster_time, nonce };
    let value = vec![b'v'; 1 << 20];
    let puts: Vec<u8> = (0..48).flat_map(|id| put(id, client(id), "flood", &value)).collect();
    let sent = raw.send_for(&puts, Duration::from_secs(1))?;

    let (used, cap) = eventually("the log is full", || {
        target.bound("uncommitted_bytes").ok().filter(|(used, cap)| used >= cap)
    })?;
    ensure!(used < cap + (2 << 20), "{used} uncommitted bytes, at most {cap} are allowed");
    let status = kv(cluster, 0, "--json status --timeout-ms 5000")?.json();
    ensure!(status["nodes"][0]["role"] == "leader", "{status}");
    // A loaded machine may deliver the last answer after the deadline, and then nobody knows.
    let refused = eventually("a definite no", || {
        kv(cluster, 0, "--json put k v --timeout-ms 2000").ok().filter(|refused| refused.status == 4)
    })?;
    ensure!(refused.json()["error"] == "busy", "{refused:?}");
    ensure!(target.growth()? < 160 << 20, "{} bytes", target.growth()?);

    for node in [1, 2] {
        cluster.signal(node, Signal::CONT)?;
    }
    raw.send(&puts[sent..])?;
    raw.send(&request(1000, RequestBody::Status))?;
    let (mut written, mut busy) = (0, 0);
    for _ in 0..49 {
        match raw.response()?.body {
            ResponseBody::Written { .. } => written += 1,
            ResponseBody::Refused(Refused::Busy(_)) => busy += 1,
            ResponseBody::Status(_) => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(written >= 15 && written + busy == 48, "{written} written, {busy} busy");
    // What was written is in the log in memory; what was not is gone.
    let growth = target.growth()?;
    ensure!(growth < (written << 20) + (64 << 20), "{growth} bytes for {written} MiB");
    ensure!(kv(cluster, 1, "put after flood")?.status == 0);
    let view = cluster.status(1)?;
    ensure!(view.term.0 == 1, "the term is {}", view.term);
    Ok(())
}
