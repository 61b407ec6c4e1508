//! Writes, the commands that become log entries, and what they come to.
//!
//! These bytes are stored: in the log as part of an entry, and with a session as a kept result.

use bytes::Bytes;

use super::{key, value};
use crate::types::{ClientId, ClientName, ClusterTime, Sequence};
use crate::wire::codec::{DecodeError, Reader, Writer};

/// A value in a mismatch is cut to this many bytes.
pub const MAX_MISMATCH_BYTES: usize = 1 << 10;

/// A write and the identity by which it is applied once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Whose write it is.
    pub client: ClientId,
    /// The client's number for it.
    pub sequence: Sequence,
    /// The client has the answers to all its writes below this number; they may be forgotten.
    /// Zero says nothing.
    pub acknowledged: Sequence,
    /// What it does.
    pub operation: Operation,
}

/// What a write does to the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its value from now on.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Sets a key if its value is as expected.
    CompareAndSet {
        /// The key.
        key: Bytes,
        /// The value that it must have; `None`: it must be absent.
        expected: Option<Bytes>,
        /// Its value if so.
        new: Bytes,
    },
    /// Ends a session: of another client, or the writer's own by its last write.
    CloseSession {
        /// The session's owner.
        client: ClientId,
    },
}

/// What a write came to. It is a result, also where it is a "no": it is kept and given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// The key to delete, or the session to end, was not there.
    NotFound,
    /// The value to compare with was another.
    Mismatch {
        /// The value that the key has, cut to [`MAX_MISMATCH_BYTES`]; `None` if it is absent.
        current: Option<Bytes>,
        /// Whether `current` was cut.
        truncated: bool,
    },
}

/// An entry's command for the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A client's write.
    Write(Write),
    /// Forget the library sessions that are too old by this entry's stamp.
    ExpireSessions,
}

impl Write {
    pub(super) fn encode(&self, out: &mut Writer) {
        encode_client(&self.client, out);
        out.u64(self.sequence.0);
        out.u64(self.acknowledged.0);
        self.operation.encode(out);
    }

    pub(super) fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            client: decode_client(bytes)?,
            sequence: Sequence(bytes.u64()?),
            acknowledged: Sequence(bytes.u64()?),
            operation: Operation::decode(bytes)?,
        })
    }
}

impl Operation {
    /// The key that is written, if it is one.
    #[must_use]
    pub fn key(&self) -> Option<&Bytes> {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key } | Operation::CompareAndSet { key, .. } => {
                Some(key)
            }
            Operation::CloseSession { .. } => None,
        }
    }

    /// Bytes of the key and the values.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self {
            Operation::Put { key, value } => key.len() + value.len(),
            Operation::Delete { key } => key.len(),
            Operation::CompareAndSet { key, expected, new } => {
                key.len() + expected.as_ref().map_or(0, Bytes::len) + new.len()
            }
            Operation::CloseSession { .. } => 0,
        }
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Operation::Put { key, value } => {
                out.u8(1);
                out.byte_string(key);
                out.byte_string(value);
            }
            Operation::Delete { key } => {
                out.u8(2);
                out.byte_string(key);
            }
            Operation::CompareAndSet { key, expected, new } => {
                out.u8(3);
                out.byte_string(key);
                out.option(expected.as_ref(), |out, value| out.byte_string(value));
                out.byte_string(new);
            }
            Operation::CloseSession { client } => {
                out.u8(4);
                encode_client(client, out);
            }
        }
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match bytes.u8()? {
            1 => Operation::Put { key: key(bytes)?, value: value(bytes)? },
            2 => Operation::Delete { key: key(bytes)? },
            3 => Operation::CompareAndSet {
                key: key(bytes)?,
                expected: bytes.option("expected", value)?,
                new: value(bytes)?,
            },
            4 => Operation::CloseSession { client: decode_client(bytes)? },
            tag => return Err(DecodeError::UnknownTag { what: "operation", tag }),
        })
    }
}

impl Command {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Command::Write(write) => {
                out.u8(1);
                write.encode(out);
            }
            Command::ExpireSessions => out.u8(3),
        }
    }

    /// Takes the encoding of exactly one command.
    pub fn decode(command: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(command);
        let command = match bytes.u8()? {
            1 => Command::Write(Write::decode(&mut bytes)?),
            3 => Command::ExpireSessions,
            tag => return Err(DecodeError::UnknownTag { what: "command", tag }),
        };
        bytes.finish()?;
        Ok(command)
    }
}

impl Outcome {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Outcome::Done => out.u8(0),
            Outcome::NotFound => out.u8(1),
            Outcome::Mismatch { current, truncated } => {
                out.u8(2);
                out.option(current.as_ref(), |out, value| out.byte_string(value));
                out.bool(*truncated);
            }
        }
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match bytes.u8()? {
            0 => Outcome::Done,
            1 => Outcome::NotFound,
            2 => Outcome::Mismatch {
                current: bytes.option("current", |bytes| bytes.byte_string("value", MAX_MISMATCH_BYTES))?,
                truncated: bytes.bool("truncated")?,
            },
            tag => return Err(DecodeError::UnknownTag { what: "outcome", tag }),
        })
    }
}

/// Appends a client id: 0, born, nonce; or 1 and the name.
pub fn encode_client(client: &ClientId, out: &mut Writer) {
    match client {
        ClientId::Library { born, nonce } => {
            out.u8(0);
            out.u64(born.0);
            out.u64(*nonce);
        }
        ClientId::Named(name) => {
            out.u8(1);
            out.byte_string(name.as_bytes());
        }
    }
}

/// Takes a client id.
pub fn decode_client(bytes: &mut Reader) -> Result<ClientId, DecodeError> {
    match bytes.u8()? {
        0 => Ok(ClientId::Library { born: ClusterTime(bytes.u64()?), nonce: bytes.u64()? }),
        1 => Ok(ClientId::Named(client_name(bytes)?)),
        tag => Err(DecodeError::UnknownTag { what: "client id", tag }),
    }
}

pub(super) fn client_name(bytes: &mut Reader) -> Result<ClientName, DecodeError> {
    let name = bytes.byte_string("client id", ClientName::MAX_BYTES)?;
    ClientName::new(&name).ok_or(DecodeError::Invalid("client id: it has 1 to 64 bytes"))
}
