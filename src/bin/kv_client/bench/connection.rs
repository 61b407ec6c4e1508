//! One connection that never blocks, shared by the requests in flight of one client.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use kvstore::client::LinkId;
use kvstore::time::Instant;
use kvstore::wire::client::{Request, Response};
use kvstore::wire::frame::{self, Decoder, FrameKind};
use kvstore::wire::hello::{Refusal, Welcome};
use kvstore::wire::{MAX_CLIENT_FRAME_BYTES, Reader, Writer};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// What arrived.
#[derive(Debug)]
pub(super) enum Arrival {
    /// The node accepted us.
    Welcome(Welcome),
    /// An answer, under the number that it has on this connection.
    Response(Response),
}

/// A connection to one node. Its requests are numbered so that each lane of its client knows its
/// own: see [`Numbering`].
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// The `HOST:PORT` of its node.
    pub(super) address: String,
    /// The TCP handshake is done: it can be written to.
    is_connected: bool,
    /// What the node said first; before that nobody asks it anything.
    pub(super) welcome: Option<Welcome>,
    decoder: Decoder,
    unsent: Writer,
    /// How much of `unsent` was written.
    written: usize,
    /// The client, and the lanes of it that use this connection, each under a name of its own.
    pub(super) client: usize,
    pub(super) links: Vec<(usize, LinkId)>,
    /// When bytes moved last.
    pub(super) moved: Instant,
}

impl Connection {
    /// Begins to dial `target`, an address of the node called `address`. Events follow under `token`.
    pub(super) fn dial(
        registry: &Registry,
        token: Token,
        address: &str,
        target: SocketAddr,
        client: usize,
        now: Instant,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let mut unsent = Writer::new();
        frame::encode(FrameKind::ClientHello, &mut unsent, |_| {});
        Ok(Self {
            stream,
            address: address.to_owned(),
            is_connected: false,
            welcome: None,
            decoder: Decoder::new(MAX_CLIENT_FRAME_BYTES),
            unsent,
            written: 0,
            client,
            links: Vec::new(),
            moved: now,
        })
    }

    /// Appends a request; whether it is the first since the last flush.
    pub(super) fn queue(&mut self, request: &Request) -> bool {
        let is_first = self.unsent.is_empty();
        frame::encode(FrameKind::Request, &mut self.unsent, |out| request.encode(out));
        is_first
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self, now: Instant) -> io::Result<()> {
        if !self.is_connected && !self.finish_connect()? {
            return Ok(());
        }
        while self.written < self.unsent.len() {
            match self.stream.write(&self.unsent.as_mut_slice()[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => (self.written, self.moved) = (self.written + count, now),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        (self.unsent, self.written) = (Writer::new(), 0);
        Ok(())
    }

    /// Reads what is there, once if that was all (a short read says so), and hands on what arrived
    /// whole. `Ok(false)`: the node has closed.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        now: Instant,
        arrivals: &mut Vec<Arrival>,
    ) -> io::Result<bool> {
        if !self.is_connected {
            return Ok(true);
        }
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            self.moved = now;
            self.decoder.push(&buffer[..count]);
            while let Some(frame) = self.decoder.next().map_err(nonsense)? {
                arrivals.push(match frame.kind {
                    FrameKind::Response => {
                        Arrival::Response(Response::decode(frame.payload).map_err(nonsense)?)
                    }
                    FrameKind::Welcome => {
                        let mut payload = Reader::new(frame.payload);
                        Arrival::Welcome(Welcome::decode(&mut payload).map_err(nonsense)?)
                    }
                    FrameKind::Refusal => {
                        let refusal = Refusal::decode(&mut Reader::new(frame.payload)).map_err(nonsense)?;
                        return Err(io::Error::other(refusal.line()));
                    }
                    kind => return Err(nonsense(format!("unexpected frame {kind:?}"))),
                });
            }
            if count < buffer.len() {
                return Ok(true);
            }
        }
    }

    /// Whether the dial has succeeded; "writable" may come early.
    fn finish_connect(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            // A free port of this machine, chosen as our own: TCP lets a socket dial itself.
            Ok(peer) if self.stream.local_addr()? == peer => Err(ErrorKind::ConnectionRefused.into()),
            Ok(_) => {
                self.is_connected = true;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// How the lanes of a client share the request numbers of a connection.
///
/// Invariant: `join` and `split` are each other's inverse for lanes below `lanes`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbering {
    pub(super) lanes: u64,
}

impl Numbering {
    pub(super) fn join(self, lane: usize, id: u64) -> u64 {
        id * self.lanes + lane as u64
    }

    pub(super) fn split(self, number: u64) -> (usize, u64) {
        ((number % self.lanes) as usize, number / self.lanes)
    }
}

fn nonsense(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("it is no node of this version: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbering_gives_every_lane_its_own_numbers_back() {
        let numbering = Numbering { lanes: 16 };
        for (lane, id) in [(0, 1), (15, 1), (0, 2), (7, 1 << 40)] {
            assert_eq!(numbering.split(numbering.join(lane, id)), (lane, id));
        }
    }
}
