//! Helpers for log lines: the form of times in fields, and a limit on lines that calls of clients can cause.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Shortest time between two lines that a [`LogLimit`] admits.
const INTERVAL: Duration = Duration::from_secs(10);

/// Admits at most one log line every 10 s, and counts the lines between. Use one value for each line that calls of
/// clients can cause: without a limit, a client could fill the disk with log lines.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    admitted: Option<Instant>,
    omitted: u64,
}

// ===== impl LogLimit =====

impl LogLimit {
    /// Decides whether a line may be logged at the time `now`. If so, returns the number of lines that were not admitted
    /// since the last admitted line.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock();
        if lines
            .admitted
            .is_some_and(|admitted| now.duration_since(admitted) < INTERVAL)
        {
            lines.omitted = lines.omitted.saturating_add(1);
            return None;
        }
        lines.admitted = Some(now);
        Some(std::mem::take(&mut lines.omitted))
    }
}

/// Returns `time` in milliseconds, for a field whose name ends with `_ms`. The only rounding is that of one division, so
/// the field has at most the six decimals of whole nanoseconds.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 104 days")]
    let nanos = time.as_nanos() as f64;
    nanos / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_no_noise() {
        for (micros, text) in [
            (300, "0.3"),
            (1100, "1.1"),
            (20_007, "20.007"),
            (2_000_000, "2000"),
        ] {
            assert_eq!(millis(Duration::from_micros(micros)).to_string(), text);
        }
    }

    #[test]
    fn one_line_in_ten_seconds_is_admitted_and_the_others_are_counted() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let admit = |seconds| limit.admit(start + Duration::from_secs(seconds));
        assert_eq!(admit(0), Some(0));
        assert_eq!(admit(0), None);
        assert_eq!(admit(9), None);
        assert_eq!(admit(10), Some(2));
        assert_eq!(admit(19), None);
        assert_eq!(admit(20), Some(1));
    }
}
