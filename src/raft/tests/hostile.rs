//! A core that is told anything by anybody: it must not panic, and what only rises must only rise.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::{Cluster, Flight};
use crate::raft::{Config, Raft};
use crate::time::{Duration, Instant};
use crate::types::{ClusterTime, LogIndex, NodeId, Term};
use crate::wire::codec::Writer;
use crate::wire::entry::{Entry, HardState, Payload};
use crate::wire::peer::{
    AppendEntries, AppendEntriesResponse, AppendResult, Heartbeat, HeartbeatResponse, Message, PreVote,
    PreVoteResponse, ReadIndex, ReadIndexResponse, RequestVote, RequestVoteResponse, TimeoutNow,
};

/// Draws numbers that hurt: small ones, those near a node's own, and the ends of the range.
struct Dice {
    rng: StdRng,
    near: u64,
}

impl Dice {
    fn number(&mut self) -> u64 {
        let ends = [0, 1, 2, 1 << 31, 1 << 32, (1 << 32) + 1, 1 << 63, u64::MAX - 1, u64::MAX];
        match self.rng.random_range(0..10) {
            0 => ends[self.rng.random_range(0..ends.len())],
            1..4 => self.rng.random_range(0..6),
            _ => self.near.saturating_add(self.rng.random_range(0..5)).saturating_sub(2),
        }
    }

    fn near(&mut self, near: u64) -> u64 {
        self.near = near;
        self.number()
    }

    fn entries(&mut self, prev: LogIndex, term: Term) -> Vec<Entry> {
        let count = self.rng.random_range(0..4);
        (1..=count)
            .map_while(|offset| {
                let index = prev.0.checked_add(offset)?;
                let entry_term = Term(self.near(term.0).min(term.0));
                let stamp = ClusterTime(if self.rng.random_bool(0.9) { 0 } else { self.number() });
                let payload = match self.rng.random_range(0..3) {
                    0 => Payload::NoOp { leader: NodeId(self.number()) },
                    _ => Payload::Command(Bytes::from_static(b"x")),
                };
                Some(Entry::new(LogIndex(index), entry_term, stamp, payload))
            })
            .collect()
    }

    fn message(&mut self, raft: &Raft) -> Message {
        let last = raft.log().last();
        let term = Term(self.near(raft.term().0));
        let (index, index_term) = (LogIndex(self.near(last.index.0)), Term(self.near(last.term.0)));
        let flag = self.rng.random_bool(0.5);
        let number = self.near(3);
        match self.rng.random_range(0..12) {
            0 => Message::PreVote(PreVote {
                term,
                last_log_index: index,
                last_log_term: index_term,
                round: number,
            }),
            1 => Message::PreVoteResponse(PreVoteResponse { term, round: number, vote_granted: flag }),
            2 => Message::RequestVote(RequestVote {
                term,
                last_log_index: index,
                last_log_term: index_term,
                leadership_transfer: flag,
            }),
            3 => Message::RequestVoteResponse(RequestVoteResponse { term, vote_granted: flag }),
            4 | 5 => {
                let prev_log_term = if flag { raft.log().term_at(index) } else { None }.unwrap_or(index_term);
                Message::AppendEntries(AppendEntries {
                    term,
                    prev_log_index: index,
                    prev_log_term,
                    entries: self.entries(index, term),
                    leader_commit: LogIndex(self.near(last.index.0)),
                })
            }
            6 => {
                let result = match flag {
                    true => AppendResult::Match { match_index: index },
                    false => AppendResult::Conflict {
                        prev_log_index: index,
                        hint_index: LogIndex(self.near(last.index.0)),
                        hint_term: index_term,
                    },
                };
                Message::AppendEntriesResponse(AppendEntriesResponse { term, result })
            }
            7 => Message::Heartbeat(Heartbeat { term, commit: index, round: number }),
            8 => Message::HeartbeatResponse(HeartbeatResponse { term, round: number }),
            9 => Message::ReadIndex(ReadIndex { term, request: number }),
            10 => Message::ReadIndexResponse(ReadIndexResponse {
                term,
                request: number,
                read_index: flag.then_some(index),
            }),
            _ => Message::TimeoutNow(TimeoutNow { term }),
        }
    }
}

/// What would come out of the wire: a message that cannot be decoded never reaches a core.
fn over_the_wire(message: &Message) -> Option<Message> {
    let mut out = Writer::new();
    message.encode(&mut out);
    Message::decode(out.into_bytes()).ok()
}

/// What a friendly peer would answer, so that every role is reached.
fn fair_answer(asked: &Message) -> Option<Message> {
    Some(match asked {
        Message::PreVote(m) => {
            Message::PreVoteResponse(PreVoteResponse { term: m.term, round: m.round, vote_granted: true })
        }
        Message::RequestVote(m) => {
            Message::RequestVoteResponse(RequestVoteResponse { term: m.term, vote_granted: true })
        }
        Message::Heartbeat(m) => {
            Message::HeartbeatResponse(HeartbeatResponse { term: m.term, round: m.round })
        }
        Message::AppendEntries(m) => {
            let match_index = m.prev_log_index.plus(m.entries.len() as u64);
            let result = AppendResult::Match { match_index };
            Message::AppendEntriesResponse(AppendEntriesResponse { term: m.term, result })
        }
        Message::ReadIndex(m) => Message::ReadIndexResponse(ReadIndexResponse {
            term: m.term,
            request: m.request,
            read_index: Some(LogIndex(1)),
        }),
        _ => return None,
    })
}

#[test]
fn core_told_anything_by_anybody_does_not_panic_and_only_rises() {
    let id = NodeId(1);
    let mut roles = [0; 4];
    for seed in 0..300 {
        let mut dice = Dice { rng: StdRng::seed_from_u64(seed), near: 0 };
        let mut cluster = Cluster::founded(5, |_: &mut Config| {});
        cluster.checks.is_forged = true;
        for _ in 0..600 {
            cluster.now += Duration::from_millis(dice.rng.random_range(0..20));
            let peer = NodeId(dice.rng.random_range(0..7));
            if cluster.network.len() > 8 {
                cluster.network.drain(..4);
            }
            match dice.rng.random_range(0..14) {
                0 => cluster.tick(id),
                1 => cluster.link_up(id, peer),
                2 => cluster.link_down(id, peer),
                3 => cluster.peer_dead(id, peer),
                4 => drop(cluster.propose(id, "x")),
                5 => drop(cluster.read(id)),
                6 => drop(cluster.transfer(id, peer)),
                7 => {
                    cluster.ready(id);
                    cluster.advance(id);
                }
                8 | 9 if !cluster.network.is_empty() => {
                    let asked = cluster.network.remove(dice.rng.random_range(0..cluster.network.len()));
                    if let Some(message) = fair_answer(&asked.message) {
                        cluster.deliver(Flight { from: asked.to, to: id, message });
                    }
                }
                _ => {
                    let message = dice.message(cluster.raft(id));
                    if let Some(message) = over_the_wire(&message) {
                        cluster.deliver(Flight { from: peer, to: id, message });
                    }
                }
            }
            roles[cluster.raft(id).role_name() as usize - 1] += 1;
        }
    }
    assert!(roles.iter().all(|count| *count > 100), "some role was never reached: {roles:?}");
}

/// Clocks may begin anywhere: deadlines near the end of time saturate instead of wrapping (V14).
#[test]
fn core_near_the_end_of_time_does_not_wrap() {
    let end = u64::MAX;
    for start in [0, end / 2, end - 1_000_000_000, end - 1] {
        let start = Instant::from_nanos(start);
        let founding = Cluster::founded(3, |_| {}).founding();
        let mut raft = Raft::new(Config::new(NodeId(1), 7), HardState::default(), vec![founding], start);
        for step in 0..100 {
            let now = start + Duration::from_millis(step * 10);
            raft.tick(now);
            assert!(raft.next_deadline() >= now || raft.has_ready(now));
            let ready = raft.ready(now);
            let _ = raft.advance(now, ready.mark);
        }
    }
}
