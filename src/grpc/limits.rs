//! Bounds on the length of messages. Those that only one service needs are in that service.

/// Longest message that is read: 8192 transactions of about 2 KiB each.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Longest transaction that is read, in bytes: three times the longest one that can be valid.
pub(crate) const TRANSACTION_BYTES_MAX: usize = 128 << 10;
/// Longest request for one account, one transaction or one report.
pub(crate) const QUERY_BYTES_MAX: usize = 4 << 10;
