//! Tests of the placement of threads of a running service. The tests that need no service are in `crates/topology`.

mod confined;
mod group;
mod quota;
#[path = "../../../crates/topology/tests/support/mod.rs"]
#[allow(dead_code, reason = "these tests use only a part of the module")]
mod support;
