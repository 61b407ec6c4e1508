//! The fuzz targets of `fuzz/`, on any toolchain: on the kept corpora, and on some inputs made of
//! them. A find of `cargo fuzz` becomes a file `regression-...` there, and is tried for ever.

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use kvstore::wire::client::RoleName;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Inputs made for a target besides the kept ones.
const MADE_INPUTS: usize = 40_000;
/// The same for one that opens a directory, or a bus, with each.
const FEWER_INPUTS: usize = 4_000;
/// The longest of them, about.
const MADE_BYTES: usize = 600;

fn try_target(name: &str, target: fn(&[u8]), made: usize) {
    let corpus = corpus(name);
    assert!(corpus.len() >= 5, "only {} kept inputs", corpus.len());
    corpus.iter().for_each(|input| try_input(name, target, input));
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..made {
        try_input(name, target, &made_of(&corpus, &mut rng));
    }
}

/// The kept inputs, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a readable folder").path()).collect();
    // What a run of cargo fuzz has left there is not kept.
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains('-')));
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a readable file")).collect()
}

/// Parts of two kept inputs, with some bytes changed; or any bytes.
fn made_of(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..2 {
        let kept = &corpus[rng.random_range(0..corpus.len())];
        let start = if input.is_empty() { 0 } else { rng.random_range(0..=kept.len()) };
        input.extend_from_slice(&kept[start..rng.random_range(start..=kept.len())]);
    }
    input.truncate(MADE_BYTES);
    for _ in 0..rng.random_range(0..8) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..3) {
            0 if at < input.len() => input[at] = rng.random(),
            1 if at < input.len() => drop(input.remove(at)),
            _ => input.insert(at, rng.random()),
        }
    }
    if rng.random_bool(0.2) {
        input.extend((0..rng.random_range(0..MADE_BYTES)).map(|_| rng.random::<u8>()));
    }
    input
}

/// Tries an input; if it finds something, keeps it and says how to try it again.
fn try_input(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-input"));
        fs::write(&kept, input).expect("the target directory can be written to");
        eprintln!("{name} fails on {}: copy it to fuzz/corpus/{name}/regression-N", kept.display());
        resume_unwind(panic);
    }
}

#[test]
fn frames_are_the_same_however_they_are_cut() {
    try_target("frame_decoder", bodies::frame_decoder, MADE_INPUTS);
}

#[test]
fn values_that_can_be_decoded_have_one_encoding() {
    try_target("messages", bodies::messages, MADE_INPUTS);
}

#[test]
fn strangers_at_the_port_are_not_heard() {
    try_target("handshake", bodies::handshake, MADE_INPUTS);
}

#[test]
fn log_with_any_damage_is_a_prefix_or_refused() {
    try_target("log_scanner", bodies::log_scanner, FEWER_INPUTS);
}

#[test]
fn core_told_anything_keeps_its_invariants() {
    try_target("raft_step", bodies::raft_step, MADE_INPUTS);
}

#[test]
fn core_told_kept_inputs_takes_every_role() {
    let corpus = corpus("raft_step");
    let roles: Vec<RoleName> =
        corpus.iter().flat_map(|input| bodies::raft_step::roles_taken(input)).collect();
    for role in [RoleName::Follower, RoleName::PreCandidate, RoleName::Candidate, RoleName::Leader] {
        assert!(roles.contains(&role), "no kept input makes the core a {role:?}");
    }
}

#[test]
fn wheel_does_what_a_sorted_map_does() {
    try_target("timer_wheel", bodies::timer_wheel, MADE_INPUTS);
}

#[test]
fn snapshot_is_read_the_same_however_it_is_cut() {
    try_target("snapshot_reader", bodies::snapshot_reader, FEWER_INPUTS);
}
