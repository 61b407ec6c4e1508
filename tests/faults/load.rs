//! Clients that read and write all the time, on few keys, and record what they are told.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use kvstore::client::{Client, Error, Identity, Options, Reply};
use kvstore::types::{ClientId, ClientName, Sequence};
use kvstore::wire::client::{Operation, Outcome};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::PATIENCE;
use crate::history::{Attempt, Ending};
use crate::record::Recorder;
use crate::setup::eventually;
use crate::store_model::{Input, Output};

/// Keys that are in use at one time.
const KEYS: u64 = 4;
/// Calls after which all clients move on to fresh keys: a search for an order stays short.
const CALLS_PER_GENERATION: u64 = KEYS * 150;
/// How long a call of most clients may take.
const PATIENT: Duration = Duration::from_secs(5);
/// The same for every third: so short that many of its outcomes remain unknown.
const IMPATIENT: Duration = Duration::from_millis(60);
/// The numbers of those who read everything at the end.
const RECORD_KEEPERS: u64 = 1000;
/// Pause between two calls of a client, in general.
pub(crate) const REST: Duration = Duration::from_millis(4);

/// How long a call of this client may take.
pub(crate) fn deadline_of(client: u64) -> Duration {
    match client {
        RECORD_KEEPERS.. => PATIENCE,
        client if client % 3 == 2 => IMPATIENT,
        _ => PATIENT,
    }
}

/// What all clients of a run share.
pub(crate) struct Shared {
    pub(crate) recorder: Recorder,
    clients: AtomicU64,
    calls: AtomicU64,
    acknowledged: AtomicU64,
}

/// The clients. Dropping it tells them to end.
pub(crate) struct Load {
    pub(crate) shared: Arc<Shared>,
    endpoints: Vec<String>,
    seed: u64,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn new(recorder: Recorder, endpoints: Vec<String>, seed: u64) -> Self {
        let [clients, calls, acknowledged] = [(); 3].map(|()| AtomicU64::new(0));
        let shared = Arc::new(Shared { recorder, clients, calls, acknowledged });
        Self { shared, endpoints, seed, stop: Arc::default(), clients: Vec::new() }
    }

    /// More clients of the same cluster and for the same record, which stop by themselves.
    pub(crate) fn beside(other: &Load) -> Self {
        let (shared, endpoints) = (Arc::clone(&other.shared), other.endpoints.clone());
        Self { shared, endpoints, seed: other.seed, stop: Arc::default(), clients: Vec::new() }
    }

    /// Adds so many clients, each of which reads from a node of its own, if it can. Every other one
    /// names its writes itself, and sends some of them again.
    pub(crate) fn add_clients(&mut self, count: usize, rest: Duration) {
        for _ in 0..count {
            let number = self.shared.clients.fetch_add(1, Ordering::Relaxed);
            let mut endpoints = self.endpoints.clone();
            endpoints.rotate_left(number as usize % self.endpoints.len());
            let options = Options::new(endpoints).with_timeout(deadline_of(number));
            let client = Client::connect(options).expect("endpoints");
            let (shared, stop, seed) = (Arc::clone(&self.shared), Arc::clone(&self.stop), self.seed);
            self.clients.push(thread::spawn(move || {
                let mut caller = Caller::new(shared, client, number, seed);
                while !stop.load(Ordering::SeqCst) {
                    caller.call_once();
                    thread::sleep(rest); // a client that never rests is another scenario
                }
            }));
        }
    }

    /// Waits until so many more calls were answered.
    pub(crate) fn wait_for(&self, more: u64) -> Result<()> {
        let acknowledged = || self.shared.acknowledged.load(Ordering::SeqCst);
        let goal = acknowledged() + more;
        eventually(&format!("{goal} answers"), || (acknowledged() >= goal).then_some(()))
    }

    /// Tells the clients to stop, and waits until the last call of each has ended.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("a client does not panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A write under a name.
#[derive(Clone)]
struct Named {
    sequence: u64,
    key: String,
    input: Input,
    is_answered: bool,
}

/// One client.
struct Caller {
    shared: Arc<Shared>,
    number: u64,
    client: Client,
    rng: StdRng,
    is_named: bool,
    last_named: Option<Named>,
    writes: u64,
    /// A key, and a value that it may have.
    seen: Option<(String, Option<Rc<str>>)>,
}

impl Caller {
    /// One that names its own writes if its number is even.
    fn new(shared: Arc<Shared>, client: Client, number: u64, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64((seed << 16) | number);
        let is_named = number.is_multiple_of(2);
        Self { shared, number, client, rng, is_named, last_named: None, writes: 0, seen: None }
    }

    fn call_once(&mut self) {
        let generation = self.shared.calls.fetch_add(1, Ordering::Relaxed) / CALLS_PER_GENERATION;
        // A write whose outcome is unknown is asked about again, as a rule; an answered one at times.
        if let Some(last) = self.last_named.clone()
            && self.rng.random_bool(if last.is_answered { 0.05 } else { 0.8 })
        {
            return self.write(last.key, last.input, Some(last.sequence));
        }
        let key = format!("{generation}/{}", self.rng.random_range(0..KEYS));
        match self.rng.random_range(0..10) {
            0..=4 => return self.read(key),
            5..=7 => {}
            8 => return self.write(key, Input::Delete, None),
            _ => {
                let seen = self.seen.take().filter(|(seen, _)| *seen == key);
                let expected = seen.and_then(|(_, value)| value);
                let new = self.new_value();
                return self.write(key, Input::CompareAndSet { expected, new }, None);
            }
        }
        let value = self.new_value();
        self.write(key, Input::Put(value), None);
    }

    /// A value that nobody else writes.
    fn new_value(&mut self) -> Rc<str> {
        self.writes += 1;
        format!("{}.{}", self.number, self.writes).into()
    }

    fn read(&mut self, key: String) {
        let (op_id, call_ns) = self.begin();
        let result = self.client.get(&key).map(|reply| {
            let value = reply.value.as_deref().map(text);
            self.seen = Some((key.clone(), value.clone()));
            reply_of(Output::Value(value), &reply)
        });
        self.end((op_id, call_ns), key, Input::Get, None, result);
    }

    fn write(&mut self, key: String, input: Input, again: Option<u64>) {
        let sequence = again.or_else(|| {
            self.writes += 1;
            self.is_named.then_some(self.writes)
        });
        let operation = operation_of(&key, &input);
        let began = self.begin();
        let result = match sequence {
            Some(sequence) => {
                let name =
                    ClientName::new(format!("client-{}", self.number).as_bytes()).expect("a short name");
                let identity = Identity { client: ClientId::Named(name), sequence: Sequence(sequence) };
                self.client.write_as(identity, operation)
            }
            None => self.client.write(operation),
        };
        let result = result.map(|reply| reply_of(output_of(&reply.value), &reply));
        if let (Input::Put(value), true) = (&input, result.is_ok()) {
            self.seen = Some((key.clone(), Some(Rc::clone(value))));
        }
        self.last_named = sequence.map(|sequence| {
            let is_answered = result.as_ref().err().is_none_or(Error::is_definite);
            Named { sequence, key: key.clone(), input: input.clone(), is_answered }
        });
        self.end(began, key, input, sequence, result);
    }

    fn begin(&self) -> (u64, u64) {
        (self.shared.recorder.next_attempt(), self.shared.recorder.now_ns())
    }

    fn end(
        &self,
        (op_id, call_ns): (u64, u64),
        key: String,
        input: Input,
        sequence: Option<u64>,
        result: Result<Reply<Output>, Error>,
    ) {
        let ret_ns = self.shared.recorder.now_ns();
        let node = result.as_ref().ok().map(|reply| reply.node.0);
        let (ending, how) = match result {
            Ok(reply) => {
                self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
                let revision = Some(reply.revision.0);
                (Ending::Ok { ret_ns, output: reply.value, revision }, Ok(reply.attempts))
            }
            Err(error) if error.is_definite() => (Ending::Fail { ret_ns }, Err(error)),
            Err(error) => (Ending::Unknown { ret_ns: Some(ret_ns) }, Err(error)),
        };
        let attempt = Attempt { op_id, client: self.number, sequence, node, key, input, call_ns, ending };
        self.shared.recorder.attempt(&attempt, &how);
    }
}

fn reply_of<T>(output: Output, reply: &Reply<T>) -> Reply<Output> {
    let Reply { revision, node, attempts, cached, .. } = *reply;
    Reply { value: output, revision, node, attempts, cached }
}

fn text(bytes: &[u8]) -> Rc<str> {
    String::from_utf8_lossy(bytes).into()
}

fn bytes(text: &Rc<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn operation_of(key: &str, input: &Input) -> Operation {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match input {
        Input::Get => unreachable!("a read is no write"),
        Input::Put(value) => Operation::Put { key, value: bytes(value) },
        Input::Delete => Operation::Delete { key },
        Input::CompareAndSet { expected, new } => {
            Operation::CompareAndSet { key, expected: expected.as_ref().map(bytes), new: bytes(new) }
        }
    }
}

fn output_of(outcome: &Outcome) -> Output {
    match outcome {
        Outcome::Done => Output::Done,
        Outcome::NotFound => Output::NotFound,
        Outcome::Mismatch { current, .. } => Output::Mismatch { current: current.as_deref().map(text) },
    }
}

/// Reads these keys from one node for the record, at the end of a run.
pub(crate) fn read_for_the_record(load: &Load, node: usize, keys: &[String]) -> Result<()> {
    let number = RECORD_KEEPERS + node as u64;
    let options = Options::new([load.endpoints[node].clone()]).with_timeout(deadline_of(number));
    let mut caller = Caller::new(Arc::clone(&load.shared), Client::connect(options)?, number, 0);
    for key in keys {
        caller.read(key.clone());
        let was_read = caller.seen.as_ref().is_some_and(|(seen, _)| seen == key);
        ensure!(was_read, "{key} cannot be read from node {}", node + 1);
    }
    Ok(())
}
