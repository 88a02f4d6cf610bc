//! Rejections: the business reasons for which a transaction is not applied. They are outcomes, not errors.

use std::fmt;

use super::{
    codec::{Malformed, Reader, put_varint},
    money::Amount,
    side::Side,
    velocity::{Exceeded, Maximum},
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
    /// A clamped transfer would move nothing.
    NothingAvailable = 8,
    /// The transfer exceeds a velocity limit of the account.
    VelocityLimit = 9,
    /// No hold has the id.
    PendingNotFound = 10,
    /// The hold was posted before.
    PendingAlreadyPosted = 11,
    /// The hold was voided before.
    PendingAlreadyVoided = 12,
    /// The hold has expired.
    PendingExpired = 13,
    /// The transfer posts more than the hold still reserves.
    PendingAmountExceeded = 14,
    /// The transfers have other accounts than those of the hold, or their number differs.
    PendingTransfersDiffer = 15,
    /// No transaction has the id of the transaction to reverse.
    ReversedNotFound = 16,
    /// The transaction can't be reversed: it moved nothing, is a reversal itself, or has other transfers than the request.
    NotReversible = 17,
    /// The transfer reverses more than is left to reverse.
    AlreadyReversed = 18,
    /// The ledger has its maximum number of outstanding holds.
    HoldsFull = 19,
    /// The transaction has no transfers, and the caller has no memory for an answer with all legs that the transaction would
    /// have.
    MemoryLimit = 20,
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
    /// With [`Reason::VelocityLimit`]: the index of the limit, shifted by two, and the [`Maximum`].
    limit: u8,
    /// With [`Reason::VelocityLimit`]: the seconds of [`Rejection::room_at`], or 0.
    room_at: u32,
    /// The upper and the lower 64 bits of the rejection's figure. Two `u64` keep
    /// [`Outcome`](super::machine::Outcome) at 32 bytes; a `u128` with its alignment would need 48 bytes.
    figure: [u64; 2],
}

/// The figures of a rejection with [`Reason::VelocityLimit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VelocityFigures {
    /// The index of the limit in the account's list, from 0.
    pub limit: u8,
    /// The maximum that the transfer exceeds.
    pub maximum: Maximum,
    /// What the transfers in the window had used: their number or their amount.
    pub used: Amount,
    /// The first second since the epoch at which the transfer would fit, if no other transfer comes first. `None` if the
    /// transfer never fits, or fits only after the year 2106.
    pub room_at_seconds: Option<u32>,
}

// ===== impl Reason =====

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Reason; 20] = [
        Reason::AccountNotFound,
        Reason::SameAccount,
        Reason::AssetMismatch,
        Reason::AccountFrozen,
        Reason::AccountClosed,
        Reason::InsufficientFunds,
        Reason::BalanceOverflow,
        Reason::NothingAvailable,
        Reason::VelocityLimit,
        Reason::PendingNotFound,
        Reason::PendingAlreadyPosted,
        Reason::PendingAlreadyVoided,
        Reason::PendingExpired,
        Reason::PendingAmountExceeded,
        Reason::PendingTransfersDiffer,
        Reason::ReversedNotFound,
        Reason::NotReversible,
        Reason::AlreadyReversed,
        Reason::HoldsFull,
        Reason::MemoryLimit,
    ];

    /// Whether a rejection for this reason is recorded under the transaction's id.
    ///
    /// A rejection that depends on balances or on the status of an account is recorded, and every retry gets the same
    /// rejection. Without the record, a delayed duplicate could succeed after its caller has seen the rejection.
    ///
    /// The other rejections need no record. A retry gets `SameAccount` or `AssetMismatch` again, because an account
    /// keeps its asset. After `AccountNotFound`, the caller may create the account and retry. After `HoldsFull`, the
    /// caller may retry when other holds have ended, and after `MemoryLimit` with memory for more legs.
    #[must_use]
    pub const fn is_recorded(self) -> bool {
        match self {
            Reason::AccountNotFound
            | Reason::SameAccount
            | Reason::AssetMismatch
            | Reason::HoldsFull
            | Reason::MemoryLimit => false,
            Reason::AccountFrozen
            | Reason::AccountClosed
            | Reason::InsufficientFunds
            | Reason::BalanceOverflow
            | Reason::NothingAvailable
            | Reason::VelocityLimit
            | Reason::PendingNotFound
            | Reason::PendingAlreadyPosted
            | Reason::PendingAlreadyVoided
            | Reason::PendingExpired
            | Reason::PendingAmountExceeded
            | Reason::PendingTransfersDiffer
            | Reason::ReversedNotFound
            | Reason::NotReversible
            | Reason::AlreadyReversed => true,
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
            Reason::NothingAvailable => "NOTHING_AVAILABLE",
            Reason::VelocityLimit => "VELOCITY_LIMIT",
            Reason::PendingNotFound => "PENDING_NOT_FOUND",
            Reason::PendingAlreadyPosted => "PENDING_ALREADY_POSTED",
            Reason::PendingAlreadyVoided => "PENDING_ALREADY_VOIDED",
            Reason::PendingExpired => "PENDING_EXPIRED",
            Reason::PendingAmountExceeded => "PENDING_AMOUNT_EXCEEDED",
            Reason::PendingTransfersDiffer => "PENDING_TRANSFERS_DIFFER",
            Reason::ReversedNotFound => "REVERSED_NOT_FOUND",
            Reason::NotReversible => "NOT_REVERSIBLE",
            Reason::AlreadyReversed => "ALREADY_REVERSED",
            Reason::HoldsFull => "HOLDS_FULL",
            Reason::MemoryLimit => "MEMORY_LIMIT",
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
            8 => Reason::NothingAvailable,
            9 => Reason::VelocityLimit,
            10 => Reason::PendingNotFound,
            11 => Reason::PendingAlreadyPosted,
            12 => Reason::PendingAlreadyVoided,
            13 => Reason::PendingExpired,
            14 => Reason::PendingAmountExceeded,
            15 => Reason::PendingTransfersDiffer,
            16 => Reason::ReversedNotFound,
            17 => Reason::NotReversible,
            18 => Reason::AlreadyReversed,
            19 => Reason::HoldsFull,
            20 => Reason::MemoryLimit,
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
            limit: 0,
            room_at: 0,
            figure: [0; 2],
        }
    }

    /// The rejection of a transaction whose answer would have this many legs, more than the caller has memory for.
    #[must_use]
    pub const fn memory_limit(legs: usize) -> Self {
        let rejection = Rejection::new(Reason::MemoryLimit, 0, Side::Debit);
        rejection.with_available(Amount::new(legs as u128))
    }

    /// The same rejection with the amount that was available.
    #[expect(clippy::cast_possible_truncation, reason = "the amount is split into halves")]
    #[must_use]
    pub const fn with_available(mut self, available: Amount) -> Self {
        let units = available.minor_units();
        self.figure = [(units >> 64) as u64, units as u64];
        self
    }

    /// The rejection of a transfer that exceeds a velocity limit.
    #[must_use]
    pub fn velocity(transfer: u8, side: Side, exceeded: &Exceeded) -> Self {
        let room_at = exceeded.room_at.and_then(|time| {
            let (seconds, nanos) = time.seconds_and_nanos();
            u32::try_from(seconds + u64::from(nanos > 0)).ok()
        });
        Rejection {
            limit: exceeded.limit << 2 | exceeded.maximum as u8,
            room_at: room_at.map_or(0, |seconds| seconds),
            ..Rejection::new(Reason::VelocityLimit, transfer, side).with_available(Amount::new(exceeded.used))
        }
    }

    /// With [`Reason::InsufficientFunds`]: the maximum amount that the account would have accepted on this side, with
    /// its overdraft limit, after the earlier transfers of the same transaction. With
    /// [`Reason::PendingAmountExceeded`]: what the transfer of the hold still reserves. With [`Reason::AlreadyReversed`]: the
    /// amount of the transfer that is left to reverse. With [`Reason::MemoryLimit`]: the number of legs. Zero with every other
    /// reason except [`Reason::VelocityLimit`].
    #[must_use]
    pub const fn available(self) -> Amount {
        let [high, low] = self.figure;
        Amount::new((high as u128) << 64 | low as u128)
    }

    /// The figures of a rejection with [`Reason::VelocityLimit`]; `None` with every other reason.
    #[must_use]
    pub fn velocity_figures(self) -> Option<VelocityFigures> {
        let maximum = Maximum::from_code(self.limit & 0b11)?;
        (self.reason == Reason::VelocityLimit).then_some(VelocityFigures {
            limit: self.limit >> 2,
            maximum,
            used: self.available(),
            room_at_seconds: (self.room_at > 0).then_some(self.room_at),
        })
    }

    /// Appends the encoded rejection to `out`.
    pub fn put(self, out: &mut Vec<u8>) {
        out.push(self.reason as u8);
        put_varint(out, u128::from(self.transfer));
        out.push(self.side as u8);
        put_varint(out, self.available().minor_units());
        if self.reason == Reason::VelocityLimit {
            out.push(self.limit);
            out.extend_from_slice(&self.room_at.to_le_bytes());
        }
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
        let side = Side::take(reader)?;
        let figure = Amount::new(reader.varint_u128()?);
        let mut rejection = Rejection::new(reason, transfer, side).with_available(figure);
        if reason == Reason::VelocityLimit {
            rejection.limit = reader.u8()?;
            let seconds = reader.bytes(4)?.try_into();
            rejection.room_at = u32::from_le_bytes(seconds.map_err(|_| Malformed { what: "a time" })?);
            if Maximum::from_code(rejection.limit & 0b11).is_none() {
                return Err(Malformed {
                    what: "a maximum of a velocity limit",
                });
            }
        }
        Ok(rejection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rejection_is_decoded_as_it_was_encoded() {
        for (code, reason) in (1..).zip(Reason::ALL) {
            assert_eq!(Reason::from_code(code), Some(reason));
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
        assert!(Reason::from_code(21).is_none());
    }
}
