//! What is said on one connection to a node, in bytes: a hello and requests go out, a welcome and
//! answers come in. Without its socket: the blocking client and the simulator bring theirs.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};

use bytes::Bytes;

use crate::wire::client::{Request, Response};
use crate::wire::frame::{self, Decoder, Frame, FrameKind};
use crate::wire::hello::{Refusal, Welcome};
use crate::wire::{MAX_CLIENT_FRAME_BYTES, Reader, Writer};

/// The first words on a connection.
#[must_use]
pub fn hello() -> Bytes {
    let mut out = Writer::new();
    frame::encode(FrameKind::ClientHello, &mut out, |_| {});
    out.into_bytes()
}

/// Requests on their way out.
#[derive(Debug, Default)]
pub struct Outbox {
    unsent: VecDeque<Unsent>,
}

#[derive(Debug)]
struct Unsent {
    request: u64,
    frame: Bytes,
    written: usize,
}

impl Outbox {
    /// Queues a request behind those that are not written yet.
    pub fn queue(&mut self, request: &Request) {
        let mut out = Writer::new();
        frame::encode(FrameKind::Request, &mut out, |out| request.encode(out));
        self.unsent.push_back(Unsent { request: request.id, frame: out.into_bytes(), written: 0 });
    }

    /// Whether everything is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Writes what the stream takes before it would block; whether it took any bytes.
    ///
    /// # Errors
    /// The stream has broken. What is left will never be written, see [`Outbox::give_up`].
    pub fn write_to(&mut self, stream: &mut impl Write) -> io::Result<bool> {
        let mut progress = false;
        while let Some(unsent) = self.unsent.front_mut() {
            match stream.write(&unsent.frame[unsent.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    unsent.written += written;
                    progress = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Ok(progress),
                Err(error) => return Err(error),
            }
            if unsent.written == unsent.frame.len() {
                self.unsent.pop_front();
            }
        }
        Ok(progress)
    }

    /// Forgets what is left; the requests of which no byte was written.
    pub fn give_up(&mut self) -> Vec<u64> {
        let unsent = self.unsent.drain(..);
        unsent.filter(|unsent| unsent.written == 0).map(|unsent| unsent.request).collect()
    }
}

/// What a node says.
#[derive(Clone, Debug)]
pub enum Said {
    /// Its first words.
    Welcome(Welcome),
    /// An answer.
    Response(Response),
}

/// What a node says, as its bytes arrive.
#[derive(Debug)]
pub struct Inbox {
    decoder: Decoder,
    is_welcomed: bool,
}

impl Inbox {
    /// Nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self { decoder: Decoder::new(MAX_CLIENT_FRAME_BYTES), is_welcomed: false }
    }

    /// Bytes arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// Whether a part of something has arrived.
    #[must_use]
    pub fn has_part(&self) -> bool {
        self.decoder.buffered() != 0
    }

    /// The next thing that was said, once it has arrived.
    ///
    /// # Errors
    /// It is nothing that belongs here, or the reason why the node closes the connection.
    pub fn next_said(&mut self) -> io::Result<Option<Said>> {
        let Some(frame) = self.decoder.next().map_err(nonsense)? else { return Ok(None) };
        match frame.kind {
            FrameKind::Welcome if !self.is_welcomed => {
                self.is_welcomed = true;
                let welcome = Welcome::decode(&mut Reader::new(frame.payload)).map_err(nonsense)?;
                Ok(Some(Said::Welcome(welcome)))
            }
            FrameKind::Response if self.is_welcomed => {
                Ok(Some(Said::Response(Response::decode(frame.payload).map_err(nonsense)?)))
            }
            _ => Err(unexpected(frame)),
        }
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

/// A frame that is no answer: the node's reason to close, or nothing that belongs here.
fn unexpected(frame: Frame) -> io::Error {
    let refusal =
        (frame.kind == FrameKind::Refusal).then(|| Refusal::decode(&mut Reader::new(frame.payload)));
    match refusal {
        Some(Ok(refusal)) => io::Error::other(refusal.line()),
        Some(Err(error)) => nonsense(error),
        None => io::Error::other(format!("unexpected frame {:?}", frame.kind)),
    }
}

fn nonsense(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("it is no node of this version: {error}"))
}

/// Whether a blocking read or write took too long, or another would block.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::RequestBody;

    /// Takes so many bytes, and then breaks.
    struct Breaking(usize);

    impl Write for Breaking {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(ErrorKind::BrokenPipe.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn requests_of_which_a_byte_was_written_may_have_arrived() {
        let request = |id| Request { id, time_left_ms: 1, silent_leader: None, body: RequestBody::Status };
        let bytes_of_one = {
            let mut outbox = Outbox::default();
            outbox.queue(&request(1));
            outbox.unsent[0].frame.len()
        };
        for (taken, unsent) in
            [(0, &[1, 2, 3][..]), (1, &[2, 3]), (bytes_of_one, &[2, 3]), (bytes_of_one + 1, &[3])]
        {
            let mut outbox = Outbox::default();
            (1..=3).for_each(|id| outbox.queue(&request(id)));
            assert!(outbox.write_to(&mut Breaking(taken)).is_err());
            assert_eq!(outbox.give_up(), unsent, "{taken} bytes");
            assert!(outbox.is_empty());
        }
    }
}
