//! Arguments that make no request are refused before a byte is sent: then the refusal is definite.

use super::error::Error;
use crate::wire::client::Operation;
use crate::wire::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// Whether there are endpoints, each of them `HOST:PORT`.
pub(super) fn check_endpoints(endpoints: &[String]) -> Result<(), Error> {
    if endpoints.is_empty() {
        return Err(Error::Invalid("no endpoint: name at least one node as HOST:PORT".into()));
    }
    let is_endpoint = |endpoint: &&String| {
        let port = endpoint.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
    };
    match endpoints.iter().find(|endpoint| !is_endpoint(endpoint)) {
        Some(wrong) => Err(Error::Invalid(format!("endpoint {wrong:?} is not HOST:PORT"))),
        None => Ok(()),
    }
}

/// Whether an operation's key and values have sizes that are allowed.
pub(super) fn check_operation(operation: &Operation) -> Result<(), Error> {
    match operation {
        Operation::Delete { key } => check_key(key),
        Operation::Put { key, value } => check_key(key).and_then(|()| check_value(value)),
        Operation::CompareAndSet { key, expected, new } => {
            check_key(key)?;
            expected.as_ref().map_or(Ok(()), |expected| check_value(expected))?;
            check_value(new)
        }
        Operation::CloseSession { .. } => Ok(()),
    }
}

pub(super) fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::Invalid(format!("the key is empty: keys have 1 to {MAX_KEY_BYTES} bytes")));
    }
    check_size("key", key, MAX_KEY_BYTES)
}

fn check_value(value: &[u8]) -> Result<(), Error> {
    check_size("value", value, MAX_VALUE_BYTES)
}

pub(super) fn check_size(what: &str, bytes: &[u8], limit: usize) -> Result<(), Error> {
    if limit < bytes.len() {
        let size = bytes.len();
        return Err(Error::TooLarge(format!(
            "{what} of {size} bytes, at most {limit} are allowed: split it"
        )));
    }
    Ok(())
}
