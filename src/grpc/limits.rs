//! Bounds on the length of messages. A bound that only one service needs is in the module of that service.

/// Longest message that the service reads, in bytes: 8192 transactions of about 2 KiB each.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Longest transaction that the service reads, in bytes: three times the length of the longest valid transaction.
pub(crate) const TRANSACTION_BYTES_MAX: usize = 128 << 10;
/// Longest request for one account, one transaction or one report, in bytes.
pub(crate) const QUERY_BYTES_MAX: usize = 4 << 10;
