#![no_main]

#[expect(unused, reason = "each target has one body")]
#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::snapshot_reader(data));
