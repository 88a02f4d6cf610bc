//! The kinds of calls that write.

/// A kind of call that writes. Each kind has its own circuit for two reasons. A latency that is slow for one
/// transaction is normal for thousands of transactions. And slow calls of one kind must not stop the calls of the other
/// kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// `ProcessTransaction`.
    Unary,
    /// `ProcessTransactions`.
    Bulk,
    /// `StreamTransactions`.
    Stream,
    /// `CreateAccount` and `BatchCreateAccounts`.
    Accounts,
}

// ===== impl CallKind =====

impl CallKind {
    /// Every kind.
    pub const ALL: [CallKind; 4] = [
        CallKind::Unary,
        CallKind::Bulk,
        CallKind::Stream,
        CallKind::Accounts,
    ];

    /// The name of the kind's circuit.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            CallKind::Unary => "ProcessTransaction",
            CallKind::Bulk => "ProcessTransactions",
            CallKind::Stream => "StreamTransactions",
            CallKind::Accounts => "CreateAccounts",
        }
    }

    /// Returns the element of `all` for this kind. `all` is in the order of [`CallKind::ALL`].
    pub(super) const fn select<T>(self, all: &[T; CallKind::ALL.len()]) -> &T {
        let [unary, bulk, stream, accounts] = all;
        match self {
            CallKind::Unary => unary,
            CallKind::Bulk => bulk,
            CallKind::Stream => stream,
            CallKind::Accounts => accounts,
        }
    }
}
