//! The opening of damaged data directories.
#![no_main]

#[path = "../../tests/it/fuzz/recovery.rs"]
#[allow(dead_code, reason = "only the tests write the first corpus")]
mod recovery;
#[path = "../../crates/journal/tests/support/sim_disk/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the target uses a part of it")]
mod sim_disk;

libfuzzer_sys::fuzz_target!(|input: &[u8]| recovery::check(input));
