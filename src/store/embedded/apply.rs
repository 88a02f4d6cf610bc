//! Applies an existing block to a ledger: when a start replays the journal, and when a ledger follows a replicated log.

use tally_journal::{BlockHeader, BlockStamp, Position};
use tally_ledger::{Ledger, Record, RecordPlace, Timestamp, record::FramedRecord, tag_index::TagIndex};

use super::{error::FollowError, point::OrderPoint, record::BlockRecords};
use crate::mutation::planted;

/// What a block changes.
pub(super) struct Target<'a> {
    pub(super) ledger: &'a mut Ledger,
    /// The positions of records, by the tags of their keys. A tag is a hash.
    pub(super) ids: &'a mut TagIndex,
    /// The numbers and the time after the last record.
    pub(super) order: &'a mut OrderPoint,
    /// Who wrote the last block.
    pub(super) last: &'a mut BlockStamp,
    /// Seed of the hash of transaction ids.
    pub(super) seed: u64,
}

// ===== impl Target =====

impl Target<'_> {
    /// Checks that the block with this `header` is the next one, and applies its records. Returns the number of records. The
    /// caller has checked the checksums of the block, and that it follows in the hash chain.
    ///
    /// # Errors
    /// [`FollowError`]. Some records of the block may have been applied.
    pub(super) fn apply(mut self, header: &BlockHeader, body: &[u8]) -> Result<u64, FollowError> {
        let block_sequence = header.block_sequence;
        let error = |field, found, expected| FollowError::Order {
            block_sequence,
            field,
            found,
            expected,
        };
        let expect = |field, found: u64, expected: u64| {
            (found == expected)
                .then_some(())
                .ok_or_else(|| error(field, found, expected))
        };
        let (last, found) = (*self.last, header.stamp());
        if !last.may_precede(found) {
            return Err(FollowError::Stamp {
                block_sequence,
                found,
                last,
            });
        }
        expect("first_entry", header.first_entry, self.order.next_entry)?;
        expect("first_sequence", header.first_sequence, self.order.next_sequence)?;
        let base = Timestamp::from_nanos(header.base_time_ns);
        let earliest = self.order.last_time.checked_add_nanos(1);
        if earliest.is_none_or(|earliest| base < earliest) {
            let earliest = earliest.map_or(u64::MAX, Timestamp::as_nanos);
            return Err(error("base_time", header.base_time_ns, earliest));
        }
        self.order.last_time = base;
        *self.last = found;
        if !header.kind.is_data() {
            // The body of a control block is not a sequence of records. The journal accepts such a block only if its header
            // states no records.
            return Ok(0);
        }

        let mut records = 0_u64;
        for record in BlockRecords::new(header.position, body) {
            if record.is_err() && planted("accept_torn_block") {
                return Ok(records);
            }
            let (position, framed) = record?;
            self.record(header, position, framed)?;
            records += 1;
        }
        expect("record_count", u64::from(header.record_count), records)?;
        Ok(records)
    }

    /// Applies a record of the block with this `header`.
    fn record(
        &mut self,
        header: &BlockHeader,
        position: Position,
        framed: FramedRecord<'_>,
    ) -> Result<(), FollowError> {
        let block_sequence = header.block_sequence;
        let error = |field, found, expected| FollowError::Order {
            block_sequence,
            field,
            found,
            expected,
        };
        let committed = self.order.next_sequence - header.first_sequence;
        if u64::from(framed.ordinal) != committed {
            return Err(error("ordinal", framed.ordinal.into(), committed));
        }
        let time = Timestamp::from_nanos(header.base_time_ns)
            .checked_add_nanos(committed)
            .ok_or_else(|| error("base_time", header.base_time_ns, u64::MAX - committed))?;
        let is_rejection = matches!(framed.record, Record::Rejected { .. });
        if !(is_rejection && planted("forget_rejection_at_start")) {
            for key in framed.record.keys().iter().flatten() {
                self.ids.insert(key.tag(self.seed), position.as_u64());
            }
        }
        if framed.record.has_sequence() {
            self.order.next_sequence += 1;
            self.order.last_time = time;
        }
        let entry = self.order.next_entry;
        let at = RecordPlace {
            entry,
            place: position.as_u64(),
            time,
        };
        self.ledger
            .replay(framed.record, framed.links, at)
            .map_err(|source| FollowError::Replay {
                block_sequence,
                entry,
                source,
            })?;
        self.order.next_entry += 1;
        Ok(())
    }
}
