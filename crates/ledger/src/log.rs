//! The transaction log: the interface through which the ledger finds and records transactions.

use super::{
    account::AccountIndex, record::NewRecord, reject::Rejection, time::Timestamp,
    transaction::TransactionView,
};

/// The ledger's memory of transactions. The store implements it.
pub trait TransactionLog {
    /// Why a record could not be read.
    type Error;

    /// Returns the recorded transaction with this key.
    ///
    /// # Errors
    /// If the record can't be read. It is then unknown whether the transaction exists.
    fn find(&mut self, key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, Self::Error>;

    /// The number of the next record. Records are numbered from 1. The ledger stamps accounts with these numbers.
    fn next_entry(&self) -> u64;

    /// Appends a record. The record of a transaction has a `key`, under which [`TransactionLog::find`] must find it from then
    /// on. Returns the sequence and time of the transaction. The caller of the ledger ensures that the log has room.
    fn append(&mut self, key: Option<TransactionKey<'_>>, record: NewRecord<'_>) -> Committed;
}

/// The key under which a transaction is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionKey<'a> {
    /// The client's idempotency key.
    pub id: &'a [u8],
    /// The [tag](super::tag_index::tag) of `id`, with the seed of the account table.
    pub tag: u64,
}

/// A transaction that is in the log.
#[derive(Debug, Clone, Copy)]
pub struct RecordedTransaction<'a> {
    /// The transaction, with account numbers.
    pub transaction: TransactionView<'a, AccountIndex>,
    /// Its outcome.
    pub outcome: Result<Committed, Rejection>,
}

/// The place of a transaction in the global order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The sequence number. Committed transactions are numbered from 1, without gaps.
    pub sequence: u64,
    /// The commit time. It strictly increases with the sequence.
    pub time: Timestamp,
}

// ===== impl Committed =====

impl Committed {
    /// Returns the place of the transaction that is `ordinal` committed transactions later in the same block. Returns `None`
    /// if its time or sequence is out of range.
    #[must_use]
    pub fn checked_after(self, ordinal: u32) -> Option<Self> {
        Some(Committed {
            sequence: self.sequence.checked_add(u64::from(ordinal))?,
            time: self.time.checked_add_nanos(u64::from(ordinal))?,
        })
    }
}

/// Appends a record, and checks that the log has numbered it.
pub(super) fn append<L: TransactionLog>(
    log: &mut L,
    key: Option<TransactionKey<'_>>,
    record: NewRecord<'_>,
) -> Committed {
    let entry = log.next_entry();
    let committed = log.append(key, record);
    assert_eq!(
        log.next_entry(),
        entry + 1,
        "the log has not appended exactly one record"
    );
    committed
}
