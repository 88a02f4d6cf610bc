//! The engine executes commands one after the other, makes their effects durable, and then replies.
//!
//! [`TallyEngine::start`] opens the store and starts the threads. The gRPC services call the methods of
//! [`TallyEngine`]. NET, EXEC and WAL are the roles of the threads. NET serves the connections, EXEC executes commands,
//! and WAL writes the journal.
//!
//! ```text
//! NET ──▶ breaker ──▶ queue ──▶ EXEC ──▶ commit pipeline (WAL) ──▶ reply slots ──▶ NET
//!   └─────── reads ─────▲                   └─▶ block log
//! ```
//!
//! Writes pass the circuit breaker, and reads do not. Reads go through the same queue as writes, and the answer to a
//! read waits until every write that it shows is durable. So reads are linearizable, and a crash can't undo what a read
//! has shown.

pub mod breaker_settings;
mod call_kind;
mod checkpointing;
mod circuits;
mod classify;
mod clock_watch;
mod command;
mod counters;
mod details;
mod engine_config;
mod exec;
mod fault;
mod health;
mod history;
mod history_reads;
mod maintenance;
mod metrics;
mod open_batch;
mod past_balances;
mod pending;
mod pipeline;
#[cfg(test)]
mod pipeline_tests;
mod prefetch;
mod read_places;
mod reads;
mod record_reads;
mod replica;
mod replica_metrics;
mod resume_writer;
mod scrubbing;
mod self_probe;
pub mod settings;
mod start;
mod suspended;
mod tally_engine;
mod throttle;
mod transaction_batch;
mod wal;

pub use self::{
    call_kind::CallKind,
    circuits::{
        AUTO_FACTOR, AUTO_MAX, AUTO_MIN, CircuitOptions, CircuitReport, InitialMode, MethodCircuit,
        ThresholdSource, TransitionKind, auto_threshold,
    },
    command::{
        AccountHistory, BalancesAfter, CREATE_ACCOUNTS_MAX, Command, CommandReply, CreatedAccounts, Detail,
        Existing, LEGS_CHARGED, MovedAmounts, Outcomes, OwnedKey, PAGE_ACCOUNTS_MAX, PAGE_HOLD_SLOTS,
        PastAccount, PastBalances, Processed,
    },
    counters::{FoundBy, JournalCondition, LedgerFigures},
    engine_config::{CheckpointInterval, EngineConfig, HoldsMax},
    exec::ExecStep,
    fault::{EngineError, StoreFault},
    health::{Condition, Health, PanicGuard},
    history_reads::{
        HISTORY_READS_MAX, HISTORY_READS_OF_CLIENT_MAX, RECORD_READS_MAX, RECORD_READS_OF_CLIENT_MAX,
    },
    pending::EngineReply,
    pipeline::PipelineStep,
    scrubbing::ScrubRate,
    start::{Cores, ReplicaOrigin, StartError},
    suspended::Until,
    tally_engine::{EngineStats, TallyEngine},
    transaction_batch::{MemoryCharge, TRANSACTIONS_MAX, TransactionBatch},
};
