//! The settings of the engine as a whole.

use tally_batch::BatchConfig;
use tally_breaker::CircuitBreakerConfig;

use super::{circuits::CircuitOptions, scrubbing::ScrubRate};
use crate::store::embedded::StoreConfig;

/// The settings of the engine.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// The queue.
    pub batch: BatchConfig,
    /// The breaker: the settings of every kind of call without its own settings.
    pub breaker: CircuitBreakerConfig,
    /// The circuits of the kinds of calls.
    pub circuits: CircuitOptions,
    /// The journal, if the data directory has yet to be made.
    pub store: StoreConfig,
    /// The bytes of journal between two checkpoints.
    pub checkpoint: CheckpointInterval,
    /// How fast the scrub reads the journal.
    pub scrub: ScrubRate,
}

/// The bytes of journal between two checkpoints. A start replays about this much at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointInterval(pub u64);

// ===== impl CheckpointInterval =====

impl Default for CheckpointInterval {
    fn default() -> Self {
        CheckpointInterval(crate::store::settings::CHECKPOINT_BYTES)
    }
}
