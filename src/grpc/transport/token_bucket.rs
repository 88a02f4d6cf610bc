//! A token bucket: limits the long-term rate of events, and allows bursts.

use tokio::time::Instant;

/// Holds tokens, up to a capacity. Time adds tokens, and every event takes tokens.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    /// Maximum number of tokens.
    capacity: u64,
    /// Tokens that time adds per second.
    each_second: u64,
    /// The tokens now.
    tokens: u64,
    /// When time last added tokens.
    filled: Instant,
}

// ===== impl TokenBucket =====

impl TokenBucket {
    /// Returns a full bucket that gains `each_second` tokens per second.
    pub(crate) const fn new(capacity: u64, each_second: u64, now: Instant) -> Self {
        TokenBucket {
            capacity,
            each_second,
            tokens: capacity,
            filled: now,
        }
    }

    /// Takes `cost` tokens, and returns true. If the bucket holds fewer tokens, empties the bucket and returns false.
    /// Reads the clock `now` only if the tokens do not suffice.
    pub(crate) fn take(&mut self, cost: u64, now: impl FnOnce() -> Instant) -> bool {
        if self.tokens < cost {
            let now = now();
            let millis = now.saturating_duration_since(self.filled).as_millis();
            let millis = u64::try_from(millis).unwrap_or(u64::MAX);
            let gained = millis.saturating_mul(self.each_second) / 1000;
            if gained > 0 {
                self.filled = now;
                self.give(gained);
            }
        }
        let enough = self.tokens >= cost;
        self.tokens = self.tokens.saturating_sub(cost);
        enough
    }

    /// Adds `credit` tokens, up to the capacity.
    pub(crate) fn give(&mut self, credit: u64) {
        self.tokens = self.tokens.saturating_add(credit).min(self.capacity);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_empties_the_bucket_and_time_or_a_credit_refills_it() {
        let begun = Instant::now();
        let mut bucket = TokenBucket::new(10, 100, begun);
        assert!((0..10).all(|_| bucket.take(1, || begun)));
        assert!(!bucket.take(1, || begun));
        let later = begun + Duration::from_millis(25);
        assert!(bucket.take(2, || later));
        assert!(!bucket.take(1, || later));
        bucket.give(1000);
        assert!(bucket.take(10, || later));
        // After any time the bucket holds no more than its capacity.
        assert!(!bucket.take(11, || begun + Duration::from_secs(60)));
    }
}
