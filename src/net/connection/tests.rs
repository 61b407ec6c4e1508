use std::io::ErrorKind;

use super::*;
use crate::net::scripted::{ScriptedSocket, would_block};

const READABLE: Readiness =
    Readiness { readable: true, writable: false, read_closed: false, write_closed: false };
const WRITABLE: Readiness =
    Readiness { readable: false, writable: true, read_closed: false, write_closed: false };
const BUDGET: ReadBudget = ReadBudget { bytes: 1 << 16, frames: 128 };

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = Writer::new();
    frame::encode(FrameKind::Request, &mut out, |out| out.put(payload));
    out.into_bytes().to_vec()
}

fn connection(reads: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Connection<ScriptedSocket> {
    let socket = ScriptedSocket { reads: reads.into_iter().collect(), ..ScriptedSocket::default() };
    Connection::accepted(socket, 1 << 16)
}

fn read(connection: &mut Connection<ScriptedSocket>, budget: ReadBudget) -> (usize, Option<CloseCause>) {
    let mut frames = Vec::new();
    let result = connection.read_frames(budget, &mut [0; 1 << 10], &mut frames);
    (frames.len(), result.err())
}

#[test]
fn read_that_would_block_waits_for_the_next_event() {
    let mut connection = connection([Err(would_block()), Ok(frame(b"late"))]);
    assert!(matches!(read(&mut connection, BUDGET), (0, None)));
    assert!(!connection.has_input());
    connection.on_event(READABLE);
    assert!(matches!(read(&mut connection, BUDGET), (1, None)));
}

#[test]
fn short_read_proves_the_socket_empty() {
    let mut connection = connection([Ok(frame(b"one")), Ok(frame(b"not read in this turn"))]);
    assert!(matches!(read(&mut connection, BUDGET), (1, None)));
    assert!(!connection.has_input());
}

#[test]
fn short_read_with_the_end_announced_reads_on_to_the_end() {
    let mut connection = connection([Ok(frame(b"last")), Ok(Vec::new())]);
    connection.on_event(Readiness { read_closed: true, ..READABLE });
    assert!(matches!(read(&mut connection, BUDGET), (1, Some(CloseCause::EndOfStream))));
}

#[test]
fn reset_after_frames_gives_the_frames_first() {
    let mut connection = connection([Ok(frame(&[7; 2000])), Err(ErrorKind::ConnectionReset.into())]);
    connection.on_event(Readiness { read_closed: true, ..READABLE });
    assert!(matches!(read(&mut connection, BUDGET), (1, Some(CloseCause::Io(_)))));
}

#[test]
fn interrupted_read_is_tried_again() {
    let mut connection = connection([Err(ErrorKind::Interrupted.into()), Ok(frame(b"one"))]);
    assert!(matches!(read(&mut connection, BUDGET), (1, None)));
}

#[test]
fn frames_beyond_the_budget_are_remembered_without_an_event() {
    let mut connection = connection([Ok([frame(b"1"), frame(b"2"), frame(b"3")].concat())]);
    let two = ReadBudget { frames: 2, ..BUDGET };
    assert!(matches!(read(&mut connection, two), (2, None)));
    assert!(connection.has_input());
    assert!(matches!(read(&mut connection, two), (1, None)));
    assert!(!connection.has_input());
}

#[test]
fn bytes_beyond_the_budget_are_remembered_without_an_event() {
    let mut connection = connection([Ok(frame(&[7; 3000]))]);
    let little = ReadBudget { bytes: 2000, ..BUDGET };
    assert!(matches!(read(&mut connection, little), (0, None)));
    assert!(connection.has_input() && connection.has_partial_frame());
    assert!(matches!(read(&mut connection, little), (1, None)));
    assert!(!connection.has_partial_frame());
}

#[test]
fn frame_limit_raised_by_the_first_frame_holds_for_the_second_of_the_same_read() {
    let socket = ScriptedSocket {
        reads: [Ok([frame(b"hello"), frame(&[7; 100])].concat())].into(),
        ..ScriptedSocket::default()
    };
    let mut connection = Connection::accepted(socket, 16);
    assert!(matches!(read(&mut connection, ReadBudget { frames: 1, ..BUDGET }), (1, None)));
    connection.set_frame_limit(100);
    assert!(matches!(read(&mut connection, BUDGET), (1, None)));
}

#[test]
fn write_goes_out_at_once_and_waits_for_an_event_only_when_refused() {
    let mut connection = connection([]);
    connection.socket.writes = [Ok(5), Err(would_block()), Ok(1 << 20)].into();
    connection.queue(FrameKind::Request, |out| out.put(b"payload"));
    connection.flush().unwrap();
    assert_eq!((connection.bytes_written(), connection.queued_bytes()), (5, 14));
    connection.queue(FrameKind::Request, |out| out.put(b"second"));
    connection.flush().unwrap();
    assert_eq!(connection.bytes_written(), 5, "no write without an event");
    connection.on_event(WRITABLE);
    connection.flush().unwrap();
    assert_eq!(connection.queued_bytes(), 0);
    assert_eq!(connection.socket.written, [frame(b"payload"), frame(b"second")].concat());
}

#[test]
fn output_of_which_most_was_written_is_not_kept_for_the_rest() {
    let mut connection = connection([]);
    connection.queue(FrameKind::Request, |out| out.put(&[7; 10_000]));
    connection.socket.writes = [Ok(4_000), Ok(4_000), Err(would_block()), Ok(2_000), Ok(100)].into();
    let kept = |connection: &Connection<ScriptedSocket>| {
        let first = connection.outbox.segments.front().unwrap();
        (connection.outbox.written_bytes + first.len(), first.len())
    };
    connection.flush().unwrap();
    assert_eq!(kept(&connection), (2_012, 2_012));
    connection.on_event(WRITABLE);
    connection.flush().unwrap();
    assert_eq!(connection.socket.written, frame(&[7; 10_000]));
    assert_eq!(connection.queued_bytes(), 0);
}

#[test]
fn write_to_a_closed_socket_is_an_end() {
    let mut connection = connection([]);
    connection.socket.writes = [Err(ErrorKind::BrokenPipe.into())].into();
    connection.queue(FrameKind::Request, |_| {});
    assert!(matches!(connection.flush(), Err(CloseCause::Io(_))));
}

#[test]
fn dialled_connection_keeps_its_frames_until_it_is_connected() {
    let socket = ScriptedSocket {
        connects: [Ok(false), Ok(true)].into(),
        writes: [Ok(100)].into(),
        ..ScriptedSocket::default()
    };
    let mut connection = Connection::dialled(socket, 16);
    connection.queue(FrameKind::PeerHello, |_| {});
    connection.on_event(WRITABLE);
    assert!(!connection.finish_connect().unwrap(), "writable is only a hint");
    connection.flush().unwrap();
    assert_eq!(connection.bytes_written(), 0);
    assert!(connection.finish_connect().unwrap());
    connection.flush().unwrap();
    assert_eq!(connection.bytes_written(), 12);
}

#[test]
fn dial_that_is_refused_or_reaches_itself_is_an_end() {
    let refused = [Err(ErrorKind::ConnectionRefused.into())].into();
    let mut connection =
        Connection::dialled(ScriptedSocket { connects: refused, ..ScriptedSocket::default() }, 16);
    assert!(matches!(connection.finish_connect(), Err(CloseCause::Io(_))));
    let itself =
        ScriptedSocket { connects: [Ok(true)].into(), self_connected: true, ..ScriptedSocket::default() };
    let mut connection = Connection::dialled(itself, 16);
    assert!(matches!(connection.finish_connect(), Err(CloseCause::SelfConnected)));
}

#[test]
fn draining_connection_delivers_its_last_frame_and_ignores_what_arrives() {
    let mut connection = connection([Ok(frame(b"ignored")), Ok(Vec::new())]);
    connection.socket.writes = [Ok(100)].into();
    connection.queue(FrameKind::Refusal, |_| {});
    connection.drain();
    connection.queue(FrameKind::Response, |_| {});
    connection.flush().unwrap();
    assert_eq!(connection.bytes_written(), 12);
    connection.on_event(Readiness { read_closed: true, ..READABLE });
    assert!(matches!(read(&mut connection, BUDGET), (0, Some(CloseCause::EndOfStream))));
}

#[test]
fn closed_connection_neither_reads_nor_writes() {
    let mut connection = connection([Ok(frame(b"one"))]);
    connection.queue(FrameKind::Response, |_| {});
    connection.close();
    connection.on_event(Readiness { writable: true, ..READABLE });
    assert!(connection.is_closed() && !connection.has_input());
    assert_eq!(connection.queued_bytes(), 0);
    connection.flush().unwrap();
}
