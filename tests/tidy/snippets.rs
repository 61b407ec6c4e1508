//! Each rule on code that breaks it and on code that does not: a rule that finds nothing would
//! look just like a tidy house.

use super::rules::dependencies_have_reasons;
use super::{Finding, check};

/// What is found in one file, as `line: rule`.
fn found(path: &str, text: &str) -> Vec<String> {
    findings(&[(path, text)]).iter().map(|finding| format!("{}: {}", finding.line, finding.rule)).collect()
}

fn findings(files: &[(&str, &str)]) -> Vec<Finding> {
    let files: Vec<_> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    check(&files)
}

#[track_caller]
fn assert_found(path: &str, text: &str, finding: &str) {
    let found = found(path, text);
    assert!(found.iter().any(|line| line == finding), "`{finding}` is not among {found:#?}");
}

#[track_caller]
fn assert_tidy(path: &str, text: &str) {
    assert_eq!(found(path, text), [] as [&str; 0]);
}

#[test]
fn import_of_a_sister_or_a_higher_layer_is_found_however_it_is_written() {
    for (path, text, finding) in [
        ("src/raft/log.rs", "use crate::kv::Store;", "1: `raft` may not see `crate::kv::Store`"),
        ("src/kv/mod.rs", "use crate::raft::Raft;", "1: `kv` may not see `crate::raft::Raft`"),
        ("src/storage/wal.rs", "\nuse crate::net;", "2: `storage` may not see `crate::net`"),
        ("src/net/mod.rs", "fn f() { crate::storage::x(); }", "1: `net` may not see `crate::storage::x`"),
        (
            "src/wire/mod.rs",
            "use crate::{types::Term, raft::Log};",
            "1: `wire` may not see `crate::raft::Log`",
        ),
        ("src/types.rs", "use crate::time::Duration;", "1: `types` may not see `crate::time::Duration`"),
        ("src/time.rs", "use super::types;", "1: `time` may not see `crate::types`"),
        ("src/raft/log.rs", "use super::super::net::Socket;", "1: `raft` may not see `crate::net::Socket`"),
        ("src/replica.rs", "use crate::net::X;", "1: `replica` may not see `crate::net::X`"),
        ("src/replica.rs", "use crate::server::{self as s, X};", "1: `replica` may not see `crate::server`"),
        (
            "src/server/mod.rs",
            "use crate::client::Client;",
            "1: `server` may not see `crate::client::Client`",
        ),
        ("src/client/mod.rs", "use crate::net::Socket;", "1: `client` may not see `crate::net::Socket`"),
        ("src/raft/log.rs", "use crate::*;", "1: `raft` may not see `crate::*`"),
        ("src/raft/log.rs", "use crate as all;", "1: `raft` may not see `crate`"),
        (
            "src/bin/kv_client/main.rs",
            "use kvstore::raft::X;",
            "1: `bin/kv_client` may not see `crate::raft::X`",
        ),
        ("src/misc.rs", "", "1: `misc` is no layer"),
    ] {
        assert_found(path, text, finding);
    }
}

#[test]
fn import_downwards_or_within_a_layer_is_allowed() {
    for (path, text) in [
        ("src/raft/log.rs", "use crate::wire::entry::Entry; use crate::raft::x; use super::progress;"),
        ("src/raft/log.rs", "mod tests { use super::*; use super::super::progress::P; }"),
        ("src/replica.rs", "use crate::{kv, raft::{self, Raft}, storage};"),
        ("src/client/mod.rs", "use crate::time::{Clock, Duration}; use crate::wire::client::Request;"),
        ("src/server/mod.rs", "use crate::net::X; fn f() { crate::replica::g(); }"),
        ("src/bin/kvstore/demo.rs", "use crate::time_line; use super::x; use kvstore::server::Server;"),
        (
            "src/raft/log.rs",
            "// use crate::kv;\n/* crate::kv::x /* */ crate::net::y */ const S: &str = \"crate::kv::x\";",
        ),
        ("tests/simulation.rs", "use kvstore::net::X; use kvstore::raft::Y;"),
    ] {
        assert_tidy(path, text);
    }
}

#[test]
fn clock_outside_its_place_is_found() {
    let named = "1: `std::time::Instant` has no place here";
    assert_found("src/raft/node.rs", "use std::time::Instant;", named);
    assert_found("src/server/mod.rs", "use std::time::{Duration, Instant};", named);
    assert_found(
        "src/kv/mod.rs",
        "fn f(now: std::time::SystemTime) {}",
        "1: `std::time::SystemTime` has no place here",
    );
    assert_found("src/net/mod.rs", "use std::time::{self as t};", "1: `std::time` has no place here");
    assert_found("src/net/mod.rs", "use std::time::*;", "1: `std::time::*` has no place here");
    assert_found("src/net/mod.rs", "fn f() { Instant::now(); }", "1: the clock is read here");
    assert_tidy("src/time.rs", "fn f() { std::time::Instant::now(); }");
    assert_tidy("src/client/mod.rs", "use std::time::Instant; fn f() { Instant::now(); }");
    assert_tidy("src/net/mod.rs", "use std::time::Duration; use crate::time::Instant;");
}

#[test]
fn file_socket_or_thread_outside_its_place_is_found() {
    for (path, text, finding) in [
        ("src/storage/wal.rs", "use std::{fs, io};", "1: `std::fs` has no place here"),
        ("src/server/config.rs", "fn f() { std::fs::read(p); }", "1: `std::fs::read` has no place here"),
        ("src/replica.rs", "use std::net::TcpStream;", "1: `std::net::TcpStream` has no place here"),
        ("src/server/peers.rs", "use mio::Token;", "1: `mio::Token` has no place here"),
        ("src/net/connection.rs", "fn f(t: mio::Token) {}", "1: `mio::Token` has no place here"),
        ("src/server/peers.rs", "use socket2::Socket;", "1: `socket2::Socket` has no place here"),
        (
            "src/storage/wal.rs",
            "fn f() { std::thread::spawn(g); }",
            "1: `std::thread::spawn` has no place here",
        ),
    ] {
        assert_found(path, text, finding);
    }
    assert_tidy("src/storage/disk.rs", "use std::fs::File;");
    assert_tidy("src/server/mod.rs", "use mio::{Events, Poll}; use std::net::SocketAddr;");
    assert_tidy("src/storage/wal.rs", "#[cfg(test)]\nmod tests { use std::fs; }");
}

#[test]
fn randomness_without_a_seed_is_found() {
    let finding = "1: randomness without a seed";
    for text in [
        "fn f() { rand::rng(); }",
        "use rand::random;",
        "fn f() { rand::random::<u64>(); }",
        "use rand::{rngs::StdRng, thread_rng};",
        "use std::hash::RandomState;",
    ] {
        assert_found("src/raft/node.rs", text, finding);
        assert_tidy("src/bin/kvstore/main.rs", text);
    }
    assert_tidy("src/raft/node.rs", "use rand::rngs::StdRng; fn f(r: &mut StdRng) { r.random::<u64>(); }");
}

#[test]
fn unordered_map_in_a_deterministic_layer_is_found_unless_it_is_marked() {
    assert_found(
        "src/kv/store.rs",
        "struct S {\n a: HashMap<u8, u8>, }",
        "2: a HashMap in a deterministic layer",
    );
    assert_found("src/raft/log.rs", "fn f(a: HashSet<u8>) {}", "1: a HashSet in a deterministic layer");
    assert_tidy("src/kv/store.rs", "struct S {\n a: HashMap<u8, u8>, // never iterated\n}");
    assert_tidy("src/net/mod.rs", "struct S { a: HashMap<u8, u8> }");
    assert_tidy("src/kv/store.rs", "#[cfg(test)]\nmod tests { fn f(a: HashMap<u8, u8>) {} }");
}

#[test]
fn unsafe_or_unfinished_code_is_found_in_tests_too() {
    for path in ["src/raft/log.rs", "src/bin/kvstore/main.rs", "tests/cluster.rs"] {
        for (text, finding) in [
            ("fn f() { unsafe { g() } }", "1: unsafe code"),
            ("fn f() { todo!() }", "1: `todo!` is left for later"),
            ("fn f() { unimplemented!(\"x\") }", "1: `unimplemented!` is left for later"),
            ("fn f() { dbg!(1); }", "1: `dbg!` is left for later"),
            ("#[test]\n#[ignore]\nfn f() {}", "2: `#[ignore` is left for later"),
            ("#[ignore = \"slow\"]\nfn f() {}", "1: `#[ignore` is left for later"),
            ("#[allow(dead_code)]\nfn f() {}", "1: `dead_code` is left for later"),
        ] {
            assert_found(path, text, finding);
        }
    }
    assert_tidy(
        "src/raft/log.rs",
        "/// todo!() unsafe\nconst S: &str = r#\"dbg!(\"unsafe\")\"#; // #[ignore]\n",
    );
    assert_tidy(
        "src/raft/log.rs",
        "const C: [char; 2] = ['\"', '\\'']; struct T<'a>(&'a str); const Q: char = '\"';",
    );
}

#[test]
fn printing_is_left_to_the_binaries() {
    for name in ["print", "println", "eprint", "eprintln"] {
        let text = format!("fn f() {{ {name}!(\"x\"); }}");
        assert_found("src/server/mod.rs", &text, "1: the library prints");
        assert_tidy("src/bin/kv_client/main.rs", &text);
        assert_tidy("src/server/mod.rs", &format!("#[cfg(test)]\nmod tests {{ {text} }}"));
    }
}

#[test]
fn function_is_found_from_71_lines_on() {
    let function =
        |lines: usize| format!("trait T {{ fn g(a: [u8; 2]); }}\nfn f() {{{}}}", "\n".repeat(lines - 1));
    assert_tidy("src/raft/log.rs", &function(70));
    let finding = "2: fn f has 71 lines, at most 70 are allowed";
    assert_found("src/raft/log.rs", &function(71), finding);
    assert_found("tests/cluster.rs", &function(71), finding);
}

#[test]
fn file_is_found_from_501_lines_before_its_tests_on() {
    let file = |lines: usize, tests: &str| format!("{}fn last() {{}}\n{tests}", "\n".repeat(lines - 1));
    let long = "\n".repeat(600);
    let finding = "1: 501 lines apart from tests, at most 500 are allowed";
    for (path, tests) in [
        ("src/raft/log.rs", format!("#[cfg(test)]\nmod tests {{{long}}}")),
        ("tests/cluster.rs", format!("#[test]\nfn t() {{}}{long}")),
    ] {
        assert_tidy(path, &file(500, &tests));
        assert_found(path, &file(501, &tests), finding);
    }
    let early = format!("#[cfg(test)]\nmod tests;\n{}fn last() {{}}", "\n".repeat(500));
    assert_found("src/raft/log.rs", &early, finding);
}

#[test]
fn file_declared_for_tests_counts_as_one() {
    let files = [
        ("src/storage/wal.rs", "#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod disk_model;"),
        ("src/storage/wal/tests.rs", "use std::fs;"),
        ("src/storage/wal/disk_model/mod.rs", "use std::fs;"),
        ("src/storage/wal/other.rs", "use std::fs;"),
    ];
    let paths: Vec<String> = findings(&files).into_iter().map(|finding| finding.path).collect();
    assert_eq!(paths, ["src/storage/wal/other.rs"]);
}

#[test]
fn struct_is_found_from_13_fields_on() {
    let text = |fields: usize| {
        let fields: String =
            (0..fields).map(|n| format!("#[x(y: 1)] f{n}: std::vec::Vec<[u8; {n}]>, ")).collect();
        format!("struct S<T: Copy> where T: Clone {{ {fields} }}")
    };
    assert_tidy("src/raft/log.rs", &text(12));
    assert_found("src/raft/log.rs", &text(13), "1: struct S has 13 fields, at most 12 are allowed");
}

#[test]
fn name_that_says_nothing_is_found() {
    for path in ["src/raft/utils.rs", "src/raft/helpers/x.rs", "tests/test_manager.rs"] {
        assert_found(path, "", "1: a name that says nothing");
    }
    assert_found("src/raft/log.rs", "struct LogManager;", "1: the name LogManager says nothing");
    assert_found("src/raft/log.rs", "trait Handler {}", "1: the name Handler says nothing");
}

#[test]
fn dependency_without_a_reason_is_found() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# Why.\na = \"1\"\nb = \"1\"\n\n\
        [dev-dependencies]\nc = { version = \"1\" }\n# Why.\nd = \"1\"\n\
        [target.x.dependencies.e]\nversion = \"1\"\n[profile.release]\ndebug = 1\n";
    let findings = dependencies_have_reasons("Cargo.toml", manifest);
    let lines: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [6, 9, 12]);
    assert_eq!(
        findings[0].to_string(),
        "Cargo.toml:6: a dependency without a reason\n    write above it why it is there"
    );
}
