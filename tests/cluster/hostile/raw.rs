//! A connection without a client: it sends any bytes, and shows any frames.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kvstore::types::{ClientId, Sequence};
use kvstore::wire::client::{Operation, Request, RequestBody, Response, Write as ClientWrite};
use kvstore::wire::frame::{self, Decoder, Frame, FrameKind};
use kvstore::wire::hello::Welcome;
use kvstore::wire::{MAX_PEER_FRAME_BYTES, Reader, Writer};
use socket2::SockRef;

use crate::cluster::PATIENCE;

/// One frame's bytes.
pub(super) fn frame(kind: FrameKind, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::new();
    frame::encode(kind, &mut out, write);
    out.into_bytes().to_vec()
}

/// A client's introduction.
pub(super) fn client_hello() -> Vec<u8> {
    frame(FrameKind::ClientHello, |_| {})
}

/// A client's request.
pub(super) fn request(id: u64, body: RequestBody) -> Vec<u8> {
    let request = Request { id, time_left_ms: 10_000, silent_leader: None, body };
    frame(FrameKind::Request, |out| request.encode(out))
}

/// A put under the name and number that are given.
pub(super) fn put(id: u64, client: ClientId, key: &str, value: &[u8]) -> Vec<u8> {
    let operation =
        Operation::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value) };
    let write = ClientWrite { client, sequence: Sequence(1), acknowledged: Sequence(0), operation };
    request(id, RequestBody::Write(write))
}

/// A linearizable get.
pub(super) fn get(id: u64, key: &str) -> Vec<u8> {
    request(id, RequestBody::Get { key: Bytes::copy_from_slice(key.as_bytes()), stale: false })
}

/// A header that claims a payload of so many bytes.
pub(super) fn header(kind: FrameKind, length: u32) -> Vec<u8> {
    let mut header = frame(kind, |_| {});
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header
}

/// A connection to a node.
pub(super) struct Raw {
    stream: TcpStream,
    decoder: Decoder,
}

impl Raw {
    /// Connects, and says nothing.
    pub(super) fn connect(port: u16) -> Result<Self> {
        Self::new(TcpStream::connect(("127.0.0.1", port))?)
    }

    /// One that is there.
    pub(super) fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, decoder: Decoder::new(MAX_PEER_FRAME_BYTES) })
    }

    /// Connects and is welcomed as a client.
    pub(super) fn client(port: u16) -> Result<(Self, Welcome)> {
        let mut raw = Self::connect(port)?;
        raw.send(&client_hello())?;
        let frame = raw.next()?.context("closed instead of a welcome")?;
        ensure!(frame.kind == FrameKind::Welcome, "{frame:?} instead of a welcome");
        let welcome = Welcome::decode(&mut Reader::new(frame.payload))?;
        Ok((raw, welcome))
    }

    /// Sends bytes. A node that has closed takes none; that is seen when its answer is read.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self.stream.write_all(bytes) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(error).context("sending")
            }
            _ => Ok(()),
        }
    }

    /// Sends for so long; how many bytes were taken.
    pub(super) fn send_for(&mut self, bytes: &[u8], time: Duration) -> Result<usize> {
        self.stream.set_write_timeout(Some(time))?;
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count @ 1..) => sent += count,
                _ => break,
            }
        }
        Ok(sent)
    }

    /// The next frame; `None` once the node has closed, in whatever way.
    pub(super) fn next(&mut self) -> Result<Option<Frame>> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("neither answered nor closed"),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// The next answer to a request.
    pub(super) fn response(&mut self) -> Result<Response> {
        let frame = self.next()?.context("closed instead of an answer")?;
        ensure!(frame.kind == FrameKind::Response, "{frame:?} instead of an answer");
        Ok(Response::decode(frame.payload)?)
    }

    /// All frames until the node closes.
    pub(super) fn rest(&mut self) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Whether the node has closed by now. Frames that have come are lost.
    pub(super) fn is_closed(&mut self) -> Result<bool> {
        self.stream.set_nonblocking(true)?;
        let read = self.stream.read(&mut [0; 4096]);
        self.stream.set_nonblocking(false)?;
        Ok(match read {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        })
    }

    /// Closes the sending direction alone.
    pub(super) fn close_half(&self) -> Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// Ends the connection by a reset.
    pub(super) fn reset(self) -> Result<()> {
        Ok(SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?)
    }
}
