//! The client: a blocking [`Client`] over TCP around a pure [`Session`].
//!
//! Half of every fail-over happens here. Nodes elect a new leader within milliseconds; a client
//! that waits for a dead connection, backs off, or invents a new name for a write it has sent
//! already turns that into seconds, or into a write that happens twice. So the client learns all
//! members from the first answer, asks the others the moment a connection breaks or a leader falls
//! silent, never pauses for long, and sends a write under one name however often it sends it.
//! A fail-over is then a slower answer, not an error.
//!
//! ```no_run
//! use kvstore::client::{Client, Options};
//!
//! let mut client = Client::connect(Options::new(["127.0.0.1:9001", "127.0.0.1:9002"]))?;
//! let put = client.put("colour", "blue")?;
//! assert_eq!(client.get("colour")?.value.as_deref(), Some(&b"blue"[..]));
//! println!("revision {}, after {} attempts", put.revision, put.attempts);
//! # Ok::<(), kvstore::client::Error>(())
//! ```
//!
//! Every call ends within its timeout, and every error says truly whether the request can have had
//! an effect ([`Error::is_definite`]). After [`Error::Unknown`] the same write can be sent again
//! under the identity in the error, with [`Client::write_as`], by this process or by another:
//!
//! ```no_run
//! # use kvstore::client::{Client, Error, Operation, Options};
//! # let mut client = Client::connect(Options::new(["127.0.0.1:9001"]))?;
//! let put = Operation::Put { key: "colour".into(), value: "red".into() };
//! let reply = match client.write(put.clone()) {
//!     Err(Error::Unknown { identity: Some(identity), .. }) => client.write_as(identity, put)?,
//!     result => result?,
//! };
//! # Ok::<(), Error>(())
//! ```
//!
//! # Where things are
//!
//! [`session`] decides; within it, `roster` knows the nodes, `own_session` gives out the numbers, and
//! `attempts` holds the table of what may be said at the end. [`conversation`] makes bytes of requests
//! and answers of bytes, and `connection` carries them.

mod attempts;
mod backups;
mod check;
mod connection;
pub mod conversation;
mod error;
mod own_session;
mod roster;
pub mod session;
mod statuses;

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;

use bytes::Bytes;

pub use backups::BackupChunk;
pub use error::{Error, Identity, UnknownReason};
pub use session::{Action, Answer, LinkId, Session};

pub use crate::wire::client::{Operation, Outcome};

use crate::time::{Clock, Duration, Instant};
use crate::types::{ClientId, NodeId, Revision};
use crate::wire::MAX_KEY_BYTES;
use crate::wire::client::{MAX_SCAN_ROWS, Request, RequestBody, ResponseBody, SessionInfo};
use check::{check_endpoints, check_key, check_operation, check_size};
use connection::{Connection, Event, MAX_EVENTS};

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// `HOST:PORT` of at least one node, in order of preference for reads. One that lives is
    /// enough: it tells of the others.
    pub endpoints: Vec<String>,
    /// How long a call may take, retries and fail-over included.
    pub timeout: Duration,
}

impl Options {
    /// These endpoints, and a timeout of 5 seconds.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { endpoints, timeout: Duration::from_secs(5) }
    }

    /// The same with another timeout.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// A result, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<T> {
    /// The result.
    pub value: T,
    /// The revision of the state that it reflects; of a write, the one that it made.
    pub revision: Revision,
    /// The node that answered.
    pub node: NodeId,
    /// How many times the request was sent.
    pub attempts: u32,
    /// Of a write: it had been applied, under the same identity, before this call began.
    pub cached: bool,
}

/// What a compare-and-set came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The value was as expected, and is the new one now.
    Set,
    /// It was another.
    Mismatch {
        /// The value as it was, cut to 1 KiB; `None` if the key was absent.
        current: Option<Bytes>,
        /// Whether `current` was cut.
        truncated: bool,
    },
}

/// Some rows of a scan, all of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, in byte order of the keys.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

/// A blocking client of one cluster.
///
/// It makes a session for itself with its first write, and closes it when it is dropped, where
/// that is safe. One thread reads each connection; connections are made when they are needed, and
/// kept. To use one from several threads, make one client per thread.
#[derive(Debug)]
pub struct Client {
    session: Session,
    connections: BTreeMap<LinkId, Connection>,
    events: Receiver<(LinkId, Event)>,
    reports: SyncSender<(LinkId, Event)>,
    clock: Clock,
    timeout: Duration,
}

/// The calls.
impl Client {
    /// A client for these endpoints. It waits for nothing: the first call connects, within its own
    /// timeout.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no endpoint, or one is not `HOST:PORT`.
    pub fn connect(options: Options) -> Result<Self, Error> {
        check_endpoints(&options.endpoints)?;
        let (reports, events) = mpsc::sync_channel(MAX_EVENTS);
        Ok(Self {
            session: Session::new(&options.endpoints, rand::random()),
            connections: BTreeMap::new(),
            events,
            reports,
            clock: Clock::start(),
            timeout: options.timeout,
        })
    }

    /// Changes the timeout of the calls that follow.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Reply<()>, Error> {
        let operation = Operation::Put { key: copy(key), value: copy(value) };
        Ok(self.write(operation)?.map(|_| ()))
    }

    /// Removes a key; whether it was there.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<Reply<bool>, Error> {
        let reply = self.write(Operation::Delete { key: copy(key) })?;
        Ok(reply.map(|outcome| outcome == Outcome::Done))
    }

    /// Sets a key if it has this value; with `None`, if it is absent.
    pub fn compare_and_set(
        &mut self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: impl AsRef<[u8]>,
    ) -> Result<Reply<Comparison>, Error> {
        let expected = expected.map(Bytes::copy_from_slice);
        let reply = self.write(Operation::CompareAndSet { key: copy(key), expected, new: copy(new) })?;
        Ok(reply.map(Comparison::of))
    }

    /// Ends another client's session; whether there was one.
    pub fn close_session(&mut self, client: ClientId) -> Result<Reply<bool>, Error> {
        let reply = self.write(Operation::CloseSession { client })?;
        Ok(reply.map(|outcome| outcome == Outcome::Done))
    }

    /// Any write, under this client's own session.
    pub fn write(&mut self, operation: Operation) -> Result<Reply<Outcome>, Error> {
        self.write_under(None, operation)
    }

    /// Writes under the caller's own name for the write, which may have been sent before: it is
    /// applied once, and the result is the first one's.
    pub fn write_as(&mut self, identity: Identity, operation: Operation) -> Result<Reply<Outcome>, Error> {
        self.write_under(Some(identity), operation)
    }

    /// A key's value; linearizable, from the first endpoint that answers.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<Reply<Option<Bytes>>, Error> {
        self.get_from(key, false)
    }

    /// A key's value as the endpoint has it, perhaps an old one; see [`Reply::revision`].
    pub fn get_stale(&mut self, key: impl AsRef<[u8]>) -> Result<Reply<Option<Bytes>>, Error> {
        self.get_from(key, true)
    }

    /// One page of the rows whose keys begin with `prefix` and come after `after`, at most `limit`
    /// of them, and at most 10,000 or 1 MiB; linearizable.
    pub fn scan(
        &mut self,
        prefix: impl AsRef<[u8]>,
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<Reply<Page>, Error> {
        check_size("prefix", prefix.as_ref(), MAX_KEY_BYTES)?;
        let after = after.map(Bytes::copy_from_slice);
        let limit = limit.min(MAX_SCAN_ROWS);
        let answer = self.call(RequestBody::Scan { prefix: copy(prefix), after, limit, stale: false })?;
        Ok(reply(answer, |body| match body {
            ResponseBody::Rows { rows, more } => Some(Page { rows, more }),
            _ => None,
        }))
    }

    /// Asks the leader to hand over to node `to`; returns once that one leads.
    pub fn transfer(&mut self, to: NodeId) -> Result<Reply<()>, Error> {
        let answer = self.call(RequestBody::Transfer { to })?;
        Ok(reply(answer, |body| matches!(body, ResponseBody::Transferred).then_some(())))
    }

    /// The named sessions.
    pub fn sessions(&mut self) -> Result<Reply<Vec<SessionInfo>>, Error> {
        let answer = self.call(RequestBody::ListSessions)?;
        Ok(reply(answer, |body| match body {
            ResponseBody::Sessions(sessions) => Some(sessions),
            _ => None,
        }))
    }

    fn get_from(&mut self, key: impl AsRef<[u8]>, stale: bool) -> Result<Reply<Option<Bytes>>, Error> {
        check_key(key.as_ref())?;
        let answer = self.call(RequestBody::Get { key: copy(key), stale })?;
        Ok(reply(answer, |body| match body {
            ResponseBody::Value(value) => Some(value),
            _ => None,
        }))
    }

    fn write_under(
        &mut self,
        identity: Option<Identity>,
        operation: Operation,
    ) -> Result<Reply<Outcome>, Error> {
        check_operation(&operation)?;
        let now = self.clock.now();
        self.session.begin_write(now, now + self.timeout, operation, identity);
        Ok(reply(self.drive()?, |body| match body {
            ResponseBody::Written { outcome, .. } => Some(outcome),
            _ => None,
        }))
    }

    fn call(&mut self, body: RequestBody) -> Result<Answer, Error> {
        let now = self.clock.now();
        self.session.begin(now, now + self.timeout, body);
        self.drive()
    }
}

/// Driving the session.
impl Client {
    /// Does what the session says until the request is over.
    fn drive(&mut self) -> Result<Answer, Error> {
        loop {
            // Not all, however many there are: a node that never stops talking must not keep the
            // session from noticing the deadline.
            for _ in 0..MAX_EVENTS {
                let Ok((link, event)) = self.events.try_recv() else { break };
                self.on_event(link, event);
            }
            match self.session.pull(self.clock.now()) {
                Action::Dial { link, address } => self.dial(link, address),
                Action::Send { link, request } => self.send(link, &request),
                Action::Close { link } => drop(self.connections.remove(&link)),
                Action::Wait { until } => self.wait(until),
                Action::Finished(result) => return result,
            }
        }
    }

    fn dial(&mut self, link: LinkId, address: String) {
        match Connection::dial(link, address, self.reports.clone()) {
            Ok(connection) => drop(self.connections.insert(link, connection)),
            Err(error) => {
                let why = format!("no thread to dial with: {error}");
                self.session.on_lost(self.clock.now(), link, &why);
            }
        }
    }

    fn send(&mut self, link: LinkId, request: &Request) {
        let connection = self.connections.get_mut(&link);
        match connection.is_some_and(|connection| connection.queue(request)) {
            true => self.flush(link),
            false => self.session.on_not_sent(self.clock.now(), link, request.id),
        }
    }

    fn flush(&mut self, link: LinkId) {
        let Some(connection) = self.connections.get_mut(&link) else { return };
        let result = connection.flush();
        let now = self.clock.now();
        match result {
            Ok(true) => self.session.on_progress(now, link),
            Ok(false) => {}
            Err(not_sent) => {
                not_sent.into_iter().for_each(|request| self.session.on_not_sent(now, link, request));
            }
        }
    }

    /// Waits for an event; while something is unsent, by trying to write it.
    fn wait(&mut self, until: Instant) {
        let unsent = self.connections.iter().filter(|(_, connection)| connection.has_unsent());
        let unsent: Vec<LinkId> = unsent.map(|(link, _)| *link).collect();
        if !unsent.is_empty() {
            unsent.into_iter().for_each(|link| self.flush(link));
            return;
        }
        match self.events.recv_timeout(until.since(self.clock.now())) {
            Ok((link, event)) => self.on_event(link, event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("the client holds a sender itself"),
        }
    }

    fn on_event(&mut self, link: LinkId, event: Event) {
        let Some(connection) = self.connections.get_mut(&link) else { return };
        let now = self.clock.now();
        match event {
            Event::Dialled(stream) => connection.on_dialled(stream),
            Event::Connected(welcome) => self.session.on_connected(now, link, &welcome),
            Event::Progress => self.session.on_progress(now, link),
            Event::Response(response) => self.session.on_response(now, link, response),
            Event::Ended(why) => {
                self.connections.remove(&link);
                self.session.on_lost(now, link, &why);
            }
        }
    }
}

impl Drop for Client {
    /// Closes the session, without waiting for the answer; a panic leaves it to end by itself.
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        if let Some((link, request)) = self.session.farewell() {
            self.send(link, &request);
        }
    }
}

impl<T> Reply<T> {
    /// The same reply with another value.
    fn map<U>(self, to: impl FnOnce(T) -> U) -> Reply<U> {
        let Self { value, revision, node, attempts, cached } = self;
        Reply { value: to(value), revision, node, attempts, cached }
    }
}

impl Comparison {
    /// What the outcome of a compare-and-set says.
    #[must_use]
    pub fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Comparison::Set,
            Outcome::Mismatch { current, truncated } => Comparison::Mismatch { current, truncated },
            Outcome::NotFound => Comparison::Mismatch { current: None, truncated: false },
        }
    }
}

/// Takes the part of an answer that the question calls for; the session let no other pass.
fn reply<T>(answer: Answer, take: impl FnOnce(ResponseBody) -> Option<T>) -> Reply<T> {
    let Answer { body, revision, node, attempts, cached, .. } = answer;
    let value = take(body).expect("the session accepts only answers to the question");
    Reply { value, revision, node, attempts, cached }
}

fn copy(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}
