//! Tally: a double-entry ledger behind gRPC that keeps its latency promise.
//!
//! `ARCHITECTURE.md` is the map. In brief, from the wire to the disk:
//!
//! - [`grpc`] decodes and checks, and is the only place that knows statuses;
//! - [`engine`] puts the breaker in front of the queue, and runs EXEC and WAL on pinned threads;
//! - [`breaker`], [`batch`] and [`topology`] are generic machinery that knows nothing of ledgers;
//! - [`ledger`] is the pure state machine; [`store`] makes its history durable.
//!
//! Layers import downwards only; `tests/it/tidy.rs` holds them to it.

pub mod admin;
pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod engine;
pub mod grpc;
pub mod json;
pub mod proto;
pub mod security;
pub mod store;
pub mod sys;
pub mod telemetry;
pub mod time;

pub use tally_batch::{self as batch, distribution};
pub use tally_breaker as breaker;
pub use tally_ledger::{self as ledger, id, money};
pub use tally_topology as topology;
