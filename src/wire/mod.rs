//! Values and their bytes, for sockets and files alike.
//!
//! A connection carries [`frame`]s. The first frame in each direction is a [`hello`]; after it,
//! nodes exchange [`peer::Message`]s, and clients send [`client::Request`]s and get
//! [`client::Response`]s. What is also stored, an [`entry::Entry`] above all, has one encoding for
//! both purposes and is encoded once.
//!
//! Every `decode` is total: any bytes give a value or a [`DecodeError`], never a panic, and memory
//! grows with the bytes that are there, not with a length that they claim. Every `encode` of a
//! value gives bytes that decode to an equal value. Integers are little-endian; a byte string is a
//! `u32` length and the bytes; an optional value is a byte 0, or 1 and the value; a list is a `u32`
//! count and the values.

pub mod client;
pub mod codec;
pub mod entry;
pub mod frame;
pub mod hello;
pub mod peer;

pub use codec::{DecodeError, Reader, Writer};

/// The longest key, in bytes. The shortest has one byte.
pub const MAX_KEY_BYTES: usize = 4 << 10;
/// The longest value, in bytes. The shortest is empty.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// The largest frame before and during the handshake, in bytes of payload: a welcome that names
/// [`MAX_MEMBERS`] members by the longest addresses.
pub const MAX_HELLO_BYTES: u32 = 16 << 10;
/// The largest frame from or to a client: a compare-and-set with two values of the largest size.
pub const MAX_CLIENT_FRAME_BYTES: u32 = (2 * MAX_VALUE_BYTES + MAX_KEY_BYTES + (4 << 10)) as u32;
/// Entries in one AppendEntries come to at most this many bytes, or are a single entry.
pub const MAX_APPEND_BYTES: usize = 1 << 20;
/// The most bytes of a snapshot in one message.
pub const MAX_SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// The largest frame between nodes: one AppendEntries with the largest entry.
pub const MAX_PEER_FRAME_BYTES: u32 = MAX_CLIENT_FRAME_BYTES + (4 << 10);
/// The most members that a configuration may have.
pub const MAX_MEMBERS: usize = 31;
/// The longest `HOST:PORT`, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 256;
