//! Lets the fuzz targets (`tests/it/fuzz/messages.rs`) call the readers of the hot path. The service does not use this
//! module.
//!
//! The readers borrow from the message and are private. The functions here return the generated types, which the targets
//! compare with what prost reads.

use bytes::Bytes;
use tally_ledger::{NewAccount, transaction::put_transaction};
use tonic::Status;

use super::{
    accounts::decode as accounts,
    fields::Violations,
    limits::TRANSACTION_BYTES_MAX,
    status,
    transactions::{
        decode,
        split::{Found, Splitter},
        wire::{self, WireAmount, WireTransaction, WireTransfer},
    },
    transport::frame::{FrameReader, Piece},
};
use crate::{
    proto::{
        BatchCreateAccountsRequest, CreateAccountRequest, ProcessTransactionRequest, Transfer, Uint128,
        transfer,
    },
    security::Scope,
};

/// A transaction as the hot path reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadTransaction {
    /// The request with the first transfers, at most [`TRANSFERS_MAX`](tally_ledger::TRANSFERS_MAX).
    pub request: ProcessTransactionRequest,
    /// The number of transfers in the message.
    pub transfer_count: usize,
    /// The bytes that the ledger gets, or the status if the service rejects the transaction.
    pub checked: Result<Vec<u8>, String>,
}

/// A transaction in a `ProcessTransactionsRequest`.
#[derive(Debug, Clone, PartialEq)]
pub enum SplitTransaction {
    /// The transaction was read.
    Read(Box<ReadTransaction>),
    /// The transaction has more bytes than the service reads. Contains its length in bytes.
    TooLong(usize),
}

/// Longest transaction in a `ProcessTransactionsRequest` that the service reads, in bytes.
pub const SPLIT_BYTES_MAX: usize = TRANSACTION_BYTES_MAX;

/// Reads a `ProcessTransactionRequest`.
///
/// # Errors
/// The status of a malformed message.
pub fn transaction(bytes: &[u8]) -> Result<ReadTransaction, Status> {
    Ok(read(&wire::transaction(bytes)?))
}

/// Reads a `StreamTransactionsRequest`.
///
/// # Errors
/// The status of a malformed message.
pub fn stream_message(bytes: &[u8]) -> Result<ReadTransaction, Status> {
    Ok(read(&wire::read_with(wire::stream_message, bytes)?))
}

/// Reads a `ProcessTransactionsRequest` that arrives in `pieces`.
///
/// # Errors
/// The status of a malformed message.
pub fn transactions(pieces: &[&[u8]]) -> Result<Vec<SplitTransaction>, Status> {
    let mut to_come: usize = pieces.iter().map(|piece| piece.len()).sum();
    let (mut found, mut splitter) = (Vec::new(), Splitter::new(SPLIT_BYTES_MAX));
    for piece in pieces {
        to_come -= piece.len();
        splitter.read(piece, to_come, |each| {
            found.push(match each {
                Found::Transaction(bytes) => {
                    SplitTransaction::Read(Box::new(read(&wire::read_with(wire::nested_transaction, bytes)?)))
                }
                Found::TooLong(length) => SplitTransaction::TooLong(length),
            });
            Ok(())
        })?;
    }
    Ok(found)
}

/// Reads gRPC's frames out of the bytes of a call, which arrive in `pieces`. A message may have at most
/// `message_bytes_max` bytes. Returns the complete messages, and whether another message has begun.
///
/// # Errors
/// The status of a malformed call.
pub fn messages(pieces: &[&[u8]], message_bytes_max: usize) -> Result<(Vec<Vec<u8>>, bool), Status> {
    let (mut messages, mut message) = (Vec::new(), Vec::new());
    let mut frames = FrameReader::new(message_bytes_max);
    for piece in pieces {
        frames.put(Bytes::copy_from_slice(piece));
        while let Some(Piece { bytes, to_come }) = frames.take_piece()? {
            message.extend_from_slice(&bytes);
            if to_come == 0 {
                messages.push(std::mem::take(&mut message));
            }
        }
    }
    Ok((messages, frames.has_begun()))
}

/// Counts the accounts of a `BatchCreateAccountsRequest`, as the service does before it decodes the message.
///
/// # Errors
/// The status of a message that the service rejects.
pub fn count_accounts(bytes: &[u8]) -> Result<usize, Status> {
    accounts::count_accounts(bytes)
}

/// Checks the accounts of a `BatchCreateAccountsRequest`.
///
/// # Errors
/// The status of a request that the service rejects.
pub fn new_accounts(request: BatchCreateAccountsRequest) -> Result<Vec<NewAccount>, Status> {
    accounts::new_accounts(request)
}

/// Checks the account of a `CreateAccountRequest`.
///
/// # Errors
/// The status of a request that the service rejects.
pub fn new_account(request: CreateAccountRequest) -> Result<Option<NewAccount>, Status> {
    let mut violations = Violations::default();
    let account = accounts::to_new_account(&mut violations, "account", request.account);
    violations.finish().map_err(status::invalid)?;
    Ok(account)
}

fn read(transaction: &WireTransaction<'_>) -> ReadTransaction {
    let mut ledger_bytes = Vec::new();
    let checked = decode::check(transaction, &Scope::ALL, |heading, transfers| {
        put_transaction(&mut ledger_bytes, heading, transfers.iter().copied());
    });
    let checked = match checked {
        Ok(()) => Ok(ledger_bytes),
        Err(refusal) => Err(Status::from(refusal).message().to_owned()),
    };
    ReadTransaction {
        request: ProcessTransactionRequest {
            transaction_id: transaction.id.as_str().to_owned(),
            phase: transaction.phase,
            transfers: transaction.transfers.iter().map(read_transfer).collect(),
            pending_transaction_id: transaction.pending_transaction_id.as_str().to_owned(),
            pending_timeout: transaction.pending_timeout.map(|time| prost_types::Duration {
                seconds: time.seconds,
                nanos: time.nanos,
            }),
            effective_time: transaction.effective_time.map(|time| prost_types::Timestamp {
                seconds: time.seconds,
                nanos: time.nanos,
            }),
            metadata: transaction.metadata.clone(),
            keep_remaining: transaction.keep_remaining,
            reverses_transaction_id: transaction.reverses_transaction_id.as_str().to_owned(),
            return_balances: transaction.return_balances,
        },
        transfer_count: transaction.transfer_count,
        checked,
    }
}

fn read_transfer(transfer: &WireTransfer<'_>) -> Transfer {
    let amount = transfer.amount.map(|amount| match amount {
        WireAmount::Narrow(units) => transfer::Amount::MinorUnits(units),
        WireAmount::Wide { high, low } => transfer::Amount::WideMinorUnits(Uint128 { high, low }),
    });
    Transfer {
        debit_account_id: transfer.debit.as_str().to_owned(),
        credit_account_id: transfer.credit.as_str().to_owned(),
        amount,
        code: transfer.code,
        amount_rule: transfer.amount_rule,
    }
}
