//! Those who are slow on purpose: to introduce themselves, to end a frame, to read their answers.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvstore::wire::MAX_CLIENT_FRAME_BYTES;
use kvstore::wire::client::{Response, ResponseBody};
use kvstore::wire::frame::FrameKind;

use super::raw::{Raw, client_hello, get, header, put, request};
use super::{Target, processor_time};
use crate::setup::eventually;

/// So long a slow sender may be borne with.
const BORNE_WITH: Duration = Duration::from_secs(20);
/// Between two bytes of a slow sender.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends byte after byte until the node has closed.
fn dribble(raw: &mut Raw, bytes: impl Iterator<Item = u8>) -> Result<()> {
    let began = Instant::now();
    for byte in bytes {
        if raw.is_closed()? {
            return Ok(());
        }
        raw.send(&[byte])?;
        ensure!(began.elapsed() < BORNE_WITH, "a slow sender was borne with for too long");
        // The slowness is the attack.
        thread::sleep(PAUSE);
    }
    raw.rest().map(|_| ())
}

#[test]
fn silent_and_slow_introductions_are_closed() -> Result<()> {
    let target = Target::new()?;
    target.withstands(|| {
        let mut silent: Vec<Raw> = (0..20).map(|_| Raw::connect(target.port())).collect::<Result<_>>()?;
        let mut begun = Raw::connect(target.port())?;
        begun.send(&client_hello()[..5])?;
        let mut slow = Raw::connect(target.port())?;
        // A frame that never ends, and within the limit.
        let endless = header(FrameKind::ClientHello, 1 << 10).into_iter().chain(std::iter::repeat(0));
        dribble(&mut slow, endless).context("a slow introduction")?;
        for raw in silent.iter_mut().chain([&mut begun]) {
            raw.rest().context("a silent connection")?;
        }
        Ok(())
    })
}

#[test]
fn frame_that_does_not_end_is_closed_and_takes_only_what_has_arrived() -> Result<()> {
    const SENDERS: usize = 24;
    const SENT: usize = 64 << 10;
    let target = Target::new()?;
    target.withstands(|| {
        let mut senders = Vec::new();
        for _ in 0..SENDERS {
            let (mut raw, _) = Raw::client(target.port())?;
            raw.send(&header(FrameKind::Request, MAX_CLIENT_FRAME_BYTES))?;
            raw.send(&[0; SENT])?;
            senders.push(raw);
        }
        eventually("the bytes arrive", || {
            (target.bound("client_input_bytes").ok()?.0 as usize > SENT).then_some(())
        })?;
        let growth = target.growth()? as usize;
        ensure!(growth < SENDERS * 5 * SENT, "{growth} bytes for {} that were sent", SENDERS * SENT);
        let mut slow = senders.pop().context("there are some")?;
        dribble(&mut slow, std::iter::repeat(0)).context("a slow sender")?;
        senders.iter_mut().try_for_each(|raw| raw.rest().map(|_| ()))
    })
}

/// Asks for far more than it reads.
#[test]
fn client_that_never_reads_is_read_no_more_and_closed() -> Result<()> {
    const VALUE_BYTES: usize = 1 << 20;
    let target = Target::new()?;
    target.cluster.client()?.put("large", vec![b'v'; VALUE_BYTES])?;
    target.withstands(|| {
        let gets: Vec<u8> = (0..200_000).flat_map(|id| get(id, "large")).collect();
        let began = Instant::now();
        let mut greedy: Vec<Raw> = Vec::new();
        for _ in 0..3 {
            let (mut raw, _) = Raw::client(target.port())?;
            let taken = raw.send_for(&gets, Duration::from_millis(300))?;
            ensure!(taken < gets.len(), "the node took all {taken} bytes of requests");
            greedy.push(raw);
        }
        let mut most = 0;
        let mut all_are_closed = || {
            most = target.growth().ok()?.max(most);
            (target.bound("client_connections").ok()?.0 <= 2).then_some(())
        };
        // Its patience begins anew once, if the first answers left while it ran.
        eventually("the clients that do not read are closed", &mut all_are_closed)
            .or_else(|_| {
                eventually("the clients that do not read are closed, after all", &mut all_are_closed)
            })
            .with_context(|| format!("after {:?}", began.elapsed()))?;
        // Of each at most what may wait to leave, and of all what all may; and the allocator's share.
        ensure!(most < 48 << 20, "{most} bytes for three clients");
        Ok(())
    })
}

/// Sends three times as many requests as may wait for their answers before it reads the first answer,
/// and gets each of them once all the same.
#[test]
fn many_writes_of_a_client_that_reads_late_are_all_answered_within_the_bound() -> Result<()> {
    const WRITES: u64 = 3000;
    let target = Target::new()?;
    let (_, cap) = target.bound("client_requests")?;
    ensure!(cap < WRITES, "{cap} requests may wait, so nothing is tried");
    target.withstands(|| {
        let (mut raw, welcome) = Raw::client(target.port())?;
        let client = |nonce| kvstore::types::ClientId::Library { born: welcome.cluster_time, nonce };
        let puts: Vec<u8> = (0..WRITES).flat_map(|id| put(id, client(id), "k", b"v")).collect();
        raw.send(&puts)?;
        let (waiting, _) = target.bound("client_requests")?;
        ensure!(waiting <= cap, "{waiting} requests wait, at most {cap} may");
        let mut answered = BTreeSet::new();
        for _ in 0..WRITES {
            let Response { id, body, .. } = raw.response()?;
            ensure!(matches!(body, ResponseBody::Written { .. }), "{id}: {body:?}");
            answered.insert(id);
        }
        ensure!(answered.len() as u64 == WRITES, "{} of {WRITES} were answered", answered.len());
        Ok(())
    })
}

#[test]
fn half_close_ends_the_connection_and_costs_no_time() -> Result<()> {
    let target = Target::new()?;
    target.withstands(|| {
        for said in [Vec::new(), client_hello(), client_hello()[..7].to_vec()] {
            let mut raw = Raw::connect(target.port())?;
            raw.send(&said)?;
            raw.close_half()?;
            raw.rest().context("half closed")?;
        }
        let (mut raw, _) = Raw::client(target.port())?;
        raw.send(&request(1, kvstore::wire::client::RequestBody::Status))?;
        raw.close_half()?;
        raw.rest().context("half closed after a request")?;
        Ok(())
    })?;
    let before = processor_time(&target.cluster, 0)?;
    thread::sleep(Duration::from_secs(1)); // the second over which it is measured
    let spent = processor_time(&target.cluster, 0)? - before;
    ensure!(spent < Duration::from_millis(500), "an idle node spent {spent:?} of a second");
    Ok(())
}

#[test]
fn reset_in_each_state_of_the_protocol_is_cleaned_up() -> Result<()> {
    let target = Target::new()?;
    target.cluster.client()?.put("large", vec![b'v'; 1 << 20])?;
    target.withstands(|| {
        for round in 0..20 {
            Raw::connect(target.port())?.reset()?;
            for said in [client_hello(), client_hello()[..6].to_vec()] {
                let mut raw = Raw::connect(target.port())?;
                raw.send(&said)?;
                raw.reset()?;
            }
            let (raw, _) = Raw::client(target.port())?;
            raw.reset()?;
            let (mut raw, welcome) = Raw::client(target.port())?;
            let client = kvstore::types::ClientId::Library { born: welcome.cluster_time, nonce: round };
            let write = put(1, client, "reset", b"v");
            raw.send(&write[..20])?;
            raw.reset()?;
            for asked in [write, (0..20).flat_map(|id| get(id, "large")).collect()] {
                let (mut raw, _) = Raw::client(target.port())?;
                raw.send(&asked)?;
                raw.reset()?;
            }
        }
        Ok(())
    })
}

/// Each client of a crowd sends nearly a whole frame, and not its end: who began first makes room.
#[test]
fn crowd_of_frames_that_do_not_end_takes_no_more_than_all_clients_may() -> Result<()> {
    const SENT: usize = 2 << 20;
    let target = Target::new()?;
    let (_, cap) = target.bound("all_clients_input_bytes")?;
    let crowd = cap as usize / SENT + 40;
    target.withstands(|| {
        let mut senders = Vec::new();
        for _ in 0..crowd {
            let (mut raw, _) = Raw::client(target.port())?;
            raw.send(&header(FrameKind::Request, MAX_CLIENT_FRAME_BYTES))?;
            raw.send(&vec![0; SENT])?;
            senders.push(raw);
        }
        let (used, _) = target.bound("all_clients_input_bytes")?;
        ensure!(used <= cap, "{used} bytes of at most {cap}");
        eventually("the first one is closed", || senders[0].is_closed().ok()?.then_some(()))?;
        ensure!(!senders[crowd - 1].is_closed()?, "the last one had no time");
        Ok(())
    })
}
