//! Checks all blocks of a journal and reports all damage. Changes nothing.

use std::convert::Infallible;

use crate::{
    block::BlockHeader,
    chain_point::ChainPoint,
    error::{Corruption, CorruptionKind, JournalError},
    geometry::block_span_bytes,
    position::Position,
    scan::{ChainScanner, ScanError, TornTail},
    stamp::BlockKind,
};

/// The result of [`crate::Journal::verify`].
#[derive(Debug, Clone, Default)]
pub struct JournalReport {
    /// Number of undamaged blocks.
    pub blocks: u64,
    /// Space that the undamaged blocks take, in bytes.
    pub bytes: u64,
    /// Number of records in the undamaged blocks, according to their headers.
    pub records: u64,
    /// Number of claims in the undamaged blocks. Each claim begins a term of a replicated log. 0 if an embedded store
    /// wrote all blocks.
    pub claims: u64,
    /// The header of the first undamaged block; `None` if `blocks` is 0.
    pub first: Option<BlockHeader>,
    /// The header of the last undamaged block; `None` if `blocks` is 0.
    pub last: Option<BlockHeader>,
    /// Where the journal ends; `None` if the end is unknown because of damage.
    pub end: Option<ChainPoint>,
    /// The remains of an incomplete write after a crash. They are not an error: the next start removes them. Damage to
    /// the last block cannot be distinguished from such remains.
    pub torn: Option<TornTail>,
    /// Whether the journal was stopped cleanly at `end`. If so, no durable block is missing at the end.
    pub clean: bool,
    /// Whether the marker of a clean stop (`journal/CLEAN`) exists. If the marker exists and `clean` is false, the
    /// marker is damaged, or names another point than the end of the journal.
    pub marked: bool,
    /// The sequence of the last block of the journal according to the marker of a clean stop; `None` if the marker is
    /// absent or unreadable.
    pub marked_last_block: Option<u64>,
    /// The first damage; `None` if the journal is undamaged.
    pub corruption: Option<Corruption>,
    /// The other damages, in the order of the journal, at most [`FURTHER_DAMAGES_MAX`].
    pub further_damages: Vec<Corruption>,
    /// The runs of whole blocks, in the order of the journal: one run if the journal has no damage. Damage separates
    /// two runs. At most 1 + [`FURTHER_DAMAGES_MAX`].
    pub runs: Vec<BlockRun>,
    /// Whether the check stopped at the last damage in this report, although blocks may follow.
    pub stopped: bool,
}

/// Whole blocks that follow each other, without damage between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRun {
    /// The header of the first block.
    pub first: BlockHeader,
    /// The header of the last block.
    pub last: BlockHeader,
}

/// Maximum number of [`JournalReport::further_damages`]. When the report has this number, the check stops.
pub const FURTHER_DAMAGES_MAX: usize = 64;

// ===== impl JournalReport =====

impl JournalReport {
    /// Returns whether the journal has no damage.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.corruption.is_none()
    }

    fn note(&mut self, corruption: Corruption) {
        if self.corruption.is_none() {
            self.corruption = Some(corruption);
        } else {
            self.further_damages.push(corruption);
        }
    }

    /// Returns whether blocks after the last run may be lost although no later block exists. If the number of the last
    /// block is known, it is [`Self::marked_last_block`].
    #[must_use]
    pub fn may_lack_last_blocks(&self) -> bool {
        let Some(damage) = self.further_damages.last().or(self.corruption.as_ref()) else {
            return false;
        };
        let last = self.runs.last().map(|run| run.last);
        match (&damage.kind, self.marked_last_block) {
            (_, Some(marked)) => marked > last.map_or(0, |last| last.block_sequence),
            // A shorter segment before the segment of the last block lost no block after that block.
            (CorruptionKind::SegmentLength { .. }, None) => {
                last.is_none_or(|last| damage.position.segment() >= last.position.segment())
            }
            (_, None) => self.end.is_none(),
        }
    }

    /// Adds the segments of a wrong length after the segment of `corruption`, which is already in the report. A scan
    /// reports only the first such segment.
    fn note_further_lengths(
        &mut self,
        scanner: &ChainScanner<'_>,
        corruption: &Corruption,
    ) -> Result<(), JournalError> {
        let room = FURTHER_DAMAGES_MAX - self.further_damages.len();
        let (segment, sequence) = (corruption.position.segment(), corruption.block_sequence);
        let further = scanner.wrong_lengths_after(segment, sequence, room)?;
        self.stopped = further.len() == room;
        self.further_damages.extend(further);
        Ok(())
    }

    fn count(&mut self, header: &BlockHeader) {
        self.blocks += 1;
        self.bytes += u64::from(block_span_bytes(header.body_bytes));
        self.records += u64::from(header.record_count);
        self.claims += u64::from(header.kind == BlockKind::Claim);
        self.first.get_or_insert(*header);
        self.last = Some(*header);
    }
}

/// Checks all blocks after `start`. See [`crate::Journal::verify`].
pub(super) fn check_chain(
    scanner: &ChainScanner<'_>,
    start: ChainPoint,
) -> Result<JournalReport, JournalError> {
    let mut report = JournalReport {
        marked: scanner.is_marked(),
        marked_last_block: scanner.marked_last_block(),
        ..JournalReport::default()
    };
    let mut from = start;
    loop {
        let mut run: Option<BlockRun> = None;
        let count = |header: &BlockHeader, _: Position, _: &[u8]| -> Result<(), Infallible> {
            report.count(header);
            let first = run.map_or(*header, |run| run.first);
            run = Some(BlockRun { first, last: *header });
            Ok(())
        };
        let scanned = scanner.scan(from, 0, count);
        report.runs.extend(run);
        let corruption = match scanned {
            Ok(tail) => {
                report.end = Some(tail.end);
                report.torn = tail.torn;
                report.clean = tail.clean;
                return Ok(report);
            }
            Err(ScanError::Visitor(never)) => match never {},
            Err(ScanError::Store(JournalError::Corrupt(corruption))) => corruption,
            Err(ScanError::Store(error)) => return Err(error),
        };
        let next = whole_block_after(scanner, &corruption)?;
        report.note(corruption.clone());
        match next {
            Some(next) if report.further_damages.len() < FURTHER_DAMAGES_MAX => from = next,
            Some(_) => {
                report.stopped = true;
                return Ok(report);
            }
            None => {
                if matches!(corruption.kind, CorruptionKind::SegmentLength { .. }) {
                    report.note_further_lengths(scanner, &corruption)?;
                }
                report.stopped |= matches!(corruption.kind, CorruptionKind::CleanStopMismatch);
                return Ok(report);
            }
        }
    }
}

/// Returns the point of the first block after the damage from which the check can continue; `None` if no such block is
/// known. Takes the sequence and the previous hash from the header of that block, because the damaged block before it
/// cannot confirm them.
fn whole_block_after(
    scanner: &ChainScanner<'_>,
    corruption: &Corruption,
) -> Result<Option<ChainPoint>, JournalError> {
    let position = match corruption.kind {
        CorruptionKind::DamagedBlock { later, .. } => later,
        CorruptionKind::ChainBroken => corruption.position,
        CorruptionKind::NoBlock { .. } | CorruptionKind::StrayBytes { .. } => {
            match scanner.later_block(corruption.position, corruption.block_sequence)? {
                Some(later) => later,
                None => return Ok(None),
            }
        }
        CorruptionKind::TooShort { .. }
        | CorruptionKind::SegmentMissing { .. }
        | CorruptionKind::SegmentLost { .. }
        | CorruptionKind::EndsEarly { .. }
        | CorruptionKind::SegmentLength { .. }
        | CorruptionKind::CleanStopMismatch
        | CorruptionKind::WrittenAfterStop { .. }
        | CorruptionKind::CheckpointMismatch => return Ok(None),
    };
    Ok(match scanner.header_at(position)? {
        Ok(header) => Some(ChainPoint {
            position,
            block_sequence: header.block_sequence,
            previous_hash: header.previous_hash,
            previous_position: position,
        }),
        Err(_) => None,
    })
}
