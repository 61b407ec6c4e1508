//! Values of each type, small enough that every bit of them can be flipped.

use bytes::Bytes;
use kvstore::types::{
    BootNumber, ClientId, ClientName, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Revision,
    Sequence, Term,
};
use kvstore::wire::Writer;
use kvstore::wire::client::*;
use kvstore::wire::entry::{Configuration, Entry, Member, Payload, Reached, SnapshotId};
use kvstore::wire::hello::{
    Confirmation, DialNumber, Inquiry, MemberAddress, PeerHello, Refusal, RefusalReason, Welcome,
};
use kvstore::wire::peer::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(super) fn bytes(length: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), length).prop_map(Bytes::from)
}

fn key() -> impl Strategy<Value = Bytes> {
    bytes(1..20)
}

fn value() -> impl Strategy<Value = Bytes> {
    bytes(0..30)
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn member_address() -> impl Strategy<Value = MemberAddress> {
    (any::<u64>(), text()).prop_map(|(id, address)| MemberAddress { id: NodeId(id), address })
}

fn member() -> impl Strategy<Value = Member> {
    any::<(u64, u64)>()
        .prop_map(|(id, incarnation)| Member { id: NodeId(id), incarnation: Incarnation(incarnation) })
}

pub(super) fn configuration() -> impl Strategy<Value = Configuration> {
    (any::<u128>(), vec(member(), 1..6)).prop_map(|(cluster, mut members)| {
        members.sort_unstable();
        members.dedup_by_key(|member| member.id);
        Configuration::new(ClusterId(cluster), members).expect("distinct members")
    })
}

fn client_id() -> impl Strategy<Value = ClientId> {
    let named = vec(any::<u8>(), 1..=ClientName::MAX_BYTES)
        .prop_map(|name| ClientId::Named(ClientName::new(&name).expect("1 to 64 bytes")));
    let library =
        any::<(u64, u64)>().prop_map(|(born, nonce)| ClientId::Library { born: ClusterTime(born), nonce });
    prop_oneof![named, library]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| Operation::Put { key, value }),
        key().prop_map(|key| Operation::Delete { key }),
        (key(), option::of(value()), value()).prop_map(|(key, expected, new)| Operation::CompareAndSet {
            key,
            expected,
            new
        }),
        client_id().prop_map(|client| Operation::CloseSession { client }),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    (client_id(), any::<(u64, u64)>(), operation()).prop_map(
        |(client, (sequence, acknowledged), operation)| Write {
            client,
            sequence: Sequence(sequence),
            acknowledged: Sequence(acknowledged),
            operation,
        },
    )
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => write().prop_map(Command::Write),
        1 => Just(Command::ExpireSessions),
    ]
}

pub(super) fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Done),
        Just(Outcome::NotFound),
        (option::of(value()), any::<bool>())
            .prop_map(|(current, truncated)| Outcome::Mismatch { current, truncated }),
    ]
}

pub(super) fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        any::<u64>().prop_map(|leader| Payload::NoOp { leader: NodeId(leader) }),
        configuration().prop_map(Payload::Configuration),
        command().prop_map(|command| {
            let mut out = Writer::new();
            command.encode(&mut out);
            Payload::Command(out.into_bytes())
        }),
    ]
}

fn append_entries() -> impl Strategy<Value = AppendEntries> {
    let entries = vec((0..3_u64, any::<u64>(), payload()), 0..4);
    let numbers = any::<(u32, u32, u32, u64)>();
    (numbers, entries).prop_map(|((prev_log_index, prev_log_term, newer, leader_commit), rest)| {
        let (mut index, mut term) = (LogIndex(prev_log_index.into()), Term(prev_log_term.into()));
        let entry = |(later, stamp, payload)| {
            (index, term) = (index.next(), Term(term.0 + later));
            Entry::new(index, term, ClusterTime(stamp), payload)
        };
        let entries = rest.into_iter().map(entry).collect();
        AppendEntries {
            term: Term(term.0 + u64::from(newer)),
            prev_log_index: LogIndex(prev_log_index.into()),
            prev_log_term: Term(prev_log_term.into()),
            entries,
            leader_commit: LogIndex(leader_commit),
        }
    })
}

fn append_result() -> impl Strategy<Value = AppendResult> {
    prop_oneof![
        any::<u64>().prop_map(|index| AppendResult::Match { match_index: LogIndex(index) }),
        any::<(u64, u64, u64)>().prop_map(|(prev, index, term)| AppendResult::Conflict {
            prev_log_index: LogIndex(prev),
            hint_index: LogIndex(index),
            hint_term: Term(term),
        }),
    ]
}

/// Four numbers and a mark: enough for every message that has nothing else.
fn plain_message() -> impl Strategy<Value = Message> {
    (0..8_u8, any::<(u64, u64, u64, u64, bool)>()).prop_map(|(which, (a, b, c, d, mark))| {
        let (term, last_log_index, last_log_term) = (Term(a), LogIndex(b), Term(c));
        match which {
            0 => Message::PreVote(PreVote { term, last_log_index, last_log_term, round: d }),
            1 => Message::PreVoteResponse(PreVoteResponse { term, round: d, vote_granted: mark }),
            2 => Message::RequestVote(RequestVote {
                term,
                last_log_index,
                last_log_term,
                leadership_transfer: mark,
            }),
            3 => Message::RequestVoteResponse(RequestVoteResponse { term, vote_granted: mark }),
            4 => Message::Heartbeat(Heartbeat { term, commit: LogIndex(b), round: d }),
            5 => Message::HeartbeatResponse(HeartbeatResponse { term, round: d }),
            6 => Message::ReadIndex(ReadIndex { term, request: d }),
            _ => Message::TimeoutNow(TimeoutNow { term }),
        }
    })
}

fn snapshot_id() -> impl Strategy<Value = SnapshotId> {
    (any::<u64>(), 0..9_u64, any::<u32>()).prop_map(|(index, term, checksum)| SnapshotId {
        index: LogIndex(index),
        term: Term(term),
        bytes: u64::MAX,
        checksum,
    })
}

fn install_snapshot() -> impl Strategy<Value = Message> {
    (9..99_u64, snapshot_id(), 0..u64::MAX / 2, bytes(0..30)).prop_map(|(term, snapshot, offset, chunk)| {
        Message::InstallSnapshot(InstallSnapshot { term: Term(term), snapshot, offset, chunk })
    })
}

fn install_snapshot_response() -> impl Strategy<Value = Message> {
    (any::<u64>(), snapshot_id(), option::of(any::<u64>())).prop_map(|(term, snapshot, offset)| {
        let result = offset.map_or(InstallResult::Installed, |offset| InstallResult::Received { offset });
        Message::InstallSnapshotResponse(InstallSnapshotResponse { term: Term(term), snapshot, result })
    })
}

fn room() -> impl Strategy<Value = Room> {
    let level = prop_oneof![Just(RoomLevel::None), Just(RoomLevel::Low), Just(RoomLevel::Enough)];
    (any::<(u64, u64)>(), level).prop_map(|((free_bytes, reserve_bytes), level)| Room {
        free_bytes,
        reserve_bytes,
        level,
    })
}

fn reached() -> impl Strategy<Value = Reached> {
    any::<(u64, u64, u64)>().prop_map(|(boot, one, other)| Reached {
        boot: BootNumber(boot),
        before: LogIndex(one.min(other)),
        index: LogIndex(one.max(other)),
    })
}

pub(super) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        8 => plain_message(),
        1 => install_snapshot(),
        1 => install_snapshot_response(),
        4 => append_entries().prop_map(Message::AppendEntries),
        2 => (any::<u64>(), append_result()).prop_map(|(term, result)| {
            Message::AppendEntriesResponse(AppendEntriesResponse { term: Term(term), result })
        }),
        1 => (any::<(u64, u64)>(), option::of(any::<u64>())).prop_map(|((term, request), index)| {
            let read_index = index.map(LogIndex);
            Message::ReadIndexResponse(ReadIndexResponse { term: Term(term), request, read_index })
        }),
        1 => configuration().prop_map(Message::Found),
        1 => (room(), vec((any::<u64>().prop_map(NodeId), reached()), 0..5))
            .prop_map(|(room, reached)| Message::Standing(Standing { room, reached })),
    ]
}

fn request_body() -> impl Strategy<Value = RequestBody> {
    prop_oneof![
        3 => write().prop_map(RequestBody::Write),
        1 => (key(), any::<bool>()).prop_map(|(key, stale)| RequestBody::Get { key, stale }),
        1 => (bytes(0..9), option::of(key()), any::<(u32, bool)>())
            .prop_map(|(prefix, after, (limit, stale))| RequestBody::Scan { prefix, after, limit, stale }),
        1 => Just(RequestBody::Status),
        1 => any::<u64>().prop_map(|to| RequestBody::Transfer { to: NodeId(to) }),
        1 => Just(RequestBody::ListSessions),
        1 => Just(RequestBody::Snapshot),
        1 => (option::of(snapshot_id()), any::<u64>())
            .prop_map(|(snapshot, offset)| RequestBody::Backup { snapshot, offset }),
    ]
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    (any::<(u64, u32)>(), option::of(any::<(u64, u64)>()), request_body()).prop_map(
        |((id, time_left_ms), silent, body)| {
            let silent_leader = silent.map(|(id, term)| SilentLeader { id: NodeId(id), term: Term(term) });
            Request { id, time_left_ms, silent_leader, body }
        },
    )
}

fn refused() -> impl Strategy<Value = Refused> {
    prop_oneof![
        (any::<u64>(), option::of(member_address()))
            .prop_map(|(term, leader)| Refused::NotLeader { term: Term(term), leader }),
        Just(Refused::NoLeader),
        text().prop_map(Refused::Busy),
        text().prop_map(Refused::TooLarge),
        text().prop_map(Refused::Malformed),
        Just(Refused::SequenceReused),
        Just(Refused::SessionExpired),
        Just(Refused::OutcomeForgotten),
        Just(Refused::LeadershipLost),
        text().prop_map(Refused::TransferFailed),
        text().prop_map(Refused::NoSpace),
    ]
}

fn role_name() -> impl Strategy<Value = RoleName> {
    use RoleName::{Candidate, Follower, Leader, Learner, PreCandidate};
    proptest::sample::select(vec![Follower, PreCandidate, Candidate, Leader, Learner])
}

fn node_status() -> impl Strategy<Value = NodeStatus> {
    let numbers = any::<(u64, u64, Option<u64>, [u64; 4], bool, [u64; 2])>();
    let bound = (text(), any::<(u64, u64)>()).prop_map(|(name, (used, cap))| Bound { name, used, cap });
    let lists = (vec(member_address(), 0..4), vec(bound, 0..3));
    (numbers, role_name(), text(), lists).prop_map(|(numbers, role, version, (members, bounds))| {
        let (id, term, leader, indexes, fsync, [free_bytes, reserve_bytes]) = numbers;
        let [commit, applied, first_index, last_index] = indexes.map(LogIndex);
        NodeStatus {
            id: NodeId(id),
            role,
            term: Term(term),
            leader: leader.map(NodeId),
            commit,
            applied,
            first_index,
            last_index,
            disk: DiskStatus { fsync, free_bytes, reserve_bytes },
            version,
            members,
            bounds,
        }
    })
}

fn session_info() -> impl Strategy<Value = SessionInfo> {
    (vec(any::<u8>(), 1..9), any::<(u64, u32, u64)>()).prop_map(|(name, (last, kept_results, write))| {
        SessionInfo {
            name: ClientName::new(&name).expect("1 to 64 bytes"),
            last_sequence: Sequence(last),
            kept_results,
            last_write: Revision(write),
        }
    })
}

pub(super) fn response() -> impl Strategy<Value = Response> {
    let body = prop_oneof![
        (outcome(), any::<bool>()).prop_map(|(outcome, cached)| ResponseBody::Written { outcome, cached }),
        option::of(value()).prop_map(ResponseBody::Value),
        (vec((key(), value()), 0..4), any::<bool>())
            .prop_map(|(rows, more)| ResponseBody::Rows { rows, more }),
        node_status().prop_map(|status| ResponseBody::Status(Box::new(status))),
        Just(ResponseBody::Transferred),
        vec(session_info(), 0..4).prop_map(ResponseBody::Sessions),
        refused().prop_map(ResponseBody::Refused),
        snapshot_id().prop_map(ResponseBody::SnapshotSaved),
        (snapshot_id(), 0..u64::MAX / 2, bytes(0..30))
            .prop_map(|(snapshot, offset, chunk)| { ResponseBody::BackupChunk { snapshot, offset, chunk } }),
    ];
    (any::<(u64, u64)>(), body).prop_map(|((id, revision), body)| Response {
        id,
        revision: Revision(revision),
        body,
    })
}

pub(super) fn peer_hello() -> impl Strategy<Value = PeerHello> {
    let numbers = (any::<Option<u128>>(), 1..=u64::MAX, any::<(u64, u64, u64, u64)>());
    (numbers, text(), vec(member(), 0..5), any::<Option<u64>>()).prop_map(
        |((cluster, node, (incarnation, boot, last_index, dial)), advertise, met, restored)| PeerHello {
            cluster: cluster.map(ClusterId),
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            boot: BootNumber(boot),
            last_index: LogIndex(last_index),
            dial: DialNumber(dial),
            advertise,
            met,
            restored: restored.map(Revision),
        },
    )
}

pub(super) fn inquiry() -> impl Strategy<Value = Inquiry> {
    let dials = vec(any::<u64>().prop_map(DialNumber), 0..5);
    (any::<u64>(), "[a-z]{0,9}", dials).prop_map(|(node, advertise, dials)| Inquiry {
        node: NodeId(node),
        advertise,
        dials,
    })
}

pub(super) fn confirmation() -> impl Strategy<Value = Confirmation> {
    (any::<(u64, u64, u64)>(), inquiry()).prop_map(|((node, incarnation, boot), inquiry)| Confirmation {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        boot: BootNumber(boot),
        dials: inquiry.dials,
    })
}

pub(super) fn welcome() -> impl Strategy<Value = Welcome> {
    let numbers = any::<(Option<u128>, [u64; 4], Option<u64>)>();
    (numbers, vec(member_address(), 0..5)).prop_map(
        |((cluster, [node, time, revision, term], leader), members)| Welcome {
            cluster: cluster.map(ClusterId),
            node: NodeId(node),
            cluster_time: ClusterTime(time),
            revision: Revision(revision),
            term: Term(term),
            leader: leader.map(NodeId),
            members,
        },
    )
}

pub(super) fn refusal() -> impl Strategy<Value = Refusal> {
    (proptest::sample::select(&RefusalReason::ALL[..]), text())
        .prop_map(|(reason, message)| Refusal { reason, message })
}
