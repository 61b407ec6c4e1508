//! Golden scripts: blocks of commands, each followed by `---` and the report that it must give.
//!
//! A line that begins with `#` is a comment, a blank line ends a block. Nodes are numbers.
//!
//! | command | what it does |
//! |---|---|
//! | `cluster 3 [unfounded] [small]` | that many nodes, linked; `small`: 40 bytes an append, a window of 2 |
//! | `disk 2 term=3 vote=1 log=1,1,3` | restarts node 2 from this disk; entries from index 2 on have these terms |
//! | `found 1` | founds the cluster on node 1 |
//! | `tick 2 [+200ms]` | lets time pass (for all, though nobody else looks), then ticks node 2 |
//! | `campaign 1` | ticks node 1 at the moment of its next deadline |
//! | `leader 1` | that, and all that follows: it shall lead; reports nothing |
//! | `wait 10ms` | lets time pass, nobody ticks |
//! | `elapse 1s` | lets time pass, all tick, work and hear each other; reports roles and events only |
//! | `ready 1`, `advance 1` | the first and the second half of a turn's end: before and after its disk |
//! | `persist [1 ...]` | both |
//! | `deliver [1 2] [Kind]` | delivers what is under way, all or from 1 to 2 (`*`: any), of that kind |
//! | `drop`, `duplicate`, `delay` (same words) | loses it, sends it twice, sets it aside |
//! | `late` | puts what was set aside back on its way |
//! | `run` | turns and deliveries until nothing is left to do; no time passes |
//! | `send 2 1 Heartbeat term=1 ...` | a message as it would be written by nobody but the script |
//! | `propose 1 x ...`, `read 2`, `transfer 1 2` | a client's wishes; each word is one command |
//! | `resign 1` | node 1 is about to leave |
//! | `cut 1 2`, `cut 1 > 2`, `heal` | nothing arrives, both ways or one; all arrives again |
//! | `link-down 2 1`, `link-up 2 1`, `peer-dead 2 1`, `unread 2 1` | what node 2 learns of its link to 1 |
//! | `crash 1`, `restart 1` | ends the process; starts it from its disk |
//! | `stop 1`, `continue 1` | it does nothing of `run` and `elapse`, and what is sent to it waits; it goes on |
//! | `status`, `log` | all nodes |

use std::path::PathBuf;

use super::cluster::{Cluster, Flight};
use super::forge;
use super::report;
use crate::raft::{Config, Raft};
use crate::time::Duration;
use crate::types::{ClusterTime, LogIndex, NodeId, Term};
use crate::wire::entry::{Entry, HardState, Payload};

/// Plays a script and compares; with `UPDATE_GOLDEN=1` in the environment, writes what came out.
pub(super) fn check(name: &str) {
    let path = directory().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let played = play(&text);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &played).expect("the script can be written");
    } else if text != played {
        let name = path.display();
        panic!("{name} went another way (-: expected, +: now)\n{}", difference(&text, &played));
    }
}

/// Where the scripts are.
pub(super) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/raft/testscripts")
}

fn play(text: &str) -> String {
    let mut stage = Stage { cluster: None, aside: Vec::new() };
    let mut out = Vec::new();
    for block in text.trim().split("\n\n") {
        let commands: Vec<&str> = block.lines().take_while(|line| *line != "---").collect();
        let mut lines: Vec<String> = commands.iter().map(|line| (*line).to_owned()).collect();
        let is_said = commands.iter().any(|line| !line.starts_with('#'));
        if is_said {
            lines.push("---".to_owned());
            let said: Vec<&&str> = commands.iter().filter(|line| !line.starts_with('#')).collect();
            for command in &said {
                // With several commands in a block, each stands above what it did.
                lines.extend((said.len() > 1).then(|| format!("> {command}")));
                lines.extend(stage.play(command));
            }
        }
        out.push(lines.join("\n"));
    }
    out.join("\n\n") + "\n"
}

/// Both texts line by line, with what is only in one of them marked.
fn difference(expected: &str, played: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), played.lines().collect());
    // longest[i][j]: the longest common run of lines, in order, of old[i..] and new[j..].
    let mut longest = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let skip = longest[i + 1][j].max(longest[i][j + 1]);
            longest[i][j] = if old[i] == new[j] { longest[i + 1][j + 1] + 1 } else { skip };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push(format!("  {}", old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            out.push(format!("- {}", old[i]));
            i += 1;
        } else {
            out.push(format!("+ {}", new[j]));
            j += 1;
        }
    }
    out.join("\n")
}

struct Stage {
    cluster: Option<Cluster>,
    /// Messages set aside, to arrive late.
    aside: Vec<Flight>,
}

/// The words of a command after the first.
struct Words<'a>(Vec<&'a str>);

impl Words<'_> {
    fn id(&self, place: usize) -> NodeId {
        let word = self.0.get(place).unwrap_or_else(|| panic!("word {place} of {:?} is missing", self.0));
        NodeId(word.parse().unwrap_or_else(|_| panic!("{word} is no node")))
    }

    fn ids(&self) -> Vec<NodeId> {
        (0..self.0.len()).map(|place| self.id(place)).collect()
    }

    fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }

    fn duration(&self, place: usize) -> Duration {
        self.0.get(place).map_or(Duration::ZERO, |word| {
            let word = word.trim_start_matches('+');
            let (number, scale) = match word.strip_suffix("ms") {
                Some(number) => (number, 1),
                None => (word.trim_end_matches('s'), 1000),
            };
            Duration::from_millis(number.parse::<u64>().expect("a duration") * scale)
        })
    }

    /// Which messages are meant: `[from to] [Kind]`.
    fn selects(&self, flight: &Flight) -> bool {
        let is = |word: &str, id: NodeId| word == "*" || word == id.to_string();
        let kind = report::message(&flight.message);
        let kind = kind.split(' ').next().unwrap_or_default();
        match self.0.as_slice() {
            [] => true,
            [wanted] => *wanted == kind,
            [from, to] => is(from, flight.from) && is(to, flight.to),
            [from, to, wanted] => is(from, flight.from) && is(to, flight.to) && *wanted == kind,
            more => panic!("{more:?} names no messages"),
        }
    }
}

impl Stage {
    /// Plays one command and gives the report.
    fn play(&mut self, line: &str) -> Vec<String> {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let words = Words(words.collect());
        if command == "cluster" {
            self.cluster = Some(cluster(&words));
            return Vec::new();
        }
        let aside = &mut self.aside;
        let cluster = self.cluster.as_mut().expect("a script begins with `cluster`");
        match command {
            "deliver" | "drop" | "duplicate" | "delay" | "late" => network(cluster, aside, command, &words),
            "wait" | "tick" | "campaign" | "leader" | "elapse" => time(cluster, command, &words),
            "ready" | "advance" | "persist" | "run" => turn(cluster, command, &words),
            "propose" | "read" | "transfer" => wish(cluster, command, &words),
            "status" | "log" => look(cluster, command),
            "send" => {
                let (from, to) = (words.id(0), words.id(1));
                let message = forge::message(&words.0[2..]);
                cluster.checks.is_forged = true;
                cluster.say(|| format!("n{from} -> n{to} {}", report::message(&message)));
                cluster.deliver(Flight { from, to, message });
            }
            _ => circumstance(cluster, command, &words),
        }
        let report = cluster.take_report();
        if command == "leader" {
            return Vec::new();
        }
        if command != "elapse" {
            return report;
        }
        // Much is said while time goes by; what matters is who became what.
        let matters = |line: &String| line.contains(" event: ") || line.contains("(read ");
        report.into_iter().filter(matters).collect()
    }
}

fn cluster(words: &Words) -> Cluster {
    let count = words.id(0).0;
    let small = |config: &mut Config| {
        config.max_append_bytes = 40;
        config.window_messages = 2;
        config.max_uncommitted_bytes = 100;
    };
    let tune = if words.has("small") { small } else { |_: &mut Config| {} };
    let mut cluster = match words.has("unfounded") {
        true => Cluster::unfounded(count, tune),
        false => Cluster::founded(count, tune),
    };
    cluster.link_all();
    cluster.begin_report();
    cluster
}

fn network(cluster: &mut Cluster, aside: &mut Vec<Flight>, command: &str, words: &Words) {
    let selected = |flight: &Flight| words.selects(flight);
    let flights = std::mem::take(&mut cluster.network);
    let (chosen, rest): (Vec<_>, Vec<_>) = flights.into_iter().partition(selected);
    assert!(command == "late" || !chosen.is_empty(), "{command} {:?} finds no message", words.0);
    cluster.network = rest;
    match command {
        "deliver" => chosen.into_iter().for_each(|flight| cluster.deliver(flight)),
        "drop" => {}
        "duplicate" => cluster.network.extend(chosen.iter().chain(&chosen).cloned()),
        "delay" => aside.extend(chosen),
        _ => {
            cluster.network.extend(chosen);
            cluster.network.append(aside);
        }
    }
}

fn time(cluster: &mut Cluster, command: &str, words: &Words) {
    match command {
        "wait" => cluster.now += words.duration(0),
        "elapse" => cluster.elapse(words.duration(0)),
        "tick" => {
            cluster.now += words.duration(1);
            cluster.tick(words.id(0));
        }
        _ => {
            let id = words.id(0);
            cluster.now = cluster.now.max(cluster.raft(id).next_deadline());
            cluster.tick(id);
            if command == "leader" {
                cluster.run();
                assert_eq!(cluster.leader(), Some(id), "node {id} should lead");
            }
        }
    }
}

fn turn(cluster: &mut Cluster, command: &str, words: &Words) {
    match command {
        "run" => cluster.run(),
        "ready" => words.ids().into_iter().for_each(|id| cluster.ready(id)),
        "advance" => words.ids().into_iter().for_each(|id| cluster.advance(id)),
        _ => {
            let ids = if words.0.is_empty() { cluster.running() } else { words.ids() };
            for id in ids {
                cluster.ready(id);
                cluster.advance(id);
            }
        }
    }
}

fn wish(cluster: &mut Cluster, command: &str, words: &Words) {
    let id = words.id(0);
    let refusal = match command {
        "propose" => {
            let refused = |word: &&str| cluster.propose(id, word).err().map(|error| error.to_string());
            words.0[1..].iter().find_map(refused)
        }
        "transfer" => cluster.transfer(id, words.id(1)).err().map(|error| error.to_string()),
        _ => {
            cluster.read(id);
            None
        }
    };
    if let Some(refusal) = refusal {
        cluster.say(|| format!("n{id} refuses: {refusal}"));
    }
}

fn circumstance(cluster: &mut Cluster, command: &str, words: &Words) {
    match command {
        "disk" => disk(cluster, words),
        "found" => cluster.found(words.id(0)),
        "crash" => words.ids().into_iter().for_each(|id| cluster.crash(id)),
        "stop" => cluster.stopped.extend(words.ids()),
        "continue" => cluster.stopped.retain(|id| !words.ids().contains(id)),
        "restart" => {
            for id in words.ids() {
                cluster.start(id);
                for peer in cluster.running().into_iter().filter(|peer| *peer != id) {
                    cluster.link_up(id, peer);
                    cluster.link_up(peer, id);
                }
            }
        }
        "cut" if words.has(">") => {
            cluster.cuts.insert((words.id(0), words.id(2)));
        }
        "cut" => cluster.cuts.extend([(words.id(0), words.id(1)), (words.id(1), words.id(0))]),
        "heal" => cluster.cuts.clear(),
        "link-down" => cluster.link_down(words.id(0), words.id(1)),
        "link-up" => cluster.link_up(words.id(0), words.id(1)),
        "peer-dead" => cluster.peer_dead(words.id(0), words.id(1)),
        "unread" => {
            let (id, peer) = (words.id(0), words.id(1));
            cluster.call(id, |raft, now| raft.on_unread(now, peer));
        }
        "resign" => _ = cluster.call(words.id(0), Raft::resign),
        _ => panic!("{command} is no command"),
    }
}

fn disk(cluster: &mut Cluster, words: &Words) {
    let id = words.id(0);
    let value = |key: &str| words.0.iter().find_map(|word| word.strip_prefix(key));
    let vote = value("vote=").map(|vote| NodeId(vote.parse().expect("a node")));
    let term = Term(value("term=").expect("a term").parse().expect("a number"));
    let terms = value("log=").unwrap_or_default().split(',').filter(|term| !term.is_empty());
    let entries = terms.zip(2..).map(|(term, index)| {
        let payload = Payload::Command(format!("{index}.{term}").into());
        Entry::new(LogIndex(index), Term(term.parse().expect("a term")), ClusterTime::ZERO, payload)
    });
    let entries: Vec<Entry> = std::iter::once(cluster.founding()).chain(entries).collect();
    cluster.crash(id);
    let disk = &mut cluster.node_mut(id).disk;
    disk.entries = entries;
    disk.hard_state = HardState { term, voted_for: vote };
    cluster.start(id);
    cluster.link_all();
    cluster.take_report();
}

fn look(cluster: &mut Cluster, command: &str) {
    for id in cluster.ids() {
        let line = match &cluster.node(id).raft {
            None => "does not run".to_owned(),
            Some(raft) if command == "status" => {
                let vote = raft.hard_state().voted_for.map_or("-".to_owned(), |id| format!("n{id}"));
                let leader = raft.leader().map_or("-".to_owned(), |id| format!("n{id}"));
                let log = raft.log();
                format!(
                    "{} term={} vote={vote} leader={leader} last={} stable={} commit={} applied={}",
                    report::role(raft.role_name()),
                    raft.term(),
                    log.last_index(),
                    log.stable(),
                    log.committed(),
                    log.applied(),
                )
            }
            Some(raft) => report::entries(&raft.log().entries_from(LogIndex(1), usize::MAX)),
        };
        cluster.say(|| format!("n{id} {line}"));
    }
}
