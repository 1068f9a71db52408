//! See `session` in crates/rowtide-targets/src/targets.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rowtide_targets::run("session", bytes));
