//! A transaction log in memory. It holds records in the same encoding as the journal of the store.

use std::collections::HashMap;

use tally_ledger::{
    codec::Reader,
    record::{Record, put_record, take_record},
    *,
};

/// A transaction log in memory.
#[derive(Debug)]
pub(super) struct MemoryLog {
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    offset_by_id: HashMap<String, usize>,
    pub(super) entries: u64,
    /// Number of transactions committed in the last block.
    ordinal: u32,
    scratch: Vec<u8>,
    /// Makes every lookup fail.
    pub(super) unreadable: bool,
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
        MemoryLog {
            bytes: Vec::new(),
            blocks: vec![Block {
                start: 0,
                first_sequence: 1,
                base_time: Timestamp::from_nanos(1_000),
            }],
            offset_by_id: HashMap::new(),
            entries: 0,
            ordinal: 0,
            scratch: Vec::new(),
            unreadable: false,
        }
    }

    fn last_block(&self) -> Block {
        *self.blocks.last().unwrap()
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

    /// The sequence and time of the next committed transaction.
    pub(super) fn next(&self) -> Committed {
        self.last_block().at(self.ordinal)
    }

    pub(super) fn replay_into(&self, ledger: &mut Ledger, from_entry: u64) -> Result<(), ReplayError> {
        let mut entry = 0;
        let ends = self.blocks.iter().skip(1).map(|block| block.start);
        for (block, end) in self.blocks.iter().zip(ends.chain([self.bytes.len()])) {
            let mut reader = Reader::new(&self.bytes[block.start..end]);
            while !reader.is_empty() {
                let place = end - reader.rest().len();
                let framed = take_record(&mut reader, place as u64)?;
                entry += 1;
                if entry >= from_entry {
                    ledger.replay(framed.record, entry, block.at(framed.ordinal).time)?;
                }
            }
        }
        assert_eq!(entry, self.entries);
        Ok(())
    }
}

impl TransactionLog for MemoryLog {
    type Error = &'static str;

    fn find(
        &mut self,
        TransactionKey { id, .. }: TransactionKey<'_>,
    ) -> Result<Option<RecordedTransaction<'_>>, Self::Error> {
        let id = std::str::from_utf8(id).unwrap();
        if self.unreadable {
            return Err("unreadable");
        }
        let Some(&offset) = self.offset_by_id.get(id) else {
            return Ok(None);
        };
        let framed = take_record(&mut Reader::new(&self.bytes[offset..]), offset as u64).unwrap();
        let start = offset - framed.back as usize;
        // An empty block starts at the same offset as the next block. The last block with this offset has the record.
        let block = self.blocks.iter().rfind(|block| block.start == start).unwrap();
        let (transaction, outcome) = match framed.record {
            Record::Committed { transaction } => (transaction, Ok(block.at(framed.ordinal))),
            Record::Rejected {
                transaction,
                rejection,
            } => (transaction, Err(rejection)),
            Record::AccountCreated { .. } => panic!("{id} is recorded as an account"),
        };
        Ok(Some(RecordedTransaction { transaction, outcome }))
    }

    fn next_entry(&self) -> u64 {
        self.entries + 1
    }

    fn append(&mut self, key: Option<TransactionKey<'_>>, record: NewRecord<'_>) -> Committed {
        let committed = self.next();
        if let Some(TransactionKey { id, .. }) = key {
            let id = std::str::from_utf8(id).unwrap();
            let before = self.offset_by_id.insert(id.to_owned(), self.bytes.len());
            assert_eq!(before, None, "{id} is recorded twice");
        }
        let body_start = self.last_block().start;
        let place = self.bytes.len() as u64;
        put_record(
            &mut self.bytes,
            body_start,
            self.ordinal,
            place,
            record,
            &mut self.scratch,
        );
        self.entries += 1;
        self.ordinal += u32::from(matches!(record, NewRecord::Committed { .. }));
        committed
    }
}

// ===== impl Block =====

impl Block {
    /// The sequence and time of the transaction that follows `ordinal` committed transactions of this block.
    fn at(&self, ordinal: u32) -> Committed {
        Committed {
            sequence: self.first_sequence + u64::from(ordinal),
            time: self.base_time.plus_nanos(u64::from(ordinal)),
        }
    }
}
