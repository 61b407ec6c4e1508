//! What members tell each other of themselves besides consensus.

use crate::types::NodeId;
use crate::wire::MAX_MEMBERS;
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::entry::Reached;

/// The room that is left on a node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can still be stored.
    pub free_bytes: u64,
    /// Bytes of these that are kept in reserve, for the next snapshot and two segments of the log.
    pub reserve_bytes: u64,
    /// What may be done with it.
    pub level: RoomLevel,
}

/// What clients may write, by the room that is left. Elections, no-ops and expiry are never held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RoomLevel {
    /// Nothing: the next snapshot and one more segment of the log do not fit.
    None = 0,
    /// Only what makes the next snapshot smaller: the reserve is touched.
    Low = 1,
    /// Everything.
    #[default]
    Enough = 2,
}

impl Default for Room {
    /// That of a disk that does not say.
    fn default() -> Self {
        Self { free_bytes: u64::MAX, reserve_bytes: 0, level: RoomLevel::Enough }
    }
}

impl Room {
    fn encode(&self, out: &mut Writer) {
        out.u64(self.free_bytes);
        out.u64(self.reserve_bytes);
        out.u8(self.level as u8);
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let (free_bytes, reserve_bytes, tag) = (bytes.u64()?, bytes.u64()?, bytes.u8()?);
        let levels = [RoomLevel::None, RoomLevel::Low, RoomLevel::Enough];
        let level = levels.into_iter().find(|level| *level as u8 == tag);
        let level = level.ok_or(DecodeError::UnknownTag { what: "room", tag })?;
        Ok(Self { free_bytes, reserve_bytes, level })
    }
}

/// Fields of Standing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What room the sender's disk has.
    pub room: Room,
    /// How far the sender has come, and how far it saw others come; ids ascending.
    pub reached: Vec<(NodeId, Reached)>,
}

impl Standing {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u8(15);
        self.room.encode(out);
        out.list(self.reached.iter(), |out, (id, reached)| {
            out.u64(id.0);
            reached.encode(out);
        });
    }

    pub(super) fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let room = Room::decode(bytes)?;
        let reached = bytes.list(|bytes| Ok((NodeId(bytes.u64()?), Reached::decode(bytes)?)))?;
        if reached.len() > MAX_MEMBERS {
            return Err(DecodeError::Invalid("number of members"));
        }
        Ok(Self { room, reached })
    }
}
