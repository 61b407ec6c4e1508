//! Answers: what they mean, and how a request ends.

use super::{Answer, Asked, BUSY_FACTOR, LinkId, OwnSession, Pending, Session};
use crate::client::attempts::{Attempt, NamedBy, Verdict, judge};
use crate::client::error::{Error, UnknownReason};
use crate::client::roster::Route;
use crate::time::Instant;
use crate::types::Revision;
use crate::wire::client::{Refused, RequestBody, Response, ResponseBody};

impl Session {
    pub(super) fn on_answer(
        &mut self,
        now: Instant,
        index: usize,
        attempt: &Attempt,
        settles: bool,
        response: Response,
    ) {
        let Response { revision, body, .. } = response;
        match body {
            ResponseBody::Refused(refused) => self.on_refused(now, index, refused),
            body if settles => {
                self.note_leader(now, index, attempt);
                self.on_result(index, revision, body);
            }
            _ => {
                let link = self.roster.node(index).link.id().expect("it answered over one");
                self.on_lost(now, link, "answered what was not asked");
                self.closing.push(link);
            }
        }
    }

    /// A result of what only a leader does tells who leads, and how long leaders take. What another
    /// node kept until it led tells of an election, not of the next leader's pace.
    fn note_leader(&mut self, now: Instant, index: usize, attempt: &Attempt) {
        let pending = self.pending.as_ref().expect("only called while a request is under way");
        let leader = match &pending.asked {
            // The leader that was answers, once it knows the new one.
            Asked::Other(RequestBody::Transfer { to }) => Some(*to),
            _ => self.roster.node(index).id,
        };
        if let Some(leader) = leader.filter(|_| pending.route == Route::Leader) {
            self.roster.on_led(leader, attempt.leader_term);
        }
        if matches!(pending.asked, Asked::Write(_)) && attempt.to_leader {
            self.usual = (self.usual * 3 + now.since(attempt.sent_at)) / 4;
        }
    }

    fn on_result(&mut self, index: usize, revision: Revision, body: ResponseBody) {
        let pending = self.pending.as_ref().expect("only called while a request is under way");
        let known_before = revision <= pending.revision_before || !pending.attempts.perhaps_applied();
        let answer = Answer {
            revision,
            node: self.roster.node(index).id.expect("its welcome told"),
            attempts: pending.attempts.sent(),
            cached: matches!(body, ResponseBody::Written { cached: true, .. }) && known_before,
            identity: pending.identity.clone(),
            body,
        };
        self.finish(Ok(answer));
    }

    fn on_refused(&mut self, now: Instant, index: usize, refused: Refused) {
        let pending = self.pending.as_mut().expect("only called while a request is under way");
        let doubt = pending.is_in_doubt();
        match &refused {
            Refused::Busy(message) => pending.refusal = Some(Error::Busy(message.clone())),
            _ => pending.refusal = Some(Error::NoLeader),
        }
        if !refused.is_definite() && pending.named_by == NamedBy::Session {
            self.own.on_copy_lost();
        }
        let verdict = judge(&refused, pending.named_by, doubt, pending.renewed, pending.identity.as_ref());
        let is_lost_alone = refused == Refused::NoLeader && self.roster.nodes().len() == 1;
        if let Refused::NotLeader { term, leader } = refused {
            let is_news = self.roster.on_not_leader(index, term, leader);
            self.cut_pause_if(is_news);
        }
        match verdict {
            Verdict::AskOn if is_lost_alone => self.ask_for_others(now, index),
            Verdict::AskOn => {}
            Verdict::AskLater => self.pause(now, BUSY_FACTOR),
            Verdict::Renew => self.renew(),
            // What is full is one node's disk, and any other will do.
            Verdict::End(error @ Error::NoSpace(_)) if self.others_may_do(now) => {
                self.pending_mut().refusal = Some(error);
            }
            Verdict::End(error) => self.finish(Err(error)),
        }
    }

    /// Whether any node may answer, and some had no turn in this round.
    fn others_may_do(&self, now: Instant) -> bool {
        let route = self.pending.as_ref().map(|pending| pending.route);
        route == Some(Route::Any) && self.roster.next(Route::Any, now, false).is_some()
    }

    /// The only node that this client knows has no leader. It named no others in its welcome, since it
    /// had just started, perhaps: it is asked for another welcome.
    fn ask_for_others(&mut self, now: Instant, index: usize) {
        if let Some(link) = self.roster.node(index).link.id() {
            self.on_lost(now, link, "it knew no leader");
            self.closing.push(link);
        }
    }

    /// The session had expired before anything under its id reached a log: begins a new one.
    fn renew(&mut self) {
        self.own = OwnSession::new();
        let pending = self.pending_mut();
        pending.identity = None;
        pending.renewed = true;
        self.forget_welcomes();
        self.roster.begin_round();
    }

    /// Closes all connections, so that new ones tell the present cluster time.
    pub(super) fn forget_welcomes(&mut self) {
        self.cluster_time = None;
        self.closing.extend(self.roster.take_links_up());
    }

    pub(super) fn finish(&mut self, result: Result<Answer, Error>) {
        let mut pending = self.pending.take().expect("only called while a request is under way");
        if pending.named_by == NamedBy::Session {
            let copies = pending.attempts.in_flight().iter();
            self.own.leave_behind(copies.map(|copy| (copy.request, copy.link)));
            if let Err(error) = &result {
                self.own.on_failed(error);
            }
        }
        self.finished = Some(result);
    }

    pub(super) fn error_at_deadline(&mut self) -> Error {
        let pending = self.pending_mut();
        if pending.is_in_doubt() {
            return Error::Unknown { identity: pending.identity.clone(), reason: UnknownReason::Deadline };
        }
        match pending.refusal.take() {
            Some(refusal) => refusal,
            None if 0 < pending.attempts.sent() => Error::TimedOut,
            None => Error::Unreachable(self.roster.troubles()),
        }
    }

    pub(super) fn drop_copies_on(&mut self, link: LinkId) -> bool {
        self.own.on_link_lost(link);
        let Some(pending) = &mut self.pending else { return false };
        let had_copy = pending.attempts.on_link_lost(link);
        if had_copy && pending.named_by == NamedBy::Session {
            self.own.on_copy_lost();
        }
        had_copy
    }

    pub(super) fn on_revision(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.attempts.sent() == 0) {
            pending.revision_before = self.revision;
        }
    }
}

impl Pending {
    /// Whether it may have had an effect. Only what the leader takes can have one.
    fn is_in_doubt(&self) -> bool {
        self.route == Route::Leader && self.attempts.perhaps_applied()
    }
}

impl Asked {
    pub(super) fn is_answered_by(&self, body: &ResponseBody) -> bool {
        match self {
            Asked::Write(_) => matches!(body, ResponseBody::Written { .. }),
            Asked::Other(RequestBody::Get { .. }) => matches!(body, ResponseBody::Value(_)),
            Asked::Other(RequestBody::Scan { .. }) => matches!(body, ResponseBody::Rows { .. }),
            Asked::Other(RequestBody::Status) => matches!(body, ResponseBody::Status(_)),
            Asked::Other(RequestBody::Transfer { .. }) => matches!(body, ResponseBody::Transferred),
            Asked::Other(RequestBody::ListSessions) => matches!(body, ResponseBody::Sessions(_)),
            Asked::Other(RequestBody::Snapshot) => matches!(body, ResponseBody::SnapshotSaved(_)),
            Asked::Other(RequestBody::Backup { .. }) => matches!(body, ResponseBody::BackupChunk { .. }),
            Asked::Other(RequestBody::Write(_)) => unreachable!("writes are kept as Asked::Write"),
        }
    }
}
