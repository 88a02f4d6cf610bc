//! Counts of what an export has written.

use serde::{Deserialize, Serialize};

/// The numbers of accounts, updates and transactions that an export has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    /// Accounts.
    pub(super) accounts: u64,
    /// Updates of accounts.
    pub(super) updates: u64,
    /// Transactions, with the expiries of holds.
    pub(super) transactions: u64,
    /// The sequence of the last transaction; 0 if there is none.
    pub(super) last_sequence: i64,
}
