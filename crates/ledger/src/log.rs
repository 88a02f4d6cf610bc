//! The transaction log: the interface through which the ledger finds transactions and appends records.

use super::{
    account::AccountIndex, record::NewRecord, reject::Rejection, time::Timestamp,
    transaction::TransactionView,
};

/// Stores the records of the ledger, and finds recorded transactions. The program that uses the ledger implements this
/// trait.
pub trait TransactionLog {
    /// Why a record could not be read.
    type Error;

    /// Returns the recorded transaction with this key, or `None` if no record has this key.
    ///
    /// # Errors
    /// If the record can't be read. The ledger then does not know whether the transaction exists.
    fn find(&mut self, key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, Self::Error>;

    /// The number of the next record. Records are numbered from 1. The ledger stores in each account the
    /// number of the record that last changed the account.
    fn next_entry(&self) -> u64;

    /// Appends a record. The record of a transaction has a `key`. From then on, [`TransactionLog::find`] must find the
    /// record under this key. Returns the sequence and time of a committed transaction. For a new
    /// account, the ledger uses only the time. For a rejection, the ledger uses neither. The caller of the ledger
    /// ensures that the log has room.
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
    /// The outcome of the transaction.
    pub outcome: Result<Committed, Rejection>,
}

/// The sequence number and the commit time of a committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The sequence number. Committed transactions are numbered from 1, without gaps.
    pub sequence: u64,
    /// The commit time. A transaction with a higher sequence has a later commit time.
    pub time: Timestamp,
}

// ===== impl Committed =====

impl Committed {
    /// Returns the sequence and time of the transaction that is committed `ordinal` transactions later in the same
    /// block. With each transaction of a block, the sequence increases by one and the time by one nanosecond. Returns
    /// `None` if the result is out of range.
    #[must_use]
    pub fn checked_after(self, ordinal: u32) -> Option<Self> {
        Some(Committed {
            sequence: self.sequence.checked_add(u64::from(ordinal))?,
            time: self.time.checked_add_nanos(u64::from(ordinal))?,
        })
    }
}

/// Appends a record.
///
/// # Panics
/// If the number of the next record has not increased by one, because the log has lost or duplicated a record.
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
