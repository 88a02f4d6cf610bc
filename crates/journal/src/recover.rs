//! Finding the end of a journal after a crash, and telling a crash's remains from damage.
//!
//! One block is written at a time and synced before the next, so a crash leaves at most one block half written, and
//! nothing behind it. Everything else that is not a whole chain of blocks is damage, and is never "repaired".

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{
    block::{BLOCK_ALIGNMENT, BLOCK_MAGIC, BlockHash, BlockHeader, DataId, HEADER_BYTES_U32, HeaderDefect},
    clean_stop::CleanStop,
    directory::{DataDirectory, DirectoryFormat, journal_path},
    disk::{Access, Disk},
    error::{BlockDefect, Corruption, CorruptionKind, StoreError},
    layout::{field, put},
    segment::{Geometry, Position, block_span_bytes, list_segments, segment_name},
    window::SegmentWindow,
    writer::Marker,
};

/// A place between two blocks: everything that is needed to go on from there, for appending and for scanning alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainPoint {
    /// Where the next block goes.
    pub position: Position,
    /// The sequence that it gets, from 1.
    pub block_sequence: u64,
    /// Hash of the block before.
    pub previous_hash: BlockHash,
    /// Where the block before starts. Without meaning at the start of the journal.
    pub previous_position: Position,
}

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
    Store(#[from] StoreError),
    /// The visitor refused a block.
    #[error("a block was refused: {0}")]
    Visitor(E),
}

/// Walks the chain of blocks. Reads only.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
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

/// Bytes of a stored [`ChainPoint`].
pub const CHAIN_POINT_BYTES: usize = 56;
/// A survey looks at this many bytes at a time.
const SURVEY_STEP_BYTES: u32 = 1 << 20;

// ===== impl ChainPoint =====

impl ChainPoint {
    pub(super) fn start(data_id: DataId) -> Self {
        ChainPoint {
            position: Position::START,
            block_sequence: 1,
            previous_hash: BlockHash::genesis(data_id),
            previous_position: Position::START,
        }
    }

    /// The place behind the block with that header and hash.
    pub(super) fn after(&self, header: &BlockHeader, hash: BlockHash, geometry: Geometry) -> Self {
        ChainPoint {
            position: geometry.position_after(header.position, header.body_bytes),
            block_sequence: self.block_sequence.saturating_add(1),
            previous_hash: hash,
            previous_position: header.position,
        }
    }

    /// Whether `other` is the same place in the same chain. Where the block before starts is not compared: not everybody
    /// knows it.
    #[must_use]
    pub fn is_at(&self, other: &ChainPoint) -> bool {
        self.position == other.position
            && self.block_sequence == other.block_sequence
            && self.previous_hash == other.previous_hash
    }

    /// The highest block sequence before this place; 0 at the start.
    #[must_use]
    pub const fn last_block_sequence(&self) -> u64 {
        self.block_sequence.saturating_sub(1)
    }

    /// For storing, little endian, in the order of the fields.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CHAIN_POINT_BYTES] {
        let mut bytes = [0; CHAIN_POINT_BYTES];
        put::<0, 8, _>(&mut bytes, self.position.as_u64().to_le_bytes());
        put::<8, 8, _>(&mut bytes, self.block_sequence.to_le_bytes());
        put::<16, 32, _>(&mut bytes, self.previous_hash.0);
        put::<48, 8, _>(&mut bytes, self.previous_position.as_u64().to_le_bytes());
        bytes
    }

    /// What [`ChainPoint::to_bytes`] stored. A scan checks it against the journal.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; CHAIN_POINT_BYTES]) -> Self {
        ChainPoint {
            position: Position::from_u64(u64::from_le_bytes(field::<0, 8, _>(bytes))),
            block_sequence: u64::from_le_bytes(field::<8, 8, _>(bytes)),
            previous_hash: BlockHash(field::<16, 32, _>(bytes)),
            previous_position: Position::from_u64(u64::from_le_bytes(field::<48, 8, _>(bytes))),
        }
    }
}

// ===== impl Tail =====

impl Tail {
    /// What the writer has to know of the marker.
    pub(super) fn marker(&self) -> Marker {
        match (self.clean, self.marked) {
            (true, _) => Marker::Here,
            (false, true) => Marker::Elsewhere,
            (false, false) => Marker::Absent,
        }
    }
}

// ===== impl Scanner =====

impl<'a> Scanner<'a> {
    pub(super) fn new(disk: &'a dyn Disk, directory: &Path, format: &DirectoryFormat) -> Self {
        Scanner {
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
    ) -> Result<Result<BlockHeader, BlockDefect>, StoreError> {
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
                let kind = CorruptionKind::NotTheStopsBlock;
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
    fn probe(&self, window: &mut SegmentWindow<'_>, point: &ChainPoint) -> Result<Probe, StoreError> {
        let position = point.position;
        let corrupt = |kind| Err(self.corrupt(position, point.block_sequence, kind));
        let header = match self.read_header(window, position)? {
            Ok(header) => header,
            Err(BlockDefect::Header(HeaderDefect::Version(version))) => {
                return Err(StoreError::UnsupportedVersion {
                    path: self.journal.join(segment_name(position.segment())),
                    found: u32::from(version),
                    supported: u32::from(super::block::BLOCK_FORMAT_VERSION),
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

    fn read_header(
        &self,
        window: &mut SegmentWindow<'_>,
        position: Position,
    ) -> Result<Result<BlockHeader, BlockDefect>, StoreError> {
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
    ) -> Result<Tail, StoreError> {
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
    fn check_segments(&self, end: &ChainPoint, numbers: &[u32]) -> Result<(), StoreError> {
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
            let found = self.disk.open(&path, Access::Read)?.size_bytes()?;
            if found != expected {
                let kind = CorruptionKind::SegmentLength { found, expected };
                return Err(self.corrupt(Position::new(*number, 0), end.block_sequence, kind));
            }
        }
        Ok(())
    }

    /// Looks at everything from `start` to the end of its segment.
    fn survey(&self, start: Position, expected_sequence: u64) -> Result<Survey, StoreError> {
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

    fn corrupt(&self, position: Position, block_sequence: u64, kind: CorruptionKind) -> StoreError {
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

// ===== repair =====

/// Makes the journal on disk what `tail` says it is, durably.
///
/// Unless the last process stopped in order, the last block is written once more, as it is: if its sync had failed, it
/// may be in the system's memory only, and nothing but a new write makes a new sync write it. Sectors get the bytes that
/// they have, so a crash here does no harm.
pub(super) fn repair(directory: &DataDirectory, tail: Tail) -> Result<(), StoreError> {
    let disk = directory.disk();
    let journal = directory.journal_path();
    let end = tail.end;
    if let Some(torn) = tail.torn {
        tracing::warn!(
            position = %end.position,
            block_sequence = end.block_sequence,
            remains_bytes = torn.remains_bytes,
            defect = %torn.defect,
            "the last block is not whole and is cleared: a write that a crash cut short, of which nothing was \
             acknowledged. Damage to the last acknowledged block would look the same after a crash"
        );
        let file = disk.open(
            &journal.join(segment_name(end.position.segment())),
            Access::ReadWrite,
        )?;
        file.write_at(
            u64::from(end.position.offset()),
            &vec![0; torn.remains_bytes as usize],
        )?;
        file.sync_data()?;
    }
    for number in tail.surplus_segments {
        disk.remove(&journal.join(segment_name(number)))?;
    }
    if end.block_sequence > 1 {
        let geometry = directory.geometry();
        let mut window = SegmentWindow::new(&**disk, &journal, geometry.block_span_bytes_max());
        let position = end.previous_position;
        let scanner = Scanner::new(&**disk, directory.path(), directory.format());
        let header = scanner.read_header(&mut window, position)?.map_err(|defect| {
            scanner.corrupt(
                position,
                end.last_block_sequence(),
                CorruptionKind::NoBlock { defect },
            )
        })?;
        let block = window.view(position.offset(), block_span_bytes(header.body_bytes))?;
        let file = disk.open(&journal.join(segment_name(position.segment())), Access::ReadWrite)?;
        if !tail.clean {
            file.write_at(u64::from(position.offset()), block)?;
        }
        file.sync_all()?;
    }
    Ok(disk.sync_dir(&journal)?)
}
