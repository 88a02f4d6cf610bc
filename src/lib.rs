//! Tally: a double-entry ledger behind gRPC that keeps its latency promise.
pub mod batch;
//pub mod breaker;
pub mod distribution;
//pub mod engine;
//pub mod grpc;
pub mod id;
pub mod ledger;
pub mod money;
pub mod proto;
pub mod store;
pub mod sys;
pub mod time;
pub mod topology;
