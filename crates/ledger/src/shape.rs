//! The properties of a transaction that decide how its effects are encoded.

use super::{
    account::AccountIndex,
    codec::{Malformed, Reader},
    transaction::{
        FLAG_KEEP_REMAINING, FLAG_NO_TRANSFERS, FLAG_PENDING_ID, FLAG_REVERSES, Phase, TransactionView,
    },
};

/// The phase of a transaction, and which parts it has. Reading the shape takes a fraction of the time of
/// [`TransactionView::parse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) phase: Phase,
    flags: u8,
}

// ===== impl Shape =====

impl Shape {
    /// Reads the shape of an encoded transaction.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes do not start with an encoded heading.
    #[inline]
    pub(crate) fn of(encoded: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(encoded);
        reader.short_bytes()?;
        let &[phase, _, flags] = reader.bytes(3)? else {
            return Err(Malformed { what: "a heading" });
        };
        Ok(Shape {
            phase: Phase::from_code(phase)?,
            flags,
        })
    }

    /// The shape of a decoded transaction.
    #[inline]
    pub(crate) const fn of_decoded(transaction: &TransactionView<'_, AccountIndex>) -> Self {
        Shape {
            phase: transaction.phase(),
            flags: transaction.flags(),
        }
    }

    /// Whether the transaction names a hold.
    #[inline]
    pub(crate) const fn names_hold(self) -> bool {
        self.flags & FLAG_PENDING_ID != 0
    }

    /// Whether the transaction names a transaction that it reverses.
    #[inline]
    pub(crate) const fn names_reversed(self) -> bool {
        self.flags & FLAG_REVERSES != 0
    }

    #[inline]
    pub(crate) const fn has_transfers(self) -> bool {
        self.flags & FLAG_NO_TRANSFERS == 0
    }

    #[inline]
    pub(crate) const fn keep_remaining(self) -> bool {
        self.flags & FLAG_KEEP_REMAINING != 0
    }
}

/// Whether an encoded transaction makes a hold.
#[inline]
pub(crate) fn is_hold(encoded: &[u8]) -> bool {
    let phase = encoded
        .first()
        .and_then(|length| encoded.get(usize::from(*length) + 1));
    phase.is_some_and(|phase| *phase == Phase::Pending as u8)
}
