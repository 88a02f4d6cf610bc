//! Errors.

use std::{fmt, io, time::Duration};

use crate::topic_id::TopicId;

/// A message, or a batch of records, that does not have the form that the protocol prescribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// An error code of the protocol, which a broker answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i16);

impl ErrorCode {
    /// No error.
    pub const NONE: Self = Self(0);
    /// The offset lies outside the log.
    pub const OFFSET_OUT_OF_RANGE: Self = Self(1);
    /// The broker found a wrong CRC.
    pub const CORRUPT_MESSAGE: Self = Self(2);
    /// The broker does not know the topic or the partition.
    pub const UNKNOWN_TOPIC_OR_PARTITION: Self = Self(3);
    /// The partition has no leader at present.
    pub const LEADER_NOT_AVAILABLE: Self = Self(5);
    /// The broker does not lead the partition, or has lost its leadership while the request waited.
    pub const NOT_LEADER_OR_FOLLOWER: Self = Self(6);
    /// The broker's time limit passed.
    pub const REQUEST_TIMED_OUT: Self = Self(7);
    /// The batch is larger than `max.message.bytes` of the topic.
    pub const MESSAGE_TOO_LARGE: Self = Self(10);
    /// The name of the topic is not valid.
    pub const INVALID_TOPIC: Self = Self(17);
    /// The batch is larger than a segment of the log.
    pub const RECORD_LIST_TOO_LARGE: Self = Self(18);
    /// Fewer replicas are in sync than `min.insync.replicas`. Nothing was appended.
    pub const NOT_ENOUGH_REPLICAS: Self = Self(19);
    /// Fewer replicas are in sync than `min.insync.replicas`, after the leader appended.
    pub const NOT_ENOUGH_REPLICAS_AFTER_APPEND: Self = Self(20);
    /// The value of `acks` is not valid.
    pub const INVALID_REQUIRED_ACKS: Self = Self(21);
    /// The user may not use the topic.
    pub const TOPIC_AUTHORIZATION_FAILED: Self = Self(29);
    /// The user may not use the cluster in this way.
    pub const CLUSTER_AUTHORIZATION_FAILED: Self = Self(31);
    /// A timestamp lies outside the bounds of the topic.
    pub const INVALID_TIMESTAMP: Self = Self(32);
    /// The broker does not offer the SASL mechanism.
    pub const UNSUPPORTED_SASL_MECHANISM: Self = Self(33);
    /// The broker does not speak the version of the request.
    pub const UNSUPPORTED_VERSION: Self = Self(35);
    /// The topic exists already.
    pub const TOPIC_ALREADY_EXISTS: Self = Self(36);
    /// The message format of the topic does not support the request.
    pub const UNSUPPORTED_FOR_MESSAGE_FORMAT: Self = Self(43);
    /// A policy of the cluster forbids the request.
    pub const POLICY_VIOLATION: Self = Self(44);
    /// The broker's disk failed.
    pub const KAFKA_STORAGE_ERROR: Self = Self(56);
    /// The user name or the password is wrong.
    pub const SASL_AUTHENTICATION_FAILED: Self = Self(58);
    /// The request names an older leader epoch than the broker's.
    pub const FENCED_LEADER_EPOCH: Self = Self(74);
    /// The request names a newer leader epoch than the broker's.
    pub const UNKNOWN_LEADER_EPOCH: Self = Self(75);
    /// The broker does not support the compression.
    pub const UNSUPPORTED_COMPRESSION_TYPE: Self = Self(76);
    /// A new leader does not know yet up to where the log is committed.
    pub const OFFSET_NOT_AVAILABLE: Self = Self(78);
    /// The broker refuses a record.
    pub const INVALID_RECORD: Self = Self(87);
    /// A quota is exceeded.
    pub const THROTTLING_QUOTA_EXCEEDED: Self = Self(89);
    /// The broker does not know the topic id.
    pub const UNKNOWN_TOPIC_ID: Self = Self(100);
    /// The topic id is not the one of the broker's log.
    pub const INCONSISTENT_TOPIC_ID: Self = Self(103);

    /// Returns the name that Kafka gives the code, or `an unknown code`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "NONE",
            1 => "OFFSET_OUT_OF_RANGE",
            2 => "CORRUPT_MESSAGE",
            3 => "UNKNOWN_TOPIC_OR_PARTITION",
            5 => "LEADER_NOT_AVAILABLE",
            6 => "NOT_LEADER_OR_FOLLOWER",
            7 => "REQUEST_TIMED_OUT",
            10 => "MESSAGE_TOO_LARGE",
            17 => "INVALID_TOPIC_EXCEPTION",
            18 => "RECORD_LIST_TOO_LARGE",
            19 => "NOT_ENOUGH_REPLICAS",
            20 => "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
            21 => "INVALID_REQUIRED_ACKS",
            29 => "TOPIC_AUTHORIZATION_FAILED",
            31 => "CLUSTER_AUTHORIZATION_FAILED",
            32 => "INVALID_TIMESTAMP",
            33 => "UNSUPPORTED_SASL_MECHANISM",
            34 => "ILLEGAL_SASL_STATE",
            35 => "UNSUPPORTED_VERSION",
            36 => "TOPIC_ALREADY_EXISTS",
            37 => "INVALID_PARTITIONS",
            38 => "INVALID_REPLICATION_FACTOR",
            40 => "INVALID_CONFIG",
            41 => "NOT_CONTROLLER",
            42 => "INVALID_REQUEST",
            43 => "UNSUPPORTED_FOR_MESSAGE_FORMAT",
            44 => "POLICY_VIOLATION",
            56 => "KAFKA_STORAGE_ERROR",
            58 => "SASL_AUTHENTICATION_FAILED",
            74 => "FENCED_LEADER_EPOCH",
            75 => "UNKNOWN_LEADER_EPOCH",
            76 => "UNSUPPORTED_COMPRESSION_TYPE",
            78 => "OFFSET_NOT_AVAILABLE",
            87 => "INVALID_RECORD",
            89 => "THROTTLING_QUOTA_EXCEEDED",
            100 => "UNKNOWN_TOPIC_ID",
            103 => "INCONSISTENT_TOPIC_ID",
            -1 => "UNKNOWN_SERVER_ERROR",
            _ => "an unknown code",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is outside its bounds.
    #[error("{name} is {value}: {bound}")]
    Setting {
        /// The name of the setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// Which values are allowed.
        bound: &'static str,
    },
    /// No connection could be made.
    #[error("cannot connect to {endpoint}: {kind}")]
    Connect {
        /// The broker, as `host:port`.
        endpoint: String,
        /// The kind of the operating system's error.
        kind: io::ErrorKind,
    },
    /// The TLS handshake failed.
    #[error("the TLS handshake with {endpoint} failed: {cause}")]
    Tls {
        /// The broker, as `host:port`.
        endpoint: String,
        /// The reason, in the words of the TLS library.
        cause: String,
    },
    /// The broker did not accept the SASL credentials, or could not prove that it knows them.
    #[error("SASL authentication at {endpoint} failed: {cause}")]
    Authentication {
        /// The broker, as `host:port`.
        endpoint: String,
        /// The reason.
        cause: String,
    },
    /// A call was not answered in time. The connection is closed.
    #[error("{endpoint} did not answer {call} within {limit:?}")]
    Timeout {
        /// The broker, as `host:port`.
        endpoint: String,
        /// What was called.
        call: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// The connection has ended.
    #[error("the connection to {endpoint} ended: {cause}")]
    Closed {
        /// The broker, as `host:port`.
        endpoint: String,
        /// The reason.
        cause: &'static str,
        /// The kind of the operating system's error, if it reported one.
        kind: Option<io::ErrorKind>,
    },
    /// A broker sent something that the protocol does not allow. The connection is closed.
    #[error("the answer of {endpoint} to {call} is malformed: {what}")]
    Malformed {
        /// The broker, as `host:port`.
        endpoint: String,
        /// What was called.
        call: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A frame of the broker is larger than this client accepts. The connection is closed.
    #[error("{endpoint} sends an answer of {bytes} bytes: at most {bound} are accepted")]
    FrameTooLarge {
        /// The broker, as `host:port`.
        endpoint: String,
        /// The size that the broker announced.
        bytes: i64,
        /// The largest size that is accepted.
        bound: usize,
    },
    /// The broker does not support a version of a call that this client needs.
    #[error("{endpoint} supports no version of {call} that this client speaks")]
    Unsupported {
        /// The broker, as `host:port`.
        endpoint: String,
        /// The call.
        call: &'static str,
    },
    /// A broker answered an error code.
    #[error("{endpoint} answered {call} with {code}")]
    Broker {
        /// The broker, as `host:port`.
        endpoint: String,
        /// What was called.
        call: &'static str,
        /// The code.
        code: ErrorCode,
        /// The broker's explanation, if it sent one.
        message: Option<String>,
    },
    /// No broker knows the topic, or the topic does not have the partition.
    #[error("topic {topic} does not exist, or has no partition {partition}")]
    UnknownTopic {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The topic of this name has another id: the topic was deleted and created again.
    #[error("topic {topic} has id {found} instead of {expected}: the topic was deleted and created again")]
    TopicReplaced {
        /// The topic.
        topic: String,
        /// The id that the topic had.
        expected: TopicId,
        /// The id that the topic has now.
        found: TopicId,
    },
    /// The partition has no leader at present, for example during an election.
    #[error("partition {partition} of topic {topic} has no leader")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The offset lies outside the log. This client never continues at another offset.
    #[error(
        "offset {offset} is outside the log, which has {log_start} to {log_end} (end excluded) in leader epoch {leader_epoch}"
    )]
    OffsetOutOfRange {
        /// The offset that was asked for.
        offset: i64,
        /// The first offset of the log.
        log_start: i64,
        /// The offset after the last committed record (the high watermark).
        log_end: i64,
        /// The leader epoch that the broker has confirmed.
        leader_epoch: i32,
    },
    /// A batch of records is damaged. Fetch again, possibly from another broker; never skip the batch.
    #[error("the batch at or after offset {offset} is damaged: {what}")]
    Corrupt {
        /// The offset up to which everything was read.
        offset: i64,
        /// What is wrong.
        what: &'static str,
    },
    /// A batch of records is compressed. This client reads only batches without compression.
    #[error("the batch at offset {offset} is compressed with {codec}: only uncompressed batches can be read")]
    Compressed {
        /// The first offset of the batch.
        offset: i64,
        /// The name of the compression.
        codec: &'static str,
    },
    /// The records of one append are too large, too many, or none.
    #[error("an append of {records} records and {bytes} bytes: {bound}")]
    BatchSize {
        /// The number of records.
        records: usize,
        /// The size of the batch.
        bytes: usize,
        /// Which sizes are allowed.
        bound: &'static str,
    },
    /// Too many requests are in flight.
    #[error("{bound} requests are in flight already")]
    TooManyInFlight {
        /// The number of requests that may be in flight.
        bound: usize,
    },
}

impl Error {
    /// Returns the error code of the broker, if the error is the answer of a broker.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        if let Self::Broker { code, .. } = self {
            Some(*code)
        } else {
            None
        }
    }

    /// Returns whether a retry is useless until an operator changes something.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        match self {
            Self::Setting { .. }
            | Self::Tls { .. }
            | Self::Authentication { .. }
            | Self::Unsupported { .. }
            | Self::TopicReplaced { .. } => true,
            Self::Broker { code, .. } => matches!(
                *code,
                ErrorCode::TOPIC_AUTHORIZATION_FAILED
                    | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
                    | ErrorCode::INVALID_TOPIC
                    | ErrorCode::UNSUPPORTED_VERSION
            ),
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::Malformed { .. }
            | Self::FrameTooLarge { .. }
            | Self::UnknownTopic { .. }
            | Self::NoLeader { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::Corrupt { .. }
            | Self::Compressed { .. }
            | Self::BatchSize { .. }
            | Self::TooManyInFlight { .. } => false,
        }
    }
}

/// Why an append failed. Each variant says what is known about the records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The records may have been appended, now or later.
    #[error("it is not known whether the records were appended: {0}")]
    Unresolved(#[source] Error),
    /// The records were not appended, and will not be.
    #[error("the records were not appended: {0}")]
    Refused(#[source] Error),
    /// The records were not appended, and no append can succeed until an operator changes something.
    #[error("the records were not appended, and trying again cannot help: {0}")]
    Fatal(#[source] Error),
}

impl AppendError {
    /// Classifies the error code that a broker answered to an append.
    ///
    /// Only codes that Kafka answers *before* it appends count as not appended. A broker that never led the partition
    /// answers `NOT_LEADER_OR_FOLLOWER`, `UNKNOWN_TOPIC_OR_PARTITION` or `KAFKA_STORAGE_ERROR`. These codes are
    /// nevertheless unresolved: Kafka also answers them for records that it has appended, if the broker loses its
    /// leadership while the request waits for the followers (`DelayedProduce.tryComplete`). The new leader may have
    /// these records.
    pub(crate) fn from_answer(code: ErrorCode, error: Error) -> Self {
        match code {
            _ if error.is_fatal() => Self::Fatal(error),
            ErrorCode::CORRUPT_MESSAGE
            | ErrorCode::MESSAGE_TOO_LARGE
            | ErrorCode::RECORD_LIST_TOO_LARGE
            | ErrorCode::NOT_ENOUGH_REPLICAS
            | ErrorCode::INVALID_REQUIRED_ACKS
            | ErrorCode::INVALID_TIMESTAMP
            | ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT
            | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
            | ErrorCode::POLICY_VIOLATION
            | ErrorCode::INVALID_RECORD
            | ErrorCode::THROTTLING_QUOTA_EXCEEDED
            | ErrorCode::UNKNOWN_TOPIC_ID => Self::Refused(error),
            _ => Self::Unresolved(error),
        }
    }

    /// Returns the reason.
    #[must_use]
    pub const fn error(&self) -> &Error {
        match self {
            Self::Unresolved(error) | Self::Refused(error) | Self::Fatal(error) => error,
        }
    }

    /// Returns whether the records may have been appended.
    #[must_use]
    pub const fn is_unresolved(&self) -> bool {
        matches!(self, Self::Unresolved(_))
    }
}
