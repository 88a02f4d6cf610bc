//! Why a transaction was refused: values, not faults.

use std::fmt;

use super::codec::{Malformed, Reader, put_varint};

/// The business reasons for which a transaction is refused. The numbers are written to the journal and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// No such account.
    AccountNotFound = 1,
    /// Both sides name the same account.
    SameAccount = 2,
    /// The two accounts have different assets.
    AssetMismatch = 3,
    /// The account is frozen.
    AccountFrozen = 4,
    /// The account is closed.
    AccountClosed = 5,
    /// The balance rule would be broken.
    InsufficientFunds = 6,
    /// A column would exceed 2^128 - 1.
    BalanceOverflow = 7,
}

/// The side of a transfer that the reason is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The debit account.
    Debit = 0,
    /// The credit account.
    Credit = 1,
}

/// A refusal: the reason, and the first transfer that met with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// Which transfer of the transaction, from 0.
    pub transfer: u8,
    /// Which of its accounts.
    pub side: Side,
}

// ===== impl Reason =====

impl Reason {
    /// Whether the refusal depended on the ledger's state, so that it is journalled under the transaction's id and
    /// answered again to every repetition. A late duplicate must not succeed after its caller has moved on.
    ///
    /// The others would be the same at any time (`SameAccount`, `AssetMismatch`: an account's asset never changes), or
    /// are about something that has yet to be made (`AccountNotFound`).
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

    /// The name by which programs know it.
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
    /// Appends the journal's form.
    pub fn put(self, out: &mut Vec<u8>) {
        out.push(self.reason as u8);
        put_varint(out, u128::from(self.transfer));
        out.push(self.side as u8);
    }

    /// Reads the journal's form.
    ///
    /// # Errors
    /// [`Malformed`] if it is none.
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
        Ok(Rejection {
            reason,
            transfer,
            side,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_form_comes_back_for_every_reason() {
        for code in 1..=7 {
            let reason = Reason::from_code(code).unwrap();
            assert_eq!(reason as u8, code);
            for side in [Side::Debit, Side::Credit] {
                let rejection = Rejection {
                    reason,
                    transfer: 255,
                    side,
                };
                let mut bytes = Vec::new();
                rejection.put(&mut bytes);
                assert_eq!(Rejection::take(&mut Reader::new(&bytes)), Ok(rejection));
            }
        }
        assert!(Reason::from_code(0).is_none());
        assert!(Reason::from_code(8).is_none());
    }
}
