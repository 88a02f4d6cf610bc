//! Makes every gRPC status of the service. No other file makes a status.
//!
//! Every error has a `google.rpc.ErrorInfo` of domain [`DOMAIN`]: a stable reason for programs, and in the metadata
//! whether the call was `executed` (`false` or `unknown`) and what the client may do (`retry`: `no`, `same_id` or
//! `new_id`). `error_kind.rs` lists the reasons.

mod library;
pub(crate) mod replica;

use std::{collections::HashMap, fmt::Display, time::Duration};

use http::{HeaderMap, HeaderValue};
use prost::Message;
use tally_batch::BatchError;
use tally_breaker::{BreakerMode, CircuitState};
use tally_ledger::{AccountField, ContentField, Rejection, TableFull, UpdateOutcome};
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::{
    error_counts,
    error_kind::{ErrorKind, Executed, Retry},
    limits::TRANSACTION_BYTES_MAX,
    protobuf::WireError,
    rejection::{self, Description, Rejected},
};
use crate::{
    engine::{EngineError, StoreFault},
    ledger_clock::ClockError,
    terminal::units,
};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "tally.v1";

/// The metadata that tells gRPC clients when to retry (gRFC A6): milliseconds, in decimal.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The key under which `ErrorInfo` says whether the call was executed.
const EXECUTED: &str = "executed";
/// The key under which `ErrorInfo` says what the client may do.
const RETRY: &str = "retry";

/// Retry delay while the service shuts down. After this time another instance is usually ready.
const SHUTDOWN_RETRY: Duration = Duration::from_secs(1);
/// Retry delay after the memory limit refused a call.
const MEMORY_RETRY: Duration = Duration::from_secs(1);

/// Retry delay while the ledger has its maximum number of outstanding holds.
const REJECTION_RETRY: Duration = Duration::from_secs(1);

/// Retry delay while the disk is full. The service looks for space at this interval.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);

/// Retry delay while no leader answers. An election takes about a second, and a client may find the new leader earlier.
const LEADER_RETRY: Duration = Duration::from_millis(100);

/// Collects the parts of an error.
struct ErrorBuilder {
    kind: ErrorKind,
    code: Code,
    message: String,
    retry_after: Option<Duration>,
    metadata: HashMap<String, String>,
    violations: Vec<FieldViolation>,
}

// ===== impl ErrorBuilder =====

impl ErrorBuilder {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ErrorBuilder {
            kind,
            code: kind.code(),
            message: message.into(),
            retry_after: None,
            metadata: HashMap::from([(RETRY.to_owned(), kind.retry.as_str().to_owned())]),
            violations: Vec::new(),
        }
        // For a kind with `Executed::Either`, the caller of this function replaces this value.
        .executed(kind.executed == Executed::No)
    }

    /// Says whether the call was certainly not executed.
    fn executed(self, is_not_executed: bool) -> Self {
        let executed = if is_not_executed {
            Executed::No
        } else {
            Executed::Unknown
        };
        match executed.as_str() {
            Some(value) => self.with(EXECUTED, value),
            None => self,
        }
    }

    fn code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Makes the status, and counts it.
    fn build(self) -> Status {
        error_counts::count(self.kind);
        let mut details = ErrorDetails::with_error_info(self.kind.reason, DOMAIN, self.metadata);
        if !self.violations.is_empty() {
            details.set_bad_request(self.violations);
        }
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        let mut status = Status::with_error_details(self.code, self.message, details);
        if let Some(delay) = self.retry_after {
            // At least 1: zero means "retry immediately", and a negative number means "do not retry".
            let millis = i32::try_from(delay.as_millis()).unwrap_or(i32::MAX).max(1);
            status
                .metadata_mut()
                .insert(PUSHBACK, MetadataValue::from(millis));
        }
        status
    }
}

/// Makes an error that needs only a kind and a message.
fn plain_error(kind: ErrorKind, message: impl Into<String>) -> Status {
    ErrorBuilder::new(kind, message).build()
}

/// Fields of the request are invalid. The error names the fields in `violations`.
#[must_use]
pub fn invalid(violations: Vec<FieldViolation>) -> Status {
    let message = violations.first().map_or_else(
        || "the request is malformed".to_owned(),
        |first| match violations.len() {
            1 => format!("{}: {}", first.field, first.description),
            count => format!("{}: {} (and {} more)", first.field, first.description, count - 1),
        },
    );
    let mut builder = ErrorBuilder::new(ErrorKind::INVALID_FIELD, message);
    builder.violations = violations;
    builder.build()
}

/// One field of the request is invalid.
#[must_use]
pub fn invalid_field(field: impl Into<String>, description: impl Into<String>) -> Status {
    invalid(vec![FieldViolation::new(field, description)])
}

/// The ledger rejected a transaction. `about` is the part of the transaction that the error names.
#[must_use]
pub fn rejection(rejection: Rejection, about: &Rejected<'_>, replayed: bool) -> Status {
    let kind = ErrorKind::of_rejection(rejection.reason);
    let Description {
        mut message,
        metadata,
    } = rejection::describe(rejection, about);
    if kind.retry == Retry::NewId {
        message.push_str(". This is final for the id: retry with a new id");
    }
    let is_recorded = rejection.reason.is_recorded();
    // The ledger has found the id, but this rejection is not the recorded outcome of the id.
    let hides_outcome = replayed && !is_recorded;
    if hides_outcome {
        message.push_str(". The transaction was committed before");
    }
    let mut builder = ErrorBuilder::new(kind, message)
        .with("replayed", (replayed && is_recorded).to_string())
        .executed(!hides_outcome);
    for (key, value) in metadata {
        builder = builder.with(key, value);
    }
    if kind.retry == Retry::SameIdAfterDelay {
        builder = builder.retry_after(REJECTION_RETRY);
    }
    builder.build()
}

/// The ledger did not update an account.
#[must_use]
pub fn account_not_updated(account_id: &str, outcome: UpdateOutcome) -> Status {
    let (kind, words) = match outcome {
        // The engine answers a successful update with the account and not with this outcome, so this is a bug.
        UpdateOutcome::Updated(_) => return batch(BatchError::Lost),
        UpdateOutcome::NotFound => return account_not_found(account_id),
        UpdateOutcome::Unlimited => {
            let description = format!(
                "must be unset or zero: account {account_id:?} has BALANCE_RULE_UNLIMITED, which has no bound to move"
            );
            return invalid_field("account.overdraft_limit", description);
        }
        UpdateOutcome::ChangedSince => (
            ErrorKind::ACCOUNT_CHANGED,
            "was changed since the etag was read. Read the account again",
        ),
        UpdateOutcome::Closed => (
            ErrorKind::ACCOUNT_CLOSED,
            "is closed. Only its metadata can change",
        ),
        UpdateOutcome::NotEmpty => (
            ErrorKind::ACCOUNT_NOT_EMPTY,
            "can't be closed: its posted debits and credits differ, or something is pending",
        ),
    };
    let builder = ErrorBuilder::new(kind, format!("account {account_id:?} {words}"));
    // An update has no transaction id, so the advice `new_id` of some of these kinds does not apply.
    let builder = builder
        .with("account_id", account_id)
        .with(RETRY, Retry::No.as_str());
    builder.build()
}

/// The id belongs to an earlier transaction with other content.
#[must_use]
pub fn transaction_id_reused(transaction_id: &str, field: ContentField) -> Status {
    let message = format!("transaction_id {transaction_id:?} was used before with a different {field}");
    ErrorBuilder::new(ErrorKind::TRANSACTION_ID_REUSED, message)
        .with("transaction_id", transaction_id)
        .with("field", field.to_string())
        .build()
}

/// The id belongs to an existing account with other content.
#[must_use]
pub fn account_id_reused(account_id: &str, field: AccountField) -> Status {
    let message = format!("account {account_id:?} exists with a different {field}");
    ErrorBuilder::new(ErrorKind::ACCOUNT_ID_REUSED, message)
        .with("account_id", account_id)
        .with("field", field.to_string())
        .build()
}

/// The account does not exist.
#[must_use]
pub fn account_not_found(account_id: &str) -> Status {
    let message = format!("account {account_id:?} does not exist");
    ErrorBuilder::new(ErrorKind::ACCOUNT_NOT_FOUND, message)
        .with("account_id", account_id)
        .build()
}

/// The transaction does not exist.
#[must_use]
pub fn transaction_not_found(transaction_id: &str) -> Status {
    let message = format!("transaction {transaction_id:?} does not exist");
    ErrorBuilder::new(ErrorKind::TRANSACTION_NOT_FOUND, message)
        .with("transaction_id", transaction_id)
        .build()
}

/// The ledger has reached its limit of accounts or of assets.
#[must_use]
pub fn accounts_full(full: TableFull) -> Status {
    let kind = match full {
        TableFull::Accounts => ErrorKind::ACCOUNTS_FULL,
        TableFull::Assets => ErrorKind::ASSETS_FULL,
    };
    plain_error(kind, full.to_string())
}

/// The request took too long to arrive.
#[must_use]
pub fn request_too_slow(limit: Duration) -> Status {
    let message = format!("the request did not arrive within {}", units::time(limit));
    plain_error(ErrorKind::REQUEST_TOO_SLOW, message)
}

/// The requests and unread answers of clients leave too little memory for the call.
#[must_use]
pub fn memory_limit() -> Status {
    let message = "the calls of this client, or of all clients, hold too much memory (server.memory_max)";
    let builder = ErrorBuilder::new(ErrorKind::MEMORY_LIMIT, message);
    builder.executed(true).retry_after(MEMORY_RETRY).build()
}

/// The call has too many headers.
#[must_use]
pub fn too_many_headers(count: usize, most: usize) -> Status {
    let message = format!("the call has {count} headers, at most {most} are allowed");
    plain_error(ErrorKind::TOO_MANY_HEADERS, message)
}

/// One of many transactions is longer than any valid transaction.
#[must_use]
pub fn transaction_too_long(bytes: usize) -> Status {
    let description = format!("has {bytes} bytes, at most {TRANSACTION_BYTES_MAX} are allowed");
    invalid_field("transaction", description)
}

/// The call has no valid token.
#[must_use]
pub fn unauthenticated(why: &str) -> Status {
    plain_error(ErrorKind::UNAUTHENTICATED, why)
}

/// The role of the token is too low for the call.
#[must_use]
pub fn forbidden(role: &str, needed: &str) -> Status {
    let message = format!("authorization: the token has role {role}, and the call needs {needed}");
    ErrorBuilder::new(ErrorKind::FORBIDDEN, message)
        .with("needed_role", needed)
        .build()
}

/// The token is for ids with a prefix only, and a field names another id.
#[must_use]
pub fn foreign_id(field: &str, id: &str, prefix: &str) -> Status {
    let message = format!("{field}: the token is for ids that begin with {prefix:?} only, not for {id:?}");
    ErrorBuilder::new(ErrorKind::FORBIDDEN, message)
        .with("field", field)
        .with("prefix", prefix)
        .build()
}

/// The token is for ids with a prefix only, and the method shows or changes the whole service.
#[must_use]
pub fn restricted_token(prefix: &str) -> Status {
    let message = format!(
        "authorization: the token is for ids that begin with {prefix:?} only, and the call concerns the whole service"
    );
    ErrorBuilder::new(ErrorKind::FORBIDDEN, message)
        .with("prefix", prefix)
        .build()
}

/// The path is not a method of the service, or the request is not a POST.
#[must_use]
pub fn unknown_method() -> Status {
    let message = "the service has no such method; a call is a POST to /package.Service/Method";
    plain_error(ErrorKind::UNKNOWN_METHOD, message)
}

/// No circuit has this name.
#[must_use]
pub fn circuit_not_found(key: &str, known: &str) -> Status {
    let message = format!("key: no circuit {key:?} exists, the circuits are {known}");
    ErrorBuilder::new(ErrorKind::CIRCUIT_NOT_FOUND, message)
        .with("key", key)
        .build()
}

/// The time of the system clock can't be confirmed.
#[must_use]
pub fn clock_not_confirmed(error: &ClockError) -> Status {
    plain_error(ErrorKind::CLOCK_NOT_CONFIRMED, error.to_string())
}

/// The number of open calls of a watch has reached its limit.
#[must_use]
pub fn too_many_watchers(bound: usize) -> Status {
    let message = format!("the limit of {bound} watchers is reached");
    plain_error(ErrorKind::TOO_MANY_WATCHERS, message)
}

/// The number of open calls of `WatchTransactions`, of one client or of all, has reached its limit.
#[must_use]
pub fn too_many_transaction_watchers(of_client: usize, all: usize) -> Status {
    let message = format!(
        "the limit of {of_client} calls of WatchTransactions of one client, or of {all} of all clients, is reached"
    );
    plain_error(ErrorKind::TOO_MANY_WATCHERS, message)
}

/// The client of `WatchTransactions` does not read.
#[must_use]
pub(crate) fn watch_too_slow(stall: Duration) -> Status {
    let message = format!(
        "the client took nothing of the watch for {}; another watch from from_sequence goes on without a gap",
        units::time(stall)
    );
    plain_error(ErrorKind::WATCH_TOO_SLOW, message)
}

/// Adds the sequence at which another watch can resume to the error that ends a watch.
#[must_use]
pub(crate) fn resumable(status: &Status, from_sequence: u64) -> Status {
    let mut details = status.get_error_details();
    if let Some(info) = details.error_info().cloned() {
        let mut metadata = info.metadata;
        metadata.insert("from_sequence".to_owned(), from_sequence.to_string());
        details.set_error_info(info.reason, info.domain, metadata);
    }
    let metadata = status.metadata().clone();
    Status::with_error_details_and_metadata(status.code(), status.message(), details, metadata)
}

/// The service is shutting down.
#[must_use]
pub fn shutting_down() -> Status {
    ErrorBuilder::new(ErrorKind::SHUTTING_DOWN, "the service is shutting down")
        .retry_after(SHUTDOWN_RETRY)
        .build()
}

/// This replica does not lead, and the call was not forwarded. `leader` is the address of the leader, if it is known.
#[must_use]
pub fn not_leader(leader: Option<&str>) -> Status {
    let mut builder = ErrorBuilder::new(ErrorKind::NOT_LEADER, "this replica does not lead");
    if let Some(leader) = leader {
        builder = builder.with("leader", leader);
    }
    builder.retry_after(LEADER_RETRY).build()
}

/// The leader was lost after it may have executed the call. `message` says how.
#[must_use]
pub(crate) fn leader_lost(message: impl Into<String>) -> Status {
    ErrorBuilder::new(ErrorKind::LEADER_LOST, message)
        .retry_after(LEADER_RETRY)
        .build()
}

/// The engine did not execute a command, or does not know its outcome.
#[must_use]
pub fn engine(error: &EngineError) -> Status {
    match error {
        EngineError::CircuitOpen(rejection) => {
            let why = match (rejection.mode, rejection.state) {
                (BreakerMode::ForcedOpen, _) => "an operator holds the circuit open",
                (_, CircuitState::HalfOpen) => "the circuit is half open, and all its probes are in flight",
                (_, CircuitState::Ramp) => "the circuit is ramping up",
                _ => "the circuit is open",
            };
            let delay = units::delay(rejection.retry_after);
            ErrorBuilder::new(ErrorKind::CIRCUIT_OPEN, format!("{why}; retry in {delay}"))
                .retry_after(rejection.retry_after)
                .build()
        }
        EngineError::Batch(error) => batch(*error),
        EngineError::Store(StoreFault::Damaged { segment, offset }) => {
            ErrorBuilder::new(ErrorKind::DATA_DAMAGED, error.to_string())
                .with("segment", segment.to_string())
                .with("offset", offset.to_string())
                .build()
        }
        EngineError::Store(StoreFault::NotLeader) => not_leader(None),
        EngineError::Store(fault @ StoreFault::LeaderLost) => leader_lost(fault.to_string()),
        EngineError::Store(StoreFault::DiskFull { .. }) => {
            ErrorBuilder::new(ErrorKind::DISK_FULL, error.to_string())
                .executed(error.is_not_executed())
                .retry_after(DISK_FULL_RETRY)
                .build()
        }
        EngineError::Store(fault) => {
            let code = match fault {
                StoreFault::WriteFailed
                | StoreFault::Failed
                | StoreFault::NotLeader
                | StoreFault::LeaderLost
                | StoreFault::DiskFull { .. } => Code::Unavailable,
                StoreFault::ReadFailed | StoreFault::Damaged { .. } => Code::Internal,
            };
            ErrorBuilder::new(ErrorKind::STORE_FAILED, fault.to_string())
                .code(code)
                .executed(error.is_not_executed())
                .build()
        }
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        engine(&error)
    }
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        malformed_message(error)
    }
}

fn batch(error: BatchError) -> Status {
    let message = error.to_string();
    let builder = match error {
        BatchError::Full { retry_after } => {
            let message = format!("the queue is full; retry in {}", units::delay(retry_after));
            ErrorBuilder::new(ErrorKind::QUEUE_FULL, message).retry_after(retry_after)
        }
        BatchError::Closed => return shutting_down(),
        BatchError::ExpiredInQueue => ErrorBuilder::new(ErrorKind::EXPIRED_IN_QUEUE, message),
        BatchError::ExpiredInExecution => ErrorBuilder::new(ErrorKind::EXPIRED_IN_EXECUTION, message),
        // The chunks of a stream get this error after a chunk with an unknown outcome. After a chunk that was not
        // executed, the later chunks get the error of that chunk instead.
        BatchError::Interrupted => ErrorBuilder::new(ErrorKind::STREAM_INTERRUPTED, message),
        BatchError::Lost => ErrorBuilder::new(ErrorKind::REPLY_LOST, message),
    };
    builder.executed(error.is_not_executed()).build()
}

/// The messages of the call are compressed, and the service does not support compression.
#[must_use]
pub(crate) fn compressed(encoding: &HeaderValue) -> Status {
    let encoding = String::from_utf8_lossy(encoding.as_bytes());
    let message =
        format!("grpc-encoding: messages are compressed with {encoding}, only identity is supported");
    let mut status = plain_error(ErrorKind::COMPRESSION_NOT_SUPPORTED, message);
    status
        .metadata_mut()
        .insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
    status
}

/// The call has no message, more than one message, or an incomplete message. gRPC has the code INTERNAL for these
/// errors.
#[must_use]
pub(crate) fn malformed_call(why: impl Into<String>) -> Status {
    plain_error(ErrorKind::MALFORMED_CALL, why)
}

/// The call ended before its message began.
#[must_use]
pub(crate) fn message_missing() -> Status {
    malformed_call("the call has no message, it must have one")
}

/// The message is longer than the limit of the method.
#[must_use]
pub(crate) fn message_too_large(bytes: usize, most: usize) -> Status {
    let message = format!("the message has {bytes} bytes, at most {most} are allowed");
    plain_error(ErrorKind::MESSAGE_TOO_LARGE, message)
}

/// The bytes of a message cannot be decoded as the message of the method. gRPC has the code INTERNAL for this error.
#[must_use]
pub(crate) fn malformed_message(error: impl Display) -> Status {
    let message = format!("the message is malformed: {error}");
    plain_error(ErrorKind::MALFORMED_MESSAGE, message)
}

/// The client cancelled the call, or the connection ended, before the message had arrived.
#[must_use]
pub(crate) fn call_cancelled(error: &dyn Display) -> Status {
    let message = format!("the client ended the call before its message had arrived: {error}");
    plain_error(ErrorKind::CALL_CANCELLED, message)
}

/// The engine answered without the outcome of a transaction. This is a bug, and the transaction may have been executed.
#[must_use]
pub(crate) fn outcome_missing() -> Status {
    plain_error(ErrorKind::REPLY_LOST, "the outcome of the transaction is missing")
}

/// The call succeeded.
#[must_use]
pub(crate) fn ok() -> Status {
    Status::ok("")
}

/// Adds an `ErrorInfo` to an error in `headers` that has no details. Such errors come from tonic, and from its services
/// for health and reflection. Their calls execute no transactions.
pub(crate) fn complete(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    if status.code() == Code::Ok || !status.details().is_empty() {
        return;
    }
    let complete = ErrorBuilder::new(library::kind(status.code()), status.message())
        .code(status.code())
        .build();
    // This can fail only if the text is not a valid header, but the text comes from a header.
    let _valid_text = complete.add_header(headers);
}

/// Returns the trailers that end an answer with `status`.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(4);
    if status.add_header(&mut trailers).is_err() {
        // A part of the status is not a valid header. So the client gets only the code.
        let code = Status::new(status.code(), "");
        let _plain = code.add_header(&mut trailers);
    }
    trailers
}

/// Returns the status as a protobuf message, for the results of many transactions.
#[must_use]
pub fn to_value(status: &Status) -> tonic_types::Status {
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
