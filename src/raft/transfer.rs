//! Handing leadership over (thesis 3.10).
//!
//! The leader takes no new entries, waits until the target has all, and orders it to campaign. The
//! target asks whether the order still holds, since it may have lain in a socket for long; told yes,
//! it campaigns at once (`follower.rs` has its half). Until then a hand-over can be given up for
//! certain; from then on the target may win whatever the leader does.

use std::cmp::Reverse;

use super::core::{Core, TransferError};
use super::leader::Leader;
use super::node::{Raft, Role};
use crate::planted::{Bug, is_planted};
use crate::time::Instant;
use crate::types::NodeId;
use crate::wire::peer::{Message, TimeoutNow};

/// A hand-over under way. Meanwhile no new entry is taken, so that the target catches up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    to: NodeId,
    deadline: Instant,
    /// When the target is told to campaign though it has not caught up.
    patience: Instant,
    stage: Stage,
}

/// How far a hand-over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The target is behind.
    CatchingUp,
    /// It was told to campaign, and will ask whether that still holds when it reads it.
    Ordered,
    /// It asked, and may win from now on, whatever becomes of this.
    Confirmed,
}

impl Transfer {
    pub(super) fn to(&self) -> NodeId {
        self.to
    }

    /// When a leader must look at it again.
    pub(super) fn next_deadline(&self) -> Instant {
        match self.stage {
            Stage::CatchingUp => self.deadline.min(self.patience),
            Stage::Ordered | Stage::Confirmed => self.deadline,
        }
    }
}

impl Leader {
    /// Ends a hand-over that takes too long, or goes on with it.
    pub(super) fn tick_transfer(&mut self, core: &mut Core, now: Instant) {
        let is_over = |transfer: Transfer| now >= transfer.deadline && !is_planted(Bug::TransferKept);
        if self.transfer.is_some_and(is_over) {
            self.transfer = None;
        }
        self.continue_transfer(core, now);
    }

    /// Of the linked followers that may lead, the one whose log matches furthest, and that was heard
    /// last of these: the best to hand over to.
    fn successor(&self, core: &Core, may_lead: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let linked = self.progress.iter().filter(|(id, _)| core.links.contains(id) && may_lead(**id));
        let best =
            linked.max_by_key(|(id, progress)| (progress.match_index(), progress.acked_round, Reverse(**id)));
        best.map(|(id, _)| *id)
    }

    /// Stops taking entries, lets the target catch up, tells it to campaign; after an election timeout,
    /// goes on as before.
    fn transfer_leadership(
        &mut self,
        core: &mut Core,
        now: Instant,
        to: NodeId,
    ) -> Result<(), TransferError> {
        match self.transfer {
            Some(transfer) if transfer.to == to => return Ok(()),
            Some(transfer) => return Err(TransferError::UnderWay(transfer.to)),
            None if !self.progress.contains_key(&to) => return Err(TransferError::NotAVoter),
            None if !core.links.contains(&to) => return Err(TransferError::NoLink),
            None => {}
        }
        let deadline = now + core.config.election_max;
        self.transfer = Some(Transfer { to, deadline, patience: Instant::MAX, stage: Stage::CatchingUp });
        self.continue_transfer(core, now);
        Ok(())
    }

    /// Hands over because this node is about to leave. The target is given one heartbeat to catch up.
    /// After that it is told to campaign all the same: what it was sent before lies ahead of that word on
    /// its link. One that has not asked whether the order holds another heartbeat later may be stopped,
    /// and another one's turn comes. Gives the target; `None` if no other voter is linked.
    fn resign(&mut self, core: &mut Core, now: Instant) -> Option<NodeId> {
        let (patience, deadline) = (now + core.config.heartbeat, now + core.config.heartbeat * 2);
        match &mut self.transfer {
            Some(Transfer { stage: Stage::Confirmed, .. }) => {}
            Some(transfer) => {
                transfer.patience = transfer.patience.min(patience);
                transfer.deadline = transfer.deadline.min(deadline);
            }
            None => {
                let to = self.successor(core, |_| true)?;
                self.transfer = Some(Transfer { to, deadline, patience, stage: Stage::CatchingUp });
            }
        }
        self.continue_transfer(core, now);
        self.transfer.map(|transfer| transfer.to)
    }

    pub(super) fn continue_transfer(&mut self, core: &mut Core, now: Instant) {
        let Some(transfer) = &mut self.transfer else { return };
        let caught_up = self.progress[&transfer.to].match_index() == core.log.last_index();
        if transfer.stage == Stage::CatchingUp && (caught_up || now >= transfer.patience) {
            transfer.stage = Stage::Ordered;
            core.outbox.send(transfer.to, Message::TimeoutNow(TimeoutNow { term: core.term() }));
        }
    }

    /// Whether `peer` was told to campaign.
    pub(super) fn has_ordered(&self, peer: NodeId) -> bool {
        self.transfer.is_some_and(|transfer| transfer.to == peer && transfer.stage != Stage::CatchingUp)
    }

    /// The target of the hand-over read the order, and asks whether it still holds: it does, if the
    /// target can win. It then has an election timeout to do so. One that lacks entries is told
    /// again when it has caught up.
    pub(super) fn on_order_questioned(&mut self, core: &Core, now: Instant, would_win: bool) -> bool {
        let Some(transfer) = &mut self.transfer else { return false };
        match (would_win, transfer.stage) {
            (true, Stage::Ordered) => {
                transfer.stage = Stage::Confirmed;
                transfer.deadline = now + core.config.election_max;
                self.progress.get_mut(&transfer.to).expect("a target is a follower").may_win = true;
            }
            (false, Stage::Ordered) => {
                transfer.stage = Stage::CatchingUp;
                transfer.patience = Instant::MAX;
            }
            _ => {}
        }
        would_win
    }
}

impl Raft {
    /// Hands leadership over to `to`. It is done when `to` leads; it failed when
    /// [`transferring_to`](Raft::transferring_to) is `None` and this node still leads, unless the order
    /// was [confirmed](Raft::has_confirmed_order).
    ///
    /// # Errors
    /// If it cannot begin: nothing changed.
    pub fn transfer_leadership(&mut self, now: Instant, to: NodeId) -> Result<(), TransferError> {
        match &mut self.role {
            Role::Leader(leader) => leader.transfer_leadership(&mut self.core, now, to),
            _ => Err(TransferError::NotLeader),
        }
    }

    /// Hands leadership over because this node is about to leave, to the follower that is best
    /// prepared. Gives that follower; `None` if this node does not lead, or no other voter is linked.
    pub fn resign(&mut self, now: Instant) -> Option<NodeId> {
        match &mut self.role {
            Role::Leader(leader) => leader.resign(&mut self.core, now),
            _ => None,
        }
    }

    /// Of the followers that may lead, the one that is best prepared to: linked, furthest, heard last.
    /// `None` if this node does not lead, or there is none.
    pub fn successor(&self, may_lead: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.successor(&self.core, may_lead),
            _ => None,
        }
    }

    /// To whom leadership is being handed over.
    #[must_use]
    pub fn transferring_to(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.transfer.map(|transfer| transfer.to),
            _ => None,
        }
    }

    /// Whether this node told `peer`, in the term that it leads, that its order to campaign holds: a
    /// hand-over to it may succeed even after it was given up here.
    #[must_use]
    pub fn has_confirmed_order(&self, peer: NodeId) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.progress.get(&peer).is_some_and(|progress| progress.may_win),
            _ => false,
        }
    }
}
