//! Velocity limits of the reference ledger. Every transfer that counts is kept for ever, and each check counts all transfers
//! again.
//!
//! A window has 64 slices; 63 slices together are as long as the window. A transfer counts from its time on, until 64 slices after the
//! beginning of its own slice.

use tally_ledger::{
    Side, Timestamp, VelocityLimit,
    velocity::{Exceeded, Maximum},
};

/// The counts of the limits of an account.
#[derive(Debug, Clone)]
pub(super) struct Counters(Vec<Counter>);

#[derive(Debug, Clone)]
struct Counter {
    limit: VelocityLimit,
    counted: Vec<Counted>,
}

/// A transfer that counts.
#[derive(Debug, Clone, Copy)]
struct Counted {
    /// Nanoseconds.
    time: u64,
    amount: u128,
}

/// The slices of a window.
const SLICES: u64 = 64;

// ===== impl Counters =====

impl Counters {
    pub(super) fn new(limits: &[VelocityLimit]) -> Self {
        let counter = |limit: &VelocityLimit| Counter {
            limit: *limit,
            counted: Vec::new(),
        };
        Counters(limits.iter().map(counter).collect())
    }

    /// Replaces the limits of the account. A limit with the same side and window as before keeps its counts.
    pub(super) fn change(&mut self, limits: &[VelocityLimit]) {
        let mut before = std::mem::replace(self, Counters::new(limits)).0;
        for counter in &mut self.0 {
            let same = |old: &Counter| {
                old.limit.side == counter.limit.side && old.limit.window_nanos == counter.limit.window_nanos
            };
            if let Some(place) = before.iter().position(same) {
                counter.counted = before.remove(place).counted;
            }
        }
    }

    /// Counts a transfer.
    pub(super) fn count(&mut self, side: Side, amount: u128, time: Timestamp) {
        for Counter { limit, counted } in &mut self.0 {
            if limit.side == side && has_window(limit) {
                counted.push(Counted {
                    time: time.as_nanos(),
                    // An amount that was moved while the limit had no maximum amount does not count later.
                    amount: limit.max_amount.map_or(0, |_| amount),
                });
            }
        }
    }

    /// Checks whether the limits allow a transfer.
    ///
    /// # Errors
    /// The first limit that it exceeds.
    pub(super) fn check(&self, side: Side, amount: u128, time: Timestamp) -> Result<(), Exceeded> {
        for (number, counter) in (0..).zip(&self.0) {
            if counter.limit.side == side
                && let Some((maximum, used, room_at)) = counter.exceeded(amount, time.as_nanos())
            {
                return Err(Exceeded {
                    limit: number,
                    maximum,
                    used,
                    room_at: room_at.map(Timestamp::from_nanos),
                });
            }
        }
        Ok(())
    }
}

// ===== impl Counter =====

impl Counter {
    /// The maximum that a transfer exceeds, the used part of it, and the time at which there is room again.
    fn exceeded(&self, amount: u128, now: u64) -> Option<(Maximum, u128, Option<u64>)> {
        let single = self.limit.single_amount_max;
        if single.is_some_and(|max| amount > max.minor_units()) {
            return Some((Maximum::Single, 0, None));
        }
        if !has_window(&self.limit) {
            return None;
        }
        let (count, sum) = self.used(now);
        if self.fits(count, sum, amount) {
            return None;
        }
        // There is more room only when the slice of a transfer ends.
        let mut ends: Vec<u64> = self
            .counted
            .iter()
            .map(|counted| (counted.time / self.slice() + SLICES) * self.slice())
            .filter(|end| *end > now)
            .collect();
        ends.sort_unstable();
        let has_room = |end: &u64| {
            let (count, sum) = self.used(*end);
            self.fits(count, sum, amount)
        };
        let room_at = ends.into_iter().find(has_room);
        Some(if self.fits(count, 0, 0) {
            (Maximum::Amount, sum, room_at)
        } else {
            (Maximum::Count, u128::from(count), room_at)
        })
    }

    const fn slice(&self) -> u64 {
        self.limit.window_nanos.div_ceil(SLICES - 1)
    }

    /// The number and the amount of the transfers that count at a time.
    fn used(&self, now: u64) -> (u64, u128) {
        let slice = self.slice();
        let in_window = self
            .counted
            .iter()
            .filter(|counted| now / slice < counted.time / slice + SLICES);
        in_window.fold((0, 0), |(count, sum), counted| (count + 1, sum + counted.amount))
    }

    fn fits(&self, count: u64, sum: u128, amount: u128) -> bool {
        let max = self.limit.max_amount.map_or(u128::MAX, |max| max.minor_units());
        (self.limit.max_count == 0 || count < self.limit.max_count)
            && sum.checked_add(amount).is_some_and(|sum| sum <= max)
    }
}

/// Whether the limit counts transfers, and does not only limit single amounts.
const fn has_window(limit: &VelocityLimit) -> bool {
    limit.max_count > 0 || limit.max_amount.is_some()
}
