//! Histories that others recorded, with known verdicts. They lie beside the repository's directory,
//! not in it; where they are absent, these tests say so and check nothing.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::linearizability::{Model, Operation, Verdict, Violation, check};
use crate::{STEP_LIMIT, jepsen, kv_log, one_key};

/// The folder with these histories; if it is absent, says so past the capture of test output.
fn folder(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/histories").join(name);
    if !folder.is_dir() {
        writeln!(io::stderr(), "skipped: no recorded histories in {}", folder.display())
            .expect("stderr takes a line");
        return None;
    }
    Some(folder)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is wrong with a verdict, if anything.
fn disagreement<M: Model>(name: &str, holds: bool, verdict: &Verdict<Violation<M>>) -> Option<String> {
    match verdict {
        Verdict::Holds if holds => None,
        Verdict::Violated(_) if !holds => None,
        _ => Some(format!("{name} should hold: {holds}, but {verdict}")),
    }
}

fn answered<M: Model>(operations: &[Operation<M>]) -> usize {
    operations.iter().filter(|operation| operation.answer.is_some()).count()
}

#[test]
fn jepsen_logs_of_etcd_get_their_known_verdicts() {
    let Some(folder) = folder("jepsen") else { return };
    let verdicts = read(&folder.join("verdicts.txt"));
    let (mut checked, mut wrong) = ([0, 0], Vec::new());
    for line in verdicts.lines() {
        let (name, verdict) = line.split_once(' ').expect("a name and a verdict");
        let holds = match verdict {
            "linearizable" => true,
            "not-linearizable" => false,
            _ => panic!("{name} has the verdict {verdict}"),
        };
        let operations = jepsen::parse(&read(&folder.join(name).with_extension("log")));
        assert!(answered(&operations) > 20, "{name} is nearly empty");
        wrong.extend(disagreement(name, holds, &check(&one_key(operations), STEP_LIMIT)));
        checked[usize::from(holds)] += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked.iter().all(|count| *count > 0), "both verdicts occur: {checked:?}");
    let logs = fs::read_dir(&folder).expect("a readable folder").flatten();
    let logs = logs.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"));
    assert_eq!(logs.count(), checked[0] + checked[1], "each log has a verdict");
}

#[test]
fn kv_histories_get_their_known_verdicts() {
    let Some(folder) = folder("kv") else { return };
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).expect("a readable folder").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut checked, mut wrong) = ([0, 0], Vec::new());
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "txt")) {
        let name = file.file_stem().and_then(|stem| stem.to_str()).expect("names are text");
        let holds = name.ends_with("-ok");
        assert!(holds || name.ends_with("-bad"), "{name} says nothing about its verdict");
        let keys = kv_log::parse(&read(file));
        assert!(keys.values().map(|operations| answered(operations)).sum::<usize>() > 20);
        wrong.extend(disagreement(name, holds, &check(&keys, STEP_LIMIT)));
        checked[usize::from(holds)] += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked.iter().all(|count| *count > 0), "both verdicts occur: {checked:?}");
}
