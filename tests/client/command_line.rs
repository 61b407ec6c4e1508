//! `kv_client`: every word and every exit status that scripts rely on.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{Command, Output, Stdio};

use kvstore::types::NodeId;
use kvstore::wire::client::{Refused, ResponseBody};
use kvstore::wire::hello::MemberAddress;

use crate::fake_node::{FakeNode, Reaction, Store, address_of, bound, refuse, written};

fn command(address: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv_client"));
    command.args(["--endpoints", address]).stdin(Stdio::null());
    command
}

fn run<A: AsRef<OsStr>>(address: &str, arguments: &[A]) -> Output {
    command(address).args(arguments).output().unwrap()
}

/// Runs a line of words and gives its status, stdout and stderr.
fn line(address: &str, words: &str) -> (i32, String, String) {
    let output = run(address, &words.split(' ').collect::<Vec<_>>());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Checks a script of lines: `arguments => status stdout`.
fn check(address: &str, script: &str) {
    for step in script.lines().map(str::trim).filter(|step| !step.is_empty()) {
        let (words, expected) = step.split_once(" => ").expect("arguments => status stdout");
        let (status, stdout, stderr) = line(address, words);
        let stdout = stdout.replace('\n', "$").replace('\t', "^");
        assert_eq!(format!("{status} {stdout}").trim_end(), expected, "{words}: {stderr}");
    }
}

#[test]
fn commands_print_their_words_and_exit_as_promised() {
    let node = Store::node();
    check(
        &node.address,
        r"
        put colour blue => 0 OK$
        get colour => 0 blue$
        get colour --raw => 0 blue
        get --stale colour => 0 blue$
        get nothing => 1
        put -- -k -v => 0 OK$
        get -- -k => 0 -v$
        put minus -5 => 0 OK$
        --client-id c --seq 1 put a 1 => 0 OK$
        --client-id c --seq 1 put a 1 => 0 OK (cached)$
        put a 1 --seq 1 --client-id c => 0 OK (cached)$
        cas colour blue red => 0 OK$
        cas colour blue green => 1 mismatch: current value is red$
        cas nothing x y => 1 mismatch: key not found$
        cas --absent fresh new => 0 OK$
        cas --absent fresh newer => 1 mismatch: current value is new$
        delete fresh => 0 OK$
        delete fresh => 1
        transfer 1 => 0 OK$
        session list => 0 NAME  LAST SEQ  KEPT RESULTS  LAST WRITE$c     1         1             14$
        session close c => 0 OK$
        scan => 0 -k^-v$a^1$colour^red$minus^-5$
        scan --limit 3 => 0 -k^-v$a^1$colour^red$
        scan co => 0 colour^red$
        scan x => 0
        ",
    );
}

#[test]
fn scan_over_several_revisions_says_so_on_stderr() {
    let node = Store::node();
    check(&node.address, "put a 1 => 0 OK$\nput b 2 => 0 OK$\nput c 3 => 0 OK$");
    let (status, stdout, stderr) = line(&node.address, "scan");
    assert_eq!((status, stdout.as_str()), (0, "a\t1\nb\t2\nc\t3\n"));
    assert!(stderr.contains("between revisions 14 and 15"), "{stderr}");
    assert_eq!(line(&node.address, "scan a").2, "", "one page, one revision");
}

#[test]
fn json_gives_one_object_a_line_with_the_promised_fields() {
    let node = Store::node();
    check(
        &node.address,
        r#"
        --json put k v => 0 {"attempts":1,"cached":false,"node":1,"ok":true,"revision":11}$
        --json get k => 0 {"attempts":1,"cached":false,"node":1,"ok":true,"revision":11,"value":"v"}$
        --json get x => 1 {"attempts":1,"cached":false,"error":"not_found","message":"key not found","node":1,"ok":false,"revision":11}$
        --json scan => 0 {"attempts":1,"cached":false,"key":"k","node":1,"ok":true,"revision":12,"value":"v"}$
        "#,
    );
    let (status, stdout, _) = line(&node.address, "--json cas k x y");
    let object: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, &object["error"], &object["value"]), (1, &"mismatch".into(), &"v".into()));
    let (_, stdout, _) = line(&node.address, "--json status");
    let object: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&object["leader"], &object["term"]), (&1.into(), &5.into()));
    let first = &object["nodes"][0];
    assert_eq!(
        (&first["role"], &first["reachable"], &first["lag"]),
        (&"leader".into(), &true.into(), &1.into())
    );
}

#[test]
fn status_is_a_table_that_lines_up() {
    let node = Store::node();
    let (status, stdout, _) = line(&node.address, "status");
    let address = &node.address;
    let expected = format!(
        "ID  ADDRESS          ROLE    TERM  LEADER  COMMIT  APPLIED  LAST  LAG  FREE      VERSION\n\
         1   {address}  leader  5     1       12      11       13    1    3072 MiB  0.1.0\n"
    );
    assert_eq!((status, stdout), (0, expected));
}

#[test]
fn bytes_that_are_no_text_pass_through() {
    let node = Store::node();
    let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let put = [raw(b"put"), raw(b"\xff\x01"), raw(b"\xfe")];
    assert!(run(&node.address, &put).status.success());
    let get = run(&node.address, &[raw(b"get"), raw(b"\xff\x01")]);
    assert_eq!(get.stdout, b"\xfe\n");
    let json = run(
        &node.address,
        &[OsStr::from_bytes(b"--json"), OsStr::new("get"), OsStr::from_bytes(b"\xff\x01")],
    );
    assert!(String::from_utf8(json.stdout).unwrap().contains(r#""value_hex":"fe""#));
}

#[test]
fn key_with_a_tab_and_a_newline_is_one_object_in_json() {
    let node = Store::node();
    assert!(run(&node.address, &["put", "a\nb", "x\ty"]).status.success());
    let (_, stdout, _) = line(&node.address, "--json scan");
    let object: serde_json::Value = serde_json::from_str(&stdout).expect("one object");
    assert_eq!(
        (stdout.lines().count(), &object["key"], &object["value"]),
        (1, &"a\nb".into(), &"x\ty".into())
    );
}

#[test]
fn put_of_a_dash_reads_standard_input() {
    let node = Store::node();
    let mut put = command(&node.address);
    let mut put = put.args(["put", "k", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"two\nlines").unwrap();
    assert_eq!(put.wait_with_output().unwrap().stdout, b"OK\n");
    assert_eq!(run(&node.address, &["get", "--raw", "k"]).stdout, b"two\nlines");
}

#[test]
fn wrong_usage_exits_2_with_one_line() {
    let commands =
        ["put k", "cas k v", "--seq 1 put k v", "--client-id c --seq 1 get k", "session", "frobnicate"];
    let loads =
        ["bench --clients 0", "bench --seconds 1 --count 1", "bench --op frobnicate", "bench --rate 0"];
    for words in commands.into_iter().chain(loads) {
        let (status, stdout, stderr) = line("127.0.0.1:15000", words);
        assert_eq!((status, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{words}: {stderr}");
        assert!(stderr.starts_with("kv_client: "), "{stderr}");
    }
    let (_, _, hinted) = line("127.0.0.1:15000", "put -k v");
    assert!(hinted.starts_with("kv_client: unexpected argument '-k' found; to pass"), "{hinted}");
    let empty_key = run("127.0.0.1:15000", &["put", "", "v"]);
    assert_eq!(empty_key.status.code(), Some(2));
}

#[test]
fn wrong_usage_with_json_gives_an_object_too() {
    for words in ["--json put k", "put --json k", "frobnicate --json", "--json --seq 1 put k v"] {
        let (status, stdout, stderr) = line("127.0.0.1:15000", words);
        let object: serde_json::Value = serde_json::from_str(&stdout).expect("one object");
        assert_eq!((status, stdout.lines().count()), (2, 1), "{words}: {stdout}");
        assert_eq!((&object["ok"], &object["error"]), (&false.into(), &"usage".into()), "{stdout}");
        let message = object["message"].as_str().unwrap();
        assert_eq!(stderr, format!("kv_client: {message}\n"), "{words}");
    }
    assert_eq!(line("127.0.0.1:15000", "--seq 1 put k -- --json").1, "", "there it is a value");
}

#[test]
fn status_asks_a_member_whose_address_only_another_node_knows() {
    let node = |id, members: Vec<(u64, &str)>| {
        let member =
            |(id, address): &(u64, &str)| MemberAddress { id: NodeId(*id), address: (*address).into() };
        let members: Vec<MemberAddress> = members.iter().map(member).collect();
        let mut store = Store::default();
        FakeNode::alone(Box::new(move |request| match store.react(&request.body) {
            Reaction::Answer(revision, ResponseBody::Status(mut status)) => {
                (status.id, status.members) = (NodeId(id), members.clone());
                Reaction::Answer(revision, ResponseBody::Status(status))
            }
            other => other,
        }))
    };
    let nobody = bound();
    let gone = address_of(&nobody);
    let fourth = node(4, Vec::new());
    let second = node(2, vec![(1, ""), (3, &gone), (4, &fourth.address)]);
    let first = node(1, vec![(1, "h:1"), (2, &second.address), (3, ""), (4, "")]);
    let (status, stdout, stderr) = line(&first.address, "status");
    let rows: Vec<Vec<&str>> = stdout.lines().map(|row| row.split_whitespace().take(3).collect()).collect();
    let gone = ["3", gone.as_str(), "unreachable"];
    assert_eq!(
        (status, &rows[3][..], &rows[4][1..]),
        (0, &gone[..], &[fourth.address.as_str(), "leader"][..])
    );
    assert_eq!(stderr, "");
}

#[test]
fn refusals_that_are_definite_exit_4_with_one_line() {
    let store = Store::node();
    let large = "v".repeat(100_000);
    let mut too_large = command(&store.address);
    let too_large = too_large.args(["put".to_owned(), "k".repeat(4_097), large]).output().unwrap();
    assert_eq!(too_large.status.code(), Some(4));
    check(&store.address, "--client-id c --seq 1 put a 1 => 0 OK$");
    let (status, _, stderr) = line(&store.address, "--client-id c --seq 1 put a 2");
    assert!(status == 4 && stderr.contains("seq reused"), "{stderr}");
    assert_eq!(line(&store.address, "transfer 7").0, 4);
    let busy = FakeNode::alone(Box::new(|_| refuse(Refused::Busy("too many sessions: close some".into()))));
    let (status, _, stderr) = line(&busy.address, "--timeout-ms 3000 put k v");
    assert_eq!((status, stderr.as_str()), (4, "kv_client: busy: too many sessions: close some\n"));
    let nobody = bound();
    let dead = address_of(&nobody);
    let (status, stdout, stderr) = line(&dead, "--timeout-ms 300 --json put k v");
    assert!(status == 4 && stdout.contains(r#""error":"unreachable""#), "{stdout}");
    assert_eq!(stderr.lines().count(), 1);
    let (status, stdout, stderr) = line(&dead, "--timeout-ms 300 --json status");
    assert!(status == 1 && stdout.contains(r#""error":"unreachable""#), "no leader is known: {stdout}");
    assert_eq!(stderr.lines().count(), 1);
}

#[test]
fn result_that_cannot_be_printed_is_unknown_to_the_caller() {
    let node = Store::node();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&node.address).args(["put", "k", "v"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "it was applied: neither a no nor refused");
}

#[test]
fn value_from_stdin_beyond_the_limit_is_refused_and_not_cut() {
    let store = Store::node();
    let mut put = command(&store.address);
    let mut put = put.args(["put", "k", "-"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // The command may have seen enough before the end.
    let _ = put.stdin.take().unwrap().write_all(&vec![b'v'; (1 << 20) + 1]);
    assert_eq!(put.wait().unwrap().code(), Some(4));
    assert_eq!(line(&store.address, "get k").0, 1, "nothing was stored");
}

#[test]
fn status_of_a_node_that_does_not_sync_warns() {
    let mut store = Store::default();
    let node = FakeNode::alone(Box::new(move |request| match store.react(&request.body) {
        Reaction::Answer(revision, ResponseBody::Status(mut status)) => {
            status.disk.fsync = false;
            Reaction::Answer(revision, ResponseBody::Status(status))
        }
        other => other,
    }));
    let (_, stdout, _) = line(&node.address, "status");
    assert!(stdout.contains("runs with --unsafe-no-fsync"), "{stdout}");
    let sound = Store::node();
    assert!(!line(&sound.address, "status").1.contains("WARNING"));
}

#[test]
fn mismatch_whose_value_is_cut_says_so() {
    let store = Store::node();
    let value = "v".repeat(1_025);
    line(&store.address, &format!("put k {value}"));
    let (status, stdout, stderr) = line(&store.address, "cas k other new");
    assert_eq!((status, stdout), (1, format!("mismatch: current value is {}\n", &value[1..])));
    assert!(stderr.contains("only its beginning is shown"), "{stderr}");
}

#[test]
fn unknown_outcome_exits_3_and_can_be_asked_about_as_the_message_says() {
    let mut answers = 0;
    let mut store = Store::default();
    // Applies the first write but never says so. The client has time to send it on any machine, and none to
    // give the silent connection up and ask on another.
    let node = FakeNode::alone(Box::new(move |request| {
        answers += 1;
        let reaction = store.react(&request.body);
        if answers == 1 { Reaction::Silence } else { reaction }
    }));
    let (status, _, stderr) = line(&node.address, "--timeout-ms 900 put k v");
    assert_eq!((status, stderr.lines().count()), (3, 1), "{stderr}");
    let (_, again) = stderr.trim().split_once("same command with ").expect("it says how to ask again");
    assert!(again.starts_with("--client-id library:"), "{again}");
    assert_eq!(line(&node.address, &format!("{again} put k v")).1, "OK (cached)\n");
}

#[test]
fn close_whose_answer_was_lost_tells_when_asked_again_that_there_was_a_session() {
    let mut answers = 0;
    let mut store = Store::default();
    let node = FakeNode::alone(Box::new(move |request| {
        answers += 1;
        let reaction = store.react(&request.body);
        if answers == 2 { Reaction::Silence } else { reaction }
    }));
    assert_eq!(line(&node.address, "--client-id shop --seq 1 put k v").1, "OK\n");
    let (status, _, stderr) = line(&node.address, "--timeout-ms 900 session close shop");
    assert_eq!(status, 3, "{stderr}");
    let (_, again) = stderr.trim().split_once("same command with ").expect("it says how to ask again");
    assert_eq!(line(&node.address, &format!("{again} session close shop")).1, "OK (cached)\n");
    assert_eq!(line(&node.address, "session close shop").1, "OK (no such session)\n");
}

#[test]
fn bench_prints_its_summary_on_stdout_and_its_progress_on_stderr() {
    let node = Store::node();
    let (status, stdout, stderr) = line(&node.address, "bench --count 20 --keys 5 --clients 2");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!((status, lines.len()), (0, 5), "{stdout}{stderr}");
    assert!(lines[0].starts_with("put, 2 clients with 1 in flight each, closed loop, 5 keys"), "{stdout}");
    assert!(lines[1].starts_with("  20 answers in "), "{stdout}");
    let columns = ["p50 ", "p90 ", "p99 ", "p99.9 ", "max "];
    assert!(columns.iter().all(|column| lines[2].contains(column)), "{stdout}");
    assert!(lines[3].starts_with("  longest gap between two acknowledgements: "), "{stdout}");
    assert_eq!(lines[4], "  errors: 0; unknown outcomes: 0");
    assert!(stderr.contains("per second") && stderr.lines().count() >= 3, "{stderr}");
}

#[test]
fn bench_counts_errors_and_exits_1_and_without_a_node_exits_4() {
    let mut answers = 0;
    let mut store = Store::default();
    // The first request, which is not counted, is answered, and of the others every second.
    let node = FakeNode::alone(Box::new(move |request| {
        answers += 1;
        let refused = answers % 2 == 0;
        if refused { refuse(Refused::TooLarge("no".into())) } else { store.react(&request.body) }
    }));
    let (status, stdout, stderr) = line(&node.address, "--json bench --count 10");
    let summary: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, &summary["answers"], &summary["errors"]), (1, &5.into(), &5.into()), "{stderr}");
    assert_eq!((&summary["ok"], &summary["errors_by_word"]["too_large"]), (&false.into(), &5.into()));
    let nobody = bound();
    let dead = address_of(&nobody);
    let (status, stdout, stderr) = line(&dead, "--timeout-ms 300 bench --count 10");
    assert_eq!((status, stdout.as_str(), stderr.lines().count()), (4, "", 1), "{stderr}");
}

#[test]
fn reader_that_leaves_early_ends_the_output_quietly() {
    let node = Store::node();
    let value = "v".repeat(100_000);
    for key in ["a", "b", "c", "d"] {
        assert!(run(&node.address, &["put", key, &value]).status.success());
    }
    let mut scan = command(&node.address);
    let mut scan = scan.arg("scan").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(scan.stdout.take());
    let mut stderr = String::new();
    scan.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((scan.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn bench_listens_to_no_answer_that_comes_over_a_connection_on_which_nothing_was_asked() {
    for request in [0, 1, u64::MAX] {
        let node = FakeNode::hasty(request, Box::new(|_| written(11)));
        let (status, stdout, stderr) =
            line(&node.address, "bench --count 10 --clients 2 --pipeline 3 --idle 4 --json");
        assert_eq!(status, 0, "{stderr}");
        assert!(
            stdout.contains(r#""answers":10,"#) && stdout.contains(r#""idle_connections":4,"#),
            "{stdout}"
        );
    }
}

#[test]
fn reader_that_has_gone_changes_nothing_of_what_came_of_a_command() {
    let node = Store::node();
    for (words, expected) in [
        ("put colour blue", 0),
        ("cas colour red green", 1),
        ("--json cas colour red green", 1),
        ("--json get nothing", 1),
        ("scan", 0),
    ] {
        let mut command = command(&node.address);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = command.args(words.split(' ')).stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(expected), "{words}");
    }
}

#[test]
fn stderr_that_nobody_reads_changes_no_exit_status() {
    let node = Store::node();
    let nobody = bound();
    let nobody = address_of(&nobody);
    let unread = || std::io::pipe().unwrap().1;
    let cases = [
        (node.address.as_str(), &["get", "nothing"][..], 1),
        (node.address.as_str(), &["put"], 2),
        (nobody.as_str(), &["put", "key", "value", "--timeout-ms", "1"], 4),
    ];
    for (address, words, expected) in cases {
        let status = command(address).args(words).stdout(Stdio::null()).stderr(unread()).status().unwrap();
        assert_eq!(status.code(), Some(expected), "{words:?}");
    }
    let kvstore = || Command::new(env!("CARGO_BIN_EXE_kvstore"));
    let status = kvstore().args(["--id", "0", "--port", "1"]).stderr(unread()).status().unwrap();
    assert_eq!(status.code(), Some(2));
    let status = kvstore().args(["inspect", "/nowhere/at/all"]).stderr(unread()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}
