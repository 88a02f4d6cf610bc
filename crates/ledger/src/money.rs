//! Amounts of money: unsigned 128-bit numbers of minor units. Their arithmetic is checked.

use std::fmt;

/// A number of minor units of one asset (cents, satoshi, wei), from 0 to 2^128 - 1.
///
/// Only checked arithmetic exists, so that no operation can wrap or saturate by accident.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u128);

impl Amount {
    /// Zero minor units.
    pub const ZERO: Amount = Amount(0);

    /// Creates an amount of `minor_units`.
    #[inline]
    #[must_use]
    pub const fn new(minor_units: u128) -> Self {
        Amount(minor_units)
    }

    /// The number of minor units.
    #[inline]
    #[must_use]
    pub const fn minor_units(self) -> u128 {
        self.0
    }

    /// Whether the amount is zero.
    #[inline]
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Returns `self + other`, or `None` if the sum exceeds 2^128 - 1.
    #[inline]
    #[must_use]
    pub const fn checked_add(self, other: Amount) -> Option<Amount> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Amount(sum)),
            None => None,
        }
    }

    /// Returns `self - other`, or `None` if `other` is larger than `self`.
    #[inline]
    #[must_use]
    pub const fn checked_sub(self, other: Amount) -> Option<Amount> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Amount(difference)),
            None => None,
        }
    }
}

impl From<u64> for Amount {
    #[inline]
    fn from(minor_units: u64) -> Self {
        Amount(u128::from(minor_units))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
