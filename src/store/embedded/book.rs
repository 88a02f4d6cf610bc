//! EXEC's half of the store: the ledger, the ids it knows, and the block that is being filled.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    DurablePoint, OrderPoint,
    error::BookError,
    recall::{RecordReader, indexed_record, parse_record, recalled},
};
use crate::{
    ledger::{
        AccountOutcome, Committed, Journal, Key, Ledger, NewAccount, Outcome, Recalled, Tags,
        TransactionView,
        record::{Entry, RECORD_BYTES_MAX, put_record},
        tag_index::{TagIndex, tag},
    },
    store::journal::{BlockBuffer, BlockMeta, BlockPlacement, HEADER_BYTES, Position},
    time::{Timestamp, WallClock},
};

/// Records that an id might name: nearly always none or one.
pub type Candidates = SmallVec<[Position; 1]>;

/// The ledger and its journal, as the one thread sees them that may change them.
#[derive(Debug)]
pub struct Book {
    ledger: Ledger,
    pages: Pages,
}

/// A block on its way to the disk.
#[derive(Debug)]
pub struct SealedBlock {
    /// The number that the journal will give it.
    pub sequence: u64,
    /// Its place and numbers.
    pub meta: BlockMeta,
    /// Its bytes.
    pub buffer: BlockBuffer,
    /// Where the order stands behind it.
    pub end: OrderPoint,
}

/// The ledger's memory of transactions.
#[derive(Debug)]
struct Pages {
    ids: TagIndex,
    seed: u64,
    reader: RecordReader,
    placement: BlockPlacement,
    /// Blocks before this position can be read from the disk.
    durable: Position,
    block: OpenBlock,
    order: OrderPoint,
    clock: Arc<dyn WallClock>,
    /// Where a record is put together. Kept to be filled again.
    scratch: Vec<u8>,
    /// Where a record is read back. Kept to be filled again.
    read_buffer: Vec<u8>,
}

/// The block that is being filled.
#[derive(Debug)]
struct OpenBlock {
    /// Its number, from 1.
    sequence: u64,
    buffer: BlockBuffer,
    records: u32,
    committed: u32,
    base_time: Timestamp,
    /// Where the order stood before it.
    start: OrderPoint,
}

// ===== impl Book =====

impl Book {
    /// A book that goes on with `ledger` where `durable` and `placement` stand.
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
        let order = durable.order;
        let buffer = BlockBuffer::with_capacity(0);
        let pages = Pages {
            ids,
            seed,
            reader,
            placement,
            durable: placement.next_block_position(),
            block: OpenBlock {
                sequence: durable.chain.block_sequence,
                buffer,
                records: 0,
                committed: 0,
                base_time: order.last_time,
                start: order,
            },
            order,
            clock,
            scratch: Vec::new(),
            read_buffer: Vec::new(),
        };
        Book { ledger, pages }
    }

    /// The accounts.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Where the order stands.
    #[must_use]
    pub const fn order(&self) -> OrderPoint {
        self.pages.order
    }

    /// Processes a transaction. The caller has made sure that there [is room](Book::has_room).
    ///
    /// # Errors
    /// [`BookError`] if what is recorded under its id can't be read (yet). Nothing has changed then.
    pub fn process(
        &mut self,
        transaction: &TransactionView<'_, &[u8]>,
        tags: Tags<'_>,
    ) -> Result<Outcome, BookError> {
        self.ledger.process_tagged(transaction, tags, &mut self.pages)
    }

    /// Asks for the memory where the names of a transaction are looked up.
    pub fn prefetch_names(&self, tags: Tags<'_>) {
        self.pages.ids.prefetch(tags.id);
        for tag in tags.accounts {
            self.ledger.accounts().prefetch_name(*tag);
        }
    }

    /// Asks for the memory of its accounts, once that of their names has been asked for.
    pub fn prefetch_accounts(&self, tags: Tags<'_>) {
        for tag in tags.accounts {
            self.ledger.accounts().prefetch_account(*tag);
        }
    }

    /// Creates accounts, all or none. The caller has made sure that there [is room](Book::has_room).
    pub fn create_accounts(&mut self, accounts: Vec<NewAccount>) -> AccountOutcome {
        self.ledger.create_accounts(accounts, &mut self.pages)
    }

    /// Where the record of transaction `id` is, if there is one. The hash alone decides, so each candidate has to be
    /// read and its id compared, once it is durable.
    #[must_use]
    pub fn candidates(&self, id: &str) -> Candidates {
        let mut candidates = Candidates::new();
        let tag = id_tag(id.as_bytes(), self.pages.seed);
        let _none = self.pages.ids.find(tag, |value| {
            candidates.push(Position::from_u64(value));
            false
        });
        candidates
    }

    /// Whether `records` more records fit the open block, whatever they hold.
    #[must_use]
    pub fn has_room(&self, records: usize) -> bool {
        let used = self.pages.block.buffer.body_bytes();
        let room = (self.pages.placement.block_bytes_max() as usize).saturating_sub(used);
        room / RECORD_BYTES_MAX >= records
    }

    /// Whether `bytes` more bytes fit the open block.
    #[must_use]
    pub fn has_room_for_bytes(&self, bytes: usize) -> bool {
        let used = self.pages.block.buffer.body_bytes();
        used.saturating_add(bytes) <= self.pages.placement.block_bytes_max() as usize
    }

    /// Records in the open block.
    #[must_use]
    pub const fn open_records(&self) -> u32 {
        self.pages.block.records
    }

    /// Bytes in the open block.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.pages.block.buffer.body_bytes()
    }

    /// The number that the open block will have.
    #[must_use]
    pub const fn open_block(&self) -> u64 {
        self.pages.block.sequence
    }

    /// The last block whose effects can be seen here; 0 if there are none. Whatever is told of the ledger or the ids now
    /// holds after a crash only if that block is durable.
    #[must_use]
    pub const fn last_block(&self) -> u64 {
        if self.pages.block.records > 0 {
            self.pages.block.sequence
        } else {
            self.pages.block.sequence - 1
        }
    }

    /// Closes the open block and opens the next one in `spare`. `None` if there is no record in it.
    pub fn seal(&mut self, spare: BlockBuffer) -> Option<SealedBlock> {
        (self.pages.block.records > 0).then(|| self.pages.seal(spare))
    }

    /// Closes the open block also if there is no record in it: a commit of nothing, to find out how long one takes.
    pub fn seal_even_if_empty(&mut self, spare: BlockBuffer) -> SealedBlock {
        // An empty block has its place in time as well.
        self.pages.begin_block();
        self.pages.seal(spare)
    }

    /// Says that all blocks before `position` are durable.
    pub fn durable_to(&mut self, position: Position) {
        self.pages.durable = position;
    }

    /// How many transaction ids are known, and the bytes of memory they take.
    #[must_use]
    pub fn id_memory(&self) -> (usize, usize) {
        (self.pages.ids.len(), self.pages.ids.memory_bytes())
    }
}

// ===== impl Pages =====

impl Pages {
    /// The body of the open block will stand here.
    fn open_body_position(&self) -> Position {
        body_position(self.placement.next_block_position())
    }

    fn seal(&mut self, spare: BlockBuffer) -> SealedBlock {
        let position = self.placement.next_block_position();
        let next = OpenBlock {
            sequence: self.block.sequence + 1,
            buffer: spare,
            records: 0,
            committed: 0,
            base_time: self.order.last_time,
            start: self.order,
        };
        let OpenBlock {
            sequence,
            buffer,
            records,
            base_time,
            start,
            ..
        } = std::mem::replace(&mut self.block, next);
        // A block's body is at most `block_bytes_max`, which is a u32.
        let body_bytes = u32::try_from(buffer.body_bytes()).unwrap_or(u32::MAX);
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

    /// Opens the block's time with its first record: by the clock, but never before what was given out.
    fn begin_block(&mut self) {
        if self.block.records == 0 {
            self.block.base_time = self.clock.now().max(self.order.last_time.plus_nanos(1));
            self.order.last_time = self.block.base_time;
        }
    }

    /// Reads the record at `position` into `buffer` if it is on the disk.
    fn read<'a>(&'a self, position: Position, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], BookError> {
        let open = self.open_body_position();
        if position >= open {
            let offset = (position.offset() - open.offset()) as usize;
            return Ok(self.block.buffer.body().get(offset..).unwrap_or_default());
        }
        if position >= self.durable {
            return Err(BookError::NotYetDurable(position));
        }
        self.reader.read(position, buffer)
    }
}

impl Journal for Pages {
    type Error = BookError;

    fn recall(&mut self, key: Key<'_>) -> Result<Option<Recalled<'_>>, BookError> {
        let Key { id, tag } = key;
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
        if let Some(failure) = failure {
            return Err(failure);
        }
        let Some(position) = found.map(Position::from_u64) else {
            return Ok(None);
        };
        self.recall_at(position)
    }

    fn next_entry(&self) -> u64 {
        self.order.next_entry
    }

    fn append(&mut self, key: Option<Key<'_>>, entry: Entry<'_>) -> Committed {
        self.begin_block();
        let body = self.open_body_position();
        let offset = u32::try_from(self.block.buffer.body_bytes()).unwrap_or(u32::MAX);
        let ordinal = self.block.committed;
        let committed = Committed {
            sequence: self.order.next_sequence,
            time: self.block.base_time.plus_nanos(u64::from(ordinal)),
        };
        let place = Position::new(body.segment(), body.offset() + offset).as_u64();
        let scratch = &mut self.scratch;
        self.block
            .buffer
            .append_with(|bytes| put_record(bytes, HEADER_BYTES, ordinal, place, entry, scratch));
        if let Some(Key { tag, .. }) = key {
            self.ids.insert(tag, place);
        }
        self.block.records += 1;
        self.order.next_entry += 1;
        if matches!(entry, Entry::Committed { .. }) {
            self.block.committed += 1;
            self.order.next_sequence += 1;
            self.order.last_time = committed.time;
        }
        committed
    }
}

impl Pages {
    /// The record at `position`, which was found readable a moment ago.
    fn recall_at(&mut self, position: Position) -> Result<Option<Recalled<'_>>, BookError> {
        let open = self.open_body_position();
        let (bytes, origin) = if position >= open {
            let offset = (position.offset() - open.offset()) as usize;
            let start = Committed {
                sequence: self.block.start.next_sequence,
                time: self.block.base_time,
            };
            (
                self.block.buffer.body().get(offset..).unwrap_or_default(),
                Some(start),
            )
        } else {
            (self.read_buffer.as_slice(), None)
        };
        let framed = parse_record(position, bytes)?;
        let origin = match origin {
            Some(origin) => origin,
            None => self.reader.origin(position, framed.back)?,
        };
        let place = origin.after(framed.ordinal);
        Ok(recalled(&framed).map(|(transaction, rejection)| Recalled {
            transaction,
            outcome: rejection.map_or(Ok(place), Err),
        }))
    }
}

/// Where the body of a block stands whose header stands at `block`.
pub(super) fn body_position(block: Position) -> Position {
    #[expect(clippy::cast_possible_truncation, reason = "128")]
    const HEADER: u32 = HEADER_BYTES as u32;
    Position::new(block.segment(), block.offset() + HEADER)
}

/// The hash of a transaction id, by which it is found. `seed` is the data directory's secret.
pub(super) fn id_tag(id: &[u8], seed: u64) -> u64 {
    tag(id, seed)
}
