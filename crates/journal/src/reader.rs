//! Reads blocks and bytes at positions of the journal, from any thread.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    block::{BlockHash, BlockHeader, DataId, HEADER_BYTES, HEADER_BYTES_U32, HeaderBytes},
    chain_point::ChainPoint,
    directory::journal_path,
    disk::{Disk, DiskFile, FileAccess},
    error::{BlockDefect, Corruption, CorruptionKind, JournalError},
    format::DirectoryFormat,
    geometry::Geometry,
    position::Position,
    segment_file::segment_name,
};

/// Reads blocks and parts of blocks. Clones share their open files. Any thread may use a reader.
///
/// The caller must know which blocks are durable, and read only those. A read after the last durable block can return
/// any bytes.
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
    /// A thread holds this lock only while it looks up or stores a file, never during I/O.
    open: Mutex<OpenSegments>,
}

/// The segments that were read most recently, the most recent last. A linear search over at most [`OPEN_SEGMENTS_MAX`]
/// entries is faster than a map.
#[derive(Debug, Default)]
struct OpenSegments {
    recent_last: Vec<(u32, Arc<dyn DiskFile>)>,
}

/// Maximum number of segment files that a reader and its clones keep open.
pub const OPEN_SEGMENTS_MAX: usize = 64;

// ===== impl JournalReader =====

impl JournalReader {
    pub(super) fn new(disk: Arc<dyn Disk>, directory: &Path, format: &DirectoryFormat) -> Self {
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

    /// Fills `bytes` with the bytes at `position`. Bytes of the segment that were never written read as zeros.
    ///
    /// # Errors
    /// [`JournalError::ReadPastEnd`] if the range extends beyond the end of the segment, [`JournalError::Corrupt`] if
    /// the segment file is missing or too short, [`JournalError::Disk`] if the disk fails.
    pub fn read_at(&self, position: Position, bytes: &mut [u8]) -> Result<(), JournalError> {
        let length = bytes.len();
        let segment_bytes = self.shared.geometry.segment_bytes();
        let rest = segment_bytes.saturating_sub(position.offset());
        if length > rest as usize {
            return Err(JournalError::ReadPastEnd { position, length });
        }
        let file = match self.segment(position.segment()) {
            Err(JournalError::Disk(error)) if error.is_not_found() => {
                return Err(self.no_block(position, 0, BlockDefect::NoSegment));
            }
            other => other?,
        };
        if file.read_at(u64::from(position.offset()), bytes)? == length {
            return Ok(());
        }
        let kind = CorruptionKind::SegmentLength {
            found: file.size_bytes()?,
            expected: u64::from(segment_bytes),
        };
        Err(self.corrupt(position, 0, kind))
    }

    /// Reads and checks the header of the block at `position`.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] if no valid header is at `position`. Also the errors of [`JournalReader::read_at`].
    pub fn read_header(&self, position: Position) -> Result<BlockHeader, JournalError> {
        Ok(self.read_raw_header(position)?.0)
    }

    /// Reads and checks the header of the block at `position`. Returns the header and its bytes.
    fn read_raw_header(&self, position: Position) -> Result<(BlockHeader, HeaderBytes), JournalError> {
        let mut bytes = [0; HEADER_BYTES];
        self.read_at(position, &mut bytes)?;
        let header = self
            .shared
            .geometry
            .decode_header(&bytes, self.shared.data_id, position)
            .map_err(|defect| self.no_block(position, 0, BlockDefect::Header(defect)))?;
        Ok((header, bytes))
    }

    /// Reads and checks the block at `position`. Returns its header and replaces the content of `body` by its body.
    /// Does not check whether the block contains the hash of the block before it.
    ///
    /// # Errors
    /// Those of [`JournalReader::read_header`].
    pub fn read_block(&self, position: Position, body: &mut Vec<u8>) -> Result<BlockHeader, JournalError> {
        let header = self.read_header(position)?;
        self.read_body(&header, body)?;
        Ok(header)
    }

    /// Reads and checks the body of the block with this `header`, which was read before. Replaces the content of `body` by the block's
    /// body.
    ///
    /// # Errors
    /// Those of [`JournalReader::read_header`].
    pub fn read_body(&self, header: &BlockHeader, body: &mut Vec<u8>) -> Result<(), JournalError> {
        let position = header.position;
        body.clear();
        body.resize(header.body_bytes as usize, 0);
        let start = Position::new(position.segment(), position.offset() + HEADER_BYTES_U32);
        self.read_at(start, body)?;
        if header.is_body(body) {
            Ok(())
        } else {
            Err(self.no_block(position, header.block_sequence, BlockDefect::BodyChecksum))
        }
    }

    /// Returns the start of the journal.
    #[must_use]
    pub fn start(&self) -> ChainPoint {
        ChainPoint::start(self.shared.data_id)
    }

    /// Reads the block at `point` and replaces the content of `body` by its body. Returns its header and the point
    /// after the block. Checks that the block is undamaged and has the sequence and the previous hash that `point`
    /// states.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] if the block fails a check. Also the errors of [`JournalReader::read_at`].
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

    /// Reads the block at `point` as [`JournalReader::read_next`] does, and replaces the content of `bytes` by its header and body, as
    /// [`BlockBuffer::sealed_bytes`](crate::BlockBuffer::sealed_bytes) returned them when it was sealed.
    ///
    /// # Errors
    /// Those of [`JournalReader::read_next`].
    pub fn read_sealed(
        &self,
        point: &ChainPoint,
        bytes: &mut Vec<u8>,
    ) -> Result<(BlockHeader, ChainPoint), JournalError> {
        let (header, next) = self.read_next(point, bytes)?;
        bytes.splice(0..0, header.encode());
        Ok((header, next))
    }

    /// Returns whether the journal contains `point`: whether the block before `point` is undamaged and has the
    /// sequence, the hash and the position that `point` states. No block is before the start of the journal. So a
    /// `point` whose block sequence is at most 1 must equal the start in all fields.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails.
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
                && self.position_after(&header) == point.position),
            Err(JournalError::Corrupt(_) | JournalError::ReadPastEnd { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the chain point at the start of `segment`. Takes the point's sequence and hash from the header of the
    /// first block of the segment. If the journal ends at the start of the segment, the segment has no block, and this
    /// method returns `end`.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] if the segment has no valid first header. Also the errors of
    /// [`JournalReader::read_at`].
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

    /// Returns the position of the block after the block with this `header`.
    ///
    /// # Panics
    /// See [`Geometry::position_after`]. Never panics for a header that a reader returned, because the reader has
    /// checked the header.
    #[must_use]
    pub fn position_after(&self, header: &BlockHeader) -> Position {
        self.shared
            .geometry
            .position_after(header.position, header.body_bytes)
    }

    /// Checks that `header` has the sequence and the previous hash that `point` states.
    fn check_link(&self, point: &ChainPoint, header: &BlockHeader) -> Result<(), JournalError> {
        if header.block_sequence != point.block_sequence {
            let found = header.block_sequence;
            let defect = BlockDefect::Sequence { found };
            return Err(self.no_block(point.position, point.block_sequence, defect));
        }
        if header.previous_hash != point.previous_hash {
            return Err(self.chain_broken(point));
        }
        Ok(())
    }

    /// Makes the error for a block at `point` that does not contain the hash of the block before it.
    #[must_use]
    pub fn chain_broken(&self, point: &ChainPoint) -> JournalError {
        self.corrupt(point.position, point.block_sequence, CorruptionKind::ChainBroken)
    }

    /// Makes a reader of the same journal that shares no open files with this reader.
    #[must_use]
    pub fn with_own_files(&self) -> Self {
        JournalReader {
            shared: Arc::new(ReaderShared {
                disk: Arc::clone(&self.shared.disk),
                journal: self.shared.journal.clone(),
                data_id: self.shared.data_id,
                geometry: self.shared.geometry,
                open: Mutex::default(),
            }),
        }
    }

    /// Closes all open segment files. A later read opens the file that has the name of the segment at that time.
    pub fn close_segments(&self) {
        self.shared.open.lock().recent_last.clear();
    }

    /// Makes the error for a `point` that the journal does not [contain](JournalReader::contains_point).
    pub(super) fn checkpoint_mismatch(&self, point: &ChainPoint) -> JournalError {
        let (position, sequence) = (point.previous_position, point.last_block_sequence());
        self.corrupt(position, sequence, CorruptionKind::CheckpointMismatch)
    }

    fn no_block(&self, position: Position, block_sequence: u64, defect: BlockDefect) -> JournalError {
        self.corrupt(position, block_sequence, CorruptionKind::NoBlock { defect })
    }

    fn corrupt(&self, position: Position, block_sequence: u64, kind: CorruptionKind) -> JournalError {
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

    /// Stores an open file. If two threads opened the same segment at the same time, the file that is stored later
    /// replaces the file that is stored first.
    fn insert(&mut self, number: u32, file: Arc<dyn DiskFile>) {
        self.recent_last.retain(|(open, _)| *open != number);
        if self.recent_last.len() >= OPEN_SEGMENTS_MAX {
            self.recent_last.remove(0);
        }
        self.recent_last.push((number, file));
    }
}
