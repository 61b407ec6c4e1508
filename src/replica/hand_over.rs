//! Handing leadership over, because a client asks for it or because this node is told to leave
//! (thesis 3.10).

use super::parking::Arrival;
use super::{ClientConnection, Replica};
use crate::raft::TransferError;
use crate::storage::Disk;
use crate::time::Instant;
use crate::types::{NodeId, Term};
use crate::wire::client::{Refused, RequestBody, ResponseBody};

/// Clients that wait for a hand-over; more are refused as busy.
const MAX_ASKED: usize = 1024;

/// Hand-overs that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct HandOver {
    asked: Vec<Asked>,
    /// To whom Raft was handing over when that was last noted: when it began, or in this turn.
    under_way: Option<NodeId>,
    /// This node is leaving, at this moment at the latest.
    exit_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    client: ClientConnection,
    request: u64,
    to: NodeId,
    /// The term that this node led then.
    term: Term,
}

impl HandOver {
    /// Notes what Raft does now; whether a hand-over ended since the last time.
    pub(super) fn note_transfer(&mut self, now_to: Option<NodeId>) -> bool {
        let ended = self.under_way.is_some() && now_to.is_none();
        self.under_way = now_to;
        ended
    }

    /// A connection is closed: nobody is told what becomes of the hand-overs it asked for.
    pub(super) fn on_client_gone(&mut self, client: ClientConnection) {
        self.asked.retain(|asked| asked.client != client);
    }
}

impl<D: Disk> Replica<D> {
    /// SIGTERM: hands leadership over if this node leads, so that nobody waits for an election.
    pub fn begin_hand_over(&mut self, now: Instant) {
        self.hand_over.exit_at = Some(now + self.raft.config().election_max);
        self.resign(now);
    }

    /// If a hand-over failed and this node is leaving, or found nobody linked, there may be a follower
    /// to try now.
    pub(super) fn resign_again(&mut self, now: Instant) {
        if self.hand_over.exit_at.is_some() && self.raft.transferring_to().is_none() {
            self.resign(now);
        }
    }

    fn resign(&mut self, now: Instant) {
        if let Some(to) = self.raft.resign(now) {
            self.hand_over.under_way = Some(to);
            log::info!("handing over to id={to} port={}", self.members.port(to));
        }
    }

    /// After `begin_hand_over`: whether the process may exit now. A leader waits until it has given
    /// way (links that are lost at this moment may be back at the next) and whoever waits here is
    /// answered or referred to its successor, for one maximum election timeout at most; what is
    /// unanswered then stays so, since nobody knows what becomes of it.
    #[must_use]
    pub fn may_exit(&self, now: Instant) -> bool {
        let Some(exit_at) = self.hand_over.exit_at else { return false };
        let may_leave = if self.leads() {
            // There is nobody to hand over to, and never will be.
            self.configuration().is_some_and(|members| members.members().len() == 1)
        } else {
            let waiting = self.writes.waiters() + self.reads.len() + self.parking.len();
            waiting + self.answers.len() == 0
        };
        may_leave || now >= exit_at
    }

    /// When a leaving process must look at `may_exit` again, at the latest.
    #[must_use]
    pub fn exit_at(&self) -> Option<Instant> {
        self.hand_over.exit_at
    }

    /// A client asks for a hand-over.
    pub(super) fn on_transfer(&mut self, now: Instant, arrival: Arrival) {
        let RequestBody::Transfer { to } = arrival.request.body else {
            unreachable!("only transfers come here");
        };
        if to == self.own.id {
            return self.answer(arrival.client, arrival.request.id, ResponseBody::Transferred);
        }
        if self.hand_over.asked.len() >= MAX_ASKED {
            return self.refuse_as_busy(&arrival, "too many requests wait for a hand-over");
        }
        match self.raft.transfer_leadership(now, to) {
            Ok(()) => {
                self.hand_over.under_way = Some(to);
                let (client, request, term) = (arrival.client, arrival.request.id, self.raft.term());
                self.hand_over.asked.push(Asked { client, request, to, term });
            }
            Err(TransferError::NotLeader) => self.refer_to_leader(arrival),
            Err(error) => {
                let refused = Refused::TransferFailed(format!("{error}; see `kv_client status`"));
                self.refuse(arrival.client, arrival.request.id, refused);
            }
        }
    }

    /// Answers those whose hand-over is decided: the target leads, another does, or this node goes
    /// on leading. It failed for certain only if this node leads as before and the target was not
    /// told that its order holds; else it may yet come to lead, or did and was followed by another.
    pub(super) fn answer_transfers(&mut self) {
        let leader = self.raft.leader();
        let under_way = self.raft.transferring_to();
        let is_open = |asked: &Asked| leader.is_none() || under_way == Some(asked.to);
        let (open, decided) = std::mem::take(&mut self.hand_over.asked).into_iter().partition(is_open);
        self.hand_over.asked = open;
        let decided: Vec<Asked> = decided;
        for Asked { client, request, to, term } in decided {
            if leader == Some(to) {
                self.answer(client, request, ResponseBody::Transferred);
            } else if !self.leads() || term != self.raft.term() || self.raft.has_confirmed_order(to) {
                self.refuse(client, request, Refused::LeadershipLost);
            } else {
                let message = format!("node {to} did not take over in time; see `kv_client status`");
                self.refuse(client, request, Refused::TransferFailed(message));
            }
        }
    }
}
