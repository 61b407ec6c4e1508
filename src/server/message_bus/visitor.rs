//! What the bus knows of each connection.

use std::collections::VecDeque;

use crate::time::Instant;
use crate::timer_wheel::TimerKey;
use crate::wire::client::Response;

/// Who is behind a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Party {
    /// It came in and has not said.
    #[default]
    Unknown,
    /// We dialled this entry, and it has not answered.
    Dialled(usize),
    /// We ask at this entry about somebody who came in.
    Inquiring(usize),
    /// It came in and says that it is a node, which is not confirmed: it is not read.
    Claimant,
    /// A node that has introduced itself.
    Peer,
    /// A client that has introduced itself.
    Client,
    /// Somebody whom we have nothing more to say to.
    Dismissed,
}

/// What the bus knows about a connection.
#[derive(Debug, Default)]
pub(super) struct Visitor {
    pub(super) party: Party,
    /// What is due next from the other end; see `on_deadline`.
    pub(super) deadline: Option<TimerKey>,
    /// Frames read and bytes written when the deadline was set.
    pub(super) progress: (u64, u64),
    /// It stands in a ready list.
    pub(super) is_ready: bool,
    /// It stands in the list of those with output.
    pub(super) is_dirty: bool,
    /// Of a client: the timer of its idleness, and the frames that it had sent when that was set.
    pub(super) idle: Option<(TimerKey, u64)>,
    /// Of a client: requests that were passed on and have no answer yet.
    pub(super) unanswered: usize,
    /// Of a client: it is not read until more of its answers have left.
    pub(super) is_choked: bool,
    /// A client's answers behind more output than it may have waiting. Their values are the
    /// store's own; bytes of them are made once the client has taken those before.
    pub(super) withheld: VecDeque<Response>,
    /// What these hold on to.
    pub(super) withheld_bytes: usize,
    /// Of a client: since when the frame is incomplete that it sends, and what has come of it.
    pub(super) partial: Option<(Instant, usize)>,
}
