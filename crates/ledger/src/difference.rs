//! Names the field in which two transactions or two accounts with the same id differ.

use std::fmt;

use super::account::NewAccount;

/// The first field of a transaction that differs from the transaction recorded under the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentField {
    /// The phase.
    Phase,
    /// The business time.
    EffectiveTime,
    /// The hold to post or to void.
    PendingTransaction,
    /// The time after which a hold expires.
    PendingTimeout,
    /// Whether the rest of a hold stays reserved.
    KeepRemaining,
    /// The transaction to reverse.
    ReversesTransaction,
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
    /// The amount rule of the transfer with this index.
    AmountRule(u8),
}

/// The first field of an account that differs from the account with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountField {
    /// The asset.
    Asset,
    /// The balance rule.
    BalanceRule,
    /// The overdraft limit.
    OverdraftLimit,
    /// The status.
    Status,
    /// The metadata.
    Metadata,
    /// The velocity limits.
    VelocityLimits,
}

// ===== impl ContentField =====

impl fmt::Display for ContentField {
    /// Writes the path of the field in the protobuf message `ProcessTransactionRequest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentField::Phase => f.write_str("phase"),
            ContentField::EffectiveTime => f.write_str("effective_time"),
            ContentField::PendingTransaction => f.write_str("pending_transaction_id"),
            ContentField::PendingTimeout => f.write_str("pending_timeout"),
            ContentField::KeepRemaining => f.write_str("keep_remaining"),
            ContentField::ReversesTransaction => f.write_str("reverses_transaction_id"),
            ContentField::Metadata => f.write_str("metadata"),
            ContentField::Transfers => f.write_str("transfers"),
            ContentField::DebitAccount(place) => write!(f, "transfers[{place}].debit_account_id"),
            ContentField::CreditAccount(place) => write!(f, "transfers[{place}].credit_account_id"),
            ContentField::Amount(place) => write!(f, "transfers[{place}].amount"),
            ContentField::Code(place) => write!(f, "transfers[{place}].code"),
            ContentField::AmountRule(place) => write!(f, "transfers[{place}].amount_rule"),
        }
    }
}

// ===== impl AccountField =====

impl AccountField {
    /// Returns the first field in which `sent` differs from `existing`, which has the same id; `None` if they are equal.
    #[must_use]
    pub fn first_difference(sent: &NewAccount, existing: &NewAccount) -> Option<Self> {
        let NewAccount {
            id: _,
            asset,
            rule,
            overdraft_limit,
            status,
            metadata,
            velocity_limits,
        } = existing;
        [
            (sent.asset != *asset, AccountField::Asset),
            (sent.rule != *rule, AccountField::BalanceRule),
            (
                sent.overdraft_limit != *overdraft_limit,
                AccountField::OverdraftLimit,
            ),
            (sent.status != *status, AccountField::Status),
            (sent.metadata != *metadata, AccountField::Metadata),
            (
                sent.velocity_limits != *velocity_limits,
                AccountField::VelocityLimits,
            ),
        ]
        .into_iter()
        .find_map(|(differs, field)| differs.then_some(field))
    }
}

impl fmt::Display for AccountField {
    /// Writes the name of the field in the protobuf message `Account`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AccountField::Asset => "asset",
            AccountField::BalanceRule => "balance_rule",
            AccountField::OverdraftLimit => "overdraft_limit",
            AccountField::Status => "status",
            AccountField::Metadata => "metadata",
            AccountField::VelocityLimits => "velocity_limits",
        })
    }
}
