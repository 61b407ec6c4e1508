//! Frames are the same however their bytes are cut.

use kvstore::wire::Writer;
use kvstore::wire::frame::{self, Decoder, Frame, FrameError, FrameKind};

use super::source::Source;

const LIMIT: u32 = 300;

/// The first byte says whether the rest is a stream, or the payloads of frames in one.
pub(crate) fn frame_decoder(data: &[u8]) {
    let mut source = Source::new(data);
    let choice = source.byte();
    let stream = if choice & 1 == 1 { frames(&mut source) } else { source.bytes(usize::MAX).to_vec() };
    let whole = decode(&stream, stream.len().max(1));
    for piece in [1, 2, 7, 13, usize::from(choice) + 1] {
        assert_eq!(decode(&stream, piece), whole, "in pieces of {piece}");
    }
    if choice & 1 == 1 {
        assert!(whole.0.iter().all(|frame| frame.payload.len() <= LIMIT as usize));
    }
}

/// Sound frames, but for the bytes of one that may be changed, and anything after them.
fn frames(source: &mut Source<'_>) -> Vec<u8> {
    use FrameKind::{ClientHello, Message, PeerHello, Refusal, Request, Response, Welcome};
    let kinds = [PeerHello, ClientHello, Welcome, Refusal, Message, Request, Response];
    let mut out = Writer::new();
    for _ in 0..source.choice(6) {
        let kind = kinds[source.choice(kinds.len())];
        let bytes = usize::from(source.u16()) % (LIMIT as usize + 2);
        let payload = source.bytes(bytes);
        frame::encode(kind, &mut out, |out| out.put(payload));
    }
    let mut stream = out.into_bytes().to_vec();
    if source.flag() && !stream.is_empty() {
        let at = usize::from(source.u16()) % stream.len();
        stream[at] ^= source.byte();
    }
    stream.extend_from_slice(source.bytes(usize::MAX));
    stream
}

fn decode(stream: &[u8], piece: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut decoder, mut frames) = (Decoder::new(LIMIT), Vec::new());
    for (at, bytes) in stream.chunks(piece).enumerate() {
        decoder.push(bytes);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next(), Err(error), "a decoder that failed once fails for ever");
                    assert_eq!(decoder.buffered(), 0, "nothing is kept of a stream that failed");
                    return (frames, Some(error));
                }
            }
        }
        assert!(decoder.buffered() <= (at + 1) * piece, "more is kept than came");
    }
    (frames, None)
}
