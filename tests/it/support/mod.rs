//! Helpers that several groups of tests use.

pub(crate) mod in_process;
pub(crate) mod operators;
pub(crate) mod server;
#[path = "../../../crates/journal/tests/support/sim_disk/mod.rs"]
#[allow(dead_code, reason = "the tests of the service use a part of it")]
pub(crate) mod sim_disk;
