//! The protobuf readers of the hot path against prost.
#![no_main]

#[path = "../../tests/it/fuzz/messages.rs"]
#[allow(dead_code, reason = "only the tests write the first corpus")]
mod messages;

libfuzzer_sys::fuzz_target!(|input: &[u8]| messages::check(input));
