//! The part of the store that EXEC, the thread that executes batches, owns: the ledger, the index of transaction ids,
//! and the open block.
//!
//! The open block is the block in memory to which new records are appended. When the block is sealed, the journal
//! appends it.

use std::sync::Arc;

use smallvec::SmallVec;
use tally_journal::{BlockBuffer, BlockMeta, BlockPlacement, HEADER_BYTES, Position};
use tally_ledger::{
    AccountOutcome, Committed, Ledger, NewAccount, NewRecord, Outcome, RecordedTransaction, Tags, Timestamp,
    TransactionKey, TransactionLog, TransactionView,
    record::{RECORD_BYTES_MAX, put_record},
    tag_index::TagIndex,
};

use super::{
    error::RecordError,
    point::{DurablePoint, OrderPoint, SealedBlock},
    record::{
        body_position, id_tag, indexed_record, not_a_transaction, parse_record, position_in, transaction_of,
    },
    record_reader::{RecordReader, place_in_block},
};
use crate::{mutation::planted, wall_clock::WallClock};

/// The positions of the records that may belong to a transaction id. There is almost always no position or one
/// position.
pub type Candidates = SmallVec<[Position; 1]>;

/// A ledger that records its changes in blocks of the journal. Only one thread may change a journaled ledger.
#[derive(Debug)]
pub struct JournaledLedger {
    ledger: Ledger,
    log: RecordLog,
}

/// The transaction log of the ledger: the index of transaction ids, and the open block.
#[derive(Debug)]
struct RecordLog {
    /// The positions of the records of transactions, by the tags of their ids.
    ids: TagIndex,
    /// Seed of the hash that makes tags from transaction ids.
    seed: u64,
    reader: RecordReader,
    placement: BlockPlacement,
    /// All blocks before this position are durable and can be read.
    durable: Position,
    block: UnsealedBlock,
    order: OrderPoint,
    clock: Arc<dyn WallClock>,
    /// Memory to encode a record, reused for each record.
    scratch: Vec<u8>,
    /// Memory to read a record, reused for each read.
    read_buffer: Vec<u8>,
}

/// The open block, to which records are appended.
#[derive(Debug)]
struct UnsealedBlock {
    /// The block's number. The first block has number 1.
    sequence: u64,
    buffer: BlockBuffer,
    /// Number of records in the block.
    records: u32,
    /// Number of committed transactions in the block.
    committed: u32,
    base_time: Timestamp,
    /// The point in the order of records before the first record of the block.
    start: OrderPoint,
    /// Offset of the last record in the body, in bytes.
    last_record: usize,
}

// ===== impl JournaledLedger =====

impl JournaledLedger {
    /// Makes a journaled ledger that continues at `durable`, the end of the journal.
    ///
    /// # Panics
    /// If `placement` continues at another position: the index would store wrong positions of records.
    #[must_use]
    pub fn new(
        ledger: Ledger,
        ids: TagIndex,
        seed: u64,
        reader: RecordReader,
        placement: BlockPlacement,
        durable: &DurablePoint,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        assert_eq!(
            placement.next_block_position(),
            durable.chain.position,
            "the position of the next block must be the end of the journal"
        );
        let order = durable.order;
        let log = RecordLog {
            ids,
            seed,
            reader,
            placement,
            durable: durable.chain.position,
            block: UnsealedBlock::new(durable.chain.block_sequence, order, BlockBuffer::with_capacity(0)),
            order,
            clock,
            scratch: Vec::new(),
            read_buffer: Vec::new(),
        };
        JournaledLedger { ledger, log }
    }

    /// Returns the ledger, which contains the accounts.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the point after the last record, in the order of records.
    #[must_use]
    pub const fn order(&self) -> OrderPoint {
        self.log.order
    }

    /// Processes a transaction. The caller must ensure that the open block [has room](JournaledLedger::has_room) for
    /// one record.
    ///
    /// # Errors
    /// [`RecordError`] if a record that may belong to the id of `transaction` is damaged, is not durable yet, or cannot
    /// be read. In these cases, nothing has changed.
    pub fn process(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        tags: Tags<'_>,
    ) -> Result<Outcome, RecordError> {
        self.ledger.process_tagged(transaction, tags, &mut self.log)
    }

    /// Prefetches the index entries of the transaction id and of the account ids in a transaction.
    pub fn prefetch_names(&self, tags: Tags<'_>) {
        self.log.ids.prefetch(tags.id);
        for tag in tags.accounts {
            self.ledger.accounts().prefetch_name(*tag);
        }
    }

    /// Prefetches the accounts of a transaction. The caller must call [`JournaledLedger::prefetch_names`] earlier,
    /// because this method reads the index entries of the account ids.
    pub fn prefetch_accounts(&self, tags: Tags<'_>) {
        for tag in tags.accounts {
            self.ledger.accounts().prefetch_account(*tag);
        }
    }

    /// Creates all of the accounts or none. The caller must ensure that the open block [has
    /// room](JournaledLedger::has_room) for one record per account.
    pub fn create_accounts(&mut self, accounts: Vec<NewAccount>) -> AccountOutcome {
        self.ledger.create_accounts(accounts, &mut self.log)
    }

    /// Returns the positions of the records that may belong to transaction `id`. The index compares only hashes of ids,
    /// so the caller must read each record after it is durable, and compare the ids.
    #[must_use]
    pub fn candidates(&self, id: &str) -> Candidates {
        let mut candidates = Candidates::new();
        let tag = id_tag(id.as_bytes(), self.log.seed);
        let found = self.log.ids.find(tag, |value| {
            candidates.push(Position::from_u64(value));
            false
        });
        assert_eq!(found, None, "the index must visit all records under a tag");
        candidates
    }

    /// Returns whether the open block has room for `records` more records of the greatest length.
    #[must_use]
    pub fn has_room(&self, records: usize) -> bool {
        self.log.room_bytes() / RECORD_BYTES_MAX >= records
    }

    /// Returns whether the open block has room for `bytes` more bytes.
    #[must_use]
    pub fn has_room_for_bytes(&self, bytes: usize) -> bool {
        bytes <= self.log.room_bytes()
    }

    /// Returns the number of the segment in which the open block will be.
    #[must_use]
    pub const fn open_segment(&self) -> u32 {
        self.log.placement.next_block_position().segment()
    }

    /// Returns whether the id of `transaction` has a record. If so, [`JournaledLedger::process`] returns the recorded
    /// outcome, and writes no record.
    ///
    /// # Errors
    /// Those of [`JournaledLedger::process`].
    pub fn is_recorded(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        tags: Tags<'_>,
    ) -> Result<bool, RecordError> {
        let key = TransactionKey {
            id: transaction.id_bytes(),
            tag: tags.id,
        };
        Ok(self.log.find(key)?.is_some())
    }

    /// Returns the number of records in the open block.
    #[must_use]
    pub const fn open_records(&self) -> u32 {
        self.log.block.records
    }

    /// Returns the length of the body of the open block, in bytes.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.log.block.buffer.body_bytes()
    }

    /// Returns the number of the open block. The first block has number 1.
    #[must_use]
    pub const fn open_block(&self) -> u64 {
        self.log.block.sequence
    }

    /// Returns the number of the block that contains the last record, or of the block before the open block if the open
    /// block has no records. The number 0 means "before the first block". A reply that depends on the ledger or on the
    /// index of ids may be sent only when the returned block is durable.
    #[must_use]
    pub const fn last_block(&self) -> u64 {
        if self.log.block.records > 0 {
            self.log.block.sequence
        } else {
            self.log.block.sequence - 1
        }
    }

    /// Seals the open block, and opens the next block in the empty buffer `spare`. Returns `None`, and changes nothing,
    /// if the open block has no records.
    pub fn seal(&mut self, spare: BlockBuffer) -> Option<SealedBlock> {
        (self.log.block.records > 0).then(|| self.log.seal(spare))
    }

    /// Seals the open block even if it has no records. The caller commits an empty block to measure how long a commit
    /// takes.
    pub fn seal_even_if_empty(&mut self, spare: BlockBuffer) -> SealedBlock {
        // A block without records also needs a time, because its header contains one.
        self.log.start_block();
        self.log.seal(spare)
    }

    /// Receives the report that all blocks before `position` are durable.
    ///
    /// # Panics
    /// If `position` is before the position of an earlier report, or after the last sealed block. A later lookup could
    /// then read a record from the journal before the record is written.
    pub fn durable_to(&mut self, position: Position) {
        let last = self.log.placement.next_block_position();
        assert!(
            self.log.durable <= position && position <= last,
            "the durable position {position} must be between {} and {last}",
            self.log.durable
        );
        self.log.durable = position;
    }

    /// Returns the number of transaction ids in the index, and the memory that the index takes, in bytes.
    #[must_use]
    pub fn id_memory(&self) -> (usize, usize) {
        (self.log.ids.len(), self.log.ids.memory_bytes())
    }
}

// ===== impl UnsealedBlock =====

impl UnsealedBlock {
    const fn new(sequence: u64, start: OrderPoint, buffer: BlockBuffer) -> Self {
        UnsealedBlock {
            sequence,
            buffer,
            records: 0,
            committed: 0,
            base_time: start.last_time,
            start,
            last_record: 0,
        }
    }

    /// Checks that the counts of the block agree with `end`, and that the last record of the block decodes. `end` is
    /// the point after the block, in the order of records. `body` is the position of the block's body.
    ///
    /// # Panics
    /// If a check fails: a replay of the journal would fail at this block, or a lookup would not find a record.
    fn check(&self, end: &OrderPoint, body: Position) {
        assert_eq!(
            (
                end.next_entry - self.start.next_entry,
                end.next_sequence - self.start.next_sequence
            ),
            (u64::from(self.records), u64::from(self.committed)),
            "the counts of records and of transactions in block {} must equal the numbers that were assigned",
            self.sequence
        );
        if self.records > 0 {
            let position = position_in(body, self.last_record);
            let (_, bytes) = self.buffer.body().split_at(self.last_record);
            let committed = parse_record(position, bytes).map(|framed| {
                let is_commit = transaction_of(&framed).is_some_and(|(_, rejection)| rejection.is_none());
                (framed.back as usize, framed.ordinal + u32::from(is_commit))
            });
            assert!(
                committed
                    .as_ref()
                    .is_ok_and(|found| *found == (self.last_record, self.committed)),
                "the last record of block {}, at {position}, must decode to the record that was written: {committed:?}",
                self.sequence
            );
        }
    }
}

// ===== impl RecordLog =====

impl RecordLog {
    /// Returns the position that the body of the open block will have in the journal.
    fn open_body_position(&self) -> Position {
        body_position(self.placement.next_block_position())
    }

    /// Returns the number of bytes that can be added to the open block.
    fn room_bytes(&self) -> usize {
        let (used, max) = (self.block.buffer.body_bytes(), self.placement.block_bytes_max());
        let Some(room) = (max as usize).checked_sub(used) else {
            panic!(
                "the open block has {used} bytes, more than {max}: the caller did not check for room before an append"
            );
        };
        room
    }

    fn seal(&mut self, spare: BlockBuffer) -> SealedBlock {
        assert!(spare.is_empty(), "the buffer for the next block must be empty");
        self.block.check(&self.order, self.open_body_position());
        let position = self.placement.next_block_position();
        let next = UnsealedBlock::new(self.block.sequence + 1, self.order, spare);
        let UnsealedBlock {
            sequence,
            buffer,
            records,
            base_time,
            start,
            ..
        } = std::mem::replace(&mut self.block, next);
        let Ok(body_bytes) = u32::try_from(buffer.body_bytes()) else {
            panic!(
                "block {sequence} has {} bytes, more than any journal allows",
                buffer.body_bytes()
            );
        };
        self.placement.advance(body_bytes);
        let meta = BlockMeta {
            position,
            first_entry: start.next_entry,
            first_sequence: start.next_sequence,
            base_time_ns: base_time.as_nanos(),
            record_count: records,
        };
        SealedBlock {
            sequence,
            meta,
            buffer,
            end: self.order,
        }
    }

    /// Sets the time of the block, if the block has no records yet. This is the time of the clock. If the clock does
    /// not show a later time than the newest block or transaction has, the block gets this newest time plus 1 ns.
    fn start_block(&mut self) {
        if self.block.records == 0 {
            let now = self.clock.now();
            self.block.base_time = if planted("commit_time_goes_back") {
                now
            } else {
                now.max(self.order.last_time.plus_nanos(1))
            };
            self.order.last_time = self.block.base_time;
        }
    }

    /// Returns the bytes of the open block from `position` on. Returns `None` if the position is in an earlier block.
    ///
    /// # Panics
    /// If the position is after the last record: the index would refer to a record that does not exist.
    fn open_bytes_at(&self, position: Position) -> Option<&[u8]> {
        let open = self.open_body_position();
        if position < open {
            return None;
        }
        let offset = (position.offset() - open.offset()) as usize;
        let bytes = self.block.buffer.body().get(offset..);
        assert!(
            position.segment() == open.segment() && bytes.is_some_and(|bytes| !bytes.is_empty()),
            "the index refers to a record at {position}, but the last record is before this position"
        );
        bytes
    }

    /// Returns the bytes from `position` on. Takes them from the open block, or reads them from a durable block into
    /// `buffer`.
    fn read<'a>(&'a self, position: Position, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], RecordError> {
        match self.open_bytes_at(position) {
            Some(bytes) => Ok(bytes),
            None if position >= self.durable => Err(RecordError::NotYetDurable(position)),
            None => self.reader.read(position, buffer),
        }
    }

    /// Returns the transaction at `position`. [`RecordLog::find`] must have read this record just before, so that the
    /// read buffer contains the record if it is not in the open block.
    fn recorded_at(&self, position: Position) -> Result<RecordedTransaction<'_>, RecordError> {
        let open = self.open_bytes_at(position);
        let framed = parse_record(position, open.map_or(self.read_buffer.as_slice(), |bytes| bytes))?;
        let start = if open.is_some() {
            Committed {
                sequence: self.block.start.next_sequence,
                time: self.block.base_time,
            }
        } else {
            self.reader.block_start(position, framed.back)?
        };
        let place = place_in_block(start, framed.ordinal, position)?;
        let (transaction, rejection) = transaction_of(&framed).ok_or_else(|| not_a_transaction(position))?;
        Ok(RecordedTransaction {
            transaction,
            outcome: rejection.map_or(Ok(place), Err),
        })
    }
}

impl TransactionLog for RecordLog {
    type Error = RecordError;

    fn find(&mut self, key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, RecordError> {
        let TransactionKey { id, tag } = key;
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut failure = None;
        let found = self.ids.find(tag, |value| {
            let position = Position::from_u64(value);
            let matches = self.read(position, &mut buffer).and_then(|bytes| {
                let (_, recorded) = indexed_record(position, bytes, tag, self.seed)?;
                Ok(recorded == id)
            });
            matches.unwrap_or_else(|error| {
                failure = Some(error);
                true
            })
        });
        self.read_buffer = buffer;
        match (failure, found) {
            (Some(error), _) => Err(error),
            (None, Some(value)) => self.recorded_at(Position::from_u64(value)).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn next_entry(&self) -> u64 {
        self.order.next_entry
    }

    fn append(&mut self, key: Option<TransactionKey<'_>>, record: NewRecord<'_>) -> Committed {
        let is_transaction = !matches!(record, NewRecord::AccountCreated { .. });
        assert_eq!(
            key.is_some(),
            is_transaction,
            "a record must have an idempotency key if and only if it is the record of a transaction"
        );
        self.start_block();
        let ordinal = self.block.committed;
        let committed = Committed {
            sequence: self.order.next_sequence,
            time: self.block.base_time.plus_nanos(u64::from(ordinal)),
        };
        let offset = self.block.buffer.body_bytes();
        let place = position_in(self.open_body_position(), offset).as_u64();
        let scratch = &mut self.scratch;
        self.block
            .buffer
            .append_with(|bytes| put_record(bytes, HEADER_BYTES, ordinal, place, record, scratch));
        if let Some(TransactionKey { tag, .. }) = key {
            self.ids.insert(tag, place);
        }
        self.block.last_record = offset;
        self.block.records += 1;
        self.order.next_entry += 1;
        if matches!(record, NewRecord::Committed { .. }) {
            self.block.committed += 1;
            self.order.next_sequence += 1;
            self.order.last_time = committed.time;
        }
        committed
    }
}
