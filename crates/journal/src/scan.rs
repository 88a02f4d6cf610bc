//! Finding the end of a journal after a crash, and telling a crash's remains from damage.
//!
//! One block is written at a time and synced before the next, so a crash leaves at most one block half written, and
//! nothing behind it. Everything else that is not a whole chain of blocks is damage, and is never "repaired".

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{
    block::{
        BLOCK_ALIGNMENT, BLOCK_FORMAT_VERSION, BLOCK_MAGIC, BlockHash, BlockHeader, DataId, HEADER_BYTES_U32,
        HeaderDefect,
    },
    chain_point::ChainPoint,
    clean_stop::{CleanStop, MarkerState},
    directory::{DirectoryFormat, journal_path},
    disk::{Disk, FileAccess},
    error::{BlockDefect, Corruption, CorruptionKind, JournalError},
    geometry::Geometry,
    position::Position,
    segment_file::{list_segments, segment_name},
    window::SegmentWindow,
};

/// The end of a journal, as a scan found it.
#[derive(Debug, Clone)]
pub struct Tail {
    /// Where the journal goes on.
    pub end: ChainPoint,
    /// How many blocks the scan has shown.
    pub blocks: u64,
    /// The last one of them.
    pub last: Option<BlockHeader>,
    /// What is left of a write that did not complete, if anything is.
    pub torn: Option<TornTail>,
    /// Whether the last process stopped in order, here: the last block is the last one that was durable.
    pub clean: bool,
    /// Whether there is a marker of a clean stop, here or elsewhere: it is to be removed before anything is appended.
    pub(super) marked: bool,
    /// Whether the segment of `end` exists.
    pub(super) active_exists: bool,
    /// Whether the segment after it exists, whole and empty.
    pub(super) spare_ready: bool,
    /// Empty segments that are not wanted.
    pub(super) surplus_segments: Vec<u32>,
}

/// The remains of the last write before a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// Why it is not a block.
    pub defect: BlockDefect,
    /// From the end of the journal to the last byte that is not zero.
    pub remains_bytes: u32,
}

/// Why a scan stopped before the end.
#[derive(Debug, Error)]
pub enum ScanError<E> {
    /// The store is damaged or fails.
    #[error(transparent)]
    Store(#[from] JournalError),
    /// The visitor refused a block.
    #[error("a block was refused: {0}")]
    Visitor(E),
}

/// Walks the chain of blocks. Reads only.
#[derive(Debug)]
pub(super) struct ChainScanner<'a> {
    disk: &'a dyn Disk,
    journal: PathBuf,
    data_id: DataId,
    geometry: Geometry,
}

/// What stands where a block is expected.
enum Probe {
    Block(BlockHeader, BlockHash),
    Nothing(BlockDefect),
}

/// What stands in a part of a segment where there should be nothing.
#[derive(Debug, Default)]
struct Survey {
    /// The first whole header of a later block.
    later: Option<(Position, u64)>,
    first_dirty_offset: Option<u32>,
    /// Behind the last byte that is not zero; 0 if all are.
    dirty_end_offset: u32,
}

/// A survey looks at this many bytes at a time.
const SURVEY_STEP_BYTES: u32 = 1 << 20;

// ===== impl Tail =====

impl Tail {
    /// What the writer has to know of the marker.
    pub(super) fn marker(&self) -> MarkerState {
        match (self.clean, self.marked) {
            (true, _) => MarkerState::Here,
            (false, true) => MarkerState::Elsewhere,
            (false, false) => MarkerState::Absent,
        }
    }
}

// ===== impl ChainScanner =====

impl<'a> ChainScanner<'a> {
    pub(super) fn new(disk: &'a dyn Disk, directory: &Path, format: &DirectoryFormat) -> Self {
        ChainScanner {
            disk,
            journal: journal_path(directory),
            data_id: format.data_id,
            geometry: format.geometry,
        }
    }

    /// Shows `visitor` every block from `from` on, believing what `from` says of the block before, and finds the end. See
    /// [`super::Journal::scan`].
    pub(super) fn walk_from<E>(
        &self,
        from: ChainPoint,
        durable_through: u64,
        visitor: impl FnMut(&BlockHeader, Position, &[u8]) -> Result<(), E>,
    ) -> Result<Tail, ScanError<E>> {
        self.walk(&mut self.window(), from, durable_through, visitor)
    }

    /// The header at `position`, if there is one that belongs there.
    pub(super) fn header_at(
        &self,
        position: Position,
    ) -> Result<Result<BlockHeader, BlockDefect>, JournalError> {
        self.read_header(&mut self.window(), position)
    }

    fn walk<E>(
        &self,
        window: &mut SegmentWindow<'_>,
        from: ChainPoint,
        durable_through: u64,
        mut visitor: impl FnMut(&BlockHeader, Position, &[u8]) -> Result<(), E>,
    ) -> Result<Tail, ScanError<E>> {
        let stop = CleanStop::read(self.disk, &self.journal, self.data_id);
        let mut point = from;
        let mut blocks = 0;
        let mut last = None;
        // Ends because every block moves the position on, and the segments are finite.
        let defect = loop {
            if let CleanStop::At(end) = &stop
                && end.block_sequence == point.block_sequence
                && !end.is_at(&point)
            {
                let kind = CorruptionKind::CleanStopMismatch;
                return Err(self.corrupt(point.position, point.block_sequence, kind).into());
            }
            match self.probe(window, &point)? {
                Probe::Nothing(defect) => break defect,
                Probe::Block(header, hash) => {
                    let body = window.body(&header)?;
                    visitor(&header, point.position, body).map_err(ScanError::Visitor)?;
                    point = point.after(&header, hash, self.geometry);
                    blocks += 1;
                    last = Some(header);
                }
            }
        };
        // First what stands behind the end, which tells more than that something is missing.
        let mut tail = self.tail(point, defect, blocks, last)?;
        let durable_through = match &stop {
            CleanStop::At(end) => durable_through.max(end.last_block_sequence()),
            CleanStop::Unmarked | CleanStop::Unreadable => durable_through,
        };
        let refuse = |kind| Err(self.corrupt(point.position, point.block_sequence, kind).into());
        if point.last_block_sequence() < durable_through {
            return refuse(CorruptionKind::TooShort {
                durable_through,
                defect,
            });
        }
        tail.marked = stop.is_marked();
        tail.clean = matches!(&stop, CleanStop::At(end) if end.is_at(&point));
        if tail.torn.is_some() && (tail.clean || stop == CleanStop::Unreadable) {
            return refuse(CorruptionKind::WrittenAfterStop { defect });
        }
        if tail.marked && !tail.clean {
            tracing::warn!(
                ?stop,
                end = %point.position,
                "the journal does not end where it was stopped cleanly: this directory is put together from several \
                 copies. All of its blocks follow from one another"
            );
        }
        Ok(tail)
    }

    /// Whether there is a marker of a clean stop, wherever it points and whether it can be read or not.
    pub(super) fn is_marked(&self) -> bool {
        CleanStop::read(self.disk, &self.journal, self.data_id).is_marked()
    }

    fn window(&self) -> SegmentWindow<'_> {
        SegmentWindow::new(self.disk, &self.journal, self.geometry.block_span_bytes_max())
    }

    /// Whether the next block stands at `point`. Errors are damage that is certain without a look at what follows.
    fn probe(&self, window: &mut SegmentWindow<'_>, point: &ChainPoint) -> Result<Probe, JournalError> {
        let position = point.position;
        let corrupt = |kind| Err(self.corrupt(position, point.block_sequence, kind));
        let header = match self.read_header(window, position)? {
            Ok(header) => header,
            Err(BlockDefect::Header(HeaderDefect::Version(version))) => {
                return Err(JournalError::UnsupportedVersion {
                    path: self.journal.join(segment_name(position.segment())),
                    found: u32::from(version),
                    supported: u32::from(BLOCK_FORMAT_VERSION),
                });
            }
            Err(defect) if defect.may_be_torn() => return Ok(Probe::Nothing(defect)),
            Err(defect) => return corrupt(CorruptionKind::NoBlock { defect }),
        };
        if header.block_sequence != point.block_sequence {
            let defect = BlockDefect::Sequence {
                found: header.block_sequence,
            };
            return corrupt(CorruptionKind::NoBlock { defect });
        }
        if header.previous_hash != point.previous_hash {
            return corrupt(CorruptionKind::ChainBroken);
        }
        if crc32c::crc32c(window.body(&header)?) != header.body_crc {
            return Ok(Probe::Nothing(BlockDefect::BodyChecksum));
        }
        let hash = BlockHash::of_block(window.block(&header)?);
        Ok(Probe::Block(header, hash))
    }

    pub(super) fn read_header(
        &self,
        window: &mut SegmentWindow<'_>,
        position: Position,
    ) -> Result<Result<BlockHeader, BlockDefect>, JournalError> {
        if !window.open(position.segment())? {
            return Ok(Err(BlockDefect::NoSegment));
        }
        let bytes = window.view(position.offset(), HEADER_BYTES_U32)?;
        // A view has the length that was asked for.
        let Some(bytes) = bytes.first_chunk() else {
            return Ok(Err(BlockDefect::Header(HeaderDefect::Absent)));
        };
        let body_bytes_max = self.geometry.block_bytes_max();
        Ok(BlockHeader::decode(bytes)
            .and_then(|header| {
                header
                    .check_place(self.data_id, position, body_bytes_max)
                    .map(|()| header)
            })
            .map_err(BlockDefect::Header))
    }

    /// Judges what stands at the end of the chain, and looks for anything behind it that should not be there.
    fn tail(
        &self,
        end: ChainPoint,
        defect: BlockDefect,
        blocks: u64,
        last: Option<BlockHeader>,
    ) -> Result<Tail, JournalError> {
        let active = end.position.segment();
        let mut tail = Tail {
            end,
            blocks,
            last,
            torn: None,
            clean: false,
            marked: false,
            active_exists: false,
            spare_ready: false,
            surplus_segments: Vec::new(),
        };
        let numbers = list_segments(self.disk, &self.journal)?;
        for number in numbers.iter().copied().filter(|number| *number >= active) {
            let start = if number == active {
                end.position
            } else {
                Position::new(number, 0)
            };
            let survey = self.survey(start, end.block_sequence)?;
            if let Some((later, later_sequence)) = survey.later {
                let kind = CorruptionKind::DamagedBlock {
                    defect,
                    later,
                    later_sequence,
                };
                return Err(self.corrupt(end.position, end.block_sequence, kind));
            }
            let remains_bytes = survey.dirty_end_offset.saturating_sub(start.offset());
            let remains_bytes_max = if number == active {
                self.geometry.block_span_bytes_max()
            } else {
                0
            };
            if remains_bytes > remains_bytes_max {
                let first = Position::new(number, survey.first_dirty_offset.unwrap_or_default());
                let kind = CorruptionKind::StrayBytes { first };
                return Err(self.corrupt(end.position, end.block_sequence, kind));
            }
            if number == active {
                tail.active_exists = true;
                tail.torn = (remains_bytes > 0).then_some(TornTail {
                    defect,
                    remains_bytes,
                });
            } else if Some(number) == active.checked_add(1) {
                tail.spare_ready = true;
            } else {
                tail.surplus_segments.push(number);
            }
        }
        self.check_segments(&end, &numbers)?;
        Ok(tail)
    }

    /// Refuses segments that no crash leaves: a segment gets its name when it has its whole length, durably, and before the
    /// one after it does.
    fn check_segments(&self, end: &ChainPoint, numbers: &[u32]) -> Result<(), JournalError> {
        let active = end.position.segment();
        if let Some(later) = numbers.iter().copied().find(|number| *number > active)
            && !numbers.contains(&active)
        {
            let kind = CorruptionKind::SegmentMissing { later };
            return Err(self.corrupt(end.position, end.block_sequence, kind));
        }
        let expected = u64::from(self.geometry.segment_bytes());
        for number in numbers {
            let path = self.journal.join(segment_name(*number));
            let found = self.disk.open(&path, FileAccess::Read)?.size_bytes()?;
            if found != expected {
                let kind = CorruptionKind::SegmentLength { found, expected };
                return Err(self.corrupt(Position::new(*number, 0), end.block_sequence, kind));
            }
        }
        Ok(())
    }

    /// Looks at everything from `start` to the end of its segment.
    fn survey(&self, start: Position, expected_sequence: u64) -> Result<Survey, JournalError> {
        let segment = start.segment();
        let mut window = SegmentWindow::new(self.disk, &self.journal, SURVEY_STEP_BYTES);
        let mut survey = Survey::default();
        if !window.open(segment)? {
            return Ok(survey);
        }
        let mut offset = start.offset();
        while offset < self.geometry.segment_bytes() {
            let step = SURVEY_STEP_BYTES.min(self.geometry.segment_bytes().saturating_sub(offset));
            let mut candidates = Vec::new();
            let mut at = offset;
            for word in window.view(offset, step)?.chunks(BLOCK_ALIGNMENT as usize) {
                if word.iter().any(|byte| *byte != 0) {
                    survey.first_dirty_offset.get_or_insert(at);
                    survey.dirty_end_offset = at.saturating_add(BLOCK_ALIGNMENT);
                    if word.starts_with(&BLOCK_MAGIC) {
                        candidates.push(at);
                    }
                }
                at = at.saturating_add(BLOCK_ALIGNMENT);
            }
            for candidate in candidates {
                let position = Position::new(segment, candidate);
                if self.geometry.may_hold_block(position)
                    && let Ok(header) = self.read_header(&mut window, position)?
                    && header.block_sequence > expected_sequence
                {
                    survey.later = Some((position, header.block_sequence));
                    return Ok(survey);
                }
            }
            offset = offset.saturating_add(step);
        }
        Ok(survey)
    }

    pub(super) fn corrupt(
        &self,
        position: Position,
        block_sequence: u64,
        kind: CorruptionKind,
    ) -> JournalError {
        Corruption::new(&self.journal, position, block_sequence, kind).into()
    }
}

// ===== impl BlockDefect =====

impl BlockDefect {
    /// Whether a write that did not complete can leave this. A whole header in the wrong place cannot be left by one.
    fn may_be_torn(self) -> bool {
        match self {
            BlockDefect::NoSegment | BlockDefect::BodyChecksum => true,
            BlockDefect::Header(defect) => {
                matches!(
                    defect,
                    HeaderDefect::Absent | HeaderDefect::Magic | HeaderDefect::Checksum
                )
            }
            BlockDefect::Sequence { .. } => false,
        }
    }
}
