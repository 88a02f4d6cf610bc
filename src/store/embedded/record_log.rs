//! The log of the ledger's records: the index of the records' keys, and the open block.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tally_journal::{
    BlockBuffer, BlockHeader, BlockKind, BlockMeta, BlockPlacement, BlockStamp, HEADER_BYTES, Position,
};
use tally_ledger::{
    Committed, Links, NewRecord, PlacedRecord, Record, RecordKey, RecordedTransaction, Timestamp,
    TransactionKey, TransactionLog,
    own_record::{own_committed, take_own_record},
    record::{RECORD_BYTES_MAX, put_record},
    tag_index::TagIndex,
};

use super::{
    error::RecordError,
    point::{OrderPoint, SealedBlock},
    recent_records::{RecentPlace, RecentRecords},
    record::{body_position, has_key, not_a_transaction, parse_record, position_in},
    record_reader::{RecordReader, place_in_block},
    sent_blocks::SentBlocks,
};
use crate::{mutation::planted, wall_clock::WallClock};

/// The transaction log of the ledger: the index of transaction ids, and the open block.
#[derive(Debug)]
pub(super) struct RecordLog {
    /// The positions of the records of transactions, by the tags of their ids.
    pub(super) ids: TagIndex,
    /// Seed of the hash that makes tags from transaction ids.
    pub(super) seed: u64,
    pub(super) reader: RecordReader,
    pub(super) placement: BlockPlacement,
    /// All blocks before this position are durable and can be read.
    pub(super) durable: Position,
    pub(super) block: UnsealedBlock,
    pub(super) order: OrderPoint,
    /// Who wrote the last block.
    pub(super) last: BlockStamp,
    /// Whether another process writes the blocks, and this process follows them.
    pub(super) is_following: bool,
    pub(super) clock: Arc<dyn WallClock>,
    /// The greatest time, in nanoseconds, that [`RecordLog::settled_time`] has returned since the start.
    pub(super) settled: AtomicU64,
    /// Records of outstanding holds that were written recently.
    pub(super) recent: RecentRecords,
    /// The blocks that this replica has sealed as the leader and that are not durable yet. Always empty in an embedded store.
    pub(super) sent: SentBlocks,
    /// Memory to encode a record, reused for each record.
    pub(super) scratch: Vec<u8>,
    /// Memory to read a record, reused for each read.
    pub(super) read_buffer: Vec<u8>,
}

/// The open block, to which records are appended.
#[derive(Debug)]
pub(super) struct UnsealedBlock {
    /// The block's number. The first block has number 1.
    pub(super) sequence: u64,
    pub(super) buffer: BlockBuffer,
    /// Number of records in the block.
    pub(super) records: u32,
    /// Number of records in the block that have a sequence.
    pub(super) committed: u32,
    /// The time of the block. It can still change while the block has no records.
    pub(super) base_time: Timestamp,
    /// Whether the block has got its time.
    pub(super) has_begun: bool,
    /// Whether the holds whose time has come were ended in this block.
    pub(super) has_expired: bool,
    /// The point in the order of records before the first record of the block.
    pub(super) start: OrderPoint,
    /// Offset of the last record in the body, in bytes.
    pub(super) last_record: usize,
}

/// Where a record is in memory.
#[derive(Debug, Clone, Copy)]
enum AtHand {
    OpenBlock(Position),
    Recent(RecentPlace),
}

// ===== impl UnsealedBlock =====

impl UnsealedBlock {
    pub(super) const fn new(sequence: u64, start: OrderPoint, buffer: BlockBuffer) -> Self {
        UnsealedBlock {
            sequence,
            buffer,
            records: 0,
            committed: 0,
            base_time: start.last_time,
            has_begun: false,
            has_expired: false,
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
                let has_sequence = framed.record.has_sequence();
                (framed.back as usize, framed.ordinal + u32::from(has_sequence))
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
    #[inline]
    fn open_body_position(&self) -> Position {
        body_position(self.placement.next_block_position())
    }

    /// Returns the number of bytes that can be added to the open block.
    #[inline]
    pub(super) fn room_bytes(&self) -> usize {
        let (used, max) = (self.block.buffer.body_bytes(), self.placement.block_bytes_max());
        let Some(room) = (max as usize).checked_sub(used) else {
            panic!(
                "the open block has {used} bytes, more than {max}: the caller did not check for room before an append"
            );
        };
        room
    }

    pub(super) fn seal(&mut self, spare: BlockBuffer) -> SealedBlock {
        assert!(spare.is_empty(), "the buffer for the next block must be empty");
        // A block without records has a time, too.
        self.order.last_time = self.order.last_time.max(self.block.base_time);
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
        self.sent
            .push(body_position(position), buffer.body(), &start, base_time);
        let meta = BlockMeta {
            position,
            first_entry: start.next_entry,
            first_sequence: start.next_sequence,
            base_time_ns: base_time.as_nanos(),
            record_count: records,
        };
        self.last = self.last.next_data();
        SealedBlock {
            sequence,
            meta,
            stamp: self.last,
            buffer,
            is_accepted: false,
            end: self.order,
        }
    }

    /// Moves past a block that was applied to the ledger and the index. The open block stays empty, and gets the next place.
    pub(super) fn pass(&mut self, header: &BlockHeader, body: &[u8], mut spare: BlockBuffer) -> SealedBlock {
        spare.fill_sealed(header, body);
        let open = std::mem::take(&mut self.block.buffer);
        self.block = UnsealedBlock::new(self.block.sequence + 1, self.order, open);
        self.placement.advance(header.body_bytes);
        SealedBlock {
            sequence: header.block_sequence,
            meta: header.meta(),
            stamp: header.stamp(),
            buffer: spare,
            is_accepted: true,
            end: self.order,
        }
    }

    /// Seals the open block, which has no records, as a control block of this `kind` with this body.
    pub(super) fn seal_control(&mut self, kind: BlockKind, body: &[u8], spare: BlockBuffer) -> SealedBlock {
        self.begin_block();
        self.block.buffer.push(body);
        let mut sealed = self.seal(spare);
        sealed.stamp.kind = kind;
        self.last = sealed.stamp;
        sealed
    }

    /// Returns the position and the numbers that the next block gets if it has no records.
    pub(super) fn meta_without_records(&mut self) -> BlockMeta {
        self.begin_block();
        BlockMeta {
            position: self.placement.next_block_position(),
            first_entry: self.order.next_entry,
            first_sequence: self.order.next_sequence,
            base_time_ns: self.block.base_time.as_nanos(),
            record_count: 0,
        }
    }

    /// Sets the time of the block to the time of the clock, if the block has no records yet. If the clock does
    /// not show a later time than the newest block or transaction has, the block gets this newest time plus 1 ns.
    #[inline]
    pub(super) fn begin_block(&mut self) {
        // Holds whose time has come are ended according to the time of the block. After that, this time must not
        // change.
        if self.block.records == 0 && !self.block.has_expired {
            let now = self.clock.now();
            self.block.base_time = if planted("commit_time_goes_back") {
                now
            } else {
                let settled = Timestamp::from_nanos(self.settled.load(Ordering::Relaxed));
                now.max(self.order.last_time.max(settled).plus_nanos(1))
            };
            self.block.has_begun = true;
        }
    }

    /// Lets the block get another time, if it has no records yet. The executor calls this method before it takes more commands, so that
    /// the time of a block is not older than its first command.
    pub(super) const fn renew_block(&mut self) {
        if self.block.records == 0 {
            self.block.has_begun = false;
            self.block.has_expired = false;
        }
    }

    /// The newest time for which it is certain that no later record gets this time or an earlier one.
    pub(super) fn settled_time(&self) -> Timestamp {
        let last = self.order.last_time;
        if self.block.has_begun || self.is_following {
            // The open block may get more records, which have the time of the block; or another process writes the next block, with
            // another clock.
            return last;
        }
        // Unless the clock goes back, the next block gets the time of this reading or a later time. So all times before
        // this reading are settled.
        let before_now = self.clock.now().as_nanos().saturating_sub(1);
        let settled = last.max(Timestamp::from_nanos(before_now));
        // The clock can go back a little. No block may get a time that this method has returned.
        self.settled.fetch_max(settled.as_nanos(), Ordering::Relaxed);
        settled
    }

    /// The time that the clock shows.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
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
            None if position >= self.durable => {
                let bytes = self
                    .sent
                    .bytes_at(position)
                    .ok_or(RecordError::NotYetDurable(position))?;
                buffer.clear();
                buffer.extend(bytes.iter().take(RECORD_BYTES_MAX));
                Ok(buffer)
            }
            None => self.reader.read(position, buffer),
        }
    }

    /// Finds a record in memory.
    #[inline]
    fn at_hand(&self, position: Position) -> Option<AtHand> {
        let open = self.open_body_position();
        if position >= open {
            return Some(AtHand::OpenBlock(position));
        }
        self.recent.find(position.as_u64()).map(AtHand::Recent)
    }

    /// Returns the bytes from the start of a record in memory.
    #[inline]
    fn bytes_at_hand(&self, found: AtHand) -> &[u8] {
        match found {
            AtHand::OpenBlock(position) => {
                let Some(bytes) = self.open_bytes_at(position) else {
                    panic!("the record at {position} was in the open block, but the block has changed");
                };
                bytes
            }
            AtHand::Recent(place) => self.recent.bytes(place),
        }
    }

    fn record_at_hand(&self, position: Position, found: AtHand) -> Result<PlacedRecord<'_>, RecordError> {
        let place = position.as_u64();
        match take_own_record(self.bytes_at_hand(found)) {
            Ok(record) => Ok(PlacedRecord { place, record }),
            Err(source) => Err(RecordError::Malformed { position, source }),
        }
    }

    /// Returns the position of the record with `key`, whose tag is `tag`, and reads the record. Afterwards, the read buffer contains
    /// the record, unless the record is in the open block. With `use_recent`, a record that is still in memory is compared there, and
    /// not read.
    fn locate(
        &mut self,
        key: RecordKey<'_>,
        tag: u64,
        use_recent: bool,
    ) -> Result<Option<Position>, RecordError> {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut failure = None;
        let found = self.ids.find(tag, |value| {
            let position = Position::from_u64(value);
            let at_hand = if use_recent { self.at_hand(position) } else { None };
            let matches = match at_hand {
                Some(found) => self
                    .record_at_hand(position, found)
                    .and_then(|found| has_key(position, &found.record, key, tag, self.seed)),
                None => self
                    .read(position, &mut buffer)
                    .and_then(|bytes| parse_record(position, bytes))
                    .and_then(|framed| has_key(position, &framed.record, key, tag, self.seed)),
            };
            matches.unwrap_or_else(|error| {
                failure = Some(error);
                true
            })
        });
        self.read_buffer = buffer;
        match failure {
            Some(error) => Err(error),
            None => Ok(found.map(Position::from_u64)),
        }
    }

    /// Returns the transaction at `position`. [`RecordLog::locate`] must have read this record just before, so that the
    /// read buffer contains the record if it is not in the open block.
    fn recorded_at(&self, position: Position) -> Result<RecordedTransaction<'_>, RecordError> {
        let open = self.open_bytes_at(position);
        let framed = parse_record(position, open.map_or(self.read_buffer.as_slice(), |bytes| bytes))?;
        let start = if open.is_some() {
            Committed {
                sequence: self.block.start.next_sequence,
                time: self.block.base_time,
            }
        } else if let Some(start) = self.sent.start_of(position) {
            start
        } else {
            self.reader.block_start(position, framed.back)?
        };
        let place = place_in_block(start, framed.ordinal, position)?;
        let (transaction, rejection) = framed
            .record
            .transaction()
            .ok_or_else(|| not_a_transaction(position))?;
        let effects = match framed.record {
            Record::Committed { effects, .. } => effects,
            Record::Rejected { .. }
            | Record::HoldExpired { .. }
            | Record::AccountCreated { .. }
            | Record::AccountUpdated { .. } => None,
        };
        Ok(RecordedTransaction {
            transaction,
            effects,
            outcome: rejection.map_or(Ok(place), Err),
        })
    }
}

impl TransactionLog for RecordLog {
    type Error = RecordError;

    fn find(&mut self, key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, RecordError> {
        // Almost every id is new and has no entry. The general search is longer, because it compares the records of entries.
        if self.ids.first(key.tag).is_none() {
            return Ok(None);
        }
        // The sequence and the time need the header of the record's block, so a recent record is of no use.
        match self.locate(RecordKey::Transaction(key.id), key.tag, false)? {
            Some(position) => self.recorded_at(position).map(Some),
            None => Ok(None),
        }
    }

    fn find_record(&mut self, key: RecordKey<'_>) -> Result<Option<PlacedRecord<'_>>, RecordError> {
        let tag = key.tag(self.seed);
        let Some(first) = self.ids.first(tag) else {
            return Ok(None);
        };
        // Nearly always, the first entry is the right one. The general search decodes the record before it knows that.
        let position = Position::from_u64(first);
        if let RecordKey::Transaction(id) = key
            && let Some(found) = self.at_hand(position)
            && let Some(parts) = own_committed(self.bytes_at_hand(found), id)
        {
            let record = parts.take(self.bytes_at_hand(found));
            return match record {
                Ok(record) => Ok(Some(PlacedRecord { place: first, record })),
                Err(source) => Err(RecordError::Malformed { position, source }),
            };
        }
        match self.locate(key, tag, true)? {
            Some(position) => self.record_at(position.as_u64()).map(Some),
            None => Ok(None),
        }
    }

    fn record_at(&mut self, place: u64) -> Result<PlacedRecord<'_>, RecordError> {
        let position = Position::from_u64(place);
        if let Some(found) = self.at_hand(position) {
            return self.record_at_hand(position, found);
        }
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let read = self.read(position, &mut buffer).map(|_| ());
        self.read_buffer = buffer;
        read?;
        let framed = parse_record(position, &self.read_buffer)?;
        Ok(PlacedRecord {
            place,
            record: framed.record,
        })
    }

    fn next_entry(&self) -> u64 {
        self.order.next_entry
    }

    #[inline]
    fn next_place(&self) -> u64 {
        position_in(self.open_body_position(), self.block.buffer.body_bytes()).as_u64()
    }

    #[inline]
    fn next_committed(&self) -> Committed {
        Committed {
            sequence: self.order.next_sequence,
            time: self.block.base_time.plus_nanos(u64::from(self.block.committed)),
        }
    }

    fn block_time(&self) -> Timestamp {
        self.block.base_time
    }

    fn append(
        &mut self,
        key: Option<TransactionKey<'_>>,
        other: Option<RecordKey<'_>>,
        record: NewRecord<'_>,
        links: Links<'_>,
    ) -> Committed {
        let block = &self.block;
        assert!(
            block.has_begun,
            "a record is appended to a block that has no time yet"
        );
        let (ordinal, offset) = (block.committed, block.buffer.body_bytes());
        let committed = self.next_committed();
        let place = self.next_place();
        let scratch = &mut self.scratch;
        self.block
            .buffer
            .append_with(|bytes| put_record(bytes, HEADER_BYTES, ordinal, place, record, links, scratch));
        if let Some(TransactionKey { tag, .. }) = key {
            self.ids.insert(tag, place);
        }
        if let Some(other) = other {
            self.ids.insert(other.tag(self.seed), place);
        }
        if record.is_needed_by_hold() {
            let (_, bytes) = self.block.buffer.body().split_at(offset);
            self.recent.push(place, bytes);
        }
        if self.block.records == 0 {
            self.order.last_time = self.block.base_time;
        }
        self.block.last_record = offset;
        self.block.records += 1;
        self.order.next_entry += 1;
        if record.has_sequence() {
            self.block.committed += 1;
            self.order.next_sequence += 1;
            self.order.last_time = committed.time;
        }
        committed
    }
}
