//! Bytes that are no frames, frames that make no sense, and sound frames cut in all places.

use anyhow::{Context, Result, ensure};
use kvstore::types::{ClientId, ClientName};
use kvstore::wire::client::{RequestBody, ResponseBody};
use kvstore::wire::frame::{Frame, FrameKind, HEADER_BYTES};
use kvstore::wire::hello::{Refusal, RefusalReason};
use kvstore::wire::{MAX_CLIENT_FRAME_BYTES, MAX_HELLO_BYTES, Reader};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Target;
use super::raw::{Raw, client_hello, frame, get, header, put, request};

/// The reason of a refusal, if that is what was answered last.
fn refusal(frames: &[Frame]) -> Option<RefusalReason> {
    let last = frames.last().filter(|frame| frame.kind == FrameKind::Refusal)?;
    Some(Refusal::decode(&mut Reader::new(last.payload.clone())).ok()?.reason)
}

fn with(mut bytes: Vec<u8>, offset: usize, value: u8) -> Vec<u8> {
    bytes[offset] = value;
    bytes
}

/// What is sent, and the refusal that it gets; none if the header was not sound.
fn nonsense(limit: u32) -> Vec<(&'static str, Vec<u8>, Option<RefusalReason>)> {
    use FrameKind::Request;
    use RefusalReason::{FrameTooLarge, Malformed};
    let sound = request(1, RequestBody::Status);
    vec![
        ("an empty request", frame(Request, |_| {}), Some(Malformed)),
        ("a length beyond the limit", header(Request, limit + 1), Some(FrameTooLarge)),
        ("a length of 2^31", header(Request, 1 << 31), Some(FrameTooLarge)),
        ("a length of 2^32 - 1", header(Request, u32::MAX), Some(FrameTooLarge)),
        ("an unknown kind", with(sound.clone(), 3, 0), Some(Malformed)),
        ("another unknown kind", with(sound.clone(), 3, 255), Some(Malformed)),
        ("a wrong checksum", with(sound.clone(), 8, sound[8] ^ 1), Some(Malformed)),
        ("a frame that has no place here", frame(FrameKind::Welcome, |_| {}), Some(Malformed)),
        ("a node's message", frame(FrameKind::Message, |out| out.u8(0)), Some(Malformed)),
        ("a wrong magic", with(sound.clone(), 0, b'k'), None),
        ("version 0", with(sound.clone(), 2, 0), None),
        ("version 2", with(sound.clone(), 2, 2), None),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), None),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), None),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), None),
        ("two bytes of something else", b"GE".to_vec(), None),
        ("zeroes", vec![0; 64], None),
    ]
}

#[test]
fn nonsense_gets_a_refusal_if_its_header_was_sound_and_is_closed() -> Result<()> {
    let target = Target::new()?;
    let mut number = 0;
    let mut say = |mut raw: Raw, bytes: &[u8]| {
        raw.send(bytes)?;
        number += 1;
        if number % 2 == 0 {
            raw.close_half()?; // and waits for an answer none the less
        }
        Ok::<_, anyhow::Error>(raw)
    };
    target.withstands(|| {
        let mut sent = Vec::new();
        for (what, bytes, expected) in nonsense(MAX_HELLO_BYTES) {
            sent.push((format!("{what}, first"), say(Raw::connect(target.port())?, &bytes)?, expected));
        }
        // A client that was welcomed has no deadline: whatever closes it here is the answer.
        for (what, bytes, expected) in nonsense(MAX_CLIENT_FRAME_BYTES) {
            let (raw, _) = Raw::client(target.port())?;
            sent.push((format!("{what}, from a client"), say(raw, &bytes)?, expected));
        }
        for (what, mut raw, expected) in sent {
            let frames = raw.rest().with_context(|| what.clone())?;
            ensure!(refusal(&frames) == expected, "{what}: {frames:?}");
        }
        Ok(())
    })
}

#[test]
fn request_that_is_malformed_behind_its_id_is_answered_and_the_connection_stays() -> Result<()> {
    let target = Target::new()?;
    target.withstands(|| {
        let (mut raw, _) = Raw::client(target.port())?;
        let mut bytes = get(7, "key").split_off(HEADER_BYTES);
        let body = bytes.len();
        for cut in 8..body {
            raw.send(&frame(FrameKind::Request, |out| out.put(&bytes[..cut])))?;
            let response = raw.response()?;
            ensure!(response.id == 7 && matches!(response.body, ResponseBody::Refused(_)), "{response:?}");
        }
        bytes.push(0);
        raw.send(&frame(FrameKind::Request, |out| out.put(&bytes)))?;
        ensure!(matches!(raw.response()?.body, ResponseBody::Refused(_)), "a byte too many was taken");
        raw.send(&request(8, RequestBody::Status))?;
        ensure!(raw.response()?.id == 8);
        Ok(())
    })
}

#[test]
fn random_bytes_are_closed() -> Result<()> {
    let target = Target::new()?;
    let mut random = StdRng::seed_from_u64(1);
    target.withstands(|| {
        for round in 0..150 {
            let mut bytes = if round % 2 == 0 { Vec::new() } else { client_hello() };
            let garbage = random.random_range(1..2000);
            bytes.extend((0..garbage).map(|_| random.random::<u8>()));
            if round % 3 == 0 {
                // Far enough into a header that only a length and a checksum are random.
                let place = bytes.len().min(if round % 2 == 0 { 0 } else { HEADER_BYTES });
                bytes.splice(place..place, frame(FrameKind::Request, |_| {})[..4].to_vec());
            }
            let mut raw = Raw::connect(target.port())?;
            raw.send(&bytes)?;
            raw.close_half()?;
            raw.rest()?;
        }
        Ok(())
    })
}

fn write(name: &str) -> Vec<u8> {
    put(1, ClientId::Named(ClientName::new(name.as_bytes()).expect("a short name")), name, b"value")
}

/// Requests whose answers are known, as one stream.
fn conversation(name: &str) -> Vec<u8> {
    let mut bytes = client_hello();
    bytes.extend(write(name));
    bytes.extend(request(2, RequestBody::Status));
    bytes.extend(get(3, "nothing"));
    bytes
}

#[test]
fn sound_frames_cut_anywhere_and_one_by_one_are_answered_alike() -> Result<()> {
    let target = Target::new()?;
    target.withstands(|| {
        let bytes = conversation("cut");
        for cut in (1..bytes.len()).step_by(5) {
            let mut raw = Raw::connect(target.port())?;
            raw.send(&bytes[..cut])?;
            raw.send(&bytes[cut..])?;
            check_conversation(&mut raw).with_context(|| format!("cut at {cut}"))?;
            // And one that ends there.
            let mut raw = Raw::connect(target.port())?;
            raw.send(&bytes[..cut])?;
            raw.close_half()?;
            raw.rest()?;
        }
        let mut raw = Raw::connect(target.port())?;
        bytes.iter().try_for_each(|byte| raw.send(&[*byte]))?;
        check_conversation(&mut raw).context("byte by byte")
    })
}

fn check_conversation(raw: &mut Raw) -> Result<()> {
    ensure!(raw.next()?.is_some_and(|frame| frame.kind == FrameKind::Welcome), "no welcome");
    let mut ids = Vec::new();
    for _ in 0..3 {
        let response = raw.response()?;
        ensure!(!matches!(response.body, ResponseBody::Refused(_)), "{response:?}");
        ids.push(response.id);
    }
    ids.sort_unstable();
    ensure!(ids == [1, 2, 3], "answers to {ids:?}");
    Ok(())
}

#[test]
fn sound_frames_with_any_bit_flipped_are_refused_and_nothing_is_written() -> Result<()> {
    let target = Target::new()?;
    target.withstands(|| {
        let begin = client_hello().len();
        let end = begin + write("flipped").len();
        for bit in (begin * 8..end * 8).step_by(7) {
            let mut bytes = conversation("flipped");
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut raw = Raw::connect(target.port())?;
            raw.send(&bytes)?;
            raw.close_half()?;
            raw.rest()?;
        }
        Ok(())
    })?;
    let found = target.cluster.client()?.get("flipped")?.value;
    ensure!(found.is_none(), "a damaged put was applied: {found:?}");
    Ok(())
}

#[test]
fn requests_pipelined_in_one_write_are_all_answered() -> Result<()> {
    let target = Target::new()?;
    target.withstands(|| {
        let (mut raw, _) = Raw::client(target.port())?;
        let all: Vec<u8> = (0..5000).flat_map(|id| get(id, "nothing")).collect();
        raw.send(&all)?;
        let mut ids = (0..5000).map(|_| Ok(raw.response()?.id)).collect::<Result<Vec<u64>>>()?;
        ids.sort_unstable();
        ensure!(ids.into_iter().eq(0..5000), "not every request was answered once");
        Ok(())
    })
}
