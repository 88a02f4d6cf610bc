//! The placement of the threads of a whole service. The tests without a service are in `crates/topology`.

mod confined;
mod group;
mod quota;
#[path = "../../../crates/topology/tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests of the service use a part of it")]
mod support;
