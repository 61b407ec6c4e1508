//! Frames in a stream: the same however it is cut, and nothing after its first damage.

use kvstore::wire::Writer;
use kvstore::wire::frame::{self, Decoder, Frame, FrameKind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::values::bytes;

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    use FrameKind::{
        ClientHello, Confirmation, Inquiry, Message, PeerHello, Refusal, Request, Response, Welcome,
    };
    let kinds =
        vec![PeerHello, ClientHello, Welcome, Refusal, Message, Request, Response, Inquiry, Confirmation];
    let frame =
        (proptest::sample::select(kinds), bytes(0..60)).prop_map(|(kind, payload)| Frame { kind, payload });
    vec(frame, 0..20)
}

fn stream(frames: &[Frame]) -> Vec<u8> {
    let mut out = Writer::new();
    for Frame { kind, payload } in frames {
        frame::encode(*kind, &mut out, |out| out.put(payload));
    }
    out.into_bytes().to_vec()
}

/// The frames cut out of `stream`, which arrives in pieces that end at `cuts`.
fn cut_out(stream: &[u8], cuts: &[Index]) -> (Vec<Frame>, Decoder) {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let (mut decoder, mut frames, mut start) = (Decoder::new(100), Vec::new(), 0);
    for end in ends {
        decoder.push(&stream[start..end]);
        while let Ok(Some(frame)) = decoder.next() {
            frames.push(frame);
        }
        start = end;
    }
    (frames, decoder)
}

proptest! {
    #[test]
    fn stream_in_any_pieces_gives_the_same_frames(
        frames in frames(),
        cuts in vec(any::<Index>(), 0..30),
    ) {
        let (received, mut decoder) = cut_out(&stream(&frames), &cuts);
        prop_assert_eq!(received, frames);
        prop_assert_eq!(decoder.buffered(), 0);
        prop_assert_eq!(decoder.next(), Ok(None));
    }

    #[test]
    fn stream_with_a_bit_flipped_gives_only_frames_before_it(
        frames in frames(),
        place in any::<Index>(),
        bit in 0..8,
        cuts in vec(any::<Index>(), 0..5),
    ) {
        let mut bytes = stream(&frames);
        prop_assume!(!bytes.is_empty());
        let place = place.index(bytes.len());
        bytes[place] ^= 1_u8 << bit;
        let intact = (0..frames.len()).take_while(|last| stream(&frames[..=*last]).len() <= place).count();
        let (received, _) = cut_out(&bytes, &cuts);
        prop_assert_eq!(received, &frames[..intact]);
    }

    #[test]
    fn random_bytes_are_no_frames(bytes in vec(any::<u8>(), 1..100), cuts in vec(any::<Index>(), 0..5)) {
        prop_assume!(bytes.first() != Some(&frame::MAGIC[0]));
        let (received, mut decoder) = cut_out(&bytes, &cuts);
        prop_assert_eq!(received, []);
        prop_assert!(decoder.next().is_err());
        prop_assert_eq!(decoder.buffered(), 0, "nothing is kept of a stream that failed");
    }
}
