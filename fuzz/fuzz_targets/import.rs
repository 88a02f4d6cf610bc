//! The readers of `tally import` against naive readers.
#![no_main]

#[path = "../../tests/it/fuzz/import.rs"]
#[allow(dead_code, reason = "only the tests write the first corpus")]
mod import;

libfuzzer_sys::fuzz_target!(|input: &[u8]| import::check(input));
