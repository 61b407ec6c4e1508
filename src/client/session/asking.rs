//! Asking: whom, when, and with what.

use rand::RngExt;

use super::{
    Action, Asked, BACKUP_PATIENCE, GIVE_UP, LAST_COPY, LEADER_PATIENCE, LEADER_PATIENCE_MAX, LinkId,
    PARKED_PATIENCE, PAUSE_MAX, PAUSE_MIN, Pending, READ_PATIENCE, Session, TRANSFER_PATIENCE,
};
use crate::client::attempts::{Attempt, NamedBy};
use crate::client::error::Identity;
use crate::client::roster::{Link, Route};
use crate::time::{Duration, Instant};
use crate::types::{ClusterTime, Sequence};
use crate::wire::client::{Request, RequestBody, Write};

impl Session {
    /// The next step of the request under way.
    pub(super) fn ask(&mut self, now: Instant) -> Action {
        let pending = self.pending_mut();
        if pending.must_rest(now) {
            return Action::Wait { until: pending.deadline };
        }
        match pending.pause_until {
            Some(until) if now < until => return self.wait(now),
            Some(_) => {
                pending.pause_until = None;
                self.roster.begin_round();
            }
            None => {}
        }
        let pending = self.pending_mut();
        let (route, patient, fan_out) = (pending.route, pending.attempts.wait_patiently(), pending.fan_out);
        let to_leader = route == Route::Leader;
        let fan_out = fan_out || to_leader && self.roster.leader_is_demoted(now);
        match self.roster.next(route, now, fan_out) {
            Some(index) if !patient || fan_out || to_leader && self.roster.is_leader(index) => {
                self.turn_to(index, now)
            }
            Some(_) => self.wait(now),
            None if patient || self.roster.dial_is_young(route, now) => self.wait(now),
            None => {
                if self.roster.another_round_helps(route, now) {
                    self.pause(now, 1);
                }
                self.wait(now)
            }
        }
    }

    /// Sends to a node, dials it, or waits for the dial that is under way.
    fn turn_to(&mut self, index: usize, now: Instant) -> Action {
        match self.roster.node(index).link {
            Link::Up { link } => Action::Send { link, request: self.next_copy(index, link, now) },
            Link::Down => {
                let link = self.roster.dial(index, now);
                Action::Dial { link, address: self.roster.node(index).address.clone() }
            }
            Link::Dialling { .. } => self.wait(now),
        }
    }

    /// Ends a round: everybody gets another turn after a little while.
    pub(super) fn pause(&mut self, now: Instant, factor: u32) {
        let nanos = self.rng.random_range(PAUSE_MIN.as_nanos()..=PAUSE_MAX.as_nanos());
        let pause = Duration::from_nanos(u64::try_from(nanos).expect("milliseconds")) * factor;
        self.pending_mut().pause_until = Some(now + pause);
    }

    pub(super) fn cut_pause_if(&mut self, is_news: bool) {
        if let Some(pending) = self.pending.as_mut().filter(|_| is_news) {
            pending.pause_until = None;
        }
    }

    /// Waits for the first moment at which something is due without any event.
    fn wait(&mut self, now: Instant) -> Action {
        let dial_due = self.roster.next_dial_due(now);
        let pending = self.pending_mut();
        let due = pending.attempts.next_due().min(dial_due).min(pending.deadline);
        Action::Wait { until: due.min(pending.pause_until.unwrap_or(Instant::MAX)) }
    }

    /// One more copy of the request, for this node.
    fn next_copy(&mut self, index: usize, link: LinkId, now: Instant) -> Request {
        let id = self.take_request_id();
        let body = self.next_body();
        let silent_leader = self.roster.silent_leader_for(index, now);
        let leads = self.roster.is_leader(index);
        self.roster.on_asked(index);
        let (usual, leader_term) = (self.usual, self.roster.leader_term());
        let pending = self.pending_mut();
        let patient_until = now + pending.patience(leads, usual);
        pending.attempts.on_sent(Attempt {
            request: id,
            link,
            sent_at: now,
            to_leader: leads,
            leader_term,
            patient_until,
            give_up_at: patient_until + GIVE_UP,
            overdue: false,
        });
        let time_left = pending.deadline.since(now).as_millis().max(1);
        Request {
            id,
            time_left_ms: u32::try_from(time_left).unwrap_or(u32::MAX),
            silent_leader: silent_leader.filter(|_| pending.route == Route::Leader),
            body,
        }
    }

    fn next_body(&mut self) -> RequestBody {
        let cluster_time = self.cluster_time.map_or(ClusterTime::ZERO, |(time, _)| time);
        let pending = self.pending.as_mut().expect("a request is under way");
        let operation = match &pending.asked {
            Asked::Other(body) => return body.clone(),
            Asked::Write(operation) => operation.clone(),
        };
        let identity =
            pending.identity.get_or_insert_with(|| self.own.next_identity(cluster_time, &mut self.rng));
        let Identity { client, sequence } = identity.clone();
        let acknowledged = match pending.named_by {
            NamedBy::Session => sequence,
            NamedBy::Caller | NamedBy::Nobody => Sequence(0),
        };
        RequestBody::Write(Write { client, sequence, acknowledged, operation })
    }

    /// Notices dials and copies that have waited too long.
    pub(super) fn note_silence(&mut self, now: Instant) {
        let began = self.pending.as_ref().map(|pending| pending.began);
        let (mut given_up, silent) = self.roster.note_slow_dials(now, began);
        if let Some(pending) = &mut self.pending {
            pending.fan_out |= silent;
            for attempt in pending.attempts.in_flight() {
                if !attempt.overdue && attempt.patient_until <= now {
                    attempt.overdue = true;
                    pending.fan_out = true;
                    self.roster.on_silent(attempt.link, now);
                }
                if attempt.give_up_at <= now {
                    given_up.push(attempt.link);
                }
            }
        }
        for link in given_up {
            self.on_lost(now, link, "no answer");
            self.closing.push(link);
        }
    }

    pub(super) fn take_request_id(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request - 1
    }

    pub(super) fn pending_mut(&mut self) -> &mut Pending {
        self.pending.as_mut().expect("only called while a request is under way")
    }
}

impl Pending {
    /// Whether another copy could only spoil what is certain: that the write was not applied.
    fn must_rest(&self, now: Instant) -> bool {
        let last_copy = LAST_COPY.min(self.deadline.since(self.began) / 10);
        let is_refused = self.attempts.sent() > 0 && !self.attempts.perhaps_applied();
        matches!(self.asked, Asked::Write(_)) && is_refused && self.deadline.since(now) < last_copy
    }

    /// How long a node may be silent before others are asked beside it.
    fn patience(&self, leads: bool, usual: Duration) -> Duration {
        match (self.route, &self.asked) {
            // A snapshot takes as long as it takes, and another node would only take one more.
            (_, Asked::Other(RequestBody::Snapshot | RequestBody::Backup { snapshot: None, .. })) => {
                self.deadline.since(self.began)
            }
            (_, Asked::Other(RequestBody::Backup { .. })) => BACKUP_PATIENCE,
            (Route::Any | Route::Given, _) => READ_PATIENCE,
            (Route::Leader, Asked::Other(RequestBody::Transfer { .. })) if leads => TRANSFER_PATIENCE,
            (Route::Leader, _) if leads => (usual * 2).clamp(LEADER_PATIENCE, LEADER_PATIENCE_MAX),
            (Route::Leader, _) => PARKED_PATIENCE,
        }
    }
}
