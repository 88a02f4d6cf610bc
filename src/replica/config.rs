//! What a driver needs to know besides its log and its engine.

use std::time::Duration;

use tally_replication::{Limits, Timing};

use crate::store::replicated::{LOG_DEPTH, ReplicatedConfig};

/// Maximum time for which a read of the log waits for a record. The election counts time without a block only while reads succeed, so
/// this time must be shorter than the gap that the election allows between two reads.
pub(super) const READ_WAIT: Duration = Duration::from_millis(150);
/// The delay before the second attempt to connect, if the first attempt fails. The delay doubles with each further attempt.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(20);
/// The longest delay before a connection. When the brokers work again, calls wait at most this much longer.
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(320);
/// Maximum number of bytes of blocks in one request. A larger block is sent alone.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// The settings of a driver.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The address at which this replica can be reached.
    pub own_address: String,
    /// The addresses of the other replicas.
    pub peers: Vec<String>,
    /// The version of the program.
    pub version: String,
    /// Interval between two blocks of an idle leader.
    pub heartbeat: Duration,
    /// When a standby claims leadership.
    pub timing: Timing,
    /// The random addition to the time without a block after which this standby claims leadership, at most [`Timing::claim_jitter_max`].
    pub jitter: Duration,
    /// The random number of this process as a writer, not 0.
    pub writer: u32,
    /// Maximum number of appends in flight.
    pub requests_max: usize,
}

// ===== impl DriverConfig =====

impl DriverConfig {
    /// Makes the settings of a driver from those of the store. `random` are random bits.
    #[must_use]
    pub fn new(config: &ReplicatedConfig, version: &str, random: u64) -> Self {
        let timing = Timing {
            claim_after: config.claim_after,
            claim_jitter_max: config.claim_jitter,
            claim_after_closed: config.claim_after_closed,
            ..Timing::default()
        };
        let [high, low] = [random >> u32::BITS, random & u64::from(u32::MAX)];
        let writer = u32::try_from(low).map_or(1, |low| low.max(1));
        DriverConfig {
            own_address: config.advertise.clone(),
            peers: config.peers.clone(),
            version: version.to_owned(),
            heartbeat: config.heartbeat,
            timing,
            jitter: part(config.claim_jitter, high),
            writer,
            requests_max: config.requests_in_flight,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            requests_max: self.requests_max,
            request_blocks_max: LOG_DEPTH,
            request_bytes_max: REQUEST_BYTES_MAX,
            blocks_max: LOG_DEPTH,
        }
    }
}

/// Returns the delay before the next attempt to connect, if the last attempt was made after `delay` and has brought no success. The first
/// attempt is made at once, because most failures are short.
pub(super) fn next_delay(delay: Duration) -> Duration {
    (delay * 2).clamp(RECONNECT_DELAY_MIN, RECONNECT_DELAY_MAX)
}

/// Returns the part `share` / 2^32 of a time.
fn part(time: Duration, share: u64) -> Duration {
    let share = f64::from(u32::try_from(share).map_or(u32::MAX, |share| share)) / f64::from(u32::MAX);
    time.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_of_connections_without_success_grows_to_a_limit() {
        let delays = std::iter::successors(Some(Duration::ZERO), |delay| Some(next_delay(*delay)));
        let delays: Vec<u128> = delays.take(8).map(|delay| delay.as_millis()).collect();
        assert_eq!(delays, [0, 20, 40, 80, 160, 320, 320, 320]);
    }

    #[test]
    fn a_part_is_between_nothing_and_the_whole() {
        let whole = Duration::from_millis(200);
        assert_eq!(part(whole, 0), Duration::ZERO);
        assert_eq!(part(whole, u32::MAX.into()), whole);
        assert!(part(whole, 1 << 31) < whole);
    }
}
