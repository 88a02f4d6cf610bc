//! A transaction log in memory. It holds records in the same encoding as the journal of the store.

use std::collections::HashMap;

use tally_ledger::{
    codec::Reader,
    record::{FramedRecord, Record, put_record, take_record},
    *,
};

/// A [`RecordKey`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum OwnedKey {
    Transaction(Vec<u8>),
    HoldEnd(Vec<u8>),
    Reversal(Vec<u8>, u64),
}

/// A transaction log in memory.
#[derive(Debug)]
pub(super) struct MemoryLog {
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    place_by_key: HashMap<OwnedKey, usize>,
    pub(super) entries: u64,
    /// Number of records with a sequence in the last block.
    ordinal: u32,
    scratch: Vec<u8>,
    /// Makes every lookup fail.
    pub(super) unreadable: bool,
    /// Number of lookups.
    pub(super) lookups: u64,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    start: usize,
    first_sequence: u64,
    base_time: Timestamp,
}

// ===== impl MemoryLog =====

impl MemoryLog {
    pub(super) fn new() -> Self {
        MemoryLog::starting_at(Timestamp::from_nanos(1_000))
    }

    /// An empty log whose first block has this time.
    pub(super) fn starting_at(base_time: Timestamp) -> Self {
        MemoryLog {
            bytes: Vec::new(),
            blocks: vec![Block {
                start: 0,
                first_sequence: 1,
                base_time,
            }],
            place_by_key: HashMap::new(),
            entries: 0,
            ordinal: 0,
            scratch: Vec::new(),
            unreadable: false,
            lookups: 0,
        }
    }

    fn last_block(&self) -> Block {
        *self.blocks.last().unwrap()
    }

    /// The number of blocks.
    pub(super) const fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Starts a new block, whose time is `later_by_nanos` after the time of the next transaction.
    pub(super) fn next_block(&mut self, later_by_nanos: u64) {
        let next = self.next();
        self.blocks.push(Block {
            start: self.bytes.len(),
            first_sequence: next.sequence,
            base_time: next.time.plus_nanos(later_by_nanos),
        });
        self.ordinal = 0;
    }

    /// The sequence and time of the next record that has a sequence.
    pub(super) fn next(&self) -> Committed {
        self.last_block().at(self.ordinal)
    }

    /// Applies the records from `from_entry` on.
    pub(super) fn replay_into(&self, ledger: &mut Ledger, from_entry: u64) -> Result<(), ReplayError> {
        self.replay_blocks(ledger, from_entry, |_, _| {})
    }

    /// Applies the records from `from_entry` on, and calls `after_block` with the number of each block, from 0, whose
    /// records were applied.
    pub(super) fn replay_blocks(
        &self,
        ledger: &mut Ledger,
        from_entry: u64,
        mut after_block: impl FnMut(usize, &Ledger),
    ) -> Result<(), ReplayError> {
        let mut entry = 0;
        let ends = self.blocks.iter().skip(1).map(|block| block.start);
        let blocks = self.blocks.iter().zip(ends.chain([self.bytes.len()]));
        for (number, (block, end)) in blocks.enumerate() {
            let mut reader = Reader::new(&self.bytes[block.start..end]);
            while !reader.is_empty() {
                let place = (end - reader.rest().len()) as u64;
                let framed = take_record(&mut reader, place)?;
                entry += 1;
                if entry >= from_entry {
                    let time = block.at(framed.ordinal).time;
                    ledger.replay(framed.record, framed.links, RecordPlace { entry, place, time })?;
                }
            }
            after_block(number, ledger);
        }
        assert_eq!(entry, self.entries);
        Ok(())
    }

    /// Checks that an index that a start rebuilds from the records finds the same records under the same keys, and that
    /// the sequences have no gap.
    pub(super) fn check_keys_and_sequences(&self) {
        let (mut reader, mut rebuilt, mut sequence) = (Reader::new(&self.bytes), HashMap::new(), 0);
        while !reader.is_empty() {
            let place = self.bytes.len() - reader.rest().len();
            let framed = take_record(&mut reader, place as u64).unwrap();
            for key in framed.record.keys().into_iter().flatten() {
                let before = rebuilt.insert(OwnedKey::of(key), place);
                assert_eq!(before, None, "two records have the key {key:?}");
            }
            if framed.record.has_sequence() {
                sequence += 1;
                assert_eq!(
                    self.block_of(place, &framed).at(framed.ordinal).sequence,
                    sequence
                );
            }
        }
        assert_eq!(rebuilt, self.place_by_key);
        assert_eq!(self.next().sequence, sequence + 1);
    }

    /// All records, with their places.
    pub(super) fn records(&self) -> impl Iterator<Item = (u64, FramedRecord<'_>)> {
        let mut reader = Reader::new(&self.bytes);
        std::iter::from_fn(move || {
            let place = self.bytes.len() - reader.rest().len();
            let framed = (!reader.is_empty()).then(|| take_record(&mut reader, place as u64).unwrap());
            framed.map(|framed| (place as u64, framed))
        })
    }

    pub(super) fn framed(&self, place: usize) -> FramedRecord<'_> {
        take_record(&mut Reader::new(&self.bytes[place..]), place as u64).unwrap()
    }

    /// The name of the client that is recorded with a transaction.
    pub(super) fn principal(&self, id: &str) -> Option<&[u8]> {
        let key = OwnedKey::Transaction(id.as_bytes().to_vec());
        self.framed(self.place_by_key[&key]).principal
    }

    fn block_of(&self, place: usize, framed: &FramedRecord<'_>) -> Block {
        let start = place - framed.back as usize;
        // An empty block starts at the same place as the next block. The last block with this start has the record.
        let after = self.blocks.partition_point(|block| block.start <= start);
        self.blocks[after - 1]
    }

    fn find_place(&mut self, key: RecordKey<'_>) -> Result<Option<usize>, &'static str> {
        self.lookups += 1;
        if self.unreadable {
            return Err("unreadable");
        }
        Ok(self.place_by_key.get(&OwnedKey::of(key)).copied())
    }
}

impl TransactionLog for MemoryLog {
    type Error = &'static str;

    fn find(&mut self, key: TransactionKey<'_>) -> Result<Option<RecordedTransaction<'_>>, Self::Error> {
        let Some(place) = self.find_place(RecordKey::Transaction(key.id))? else {
            return Ok(None);
        };
        let framed = self.framed(place);
        let committed = self.block_of(place, &framed).at(framed.ordinal);
        let (transaction, rejection) = framed.record.transaction().unwrap();
        let effects = match framed.record {
            Record::Committed { effects, .. } => effects,
            Record::AccountCreated { .. }
            | Record::HoldExpired { .. }
            | Record::AccountUpdated { .. }
            | Record::Rejected { .. } => None,
        };
        Ok(Some(RecordedTransaction {
            transaction,
            effects,
            outcome: rejection.map_or(Ok(committed), Err),
        }))
    }

    fn find_record(&mut self, key: RecordKey<'_>) -> Result<Option<PlacedRecord<'_>>, Self::Error> {
        let place = self.find_place(key)?;
        Ok(place.map(|place| PlacedRecord {
            place: place as u64,
            record: self.framed(place).record,
        }))
    }

    fn record_at(&mut self, place: u64) -> Result<PlacedRecord<'_>, Self::Error> {
        if self.unreadable {
            return Err("unreadable");
        }
        let record = self.framed(usize::try_from(place).unwrap()).record;
        Ok(PlacedRecord { place, record })
    }

    fn next_entry(&self) -> u64 {
        self.entries + 1
    }

    fn next_place(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn next_committed(&self) -> Committed {
        self.next()
    }

    fn block_time(&self) -> Timestamp {
        self.last_block().base_time
    }

    fn append(
        &mut self,
        key: Option<TransactionKey<'_>>,
        other: Option<RecordKey<'_>>,
        record: NewRecord<'_>,
        links: Links<'_>,
    ) -> Committed {
        let committed = self.next();
        let own = key.map(|key| RecordKey::Transaction(key.id));
        for key in [own, other].into_iter().flatten() {
            let before = self.place_by_key.insert(OwnedKey::of(key), self.bytes.len());
            assert_eq!(before, None, "{key:?} is recorded twice");
        }
        let body_start = self.last_block().start;
        let place = self.bytes.len() as u64;
        put_record(
            &mut self.bytes,
            body_start,
            self.ordinal,
            place,
            record,
            links,
            &mut self.scratch,
        );
        self.entries += 1;
        self.ordinal += u32::from(record.has_sequence());
        committed
    }
}

// ===== impl OwnedKey =====

impl OwnedKey {
    fn of(key: RecordKey<'_>) -> Self {
        match key {
            RecordKey::Transaction(id) => OwnedKey::Transaction(id.to_vec()),
            RecordKey::HoldEnd(id) => OwnedKey::HoldEnd(id.to_vec()),
            RecordKey::Reversal(id, number) => OwnedKey::Reversal(id.to_vec(), number),
        }
    }
}

// ===== impl Block =====

impl Block {
    /// The sequence and time of the record that follows `ordinal` records with a sequence of this block.
    fn at(&self, ordinal: u32) -> Committed {
        Committed {
            sequence: self.first_sequence + u64::from(ordinal),
            time: self.base_time.plus_nanos(u64::from(ordinal)),
        }
    }
}
