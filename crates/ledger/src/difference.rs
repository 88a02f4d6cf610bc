//! In what a transaction differs from the one that was recorded under its id.

use std::fmt;

/// The first part of a transaction that differs from what was recorded under its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentField {
    /// What to do with the transfers.
    Phase,
    /// Business time.
    EffectiveTime,
    /// Free text.
    Metadata,
    /// The number of transfers.
    Transfers,
    /// The debit account of a transfer.
    DebitAccount(u8),
    /// The credit account of a transfer.
    CreditAccount(u8),
    /// The amount of a transfer.
    Amount(u8),
    /// The code of a transfer.
    Code(u8),
}

// ===== impl ContentField =====

impl fmt::Display for ContentField {
    /// The path of the field in `ProcessTransactionRequest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentField::Phase => f.write_str("phase"),
            ContentField::EffectiveTime => f.write_str("effective_time"),
            ContentField::Metadata => f.write_str("metadata"),
            ContentField::Transfers => f.write_str("transfers"),
            ContentField::DebitAccount(place) => write!(f, "transfers[{place}].debit_account_id"),
            ContentField::CreditAccount(place) => write!(f, "transfers[{place}].credit_account_id"),
            ContentField::Amount(place) => write!(f, "transfers[{place}].amount"),
            ContentField::Code(place) => write!(f, "transfers[{place}].code"),
        }
    }
}
