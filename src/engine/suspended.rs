//! A command that EXEC could not complete in one step, because it has to wait for the commit pipeline.

use std::sync::Arc;

use tally_batch::{Reply, Turn};

use super::{
    command::{Command, CommandReply, Processed},
    fault::StoreFault,
    pending::EngineReply,
    transaction_batch::TransactionBatch,
};

/// What EXEC waits for in the commit pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// One more batch can wait in the pipeline.
    Room,
    /// The pipeline is empty, so every block that EXEC has handed over is durable.
    Empty,
}

/// Why a command can't be executed now.
#[derive(Debug)]
pub(super) enum Halt {
    /// The command fails with this fault.
    Fault(StoreFault),
    /// The command must wait. No part of the current transaction was executed.
    Blocked(Until),
}

/// A command that waits for the commit pipeline.
#[derive(Debug)]
pub(super) struct Suspended {
    pub(super) rest: Rest,
    pub(super) reply: Reply<EngineReply>,
    pub(super) turn: Option<Turn>,
    pub(super) until: Until,
}

/// The part of a command that EXEC has not executed yet.
#[derive(Debug)]
pub(super) enum Rest {
    /// The whole command.
    Whole(Command),
    /// The transactions of the batch that have no outcome yet.
    Transactions(Arc<TransactionBatch>, Processed),
}

/// The end of an attempt to execute a command.
#[derive(Debug)]
pub(super) enum Executed {
    Done(Result<CommandReply, StoreFault>),
    Blocked(Rest, Until),
}
