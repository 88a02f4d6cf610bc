//! Reads the balances after transactions of the past, for the answers to requests that are sent again.

use std::sync::Arc;

use tally_batch::BatchError;
use tally_ledger::{Balances, RecordKey};
use tokio::time::Instant;

use super::{
    command::{BalancesAfter, Detail, PastBalances, Processed},
    fault::{EngineError, StoreFault},
    tally_engine::TallyEngine,
    transaction_batch::TransactionBatch,
};
use crate::store::embedded::{HistoryReader, RecordError};

/// A read takes transactions until they have at least this many accounts together. Between two such reads, other reads of the history get
/// their turn.
const ACCOUNTS_TOGETHER: usize = 4;

// ===== impl TallyEngine =====

impl TallyEngine {
    /// Replaces each [`BalancesAfter::Past`] of `processed`, which is the reply to `batch`. If the journal can't be read for a
    /// transaction, this transaction gets [`BalancesAfter::Unread`].
    ///
    /// # Errors
    /// [`EngineError`] if the deadline passes. The error says that the outcome is unknown, because a part of the batch may have been
    /// executed.
    pub async fn read_past_balances(
        &self,
        batch: &Arc<TransactionBatch>,
        processed: &mut Processed,
        deadline: Option<Instant>,
    ) -> Result<(), EngineError> {
        loop {
            let (indexes, wanted) = next_turn(&mut processed.details);
            if wanted.is_empty() {
                return Ok(());
            }
            let batch = Arc::clone(batch);
            let read = self.read_history(deadline, move |reader, _| {
                let read = |(place, past)| balances(reader, &batch, place, past);
                Ok(wanted.into_iter().map(read).collect::<Vec<_>>())
            });
            let read = match read.await {
                Err(EngineError::Batch(BatchError::ExpiredInQueue)) => {
                    return Err(BatchError::ExpiredInExecution.into());
                }
                read => read?,
            };
            for (index, balances) in indexes.into_iter().zip(read) {
                let balances = match balances {
                    Ok(balances) => BalancesAfter::Known(balances),
                    Err(error) => {
                        let fault = StoreFault::from_read_error(&error, &self.shared.counters);
                        BalancesAfter::Unread(fault)
                    }
                };
                if let Some(detail) = processed.details.get_mut(index) {
                    detail.balances = balances;
                }
            }
        }
    }
}

/// Takes the past balances that the next read covers. Returns the indexes of their details; and the balances, each with the place of its
/// transaction.
fn next_turn(details: &mut [Detail]) -> (Vec<usize>, Vec<(usize, PastBalances)>) {
    let (mut indexes, mut wanted, mut accounts) = (Vec::new(), Vec::new(), 0);
    for (index, detail) in details.iter_mut().enumerate() {
        if accounts >= ACCOUNTS_TOGETHER {
            break;
        }
        if !matches!(detail.balances, BalancesAfter::Past(_)) {
            continue;
        }
        if let BalancesAfter::Past(past) = std::mem::take(&mut detail.balances) {
            accounts += past.accounts.len().max(1);
            indexes.push(index);
            wanted.push((detail.place, *past));
        }
    }
    (indexes, wanted)
}

/// Reads the balances after the transaction at `place` of a batch.
fn balances(
    reader: &HistoryReader,
    batch: &TransactionBatch,
    place: usize,
    past: PastBalances,
) -> Result<Vec<(Box<str>, Balances)>, RecordError> {
    let Some(id) = batch.id_bytes(place) else {
        panic!(
            "a batch of {} transactions has no transaction {place}",
            batch.len()
        );
    };
    reader.balances_after(RecordKey::Transaction(id), &past.candidates, past.accounts)
}
