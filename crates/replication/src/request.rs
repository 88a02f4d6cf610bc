//! The inputs and outputs of an appender: requests, reads and actions.

use crate::halt::HaltReason;

/// Bounds of an [`Appender`](crate::Appender).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Maximum number of requests in flight. At least 1.
    pub requests_max: usize,
    /// Maximum number of blocks of a request. At least 1.
    pub request_blocks_max: usize,
    /// Maximum number of bytes of a request. A larger block is sent alone.
    pub request_bytes_max: usize,
    /// Maximum number of blocks that are not durable yet. At least 1.
    pub blocks_max: usize,
}

/// Names a request to append. No two requests have the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Names a read. No two reads have the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// The result of a request to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All in-sync brokers hold the blocks, at consecutive offsets from `base_offset` on.
    Appended {
        /// The offset of the first block.
        base_offset: u64,
    },
    /// The broker has appended nothing, and will append nothing later.
    Refused,
    /// It is unknown whether the blocks were appended: an error after the append, a timeout, or a lost connection. The blocks may still
    /// arrive later.
    Unresolved,
}

/// What the caller must do. The caller must carry out the actions in the order in which the appender returns them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send the blocks as one record batch, on the connection of the last [`Reconnect`](Self::Reconnect), and report
    /// the result: an answer, or [`Outcome::Unresolved`] after the timeout. The broker must get the requests of a
    /// connection in order.
    Send {
        /// Names the request.
        request: RequestId,
        /// The number of the first block.
        first: u64,
        /// The number of the last block.
        last: u64,
    },
    /// Drop the connection, find the leading broker, connect again after a suitable delay, and call
    /// [`Appender::reconnected`](crate::Appender::reconnected).
    Reconnect,
    /// Read records and call [`Appender::read`](crate::Appender::read). The read must begin after this action was taken, and must go to the
    /// broker that has answered the appends.
    Read {
        /// Names the read.
        read: ReadId,
        /// The first offset.
        from: u64,
        /// The last offset that is needed, or `None` for everything that the broker returns at once. A part of the records is a valid
        /// answer.
        through: Option<u64>,
    },
    /// All blocks up to this number are accepted for ever: answer their calls.
    Durable {
        /// The number of the last durable block.
        through: u64,
        /// All records before this offset are known.
        next_offset: u64,
    },
    /// Another process leads. The blocks that are not durable yet will never be accepted, or were accepted without an answer to the caller.
    /// The process must stop leading and must not use this term again. This is the last action.
    Fenced {
        /// The term of the new leader.
        term: u64,
        /// The offset of its claim.
        offset: u64,
    },
    /// The process must stop for good. This is the last action.
    Halted(HaltReason),
}

/// Why an appender takes no more blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stopped {
    /// Another process leads.
    Fenced {
        /// The term of the new leader.
        term: u64,
    },
    /// The process must stop for good.
    Halted(HaltReason),
}

// ===== impl Limits =====

impl Default for Limits {
    /// Two requests of at most 64 blocks and 1 MiB in flight, and 256 blocks in memory.
    fn default() -> Self {
        Self {
            requests_max: 2,
            request_blocks_max: 64,
            request_bytes_max: 1 << 20,
            blocks_max: 256,
        }
    }
}
