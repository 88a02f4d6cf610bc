//! The scan, which a process runs when it opens a journal: finds the end of the journal, and distinguishes the remains
//! of a crash from damage.
//!
//! The journal writes one block at a time and syncs the block before it writes the next block. So a crash leaves at
//! most one incomplete block, and only zeros after that block. Every other break in the chain of blocks is damage. The
//! scan reports damage and never repairs it.

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    block::{
        BLOCK_ALIGNMENT, BLOCK_FORMAT_VERSION, BLOCK_MAGIC, BlockHash, BlockHeader, DataId, HeaderDefect,
    },
    chain_point::ChainPoint,
    clean_stop::{CleanStop, MarkerState},
    directory::{journal_path, noted_segment},
    disk::{Disk, FileAccess},
    error::{BlockDefect, Corruption, CorruptionKind, JournalError},
    format::DirectoryFormat,
    geometry::Geometry,
    mutation::planted,
    position::Position,
    segment_file::{list_segments, segment_name},
    window::SegmentWindow,
};

/// The end of a journal, as a scan found it.
#[derive(Debug, Clone)]
pub struct Tail {
    /// The end of the journal: the point at which the next block belongs.
    pub end: ChainPoint,
    /// Number of blocks that the scan passed to its visitor.
    pub blocks: u64,
    /// The header of the last block that the scan passed to its visitor; `None` if `blocks` is 0.
    pub last: Option<BlockHeader>,
    /// The remains of an incomplete write after `end`; `None` if only zeros follow `end`.
    pub torn: Option<TornTail>,
    /// Whether the marker of a clean stop (the file `journal/CLEAN`) names `end`. If it does, no durable block is
    /// missing at the end.
    pub clean: bool,
    /// Whether the marker of a clean stop exists. The marker may name `end` or another point, or be unreadable. It must
    /// be removed before an append.
    pub(super) marked: bool,
    /// Whether the segment of `end` exists.
    pub(super) active_exists: bool,
    /// Whether the segment after the segment of `end` exists, has its full length, and is empty.
    pub(super) spare_exists: bool,
    /// The number of the last segment that was made, according to the segment note.
    pub(super) noted: u32,
}

/// The remains of the last write before a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    /// Why the remains are not a block.
    pub defect: BlockDefect,
    /// Number of bytes from the end of the journal to the last byte that is not zero, rounded up to a multiple of 8.
    pub remains_bytes: u32,
}

/// Why a scan stopped before the end of the journal.
#[derive(Debug, Error)]
pub enum ScanError<E> {
    /// The journal is damaged, or an operation on the journal failed.
    #[error(transparent)]
    Store(#[from] JournalError),
    /// The visitor returned an error for a block.
    #[error("the visitor returned an error for a block: {0}")]
    Visitor(E),
}

/// Reads the chain of blocks from a given point to the end of the journal. Never writes.
#[derive(Debug)]
pub(super) struct ChainScanner<'a> {
    disk: &'a dyn Disk,
    journal: PathBuf,
    data_id: DataId,
    geometry: Geometry,
    stop: CleanStop,
    /// The number of the last segment that was made, according to the segment note.
    noted: u32,
}

/// What the scanner found at a position where a block is expected.
enum Probe {
    Block(BlockHeader, BlockHash),
    NoBlock(BlockDefect),
}

/// What the scanner found in a part of a segment that should contain only zeros.
#[derive(Debug, Default)]
struct Survey {
    /// The first complete header of a later block: its position and block sequence.
    later: Option<(Position, u64)>,
    dirty: Option<DirtyBytes>,
}

/// The first and the last word that is not zero in a part of a segment, as offsets in the segment. A word has
/// [`BLOCK_ALIGNMENT`] bytes.
#[derive(Debug)]
struct DirtyBytes {
    /// The offset of the first word that is not zero.
    first: u32,
    /// The offset of the end of the last word that is not zero.
    end: u32,
}

/// Number of bytes that [`ChainScanner::survey`] reads at a time.
const SURVEY_STEP_BYTES: u32 = 1 << 20;

// ===== impl Tail =====

impl Tail {
    /// Returns whether the marker of a clean stop exists, and whether it names the end. The writer needs this state to
    /// decide whether to remove or to write the marker.
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
    /// Makes a scanner, and reads the marker of a clean stop and the segment note.
    pub(super) fn new(
        disk: &'a dyn Disk,
        directory: &Path,
        format: &DirectoryFormat,
    ) -> Result<Self, JournalError> {
        let journal = journal_path(directory);
        let stop = CleanStop::read(disk, &journal, format.data_id)?;
        let noted = noted_segment(disk, directory)?;
        Ok(ChainScanner {
            disk,
            journal,
            data_id: format.data_id,
            geometry: format.geometry,
            stop,
            noted,
        })
    }

    /// Calls `visitor` for every block after `from`, and finds the end of the journal. Does not check the block before
    /// `from`. See [`crate::Journal::scan`].
    pub(super) fn scan<E>(
        &self,
        from: ChainPoint,
        durable_through: u64,
        mut visitor: impl FnMut(&BlockHeader, Position, &[u8]) -> Result<(), E>,
    ) -> Result<Tail, ScanError<E>> {
        let mut window = self.window();
        let mut point = from;
        let mut blocks = 0;
        let mut last = None;
        // The loop ends, because every block moves `point` forward and the number of segments is finite.
        let defect = loop {
            if let CleanStop::At(end) = &self.stop
                && end.block_sequence == point.block_sequence
                && !end.is_at(&point)
            {
                return Err(self.corrupt(&point, CorruptionKind::CleanStopMismatch).into());
            }
            match self.probe(&mut window, &point)? {
                Probe::NoBlock(defect) => break defect,
                Probe::Block(header, hash) => {
                    let body = window.body(&header)?;
                    visitor(&header, point.position, body).map_err(ScanError::Visitor)?;
                    point = point.after(&header, hash, self.geometry);
                    blocks += 1;
                    last = Some(header);
                }
            }
        };
        let tail = self.tail(point, defect, blocks, last)?;
        self.check_stop(&tail, durable_through, defect)?;
        Ok(tail)
    }

    /// Checks that the journal contains the last block that was durable according to `durable_through` or to the marker
    /// of a clean stop. If the marker names the end of the journal or is unreadable, also checks that no incomplete
    /// write follows the end.
    fn check_stop(&self, tail: &Tail, durable_through: u64, defect: BlockDefect) -> Result<(), JournalError> {
        let durable_through = match &self.stop {
            CleanStop::At(end) => durable_through.max(end.last_block_sequence()),
            CleanStop::NoMarker | CleanStop::Unreadable => durable_through,
        };
        if tail.end.last_block_sequence() < durable_through {
            let kind = CorruptionKind::TooShort {
                durable_through,
                defect,
            };
            return Err(self.corrupt(&tail.end, kind));
        }
        if tail.torn.is_some() && (tail.clean || self.stop == CleanStop::Unreadable) {
            return Err(self.corrupt(&tail.end, CorruptionKind::WrittenAfterStop { defect }));
        }
        if tail.marked && !tail.clean {
            tracing::warn!(
                clean = %self.stop,
                end = %tail.end.position,
                "journal/CLEAN does not name the end of the journal: journal/CLEAN is damaged, or the directory \
                 contains files from different copies of the directory. The chain of blocks has no gap"
            );
        }
        Ok(())
    }

    /// Returns whether the marker of a clean stop exists. The marker may be unreadable or name another point than the
    /// end.
    pub(super) fn is_marked(&self) -> bool {
        self.stop.is_marked()
    }

    /// Returns the sequence of the last block that the marker of a clean stop names; `None` if the marker is absent or
    /// unreadable.
    pub(super) fn marked_last_block(&self) -> Option<u64> {
        match &self.stop {
            CleanStop::At(end) => Some(end.last_block_sequence()),
            CleanStop::NoMarker | CleanStop::Unreadable => None,
        }
    }

    /// Returns the header at `position`, or why the bytes at `position` are not a header.
    pub(super) fn header_at(
        &self,
        position: Position,
    ) -> Result<Result<BlockHeader, BlockDefect>, JournalError> {
        self.read_header(&mut self.window(), position)
    }

    fn window(&self) -> SegmentWindow<'_> {
        SegmentWindow::new(self.disk, &self.journal, self.geometry.block_span_bytes_max())
    }

    /// Returns the block at `point`, or why the bytes at `point` are not a block. Returns an error if an operation
    /// fails, or if these bytes alone prove damage, whatever follows them.
    fn probe(&self, window: &mut SegmentWindow<'_>, point: &ChainPoint) -> Result<Probe, JournalError> {
        let header = match self.read_header(window, point.position)? {
            Ok(header) => header,
            Err(BlockDefect::Header(HeaderDefect::Version(version))) => {
                return Err(JournalError::UnsupportedVersion {
                    path: self.journal.join(segment_name(point.position.segment())),
                    found: u32::from(version),
                    supported: u32::from(BLOCK_FORMAT_VERSION),
                });
            }
            Err(defect) if defect.may_be_torn() => return Ok(Probe::NoBlock(defect)),
            Err(defect) => return Err(self.corrupt(point, CorruptionKind::NoBlock { defect })),
        };
        if header.block_sequence != point.block_sequence {
            let found = header.block_sequence;
            let defect = BlockDefect::Sequence { found };
            return Err(self.corrupt(point, CorruptionKind::NoBlock { defect }));
        }
        if header.previous_hash != point.previous_hash {
            return Err(self.corrupt(point, CorruptionKind::ChainBroken));
        }
        if !header.is_body(window.body(&header)?) {
            return Ok(Probe::NoBlock(BlockDefect::BodyChecksum));
        }
        if planted("drop_last_block_at_recovery") && !self.is_marked() {
            let next = self.geometry.position_after(header.position, header.body_bytes);
            if self.header_at(next)?.is_err() {
                return Ok(Probe::NoBlock(BlockDefect::BodyChecksum));
            }
        }
        let hash = BlockHash::of_block(window.block(&header)?);
        Ok(Probe::Block(header, hash))
    }

    fn read_header(
        &self,
        window: &mut SegmentWindow<'_>,
        position: Position,
    ) -> Result<Result<BlockHeader, BlockDefect>, JournalError> {
        if !window.open(position.segment())? {
            return Ok(Err(BlockDefect::NoSegment));
        }
        let bytes = window.header_bytes(position.offset())?;
        Ok(self
            .geometry
            .decode_header(bytes, self.data_id, position)
            .map_err(BlockDefect::Header))
    }

    /// Checks everything after the end of the chain: only the remains of one incomplete write and empty segments may
    /// follow. The caller calls this before [`ChainScanner::check_stop`], because the errors of this method describe
    /// the damage more precisely than the error that a block is missing.
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
            clean: matches!(&self.stop, CleanStop::At(stop) if stop.is_at(&end)),
            marked: self.stop.is_marked(),
            active_exists: false,
            spare_exists: false,
            noted: self.noted,
        };
        let mut surplus = None;
        let numbers = list_segments(self.disk, &self.journal)?;
        for number in numbers.iter().copied().filter(|number| *number >= active) {
            let remains_bytes = self.remains(&end, number, defect)?;
            if number == active {
                tail.active_exists = true;
                tail.torn = (remains_bytes > 0).then_some(TornTail {
                    defect,
                    remains_bytes,
                });
            } else if Some(number) == active.checked_add(1) {
                tail.spare_exists = true;
            } else {
                surplus.get_or_insert(number);
            }
        }
        self.check_segments(&end, &numbers)?;
        match surplus {
            Some(later) => Err(self.corrupt(&end, CorruptionKind::EndsEarly { later })),
            None => Ok(tail),
        }
    }

    /// Returns the length, in bytes, of the remains of an incomplete write in segment `number`; 0 if only zeros follow
    /// the end. The segment is the segment of `end` or a later one. Returns an error if bytes that are not zero cannot
    /// be such remains.
    fn remains(&self, end: &ChainPoint, number: u32, defect: BlockDefect) -> Result<u32, JournalError> {
        let is_active = number == end.position.segment();
        let start = if is_active {
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
            return Err(self.corrupt(end, kind));
        }
        let Some(dirty) = survey.dirty else {
            return Ok(0);
        };
        let remains_bytes = dirty.end - start.offset();
        if is_active && remains_bytes <= self.geometry.block_span_bytes_max() {
            return Ok(remains_bytes);
        }
        let first = Position::new(number, dirty.first);
        Err(self.corrupt(end, CorruptionKind::StrayBytes { first }))
    }

    /// Checks that a crash can have left these segment files. The journal renames a segment to its final name only
    /// after its full length is durable and the segment before it has its final name. So no crash leaves a segment that
    /// is too short, or a later segment without the segment of `end`. The journal enters a segment in the segment note only
    /// after the final name is durable. So no crash removes a segment of the note.
    fn check_segments(&self, end: &ChainPoint, numbers: &[u32]) -> Result<(), JournalError> {
        let active = end.position.segment();
        if let Some(later) = numbers.iter().copied().find(|number| *number > active)
            && !numbers.contains(&active)
        {
            return Err(self.corrupt(end, CorruptionKind::SegmentMissing { later }));
        }
        let is_missing = |number: &u32| numbers.binary_search(number).is_err();
        if let Some(lost) = (0..=self.noted).find(is_missing) {
            let kind = CorruptionKind::SegmentLost { last: self.noted };
            let position = Position::new(lost, 0);
            return Err(Corruption::new(&self.journal, position, end.block_sequence, kind).into());
        }
        for number in numbers {
            if let Some(corruption) = self.wrong_length(*number, end.block_sequence)? {
                return Err(corruption.into());
            }
        }
        Ok(())
    }

    /// Returns the damage of each segment after `segment` whose file does not have the length with which it was made,
    /// at most `count_max` of them. `block_sequence` is the sequence after the last block of the journal.
    pub(super) fn wrong_lengths_after(
        &self,
        segment: u32,
        block_sequence: u64,
        count_max: usize,
    ) -> Result<Vec<Corruption>, JournalError> {
        let mut damages = Vec::new();
        for number in list_segments(self.disk, &self.journal)? {
            if number > segment && damages.len() < count_max {
                damages.extend(self.wrong_length(number, block_sequence)?);
            }
        }
        Ok(damages)
    }

    /// Returns the damage if the file of segment `number` does not have the length with which it was made.
    fn wrong_length(&self, number: u32, block_sequence: u64) -> Result<Option<Corruption>, JournalError> {
        let expected = u64::from(self.geometry.segment_bytes());
        let path = self.journal.join(segment_name(number));
        let found = self.disk.open(&path, FileAccess::Read)?.size_bytes()?;
        let kind = CorruptionKind::SegmentLength { found, expected };
        let position = Position::new(number, 0);
        Ok((found != expected).then(|| Corruption::new(&self.journal, position, block_sequence, kind)))
    }

    /// Returns the position of the first header, from `start` on, of a block later than `block_sequence`; `None` if no
    /// such header exists.
    pub(super) fn later_block(
        &self,
        start: Position,
        block_sequence: u64,
    ) -> Result<Option<Position>, JournalError> {
        for number in list_segments(self.disk, &self.journal)? {
            let from = match number.cmp(&start.segment()) {
                Ordering::Less => continue,
                Ordering::Equal => start,
                Ordering::Greater => Position::new(number, 0),
            };
            if let Some((later, _)) = self.survey(from, block_sequence)?.later {
                return Ok(Some(later));
            }
        }
        Ok(None)
    }

    /// Searches for bytes that are not zero, and for the header of a block later than `expected_sequence`, from `start`
    /// to the end of its segment.
    fn survey(&self, start: Position, expected_sequence: u64) -> Result<Survey, JournalError> {
        let segment = start.segment();
        let mut window = SegmentWindow::new(self.disk, &self.journal, SURVEY_STEP_BYTES);
        let mut survey = Survey::default();
        if !window.open(segment)? {
            return Ok(survey);
        }
        let mut offset = start.offset();
        while offset < self.geometry.segment_bytes() {
            let step = SURVEY_STEP_BYTES.min(self.geometry.segment_bytes() - offset);
            let mut candidates = Vec::new();
            let mut at = offset;
            for word in window.view(offset, step)?.chunks(BLOCK_ALIGNMENT as usize) {
                let end = at + BLOCK_ALIGNMENT;
                if word.iter().any(|byte| *byte != 0) {
                    survey.dirty.get_or_insert(DirtyBytes { first: at, end }).end = end;
                    if word.starts_with(&BLOCK_MAGIC) {
                        candidates.push(at);
                    }
                }
                at = end;
            }
            for candidate in candidates {
                let position = Position::new(segment, candidate);
                if let Ok(header) = self.read_header(&mut window, position)?
                    && header.block_sequence > expected_sequence
                {
                    survey.later = Some((position, header.block_sequence));
                    return Ok(survey);
                }
            }
            offset += step;
        }
        Ok(survey)
    }

    /// Makes the error for damage where the block at `point` is expected.
    fn corrupt(&self, point: &ChainPoint, kind: CorruptionKind) -> JournalError {
        Corruption::new(&self.journal, point.position, point.block_sequence, kind).into()
    }
}

// ===== impl BlockDefect =====

impl BlockDefect {
    /// Returns whether a crash can cause this defect. A crash cannot leave a header that has a correct checksum but belongs
    /// to another position, directory or sequence. The next segment may not exist yet; [`ChainScanner::check_segments`]
    /// finds segments that existed.
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
