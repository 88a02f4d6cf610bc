//! A token bucket: it limits the rate in the long run, and allows bursts.

use tokio::time::Instant;

/// A number of tokens that grows with time, up to a capacity.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    capacity: u64,
    each_second: u64,
    room: u64,
    filled: Instant,
}

// ===== impl TokenBucket =====

impl TokenBucket {
    /// A full bucket that gains `each_second` tokens in a second.
    pub(crate) const fn new(capacity: u64, each_second: u64, now: Instant) -> Self {
        TokenBucket {
            capacity,
            each_second,
            room: capacity,
            filled: now,
        }
    }

    /// Takes `cost` tokens. Returns false, and leaves the bucket empty, if it holds fewer. Reads the clock `now` only
    /// if the tokens do not suffice.
    pub(crate) fn take(&mut self, cost: u64, now: impl FnOnce() -> Instant) -> bool {
        if self.room < cost {
            let now = now();
            let millis = now.saturating_duration_since(self.filled).as_millis();
            let flowed = u64::try_from(millis)
                .unwrap_or(u64::MAX)
                .saturating_mul(self.each_second)
                / 1000;
            if flowed > 0 {
                self.filled = now;
                self.give(flowed);
            }
        }
        let enough = self.room >= cost;
        self.room = self.room.saturating_sub(cost);
        enough
    }

    /// Adds `credit` tokens, up to the capacity.
    pub(crate) fn give(&mut self, credit: u64) {
        self.room = self.room.saturating_add(credit).min(self.capacity);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_only_what_flows_in() {
        let begun = Instant::now();
        let mut bucket = TokenBucket::new(10, 100, begun);
        assert!((0..10).all(|_| bucket.take(1, || begun)));
        assert!(!bucket.take(1, || begun));
        let later = begun + Duration::from_millis(25);
        assert!(bucket.take(2, || later));
        assert!(!bucket.take(1, || later));
        bucket.give(1000);
        assert!(bucket.take(10, || later));
        // It never holds more than its capacity.
        assert!(!bucket.take(11, || begun + Duration::from_secs(60)));
    }
}
