//! Reading the journal at positions, from any thread.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use crate::{
    block::{BlockHash, BlockHeader, DataId, HEADER_BYTES, HEADER_BYTES_U32},
    chain_point::ChainPoint,
    directory::{DirectoryFormat, journal_path},
    disk::{Disk, DiskFile, FileAccess},
    error::{BlockDefect, Corruption, CorruptionKind, JournalError},
    geometry::Geometry,
    position::Position,
    segment_file::segment_name,
};

/// Reads blocks and parts of them. Clones share their open files; any thread may have one.
///
/// What it gives back behind the last durable block is undefined: whoever asks knows which blocks are durable.
#[derive(Debug, Clone)]
pub struct JournalReader {
    shared: Arc<ReaderShared>,
}

#[derive(Debug)]
struct ReaderShared {
    disk: Arc<dyn Disk>,
    journal: PathBuf,
    data_id: DataId,
    geometry: Geometry,
    /// Written by whichever reader opens a segment; held for the look-up only, never during I/O on a segment's bytes.
    open: Mutex<OpenSegments>,
}

/// The segments that were read last, most recent last. A linear search over this few beats a map.
#[derive(Debug, Default)]
struct OpenSegments {
    recent_last: Vec<(u32, Arc<dyn DiskFile>)>,
}

/// How many segment files readers keep open.
pub const OPEN_SEGMENTS_MAX: usize = 64;

// ===== impl JournalReader =====

impl JournalReader {
    pub(super) fn new(disk: Arc<dyn Disk>, directory: &std::path::Path, format: &DirectoryFormat) -> Self {
        let shared = ReaderShared {
            disk,
            journal: journal_path(directory),
            data_id: format.data_id,
            geometry: format.geometry,
            open: Mutex::default(),
        };
        JournalReader {
            shared: Arc::new(shared),
        }
    }

    /// Fills `bytes` with what stands at `position`. What was never written reads as zeros up to the end of the
    /// segment.
    ///
    /// # Errors
    /// [`JournalError::ReadPastEnd`] when that reaches beyond the end of the segment, [`JournalError::Corrupt`] when there is
    /// no such segment, [`JournalError::Disk`] when the disk fails.
    pub fn read_at(&self, position: Position, bytes: &mut [u8]) -> Result<(), JournalError> {
        let length = bytes.len();
        let rest = self
            .shared
            .geometry
            .segment_bytes()
            .saturating_sub(position.offset());
        if length > rest as usize {
            return Err(JournalError::ReadPastEnd { position, length });
        }
        let file = match self.segment(position.segment()) {
            Err(JournalError::Disk(error)) if error.is_not_found() => {
                return Err(self.corrupt(position, 0, BlockDefect::NoSegment));
            }
            other => other?,
        };
        let bytes_read = file.read_at(u64::from(position.offset()), bytes)?;
        if let Some(unwritten) = bytes.get_mut(bytes_read..) {
            unwritten.fill(0);
        }
        Ok(())
    }

    /// The header of the block at `position`, checked.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when there is no such header, or as [`JournalReader::read_at`].
    pub fn read_header(&self, position: Position) -> Result<BlockHeader, JournalError> {
        Ok(self.read_raw_header(position)?.0)
    }

    /// The header of the block at `position`, checked, and its bytes.
    fn read_raw_header(&self, position: Position) -> Result<(BlockHeader, [u8; HEADER_BYTES]), JournalError> {
        let mut bytes = [0; HEADER_BYTES];
        self.read_at(position, &mut bytes)?;
        let header = BlockHeader::decode(&bytes)
            .and_then(|header| {
                let body_bytes_max = self.shared.geometry.block_bytes_max();
                header
                    .check_place(self.shared.data_id, position, body_bytes_max)
                    .map(|()| header)
            })
            .map_err(|defect| self.corrupt(position, 0, BlockDefect::Header(defect)))?;
        Ok((header, bytes))
    }

    /// The header and the body of the block at `position`, checked; `body` is replaced. Whether the block belongs to
    /// the chain is not looked at.
    ///
    /// # Errors
    /// As [`JournalReader::read_header`].
    pub fn read_block(&self, position: Position, body: &mut Vec<u8>) -> Result<BlockHeader, JournalError> {
        let header = self.read_header(position)?;
        self.read_body(&header, body)?;
        Ok(header)
    }

    /// Replaces `body` by the body of the block with this `header`, checked.
    fn read_body(&self, header: &BlockHeader, body: &mut Vec<u8>) -> Result<(), JournalError> {
        let position = header.position;
        body.clear();
        body.resize(header.body_bytes as usize, 0);
        let Some(start) = position.checked_add(HEADER_BYTES_U32) else {
            return Err(JournalError::ReadPastEnd {
                position,
                length: body.len(),
            });
        };
        self.read_at(start, body)?;
        if crc32c::crc32c(body) == header.body_crc {
            Ok(())
        } else {
            Err(self.corrupt(position, header.block_sequence, BlockDefect::BodyChecksum))
        }
    }

    /// The start of the journal.
    #[must_use]
    pub fn start(&self) -> ChainPoint {
        ChainPoint::start(self.shared.data_id)
    }

    /// Reads the block at `point`, replaces `body` by its body, and gives back its header and the place behind it. The
    /// block is whole and follows from the blocks before `point`.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when there is no such block, or as [`JournalReader::read_at`].
    pub fn read_next(
        &self,
        point: &ChainPoint,
        body: &mut Vec<u8>,
    ) -> Result<(BlockHeader, ChainPoint), JournalError> {
        let (header, raw) = self.read_raw_header(point.position)?;
        self.check_link(point, &header)?;
        self.read_body(&header, body)?;
        let hash = BlockHash::of_parts(&raw, body);
        Ok((header, point.after(&header, hash, self.shared.geometry)))
    }

    /// Whether the block before `point` is the one that `point` tells of. There is none before the start of the journal.
    ///
    /// # Errors
    /// [`JournalError::Disk`] when the disk fails.
    pub fn contains_point(&self, point: &ChainPoint) -> Result<bool, JournalError> {
        if point.block_sequence <= 1 {
            return Ok(*point == self.start());
        }
        let mut body = Vec::new();
        let read = self
            .read_raw_header(point.previous_position)
            .and_then(|(header, raw)| self.read_body(&header, &mut body).map(|()| (header, raw)));
        match read {
            Ok((header, raw)) => Ok(header.block_sequence == point.last_block_sequence()
                && BlockHash::of_parts(&raw, &body) == point.previous_hash
                && self.position_behind(&header) == point.position),
            Err(JournalError::Disk(error)) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// Where `segment` starts, by the header of its first block, which must be whole. If the journal ends at the start of
    /// the segment, there is no such block, and `end` is the place.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when there is no such header, or as [`JournalReader::read_at`].
    pub fn segment_start(&self, segment: u32, end: &ChainPoint) -> Result<ChainPoint, JournalError> {
        let position = Position::new(segment, 0);
        if end.position == position {
            return Ok(*end);
        }
        let header = self.read_header(position)?;
        let point = ChainPoint {
            position,
            block_sequence: header.block_sequence,
            previous_hash: header.previous_hash,
            previous_position: position,
        };
        if segment == 0 {
            self.check_link(&self.start(), &header)?;
        }
        Ok(point)
    }

    /// Where the block comes that follows the one with this `header`.
    #[must_use]
    pub fn position_behind(&self, header: &BlockHeader) -> Position {
        self.shared
            .geometry
            .position_after(header.position, header.body_bytes)
    }

    /// Whether the block with this `header` is the one that comes at `point`.
    fn check_link(&self, point: &ChainPoint, header: &BlockHeader) -> Result<(), JournalError> {
        if header.block_sequence != point.block_sequence {
            let found = header.block_sequence;
            let defect = BlockDefect::Sequence { found };
            return Err(self.corrupt(point.position, point.block_sequence, defect));
        }
        if header.previous_hash != point.previous_hash {
            return Err(self.chain_broken(point));
        }
        Ok(())
    }

    /// The error for a block at `point` that does not follow from the one before.
    #[must_use]
    pub fn chain_broken(&self, point: &ChainPoint) -> JournalError {
        let kind = CorruptionKind::ChainBroken;
        Corruption::new(&self.shared.journal, point.position, point.block_sequence, kind).into()
    }

    /// A reader of the same journal with open files of its own.
    #[must_use]
    pub fn with_own_files(&self) -> Self {
        let ReaderShared {
            disk,
            journal,
            data_id,
            geometry,
            open: _,
        } = &*self.shared;
        JournalReader {
            shared: Arc::new(ReaderShared {
                disk: Arc::clone(disk),
                journal: journal.clone(),
                data_id: *data_id,
                geometry: *geometry,
                open: Mutex::default(),
            }),
        }
    }

    /// Closes all files: what is read next is read from the files that have the segments' names by then.
    pub fn close_segments(&self) {
        self.shared.open.lock().recent_last.clear();
    }

    /// The error for a `point` to which no block [leads](JournalReader::contains_point).
    pub(super) fn checkpoint_mismatch(&self, point: &ChainPoint) -> JournalError {
        let kind = CorruptionKind::CheckpointMismatch;
        let (position, sequence) = (point.previous_position, point.last_block_sequence());
        Corruption::new(&self.shared.journal, position, sequence, kind).into()
    }

    fn corrupt(&self, position: Position, block_sequence: u64, defect: BlockDefect) -> JournalError {
        let kind = CorruptionKind::NoBlock { defect };
        Corruption::new(&self.shared.journal, position, block_sequence, kind).into()
    }

    fn segment(&self, number: u32) -> Result<Arc<dyn DiskFile>, JournalError> {
        if let Some(file) = self.shared.open.lock().get(number) {
            return Ok(file);
        }
        let path = self.shared.journal.join(segment_name(number));
        let file = self.shared.disk.open(&path, FileAccess::Read)?;
        self.shared.open.lock().insert(number, Arc::clone(&file));
        Ok(file)
    }
}

// ===== impl OpenSegments =====

impl OpenSegments {
    fn get(&mut self, number: u32) -> Option<Arc<dyn DiskFile>> {
        let index = self.recent_last.iter().rposition(|(open, _)| *open == number)?;
        let entry = self.recent_last.remove(index);
        let file = Arc::clone(&entry.1);
        self.recent_last.push(entry);
        Some(file)
    }

    /// Two readers may have opened the same segment at once: the later one takes the place of the earlier.
    fn insert(&mut self, number: u32, file: Arc<dyn DiskFile>) {
        self.recent_last.retain(|(open, _)| *open != number);
        if self.recent_last.len() >= OPEN_SEGMENTS_MAX {
            self.recent_last.remove(0);
        }
        self.recent_last.push((number, file));
    }
}
