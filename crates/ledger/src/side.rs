//! The two sides of an account and of a transfer.

use super::codec::{Malformed, Reader};

/// One of the two accounts of a transfer. The numbers are part of the record format and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The debit account.
    Debit = 0,
    /// The credit account.
    Credit = 1,
}

// ===== impl Side =====

impl Side {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Side {
        match self {
            Side::Debit => Side::Credit,
            Side::Credit => Side::Debit,
        }
    }

    /// Reads an encoded side.
    ///
    /// # Errors
    /// [`Malformed`] if the byte is not a side.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u8()? {
            0 => Ok(Side::Debit),
            1 => Ok(Side::Credit),
            _ => Err(Malformed { what: "a side" }),
        }
    }
}
