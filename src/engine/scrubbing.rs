//! Scrubbing: AUX reads the whole journal again, at a bounded rate, and counts what is damaged.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::counters::{EngineCounters, FoundBy};
use crate::{
    store::{
        journal::{ChainPoint, Scrub, ScrubStep},
        settings::SCRUB_BYTES_PER_SECOND,
    },
    wall_clock::{SystemWallClock, WallClock},
};

/// How fast the journal is read in search of damage, in bytes a second; 0: it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubRate(pub u64);

/// Reads the journal at its rate, one pass after the other.
#[derive(Debug)]
pub(super) struct Scrubber {
    scrub: Scrub,
    rate: ScrubRate,
    counters: Arc<EngineCounters>,
    /// When it last worked: what may be read since then is earned by time.
    worked: Instant,
    /// Bytes that may be read now. Below zero after a block that was longer.
    credit: i64,
    /// No pass begins before.
    pause_until: Instant,
    /// Damage in this pass.
    damages: u64,
}

/// Between the end of a pass and the beginning of the next: a small journal is not read all the time.
const PAUSE: Duration = Duration::from_secs(60 * 60);
/// Pause after a failure to open a segment, for want of a file descriptor.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// No more time than this earns bytes, so that AUX is never held up for long: what it could not do during a checkpoint is
/// not made up for.
const EARNED_MAX: Duration = Duration::from_millis(100);
/// A block counts as this many bytes at least, for the calls to the system that it takes.
const BLOCK_COST_MIN: u64 = 1024;

// ===== impl ScrubRate =====

impl Default for ScrubRate {
    fn default() -> Self {
        ScrubRate(SCRUB_BYTES_PER_SECOND)
    }
}

impl ScrubRate {
    /// Bytes that may be read in this time.
    fn earned(self, time: Duration) -> i64 {
        let bytes = u128::from(self.0) * time.min(EARNED_MAX).as_nanos() / Duration::from_secs(1).as_nanos();
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }
}

// ===== impl Scrubber =====

impl Scrubber {
    pub(super) fn new(scrub: Scrub, rate: ScrubRate, counters: Arc<EngineCounters>) -> Self {
        let now = Instant::now();
        Scrubber {
            scrub,
            rate,
            counters,
            worked: now,
            credit: 0,
            pause_until: now,
            damages: 0,
        }
    }

    /// Reads as many blocks before `durable` as the time since the last call allows.
    pub(super) fn work(&mut self, durable: &ChainPoint) {
        let now = Instant::now();
        let earned = self.rate.earned(now.duration_since(self.worked));
        self.worked = now;
        if now < self.pause_until {
            return;
        }
        // Debt is kept, savings are not.
        self.credit = self.credit.min(0).saturating_add(earned);
        while self.credit > 0 {
            let cost = match self.scrub.step(durable) {
                ScrubStep::Whole { bytes } => {
                    self.counters.scrubbed(bytes);
                    bytes.max(BLOCK_COST_MIN)
                }
                ScrubStep::Damaged { position, error } => {
                    self.damages += 1;
                    self.counters.damage(FoundBy::Scrub);
                    tracing::error!(%position, %error, "the scrub found damage in the journal");
                    BLOCK_COST_MIN
                }
                ScrubStep::Postponed { error } => {
                    tracing::warn!(%error, "the scrub waits: no file descriptor is left");
                    self.pause_until = now + RETRY_PAUSE;
                    return;
                }
                ScrubStep::Complete => {
                    self.pass_ended(durable, now);
                    return;
                }
            };
            self.credit = self
                .credit
                .saturating_sub(i64::try_from(cost).unwrap_or(i64::MAX));
        }
    }

    fn pass_ended(&mut self, durable: &ChainPoint, now: Instant) {
        self.pause_until = now + PAUSE;
        let damages = std::mem::take(&mut self.damages);
        self.counters.scrub_pass(SystemWallClock.now());
        tracing::info!(
            blocks = durable.last_block_sequence(),
            damages,
            "the whole journal was read"
        );
    }
}
