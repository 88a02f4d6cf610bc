//! Reads the balances after transactions of the past, for the answers to requests that are sent again.

use std::{collections::VecDeque, sync::Arc};

use tally_batch::BatchError;
use tally_journal::Position;
use tally_ledger::{Balances, JointWalk, RecordKey};
use tokio::time::Instant;

use super::{
    command::{BalancesAfter, Detail, PastBalances, Processed},
    fault::{EngineError, StoreFault},
    tally_engine::TallyEngine,
    transaction_batch::TransactionBatch,
};
use crate::{
    security::Client,
    store::embedded::{HistoryReader, RecordError, history::unexpected},
};

/// One read is for this many records. Then the other reads of the history get their turn.
const RECORDS_TOGETHER: usize = 256;

/// The balances of each account after a transaction.
type Found = Vec<(Box<str>, Balances)>;

/// The balances after a transaction, as far as they are read.
#[derive(Debug)]
struct Reading {
    /// The index of the transaction's details.
    detail: usize,
    /// The place of the transaction in its request.
    place: usize,
    past: PastBalances,
    /// The place of the transaction's record, and the walk from there. `None` before the record is found.
    begun: Option<(u64, JointWalk)>,
}

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
        client: &Client,
        deadline: Option<Instant>,
    ) -> Result<(), EngineError> {
        let mut wanted = wanted(&mut processed.details);
        while !wanted.is_empty() {
            let batch = Arc::clone(batch);
            let read = self.read_history(client, deadline, move |reader, _| {
                let found = read_turn(reader, &batch, &mut wanted);
                Ok((wanted, found))
            });
            let (left, found) = match read.await {
                Err(EngineError::Batch(BatchError::ExpiredInQueue)) => {
                    return Err(BatchError::ExpiredInExecution.into());
                }
                read => read?,
            };
            wanted = left;
            for (index, balances) in found {
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
        Ok(())
    }
}

/// Takes what is to be read.
fn wanted(details: &mut [Detail]) -> VecDeque<Reading> {
    let mut wanted = VecDeque::new();
    for (index, detail) in details.iter_mut().enumerate() {
        if !matches!(detail.balances, BalancesAfter::Past(_)) {
            continue;
        }
        if let BalancesAfter::Past(past) = std::mem::take(&mut detail.balances) {
            wanted.push_back(Reading {
                detail: index,
                place: detail.place,
                past: *past,
                begun: None,
            });
        }
    }
    wanted
}

/// Reads about [`RECORDS_TOGETHER`] records. Takes what it has finished out of `wanted`, and returns it with the indexes of the details.
fn read_turn(
    reader: &HistoryReader,
    batch: &TransactionBatch,
    wanted: &mut VecDeque<Reading>,
) -> Vec<(usize, Result<Found, RecordError>)> {
    let (mut found, mut records) = (Vec::new(), RECORDS_TOGETHER);
    while records > 0
        && let Some(reading) = wanted.front_mut()
    {
        let detail = reading.detail;
        match reading.go_on(reader, batch, &mut records) {
            Ok(None) => break,
            Ok(Some(balances)) => found.push((detail, Ok(balances))),
            Err(error) => found.push((detail, Err(error))),
        }
        wanted.pop_front();
    }
    found
}

// ===== impl Reading =====

impl Reading {
    /// Reads at most `records` records, and takes off what it has read. `None` if more records must be read.
    fn go_on(
        &mut self,
        reader: &HistoryReader,
        batch: &TransactionBatch,
        records: &mut usize,
    ) -> Result<Option<Found>, RecordError> {
        let (at, walk) = match &mut self.begun {
            Some(begun) => begun,
            none => {
                let at = place_of(reader, batch, self.place, &self.past.candidates)?;
                *records -= 1;
                let older = self
                    .past
                    .accounts
                    .iter()
                    .filter(|account| account.newest.place != at);
                let walk = JointWalk::new(at, older.map(|account| account.index));
                none.insert((at, walk))
            }
        };
        *records -= reader.advance(walk, *records)?;
        if walk.next_place().is_some() {
            return Ok(None);
        }
        let (at, walk) = (*at, &*walk);
        let balances = std::mem::take(&mut self.past.accounts)
            .into_iter()
            .map(|account| {
                let known = account.newest.balances.filter(|_| account.newest.place == at);
                let balances = known.or_else(|| walk.balances(account.index));
                let missing = || unexpected(Position::from_u64(at));
                Ok((account.id, balances.ok_or_else(missing)?))
            });
        balances.collect::<Result<_, _>>().map(Some)
    }
}

/// Returns the place of the record of the transaction at `place` of a batch.
fn place_of(
    reader: &HistoryReader,
    batch: &TransactionBatch,
    place: usize,
    candidates: &[Position],
) -> Result<u64, RecordError> {
    let Some(id) = batch.id_bytes(place) else {
        panic!(
            "a batch of {} transactions has no transaction {place}",
            batch.len()
        );
    };
    reader.place_of(RecordKey::Transaction(id), candidates)
}
