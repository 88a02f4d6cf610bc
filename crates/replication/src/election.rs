//! The decisions that depend on time. [`Election`] decides when a standby *claims* leadership, which means that it
//! appends a block that begins a new term. [`Heartbeat`] decides when a leader writes a heartbeat. [`is_clock_wrong`]
//! decides whether a leader resigns because of its clock.
//!
//! An early claim is always safe. It costs only a short interruption, because the old leader must step down. So the
//! timers need no synchronized clocks. All times are durations since a moment that the caller chooses, on a clock that
//! never goes back.

use std::time::Duration;

/// When a standby claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Time without a new block after which a standby claims.
    pub claim_after: Duration,
    /// Maximum random addition to [`claim_after`](Self::claim_after), so that standbys do not claim together.
    pub claim_jitter_max: Duration,
    /// Time after which a standby claims if the leader has closed its connection.
    pub claim_after_closed: Duration,
    /// Time after which a standby claims if no forwarded call reaches the leader, although the leader appends.
    pub claim_after_forwards: Duration,
    /// Delay before the next claim if no block followed the last claim. The delay doubles with each such claim.
    pub backoff: Duration,
    /// Maximum of the delay.
    pub backoff_max: Duration,
    /// Maximum delay of a candidate whose clock is behind the time of the last block.
    pub clock_wait_max: Duration,
    /// Maximum gap between two successful reads of the log that counts as time without a block. After a longer gap, this
    /// time starts again at zero.
    pub read_gap_max: Duration,
}

/// What a standby knows about the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Election {
    timing: Timing,
    jitter: Duration,
    /// The start of the time without a new block.
    quiet_since: Duration,
    /// The last successful read of the log.
    read_at: Option<Duration>,
    closed_at: Option<Duration>,
    forwards_fail_since: Option<Duration>,
    /// The number of claims in a row, by this or another standby, after which no block followed.
    claims: u32,
    /// This standby does not claim before this time.
    not_before: Duration,
    resigned: Option<Resigned>,
    is_claiming: bool,
}

/// What a standby knows about a leader that has resigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Resigned {
    /// This standby is the successor, since this time.
    ToThis(Duration),
    ToAnother,
}

/// What a standby learns from an accepted block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum News {
    /// The leader is alive.
    Block,
    /// A new leader has claimed leadership.
    Claim,
    /// The leader has resigned, and this standby is the successor that it names.
    ResignToThis,
    /// The leader has resigned, and names another successor.
    ResignToAnother,
}

/// When a leader writes an empty block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// Time between two blocks of an idle leader.
    pub interval: Duration,
    /// Age of the last successful read of the log's tail above which the leader writes no heartbeat. A leader that
    /// cannot read cannot resolve a failed append, so it should be replaced.
    pub read_age_max: Duration,
}

// ===== impl Timing =====

impl Default for Timing {
    fn default() -> Self {
        Self {
            claim_after: Duration::from_millis(700),
            claim_jitter_max: Duration::from_millis(200),
            claim_after_closed: Duration::from_millis(250),
            claim_after_forwards: Duration::from_secs(2),
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(16),
            clock_wait_max: Duration::from_millis(500),
            read_gap_max: Duration::from_millis(350),
        }
    }
}

// ===== impl Election =====

impl Election {
    /// A standby that begins to watch the log at `now`. `jitter` is random and belongs to this standby.
    ///
    /// # Panics
    /// If `jitter` is above [`Timing::claim_jitter_max`].
    #[must_use]
    pub fn new(timing: Timing, jitter: Duration, now: Duration) -> Self {
        assert!(
            jitter <= timing.claim_jitter_max,
            "jitter = {jitter:?}: must be at most {:?}",
            timing.claim_jitter_max
        );
        Self {
            timing,
            jitter,
            quiet_since: now,
            read_at: None,
            closed_at: None,
            forwards_fail_since: None,
            claims: 0,
            not_before: Duration::ZERO,
            resigned: None,
            is_claiming: false,
        }
    }

    /// Reports that the reader has accepted a block.
    pub fn news(&mut self, now: Duration, news: News) {
        self.quiet_since = self.quiet_since.max(now);
        self.closed_at = None;
        self.resigned = match news {
            News::Block => None,
            News::Claim => {
                // The new leader may be reachable.
                self.forwards_fail_since = None;
                None
            }
            News::ResignToThis => Some(Resigned::ToThis(now)),
            News::ResignToAnother => Some(Resigned::ToAnother),
        };
        if news == News::Claim {
            self.claims = self.claims.saturating_add(1);
            self.not_before = self.not_before.max(now + self.backoff());
        } else {
            self.claims = 0;
            self.not_before = Duration::ZERO;
        }
    }

    /// Reports that a read of the log succeeded, with or without records. Time without a block counts only while reads
    /// succeed, because a standby that is cut off from the log knows nothing about the leader. Call this method at least
    /// every [`Timing::read_gap_max`].
    pub fn read(&mut self, now: Duration) {
        let is_gap = self
            .read_at
            .is_none_or(|before| now.saturating_sub(before) > self.timing.read_gap_max);
        if is_gap {
            self.quiet_since = self.quiet_since.max(now);
        }
        self.read_at = Some(self.read_at.map_or(now, |before| before.max(now)));
    }

    /// Reports that a read of the log failed.
    pub fn read_failed(&mut self) {
        self.read_at = None;
    }

    /// Reports that the leader has closed its connection to this standby.
    pub fn closed(&mut self, now: Duration) {
        self.closed_at.get_or_insert(now);
    }

    /// Reports that a call could not be forwarded to the leader.
    pub fn forward_failed(&mut self, now: Duration) {
        self.forwards_fail_since.get_or_insert(now);
    }

    /// Reports that a call was forwarded to the leader.
    pub fn forwarded(&mut self) {
        self.forwards_fail_since = None;
    }

    /// Reports that this standby begins a claim. No other claim begins before [`claim_ended`](Self::claim_ended).
    pub fn claimed(&mut self) {
        self.is_claiming = true;
    }

    /// Reports that the claim is lost or was given up. The delay before the next claim doubles.
    pub fn claim_ended(&mut self, now: Duration) {
        self.is_claiming = false;
        self.claims = self.claims.saturating_add(1);
        self.quiet_since = self.quiet_since.max(now);
        self.closed_at = None;
        self.forwards_fail_since = None;
        self.resigned = None;
        self.not_before = self.not_before.max(now + self.backoff());
    }

    /// Returns the time at which to ask [`should_claim`](Self::should_claim) again if nothing happens before, or `None`
    /// if only an event can cause a claim. `clock_behind` is the time by which the wall clock is behind the time of the
    /// last block.
    #[must_use]
    pub fn next_wake(&self, clock_behind: Duration) -> Option<Duration> {
        if self.is_claiming || self.read_at.is_none() {
            return None;
        }
        let wait = clock_behind.min(self.timing.clock_wait_max);
        Some(self.due().max(self.not_before) + wait)
    }

    /// Whether to claim now.
    #[must_use]
    pub fn should_claim(&self, now: Duration, clock_behind: Duration) -> bool {
        let Some(wake) = self.next_wake(clock_behind) else {
            return false;
        };
        let is_reading = self
            .read_at
            .is_some_and(|read_at| now.saturating_sub(read_at) <= self.timing.read_gap_max);
        is_reading && now >= wake
    }

    /// The time of the claim, without the backoff.
    fn due(&self) -> Duration {
        let timing = &self.timing;
        let silence = self.quiet_since + timing.claim_after + self.jitter;
        let forwards = self
            .forwards_fail_since
            .map(|since| since + timing.claim_after_forwards);
        let due = match self.resigned {
            Some(Resigned::ToThis(at)) => at,
            // A leader that has resigned closes its connections, so a closed connection is no reason to claim early. The
            // other standbys give the successor time to claim.
            Some(Resigned::ToAnother) => silence,
            None => {
                let closed = self.closed_at.map(|at| at + timing.claim_after_closed);
                closed.map_or(silence, |closed| closed.min(silence))
            }
        };
        forwards.map_or(due, |forwards| forwards.min(due))
    }

    fn backoff(&self) -> Duration {
        let doublings = self.claims.saturating_sub(1).min(31);
        self.timing
            .backoff
            .saturating_mul(1 << doublings)
            .min(self.timing.backoff_max)
    }
}

// ===== impl Heartbeat =====

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            read_age_max: Duration::from_millis(500),
        }
    }
}

impl Heartbeat {
    /// The time of the next heartbeat, after the last block was submitted at `block_at` and the last read of the log's
    /// tail succeeded at `read_at`. `None` if the tail has not been readable for too long.
    #[must_use]
    pub fn next(&self, now: Duration, block_at: Duration, read_at: Duration) -> Option<Duration> {
        (now.saturating_sub(read_at) <= self.read_age_max).then_some(block_at + self.interval)
    }
}

/// Maximum difference between the wall clock of a leader and the other clocks, in milliseconds.
pub const CLOCK_DIFFERENCE_MS_MAX: i64 = 1000;

/// Whether a leader must resign because of its clock: its wall clock differs from those of all brokers and peers by more
/// than [`CLOCK_DIFFERENCE_MS_MAX`], in the same direction. `differences_ms` contains, for each of the other clocks, the
/// leader's time minus the time of that clock. Returns false if there is no other clock.
#[must_use]
pub fn is_clock_wrong(differences_ms: &[i64]) -> bool {
    let ahead = |difference: &i64| *difference > CLOCK_DIFFERENCE_MS_MAX;
    let behind = |difference: &i64| *difference < -CLOCK_DIFFERENCE_MS_MAX;
    !differences_ms.is_empty() && (differences_ms.iter().all(ahead) || differences_ms.iter().all(behind))
}
