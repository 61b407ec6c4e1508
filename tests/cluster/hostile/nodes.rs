//! Connections that pretend to be nodes: forged, replayed, of another cluster, out of their minds.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvstore::types::{BootNumber, ClusterId, Incarnation, LogIndex, NodeId, Term};
use kvstore::wire::Reader;
use kvstore::wire::frame::FrameKind;
use kvstore::wire::hello::{PeerHello, Refusal, RefusalReason};
use kvstore::wire::peer::{
    AppendEntries, Message, PreVote, PreVoteResponse, RequestVote, RequestVoteResponse, TimeoutNow,
};

use super::Target;
use super::raw::{Raw, frame};
use crate::cluster::Cluster;
use crate::setup::{eventually, prepared};

fn hello(cluster: Option<ClusterId>, node: u64, incarnation: u64, boot: u64) -> PeerHello {
    PeerHello {
        cluster,
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        boot: BootNumber(boot),
        last_index: LogIndex(0),
        advertise: "127.0.0.1:1".to_owned(),
        met: Vec::new(),
        restored: None,
    }
}

fn introduce(port: u16, hello: &PeerHello) -> Result<Raw> {
    let mut raw = Raw::connect(port)?;
    raw.send(&frame(FrameKind::PeerHello, |out| hello.encode(out)))?;
    Ok(raw)
}

fn message(message: &Message) -> Vec<u8> {
    frame(FrameKind::Message, |out| message.encode(out))
}

/// Messages of a node that has lost its mind.
fn absurd() -> Vec<Message> {
    let (term, far) = (Term(u64::MAX), LogIndex(u64::MAX));
    vec![
        Message::RequestVote(RequestVote {
            term,
            last_log_index: far,
            last_log_term: term,
            leadership_transfer: true,
        }),
        Message::RequestVoteResponse(RequestVoteResponse { term, vote_granted: true }),
        Message::PreVote(PreVote { term, last_log_index: far, last_log_term: term, round: u64::MAX }),
        Message::PreVoteResponse(PreVoteResponse { term, round: u64::MAX, vote_granted: false }),
        Message::AppendEntries(AppendEntries {
            term,
            prev_log_index: LogIndex(0),
            prev_log_term: Term(0),
            entries: Vec::new(),
            leader_commit: far,
        }),
        Message::TimeoutNow(TimeoutNow { term }),
    ]
}

/// The last that a node says to somebody whom it refuses.
fn refusal(raw: &mut Raw) -> Result<RefusalReason> {
    let frames = raw.rest()?;
    let last = frames.last().filter(|frame| frame.kind == FrameKind::Refusal);
    let last = last.with_context(|| format!("{frames:?} instead of a refusal"))?;
    Ok(Refusal::decode(&mut Reader::new(last.payload.clone()))?.reason)
}

#[test]
fn forged_introductions_are_refused() -> Result<()> {
    let target = Target::new()?;
    target.withstands(|| {
        let (_, welcome) = Raw::client(target.port())?;
        let ours = welcome.cluster;
        let other = Some(ClusterId(7));
        let mut sent = Vec::new();
        for (node, cluster, reason) in [
            (2, ours, RefusalReason::DuplicateId),
            (1, ours, RefusalReason::DuplicateId),
            (4, ours, RefusalReason::Stranger),
            (u64::MAX, ours, RefusalReason::Stranger),
            (2, other, RefusalReason::WrongCluster),
            (2, None, RefusalReason::DuplicateId),
            (0, ours, RefusalReason::Malformed),
        ] {
            let mut raw = introduce(target.port(), &hello(cluster, node, 99, 1))?;
            // Whatever follows is not even looked at.
            absurd().iter().try_for_each(|absurd| raw.send(&message(absurd)))?;
            sent.push((raw, node, cluster, reason));
        }
        for (mut raw, node, cluster, reason) in sent {
            let seen = refusal(&mut raw).with_context(|| format!("node {node} of {cluster:?}"))?;
            ensure!(seen == reason, "{seen:?} for node {node} of {cluster:?}");
        }
        Ok(())
    })
}

#[test]
fn messages_without_an_introduction_are_refused() -> Result<()> {
    let target = Target::new()?;
    target.withstands(|| {
        let mut sent = Vec::new();
        for absurd in absurd() {
            let mut raw = Raw::connect(target.port())?;
            raw.send(&message(&absurd))?;
            sent.push(raw);
        }
        for mut raw in sent {
            ensure!(refusal(&mut raw)? == RefusalReason::Malformed);
        }
        Ok(())
    })
}

/// A guest who comes before the founding is told whom a node has met: enough to replay the
/// introduction of one of them, word for word.
fn eavesdrop(cluster: &Cluster) -> Result<Incarnation> {
    eventually("a node tells of node 2", || {
        let mut raw = introduce(cluster.port(0), &hello(None, 77, 1, 1)).ok()?;
        let answer = raw.next().ok().flatten().filter(|frame| frame.kind == FrameKind::PeerHello)?;
        let hello = PeerHello::decode(&mut Reader::new(answer.payload)).ok()?;
        hello.met.iter().find(|member| member.id == NodeId(2)).map(|member| member.incarnation)
    })
}

/// Without secrets a perfect replay takes the link over, until the node that it belongs to redials.
/// It must not move the term or the leader, whatever it says.
#[test]
fn replayed_introduction_moves_neither_term_nor_leader() -> Result<()> {
    let mut cluster = prepared(3)?;
    let since = Instant::now();
    for node in [0, 1] {
        cluster.start(node)?;
    }
    let incarnation = eavesdrop(&cluster)?;
    cluster.start(2)?;
    ensure!(cluster.wait_until_whole()? == 0);
    let (_, welcome) = Raw::client(cluster.port(0))?;
    let replayed = hello(welcome.cluster, 2, incarnation.0, 1);

    // A link so old that no two dials can have raced for it gives way.
    thread::sleep(Duration::from_millis(3500));
    let mut raw = introduce(cluster.port(0), &replayed)?;
    raw.next()?.context("no answer to a perfect introduction")?;
    absurd().iter().try_for_each(|absurd| raw.send(&message(absurd)))?;
    // The real node takes its link back.
    raw.rest()?;
    ensure!(cluster.wait_until_whole()? == 0, "leadership has moved");
    let mut old = introduce(cluster.port(0), &hello(welcome.cluster, 2, incarnation.0, 0))?;
    ensure!(refusal(&mut old)? == RefusalReason::OldBoot);
    let broke = |line: &str| line.contains("node 2 broke the protocol");
    cluster.wait_for_line(0, since, broke)?;
    ensure!(cluster.wait_until_whole()? == 0 && cluster.status(0)?.term.0 == 1, "the term has moved");
    Ok(())
}
