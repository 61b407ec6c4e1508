//! Byte mode: clients' connections, driven as the blocking client drives its own.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

use kvstore::client::conversation::{Inbox, Outbox, Said, hello};
use kvstore::client::session::LinkId;
use kvstore::net::Socket;
use kvstore::time::Duration;
use kvstore::wire::client::{Request, Response};

use super::World;
use crate::sim::checker::violated;
use crate::sim::clients::ClientLink;
use crate::sim::node::Connection;
use crate::sim::sockets::SimSocket;

/// Bytes that are read at once.
const READ_BYTES: usize = 4 << 10;

/// A connection of a client, or of an operator.
pub(super) struct Line {
    owner: Owner,
    socket: SimSocket,
    is_connected: bool,
    outbox: Outbox,
    inbox: Inbox,
    /// Requests that were sent on it and not answered.
    asked: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
enum Owner {
    /// A client, and how its session names the connection.
    Client(usize, LinkId),
    /// Asks one thing, and goes once it is answered.
    Operator(Request),
}

impl Line {
    fn new(owner: Owner, socket: SimSocket) -> Self {
        let (outbox, inbox) = (Outbox::default(), Inbox::new());
        Self { owner, socket, is_connected: false, outbox, inbox, asked: BTreeSet::new() }
    }

    /// Whether the dial has succeeded; then this end introduces itself.
    fn finish_connect(&mut self) -> io::Result<bool> {
        if !self.is_connected && self.socket.finish_connect()? {
            if self.socket.is_self_connected() {
                return Err(ErrorKind::ConnectionRefused.into());
            }
            io::Write::write_all(&mut self.socket, &hello())?;
            self.is_connected = true;
        }
        Ok(self.is_connected)
    }

    fn queue(&mut self, request: &Request) {
        self.asked.insert(request.id);
        self.outbox.queue(request);
    }

    /// The next thing that the node said. It must speak the protocol, and answer what was asked here.
    fn next_said(&mut self) -> io::Result<Option<Said>> {
        let said = self.inbox.next_said();
        match &said {
            Ok(Some(Said::Response(response))) if !self.asked.remove(&response.id) => {
                violated!("answers go to who asked", "nobody asked here for {response:?}");
            }
            Err(error) if is_nonsense(error) => violated!("nodes speak the protocol", "{error}"),
            _ => said,
        }
    }

    /// Reads what has arrived. False if that was all there will ever be.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.inbox.push(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the client took what a node said for something else than a reason to part.
fn is_nonsense(error: &io::Error) -> bool {
    let text = error.to_string();
    text.starts_with("unexpected frame") || text.starts_with("it is no node")
}

impl World {
    /// A client's session wants a connection.
    pub(super) fn dial_line(&mut self, client: usize, link: LinkId, node: usize) {
        let socket = SimSocket::dial_from(&self.network.pipes, self.site_of(client), node);
        let pipe = socket.pipe();
        self.clients.all[client].links.insert(link, ClientLink { node, connection: Some(pipe) });
        self.clients.lines.insert(pipe, Line::new(Owner::Client(client, link), socket));
        self.launch(&[self.now]);
    }

    /// A client's session has something to say.
    pub(super) fn send_on_line(&mut self, client: usize, link: LinkId, request: &Request) {
        let pipe = self.clients.all[client].links.get(&link).and_then(|end| end.connection);
        match pipe.and_then(|pipe| Some((pipe, self.clients.lines.get_mut(&pipe)?))) {
            Some((pipe, line)) => {
                line.queue(request);
                self.flush_line(pipe);
            }
            None => self.clients.all[client].session.on_not_sent(self.now, link, request.id),
        }
    }

    /// Writes what a line's socket takes. What an error says is for the next read.
    fn flush_line(&mut self, pipe: Connection) {
        let Some(Line { owner, socket, outbox, .. }) = self.clients.lines.get_mut(&pipe) else { return };
        let result = outbox.write_to(socket).map_err(|_| outbox.give_up());
        if let Owner::Client(client, link) = *owner {
            let session = &mut self.clients.all[client].session;
            match result {
                Ok(true) => session.on_progress(self.now, link),
                Ok(false) => {}
                Err(not_sent) => {
                    not_sent.into_iter().for_each(|request| session.on_not_sent(self.now, link, request));
                }
            }
        }
        self.launch(&[self.now]);
    }

    /// Something has changed for a line's socket.
    pub(super) fn on_line_ready(&mut self, pipe: Connection) {
        let Some(line) = self.clients.lines.get_mut(&pipe) else { return };
        let owner = line.owner.clone();
        let mut result = line.finish_connect();
        if result.as_ref().is_ok_and(|is_connected| *is_connected) {
            self.flush_line(pipe);
            result = self.read_line(pipe, &owner);
        }
        let is_over = match result {
            Ok(false) => self.clients.lines.get(&pipe).is_some_and(|line| line.is_connected),
            Ok(true) => false,
            Err(_) => true,
        };
        if is_over {
            self.clients.lines.remove(&pipe);
            if let Owner::Client(client, link) = owner {
                let why = result.map_or_else(|error| error.to_string(), |_| "connection closed".to_owned());
                self.clients.all[client].links.remove(&link);
                self.clients.all[client].session.on_lost(self.now, link, &why);
            }
        }
        self.launch(&[self.now]);
        if let Owner::Client(client, _) = owner {
            self.pull(client);
        }
    }

    /// Reads a line and hands on what was said. False if the node has closed it.
    fn read_line(&mut self, pipe: Connection, owner: &Owner) -> io::Result<bool> {
        let Some(line) = self.clients.lines.get_mut(&pipe) else { return Ok(true) };
        let result = line.read();
        loop {
            // What was said may have ended the line.
            let Some(line) = self.clients.lines.get_mut(&pipe) else { return Ok(true) };
            let Some(said) = line.next_said()? else {
                if let Owner::Client(client, link) = *owner
                    && line.inbox.has_part()
                {
                    self.clients.all[client].session.on_progress(self.now, link);
                }
                return result;
            };
            match owner {
                Owner::Client(client, link) => self.on_said(*client, *link, said),
                Owner::Operator(request) => self.on_operator_told(pipe, request, said),
            }
        }
    }

    fn on_said(&mut self, client: usize, link: LinkId, said: Said) {
        let session = &mut self.clients.all[client].session;
        match said {
            Said::Welcome(welcome) => session.on_connected(self.now, link, &welcome),
            Said::Response(response) => session.on_response(self.now, link, response),
        }
    }

    /// A client lets go of a connection.
    pub(super) fn hang_up(&mut self, pipe: Connection) {
        self.clients.lines.remove(&pipe);
        self.launch(&[self.now]);
    }

    /// An operator connects to a node and asks for something, whatever becomes of it.
    pub(super) fn operate(&mut self, node: usize, request: &Request) {
        let socket = SimSocket::dial_from(&self.network.pipes, self.site_of(0), node);
        self.clients.lines.insert(socket.pipe(), Line::new(Owner::Operator(request.clone()), socket));
        self.launch(&[self.now]);
    }

    /// What an operator wanted and no node has read yet comes to nothing.
    pub(super) fn forget_operators(&mut self) {
        let of_operator = |line: &Line| matches!(line.owner, Owner::Operator(_));
        let lines = self.clients.lines.iter().filter(|(_, line)| of_operator(line));
        let pipes: Vec<Connection> = lines.map(|(pipe, _)| *pipe).collect();
        pipes.into_iter().for_each(|pipe| self.hang_up(pipe));
    }

    fn on_operator_told(&mut self, pipe: Connection, request: &Request, said: Said) {
        match said {
            Said::Welcome(_) => {
                if let Some(line) = self.clients.lines.get_mut(&pipe) {
                    line.queue(request);
                    self.flush_line(pipe);
                }
            }
            Said::Response(response) => {
                self.clients.told_operator = Some(response);
                self.hang_up(pipe);
            }
        }
    }

    /// Asks a node something over a connection of its own; none if it does not answer.
    pub(super) fn ask_node(&mut self, node: usize, request: &Request) -> Option<Response> {
        self.clients.told_operator = None;
        self.operate(node, request);
        for _ in 0..1_000 {
            self.run_until(self.now + Duration::from_millis(1));
            if self.clients.told_operator.is_some() {
                break;
            }
        }
        self.clients.told_operator.take()
    }
}
