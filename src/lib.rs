//! Tally: a double-entry ledger behind gRPC that keeps its latency promise.
pub mod batch;
pub mod distribution;
pub mod id;
pub mod ledger;
pub mod money;
pub mod proto;
pub mod time;
