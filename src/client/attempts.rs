//! What may be said of a request after some of its copies were sent: the table of outcomes.
//!
//! One request may be on its way in several copies. What became of each copy:
//!
//! | copy | it may be in a log |
//! |---|---|
//! | not a byte of it was written | no |
//! | refused: any [`Refused`] but `LeadershipLost` | no, and never will be |
//! | refused: `LeadershipLost` | yes |
//! | its connection was lost, or was given up | yes |
//! | still waits for its answer | yes |
//!
//! What an answer to one copy says of a write, by what may be true of the *other* copies. "Own"
//! is a number that the session gave out itself, "given" one that the caller brought along and may
//! have sent before, from another process.
//!
//! | answer | no other copy may be in a log | another may be |
//! |---|---|---|
//! | `Written` | the result | the result |
//! | `NotLeader`, `NoLeader`, `LeadershipLost` | ask on | ask on |
//! | `Busy` | ask again after a longer pause | the same |
//! | `TooLarge`, `Malformed`, `TransferFailed`, `NoSpace`, `SequenceReused` | that refusal, definite | unknown |
//! | `SessionExpired`, own | once: a new session, ask on; then definite | unknown |
//! | `SessionExpired`, given | unknown | unknown |
//! | `OutcomeForgotten`, own | that refusal, definite | unknown |
//! | `OutcomeForgotten`, given | unknown | unknown |
//! | none until the deadline | the last refusal, or "no node reachable": definite | unknown |
//!
//! A new session in the fifth line is safe, though the write changes its name: an id that is found
//! expired can never open a session again, and no copy under it had reached one before.
//!
//! Requests that leave no trace (reads, status) are never unknown: theirs is the middle column. One that
//! any node may answer, a backup, ends with `NoSpace` only when every node has said so.

use super::error::{Error, Identity, UnknownReason};
use super::roster::LinkId;
use crate::time::Instant;
use crate::types::Term;
use crate::wire::client::Refused;

/// Who gave a write its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamedBy {
    /// The session itself.
    Session,
    /// The caller.
    Caller,
    /// Nobody: it is no write.
    Nobody,
}

/// What a refusal of one copy means for the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask another node, or the same one later.
    AskOn,
    /// Ask again after a pause that gives the nodes time to drain.
    AskLater,
    /// Ask on under the id of a new session.
    Renew,
    /// That is the end of it.
    End(Error),
}

/// One copy that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) request: u64,
    pub(super) link: LinkId,
    pub(super) sent_at: Instant,
    /// Whether it was sent to the leader, as far as that was known.
    pub(super) to_leader: bool,
    /// The term of the newest leader that was known then.
    pub(super) leader_term: Term,
    /// When others are asked beside it.
    pub(super) patient_until: Instant,
    /// When its connection is given up, unless bytes move on it before.
    pub(super) give_up_at: Instant,
    /// Others were asked beside it.
    pub(super) overdue: bool,
}

/// The copies of one request.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    in_flight: Vec<Attempt>,
    /// How many copies were sent.
    sent: u32,
    /// Some copy that waits no more may be in a log.
    perhaps_logged: bool,
}

impl Attempts {
    pub(super) fn on_sent(&mut self, attempt: Attempt) {
        self.sent += 1;
        self.in_flight.push(attempt);
    }

    /// Not a byte of this copy left the process. False if it is none of ours.
    pub(super) fn on_not_sent(&mut self, request: u64, link: LinkId) -> bool {
        let was_ours = self.take(request, link).is_some();
        self.sent -= u32::from(was_ours);
        was_ours
    }

    /// This copy was answered, over this connection. `None` if it is none of ours.
    pub(super) fn on_answered(
        &mut self,
        request: u64,
        link: LinkId,
        answer_is_definite: bool,
    ) -> Option<Attempt> {
        let attempt = self.take(request, link)?;
        self.perhaps_logged |= !answer_is_definite;
        Some(attempt)
    }

    /// Copies on this connection get no answer any more. Whether there were any.
    pub(super) fn on_link_lost(&mut self, link: LinkId) -> bool {
        let before = self.in_flight.len();
        self.in_flight.retain(|attempt| attempt.link != link);
        let lost_any = self.in_flight.len() < before;
        self.perhaps_logged |= lost_any;
        lost_any
    }

    pub(super) fn in_flight(&mut self) -> &mut [Attempt] {
        &mut self.in_flight
    }

    /// Whether some copy waits, and not yet too long.
    pub(super) fn wait_patiently(&self) -> bool {
        self.in_flight.iter().any(|attempt| !attempt.overdue)
    }

    /// The first moment at which some copy has waited too long for its next step.
    pub(super) fn next_due(&self) -> Instant {
        let due = |copy: &Attempt| if copy.overdue { copy.give_up_at } else { copy.patient_until };
        self.in_flight.iter().map(due).min().unwrap_or(Instant::MAX)
    }

    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// Whether a copy, of those which have no definite answer, may be in a log or come to be.
    pub(super) fn perhaps_applied(&self) -> bool {
        self.perhaps_logged || !self.in_flight.is_empty()
    }

    fn take(&mut self, request: u64, link: LinkId) -> Option<Attempt> {
        let is_it = |attempt: &Attempt| (attempt.request, attempt.link) == (request, link);
        let index = self.in_flight.iter().position(is_it)?;
        Some(self.in_flight.remove(index))
    }
}

/// The table of this module's head: what a refusal means for a request, where `doubt` says that
/// another copy may be in a log.
pub(super) fn judge(
    refused: &Refused,
    named_by: NamedBy,
    doubt: bool,
    renewed: bool,
    identity: Option<&Identity>,
) -> Verdict {
    let unknown = |reason| Verdict::End(Error::Unknown { identity: identity.cloned(), reason });
    let definite = |error: Error| match doubt {
        true => unknown(UnknownReason::LaterRefusal(error.to_string())),
        false => Verdict::End(error),
    };
    let doubt_of_session = doubt || named_by == NamedBy::Caller;
    match refused {
        Refused::NotLeader { .. } | Refused::NoLeader | Refused::LeadershipLost => Verdict::AskOn,
        Refused::Busy(_) => Verdict::AskLater,
        Refused::TooLarge(message) => definite(Error::TooLarge(message.clone())),
        Refused::Malformed(message) => definite(Error::Malformed(message.clone())),
        Refused::TransferFailed(message) => definite(Error::TransferFailed(message.clone())),
        Refused::NoSpace(message) => definite(Error::NoSpace(message.clone())),
        Refused::SequenceReused => definite(Error::SequenceReused),
        Refused::SessionExpired if doubt_of_session => unknown(UnknownReason::SessionExpired),
        Refused::SessionExpired if renewed => Verdict::End(Error::SessionExpired),
        Refused::SessionExpired => Verdict::Renew,
        Refused::OutcomeForgotten if doubt_of_session => unknown(UnknownReason::OutcomeForgotten),
        Refused::OutcomeForgotten => Verdict::End(Error::OutcomeForgotten),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table says, in a word.
    fn row(refused: &Refused, named_by: NamedBy, doubt: bool, renewed: bool) -> &'static str {
        match judge(refused, named_by, doubt, renewed, None) {
            Verdict::AskOn => "ask on",
            Verdict::AskLater => "ask later",
            Verdict::Renew => "renew",
            Verdict::End(error) if error.is_definite() => "definite",
            Verdict::End(_) => "unknown",
        }
    }

    #[test]
    fn judge_follows_every_row_of_the_table() {
        use NamedBy::{Caller, Session};
        let message = String::new;
        // own: no doubt, doubt; given: no doubt, doubt
        let rows: [(Refused, [&str; 4]); 11] = [
            (Refused::NotLeader { term: Term(1), leader: None }, ["ask on"; 4]),
            (Refused::NoLeader, ["ask on"; 4]),
            (Refused::LeadershipLost, ["ask on"; 4]),
            (Refused::Busy(message()), ["ask later"; 4]),
            (Refused::TooLarge(message()), ["definite", "unknown", "definite", "unknown"]),
            (Refused::Malformed(message()), ["definite", "unknown", "definite", "unknown"]),
            (Refused::TransferFailed(message()), ["definite", "unknown", "definite", "unknown"]),
            (Refused::NoSpace(message()), ["definite", "unknown", "definite", "unknown"]),
            (Refused::SequenceReused, ["definite", "unknown", "definite", "unknown"]),
            (Refused::SessionExpired, ["renew", "unknown", "unknown", "unknown"]),
            (Refused::OutcomeForgotten, ["definite", "unknown", "unknown", "unknown"]),
        ];
        for (refused, expected) in rows {
            let cases = [(Session, false), (Session, true), (Caller, false), (Caller, true)];
            let said = cases.map(|(named_by, doubt)| row(&refused, named_by, doubt, false));
            assert_eq!(said, expected, "{refused:?}");
        }
        assert_eq!(row(&Refused::SessionExpired, Session, false, true), "definite");
    }

    #[test]
    fn copies_leave_doubt_unless_refused_or_unsent() {
        let attempt = |request| Attempt {
            request,
            link: LinkId(request),
            sent_at: Instant::ZERO,
            to_leader: true,
            leader_term: Term(1),
            patient_until: Instant::ZERO,
            give_up_at: Instant::ZERO,
            overdue: false,
        };
        let after = |what: fn(&mut Attempts)| {
            let mut attempts = Attempts::default();
            attempts.on_sent(attempt(1));
            what(&mut attempts);
            attempts.perhaps_applied()
        };
        assert!(after(|_| {}), "it waits for its answer");
        assert!(!after(|attempts| assert!(attempts.on_not_sent(1, LinkId(1)))));
        assert!(!after(|attempts| assert!(attempts.on_answered(1, LinkId(1), true).is_some())));
        assert!(after(|attempts| assert!(attempts.on_answered(1, LinkId(1), false).is_some())));
        assert!(after(|attempts| assert!(attempts.on_link_lost(LinkId(1)))));
    }
}
