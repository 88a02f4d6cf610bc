//! Tally: a double-entry ledger behind gRPC that keeps its latency promise.
//!
//! `ARCHITECTURE.md` describes the design. In brief, from the network to the disk:
//!
//! - [`grpc`] decodes and checks requests, and is the only module that creates gRPC statuses;
//! - [`engine`] puts the circuit breaker in front of the queue, and runs EXEC and WAL on pinned threads;
//! - [`tally_breaker`], [`tally_batch`] and [`tally_topology`] are generic and know nothing of ledgers;
//! - [`tally_ledger`] is the pure state machine, [`tally_journal`] stores blocks, and [`store`] makes the ledger's history durable.
//!
//! Modules import only from lower modules. `tests/it/tidy.rs` checks that.

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
pub mod settings;
pub mod store;
pub mod sys;
pub mod telemetry;
pub mod terminal;
pub mod version;
pub mod wall_clock;
