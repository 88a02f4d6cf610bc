//! Replays the blocks of a journal: applies their records to a ledger.

use tally_journal::{BlockHeader, Journal, JournalError, Position, ScanError, Tail};
use tally_ledger::{Ledger, Record, RecordPlace, Timestamp, tag_index::TagIndex};

use super::{checkpoint::LoadedCheckpoint, error::OpenError, point::OrderPoint, record::BlockRecords};
use crate::mutation::planted;

/// The state that a replay builds.
pub(super) struct Replay {
    pub(super) ledger: Ledger,
    /// The positions of records, by the tags of their keys. A tag is a hash.
    pub(super) ids: TagIndex,
    /// The numbers and the time after the last replayed record.
    pub(super) order: OrderPoint,
    /// Number of records that were replayed.
    pub(super) records: u64,
    /// Seed of the hash of transaction ids.
    seed: u64,
}

/// Replays all blocks after a checkpoint: applies their records to the ledger of the checkpoint, and adds their
/// transaction ids to `ids`. Also finds the end of the journal.
pub(super) fn replay(
    journal: &Journal,
    checkpoint: LoadedCheckpoint,
    ids: TagIndex,
) -> Result<(Replay, Tail), OpenError> {
    let last_record = checkpoint.last_record;
    let (mut replay, scanned) = scan(journal, checkpoint, ids);
    if planted("sequence_gap") && scanned.as_ref().is_ok_and(|tail| tail.torn.is_some()) {
        replay.order.next_sequence += 1;
    }
    match scanned {
        // The journal must contain every record whose changes the checkpoint contains. Otherwise new records would get the
        // places of the missing records.
        Ok(tail) => match last_record.filter(|last| *last >= tail.end.position) {
            Some(found) => Err(OpenError::CheckpointAhead {
                found,
                end: tail.end.position,
            }),
            None => Ok((replay, tail)),
        },
        Err(error) => Err(error),
    }
}

/// Replays the blocks of a damaged journal from `start` to the first damage.
pub(super) fn replay_before_damage(journal: &Journal, start: LoadedCheckpoint) -> Result<Replay, OpenError> {
    match scan(journal, start, TagIndex::new()) {
        (replay, Ok(_) | Err(OpenError::Store(JournalError::Corrupt(_)))) => Ok(replay),
        (_, Err(error)) => Err(error),
    }
}

/// Replays blocks until the end of the journal or the first error. Returns what was replayed, and the end or the error.
fn scan(journal: &Journal, checkpoint: LoadedCheckpoint, ids: TagIndex) -> (Replay, Result<Tail, OpenError>) {
    let LoadedCheckpoint {
        ledger,
        start,
        durable_through,
        last_record: _,
    } = checkpoint;
    let mut replay = Replay {
        ledger,
        ids,
        order: start.order,
        records: 0,
        seed: journal.directory().hash_seed(),
    };
    let scanned = journal.scan(start.chain, durable_through, |header, position, body| {
        replay.block(header, position, body)
    });
    let scanned = scanned.map_err(|error| match error {
        ScanError::Store(error) => OpenError::Store(error),
        ScanError::Visitor(error) => error,
    });
    (replay, scanned)
}

// ===== impl Replay =====

impl Replay {
    fn block(&mut self, header: &BlockHeader, position: Position, body: &[u8]) -> Result<(), OpenError> {
        let block_sequence = header.block_sequence;
        let error = |field, found, expected| OpenError::Order {
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
        expect("first_entry", header.first_entry, self.order.next_entry)?;
        expect("first_sequence", header.first_sequence, self.order.next_sequence)?;
        let base = Timestamp::from_nanos(header.base_time_ns);
        let earliest = self.order.last_time.checked_add_nanos(1);
        if earliest.is_none_or(|earliest| base < earliest) {
            let earliest = earliest.map_or(u64::MAX, Timestamp::as_nanos);
            return Err(error("base_time", header.base_time_ns, earliest));
        }
        self.order.last_time = base;

        let mut records = 0_u64;
        for record in BlockRecords::new(position, body) {
            if record.is_err() && planted("accept_torn_block") {
                return Ok(());
            }
            let (position, framed) = record?;
            let committed = self.order.next_sequence - header.first_sequence;
            expect("ordinal", u64::from(framed.ordinal), committed)?;
            let time = base
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
                .map_err(|source| OpenError::Replay {
                    block_sequence,
                    entry,
                    source,
                })?;
            self.order.next_entry += 1;
            records += 1;
        }
        self.records += records;
        expect("record_count", u64::from(header.record_count), records)
    }
}
