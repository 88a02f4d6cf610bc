//! The settings of the engine as a whole.

use tally_batch::BatchConfig;
use tally_breaker::CircuitBreakerConfig;

use super::{circuits::CircuitOptions, scrubbing::ScrubRate};
use crate::store::embedded::StoreConfig;

/// The settings of the engine.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// The settings of the queue and the batches.
    pub batch: BatchConfig,
    /// The settings of the circuit of every kind of call for which `circuits` contains no separate settings.
    pub breaker: CircuitBreakerConfig,
    /// Further settings of the circuits: their mode at the start, and the settings of single kinds of calls.
    pub circuits: CircuitOptions,
    /// The sizes of the journal. They are used only when a data directory is made.
    pub store: StoreConfig,
    /// Minimum number of bytes of journal between two checkpoints.
    pub checkpoint: CheckpointInterval,
    /// How fast the scrub reads the journal.
    pub scrub: ScrubRate,
    /// Maximum number of outstanding holds.
    pub holds_max: HoldsMax,
    /// Whether the engine starts although the wall clock is more than [`STEP_MAX`](crate::ledger_clock::STEP_MAX) behind the
    /// journal. Commits then get times shortly after the last time in the journal, until the wall clock is later.
    pub accept_clock_behind: bool,
}

/// Maximum number of outstanding holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldsMax(pub usize);

/// Minimum number of bytes by which the journal grows between two checkpoints. If the last checkpoint was large, the
/// journal grows by several times the size of this checkpoint instead (`CHECKPOINT_INTERVAL_FACTOR` in
/// `engine/maintenance.rs`). A start replays the journal from the newest checkpoint on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointInterval(pub u64);

// ===== impl HoldsMax =====

impl Default for HoldsMax {
    fn default() -> Self {
        HoldsMax(tally_ledger::HOLDS_MAX_DEFAULT)
    }
}

// ===== impl CheckpointInterval =====

impl Default for CheckpointInterval {
    fn default() -> Self {
        CheckpointInterval(crate::store::settings::CHECKPOINT_BYTES)
    }
}
