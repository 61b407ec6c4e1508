//! A call ends at its deadline, whatever the nodes do.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvstore::client::{Client, Error, Options};
use kvstore::wire::client::ResponseBody;
use socket2::{Domain, Socket, Type};

use crate::fake_node::{FakeNode, Reaction, address, address_of, bound, listener};
use crate::stalls::StallWatch;

const TIMEOUT: Duration = Duration::from_millis(1_500);

/// Makes a call, and checks that it took a tenth more than its time at most, and as long as the machine
/// itself stood still meanwhile.
fn in_time<T>(timeout: Duration, call: impl FnOnce() -> T) -> T {
    let (stalls, began) = (StallWatch::start(), Instant::now());
    let result = call();
    let (took, stalled) = (began.elapsed(), stalls.stop());
    assert!(
        took <= timeout.mul_f64(1.1) + stalled,
        "it took {took:?}; the machine stood still for {stalled:?}"
    );
    result
}

/// Runs a call that must fail, and checks that it took its time and hardly more.
fn error_in_time(endpoints: &[String]) -> Error {
    let options = Options::new(endpoints.to_vec()).with_timeout(TIMEOUT);
    let mut client = Client::connect(options).unwrap();
    let began = Instant::now();
    let result = in_time(TIMEOUT, || client.put("k", "v"));
    assert!(TIMEOUT <= began.elapsed(), "it took {:?}", began.elapsed());
    result.expect_err("nobody answers")
}

/// A port on which dials get no answer at all: its queue of connections is full. The sockets keep
/// it so.
fn black_hole() -> (Socket, Vec<Socket>, String) {
    let socket = bound();
    socket.listen(0).unwrap();
    let local = socket.local_addr().unwrap();
    let dial = || {
        let dialler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        dialler.set_nonblocking(true).unwrap();
        let _ = dialler.connect(&local);
        dialler
    };
    let fillers = (0..8).map(|_| dial()).collect();
    let address = address_of(&socket);
    let probe = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_millis(200));
    assert!(probe.is_err(), "the queue is not full");
    (socket, fillers, address)
}

/// A port that accepts connections and never says a word, like that of a stopped process.
fn stopped() -> (TcpListener, String) {
    let listener = listener();
    let address = address(&listener);
    (listener, address)
}

#[test]
fn deadline_with_all_nodes_dead_is_kept_and_definite() {
    let dead = [(); 3].map(|()| bound());
    let error = error_in_time(&dead.each_ref().map(address_of));
    assert!(matches!(&error, Error::Unreachable(why) if why.contains("connection refused")), "{error}");
}

#[test]
fn deadline_with_all_nodes_stopped_or_unreachable_is_kept_and_definite() {
    let (stopped, hole) = (stopped(), black_hole());
    let error = error_in_time(&[stopped.1, hole.2]);
    assert!(matches!(&error, Error::Unreachable(why) if why.contains("no answer")), "{error}");
}

#[test]
fn deadline_with_a_node_that_never_answers_is_kept_and_unknown() {
    let node = FakeNode::alone(Box::new(|_| Reaction::Silence));
    let hole = black_hole();
    let error = error_in_time(&[node.address, hole.2]);
    assert!(!error.is_definite(), "{error}");
}

#[test]
fn deadline_with_a_node_that_stops_reading_is_kept_though_its_socket_fills() {
    let node = FakeNode::alone(Box::new(|_| Reaction::StopReading));
    // Shorter than a silent connection is kept, so that every write goes into the same one; five
    // of the largest are more than the system's buffers take.
    let timeout = Duration::from_millis(700);
    let mut client = Client::connect(Options::new([node.address]).with_timeout(timeout)).unwrap();
    let largest = vec![0; 1 << 20];
    for _ in 0..5 {
        let error = in_time(timeout, || client.compare_and_set("k", Some(&largest), &largest).unwrap_err());
        assert!(!error.is_definite(), "{error}");
    }
}

#[test]
fn read_from_a_silent_node_is_definite_at_its_deadline() {
    let node = FakeNode::alone(Box::new(|_| Reaction::Silence));
    let options = Options::new([node.address]).with_timeout(TIMEOUT);
    let mut client = Client::connect(options).unwrap();
    assert_eq!(in_time(TIMEOUT, || client.get("k")), Err(Error::TimedOut));
}

#[test]
fn answers_that_nobody_asked_for_fill_no_memory_and_hold_up_no_call() {
    let value = ResponseBody::Value(Some(Bytes::from(vec![7; 10_000])));
    let body = value.clone();
    let node = FakeNode::alone(Box::new(move |_| Reaction::Babble(body.clone())));
    let mut client = Client::connect(Options::new([node.address]).with_timeout(TIMEOUT)).unwrap();
    assert_eq!(client.get("k").unwrap().value.map(|value| value.len()), Some(10_000));
    // While nobody calls, the node can say no more than the socket's buffers and a few answers hold.
    let taken = || node.babbled.load(Ordering::Relaxed);
    let (began, mut before) = (Instant::now(), usize::MAX);
    while taken() != before {
        assert!(began.elapsed() < Duration::from_secs(20) && taken() < 256 << 20, "{} bytes", taken());
        before = taken();
        thread::sleep(Duration::from_millis(200));
    }
    // This one is never answered, however much is said.
    let began = Instant::now();
    assert_eq!(client.get("k"), Err(Error::TimedOut));
    assert!(began.elapsed() <= TIMEOUT.mul_f64(1.1), "it took {:?}", began.elapsed());
}
