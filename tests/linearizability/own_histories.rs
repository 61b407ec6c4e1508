//! Small histories with a reason, in `tests/histories`. The first line of each says what it is about
//! and what the two checks must find; the name, whether that is a violation.

use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use crate::STEP_LIMIT;
use crate::history::{Attempt, Ending, History};
use crate::history_lines::parse_attempts;
use crate::linearizability::{Operation, Verdict, check};
use crate::revisions::{self, RevisionViolation};
use crate::store_model::{Input, Output, Store};

/// What the two checks find.
fn findings(attempts: Vec<Attempt>) -> [String; 2] {
    let Ok(history) = History::new(attempts.clone()) else { return ["contradiction"; 2].map(str::to_owned) };
    [by_time(&history), by_revision(&history)]
}

fn by_time(history: &History) -> String {
    match check(&history.by_key(), STEP_LIMIT) {
        Verdict::Violated(why) => format!("stuck at {}", op_id(history, &why.key, &why.stuck)),
        verdict => verdict.to_string(),
    }
}

fn op_id(history: &History, key: &str, stuck: &Operation<Store>) -> u64 {
    let same = |operation: &&Attempt| {
        (operation.key.as_str(), operation.client, operation.call_ns) == (key, stuck.client, stuck.call)
    };
    history.operations().iter().find(same).expect("what is stuck is part of the history").op_id
}

fn by_revision(history: &History) -> String {
    match revisions::check(history, STEP_LIMIT) {
        Verdict::Violated(RevisionViolation::Twice { .. }) => "twice".to_owned(),
        Verdict::Violated(RevisionViolation::WentBack { .. }) => "went back".to_owned(),
        Verdict::Violated(RevisionViolation::WrongState { .. }) => "wrong state".to_owned(),
        verdict => verdict.to_string(),
    }
}

/// A history's text, by its name.
fn read(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories");
    fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn history(name: &str) -> History {
    let attempts = parse_attempts(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    History::new(attempts).unwrap_or_else(|contradiction| panic!("{name}: {contradiction}"))
}

#[test]
fn own_histories_get_the_verdicts_that_they_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories");
    let files = fs::read_dir(folder).expect("a readable folder").map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = files.map(|name| name.into_string().expect("names are text")).collect();
    names.sort();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let text = read(&name);
        let about: Json = serde_json::from_str(text.lines().next().expect("a first line")).expect("JSON");
        let attempts = parse_attempts(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected =
            ["linearizability", "revisions"].map(|check| about[check].as_str().unwrap().to_owned());
        assert_eq!(findings(attempts), expected, "{name}: {}", about["about"]);
        let holds = expected.iter().all(|finding| finding == "holds");
        let suffix = if holds { "-ok.jsonl" } else { "-bad.jsonl" };
        assert!(name.ends_with(suffix), "{name} says something else than its first line");
    }
}

#[test]
fn explanation_of_a_stale_read_says_what_was_overwritten() {
    let Verdict::Violated(why) = check(&history("stale-read-bad.jsonl").by_key(), STEP_LIMIT) else {
        panic!("a stale read is a violation");
    };
    assert_eq!(
        why.to_string(),
        "key \"k\": no order of its operations explains the answers\n    \
             client 1: put \"a\" -> ok  [0, 10]\n    \
             client 1: put \"b\" -> ok  [20, 30]\n  \
           leads to the state Some(\"b\"), and so far all is explained; no order admits\n    \
             client 2: get -> \"a\"  [40, 50]"
    );
}

#[test]
fn explanation_of_a_revision_that_went_back_shows_the_operation() {
    let verdict = revisions::check(&history("revision-behind-bad.jsonl"), STEP_LIMIT);
    let text = verdict.to_string();
    assert!(text.starts_with("violated: revision 4 was known before this was asked:\n    {"), "{text}");
    assert!(text.contains("\"op_id\":3"), "{text}");
}

#[test]
fn attempts_of_one_write_end_with_their_first_answer() {
    let history = history("retried-write-ok.jsonl");
    let operation = history.operations().iter().find(|operation| operation.sequence == Some(7)).unwrap();
    let answer = Ending::Ok { ret_ns: 60, output: Output::Done, revision: Some(3) };
    assert_eq!((operation.call_ns, &operation.ending), (10, &answer));
    let operations = history.operations().iter().map(|operation| operation.op_id).collect::<Vec<_>>();
    assert_eq!(operations, [1, 2, 4, 5, 7]);
}

#[test]
fn attempts_of_one_number_with_other_content_are_a_contradiction() {
    let put = |op_id, value: &str| Attempt {
        op_id,
        client: 1,
        sequence: Some(1),
        node: None,
        key: "k".to_owned(),
        input: Input::Put(value.into()),
        call_ns: op_id,
        ending: Ending::Unknown { ret_ns: None },
    };
    let contradiction = History::new(vec![put(1, "a"), put(2, "b")]).unwrap_err();
    assert_eq!((contradiction.operation.op_id, contradiction.attempt.op_id), (1, 2));
    assert!(contradiction.to_string().starts_with("one write, twice told:\n    {"), "{contradiction}");
    let refused = Attempt { ending: Ending::Fail { ret_ns: 3 }, ..put(2, "b") };
    assert_eq!(History::new(vec![put(1, "a"), refused]).unwrap().operations(), [put(1, "a")]);
}

#[test]
fn attempt_written_as_a_line_reads_the_same() {
    let mut kinds = 0;
    for name in ["one-after-another-ok", "retried-write-ok", "failed-write-ok", "unknown-write-never-ok"] {
        for attempt in parse_attempts(&read(&format!("{name}.jsonl"))).unwrap() {
            let line = attempt.to_string();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(parse_attempts(&line), Ok(vec![attempt]), "{line}");
            kinds += 1;
        }
    }
    assert!(kinds > 20);
}

#[test]
fn malformed_line_is_reported_with_its_number_and_cause() {
    let noise = "{\"about\":\"a fault was set\"}\n\n";
    let good =
        "{\"op_id\":1,\"client\":1,\"kind\":\"get\",\"key\":\"k\",\"call_ns\":5,\"ret_ns\":9,\"out\":\"ok\"}";
    assert_eq!(parse_attempts(&format!("{noise}{good}\n")).unwrap().len(), 1);
    let cases = [
        ("\"ret_ns\":9", "\"ret_ns\":4", "ret_ns lies before call_ns"),
        ("\"ret_ns\":9,", "", "out without ret_ns is unknown"),
        ("\"client\":1", "\"client\":\"x\"", "client is no number: \"x\""),
        ("\"client\":1,", "", "client is missing"),
        ("\"k\"", "7", "key is no text"),
        ("\"ok\"", "\"maybe\"", "out is \"maybe\""),
        ("\"get\"", "\"put\"", "kind \"put\" with arg null"),
        ("\"ok\"", "\"ok\",\"value\":1", "get with value 1"),
    ];
    for (from, to, cause) in cases {
        let error = parse_attempts(&format!("{noise}{}", good.replace(from, to))).unwrap_err();
        assert_eq!((error.line, error.cause.as_str()), (3, cause));
    }
    let cut_off = parse_attempts(&good[..good.len() - 1]).unwrap_err();
    assert_eq!(cut_off.line, 1);
    assert!(cut_off.to_string().starts_with("line 1: EOF"), "{cut_off}");
}
