//! Random decisions, all of which come from the seed of the simulation.

use std::{ops::Range, time::Duration};

use crate::sim_disk::random::SplitMix64;

/// The generator of the simulated disk, with the decisions that the simulation needs.
#[derive(Debug, Clone)]
pub(crate) struct Random(SplitMix64);

// ===== impl Random =====

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(SplitMix64::new(seed, 0))
    }

    /// Makes a generator whose numbers are independent of later numbers of this generator.
    pub(crate) fn fork(&mut self) -> Self {
        Random::new(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// A number in `range`, which must not be empty.
    pub(crate) fn within(&mut self, range: &Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// A number below `end`, which must be above 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// Whether an event of this probability, in percent, happens.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// Whether an event of this probability, one in `count`, happens; never if `count` is 0.
    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        count > 0 && self.next().is_multiple_of(count)
    }

    /// A duration up to `max`, all equally likely.
    pub(crate) fn evenly_to(&mut self, max: Duration) -> Duration {
        let max = u64::try_from(max.as_micros()).unwrap().max(1);
        Duration::from_micros(self.within(&(0..max)))
    }

    /// A duration up to `max`. Its order of magnitude is random, so that short durations are as frequent as long ones.
    pub(crate) fn up_to(&mut self, max: Duration) -> Duration {
        let max = u64::try_from(max.as_micros()).unwrap().max(2);
        let bits = u64::from(max.ilog2());
        let limit = 1 << self.within(&(1..bits + 1));
        Duration::from_micros(self.within(&(1..limit + 1)).min(max))
    }
}
