//! The transaction log: the interface through which the ledger finds transactions and appends records.

use super::{
    account::AccountIndex,
    chain::{LinkBuffer, Links},
    effects::Effects,
    keys::RecordKey,
    record::{NewRecord, Record},
    reject::Rejection,
    time::Timestamp,
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

    /// Returns the record that a [key](super::record::Record::keys) names, or `None` if no record has this key. Unlike
    /// [`TransactionLog::find`], this method does not determine the sequence and the time.
    ///
    /// # Errors
    /// If the record can't be read.
    fn find_record(&mut self, key: RecordKey<'_>) -> Result<Option<PlacedRecord<'_>>, Self::Error>;

    /// Returns the record at `place`. The ledger calls this method only with the place of a record.
    ///
    /// # Errors
    /// If the record can't be read.
    fn record_at(&mut self, place: u64) -> Result<PlacedRecord<'_>, Self::Error>;

    /// The number of the next record. Records are numbered from 1.
    fn next_entry(&self) -> u64;

    /// The place of the next record in the log. Places grow with the numbers of records, and identify records for ever. They are less
    /// than 2^63. The ledger stores in each account the place of the record that last changed it.
    fn next_place(&self) -> u64;

    /// The sequence and the time that the next record gets if it has a sequence.
    fn next_committed(&self) -> Committed;

    /// The time of the block to which the next record belongs. A hold expires when this time has reached its deadline.
    fn block_time(&self) -> Timestamp;

    /// Appends a record, and enters it in the index under `key` and under its other [key](super::record::Record::keys), `other`. From
    /// then on, the record must be found under both. `links` are the links of the record to earlier ones, which
    /// [`put_record`](super::record::put_record) encodes with it. Returns the sequence and time of the record; for a rejection, the ledger uses
    /// neither. The caller of the ledger ensures that the log has room.
    fn append(
        &mut self,
        key: Option<TransactionKey<'_>>,
        other: Option<RecordKey<'_>>,
        record: NewRecord<'_>,
        links: Links<'_>,
    ) -> Committed;
}

/// The key under which a transaction is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionKey<'a> {
    /// The client's idempotency key.
    pub id: &'a [u8],
    /// The [tag](super::tag_index::tag) of `id`, with the seed of the account table.
    pub tag: u64,
}

/// A record and its place in the log.
#[derive(Debug, Clone)]
pub struct PlacedRecord<'a> {
    /// The place.
    pub place: u64,
    /// The record.
    pub record: Record<'a>,
}

/// A transaction that is in the log.
#[derive(Debug, Clone, Copy)]
pub struct RecordedTransaction<'a> {
    /// The transaction, with account numbers.
    pub transaction: TransactionView<'a, AccountIndex>,
    /// What the transaction moved, if this does not follow from its transfers alone.
    pub effects: Option<Effects<'a>>,
    /// The outcome of the transaction.
    pub outcome: Result<Committed, Rejection>,
}

/// The sequence number and the commit time of a committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The sequence number. Committed transactions and expired holds are numbered from 1, without gaps.
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
    other: Option<RecordKey<'_>>,
    record: NewRecord<'_>,
    links: &LinkBuffer,
) -> Committed {
    let entry = log.next_entry();
    let committed = log.append(key, other, record, links.links());
    assert_eq!(
        log.next_entry(),
        entry + 1,
        "the log has not appended exactly one record"
    );
    committed
}
