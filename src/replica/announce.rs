//! What people follow in the log: one line for each change of role, in fixed words.

use super::Replica;
use crate::raft::{Cause, Event, Timeline};
use crate::storage::Disk;
use crate::time::{Duration, Instant};
use crate::types::{NodeId, Term};

/// A broken protocol is told of once in this time.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(1);

impl<D: Disk> Replica<D> {
    /// Logs the changes of this turn.
    pub(super) fn announce(&mut self, now: Instant) {
        let id = self.own.id;
        let port = |id| self.members.port(id).to_owned();
        for event in self.raft.take_events() {
            match event {
                Event::ElectionStarted { term, cause } => {
                    let cause = cause.as_str();
                    log::info!("election started id={id} port={} term={term} cause=\"{cause}\"", port(id));
                }
                Event::Elected { term, timeline, committed } => {
                    self.announce_elected(term, timeline, committed);
                }
                Event::NewLeader { leader, term } => {
                    log::info!("new leader id={leader} port={} term={term}", port(leader));
                }
                Event::SteppingDown { from, to } => {
                    log::info!("stepping down id={id} port={} term={from} new_term={to}", port(id));
                }
                // Who breaks it once may do so in every message.
                Event::ProtocolViolation { .. } if now < self.own.no_complaint_before => {}
                Event::ProtocolViolation { from, what } => {
                    self.own.no_complaint_before = now + COMPLAINT_PERIOD;
                    log::error!("node {from} broke the protocol, its message was dropped: {what}");
                }
            }
        }
    }

    /// The winner's line, with the time line of the fail-over as the winner saw it.
    fn announce_elected(&self, term: Term, timeline: Timeline, committed: Instant) {
        let NodeId(id) = self.own.id;
        let [noticed, won, committed] = timeline.steps(committed).map(millis);
        let since = match timeline.cause {
            Cause::Founding => "founding",
            _ if timeline.last_heard == self.own.started => "start",
            _ => "last heard",
        };
        log::info!(
            "elected leader id={id} port={} term={term} cause=\"{}\" since=\"{since}\" \
             noticed_ms={noticed:.1} won_ms={won:.1} first_commit_ms={committed:.1}",
            self.members.port(self.own.id),
            timeline.cause.as_str(),
        );
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
