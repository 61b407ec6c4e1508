//! What can be decoded is encoded to the same bytes: each value has one encoding.

use std::fmt::Debug;

use bytes::Bytes;
use kvstore::wire::client::{Command, Outcome, Request, Response};
use kvstore::wire::entry::{Configuration, Entry, HardState, SnapshotId};
use kvstore::wire::hello::{PeerHello, Refusal, Welcome};
use kvstore::wire::peer::Message;
use kvstore::wire::{Reader, Writer};

use super::source::Source;

/// The first byte says what the rest is taken for.
pub(crate) fn messages(data: &[u8]) {
    let mut source = Source::new(data);
    let choice = source.choice(11);
    let bytes = Bytes::copy_from_slice(source.bytes(usize::MAX));
    match choice {
        0 => whole(&bytes, Message::decode, Message::encode),
        1 => whole(&bytes, Request::decode, Request::encode),
        2 => whole(&bytes, Response::decode, Response::encode),
        3 => whole(&bytes, Command::decode, Command::encode),
        4 => whole(&bytes, Entry::decode, |entry, out| out.put(entry.encoded())),
        5 => prefix(&bytes, PeerHello::decode, PeerHello::encode),
        6 => prefix(&bytes, Welcome::decode, Welcome::encode),
        7 => prefix(&bytes, Refusal::decode, Refusal::encode),
        8 => prefix(&bytes, HardState::decode, HardState::encode),
        9 => prefix(&bytes, Configuration::decode, Configuration::encode),
        _ => {
            prefix(&bytes, SnapshotId::decode, SnapshotId::encode);
            prefix(&bytes, Outcome::decode, Outcome::encode);
        }
    }
}

fn whole<T: PartialEq + Debug, E: Debug>(
    bytes: &Bytes,
    decode: impl Fn(Bytes) -> Result<T, E>,
    encode: impl Fn(&T, &mut Writer),
) {
    let Ok(value) = decode(bytes.clone()) else { return };
    let mut out = Writer::new();
    encode(&value, &mut out);
    let encoded = out.into_bytes();
    assert_eq!(decode(encoded.clone()).expect("what was encoded can be decoded"), value);
    assert_eq!(encoded, bytes, "{value:?}");
}

/// Of a value that others may follow.
fn prefix<T: PartialEq + Debug, E: Debug>(
    bytes: &Bytes,
    decode: impl Fn(&mut Reader) -> Result<T, E>,
    encode: impl Fn(&T, &mut Writer),
) {
    let mut reader = Reader::new(bytes.clone());
    if decode(&mut reader).is_ok() {
        let used = bytes.len() - reader.remaining();
        whole(&bytes.slice(..used), |bytes| decode(&mut Reader::new(bytes)), encode);
    }
}
