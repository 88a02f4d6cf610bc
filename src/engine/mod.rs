//! The engine: breaker → batch processor → EXEC → commit pipeline → replies, on pinned threads.
//!
//! [`TallyEngine::start`] opens the store and starts the threads; [`TallyEngine`] is what the gRPC services call.
//!
//! ```text
//! NET ──▶ breaker ──▶ queue ──▶ EXEC ──▶ commit pipeline (WAL) ──▶ reply slots ──▶ NET
//!   └─────── reads ─────▲                   └─▶ block log
//! ```
//!
//! Writes pass the breaker. Reads do not, but they go through the same queue and their answers wait for the same log. So
//! they are linearizable, and never show what a crash could take back.

pub mod breaker_settings;
mod call_kind;
mod circuits;
mod classify;
mod command;
mod counters;
mod engine_config;
mod exec;
mod fault;
mod health;
mod maintenance;
mod metrics;
mod open_batch;
mod pending;
mod pipeline;
#[cfg(test)]
mod pipeline_tests;
mod scrubbing;
mod self_probe;
pub mod settings;
mod start;
mod tally_engine;
mod throttle;
mod wal;

pub use self::{
    call_kind::CallKind,
    circuits::{
        AUTO_FACTOR, AUTO_MAX, AUTO_MIN, CircuitOptions, CircuitReport, InitialMode, MethodCircuit,
        ThresholdSource, TransitionKind, auto_threshold,
    },
    command::{
        CREATE_ACCOUNTS_MAX, Command, CommandReply, CreatedAccounts, Outcomes, PAGE_ACCOUNTS_MAX, Payment,
        TRANSACTIONS_MAX, TransactionBatch,
    },
    counters::{FoundBy, JournalCondition, LedgerFigures},
    engine_config::{CheckpointInterval, EngineConfig},
    fault::{EngineError, StoreFault},
    health::{Condition, Health, PanicGuard},
    pending::EngineReply,
    scrubbing::ScrubRate,
    start::StartError,
    tally_engine::{EngineStats, TallyEngine},
};
