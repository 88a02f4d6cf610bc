//! Velocity limits: how many transfers, and what amount, an account accepts within a window of time.
//!
//! A window slides over the times of transactions, not over the clock, so a replay gets the same result. It consists of
//! [`SLICES`] slices. A transfer counts in the slice of its transaction's commit time, and stops counting when the whole slice has
//! left the window. So a transfer counts for at least the window, and for at most one slice (1/63 of the window) longer. The
//! ledger never accepts more within any period of that length than the limit allows.

use std::collections::VecDeque;

use super::{
    codec::{Malformed, Reader, put_varint, put_varint_u64},
    money::Amount,
    side::Side,
    time::Timestamp,
};
use crate::mutation::planted;

/// Maximum number of velocity limits of an account.
pub const VELOCITY_LIMITS_MAX: usize = 4;
/// Number of slices of a window.
pub const SLICES: u64 = 64;
/// The shortest window, in nanoseconds: 1 second.
pub const WINDOW_NANOS_MIN: u64 = 1_000_000_000;
/// The longest window, in nanoseconds: 30 days.
pub const WINDOW_NANOS_MAX: u64 = 30 * 24 * 3600 * 1_000_000_000;

/// A limit for one side of an account. At least one of the three maxima is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VelocityLimit {
    /// The side to which the limit applies.
    pub side: Side,
    /// The length of the window in nanoseconds, [`WINDOW_NANOS_MIN`] to [`WINDOW_NANOS_MAX`]. It is 0 if the limit has
    /// only a `single_amount_max`.
    pub window_nanos: u64,
    /// Maximum number of transfers within the window; 0 if their number is not limited.
    pub max_count: u64,
    /// Maximum sum of the amounts within the window.
    pub max_amount: Option<Amount>,
    /// Maximum amount of a single transfer.
    pub single_amount_max: Option<Amount>,
}

/// Which of a limit's maxima a transfer exceeds. The numbers are part of the record format and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Maximum {
    /// [`VelocityLimit::max_count`].
    Count = 0,
    /// [`VelocityLimit::max_amount`].
    Amount = 1,
    /// [`VelocityLimit::single_amount_max`].
    Single = 2,
}

/// A transfer exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The index of the limit in the account's list, from 0.
    pub limit: u8,
    /// The maximum that the transfer exceeds.
    pub maximum: Maximum,
    /// What the transfers in the window have used: their number, or their amount. Zero for [`Maximum::Single`].
    pub used: u128,
    /// The first time at which the transfer would not exceed this maximum, if no other transfer came before. `None` if the transfer
    /// alone exceeds it.
    pub room_at: Option<Timestamp>,
}

/// The limits of one account, and what its transfers have used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Velocity {
    /// The limits, in the order in which the client sent them.
    limits: Vec<VelocityLimit>,
    /// For each limit, what was used in each slice of its window, oldest first. Slices without transfers are left out.
    used: Vec<VecDeque<Slice>>,
}

/// What the transfers of one slice have used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slice {
    /// The start of the slice since the epoch, divided by its length.
    number: u64,
    count: u64,
    /// The sum of the amounts, or 0 if the limit has no maximum for it.
    amount: u128,
}

// ===== impl VelocityLimit =====

impl VelocityLimit {
    /// The length of a slice, in nanoseconds. [`SLICES`] - 1 slices are as long as the window, because the newest slice has only
    /// begun.
    const fn slice_nanos(&self) -> u64 {
        self.window_nanos.div_ceil(SLICES - 1)
    }

    /// Appends the encoded limit to `out`.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(self.side as u8);
        put_varint_u64(out, self.window_nanos);
        put_varint_u64(out, self.max_count);
        for maximum in [self.max_amount, self.single_amount_max] {
            out.push(u8::from(maximum.is_some()));
            if let Some(maximum) = maximum {
                put_varint(out, maximum.minor_units());
            }
        }
    }

    /// Reads an encoded limit.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not an encoded limit.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let side = Side::take(reader)?;
        let window_nanos = reader.varint_u64()?;
        let max_count = reader.varint_u64()?;
        let mut maximum = || {
            Ok(match reader.u8()? {
                0 => None,
                _ => Some(Amount::new(reader.varint_u128()?)),
            })
        };
        let (max_amount, single_amount_max) = (maximum()?, maximum()?);
        let windowed = max_count > 0 || max_amount.is_some();
        if windowed && !(WINDOW_NANOS_MIN..=WINDOW_NANOS_MAX).contains(&window_nanos) {
            return Err(Malformed {
                what: "a window of 1 second to 30 days",
            });
        }
        Ok(VelocityLimit {
            side,
            window_nanos,
            max_count,
            max_amount,
            single_amount_max,
        })
    }
}

/// Appends the number of limits, then each limit.
pub fn put_limits(out: &mut Vec<u8>, limits: &[VelocityLimit]) {
    put_varint(out, limits.len() as u128);
    for limit in limits {
        limit.put(out);
    }
}

/// Reads limits that [`put_limits`] wrote.
///
/// # Errors
/// [`Malformed`] if the bytes are not encoded limits, or there are more than [`VELOCITY_LIMITS_MAX`].
pub fn take_limits(reader: &mut Reader<'_>) -> Result<Vec<VelocityLimit>, Malformed> {
    let count = reader.varint_u64()?;
    if count > VELOCITY_LIMITS_MAX as u64 {
        return Err(Malformed {
            what: "at most 4 velocity limits",
        });
    }
    (0..count).map(|_| VelocityLimit::take(reader)).collect()
}

// ===== impl Maximum =====

impl Maximum {
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Maximum::Count),
            1 => Some(Maximum::Amount),
            2 => Some(Maximum::Single),
            _ => None,
        }
    }
}

// ===== impl Velocity =====

impl Velocity {
    /// The limits, in the order in which the client sent them.
    pub(crate) fn limits(&self) -> &[VelocityLimit] {
        &self.limits
    }

    /// Whether the account has no limit.
    pub(crate) const fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Replaces the limits. A limit with the same side and window as before keeps what was used. Amounts that were moved while
    /// it had no maximum for them do not count.
    pub(crate) fn set_limits(&mut self, limits: &[VelocityLimit]) {
        let before = std::mem::take(&mut self.limits);
        let mut used: Vec<_> = before.into_iter().zip(std::mem::take(&mut self.used)).collect();
        for limit in limits {
            let same = |(before, _): &(VelocityLimit, VecDeque<Slice>)| {
                (before.side, before.window_nanos) == (limit.side, limit.window_nanos)
            };
            let kept = used.iter().position(same);
            self.limits.push(*limit);
            self.used
                .push(kept.map_or_else(VecDeque::new, |place| used.remove(place).1));
        }
    }

    /// Checks a transfer of `amount` at `time`.
    ///
    /// # Errors
    /// The first limit that the transfer would exceed.
    pub(crate) fn check(&self, side: Side, amount: Amount, time: Timestamp) -> Result<(), Exceeded> {
        for (number, (limit, used)) in (0_u8..).zip(self.limits.iter().zip(&self.used)) {
            if limit.side == side {
                limit.check(number, used, amount, time)?;
            }
        }
        Ok(())
    }

    /// Counts a transfer, and forgets the slices that have left the windows.
    pub(crate) fn count(&mut self, side: Side, amount: Amount, time: Timestamp) {
        for (limit, used) in self.windows(side) {
            limit.count(used, amount, time);
        }
    }

    /// Takes back a transfer that was counted at `time`, which is the time of the newest slice.
    pub(crate) fn take_back(&mut self, side: Side, amount: Amount, time: Timestamp) {
        for (limit, used) in self.windows(side) {
            limit.take_back(used, amount, time);
        }
    }

    /// The limits of one side that have a window, each with its slices.
    fn windows(&mut self, side: Side) -> impl Iterator<Item = (&VelocityLimit, &mut VecDeque<Slice>)> {
        let all = self.limits.iter().zip(&mut self.used);
        all.filter(move |(limit, _)| limit.side == side && limit.has_window())
    }

    /// Memory on the heap, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let slices = |used: &VecDeque<Slice>| used.capacity() * size_of::<Slice>();
        self.limits.capacity() * size_of::<VelocityLimit>()
            + self.used.capacity() * size_of::<VecDeque<Slice>>()
            + self.used.iter().map(slices).sum::<usize>()
    }

    /// Appends the slices of all limits, for a checkpoint. [`Velocity::take_slices`] reads them.
    pub(crate) fn put_slices(&self, out: &mut Vec<u8>) {
        for used in &self.used {
            put_varint(out, used.len() as u128);
            for slice in used {
                put_varint_u64(out, slice.number);
                put_varint_u64(out, slice.count);
                put_varint(out, slice.amount);
            }
        }
    }

    /// Reads the slices of all limits.
    pub(crate) fn take_slices(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        for used in &mut self.used {
            let count = reader.varint_u64()?;
            if count > SLICES {
                return Err(Malformed {
                    what: "at most 64 slices of a window",
                });
            }
            for _ in 0..count {
                used.push_back(Slice {
                    number: reader.varint_u64()?,
                    count: reader.varint_u64()?,
                    amount: reader.varint_u128()?,
                });
            }
        }
        Ok(())
    }
}

// ===== the window of a limit =====

impl VelocityLimit {
    /// Whether the limit has a window. A limit of single amounts needs none.
    const fn has_window(&self) -> bool {
        self.max_count > 0 || self.max_amount.is_some()
    }

    /// The number of the slice that contains `time`.
    const fn slice_of(&self, time: Timestamp) -> u64 {
        time.as_nanos() / self.slice_nanos()
    }

    /// The amount that counts against the limit. Amounts count only if the limit has a maximum amount, so their sum can't overflow.
    fn counted(&self, amount: Amount) -> u128 {
        self.max_amount.map_or(0, |_| amount.minor_units())
    }

    fn count_exceeded(&self, count: u64) -> bool {
        self.max_count > 0 && count.saturating_add(1) > self.max_count
    }

    fn amount_exceeded(&self, sum: u128, amount: Amount) -> bool {
        self.max_amount.is_some_and(|max| {
            sum.checked_add(amount.minor_units())
                .is_none_or(|sum| sum > max.minor_units())
        })
    }

    fn check(
        &self,
        number: u8,
        used: &VecDeque<Slice>,
        amount: Amount,
        time: Timestamp,
    ) -> Result<(), Exceeded> {
        let exceeded = |maximum, used, room_at| {
            Err(Exceeded {
                limit: number,
                maximum,
                used,
                room_at,
            })
        };
        if self.single_amount_max.is_some_and(|max| amount > max) {
            return exceeded(Maximum::Single, 0, None);
        }
        if !self.has_window() {
            return Ok(());
        }
        let now = self.slice_of(time);
        let in_window = || used.iter().filter(|slice| slice.number + SLICES > now);
        let (mut count, mut sum) = (0_u64, 0_u128);
        for slice in in_window() {
            count = count.saturating_add(slice.count);
            sum = sum.saturating_add(slice.amount);
        }
        let (maximum, total) = if self.count_exceeded(count) {
            (Maximum::Count, u128::from(count))
        } else if self.amount_exceeded(sum, amount) {
            (Maximum::Amount, sum)
        } else {
            return Ok(());
        };
        // The time at which enough of the oldest slices have left the window that both maxima have room.
        let mut room_at = None;
        for slice in in_window() {
            count = count.saturating_sub(slice.count);
            sum = sum.saturating_sub(slice.amount);
            if !self.count_exceeded(count) && !self.amount_exceeded(sum, amount) {
                let nanos = (slice.number + SLICES).checked_mul(self.slice_nanos());
                room_at = nanos.map(Timestamp::from_nanos);
                break;
            }
        }
        exceeded(maximum, total, room_at)
    }

    fn count(&self, used: &mut VecDeque<Slice>, amount: Amount, time: Timestamp) {
        let now = self.slice_of(time);
        while used.front().is_some_and(|oldest| oldest.number + SLICES <= now) {
            used.pop_front();
        }
        if planted("forget_velocity_slice") && used.len() > 1 {
            used.pop_front();
        }
        if let Some(newest) = used.back_mut().filter(|newest| newest.number >= now) {
            assert_eq!(
                newest.number, now,
                "a transfer of slice {now} came after a transfer of a later slice"
            );
            newest.count += 1;
            newest.amount += self.counted(amount);
        } else {
            used.push_back(Slice {
                number: now,
                count: 1,
                amount: self.counted(amount),
            });
        }
    }

    fn take_back(&self, used: &mut VecDeque<Slice>, amount: Amount, time: Timestamp) {
        let now = self.slice_of(time);
        let Some(newest) = used.back_mut().filter(|newest| newest.number == now) else {
            panic!("a transfer of slice {now} was counted, but the newest slice is another one");
        };
        assert!(
            newest.count > 0,
            "more transfers are taken back than were counted"
        );
        newest.count -= 1;
        newest.amount -= self.counted(amount);
        if newest.count == 0 {
            used.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limit(max_count: u64, max_amount: Option<u64>) -> VelocityLimit {
        VelocityLimit {
            side: Side::Debit,
            window_nanos: 63 * SECOND,
            max_count,
            max_amount: max_amount.map(Amount::from),
            single_amount_max: None,
        }
    }

    fn new(limits: &[VelocityLimit]) -> Velocity {
        let mut velocity = Velocity::default();
        velocity.set_limits(limits);
        velocity
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_nanos((1000 + second) * SECOND)
    }

    #[test]
    fn a_window_has_room_again_when_the_oldest_slice_has_left_it() {
        let mut velocity = new(&[limit(2, None)]);
        velocity.count(Side::Debit, Amount::from(1), at(0));
        velocity.count(Side::Debit, Amount::from(1), at(10));
        let exceeded = velocity.check(Side::Debit, Amount::from(1), at(63)).unwrap_err();
        assert_eq!(
            exceeded,
            Exceeded {
                limit: 0,
                maximum: Maximum::Count,
                used: 2,
                room_at: Some(at(64))
            }
        );
        assert_eq!(velocity.check(Side::Debit, Amount::from(1), at(64)), Ok(()));
        assert_eq!(velocity.check(Side::Credit, Amount::from(1), at(63)), Ok(()));
    }

    #[test]
    fn an_amount_that_never_fits_has_no_room_time() {
        let mut velocity = new(&[limit(0, Some(100))]);
        velocity.count(Side::Debit, Amount::from(60), at(0));
        velocity.count(Side::Debit, Amount::from(40), at(5));
        let check = |amount| {
            velocity
                .check(Side::Debit, Amount::from(amount), at(6))
                .unwrap_err()
        };
        assert_eq!((check(60).used, check(60).room_at), (100, Some(at(64))));
        assert_eq!(check(61).room_at, Some(at(69)));
        assert_eq!(check(101).room_at, None);
        assert_eq!(check(101).maximum, Maximum::Amount);
    }

    #[test]
    fn what_is_taken_back_does_not_count() {
        let mut velocity = new(&[limit(1, None)]);
        let before = velocity.clone();
        velocity.count(Side::Debit, Amount::from(7), at(0));
        velocity.take_back(Side::Debit, Amount::from(7), at(0));
        assert_eq!(velocity, before);
    }

    #[test]
    fn new_limits_keep_what_was_used_in_the_same_window() {
        let mut velocity = new(&[limit(5, None)]);
        velocity.count(Side::Debit, Amount::from(7), at(0));
        velocity.set_limits(&[limit(1, None)]);
        assert!(velocity.check(Side::Debit, Amount::from(1), at(1)).is_err());
        let other = VelocityLimit {
            window_nanos: SECOND,
            ..limit(1, None)
        };
        velocity.set_limits(&[other]);
        assert_eq!(velocity.check(Side::Debit, Amount::from(1), at(1)), Ok(()));
    }

    #[test]
    fn slices_and_limits_are_decoded_as_they_were_encoded() {
        let single = VelocityLimit {
            side: Side::Credit,
            window_nanos: 0,
            max_count: 0,
            max_amount: None,
            single_amount_max: Some(Amount::new(u128::MAX)),
        };
        let mut velocity = new(&[limit(9, Some(1 << 40)), single]);
        velocity.count(Side::Debit, Amount::from(7), at(0));
        velocity.count(Side::Debit, Amount::from(8), at(3));
        velocity.count(Side::Credit, Amount::from(8), at(3));
        let (mut limits, mut slices) = (Vec::new(), Vec::new());
        put_limits(&mut limits, velocity.limits());
        velocity.put_slices(&mut slices);
        let mut again = new(&take_limits(&mut Reader::new(&limits)).unwrap());
        again.take_slices(&mut Reader::new(&slices)).unwrap();
        assert_eq!(again, velocity);
    }
}
