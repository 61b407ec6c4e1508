//! Connections that pretend to be nodes: forged, replayed, of another cluster, out of their minds.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvstore::types::{BootNumber, ClusterId, Incarnation, LogIndex, NodeId, Term};
use kvstore::wire::Reader;
use kvstore::wire::frame::FrameKind;
use kvstore::wire::hello::{Confirmation, DialNumber, Inquiry, PeerHello, Refusal, RefusalReason};
use kvstore::wire::peer::{
    AppendEntries, Message, PreVote, PreVoteResponse, RequestVote, RequestVoteResponse, TimeoutNow,
};
use rustix::process::Signal;

use super::Target;
use super::raw::{Raw, frame};
use crate::cluster::{Cluster, PATIENCE};
use crate::setup::{client_of, eventually, stop};

static DIALS: AtomicU64 = AtomicU64::new(1);

fn hello(cluster: Option<ClusterId>, node: u64, incarnation: u64, boot: u64) -> PeerHello {
    PeerHello {
        cluster,
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        boot: BootNumber(boot),
        // More than any true one, so that no introduction is refused for what it lacks.
        last_index: LogIndex(1 << 40),
        // Drawn anew for each dial, as a node does.
        dial: DialNumber(DIALS.fetch_add(1, Ordering::Relaxed)),
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

/// Messages of a node that has lost its mind, and of one that wants to lead the next term.
fn absurd() -> Vec<Message> {
    let (term, far) = (Term(u64::MAX), LogIndex(u64::MAX));
    let next = Term(2);
    vec![
        Message::RequestVote(RequestVote {
            term: next,
            last_log_index: far,
            last_log_term: next,
            leadership_transfer: true,
        }),
        Message::AppendEntries(AppendEntries {
            term: next,
            prev_log_index: LogIndex(0),
            prev_log_term: Term(0),
            entries: Vec::new(),
            leader_commit: LogIndex(0),
        }),
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

/// A node tells everybody who asks who it is: enough to introduce oneself as that node, word for word.
fn identity(cluster: &Cluster, node: usize) -> Result<Confirmation> {
    let mut raw = Raw::connect(cluster.port(node))?;
    raw.send(&frame(FrameKind::Inquiry, |out| {
        Inquiry { node: NodeId(9), advertise: String::new(), dials: vec![DialNumber(1)] }.encode(out)
    }))?;
    let answer = raw.next()?.filter(|frame| frame.kind == FrameKind::Confirmation);
    let answer = answer.context("no answer to an inquiry")?;
    let confirmation = Confirmation::decode(&mut Reader::new(answer.payload))?;
    ensure!(confirmation.dials.is_empty(), "a node owns up to a dial that is not its own");
    Ok(confirmation)
}

/// Introduces himself to node 1 as a node with this boot, and goes on at once as if it were that one.
fn forge(target: &Target, who: &Confirmation, boot: u64) -> Result<Raw> {
    let (_, welcome) = Raw::client(target.port())?;
    let forged = hello(welcome.cluster, who.node.0, who.incarnation.0, boot);
    let mut raw = introduce(target.port(), &forged)?;
    absurd().iter().try_for_each(|absurd| raw.send(&message(absurd)))?;
    Ok(raw)
}

/// Whoever was refused or closed has not been answered as a node.
fn is_not_believed(mut raw: Raw) -> Result<()> {
    let frames = raw.rest()?;
    let is_answered = frames.iter().any(|frame| frame.kind != FrameKind::Refusal);
    ensure!(!is_answered, "a forged introduction was answered: {frames:?}");
    Ok(())
}

/// Nodes 1 and 2 make a majority without node 3, so there is a link between them.
fn are_linked(cluster: &Cluster) -> Result<()> {
    stop(cluster, 2)?;
    client_of(cluster, &[0], PATIENCE)?.put("linked", "yes")?;
    cluster.signal(2, Signal::CONT)
}

/// The true node 2, after a restart, is linked whatever was said in its name.
fn restart_is_linked(cluster: &mut Cluster, is_running: bool) -> Result<()> {
    if is_running {
        cluster.signal(1, Signal::KILL)?;
        cluster.wait_for_exit(1)?;
    }
    cluster.start(1)?;
    ensure!(cluster.wait_until_whole()? == 0, "leadership has moved");
    ensure!(cluster.status(0)?.term.0 == 1, "the term has moved");
    are_linked(cluster)
}

#[test]
fn forged_or_replayed_introduction_of_a_member_moves_nothing_and_cuts_no_link() -> Result<()> {
    let mut target = Target::new()?;
    let who = identity(&target.cluster, 1)?;
    // A link so old that no two dials can have raced for it would give way to a new one.
    thread::sleep(Duration::from_millis(3500));
    target.withstands(|| {
        let forged = [who.boot.0, who.boot.0 + 1, u64::MAX].map(|boot| forge(&target, &who, boot));
        are_linked(&target.cluster)?;
        forged.into_iter().try_for_each(|raw| is_not_believed(raw?))
    })?;
    let mut below = forge(&target, &who, who.boot.0 - 1)?;
    ensure!(refusal(&mut below)? == RefusalReason::OldBoot);
    restart_is_linked(&mut target.cluster, true)
}

#[test]
fn forged_introduction_of_a_dead_member_is_not_believed_and_keeps_nobody_out() -> Result<()> {
    let mut target = Target::new()?;
    let who = identity(&target.cluster, 1)?;
    target.cluster.signal(1, Signal::KILL)?;
    target.cluster.wait_for_exit(1)?;
    for boot in [who.boot.0, who.boot.0 + 1, u64::MAX] {
        let mut raw = forge(&target, &who, boot)?;
        let seen = refusal(&mut raw).with_context(|| format!("boot {boot}"))?;
        ensure!(seen == RefusalReason::NotConfirmed, "{seen:?} for boot {boot}");
    }
    restart_is_linked(&mut target.cluster, false)
}

/// Waits for this node's next dial to the listener. Gives its number, and all that was accepted until
/// then: a dial that is closed is not owned up to in any case.
fn next_dial(listener: &TcpListener, node: u64) -> Result<(DialNumber, Vec<Raw>)> {
    let mut accepted = Vec::new();
    loop {
        let mut raw = Raw::new(eventually("a dial", || listener.accept().ok())?.0)?;
        let frame = raw.next()?.filter(|frame| frame.kind == FrameKind::PeerHello);
        if let Some(frame) = frame {
            let hello = PeerHello::decode(&mut Reader::new(frame.payload))?;
            accepted.push(raw);
            if hello.node == NodeId(node) {
                return Ok((hello.dial, accepted));
            }
        }
    }
}

#[test]
fn dial_that_whoever_has_a_dead_members_port_passes_on_is_not_believed() -> Result<()> {
    let mut target = Target::new()?;
    let (who, cluster) = (identity(&target.cluster, 2)?, Raw::client(target.port())?.1.cluster);
    target.cluster.signal(1, Signal::KILL)?;
    target.cluster.wait_for_exit(1)?;
    let listener = TcpListener::bind(("127.0.0.1", target.cluster.port(1)))?;
    listener.set_nonblocking(true)?;
    for boot in [who.boot.0, who.boot.0 + 1] {
        // Node 3 takes the listener for node 2; node 1 is shown that very dial, as if it led to it.
        let (dial, kept_open) = next_dial(&listener, 3)?;
        let forged = PeerHello { dial, ..hello(cluster, 3, who.incarnation.0, boot) };
        let mut raw = introduce(target.port(), &forged)?;
        absurd().iter().try_for_each(|absurd| raw.send(&message(absurd)))?;
        is_not_believed(raw).with_context(|| format!("boot {boot}"))?;
        drop(kept_open);
    }
    drop(listener);
    restart_is_linked(&mut target.cluster, false)
}

#[test]
fn flood_of_forged_introductions_moves_nothing_and_keeps_nobody_out() -> Result<()> {
    let mut target = Target::new()?;
    let members = [identity(&target.cluster, 1)?, identity(&target.cluster, 2)?];
    target.withstands(|| {
        let until = Instant::now() + Duration::from_secs(2);
        let mut open = VecDeque::new();
        for boot in (0..).take_while(|_| Instant::now() < until) {
            let who = &members[boot % 2];
            open.push_back(forge(&target, who, who.boot.0 + boot as u64 % 3)?);
            if open.len() > 400 {
                open.pop_front();
            }
        }
        are_linked(&target.cluster)
    })?;
    restart_is_linked(&mut target.cluster, true)
}
