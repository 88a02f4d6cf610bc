//! Replays the blocks of a journal: applies their records to a ledger.

use tally_journal::{BlockStamp, ChainPoint, Journal, JournalError, ScanError, Tail};
use tally_ledger::{Ledger, tag_index::TagIndex};

use super::{
    apply::Target,
    checkpoint::LoadedCheckpoint,
    error::{FollowError, OpenError},
    point::OrderPoint,
};
use crate::mutation::planted;

/// The state that a replay builds.
pub(super) struct Replay {
    pub(super) ledger: Ledger,
    /// The positions of records, by the tags of their keys. A tag is a hash.
    pub(super) ids: TagIndex,
    /// The numbers and the time after the last replayed record.
    pub(super) order: OrderPoint,
    /// Who wrote the last block.
    pub(super) last: BlockStamp,
    /// Number of records that were replayed.
    pub(super) records: u64,
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
        last: BlockStamp::default(),
        records: 0,
    };
    match stamp_before(journal, &start.chain) {
        Ok(stamp) => replay.last = stamp,
        Err(error) => return (replay, Err(error)),
    }
    let seed = journal.directory().hash_seed();
    let scanned = journal.scan(start.chain, durable_through, |header, _, body| {
        let target = Target {
            ledger: &mut replay.ledger,
            ids: &mut replay.ids,
            order: &mut replay.order,
            last: &mut replay.last,
            seed,
        };
        replay.records += target.apply(header, body)?;
        Ok(())
    });
    let scanned = scanned.map_err(|error: ScanError<FollowError>| match error {
        ScanError::Store(error) => OpenError::Store(error),
        ScanError::Visitor(error) => error.into(),
    });
    (replay, scanned)
}

/// Returns who wrote the block before `point`.
fn stamp_before(journal: &Journal, point: &ChainPoint) -> Result<BlockStamp, OpenError> {
    // The scan checks this again. Without the check, a point of another journal would lead to any block.
    journal.check_point(point)?;
    if point.last_block_sequence() == 0 {
        return Ok(BlockStamp::default());
    }
    Ok(journal.reader().read_header(point.previous_position)?.stamp())
}
