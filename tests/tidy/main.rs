//! The house rules, held by a test: what may import what, what stands only in one place, and how
//! long things may grow. Each finding names the file, the line, the rule and the cure.
//!
//! There are no exceptions to list: a rule that needs one is wrong, or the code is.

mod rules;
mod snippets;
mod source;

use std::fmt;
use std::fs;
use std::path::Path;

use source::Source;

/// The arrows between the layers: from the left, only what stands on the right may be named
/// (`a::B` allows only that item of `a`).
///
/// ```text
/// 5  bin/kvstore      bin/kv_client           (both with bin/terminal)
/// 4  server           client
/// 3  replica
/// 2  raft     kv      storage     net
/// 1  wire     timer_wheel
/// 0  types    time
/// ```
const ARROWS: [(&str, &[&str]); 15] = [
    ("types", &[]),
    ("planted", &[]),
    ("time", &[]),
    ("wire", &["types", "time", "planted"]),
    ("timer_wheel", &["types", "time"]),
    ("raft", &["wire", "timer_wheel", "types", "time", "planted"]),
    ("kv", &["wire", "timer_wheel", "types", "time", "planted"]),
    ("storage", &["wire", "timer_wheel", "types", "time", "planted"]),
    ("net", &["wire", "timer_wheel", "types", "time", "planted"]),
    ("replica", &["raft", "kv", "storage", "wire", "timer_wheel", "types", "time", "planted"]),
    (
        "server",
        &["replica", "raft", "kv", "storage", "net", "wire", "timer_wheel", "types", "time", "planted"],
    ),
    ("client", &["wire", "types", "time"]),
    ("bin/terminal", &[]),
    ("bin/kv_client", &["client", "storage", "wire", "types", "time"]),
    (
        "bin/kvstore",
        &[
            "server",
            "client",
            "replica",
            "raft",
            "kv",
            "storage",
            "net",
            "wire",
            "timer_wheel",
            "types",
            "time",
        ],
    ),
];

/// Something that may be named only in some files, and in tests.
struct Place {
    what: &'static str,
    /// Paths that these files begin with.
    homes: &'static [&'static str],
    cure: &'static str,
}

const CLOCKS: &[&str] = &["src/time.rs", "src/client/", "src/bin/"];
const FILES: &[&str] = &["src/storage/disk.rs", "src/bin/"];
const POLL: &[&str] = &["src/net/tcp.rs", "src/server/mod.rs", "src/bin/"];
const SOCKETS: &[&str] = &["src/net/", "src/server/", "src/client/", "src/bin/"];
const THREADS: &[&str] = &["src/client/", "src/bin/"];

const PLACES: [Place; 7] = [
    Place { what: "std::time::Instant", homes: CLOCKS, cure: "take `now: time::Instant` as an argument" },
    Place { what: "std::time::SystemTime", homes: CLOCKS, cure: "take `now: time::Instant` as an argument" },
    Place { what: "std::fs", homes: FILES, cure: "go through `storage::Disk`" },
    Place { what: "std::net", homes: SOCKETS, cure: "go through `net`" },
    Place { what: "mio", homes: POLL, cure: "take readiness as an argument, or go through `net::Socket`" },
    Place { what: "socket2", homes: POLL, cure: "go through `net::Socket`" },
    Place { what: "std::thread", homes: THREADS, cure: "the server has one thread: take turns in its loop" },
];

/// One place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    rule: String,
    cure: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}\n    {}", self.path, self.line, self.rule, self.cure)
    }
}

/// What breaks the rules among these files, given by path and text.
fn check(files: &[(String, String)]) -> Vec<Finding> {
    let mut sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs");
        if tests.iter().any(|test| stem == test || stem.starts_with(&format!("{test}/"))) {
            source.mark_all_as_test();
        }
    }
    sources.iter().flat_map(|source| rules::RULES.iter().flat_map(|rule| rule(source))).collect()
}

/// All Rust files below a directory of the package, in order.
fn read_below(directory: &str, files: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)) else { return };
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("a readable directory")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{directory}/{}", entry.file_name().to_str().expect("file names are UTF-8"));
        if entry.file_type().expect("a readable entry").is_dir() {
            read_below(&path, files);
        } else if path.ends_with(".rs") {
            files.push((path, fs::read_to_string(entry.path()).expect("a readable file")));
        }
    }
}

#[test]
fn house_is_tidy() {
    let mut files = Vec::new();
    for directory in ["src", "tests", "benches"] {
        read_below(directory, &mut files);
    }
    assert!(files.iter().any(|(path, _)| path == "src/lib.rs"), "the sources were not found");
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let mut findings = check(&files);
    findings.extend(rules::dependencies_have_reasons("Cargo.toml", &manifest.expect("a manifest")));
    let report: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(report.is_empty(), "{} findings:\n{}", report.len(), report.join("\n"));
}
