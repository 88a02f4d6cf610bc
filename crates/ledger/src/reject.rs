//! Rejections: the business reasons for which a transaction is not applied. They are outcomes, not errors.

use std::fmt;

use super::{
    codec::{Malformed, Reader, put_varint},
    money::Amount,
};

/// Why a transaction is rejected. The numbers are part of the record format and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The account does not exist.
    AccountNotFound = 1,
    /// Both sides of the transfer have the same account.
    SameAccount = 2,
    /// The two accounts have different assets.
    AssetMismatch = 3,
    /// The account is frozen.
    AccountFrozen = 4,
    /// The account is closed.
    AccountClosed = 5,
    /// The transfer would break the account's balance rule.
    InsufficientFunds = 6,
    /// A balance column would exceed 2^128 - 1.
    BalanceOverflow = 7,
}

/// One of the two accounts of a transfer. The numbers are part of the record format and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The debit account.
    Debit = 0,
    /// The credit account.
    Credit = 1,
}

/// A rejection: the reason, and the first transfer to which the reason applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// Why the transaction is rejected.
    pub reason: Reason,
    /// The transfer, by its index in the transaction. The first transfer has index 0.
    pub transfer: u8,
    /// The account of the transfer that causes the rejection.
    pub side: Side,
    /// The upper and the lower 64 bits of [`Rejection::available`]. Two `u64` keep
    /// [`Outcome`](super::machine::Outcome) at 32 bytes; a `u128` with its alignment would need 48 bytes.
    available: [u64; 2],
}

// ===== impl Reason =====

impl Reason {
    /// Whether a rejection for this reason is recorded under the transaction's id.
    ///
    /// A rejection that depends on balances or on the status of an account is recorded, and every retry gets the same
    /// rejection. Without the record, a delayed duplicate could succeed after its caller has seen the rejection.
    ///
    /// The other rejections need no record. A retry gets `SameAccount` or `AssetMismatch` again, because an account
    /// keeps its asset. After `AccountNotFound`, the caller may create the account and retry.
    #[must_use]
    pub const fn is_recorded(self) -> bool {
        match self {
            Reason::AccountNotFound | Reason::SameAccount | Reason::AssetMismatch => false,
            Reason::AccountFrozen
            | Reason::AccountClosed
            | Reason::InsufficientFunds
            | Reason::BalanceOverflow => true,
        }
    }

    /// The reason's name, which clients compare. The name never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::AccountNotFound => "ACCOUNT_NOT_FOUND",
            Reason::SameAccount => "SAME_ACCOUNT",
            Reason::AssetMismatch => "ASSET_MISMATCH",
            Reason::AccountFrozen => "ACCOUNT_FROZEN",
            Reason::AccountClosed => "ACCOUNT_CLOSED",
            Reason::InsufficientFunds => "INSUFFICIENT_FUNDS",
            Reason::BalanceOverflow => "BALANCE_OVERFLOW",
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Reason::AccountNotFound,
            2 => Reason::SameAccount,
            3 => Reason::AssetMismatch,
            4 => Reason::AccountFrozen,
            5 => Reason::AccountClosed,
            6 => Reason::InsufficientFunds,
            7 => Reason::BalanceOverflow,
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// ===== impl Rejection =====

impl Rejection {
    /// A rejection with no amount available.
    #[must_use]
    pub const fn new(reason: Reason, transfer: u8, side: Side) -> Self {
        Rejection {
            reason,
            transfer,
            side,
            available: [0; 2],
        }
    }

    /// The same rejection with the amount that was available.
    #[expect(clippy::cast_possible_truncation, reason = "the amount is split into halves")]
    #[must_use]
    pub const fn with_available(mut self, available: Amount) -> Self {
        let units = available.minor_units();
        self.available = [(units >> 64) as u64, units as u64];
        self
    }

    /// With [`Reason::InsufficientFunds`]: the maximum amount that the account would have accepted on this side, with
    /// its overdraft limit, after the earlier transfers of the same transaction. Zero with every other reason.
    #[must_use]
    pub const fn available(self) -> Amount {
        let [high, low] = self.available;
        Amount::new((high as u128) << 64 | low as u128)
    }

    /// Appends the encoded rejection to `out`.
    pub fn put(self, out: &mut Vec<u8>) {
        out.push(self.reason as u8);
        put_varint(out, u128::from(self.transfer));
        out.push(self.side as u8);
        put_varint(out, self.available().minor_units());
    }

    /// Reads an encoded rejection.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not an encoded rejection.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let reason = Reason::from_code(reader.u8()?).ok_or(Malformed { what: "a reason" })?;
        let transfer = u8::try_from(reader.varint_u32()?).map_err(|_| Malformed {
            what: "a transfer's index",
        })?;
        let side = match reader.u8()? {
            0 => Side::Debit,
            1 => Side::Credit,
            _ => return Err(Malformed { what: "a side" }),
        };
        let available = Amount::new(reader.varint_u128()?);
        Ok(Rejection::new(reason, transfer, side).with_available(available))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rejection_is_decoded_as_it_was_encoded() {
        for code in 1..=7 {
            let reason = Reason::from_code(code).unwrap();
            assert_eq!(reason as u8, code);
            for side in [Side::Debit, Side::Credit] {
                for available in [0, 1, u128::from(u64::MAX) + 1, u128::MAX] {
                    let available = Amount::new(available);
                    let rejection = Rejection::new(reason, 255, side).with_available(available);
                    assert_eq!(rejection.available(), available);
                    let mut bytes = Vec::new();
                    rejection.put(&mut bytes);
                    assert_eq!(Rejection::take(&mut Reader::new(&bytes)), Ok(rejection));
                }
            }
        }
        assert!(Reason::from_code(0).is_none());
        assert!(Reason::from_code(8).is_none());
    }
}
