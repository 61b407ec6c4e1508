//! What a client does when its leader goes away in the middle.

use std::thread;
use std::time::Duration;

use kvstore::client::{Client, Error, Options};
use kvstore::types::{ClientId, NodeId, Sequence, Term};
use kvstore::wire::client::{Operation, Refused, Request, RequestBody, SilentLeader, Write};
use kvstore::wire::hello::MemberAddress;

use crate::fake_node::{FakeNode, Reaction, refuse, written};
use crate::stalls::StallWatch;

const PATIENT: Duration = Duration::from_secs(30);

fn write_of(request: Request) -> Write {
    match request.body {
        RequestBody::Write(write) => write,
        other => panic!("not a write: {other:?}"),
    }
}

#[test]
fn leader_that_dies_in_mid_request_costs_an_attempt_and_the_write_keeps_its_name() {
    let nodes = FakeNode::cluster(vec![
        Box::new(|_| Reaction::Die),
        Box::new(|_| written(11)),
        Box::new(|_| Reaction::Silence),
    ]);
    let mut client = Client::connect(Options::new([nodes[2].address.clone()]).with_timeout(PATIENT)).unwrap();
    let reply = client.put("k", "v").unwrap();
    assert_eq!(reply.node, NodeId(2), "learned from node 3's welcome");
    assert!(2 <= reply.attempts);
    let at_leader = nodes[0].requests.recv().unwrap();
    let at_other = nodes[1].requests.recv().unwrap();
    assert_eq!(at_leader.silent_leader, None);
    assert_eq!(at_other.silent_leader, Some(SilentLeader { id: NodeId(1), term: Term(5) }));
    assert_eq!(write_of(at_leader), write_of(at_other));
}

#[test]
fn silent_leader_is_passed_over_and_the_next_write_goes_to_the_new_one() {
    let nodes = FakeNode::cluster(vec![Box::new(|_| Reaction::Silence), Box::new(|_| written(11))]);
    let options = Options::new([nodes[0].address.clone()]).with_timeout(PATIENT);
    let mut client = Client::connect(options).unwrap();
    assert_eq!(client.put("k", "v").unwrap().node, NodeId(2));
    let stalls = StallWatch::start();
    let second = client.put("k", "w").unwrap();
    // On a machine that stood still node 2 may have seemed silent, too.
    let may_ask_again = stalls.stop() > Duration::ZERO;
    assert_eq!(second.node, NodeId(2));
    assert!(second.attempts == 1 || may_ask_again, "{} attempts", second.attempts);
}

#[test]
fn redirect_leads_to_an_address_that_nobody_told_before() {
    let leader = FakeNode::alone(Box::new(|_| written(11)));
    let hint = MemberAddress { id: NodeId(9), address: leader.address.clone() };
    let follower = FakeNode::alone(Box::new(move |_| {
        refuse(Refused::NotLeader { term: Term(6), leader: Some(hint.clone()) })
    }));
    let options = Options::new([follower.address.clone()]).with_timeout(PATIENT);
    let reply = Client::connect(options).unwrap().put("k", "v").unwrap();
    assert!(2 <= reply.attempts);
    let (first, second) = (follower.requests.recv().unwrap(), leader.requests.recv().unwrap());
    assert_eq!(write_of(first), write_of(second));
}

#[test]
fn client_that_leaves_closes_its_session_and_its_connection() {
    let node = FakeNode::alone(Box::new(|_| written(11)));
    let mut client = Client::connect(Options::new([node.address.clone()])).unwrap();
    client.put("k", "v").unwrap();
    client.put("k", "w").unwrap();
    drop(client);
    let (first, second) = (write_of(node.requests.recv().unwrap()), write_of(node.requests.recv().unwrap()));
    assert!(matches!(first.client, ClientId::Library { .. }));
    assert_eq!((first.sequence, first.acknowledged), (Sequence(1), Sequence(1)));
    assert_eq!((second.sequence, second.acknowledged), (Sequence(2), Sequence(2)));
    let last = write_of(node.requests.recv().unwrap());
    assert_eq!((last.client, last.sequence), (first.client.clone(), Sequence(3)));
    assert_eq!(last.operation, Operation::CloseSession { client: first.client });
    node.ends.recv_timeout(PATIENT).expect("the connection ends");
}

#[test]
fn client_dropped_in_doubt_leaves_its_session_open() {
    let node = FakeNode::alone(Box::new(|_| Reaction::Silence));
    // Long enough to say hello and send the write, too short to give the silent connection up and send it again.
    let options = Options::new([node.address.clone()]).with_timeout(Duration::from_millis(900));
    let mut client = Client::connect(options).unwrap();
    let error = client.put("k", "v").unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    drop(client);
    node.ends.recv_timeout(PATIENT).expect("the connection ends");
    assert_eq!(node.requests.try_iter().count(), 1, "the write alone, no close of its session");
}

#[test]
fn largest_value_passes_a_node_that_reads_slowly() {
    let node = FakeNode::alone(Box::new(|_| {
        thread::sleep(Duration::from_millis(20)); // the node's slowness is the point here
        written(11)
    }));
    let options = Options::new([node.address.clone()]).with_timeout(PATIENT);
    let mut client = Client::connect(options).unwrap();
    client.compare_and_set("k", Some(&vec![1; 1 << 20]), vec![2; 1 << 20]).unwrap();
    let larger = vec![0; (1 << 20) + 1];
    let errors = [
        client.put("k", &larger).unwrap_err(),
        client.compare_and_set("k", Some(&larger), "v").unwrap_err(),
        client.compare_and_set("k", None, &larger).unwrap_err(),
    ];
    assert!(errors.iter().all(|error| matches!(error, Error::TooLarge(_))), "{errors:?}");
    assert_eq!(node.requests.try_iter().count(), 1, "what is too large is not sent");
}
