//! Points in time. The ledger is given the time; it reads no clock.

use std::fmt;

/// Nanoseconds since the Unix epoch; good until the year 2554.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// Nanoseconds in a second.
const NANOS_PER_SECOND: u64 = 1_000_000_000;

impl Timestamp {
    /// `nanos` nanoseconds after the epoch.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Timestamp(nanos)
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, and the nanoseconds of the last, broken one.
    #[must_use]
    pub const fn seconds_and_nanos(self) -> (u64, u32) {
        // A remainder by 10^9 fits 30 bits.
        let nanos = (self.0 % NANOS_PER_SECOND) as u32;
        (self.0 / NANOS_PER_SECOND, nanos)
    }

    /// The time `nanos` nanoseconds later; stays at the end of time rather than wrapping.
    #[must_use]
    pub const fn plus_nanos(self, nanos: u64) -> Self {
        Timestamp(self.0.saturating_add(nanos))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = self.seconds_and_nanos();
        write!(f, "{seconds}.{nanos:09}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_into_seconds_and_nanos() {
        let time = Timestamp::from_nanos(1_700_000_000_000_000_007);
        assert_eq!(time.seconds_and_nanos(), (1_700_000_000, 7));
        assert_eq!(time.to_string(), "1700000000.000000007");
        assert_eq!(Timestamp::from_nanos(u64::MAX).plus_nanos(1).as_nanos(), u64::MAX);
    }
}
