//! Scrubbing: the maintenance thread reads the whole journal again and again, at a bounded rate, and counts damage.

use std::{sync::Arc, time::Duration};

use tally_journal::{ChainPoint, Scrub, ScrubStep};
use tokio::time::Instant;

use super::counters::{EngineCounters, FoundBy};
use crate::{
    store::settings::SCRUB_BYTES_PER_SECOND,
    telemetry::LogLimit,
    wall_clock::{SystemWallClock, WallClock},
};

/// How fast the scrub reads the journal, in bytes per second. 0 turns the scrub off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubRate(pub u64);

/// Reads the journal at the configured rate, one pass after the other.
#[derive(Debug)]
pub(super) struct Scrubber {
    scrub: Scrub,
    rate: ScrubRate,
    counters: Arc<EngineCounters>,
    /// The time of the last call of [`Scrubber::work`]. The time since then earns credit.
    worked: Instant,
    /// Bytes that may be read now. Negative after a block that was longer than the credit.
    credit: i64,
    /// No pass begins before this time.
    pause_until: Instant,
    /// The number of damaged places in this pass.
    damages: u64,
    /// Limits the log lines about damage: a damaged segment has thousands of blocks. `tally verify` lists all damage.
    damage_lines: LogLimit,
}

/// Pause between two passes, so that a small journal is not read all the time.
const PAUSE: Duration = Duration::from_secs(60 * 60);
/// Pause after a segment could not be opened because no file descriptor was free.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Maximum time for which one call of [`Scrubber::work`] earns credit, so that one call does not occupy the thread for
/// long. After a long checkpoint, the scrub does not read faster to catch up.
const EARNED_MAX: Duration = Duration::from_millis(100);
/// Minimum cost of a block, in bytes. A small block costs system calls, too.
const BLOCK_COST_MIN: u64 = 1024;

// ===== impl ScrubRate =====

impl Default for ScrubRate {
    /// 4 MiB per second: a segment of 64 MiB in 16 s.
    fn default() -> Self {
        ScrubRate(SCRUB_BYTES_PER_SECOND)
    }
}

impl ScrubRate {
    /// Returns the credit for `time`, in bytes.
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
            damage_lines: LogLimit::default(),
        }
    }

    /// Reads the number of durable blocks that the time since the last call allows. `durable` is the end of the
    /// durable blocks.
    pub(super) fn work(&mut self, durable: &ChainPoint) {
        let now = Instant::now();
        let earned = self.rate.earned(now.duration_since(self.worked));
        self.worked = now;
        if now < self.pause_until {
            return;
        }
        // A negative credit is carried over to the next call; unused credit is not.
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
                    if let Some(omitted) = self.damage_lines.admit(now) {
                        tracing::error!(%position, %error, omitted, "the scrub found damage in the journal");
                    }
                    BLOCK_COST_MIN
                }
                ScrubStep::Postponed { error } => {
                    tracing::warn!(%error, "the scrub paused because no file descriptor was free");
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
            "the scrub completed a pass over the journal"
        );
    }
}
