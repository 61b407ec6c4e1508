//! Clients: their sessions are driven over simulated connections.

use kvstore::client::session::{Action, Answer, LinkId};
use kvstore::client::{Error, Identity};
use kvstore::time::{Duration, Instant};
use kvstore::types::ClientId;
use kvstore::wire::client::{Operation, Request, RequestBody, Response, ResponseBody};

use super::{ClientEnd, Event, Phase, ToClient, World};
use crate::sim::clients::ClientLink;
use crate::sim::message_node::Input;
use crate::sim::node::{Connection, encoded, node_at};
use crate::sim::operations::Asked;

impl World {
    pub(super) fn wake_client(&mut self, client: usize, at: Instant) {
        if client >= self.plan.clients.asking {
            return;
        }
        let wake_at = &mut self.clients.all[client].wake_at;
        if wake_at.is_none_or(|scheduled| at < scheduled) {
            *wake_at = Some(at);
            self.queue.add(at, Event::ClientWake { client });
        }
    }

    pub(super) fn on_client_wake(&mut self, client: usize) {
        let this = &mut self.clients.all[client];
        if this.wake_at != Some(self.now) {
            return; // it was put to another moment
        }
        this.wake_at = None;
        if this.operation.is_none() && self.phase != Phase::Calm {
            self.begin_operation(client);
        }
        self.pull(client);
    }

    /// Asks something new, or once more for a write whose outcome is unknown.
    fn begin_operation(&mut self, client: usize) {
        let knew_core = self.knows_core(client);
        let this = &mut self.clients.all[client];
        this.knew_core = knew_core;
        let (number, identity) = match this.doubtful.take() {
            Some(number) => (number, self.operations.identity(number)),
            None => {
                let asked = self.clients.workload.draw(this);
                let is_write = matches!(asked, Asked::Write(_));
                let identity = if is_write { this.next_identity() } else { None };
                (self.operations.begin(self.now, client, asked), identity)
            }
        };
        this.operation = Some(number);
        let deadline = self.now + self.clients.workload.patience();
        let asked = self.operations.record(number).asked.clone();
        self.trace.line(self.now, || format!("client {client} asks {number}: {asked:?} as {identity:?}"));
        match asked {
            Asked::Write(operation) => this.session.begin_write(self.now, deadline, operation, identity),
            other => this.session.begin(self.now, deadline, other.body()),
        }
    }

    /// Does what the session wants, until it waits.
    pub(super) fn pull(&mut self, client: usize) {
        loop {
            match self.clients.all[client].session.pull(self.now) {
                Action::Dial { link, address } => self.dial_node(client, link, &address),
                Action::Send { link, request } => self.send_request(client, link, &request),
                Action::Close { link } => self.close_link(client, link),
                Action::Finished(result) => self.on_finished(client, &result),
                Action::Wait { until } => {
                    if until < Instant::MAX {
                        self.wake_client(client, until.max(self.now + Duration::from_nanos(1)));
                    }
                    return;
                }
            }
        }
    }

    fn dial_node(&mut self, client: usize, link: LinkId, address: &str) {
        let (node, site) = (node_at(address), self.site_of(client));
        if self.is_bytes() {
            return self.dial_line(client, link, node);
        }
        let this = &mut self.clients.all[client];
        this.links.insert(link, ClientLink { node, connection: None });
        let life = this.life;
        if self.network.is_open_both_ways(site, node) {
            let at = self.now + self.network.latency();
            self.queue.add(at, Event::ClientDial { client, life, link, node });
        }
    }

    pub(super) fn on_client_dial(&mut self, client: usize, life: u64, link: LinkId, node: usize) {
        if let Some(process) = self.process_number(node) {
            let connection = Connection(self.take_number());
            self.clients.ends.insert(connection, ClientEnd { client, life, link, node, process });
            let input = Input::ClientHello { connection };
            self.queue.add(self.now, Event::Arrive { node, process, input, other: 0 });
        } else if self.nodes[node].is_on {
            self.tell_lost(client, life, link, "connection refused");
        }
    }

    fn tell_lost(&mut self, client: usize, life: u64, link: LinkId, why: &'static str) {
        let at = self.now + self.network.latency();
        self.queue.add(at, Event::ToClient { client, life, link, what: ToClient::Lost(why) });
    }

    fn send_request(&mut self, client: usize, link: LinkId, request: &Request) {
        let site = self.site_of(client);
        let this = &self.clients.all[client];
        if let (RequestBody::Write(write), Some(number)) = (&request.body, this.operation) {
            self.operations.on_named(number, write);
        }
        let ClientLink { node, connection } = this.links[&link];
        let connection = connection.expect("a session sends over links that are up");
        self.trace.line(self.now, || format!("client {client} -> node {}: {request:?}", node + 1));
        let bytes = encoded(|out| request.encode(out));
        self.trace.note_bytes(&bytes);
        if self.is_bytes() {
            return self.send_on_line(client, link, request);
        }
        let Some(end) = self.clients.ends.get(&connection).copied() else {
            // The process is gone; its machine says so, if it is there.
            if self.nodes[node].is_on && self.network.is_open_both_ways(site, node) {
                self.tell_lost(client, self.clients.all[client].life, link, "reset");
            }
            return;
        };
        // A connection gives nothing twice: what is sent twice is sent by the session.
        if let [Some(at), _] = self.network.send(site, node, self.now) {
            let input = Input::ClientRequest { connection, bytes: bytes.clone() };
            self.queue.add(at, Event::Arrive { node, process: end.process, input, other: 0 });
        }
    }

    /// An operator's request arrives at a node, whatever becomes of it.
    pub(super) fn on_operator(&mut self, node: usize, request: &Request) {
        if self.is_bytes() {
            return self.operate(node, request);
        }
        let Some(process) = self.process_number(node) else { return };
        let (connection, bytes) = (Connection(0), encoded(|out| request.encode(out)));
        let input = Input::ClientRequest { connection, bytes };
        self.queue.add(self.now, Event::Arrive { node, process, input, other: 0 });
    }

    fn close_link(&mut self, client: usize, link: LinkId) {
        let closed = self.clients.all[client].links.remove(&link);
        if let Some(connection) = closed.and_then(|link| link.connection) {
            if self.is_bytes() {
                self.hang_up(connection);
            } else {
                self.drop_connection(connection);
            }
        }
    }

    /// A node finds out that a client's connection is gone.
    fn drop_connection(&mut self, connection: Connection) {
        if let Some(ClientEnd { node, process, .. }) = self.clients.ends.remove(&connection) {
            let at = self.now + self.network.latency();
            let input = Input::ClientGone { connection };
            self.queue.add(at, Event::Arrive { node, process, input, other: 0 });
        }
    }

    pub(super) fn on_client_input(&mut self, client: usize, life: u64, link: LinkId, what: ToClient) {
        let this = &mut self.clients.all[client];
        if this.life != life {
            return;
        }
        match what {
            ToClient::Welcome(connection, welcome) => match this.links.get_mut(&link) {
                Some(end) if end.connection.is_none() => {
                    end.connection = Some(connection);
                    this.session.on_connected(self.now, link, &welcome);
                }
                Some(_) => {}
                None => self.drop_connection(connection),
            },
            ToClient::Answer(bytes) if this.links.contains_key(&link) => {
                let response = Response::decode(bytes).expect("what a node answers can be read");
                this.session.on_response(self.now, link, response);
            }
            ToClient::Answer(_) => {}
            ToClient::Lost(why) => {
                if this.links.remove(&link).is_some() {
                    this.session.on_lost(self.now, link, why);
                }
            }
        }
        self.pull(client);
    }

    fn on_finished(&mut self, client: usize, result: &Result<Answer, Error>) {
        let this = &mut self.clients.all[client];
        let number = this.operation.take().expect("an operation was under way");
        self.trace.line(self.now, || format!("client {client} ends {number}: {result:?}"));
        self.trace.note(self.now, &[4, client as u64, number as u64, u64::from(result.is_ok())]);
        self.operations.end(self.now, number, result, &self.checker.reference);
        self.learn(client, number, result);
        self.check_liveness_of(number, result);
        let pause = self.clients.workload.pause();
        self.wake_client(client, self.now + pause);
    }

    /// What a client remembers of an answer, and of a failure.
    fn learn(&mut self, client: usize, number: usize, result: &Result<Answer, Error>) {
        if matches!(result, Err(Error::NoSpace(_))) {
            self.stats.disks.refusing += 1;
        }
        let this = &mut self.clients.all[client];
        let asked = self.operations.record(number).asked.clone();
        match (result, asked) {
            (Ok(Answer { body: ResponseBody::BackupChunk { snapshot, offset, chunk }, .. }), _) => {
                self.on_backup_chunk(client, *snapshot, *offset, chunk);
            }
            (Ok(Answer { body: ResponseBody::Value(value), .. }), Asked::Get { key, .. }) => {
                this.see(key, value.clone());
            }
            (
                Ok(Answer { body: ResponseBody::Written { .. }, .. }),
                Asked::Write(Operation::Put { key, value }),
            ) => this.see(key, Some(value)),
            (Err(Error::Unknown { identity, .. }), Asked::Write(_)) => {
                self.stats.unknown += 1;
                let asks_again = identity.as_ref().is_some_and(is_named);
                if asks_again && self.clients.workload.rng.chance(700_000) {
                    this.doubtful = Some(number);
                }
            }
            _ => {}
        }
    }

    /// A client's process ends, with whatever it was doing; sometimes it says farewell.
    pub(super) fn end_client(&mut self, client: usize) {
        let says_farewell = self.clients.workload.rng.chance(500_000);
        if let Some((link, request)) = self.clients.all[client].session.farewell().filter(|_| says_farewell) {
            let RequestBody::Write(write) = &request.body else { unreachable!("it closes a session") };
            let number = self.operations.begin(self.now, client, Asked::Write(write.operation.clone()));
            self.operations.on_named(number, write);
            self.operations.abandon(number);
            self.send_request(client, link, &request);
        }
        let links: Vec<LinkId> = self.clients.all[client].links.keys().copied().collect();
        links.into_iter().for_each(|link| self.close_link(client, link));
        let session = self.clients.workload.session();
        let this = &mut self.clients.all[client];
        if let Some(number) = this.operation {
            self.operations.abandon(number);
            this.doubtful = self.operations.identity(number).filter(is_named).map(|_| number);
        }
        this.begin_life(session);
        self.trace.line(self.now, || format!("client {client} ends, and another takes its place"));
        let pause = self.clients.workload.pause();
        self.wake_client(client, self.now + pause);
    }

    /// All connections of clients to a node are reset.
    pub(super) fn reset_clients_of(&mut self, node: usize) {
        if self.is_bytes() {
            let nodes = self.plan.nodes;
            return self.cut_pipes(node, |site| site >= nodes);
        }
        let of_node = self.clients.ends.iter().filter(|(_, end)| end.node == node);
        let connections: Vec<Connection> = of_node.map(|(connection, _)| *connection).collect();
        for connection in connections {
            let end = self.clients.ends[&connection];
            self.drop_connection(connection);
            self.tell_lost(end.client, end.life, end.link, "reset");
        }
    }
}

/// Whether the next process of a client knows the name of a write, too.
fn is_named(identity: &Identity) -> bool {
    matches!(identity.client, ClientId::Named(_))
}
