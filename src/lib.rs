//! Tally: a durable double-entry ledger behind gRPC. A latency circuit breaker rejects calls when the disk is too slow.
//!
//! `ARCHITECTURE.md` describes the design. These are the main parts, from the network to the disk:
//!
//! - [`grpc`] decodes and checks requests, and is the only module that creates gRPC statuses.
//! - [`engine`] puts the circuit breaker in front of the queue, executes commands, and commits their effects on pinned
//!   threads.
//! - [`tally_breaker`], [`tally_batch`] and [`tally_topology`] are general crates for the circuit breaker, the queue
//!   and the placement of threads. They contain no code about ledgers.
//! - [`tally_ledger`] is the state machine of the ledger, without I/O. [`tally_journal`] stores blocks of records on
//!   the disk. [`store`] writes the history of the ledger to the journal and recovers the ledger from it.
//! - [`replica`] takes part in the replication of the ledger: it follows the replicated log, or leads. [`tally_replication`] is the
//!   protocol without I/O, and [`tally_kafka`] the client of the brokers.
//!
//! A module imports only from modules below it. `tests/it/tidy.rs` contains the order of the modules and checks it.

pub mod admin;
pub mod bench;
pub mod certificates;
pub mod cli;
pub mod client;
pub mod config;
pub mod engine;
pub mod grpc;
pub mod json;
pub mod ledger_clock;
#[cfg(not(feature = "mutations"))]
mod mutation;
#[cfg(feature = "mutations")]
pub mod mutation;
pub mod proto;
pub mod replica;
pub mod security;
pub mod settings;
pub mod store;
pub mod sys;
pub mod telemetry;
pub mod terminal;
pub mod version;
pub mod wall_clock;
