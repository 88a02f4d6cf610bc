//! Tally: a double-entry ledger behind gRPC that keeps its latency promise.
pub mod id;
pub mod money;
pub mod proto;
pub mod time;
