//! Names the field in which two transactions with the same id differ.

use std::fmt;

/// The first field of a transaction that differs from the transaction recorded under the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentField {
    /// The phase.
    Phase,
    /// The business time.
    EffectiveTime,
    /// The metadata.
    Metadata,
    /// The number of transfers.
    Transfers,
    /// The debit account of the transfer with this index.
    DebitAccount(u8),
    /// The credit account of the transfer with this index.
    CreditAccount(u8),
    /// The amount of the transfer with this index.
    Amount(u8),
    /// The code of the transfer with this index.
    Code(u8),
}

// ===== impl ContentField =====

impl fmt::Display for ContentField {
    /// Writes the path of the field in the protobuf message `ProcessTransactionRequest`.
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
