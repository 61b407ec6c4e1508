//! One entry of `--peers`: when to dial it again, and what a failed dial proves.
//!
//! After the loss of a link it matters to know soon whether the process at the other end is dead.
//! A dial that is *refused* proves it: the machine answers, and nobody listens. A dial that is
//! *accepted and then closed* before the handshake proves nothing, since a dying process' listener
//! does exactly that for a moment; so it is repeated at once, a few times, and then every few
//! milliseconds for one heartbeat. Silence proves nothing either. After that, and for entries that
//! never answered, pauses grow to a quarter of a second: a node that comes back is found soon, and
//! a dead one costs next to nothing.

use rand::RngExt;
use rand::rngs::StdRng;

use super::config::PeerEntry;
use super::founding::Report;
use super::peers::Inquirer;
use crate::net::ConnectionId;
use crate::time::{Duration, Instant};
use crate::types::NodeId;
use crate::wire::hello::DialNumber;

/// How long a connect may take. The system itself would try for minutes.
pub const DIAL_TIMEOUT: Duration = Duration::from_millis(300);
/// The longest pause. Longer ones would show in the time of a fail-over.
pub const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Undecided redials that are repeated without any pause.
const AT_ONCE: u32 = 5;
/// The pause of undecided redials after those.
const UNDECIDED_PAUSE: Duration = Duration::from_millis(5);

/// The first pause; each is twice the one before. It goes with the heartbeat, so that a link that
/// breaks is back long before an election timeout, however short that is.
pub fn min_pause(heartbeat: Duration) -> Duration {
    heartbeat / 3
}

/// How a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens there: the process that did is dead.
    Refused,
    /// Accepted, and closed before its handshake.
    ClosedEarly,
    /// The handshake ended with a refusal, by either side.
    Refusal,
    /// Anything else: silence, no route.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing to dial for: there is a link.
    Resting,
    /// A timer runs until the next dial.
    Waiting,
    /// A dial or its handshake is under way.
    Dialling,
    /// The entry is this node itself under another name.
    Own,
}

/// A dial that has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Where it goes on.
    pub connection: ConnectionId,
    /// By which this node owns up to it.
    pub number: DialNumber,
    /// The cluster was founded since it began.
    pub is_outdated: bool,
}

/// The state of one entry.
#[derive(Debug)]
pub struct Dialler {
    /// Where, and who must answer there.
    pub entry: PeerEntry,
    /// Who answered there last.
    pub node: Option<NodeId>,
    /// Of whom it was told that the list has him here.
    pub listed: Option<NodeId>,
    /// What it told, for as long as there is a link to it and no cluster.
    pub report: Option<Report>,
    /// It answers, but one side refuses the other.
    pub is_refusal: bool,
    /// The dial, also after it became a link.
    pub dial: Option<Dial>,
    /// What is asked there about others' dials.
    pub inquirer: Inquirer,
    state: State,
    failures: u32,
    undecided: Option<Undecided>,
}

/// After a loss: the redials that proved nothing so far.
#[derive(Clone, Copy, Debug)]
struct Undecided {
    attempts: u32,
    /// When they end, once those at once are used up.
    until: Option<Instant>,
}

impl Dialler {
    /// An entry that was never dialled; its timer is taken to run.
    #[must_use]
    pub fn new(entry: PeerEntry) -> Self {
        Self {
            entry,
            node: None,
            listed: None,
            report: None,
            is_refusal: false,
            dial: None,
            inquirer: Inquirer::default(),
            state: State::Waiting,
            failures: 0,
            undecided: None,
        }
    }

    /// Whether this entry was found to be this node itself.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.state == State::Own
    }

    /// Whether a dial is wanted that is not under way: true also while its timer runs.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// A dial begins.
    pub fn on_dial(&mut self, dial: Dial) {
        self.dial = Some(dial);
        self.state = State::Dialling;
    }

    /// This node answered its own dial.
    pub fn on_own(&mut self) {
        self.state = State::Own;
    }

    /// The cluster is founded. Who was dialled and has not answered may have heard that there is none.
    pub fn on_founded(&mut self) {
        self.report = None;
        if let Some(dial) = &mut self.dial {
            dial.is_outdated = true;
        }
    }

    /// There is a link to the node behind this entry, whoever dialled it.
    pub fn rest(&mut self) {
        if matches!(self.state, State::Waiting | State::Dialling) {
            self.state = State::Resting;
        }
    }

    /// The link to the node behind this entry was lost. Whether to dial now: yes, unless a dial is
    /// under way, or the link `settled` not long enough to be worth anything; then a timer must
    /// run, see [`Dialler::next_pause`].
    pub fn on_link_lost(&mut self, settled: bool) -> bool {
        self.report = None;
        self.undecided = Some(Undecided { attempts: 0, until: None });
        if settled {
            self.failures = 0;
        }
        if !matches!(self.state, State::Resting | State::Waiting) {
            return false;
        }
        self.state = State::Waiting;
        self.failures == 0
    }

    /// The dial, or its handshake, failed; after which pause to dial again.
    pub fn on_failure(
        &mut self,
        now: Instant,
        failure: Failure,
        heartbeat: Duration,
        jitter: &mut StdRng,
    ) -> Duration {
        self.is_refusal = failure == Failure::Refusal;
        self.dial = None;
        if self.state != State::Own {
            self.state = State::Waiting;
        }
        match failure {
            Failure::ClosedEarly => {
                if let Some(pause) = self.undecided_pause(now, heartbeat) {
                    return pause;
                }
            }
            Failure::Refused => self.undecided = None,
            Failure::Refusal | Failure::Other => {}
        }
        self.next_pause(heartbeat, jitter)
    }

    /// The handshake succeeded: the next loss begins anew.
    pub fn on_handshake(&mut self, node: NodeId) {
        self.node = Some(node);
        self.is_refusal = false;
        self.state = State::Resting;
        self.undecided = None;
    }

    /// The pause before the next dial: growing, with jitter.
    pub fn next_pause(&mut self, heartbeat: Duration, jitter: &mut StdRng) -> Duration {
        let first = min_pause(heartbeat);
        let longest = first.saturating_mul(1 << self.failures.min(8)).min(MAX_PAUSE.max(first));
        self.failures = self.failures.saturating_add(1);
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(jitter.random_range(nanos / 2..=nanos))
    }

    fn undecided_pause(&mut self, now: Instant, heartbeat: Duration) -> Option<Duration> {
        let undecided = self.undecided.as_mut()?;
        undecided.attempts += 1;
        if undecided.attempts <= AT_ONCE {
            return Some(Duration::ZERO);
        }
        if now < *undecided.until.get_or_insert(now + heartbeat) {
            return Some(UNDECIDED_PAUSE);
        }
        self.undecided = None;
        None
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::types::Incarnation;
    use crate::wire::entry::Member;

    const HEARTBEAT: Duration = Duration::from_millis(30);
    const FIRST_PAUSE: Duration = Duration::from_millis(10);

    const DIAL: Dial = Dial {
        connection: ConnectionId { generation: 1, slot: 1 },
        number: DialNumber(7),
        is_outdated: false,
    };

    fn dialler() -> (Dialler, StdRng) {
        let entry = PeerEntry { node: None, address: "127.0.0.1:9002".to_owned() };
        (Dialler::new(entry), StdRng::seed_from_u64(1))
    }

    fn linked() -> (Dialler, StdRng) {
        let (mut dialler, jitter) = dialler();
        dialler.on_dial(DIAL);
        dialler.on_handshake(NodeId(2));
        (dialler, jitter)
    }

    #[test]
    fn entry_that_never_answers_is_dialled_with_growing_pauses_up_to_the_longest() {
        let (mut dialler, mut jitter) = dialler();
        let mut longest = FIRST_PAUSE;
        for _ in 0..20 {
            dialler.on_dial(DIAL);
            let pause = dialler.on_failure(Instant::ZERO, Failure::Refused, HEARTBEAT, &mut jitter);
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
            longest = (longest * 2).min(MAX_PAUSE);
        }
    }

    #[test]
    fn lost_link_is_redialled_at_once() {
        let (mut dialler, _) = linked();
        assert!(dialler.on_link_lost(true));
        assert!(dialler.is_waiting());
    }

    #[test]
    fn link_lost_again_and_again_before_it_settled_is_redialled_with_pauses() {
        let (mut dialler, mut jitter) = linked();
        assert!(dialler.on_link_lost(false), "the first time at once");
        dialler.next_pause(HEARTBEAT, &mut jitter);
        dialler.on_dial(DIAL);
        dialler.on_handshake(NodeId(2));
        assert!(!dialler.on_link_lost(false));
        assert!(dialler.on_link_lost(true), "a settled link forgives");
    }

    #[test]
    fn redial_closed_early_is_repeated_at_once_then_often_then_seldom() {
        let (mut dialler, mut jitter) = linked();
        dialler.on_link_lost(true);
        let mut now = Instant::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..13 {
            dialler.on_dial(DIAL);
            let pause = dialler.on_failure(now, Failure::ClosedEarly, HEARTBEAT, &mut jitter);
            pauses.push(pause);
            now += pause;
        }
        assert_eq!(pauses[..5], [Duration::ZERO; 5]);
        assert_eq!(pauses[5..11], [UNDECIDED_PAUSE; 6]);
        assert!(pauses[11] >= FIRST_PAUSE / 2 && pauses[12] >= FIRST_PAUSE);
    }

    #[test]
    fn redial_closed_early_after_one_was_refused_waits() {
        let (mut dialler, mut jitter) = linked();
        dialler.on_link_lost(true);
        for failure in [Failure::Refused, Failure::ClosedEarly] {
            dialler.on_dial(DIAL);
            let pause = dialler.on_failure(Instant::ZERO, failure, HEARTBEAT, &mut jitter);
            assert!(pause >= FIRST_PAUSE / 2, "{failure:?}: the death is proved, and nothing is undecided");
        }
    }

    #[test]
    fn what_an_entry_told_is_forgotten_with_its_link_and_a_refusal_with_the_next_failure() {
        let (mut dialler, mut jitter) = linked();
        let member = Member { id: NodeId(2), incarnation: Incarnation(1) };
        dialler.report = Some(Report { member, cluster: None, met: vec![member], restored: None });
        dialler.on_link_lost(true);
        assert!(dialler.report.is_none(), "who has gone is not met any more");
        for failure in [Failure::Refusal, Failure::Refused] {
            dialler.on_dial(DIAL);
            dialler.on_failure(Instant::ZERO, failure, HEARTBEAT, &mut jitter);
            assert_eq!(dialler.is_refusal, failure == Failure::Refusal);
        }
    }

    #[test]
    fn first_dial_closed_early_is_no_redial_and_waits() {
        let (mut dialler, mut jitter) = dialler();
        dialler.on_dial(DIAL);
        let pause = dialler.on_failure(Instant::ZERO, Failure::ClosedEarly, HEARTBEAT, &mut jitter);
        assert!(pause >= FIRST_PAUSE / 2);
    }

    #[test]
    fn loss_while_a_dial_is_under_way_starts_no_second_one() {
        let (mut dialler, _) = linked();
        dialler.on_dial(DIAL);
        assert!(!dialler.on_link_lost(true));
    }
}
