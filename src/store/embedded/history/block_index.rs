//! Finds the block of a sequence or of a time, by binary search.
//!
//! The journal has no index of blocks on disk. The first block of a segment is at a known place, so the search among segments reads
//! a few headers. Within a segment, a reader can only go from one header to the next. So the index keeps a *mark* (a known block) about
//! every [`MARK_BYTES`] of a segment, and the search reads the headers from one mark to the next at most. The marks of a segment are made
//! when a search first needs them.

use parking_lot::Mutex;
use tally_journal::{BlockHeader, JournalError, JournalReader, Position};

use super::cancellation::Cancellation;
use crate::store::embedded::error::RecordError;

/// Distance between the marks of a segment, in bytes.
const MARK_BYTES: u32 = 256 << 10;
/// Maximum number of segments whose marks are kept. The marks of a segment of 64 MiB take about 6 KiB.
const SEGMENTS_MAX: usize = 256;

/// Finds blocks. All readers of a store share one index.
#[derive(Debug)]
pub(super) struct BlockIndex {
    reader: JournalReader,
    /// A thread holds this lock only while it copies or stores marks, never during I/O.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The first block of each segment, by the number of the segment.
    starts: Vec<Option<Mark>>,
    /// The segments that were used last, the most recent segment at the end.
    segments: Vec<SegmentMarks>,
}

/// The blocks of a segment that the index knows.
#[derive(Debug, Clone)]
struct SegmentMarks {
    segment: u32,
    /// In the order of their positions. The first mark is the first block of the segment.
    marks: Vec<Mark>,
    /// The block after the last block whose header was read for the marks.
    next: Position,
}

/// A block, and where it is in the order of sequences and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    position: Position,
    first_sequence: u64,
    base_time_ns: u64,
}

/// What a search compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The last block whose first sequence is at most this sequence. If any block contains the sequence, this block does.
    Sequence(u64),
    /// The last block whose time is at most this time, in nanoseconds.
    Time(u64),
}

// ===== impl Target =====

impl Target {
    /// Whether the block at `mark` is after the block that is searched for.
    const fn is_before(self, mark: &Mark) -> bool {
        match self {
            Target::Sequence(sequence) => mark.first_sequence > sequence,
            Target::Time(time) => mark.base_time_ns > time,
        }
    }
}

// ===== impl BlockIndex =====

impl BlockIndex {
    pub(super) fn new(reader: JournalReader) -> Self {
        BlockIndex {
            reader,
            known: Mutex::default(),
        }
    }

    /// Returns the header of the block that `target` names, among the blocks before `end`. `None` if even the first block is after
    /// `target`, or there are no blocks. All blocks before `end` must be durable.
    ///
    /// # Errors
    /// [`RecordError`] if a header can't be read, or the read was cancelled.
    pub(super) fn find(
        &self,
        target: Target,
        end: Position,
        cancellation: &Cancellation,
    ) -> Result<Option<BlockHeader>, RecordError> {
        if end == Position::new(0, 0) {
            return Ok(None);
        }
        // The last segment that has a block before the end.
        let last = if end.offset() == 0 {
            end.segment() - 1
        } else {
            end.segment()
        };
        if target.is_before(&self.start_of(0)?) {
            return Ok(None);
        }
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if target.is_before(&self.start_of(middle)?) {
                high = middle - 1;
            } else {
                low = middle;
            }
        }
        let nearest = self.nearest(low, end, cancellation, |mark| target.is_before(mark))?;
        let mut found = self.reader.read_header(nearest)?;
        loop {
            let next = self.reader.position_after(&found);
            if next >= end || next.segment() != low {
                return Ok(Some(found));
            }
            cancellation.check()?;
            let header = self.reader.read_header(next)?;
            if target.is_before(&Mark::of(&header)) {
                return Ok(Some(found));
            }
            found = header;
        }
    }

    /// Returns the positions of some of the blocks before `position`, in their order: the blocks from a mark up to `position`. The list
    /// is empty only if no block is before `position`.
    ///
    /// # Errors
    /// [`RecordError`] if a header can't be read, or the read was cancelled.
    pub(super) fn before(
        &self,
        position: Position,
        cancellation: &Cancellation,
    ) -> Result<Vec<Position>, RecordError> {
        let segment = match (position.segment(), position.offset()) {
            (0, 0) => return Ok(Vec::new()),
            (segment, 0) => segment - 1,
            (segment, _) => segment,
        };
        let mut next = self.nearest(segment, position, cancellation, |mark| mark.position >= position)?;
        let mut found = Vec::new();
        while next < position {
            cancellation.check()?;
            found.push(next);
            next = self.reader.position_after(&self.reader.read_header(next)?);
        }
        Ok(found)
    }

    /// The first block of a segment.
    fn start_of(&self, segment: u32) -> Result<Mark, JournalError> {
        let at = segment as usize;
        if let Some(Some(mark)) = self.known.lock().starts.get(at) {
            return Ok(*mark);
        }
        let mark = Mark::of(&self.reader.read_header(Position::new(segment, 0))?);
        let mut known = self.known.lock();
        if known.starts.len() <= at {
            known.starts.resize(at + 1, None);
        }
        if let Some(start) = known.starts.get_mut(at) {
            *start = Some(mark);
        }
        Ok(mark)
    }

    /// Returns the position of the last mark of a segment for which `after` returns `false`. First makes the missing marks up to there,
    /// but no mark at `end` or later.
    fn nearest(
        &self,
        segment: u32,
        end: Position,
        cancellation: &Cancellation,
        after: impl Fn(&Mark) -> bool,
    ) -> Result<Position, RecordError> {
        let mut marks = self.marks_of(segment)?;
        let known = marks.next;
        let walked = self.walk_on(&mut marks, end, cancellation, &after);
        // Keep the progress even after a cancellation or without a new mark. Otherwise the next search would read the same headers again.
        if marks.next > known {
            self.keep(marks.clone());
        }
        walked?;
        let count = marks.marks.partition_point(|mark| !after(mark));
        let nearest = count.checked_sub(1).and_then(|last| marks.marks.get(last));
        Ok(nearest.map_or(Position::new(segment, 0), |mark| mark.position))
    }

    /// Reads headers and makes marks, up to the first mark for which `after` returns `true`, or up to `end`.
    fn walk_on(
        &self,
        marks: &mut SegmentMarks,
        end: Position,
        cancellation: &Cancellation,
        after: impl Fn(&Mark) -> bool,
    ) -> Result<(), RecordError> {
        while marks.next < end
            && marks.next.segment() == marks.segment
            && !marks.marks.last().is_some_and(&after)
        {
            cancellation.check()?;
            let header = self.reader.read_header(marks.next)?;
            let last = marks.marks.last().map_or(0, |mark| mark.position.offset());
            if header.position.offset() - last >= MARK_BYTES {
                marks.marks.push(Mark::of(&header));
            }
            marks.next = self.reader.position_after(&header);
        }
        Ok(())
    }

    fn marks_of(&self, segment: u32) -> Result<SegmentMarks, JournalError> {
        let start = self.start_of(segment)?;
        let mut known = self.known.lock();
        if let Some(at) = known.segments.iter().rposition(|marks| marks.segment == segment) {
            let marks = known.segments.remove(at);
            known.segments.push(marks.clone());
            return Ok(marks);
        }
        Ok(SegmentMarks {
            segment,
            marks: vec![start],
            next: start.position,
        })
    }

    /// Keeps the marks of a segment, unless another thread has kept more.
    fn keep(&self, marks: SegmentMarks) {
        let mut known = self.known.lock();
        let same = known
            .segments
            .iter()
            .position(|kept| kept.segment == marks.segment);
        if let Some(at) = same {
            if known.segments.get(at).is_some_and(|kept| kept.next >= marks.next) {
                return;
            }
            known.segments.remove(at);
        }
        if known.segments.len() >= SEGMENTS_MAX {
            known.segments.remove(0);
        }
        known.segments.push(marks);
    }
}

// ===== impl Mark =====

impl Mark {
    const fn of(header: &BlockHeader) -> Self {
        Mark {
            position: header.position,
            first_sequence: header.first_sequence,
            base_time_ns: header.base_time_ns,
        }
    }
}
