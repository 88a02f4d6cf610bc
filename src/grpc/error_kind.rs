//! The kinds of errors that a client can get, one for each `reason` of `google.rpc.ErrorInfo`.
//!
//! `status.rs` makes the statuses. The table of `docs/errors.md` is generated from [`ERROR_KINDS`].

use tally_ledger::Reason;
use tonic::Code;

/// Whether a call with this error was executed. The value is in the metadata of the `ErrorInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executed {
    /// The call was not executed and will not be.
    No,
    /// The call may have been executed, or may still be. The client learns the outcome when it repeats the call with the
    /// same id.
    Unknown,
    /// [`Executed::No`] or [`Executed::Unknown`]. Each error says which of the two.
    Either,
}

/// What a client may do after an error. The value is in the metadata of the `ErrorInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same call never succeeds while the cause of the error remains: the client must change the call, or remove the cause.
    No,
    /// The client may repeat the same call, with the same transaction id.
    SameId,
    /// As [`Retry::SameId`]. The error also has a `google.rpc.RetryInfo` and the header `grpc-retry-pushback-ms` with the
    /// delay.
    SameIdAfterDelay,
    /// The outcome is final for the transaction id: every repetition with this id gets the same error. A new attempt needs a
    /// new transaction id.
    NewId,
}

/// A kind of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorKind {
    /// The `reason` of the `ErrorInfo`. It never changes.
    pub reason: &'static str,
    /// The gRPC codes that such an error can have, the usual one first.
    pub codes: &'static [Code],
    /// Whether the call was executed.
    pub executed: Executed,
    /// What the client may do.
    pub retry: Retry,
    /// What happened, for the reference documentation.
    pub meaning: &'static str,
    /// The index in [`ERROR_KINDS`].
    pub(super) index: usize,
}

macro_rules! error_kinds {
    ($($reason:ident: [$($code:ident),+], $executed:ident, $retry:ident, $meaning:literal;)+) => {
        /// One variant for each kind. The discriminants are the indices in [`ERROR_KINDS`].
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "the variants have the names of the reasons")]
        enum Index {
            $($reason),+
        }

        impl ErrorKind {
            $(
                #[doc = $meaning]
                pub const $reason: ErrorKind = ErrorKind {
                    reason: stringify!($reason),
                    codes: &[$(Code::$code),+],
                    executed: Executed::$executed,
                    retry: Retry::$retry,
                    meaning: $meaning,
                    index: Index::$reason as usize,
                };
            )+
        }

        /// All kinds of errors.
        pub const ERROR_KINDS: &[ErrorKind] = &[$(ErrorKind::$reason),+];
    };
}

error_kinds! {
    INVALID_FIELD: [InvalidArgument], No, No, "A field is out of its bounds. `google.rpc.BadRequest` names the fields.";
    MALFORMED_CALL: [Internal], No, No, "The call has no message, a second message, an incomplete message or a wrong compression flag.";
    MALFORMED_MESSAGE: [Internal], No, No, "The message is not the protobuf message of the method.";
    MESSAGE_TOO_LARGE: [OutOfRange], No, No, "The message is longer than the method reads.";
    COMPRESSION_NOT_SUPPORTED: [Unimplemented], No, No, "The message is compressed.";
    REQUEST_TOO_SLOW: [DeadlineExceeded], No, SameId, "The message did not arrive within `server.message_time_max`.";
    TOO_MANY_HEADERS: [ResourceExhausted], No, No, "The call has more than 64 headers. Or another replica must answer it, and its headers have nearly 16 KiB, so that the mark of a forwarded call does not fit.";
    UNKNOWN_METHOD: [Unimplemented], No, No, "The path is not a method of the service, or the request is not a POST.";
    CALL_CANCELLED: [Cancelled], No, SameId, "The client ended the call before its message had arrived.";
    UNAUTHENTICATED: [Unauthenticated], No, No, "The call has no valid token.";
    FORBIDDEN: [PermissionDenied], No, No, "The role of the token is too low, or the token is for ids with a `prefix` only and the call names another id or concerns the whole service.";
    ACCOUNT_NOT_FOUND: [NotFound], No, No, "The account does not exist. The rejection is not recorded: after the account is created, the same transaction id may be used.";
    SAME_ACCOUNT: [FailedPrecondition], No, No, "A transfer has the same account on both sides.";
    ASSET_MISMATCH: [FailedPrecondition], No, No, "The accounts of a transfer have different assets.";
    ACCOUNT_FROZEN: [FailedPrecondition], No, NewId, "The account is frozen, or its debits are.";
    ACCOUNT_CLOSED: [FailedPrecondition], No, NewId, "The account is closed. In `UpdateAccount`, `retry` is `no`.";
    INSUFFICIENT_FUNDS: [FailedPrecondition], No, NewId, "The balance rule of the account does not allow the transfer. The metadata has the minor units that the transfer `needs` and that were `available`. A transaction without transfers has no `needs`, and with a token for a prefix no `available`.";
    NOTHING_AVAILABLE: [FailedPrecondition], No, NewId, "A transfer with an `amount_rule` would move nothing, because the balance rule of the account allows nothing.";
    VELOCITY_LIMIT: [FailedPrecondition], No, NewId, "The transfer exceeds a velocity limit of the account. The metadata has the index of the `limit`, the `maximum` (`max_count`, `max_amount` or `single_amount_max`), what is `used`, and the time `room_at` from which on the transfer would fit. Without `room_at` it never fits.";
    BALANCE_OVERFLOW: [OutOfRange], No, NewId, "A balance would exceed 2^128 - 1.";
    PENDING_NOT_FOUND: [NotFound], No, NewId, "No hold has the id `pending_transaction_id`.";
    PENDING_ALREADY_POSTED: [FailedPrecondition], No, NewId, "The hold was posted before, and nothing of it is reserved any more.";
    PENDING_ALREADY_VOIDED: [FailedPrecondition], No, NewId, "The hold was voided before.";
    PENDING_EXPIRED: [FailedPrecondition], No, NewId, "The hold has expired.";
    PENDING_AMOUNT_EXCEEDED: [FailedPrecondition], No, NewId, "A transfer posts more than the hold still reserves. The metadata has the minor units that the transfer `needs` and that were `available`.";
    PENDING_TRANSFERS_DIFFER: [FailedPrecondition], No, NewId, "The accounts or the number of the transfers are not those of the hold.";
    REVERSED_NOT_FOUND: [NotFound], No, NewId, "The transaction `reverses_transaction_id` does not exist.";
    NOT_REVERSIBLE: [FailedPrecondition], No, NewId, "The transaction can't be reversed, because it is a hold, a void, a reversal or a rejection, or the transfers are not its transfers with swapped accounts.";
    ALREADY_REVERSED: [FailedPrecondition], No, NewId, "Less than the requested amount is left to reverse. The metadata has the minor units that the transfer `needs` and that were `available`. Without `needs`, the transaction was reversed completely before.";
    HOLDS_FULL: [ResourceExhausted], No, SameIdAfterDelay, "The ledger has reached its maximum number of outstanding holds.";
    ACCOUNT_NOT_EMPTY: [FailedPrecondition], No, No, "The account can't be closed, because its posted debits and credits differ or something is pending.";
    ACCOUNT_CHANGED: [Aborted], No, No, "The account was updated since its `etag` was read. Read the account again.";
    TRANSACTION_ID_REUSED: [AlreadyExists], No, No, "The id belongs to a transaction with different content. The metadata names the first `field` that differs.";
    ACCOUNT_ID_REUSED: [AlreadyExists], No, No, "The id belongs to an account with different content. The metadata names the first `field` that differs.";
    TRANSACTION_NOT_FOUND: [NotFound], No, No, "The transaction does not exist.";
    ACCOUNTS_FULL: [ResourceExhausted], No, No, "The ledger has reached its maximum number of accounts.";
    ASSETS_FULL: [ResourceExhausted], No, No, "The ledger has reached its maximum number of assets.";
    CIRCUIT_OPEN: [Unavailable], No, SameIdAfterDelay, "The circuit breaker rejects the call.";
    QUEUE_FULL: [ResourceExhausted], No, SameIdAfterDelay, "The queue is full.";
    MEMORY_LIMIT: [ResourceExhausted], Either, SameIdAfterDelay, "The calls of this client, or of all clients, hold too much memory. `unknown` if the id was committed before, and only the memory for what the answer says about its transfers is missing.";
    SHUTTING_DOWN: [Unavailable], No, SameIdAfterDelay, "The service is shutting down. Another instance may take the call.";
    NOT_LEADER: [Unavailable], No, SameIdAfterDelay, "This replica does not lead, and could not forward the call. The metadata has the address of the `leader`, if it is known.";
    LEADER_LOST: [Unavailable], Unknown, SameIdAfterDelay, "The leader has stopped to lead after it had executed the call, or the connection to it failed after the call was forwarded. Send the same transactions with the same ids again; a watch goes on where it was.";
    NOT_REPLICATED: [FailedPrecondition], No, No, "The method needs a replicated store, and the store of this service is embedded.";
    EXPIRED_IN_QUEUE: [DeadlineExceeded], No, SameId, "The deadline passed before the execution.";
    EXPIRED_IN_EXECUTION: [DeadlineExceeded], Unknown, SameId, "The deadline passed during the execution.";
    STREAM_INTERRUPTED: [Aborted], No, SameId, "An earlier transaction of the stream has an unknown outcome, so this transaction was not executed.";
    STORE_FAILED: [Unavailable, Internal], Either, SameId, "The journal failed. Calls that begin after the failure are not executed.";
    DISK_FULL: [ResourceExhausted], Either, SameIdAfterDelay, "The disk has no space for more of the journal. Reads go on, and writes are executed again when there is space. In a call with many transactions, the first of them may have been executed.";
    DATA_DAMAGED: [DataLoss], Unknown, SameId, "A record of the journal is damaged, and an operator must act. In a call with many transactions, one of them needs this record: send the transactions alone to find out about the others.";
    REPLY_LOST: [Internal], Unknown, SameId, "The engine lost the answer, which is a bug.";
    CIRCUIT_NOT_FOUND: [NotFound], No, No, "No circuit has this key.";
    CLOCK_NOT_CONFIRMED: [FailedPrecondition], No, No, "The step of the system clock is not the one that the call confirms, or its time is too late for the ledger.";
    TOO_MANY_WATCHERS: [ResourceExhausted], No, SameId, "The number of open watches is at its limit.";
    WATCH_TOO_SLOW: [Unavailable], No, SameId, "The client took nothing of the watch for `server.message_time_max`. `from_sequence` in the metadata says where another watch goes on.";
    NOT_FOUND: [NotFound], No, No, "The health service or the reflection service does not know the name.";
    LIBRARY_ERROR: [Unknown], No, No, "Another error of the health service or the reflection service, with any code.";
}

// ===== impl Executed =====

impl Executed {
    /// The value in the metadata; `None` for [`Executed::Either`].
    #[must_use]
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Executed::No => Some("false"),
            Executed::Unknown => Some("unknown"),
            Executed::Either => None,
        }
    }
}

// ===== impl Retry =====

impl Retry {
    /// The value in the metadata.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Retry::No => "no",
            Retry::SameId | Retry::SameIdAfterDelay => "same_id",
            Retry::NewId => "new_id",
        }
    }
}

// ===== impl ErrorKind =====

impl ErrorKind {
    /// The kind of a rejection by the ledger.
    #[must_use]
    pub const fn of_rejection(reason: Reason) -> Self {
        match reason {
            Reason::AccountNotFound => ErrorKind::ACCOUNT_NOT_FOUND,
            Reason::SameAccount => ErrorKind::SAME_ACCOUNT,
            Reason::AssetMismatch => ErrorKind::ASSET_MISMATCH,
            Reason::AccountFrozen => ErrorKind::ACCOUNT_FROZEN,
            Reason::AccountClosed => ErrorKind::ACCOUNT_CLOSED,
            Reason::InsufficientFunds => ErrorKind::INSUFFICIENT_FUNDS,
            Reason::BalanceOverflow => ErrorKind::BALANCE_OVERFLOW,
            Reason::NothingAvailable => ErrorKind::NOTHING_AVAILABLE,
            Reason::VelocityLimit => ErrorKind::VELOCITY_LIMIT,
            Reason::PendingNotFound => ErrorKind::PENDING_NOT_FOUND,
            Reason::PendingAlreadyPosted => ErrorKind::PENDING_ALREADY_POSTED,
            Reason::PendingAlreadyVoided => ErrorKind::PENDING_ALREADY_VOIDED,
            Reason::PendingExpired => ErrorKind::PENDING_EXPIRED,
            Reason::PendingAmountExceeded => ErrorKind::PENDING_AMOUNT_EXCEEDED,
            Reason::PendingTransfersDiffer => ErrorKind::PENDING_TRANSFERS_DIFFER,
            Reason::ReversedNotFound => ErrorKind::REVERSED_NOT_FOUND,
            Reason::NotReversible => ErrorKind::NOT_REVERSIBLE,
            Reason::AlreadyReversed => ErrorKind::ALREADY_REVERSED,
            Reason::HoldsFull => ErrorKind::HOLDS_FULL,
            Reason::MemoryLimit => ErrorKind::MEMORY_LIMIT,
        }
    }

    /// The usual code.
    #[must_use]
    pub fn code(self) -> Code {
        // Every kind has at least one code, because the macro that makes the table requires a code. So the default is
        // never used.
        self.codes.first().copied().unwrap_or(Code::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_its_own_reason() {
        let reasons: HashSet<_> = ERROR_KINDS.iter().map(|kind| kind.reason).collect();
        assert_eq!(reasons.len(), ERROR_KINDS.len());
        assert!(
            ERROR_KINDS
                .iter()
                .enumerate()
                .all(|(index, kind)| kind.index == index)
        );
    }

    #[test]
    fn exactly_the_recorded_rejections_need_a_new_id() {
        for reason in Reason::ALL {
            let kind = ErrorKind::of_rejection(reason);
            assert_eq!(kind.reason, reason.as_str());
            assert_eq!(kind.retry == Retry::NewId, reason.is_recorded(), "{reason}");
        }
    }
}
