//! The wire format as a whole, held to what `kvstore::wire` promises: each value decodes to
//! itself, anything else is refused or is the one encoding of another value, nothing panics, and
//! the bytes are those that are written down here.

mod golden;
mod limits;
mod stream;
mod values;

use bytes::Bytes;
use kvstore::types::{ClusterTime, LogIndex, NodeId, Term};
use kvstore::wire::client::{Command, Outcome, Request, Response};
use kvstore::wire::entry::{Configuration, ENTRY_HEADER_BYTES, Entry, HardState};
use kvstore::wire::hello::{ClientHello, Confirmation, Inquiry, PeerHello, Refusal, Welcome};
use kvstore::wire::peer::Message;
use kvstore::wire::{DecodeError, Reader, Writer};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;

/// A value with an encoding of its own.
trait Format: PartialEq + std::fmt::Debug + Sized {
    fn write(&self, out: &mut Writer);

    /// Takes exactly one value.
    fn read(bytes: Bytes) -> Result<Self, DecodeError>;

    /// How many of `length` bytes must all be there. Only an entry leaves its end to what carries
    /// it: its command is "the rest".
    fn indivisible(length: usize) -> usize {
        length
    }

    fn encoded(&self) -> Bytes {
        let mut out = Writer::new();
        self.write(&mut out);
        out.into_bytes()
    }
}

/// Formats that are the whole of a payload: their decoder itself refuses what follows.
macro_rules! whole {
    ($($format:ty),*) => {$(
        impl Format for $format {
            fn write(&self, out: &mut Writer) {
                self.encode(out);
            }

            fn read(bytes: Bytes) -> Result<Self, DecodeError> {
                Self::decode(bytes)
            }
        }
    )*};
}

/// Formats that may stand before others: what follows is their user's to judge.
macro_rules! part {
    ($($format:ty),*) => {$(
        impl Format for $format {
            fn write(&self, out: &mut Writer) {
                self.encode(out);
            }

            fn read(bytes: Bytes) -> Result<Self, DecodeError> {
                let mut bytes = Reader::new(bytes);
                let value = Self::decode(&mut bytes)?;
                bytes.finish()?;
                Ok(value)
            }
        }
    )*};
}

whole!(Message, Response, Command);
part!(PeerHello, Inquiry, Confirmation, Welcome, Refusal, Configuration, HardState, Outcome);

impl Format for Request {
    fn write(&self, out: &mut Writer) {
        self.encode(out);
    }

    fn read(bytes: Bytes) -> Result<Self, DecodeError> {
        Self::decode(bytes).map_err(|refused| refused.error)
    }
}

impl Format for ClientHello {
    fn write(&self, _: &mut Writer) {}

    fn read(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let hello = Self::decode(&mut bytes)?;
        bytes.finish()?;
        Ok(hello)
    }
}

impl Format for Entry {
    fn write(&self, out: &mut Writer) {
        out.put(self.encoded());
    }

    fn read(bytes: Bytes) -> Result<Self, DecodeError> {
        // Through the fields: an entry that only gave its bytes back would prove nothing.
        Self::decode(bytes).map(|entry| Entry::new(entry.index, entry.term, entry.stamp, entry.payload))
    }

    fn indivisible(length: usize) -> usize {
        length.min(ENTRY_HEADER_BYTES)
    }
}

fn assert_decodes_to_itself<F: Format>(value: &F) {
    assert_eq!(F::read(value.encoded()).as_ref(), Ok(value));
}

fn assert_cut_anywhere_is_refused<F: Format>(value: &F) {
    let bytes = value.encoded();
    for length in 0..F::indivisible(bytes.len()) {
        let read = F::read(bytes.slice(..length));
        assert!(read.is_err(), "{value:?} cut to {length} of {} bytes is {read:?}", bytes.len());
    }
}

/// Bytes that decode at all are the only bytes of their value.
fn assert_refused_or_canonical<F: Format>(bytes: Bytes) {
    if let Ok(value) = F::read(bytes.clone()) {
        assert_eq!(value.encoded(), bytes, "{value:?} has two encodings");
    }
}

fn assert_flips_are_refused_or_canonical<F: Format>(value: &F) {
    let bytes = value.encoded();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_refused_or_canonical::<F>(flipped.into());
    }
}

/// Appends some bytes, then overwrites some.
fn damaged<F: Format>(value: &F, overwritten: &[(Index, u8)], appended: &[u8]) -> Bytes {
    let mut bytes = [&value.encoded(), appended].concat();
    for (place, byte) in overwritten {
        let length = bytes.len();
        if length > 0 {
            bytes[place.index(length)] = *byte;
        }
    }
    bytes.into()
}

/// The same five promises for each format.
macro_rules! promises {
    ($($name:ident: $format:ty = $values:expr;)*) => {$(
        mod $name {
            use super::*;

            proptest! {
                #[test]
                fn encoded_decodes_to_itself(value in $values) {
                    assert_decodes_to_itself(&value);
                }

                #[test]
                fn cut_anywhere_is_refused(value in $values) {
                    assert_cut_anywhere_is_refused(&value);
                }

                #[test]
                fn with_any_bit_flipped_is_refused_or_canonical(value in $values) {
                    assert_flips_are_refused_or_canonical(&value);
                }

                #[test]
                fn damaged_is_refused_or_canonical(
                    value in $values,
                    overwritten in vec(any::<(Index, u8)>(), 0..4),
                    appended in vec(any::<u8>(), 0..4),
                ) {
                    assert_refused_or_canonical::<$format>(damaged(&value, &overwritten, &appended));
                }

                #[test]
                fn from_random_bytes_is_refused_or_canonical(bytes in vec(any::<u8>(), 0..300)) {
                    assert_refused_or_canonical::<$format>(bytes.into());
                }
            }
        }
    )*};
}

promises! {
    message: Message = values::message();
    request: Request = values::request();
    response: Response = values::response();
    command: Command = values::command();
    outcome: Outcome = values::outcome();
    peer_hello: PeerHello = values::peer_hello();
    inquiry: Inquiry = values::inquiry();
    confirmation: Confirmation = values::confirmation();
    client_hello: ClientHello = Just(ClientHello);
    welcome: Welcome = values::welcome();
    refusal: Refusal = values::refusal();
    entry: Entry = (any::<u64>(), any::<u64>(), any::<u64>(), values::payload())
        .prop_map(|(index, term, stamp, payload)| {
            Entry::new(LogIndex(index), Term(term), ClusterTime(stamp), payload)
        });
    configuration: Configuration = values::configuration();
    hard_state: HardState = (any::<u64>(), option::of(any::<u64>()))
        .prop_map(|(term, vote)| HardState { term: Term(term), voted_for: vote.map(NodeId) });
}
