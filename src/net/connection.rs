//! One connection: a socket, what has arrived on it, and what waits to leave.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use thiserror::Error;

use super::{Readiness, Socket};
use crate::time::Duration;
use crate::wire::Writer;
use crate::wire::frame::{self, Decoder, Frame, FrameError, FrameKind};

/// The most slices in one write; what is left goes with the next. (Linux takes 1,024.)
const MAX_SLICES: usize = 64;

/// How much may be read from one connection in one turn, so that none starves another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBudget {
    /// Bytes read from the socket, at most.
    pub bytes: usize,
    /// Frames cut out of them, at most.
    pub frames: usize,
}

impl ReadBudget {
    /// Nothing.
    pub const NONE: Self = Self { bytes: 0, frames: 0 };

    /// Takes off what was used.
    pub fn spend(&mut self, used: ReadBudget) {
        self.bytes = self.bytes.saturating_sub(used.bytes);
        self.frames = self.frames.saturating_sub(used.frames);
    }

    /// Whether of one of the two nothing is left.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.bytes == 0 || self.frames == 0
    }
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub enum CloseCause {
    /// The other end closed it in good order.
    #[error("closed by the other end")]
    EndOfStream,
    /// The system says so: reset, refused, timed out.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What arrived is not our protocol.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// It connected to itself.
    #[error("connected to itself: nobody listens there")]
    SelfConnected,
    /// It was silent for too long where it owed something.
    #[error("{0}")]
    Overdue(&'static str),
    /// More waits to leave than may; the other end does not read.
    #[error("the other end does not read its answers")]
    Overflow,
    /// One side refused the other, and said so.
    #[error("refused")]
    Refusal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    /// A last frame is being delivered: what arrives is thrown away until the other end closes.
    /// Closing at once, with input unread, would reset the connection and lose that frame.
    Draining,
    /// Ended; nothing is read or written any more.
    Closed,
}

/// A socket with its buffers and its readiness.
///
/// Invariants: `readable` and `writable` are false only if the last read or write proved it, and
/// no event came since. `read_closed` never becomes false again. Bytes leave in the order in which
/// they were queued. Once closed, it stays so.
#[derive(Debug)]
pub struct Connection<S> {
    socket: S,
    phase: Phase,
    readable: bool,
    writable: bool,
    read_closed: bool,
    write_closed: bool,
    decoder: Decoder,
    /// The decoder may hold whole frames beyond the last turn's budget.
    uncut: bool,
    outbox: Outbox,
    frames_read: u64,
    bytes_read: u64,
    bytes_written: u64,
}

impl<S: Socket> Connection<S> {
    /// A connection that was dialled and is not yet established. Frames above `frame_limit` bytes
    /// of payload will be refused.
    pub fn dialled(socket: S, frame_limit: u32) -> Self {
        Self {
            socket,
            phase: Phase::Connecting,
            readable: false,
            writable: false,
            read_closed: false,
            write_closed: false,
            decoder: Decoder::new(frame_limit),
            uncut: false,
            outbox: Outbox::default(),
            frames_read: 0,
            bytes_read: 0,
            bytes_written: 0,
        }
    }

    /// A connection that was accepted. It is taken for ready until it proves not to be.
    pub fn accepted(socket: S, frame_limit: u32) -> Self {
        let mut connection = Self::dialled(socket, frame_limit);
        connection.become_open();
        connection
    }

    /// The socket, for tests to look at.
    #[cfg(test)]
    pub(super) fn socket(&self) -> &S {
        &self.socket
    }

    /// Takes in what an event says.
    pub fn on_event(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable || readiness.read_closed;
        self.writable |= readiness.writable || readiness.write_closed;
        self.read_closed |= readiness.read_closed;
        self.write_closed |= readiness.write_closed;
    }

    /// Whether a dial is still under way.
    pub fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether the other end will take no more: nothing queued can ever be delivered.
    pub fn is_write_closed(&self) -> bool {
        self.write_closed
    }

    /// Looks whether a dial has succeeded: true once, when it has.
    ///
    /// # Errors
    /// It failed, or connected to itself.
    pub fn finish_connect(&mut self) -> Result<bool, CloseCause> {
        if self.phase != Phase::Connecting || !self.socket.finish_connect()? {
            return Ok(false);
        }
        if self.socket.is_self_connected() {
            return Err(CloseCause::SelfConnected);
        }
        self.become_open();
        Ok(true)
    }

    fn become_open(&mut self) {
        self.phase = Phase::Open;
        self.readable = true;
        self.writable = true;
    }

    /// Changes the largest allowed frame from the next one on, as a handshake does.
    pub fn set_frame_limit(&mut self, bytes: u32) {
        self.decoder.set_limit(bytes);
    }

    /// Whether there may be something to read, or something read and not yet cut.
    pub fn has_input(&self) -> bool {
        match self.phase {
            Phase::Open => self.readable || self.uncut,
            Phase::Draining => self.readable,
            Phase::Connecting | Phase::Closed => false,
        }
    }

    /// Reads within the budget and appends the whole frames to `frames`. What a draining
    /// connection gets is thrown away. `scratch` is shared by all connections: an idle one holds
    /// no buffer.
    ///
    /// # Errors
    /// The connection has ended or must be ended; `frames` holds what came before that.
    pub fn read_frames(
        &mut self,
        budget: ReadBudget,
        scratch: &mut [u8],
        frames: &mut Vec<Frame>,
    ) -> Result<(), CloseCause> {
        let enough = frames.len().saturating_add(budget.frames);
        let mut bytes_left = budget.bytes;
        loop {
            self.cut_frames(enough, frames)?;
            if self.uncut || !self.has_input() || bytes_left == 0 {
                return Ok(());
            }
            let window = scratch.len().min(bytes_left);
            bytes_left -= self.fill(&mut scratch[..window])?;
        }
    }

    /// Cuts frames out of what has arrived, until `frames` holds `enough` or no whole one is left.
    fn cut_frames(&mut self, enough: usize, frames: &mut Vec<Frame>) -> Result<(), CloseCause> {
        while frames.len() < enough {
            let Some(frame) = self.decoder.next()? else {
                self.uncut = false;
                return Ok(());
            };
            self.frames_read += 1;
            frames.push(frame);
        }
        self.uncut = self.decoder.buffered() > 0;
        Ok(())
    }

    /// One read into `window`; how many bytes it gave.
    fn fill(&mut self, window: &mut [u8]) -> Result<usize, CloseCause> {
        match self.socket.read(window) {
            Ok(0) => Err(CloseCause::EndOfStream),
            Ok(count) => {
                self.bytes_read += count as u64;
                // A short read proves the socket empty, unless the stream's end is behind it.
                if count < window.len() && !self.read_closed {
                    self.readable = false;
                }
                if self.phase == Phase::Open {
                    self.decoder.push(&window[..count]);
                }
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// What the other machine does not acknowledge within this time ends the connection.
    ///
    /// # Errors
    /// The system does not take it.
    pub fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket.set_user_timeout(timeout)
    }

    /// Whether a frame has begun to arrive and not ended.
    pub fn has_partial_frame(&self) -> bool {
        self.phase == Phase::Open && !self.uncut && self.decoder.buffered() > 0
    }

    /// How many frames have arrived; by this one sees whether a slow sender makes progress.
    pub fn frames_read(&self) -> u64 {
        self.frames_read
    }

    /// How many bytes have arrived.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Queues one frame, whose payload `write` appends. Nothing is queued on a connection that has
    /// ended or is about to.
    pub fn queue(&mut self, kind: FrameKind, write: impl FnOnce(&mut Writer)) {
        if matches!(self.phase, Phase::Open | Phase::Connecting) {
            frame::encode(kind, &mut self.outbox.tail, write);
        }
    }

    /// Bytes that arrived and wait for the rest of their frame.
    pub fn buffered_bytes(&self) -> usize {
        self.decoder.buffered()
    }

    /// Bytes that wait to leave.
    pub fn queued_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// How many bytes have left; by this one sees whether a slow reader makes progress.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn flush(&mut self) -> Result<(), CloseCause> {
        if matches!(self.phase, Phase::Connecting | Phase::Closed) {
            return Ok(());
        }
        while self.writable && self.outbox.len() > 0 {
            match self.outbox.write_to(&mut self.socket) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(count) => self.bytes_written += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Nothing more is read or queued; what is queued still leaves, and then the other end is
    /// given the time to read it and to close.
    pub fn drain(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
            self.uncut = false;
            self.decoder = Decoder::new(0);
        }
    }

    /// Ends it. The socket itself is closed when the connection is dropped.
    pub fn close(&mut self) {
        self.phase = Phase::Closed;
        self.outbox = Outbox::default();
    }
}

/// What waits to leave: one growing tail for whatever is queued in a turn, and frozen segments
/// before it, of which a part has been written. Nothing is moved to the front of a buffer, but where
/// more of it has been written than is left: the written part would be kept, and no cap would know.
#[derive(Debug, Default)]
struct Outbox {
    segments: VecDeque<Bytes>,
    segment_bytes: usize,
    /// What was written of the first segment and is still kept; no more than is left of it.
    written_bytes: usize,
    tail: Writer,
}

impl Outbox {
    fn len(&self) -> usize {
        self.segment_bytes + self.tail.len()
    }

    /// One write.
    fn write_to(&mut self, socket: &mut impl Socket) -> io::Result<usize> {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail).into_bytes();
            self.segment_bytes += tail.len();
            self.segments.push_back(tail);
        }
        let slices: Vec<IoSlice<'_>> =
            self.segments.iter().take(MAX_SLICES).map(|segment| IoSlice::new(segment)).collect();
        let count = socket.write_vectored(&slices)?;
        self.advance(count);
        Ok(count)
    }

    fn advance(&mut self, mut count: usize) {
        self.segment_bytes -= count;
        while count > 0 {
            let segment = self.segments.front_mut().expect("no more is written than was there");
            let step = count.min(segment.len());
            segment.advance(step);
            count -= step;
            self.written_bytes += step;
            if segment.is_empty() {
                self.segments.pop_front();
                self.written_bytes = 0;
            } else if self.written_bytes > segment.len() {
                *segment = Bytes::copy_from_slice(segment);
                self.written_bytes = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests;
