//! Why a call has no result, and whether it may have had an effect all the same.

use std::fmt;

use thiserror::Error;

use crate::types::{ClientId, Sequence};

/// The name of one write: with it the very same write can be sent again, by anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose write it is.
    pub client: ClientId,
    /// The client's number for it.
    pub sequence: Sequence,
}

/// Why a call has no result.
///
/// All but [`Error::Unknown`] are definite: the request had no effect and never will have one. Of a write
/// that the caller named, this is said of the copies that this call sent; what became of earlier ones is
/// as open as it was.
/// Each message names the cause and what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The arguments make no request. The caller must change them; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// A key or value is above its limit. The caller must split it.
    #[error("too large: {0}")]
    TooLarge(String),
    /// No node took a single byte of the request. Whoever runs the nodes can help.
    #[error("no node reachable ({0}): start a node, or correct the endpoints")]
    Unreachable(String),
    /// Nodes answered, but none knew a leader. Whoever runs the nodes can help.
    #[error("no leader found before the deadline: start a majority of the nodes, or allow more time")]
    NoLeader,
    /// A read was not answered in time. The caller may repeat it: reads leave no trace.
    #[error("no answer before the deadline: repeat the read, or allow more time")]
    TimedOut,
    /// A cap of the cluster was reached until the deadline.
    #[error("busy: {0}")]
    Busy(String),
    /// The nodes' disks are nearly full. Whoever runs the nodes can help, and so can deleting keys. It is
    /// not tried again: that would not make room.
    #[error("no space: {0}")]
    NoSpace(String),
    /// A node did not understand the request: the two programs are of different make.
    #[error("refused as malformed: {0}: use a client and a node of the same version")]
    Malformed(String),
    /// The number names another write already. The caller must choose a new one.
    #[error("seq reused: this client id used this number for another write: choose a new number")]
    SequenceReused,
    /// This client's session has ended, before the write was sent. The next write opens a new one.
    #[error("session expired before this write was sent: repeat it, it gets a new session")]
    SessionExpired,
    /// The number lies below those that the session keeps, though it was never sent before.
    #[error("outcome forgotten: the number lies below those that the session keeps: choose a higher one")]
    OutcomeForgotten,
    /// Leadership was not handed over.
    #[error("leadership not handed over: {0}")]
    TransferFailed(String),
    /// The request may have been applied, or may yet be.
    #[error("outcome unknown: {reason}{}", ask_again(.identity.as_ref()))]
    Unknown {
        /// Of a write: the name under which it can be asked about; sending the same write again
        /// under it gives the result, or applies it if it never was. An id that the client made for
        /// itself is kept for ten minutes.
        identity: Option<Identity>,
        /// What left the outcome open.
        reason: UnknownReason,
    },
}

/// What left an outcome open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnknownReason {
    /// The deadline passed after some node may have taken the request.
    Deadline,
    /// Its session ended, and with it the memory of whether it was applied.
    SessionExpired,
    /// Its session keeps no results that old.
    OutcomeForgotten,
    /// A later copy was refused for this reason; an earlier one may have been applied.
    LaterRefusal(String),
}

impl Error {
    /// Whether the request certainly had no effect and never will have one.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        !matches!(self, Error::Unknown { .. })
    }

    /// The exit status of a command that ends so: 2 wrong usage, 3 outcome unknown, 4 refused and
    /// certainly not applied.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Invalid(_) => 2,
            Error::Unknown { .. } => 3,
            _ => 4,
        }
    }

    /// A fixed word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Error::Invalid(_) => "invalid",
            Error::TooLarge(_) => "too_large",
            Error::Unreachable(_) => "unreachable",
            Error::NoLeader => "no_leader",
            Error::TimedOut => "timed_out",
            Error::Busy(_) => "busy",
            Error::NoSpace(_) => "no_space",
            Error::Malformed(_) => "malformed",
            Error::SequenceReused => "seq_reused",
            Error::SessionExpired => "session_expired",
            Error::OutcomeForgotten => "outcome_forgotten",
            Error::TransferFailed(_) => "transfer_failed",
            Error::Unknown { .. } => "outcome_unknown",
        }
    }
}

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnknownReason::Deadline => f.write_str("no answer before the deadline, it may yet be applied"),
            UnknownReason::SessionExpired => {
                f.write_str("its session has ended and cannot tell any more, look at the data itself")
            }
            UnknownReason::OutcomeForgotten => {
                f.write_str("its session keeps no results that old, look at the data itself")
            }
            UnknownReason::LaterRefusal(refusal) => {
                write!(f, "an earlier attempt may have been applied, a later one was refused ({refusal})")
            }
        }
    }
}

fn ask_again(identity: Option<&Identity>) -> String {
    identity.map_or_else(String::new, |Identity { client, sequence }| {
        format!("; ask again with the same write as client {client}, sequence {sequence}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_unknown_names_the_write_and_is_the_only_indefinite_one() {
        let identity = Identity {
            client: ClientId::Named(crate::types::ClientName::new(b"billing").unwrap()),
            sequence: Sequence(7),
        };
        let unknown = Error::Unknown { identity: Some(identity), reason: UnknownReason::Deadline };
        assert!(unknown.to_string().ends_with("as client billing, sequence 7"), "{unknown}");
        assert_eq!((unknown.is_definite(), unknown.exit_status()), (false, 3));
        for (error, status) in
            [(Error::Invalid("x".into()), 2), (Error::NoLeader, 4), (Error::SequenceReused, 4)]
        {
            assert_eq!((error.is_definite(), error.exit_status()), (true, status));
        }
    }
}
