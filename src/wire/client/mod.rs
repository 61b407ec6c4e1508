//! What clients ask and what nodes answer, and the commands that become log entries.
//!
//! ```text
//! Request   id u64 | time left u32 (ms) | silent leader option (id u64, term u64) | type u8 | fields
//! Response  id u64 | revision u64 | type u8 | fields
//! Command   type u8 | fields
//! ```
//!
//! Requests may be pipelined; answers carry the request's id and may come in another order.

mod command;
mod request;
mod response;
mod status;

pub use command::{Command, MAX_MISMATCH_BYTES, Operation, Outcome, Write, decode_client, encode_client};
pub use request::{Request, RequestBody, RequestError, SilentLeader};
pub use response::{MAX_SCAN_BYTES, MAX_SCAN_ROWS, Refused, Response, ResponseBody};
pub use status::{Bound, DiskStatus, NodeStatus, RoleName, SessionInfo};

use bytes::Bytes;

use super::codec::{DecodeError, Reader};
use super::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

fn key(bytes: &mut Reader) -> Result<Bytes, DecodeError> {
    let key = bytes.byte_string("key", MAX_KEY_BYTES)?;
    if key.is_empty() { Err(DecodeError::Invalid("key: it has 1 byte to 4 KiB")) } else { Ok(key) }
}

fn value(bytes: &mut Reader) -> Result<Bytes, DecodeError> {
    bytes.byte_string("value", MAX_VALUE_BYTES)
}
