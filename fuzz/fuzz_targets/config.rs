//! The configuration: TOML text and environment variables.
#![no_main]

#[path = "../../tests/it/fuzz/config.rs"]
#[allow(dead_code, reason = "only the tests write the first corpus")]
mod config;

libfuzzer_sys::fuzz_target!(|input: &[u8]| config::check(input));
