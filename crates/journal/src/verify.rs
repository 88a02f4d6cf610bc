//! Checking a whole journal without touching it.

use std::convert::Infallible;

use crate::{
    block::BlockHeader,
    chain_point::ChainPoint,
    error::{Corruption, CorruptionKind, JournalError},
    geometry::block_span_bytes,
    position::Position,
    scan::{ChainScanner, ScanError, TornTail},
};

/// What [`crate::Journal::verify`] found.
#[derive(Debug, Clone, Default)]
pub struct JournalReport {
    /// Whole blocks.
    pub blocks: u64,
    /// Bytes that they take up.
    pub bytes: u64,
    /// Records in them, as their headers tell.
    pub records: u64,
    /// The first whole block.
    pub first: Option<BlockHeader>,
    /// The last whole block.
    pub last: Option<BlockHeader>,
    /// Where the journal ends; `None` when damage hides the end.
    pub end: Option<ChainPoint>,
    /// What is left of a write that did not complete, after a crash. It is in order, and cleared at the next start. Damage
    /// to the last block looks the same.
    pub torn: Option<TornTail>,
    /// Whether the journal was stopped in order: then its last block is known to be the last one that was durable.
    pub clean: bool,
    /// Whether there is a marker of a clean stop (`journal/CLEAN`). If the journal is not `clean` all the same, the marker is
    /// damaged, or tells of another place than the journal's end.
    pub marked: bool,
    /// The first damage.
    pub corruption: Option<Corruption>,
    /// Damage behind the first, in the order of the journal, up to [`FURTHER_DAMAGES_MAX`].
    pub further_damages: Vec<Corruption>,
}

/// After so much damage [`crate::Journal::verify`] looks no further.
pub const FURTHER_DAMAGES_MAX: usize = 64;

// ===== impl JournalReport =====

impl JournalReport {
    /// Whether the journal is in order.
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

    fn count(&mut self, header: &BlockHeader) {
        self.blocks = self.blocks.saturating_add(1);
        self.bytes = self
            .bytes
            .saturating_add(u64::from(block_span_bytes(header.body_bytes)));
        self.records = self.records.saturating_add(u64::from(header.record_count));
        self.first.get_or_insert(*header);
        self.last = Some(*header);
    }
}

/// See [`crate::Journal::verify`].
pub(super) fn check_chain(
    scanner: &ChainScanner<'_>,
    start: ChainPoint,
) -> Result<JournalReport, JournalError> {
    let mut report = JournalReport {
        marked: scanner.is_marked(),
        ..JournalReport::default()
    };
    let mut from = start;
    loop {
        let count = |header: &BlockHeader, _: Position, _: &[u8]| -> Result<(), Infallible> {
            report.count(header);
            Ok(())
        };
        let corruption = match scanner.walk_from(from, 0, count) {
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
        report.note(corruption);
        match next {
            Some(next) if report.further_damages.len() < FURTHER_DAMAGES_MAX => from = next,
            Some(_) | None => return Ok(report),
        }
    }
}

/// The place of the first whole block behind the damage, believing what its header says of the block before it.
fn whole_block_after(
    scanner: &ChainScanner<'_>,
    corruption: &Corruption,
) -> Result<Option<ChainPoint>, JournalError> {
    let position = match corruption.kind {
        CorruptionKind::DamagedBlock { later, .. } => later,
        CorruptionKind::ChainBroken => corruption.position,
        CorruptionKind::NoBlock { .. }
        | CorruptionKind::StrayBytes { .. }
        | CorruptionKind::TooShort { .. }
        | CorruptionKind::SegmentMissing { .. }
        | CorruptionKind::SegmentLength { .. }
        | CorruptionKind::CleanStopMismatch
        | CorruptionKind::WrittenAfterStop { .. }
        | CorruptionKind::CheckpointMismatch => return Ok(None),
    };
    let header = scanner.header_at(position)?.ok();
    Ok(header.map(|header| ChainPoint {
        position,
        block_sequence: header.block_sequence,
        previous_hash: header.previous_hash,
        previous_position: position,
    }))
}
