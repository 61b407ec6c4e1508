//! What the bus knows of each connection.

use std::collections::VecDeque;

use crate::time::{Duration, Instant};
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
    /// Of a node: the same, and when some of it came last.
    pub(super) arriving: Option<Arriving>,
}

impl Visitor {
    /// A node was read from, which gave so many frames, and so many bytes of the next one are there.
    pub(super) fn note_arrival(&mut self, now: Instant, frames: usize, bytes: usize) {
        let same = self.arriving.filter(|_| frames == 0);
        let since = same.map_or(now, |arriving| arriving.since);
        let grew_at =
            same.filter(|arriving| arriving.bytes == bytes).map_or(now, |arriving| arriving.grew_at);
        self.arriving = (bytes > 0).then_some(Arriving { since, grew_at, bytes });
    }
}

/// What has come of a frame that has begun to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arriving {
    since: Instant,
    grew_at: Instant,
    bytes: usize,
}

impl Arriving {
    /// Whether it may be waited for as for the message that it will be: more of it came within a heartbeat,
    /// and it does not take for ever. That bears a MiB on a link of 10 Mbit/s; a leader that is
    /// slower, or drips, is none.
    pub(super) fn may_end_soon(self, now: Instant, heartbeat: Duration) -> bool {
        now.since(self.grew_at) < heartbeat && now.since(self.since) < heartbeat * LONGEST_ARRIVAL
    }
}

/// In heartbeats.
const LONGEST_ARRIVAL: u32 = 32;
