//! Frames: how values are cut out of a stream of bytes.
//!
//! ```text
//! offset  bytes  field
//!      0      2  magic      4B 56 ("KV")
//!      2      1  version    1
//!      3      1  kind       what the payload is, see FrameKind
//!      4      4  length     of the payload, at most the receiver's limit
//!      8      4  checksum   CRC-32C of bytes 0 to 7 and of the payload
//!     12      n  payload
//! ```
//!
//! All integers are little-endian. A frame is valid **if and only if** (1) its magic and version
//! are these, (2) its kind is known, (3) its length is within the limit, (4) its checksum matches.
//! The first three are judged on the header alone, before any of the payload is kept.

use byteorder::{ByteOrder, LittleEndian};
use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::codec::Writer;
use crate::planted::{Bug, is_planted};

/// The first two bytes of every frame. No HTTP, TLS or SSH greeting begins so.
pub const MAGIC: [u8; 2] = *b"KV";
/// The version of frames and of everything inside them.
pub const VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 12;

/// What a frame's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A [`super::hello::PeerHello`], first in both directions between nodes.
    PeerHello = 1,
    /// A [`super::hello::ClientHello`], a client's first.
    ClientHello = 2,
    /// A [`super::hello::Welcome`], the answer to it.
    Welcome = 3,
    /// A [`super::hello::Refusal`]: the sender closes next.
    Refusal = 4,
    /// A [`super::peer::Message`].
    Message = 5,
    /// A [`super::client::Request`].
    Request = 6,
    /// A [`super::client::Response`].
    Response = 7,
    /// A [`super::hello::Inquiry`]: the first and only word on its connection.
    Inquiry = 8,
    /// A [`super::hello::Confirmation`]: the answer to it. The sender closes next.
    Confirmation = 9,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        use FrameKind::{
            ClientHello, Confirmation, Inquiry, Message, PeerHello, Refusal, Request, Response, Welcome,
        };
        let kinds =
            [PeerHello, ClientHello, Welcome, Refusal, Message, Request, Response, Inquiry, Confirmation];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One frame, cut out and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// The payload, not yet decoded.
    pub payload: Bytes,
}

/// Why a stream cannot be read on. The connection must be closed: nobody knows where the next
/// frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Not our protocol: the first byte that no frame has there. What follows it may not have come.
    #[error("not this protocol: a frame begins with 4B 56, and {0:02X} came instead")]
    Magic(u8),
    /// A version that we do not speak.
    #[error("protocol version {0}, this node speaks version {VERSION}")]
    Version(u8),
    /// A kind that we do not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Longer than the receiver allows here.
    #[error("frame of {length} bytes, at most {limit} are allowed here")]
    TooLarge {
        /// The length as claimed.
        length: u32,
        /// The receiver's limit.
        limit: u32,
    },
    /// Damaged on the way.
    #[error("frame checksum does not match")]
    Checksum,
}

impl FrameError {
    /// Whether the header was sound, so that the other end will understand a [`FrameKind::Refusal`].
    #[must_use]
    pub fn header_was_sound(&self) -> bool {
        matches!(self, FrameError::TooLarge { .. } | FrameError::Kind(_) | FrameError::Checksum)
    }
}

/// Appends one frame to `out`, whose payload `write` appends.
///
/// # Panics
/// Beyond 4 GiB, which the limits of every payload forbid.
pub fn encode(kind: FrameKind, out: &mut Writer, write: impl FnOnce(&mut Writer)) {
    let start = out.len();
    out.put(&MAGIC);
    out.u8(VERSION);
    out.u8(kind as u8);
    out.u64(0); // length and checksum, filled in below
    write(out);
    let (header, payload) = out.as_mut_slice()[start..].split_at_mut(HEADER_BYTES);
    let length = u32::try_from(payload.len()).expect("limits keep payloads below 4 GiB");
    LittleEndian::write_u32(&mut header[4..8], length);
    let checksum = checksum(&header[..8], payload);
    LittleEndian::write_u32(&mut header[8..12], checksum);
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), payload)
}

/// Cuts frames out of bytes that arrive in any pieces; the result does not depend on the cuts.
///
/// Invariants: at most one incomplete frame is held; what is held was received, never only
/// claimed; after an error every later call gives the same error. What waits is more than half of
/// `held`: a frame that was cut is not kept alive by the few bytes behind it.
#[derive(Debug)]
pub struct Decoder {
    received: BytesMut,
    /// The most that waited in the buffer of `received` so far.
    held: usize,
    limit: u32,
    failed: Option<FrameError>,
}

impl Decoder {
    /// A decoder that refuses payloads of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { received: BytesMut::new(), held: 0, limit, failed: None }
    }

    /// Changes the limit from the next frame on, as a handshake does.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Takes in bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.received.extend_from_slice(bytes);
        self.held = self.held.max(self.received.len());
    }

    /// Bytes that wait for the rest of their frame (or for `next` to be called).
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.received.len()
    }

    /// The next whole frame; `None` if it has not arrived yet.
    #[expect(clippy::should_implement_trait, reason = "`None` is no end: more bytes may follow")]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let frame = self.cut();
        if let Err(error) = frame {
            self.failed = Some(error);
            self.received.clear();
        }
        self.let_go();
        frame
    }

    /// Frames that were cut share their buffer with what is left. Once that is the smaller part it gets
    /// one of its own; an idle connection keeps none. In all, no byte is copied more than once by this.
    fn let_go(&mut self) {
        if self.received.len() <= self.held / 2 {
            self.received = BytesMut::from(&self.received[..]);
            self.held = self.received.len();
        }
    }

    fn cut(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((kind, length)) = self.header()? else { return Ok(None) };
        if self.received.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        let header = self.received.split_to(HEADER_BYTES);
        let payload = self.received.split_to(length).freeze();
        if (&header[8..]).get_u32_le() != checksum(&header[..8], &payload) {
            return Err(FrameError::Checksum);
        }
        Ok(Some(Frame { kind, payload }))
    }

    /// Judges the header as far as it has arrived: garbage is refused at its first wrong byte.
    fn header(&self) -> Result<Option<(FrameKind, usize)>, FrameError> {
        let bytes = &self.received[..];
        if let Some((wrong, _)) = bytes.iter().zip(MAGIC).find(|(byte, magic)| *byte != magic) {
            return Err(FrameError::Magic(*wrong));
        }
        match bytes.get(2) {
            Some(&VERSION) | None => {}
            Some(&version) => return Err(FrameError::Version(version)),
        }
        if bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        let kind = FrameKind::from_byte(bytes[3]).ok_or(FrameError::Kind(bytes[3]))?;
        let length = LittleEndian::read_u32(&bytes[4..8]);
        if length > self.limit && !is_planted(Bug::LengthUnchecked) {
            return Err(FrameError::TooLarge { length, limit: self.limit });
        }
        Ok(Some((kind, length as usize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_frames() -> Bytes {
        let mut out = Writer::new();
        encode(FrameKind::Request, &mut out, |payload| payload.put(b"first"));
        encode(FrameKind::Response, &mut out, |_| {});
        out.into_bytes()
    }

    fn decode_all(pieces: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::new(16);
        let mut frames = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_cut_at_any_two_places_decode_the_same() {
        let bytes = two_frames();
        let whole = decode_all(&[&bytes]).unwrap();
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[0].payload, "first");
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(decode_all(&pieces).unwrap(), whole);
            }
        }
    }

    #[test]
    fn frame_with_any_bit_flipped_is_refused() {
        let mut out = Writer::new();
        encode(FrameKind::Request, &mut out, |payload| payload.put(b"payload"));
        let bytes = out.into_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A length that grew within the limit only waits for more bytes; give it them.
            flipped.extend([0; 16]);
            assert!(decode_all(&[&flipped]).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn frame_beyond_the_limit_is_refused_on_its_header_alone() {
        let mut header = two_frames().to_vec();
        header.truncate(HEADER_BYTES);
        LittleEndian::write_u32(&mut header[4..8], 17);
        let refused = FrameError::TooLarge { length: 17, limit: 16 };
        assert_eq!(decode_all(&[&header]), Err(refused));
        assert!(refused.header_was_sound());
    }

    #[cfg(any(debug_assertions, feature = "planted-bugs"))]
    #[test]
    fn frame_beyond_the_limit_is_missed_where_lengths_are_not_checked() {
        let test = frame_beyond_the_limit_is_refused_on_its_header_alone;
        assert!(crate::planted::is_caught(Bug::LengthUnchecked, test));
    }

    #[test]
    fn foreign_greeting_is_refused_within_two_bytes() {
        for greeting in [&b"GE"[..], b"\x16\x03", b"SS", b"Q"] {
            assert!(matches!(decode_all(&[greeting]), Err(FrameError::Magic(_))));
        }
    }

    #[test]
    fn frame_that_was_cut_is_not_kept_alive_by_the_first_byte_of_the_next() {
        let mut out = Writer::new();
        encode(FrameKind::Request, &mut out, |payload| payload.put(&vec![7; 1 << 20]));
        out.put(&MAGIC[..1]);
        let mut decoder = Decoder::new(1 << 20);
        for piece in out.into_bytes().chunks(64 << 10) {
            assert_eq!(decoder.next(), Ok(None));
            decoder.push(piece);
        }
        assert_eq!(decoder.next().unwrap().unwrap().payload.len(), 1 << 20);
        assert_eq!((decoder.next(), decoder.buffered()), (Ok(None), 1));
        let capacity = decoder.received.capacity();
        assert!(capacity < 1 << 10, "a byte waits in a buffer with room for {capacity} more");
    }

    #[test]
    fn decoder_that_failed_once_fails_for_ever_and_keeps_nothing() {
        let mut decoder = Decoder::new(16);
        decoder.push(b"GET / HTTP/1.1");
        let error = decoder.next().unwrap_err();
        decoder.push(&two_frames());
        assert_eq!(decoder.next(), Err(error));
    }
}
