//! Amounts of money: whole minor units, unsigned, 128 bits, never wrapping.

use std::fmt;

/// A number of minor units of one asset (cents, satoshi, wei), 0 to 2^128 - 1.
///
/// Arithmetic is checked only: there is no operator that could wrap or saturate by accident.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u128);

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);

    /// `minor_units` of the asset.
    #[must_use]
    pub const fn new(minor_units: u128) -> Self {
        Amount(minor_units)
    }

    /// The number of minor units.
    #[must_use]
    pub const fn minor_units(self) -> u128 {
        self.0
    }

    /// Whether this is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `self + other`, or `None` beyond 2^128 - 1.
    #[must_use]
    pub const fn checked_add(self, other: Amount) -> Option<Amount> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Amount(sum)),
            None => None,
        }
    }

    /// `self - other`, or `None` below zero.
    #[must_use]
    pub const fn checked_sub(self, other: Amount) -> Option<Amount> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Amount(difference)),
            None => None,
        }
    }
}

impl From<u64> for Amount {
    fn from(minor_units: u64) -> Self {
        Amount(u128::from(minor_units))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
