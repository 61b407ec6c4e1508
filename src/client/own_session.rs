//! The session that a client makes for itself: its id, its numbers, and whether it may be closed.

use rand::Rng;
use rand::rngs::StdRng;

use super::error::{Error, Identity};
use super::roster::LinkId;
use crate::types::{ClientId, ClusterTime, Sequence};
use crate::wire::client::ResponseBody;

/// The numbers of one library id. The id is made for the first write, of the cluster's time.
///
/// A write that ends without a result takes the id with it: whoever asks for its outcome finds it kept for
/// as long as a session lives. Were the next writes named by the same id they could acknowledge nothing
/// any more, and the cluster would keep 256 results for as long as this client lives.
///
/// Invariants: numbers are given out once, ascending from 1; every number below the one that was given out
/// last has its answer.
#[derive(Debug)]
pub(super) struct OwnSession {
    client: Option<ClientId>,
    next: Sequence,
    /// Copies that may yet arrive somewhere though their write has its answer.
    strays: Vec<(u64, LinkId)>,
    /// The session must end by itself: a copy of a write may still be under way, and would find a closed
    /// session, which remembers no results.
    never_close: bool,
}

impl OwnSession {
    pub(super) fn new() -> Self {
        Self { client: None, next: Sequence(1), strays: Vec::new(), never_close: false }
    }

    pub(super) fn has_id(&self) -> bool {
        self.client.is_some()
    }

    /// The name of the next write.
    pub(super) fn next_identity(&mut self, born: ClusterTime, rng: &mut StdRng) -> Identity {
        let client = self.client.get_or_insert_with(|| ClientId::Library { born, nonce: rng.next_u64() });
        let sequence = self.next;
        self.next = sequence.next();
        Identity { client: client.clone(), sequence }
    }

    /// A write is over; these copies of it have no answer yet.
    pub(super) fn leave_behind(&mut self, copies: impl Iterator<Item = (u64, LinkId)>) {
        self.strays.extend(copies);
    }

    /// A copy that was left behind has its answer, if this is one.
    pub(super) fn on_stray_answered(&mut self, request: u64, link: LinkId, answer: &ResponseBody) {
        let settles = match answer {
            ResponseBody::Refused(refused) => refused.is_definite(),
            other => matches!(other, ResponseBody::Written { .. }),
        };
        self.never_close |= self.take_stray(request, link) && !settles;
    }

    pub(super) fn on_not_sent(&mut self, request: u64, link: LinkId) {
        self.take_stray(request, link);
    }

    fn take_stray(&mut self, request: u64, link: LinkId) -> bool {
        let before = self.strays.len();
        self.strays.retain(|stray| *stray != (request, link));
        self.strays.len() < before
    }

    pub(super) fn on_link_lost(&mut self, link: LinkId) {
        let before = self.strays.len();
        self.strays.retain(|(_, stray)| *stray != link);
        self.never_close |= self.strays.len() < before;
    }

    /// A copy was lost sight of: it may arrive at any time.
    pub(super) fn on_copy_lost(&mut self) {
        self.never_close = true;
    }

    /// A write ended without a result: the next one is named anew, if there may be a question about this
    /// one or its session is known to be gone.
    pub(super) fn on_failed(&mut self, error: &Error) {
        if let Error::SessionExpired | Error::OutcomeForgotten | Error::Unknown { .. } = error {
            *self = Self::new();
        }
    }

    /// The name of the write that closes the session, if there may be one and it can be closed
    /// without harm; the id is not used again.
    pub(super) fn take_to_close(&mut self) -> Option<Identity> {
        let is_safe = !self.never_close && self.strays.is_empty();
        let old = is_safe.then(|| std::mem::replace(self, Self::new()))?;
        old.client.map(|client| Identity { client, sequence: old.next })
    }
}
