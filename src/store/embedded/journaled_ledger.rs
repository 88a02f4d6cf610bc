//! The part of the store that EXEC, the thread that executes batches, owns: the ledger, the index of transaction ids,
//! and the open block.
//!
//! The open block is the block in memory to which new records are appended. When the block is sealed, the journal
//! appends it.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use smallvec::SmallVec;
use tally_journal::{BlockBuffer, BlockHeader, BlockKind, BlockMeta, BlockPlacement, BlockStamp, Position};
use tally_ledger::{
    AccountOutcome, AccountUpdate, Ledger, NewAccount, Outcome, RecordKey, Tags, Timestamp, TransactionKey,
    TransactionLog, TransactionView, UpdateOutcome, record::RECORD_BYTES_MAX, tag_index::TagIndex,
};

use super::{
    apply::Target,
    error::{FollowError, RecordError},
    point::{DurablePoint, LedgerEnd, OrderPoint, SealedBlock},
    recent_records::RecentRecords,
    record_log::{RecordLog, UnsealedBlock},
    record_reader::RecordReader,
    sent_blocks::SentBlocks,
};
use crate::wall_clock::WallClock;

/// The positions of the records that may belong to a transaction id. There is almost always no position or one
/// position.
pub type Candidates = SmallVec<[Position; 1]>;

/// A ledger that records its changes in blocks of the journal. Only one thread may change a journaled ledger.
#[derive(Debug)]
pub struct JournaledLedger {
    ledger: Ledger,
    log: RecordLog,
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
            last: BlockStamp::default(),
            is_following: false,
            clock,
            settled: AtomicU64::new(0),
            recent: RecentRecords::default(),
            sent: SentBlocks::default(),
            scratch: Vec::new(),
            read_buffer: Vec::new(),
        };
        JournaledLedger { ledger, log }
    }

    /// Sets the stamp of the last block. The ledger continues after this block.
    pub(super) const fn after(mut self, last: BlockStamp) -> Self {
        self.log.last = last;
        self
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

    /// Processes a transaction. If it has no transfers, `legs_max` is the maximum number of its legs: see
    /// [`Ledger::process_tagged`]. The caller must ensure that the open block [has room](JournaledLedger::has_room) for one record.
    ///
    /// # Errors
    /// [`RecordError`] if a record that may belong to the id of `transaction` is damaged, is not durable yet, or cannot
    /// be read. In these cases, nothing has changed.
    pub fn process(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        tags: Tags<'_>,
        principal: Option<&[u8]>,
        legs_max: usize,
    ) -> Result<Outcome, RecordError> {
        self.log.begin_block();
        self.ledger
            .process_tagged(transaction, tags, principal, legs_max, &mut self.log)
    }

    /// Ends holds whose time has come, the earliest deadline first: at most `limit`, and as long as their records take at most half of the
    /// open block. The caller does this before the first transaction of a block, and without transactions when a hold's time has
    /// come. A second call for the same open block does nothing. Returns how many holds were ended.
    ///
    /// # Errors
    /// [`RecordError`] if the record of the next hold cannot be read. In this case, the earlier holds have ended.
    pub fn expire_holds(&mut self, limit: usize) -> Result<usize, RecordError> {
        if self.log.block.has_expired {
            return Ok(0);
        }
        self.log.begin_block();
        self.log.block.has_expired = true;
        let half = (self.log.placement.block_bytes_max() / 2) as usize;
        // Half of a block has room for any record (`BLOCK_BYTES_MIN`).
        self.ledger
            .expire_due(limit, &mut self.log, |log| log.room_bytes() >= half)
    }

    /// Lets the open block get another time, if it has no records yet. The caller calls this method before it takes more commands, so
    /// that the time of a block is not older than its first command.
    pub const fn renew_block(&mut self) {
        self.log.renew_block();
    }

    /// Returns the newest time for which it is certain that no later record gets this time or an earlier one: the time of the last record,
    /// or a time just before that of the clock if the next record gets its time from the clock.
    #[must_use]
    pub fn settled_time(&self) -> Timestamp {
        self.log.settled_time()
    }

    /// Returns whether [`JournaledLedger::expire_holds`] may have something to do for the open block.
    #[inline]
    #[must_use]
    pub fn may_expire_holds(&self) -> bool {
        !self.log.block.has_expired && self.ledger.holds().has_deadlines()
    }

    /// Returns the time until the next hold expires; `None` if no hold expires.
    #[must_use]
    pub fn time_to_expiry(&self) -> Option<Duration> {
        let deadline = self.ledger.holds().next_to_expire()?.deadline?;
        // A time in the past counts as now.
        let nanos = deadline.as_nanos().saturating_sub(self.log.now().as_nanos());
        Some(Duration::from_nanos(nanos))
    }

    /// Prevents the expiry of the hold that would expire next, because its record can't be read. Returns the place of the hold.
    pub fn suspend_next_expiry(&mut self) -> Option<Position> {
        let hold = self.ledger.holds().next_to_expire()?;
        self.ledger.holds_mut().suspend_expiry(hold.place);
        Some(Position::from_u64(hold.place))
    }

    /// Updates an account. The caller must ensure that the open block [has room](JournaledLedger::has_room) for one record.
    pub fn update_account(&mut self, update: AccountUpdate) -> UpdateOutcome {
        self.log.begin_block();
        self.ledger.update_account(update, &mut self.log)
    }

    /// Sets the maximum number of outstanding holds.
    pub const fn set_holds_max(&mut self, holds_max: usize) {
        self.ledger.set_holds_max(holds_max);
    }

    /// Prefetches the index entries of the transaction ids and of the account ids in a transaction.
    pub fn prefetch_names(&self, tags: Tags<'_>) {
        self.log.ids.prefetch(tags.id);
        if let Some(named) = tags.named {
            self.log.ids.prefetch(named);
        }
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
        // A transaction that ends a hold has the accounts of the hold.
        if let Some(named) = tags.named
            && let Some(place) = self.log.ids.first(named)
            && let Some(hold) = self.ledger.holds().get(place)
        {
            self.ledger.accounts().prefetch(hold.first.0);
            self.ledger.accounts().prefetch(hold.first.1);
        }
    }

    /// Creates all of the accounts or none. The caller must ensure that the open block [has
    /// room](JournaledLedger::has_room) for one record per account.
    pub fn create_accounts(&mut self, accounts: Vec<NewAccount>) -> AccountOutcome {
        self.log.begin_block();
        self.ledger.create_accounts(accounts, &mut self.log)
    }

    /// Returns the positions of the records that may have this key. The index compares only hashes of keys,
    /// so the caller must read each record after it is durable, and compare the keys.
    #[must_use]
    pub fn candidates(&self, key: RecordKey<'_>) -> Candidates {
        let mut candidates = Candidates::new();
        let tag = key.tag(self.log.seed);
        let found = self.log.ids.find(tag, |value| {
            candidates.push(Position::from_u64(value));
            false
        });
        assert_eq!(found, None, "the index must visit all records under a tag");
        candidates
    }

    /// Returns whether the open block has room for `records` more records of the greatest length.
    #[inline]
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
    #[inline]
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
        self.log.begin_block();
        self.log.seal(spare)
    }

    /// Sets whether another process writes the blocks, and this ledger [follows](JournaledLedger::follow) them. While the ledger follows,
    /// no time of this process's clock is [settled](JournaledLedger::settled_time), because the next block has the time of another clock.
    /// At first, the ledger does not follow.
    pub const fn set_following(&mut self, is_following: bool) {
        self.log.is_following = is_following;
    }

    /// Sets whether the ledger keeps its blocks in memory until they are durable, so that their records can be read. A replica that leads
    /// keeps them, because its blocks are durable only after a round trip. At first, the ledger does not keep them.
    pub const fn set_keeping_sent_blocks(&mut self, is_keeping: bool) {
        self.log.sent.set_keeping(is_keeping);
    }

    /// Returns who wrote the last block, and what it contains.
    #[must_use]
    pub const fn last_stamp(&self) -> BlockStamp {
        self.log.last
    }

    /// Returns the position and the numbers that the next block has if it is a control block, with the time of the clock. The caller seals
    /// the block and lets the ledger [follow](JournaledLedger::follow) it. The caller may also let the ledger follow another block
    /// instead.
    ///
    /// # Panics
    /// If the open block has records. The caller must seal it before.
    pub fn control_meta(&mut self) -> BlockMeta {
        self.assert_open_is_empty();
        self.log.meta_without_records()
    }

    /// Applies the next block, which another process or this one has sealed. The records are read again, and no rule is evaluated. The
    /// open block then comes after the applied block, and this ledger can continue as the writer: its blocks get the term and the writer
    /// of the last block. So a writer begins its term with [`JournaledLedger::control_meta`], and follows its own claim.
    ///
    /// The caller has checked the checksums of the block ([`tally_journal::parse_block`]) and that the log has accepted it. `spare` is an
    /// empty buffer, in which the block is returned for the journal, with its header.
    ///
    /// # Errors
    /// [`FollowError`] if the block does not follow the blocks before it: the caller must no longer use this ledger, neither for changes
    /// nor for answers, because some records of the block may have been applied.
    ///
    /// # Panics
    /// If the open block has records, if `spare` is not empty, or if `body` has another length than the header states.
    pub fn follow(
        &mut self,
        header: &BlockHeader,
        body: &[u8],
        spare: BlockBuffer,
    ) -> Result<SealedBlock, FollowError> {
        self.assert_open_is_empty();
        let expect = |field, found: u64, expected: u64| {
            let error = FollowError::Order {
                block_sequence: header.block_sequence,
                field,
                found,
                expected,
            };
            if found == expected { Ok(()) } else { Err(error) }
        };
        expect("number", header.block_sequence, self.log.block.sequence)?;
        let position = self.log.placement.next_block_position();
        expect("position", header.position.as_u64(), position.as_u64())?;
        let target = Target {
            ledger: &mut self.ledger,
            ids: &mut self.log.ids,
            order: &mut self.log.order,
            last: &mut self.log.last,
            seed: self.log.seed,
        };
        target.apply(header, body)?;
        Ok(self.log.pass(header, body, spare))
    }

    /// Seals a control block of this `kind` with this body. It follows the last block, and gets the term and the writer of that block.
    ///
    /// # Panics
    /// If the open block has records. The caller must seal it before.
    pub fn seal_control(&mut self, kind: BlockKind, body: &[u8], spare: BlockBuffer) -> SealedBlock {
        self.assert_open_is_empty();
        self.log.seal_control(kind, body, spare)
    }

    /// Returns the point after the last block that was sealed or followed.
    #[must_use]
    pub const fn end(&self) -> LedgerEnd {
        LedgerEnd {
            block: self.log.block.sequence - 1,
            position: self.log.placement.next_block_position(),
            order: self.log.order,
        }
    }

    fn assert_open_is_empty(&self) {
        assert_eq!(
            self.log.block.records, 0,
            "the open block must be sealed before a block of another writer or kind comes next"
        );
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
        self.log.sent.forget_before(position);
    }

    /// Returns the number of transaction ids in the index, and the memory that the index takes, in bytes.
    #[must_use]
    pub fn id_memory(&self) -> (usize, usize) {
        (self.log.ids.len(), self.log.ids.memory_bytes())
    }
}
