//! A rare branch taken on purpose: a leader whose AppendEntries has fewer entries than it could.
//!
//! A leader may begin with any entry that may match and send any number of those after it. Ours sends
//! what it has, from the right place on; so its followers would never see the messages in between,
//! which a leader of another version, or of another batch limit, may send.

use bytes::Bytes;
use kvstore::wire::peer::{AppendEntries, Message};

use super::node::encoded;
use super::rng::Rng;

/// The same message with some of its entries only, the first ones; perhaps with none.
pub(crate) fn trimmed(message: &Message, rng: &mut Rng) -> Option<Bytes> {
    let Message::AppendEntries(append) = message else { return None };
    let kept = rng.index(append.entries.len().max(1));
    let entries = append.entries[..kept.min(append.entries.len())].to_vec();
    let trimmed = Message::AppendEntries(AppendEntries { entries, ..append.clone() });
    Some(encoded(|out| trimmed.encode(out)))
}
