//! Chunked files: numbered files that consist of checksummed chunks, for checkpoints and indexes.
//!
//! The writer uses a temporary name and renames the file when the file is complete. So a file with its final name is
//! complete.
//!
//! ```text
//! header   64 bytes   magic "TLYC", version u16, header bytes u16, number u64, data id (16), zeros, CRC-32C
//! chunks              the bytes of all chunks, in the order in which they were written
//! table               for each chunk: length u32, CRC-32C u32
//! trailer  64 bytes   magic "TLYE", chunks u32, bytes of all chunks u64, CRC-32C of the table u32, zeros,
//!                     BLAKE3 of everything before the trailer (32), zeros, CRC-32C
//! ```
//!
//! All numbers are little endian. The table is after the chunks because the writer knows the lengths of the chunks only
//! after the last one. The trailer is the last 64 bytes of the file. So a reader of a truncated file finds no valid
//! trailer, and reports the file as damaged.

use std::{path::PathBuf, sync::Arc};

use crate::{
    block::DataId,
    directory::DataDirectory,
    disk::{Disk, DiskFile, FileAccess},
    error::{ChunkDefect, JournalError},
    layout::{checksum_before_last_field, field, put},
    mutation::planted,
    unfinished::{UNFINISHED_SUFFIX, create_unfinished},
};

/// A family of numbered chunked files in one directory: `<directory>/<prefix><number>.<suffix>`.
#[derive(Debug, Clone)]
pub struct ChunkedFiles {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    data_id: DataId,
    prefix: String,
    suffix: String,
}

/// Writes one chunked file. A writer that is dropped before [`ChunkedFileWriter::finish`] removes its file.
#[derive(Debug)]
pub struct ChunkedFileWriter {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    directory: PathBuf,
    unfinished_path: PathBuf,
    path: PathBuf,
    table: Vec<ChunkEntry>,
    hasher: blake3::Hasher,
    offset: u64,
    unsynced_bytes: u64,
    finished: bool,
}

/// Reads the chunks of one chunked file, in order or by index.
#[derive(Debug)]
pub struct ChunkedFileReader {
    file: Arc<dyn DiskFile>,
    header: Frame,
    /// The offset of each chunk in the file, and its entry of the table.
    table: Vec<(u64, ChunkEntry)>,
    chunk_bytes_total: u64,
    hash: [u8; 32],
    next: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ChunkEntry {
    length: u32,
    checksum: u32,
}

/// Maximum length of a chunk, in bytes. A reader holds one chunk in memory.
pub const CHUNK_BYTES_MAX: u32 = 16 << 20;
/// Maximum number of chunks of a file. The table of a file with this many chunks has 8 MiB.
pub const CHUNKS_MAX: u32 = 1 << 20;
/// Version of the format of chunked files.
pub const CHUNK_FORMAT_VERSION: u16 = 1;

const FRAME_BYTES: usize = 64;
const ENTRY_BYTES: usize = 8;
const HEADER_MAGIC: [u8; 4] = *b"TLYC";
const TRAILER_MAGIC: [u8; 4] = *b"TLYE";
const NUMBER_DIGITS: usize = 20;
/// The writer syncs a file each time it has written this many bytes. A single sync at the end would write the whole
/// file to disk at once, and would delay the syncs of the journal for that time.
const SYNC_STEP_BYTES: u64 = 8 << 20;

type Frame = [u8; FRAME_BYTES];

// ===== impl ChunkedFiles =====

impl ChunkedFiles {
    /// Opens the family in `subdirectory` of a data directory, and makes the subdirectory if it does not exist. Removes
    /// the unfinished files that an earlier process left.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails.
    pub fn open(
        directory: &DataDirectory,
        subdirectory: &str,
        prefix: &str,
        suffix: &str,
    ) -> Result<Self, JournalError> {
        let files = ChunkedFiles::open_read_only(directory, subdirectory, prefix, suffix);
        files.disk.create_dir_all(&files.directory)?;
        for name in files.disk.list(&files.directory)? {
            let unfinished = name
                .strip_suffix(UNFINISHED_SUFFIX)
                .and_then(|name| files.number_of(name));
            if unfinished.is_some() {
                files.disk.remove(&files.directory.join(name))?;
            }
        }
        Ok(files)
    }

    /// Opens the family like [`ChunkedFiles::open`], but changes nothing on disk. The subdirectory need not exist.
    #[must_use]
    pub fn open_read_only(directory: &DataDirectory, subdirectory: &str, prefix: &str, suffix: &str) -> Self {
        ChunkedFiles {
            disk: Arc::clone(directory.disk()),
            directory: directory.path().join(subdirectory),
            data_id: directory.data_id(),
            prefix: prefix.to_owned(),
            suffix: suffix.to_owned(),
        }
    }

    /// Begins to write the file `number`. [`ChunkedFileWriter::finish`] replaces an older file with this number.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk is full or fails.
    pub fn create(&self, number: u64) -> Result<ChunkedFileWriter, JournalError> {
        let path = self.path(number);
        let unfinished_path = self
            .directory
            .join(format!("{}{UNFINISHED_SUFFIX}", self.name(number)));
        let mut writer = ChunkedFileWriter {
            disk: Arc::clone(&self.disk),
            file: create_unfinished(&*self.disk, &unfinished_path)?,
            directory: self.directory.clone(),
            unfinished_path,
            path,
            table: Vec::new(),
            hasher: blake3::Hasher::new(),
            offset: 0,
            unsynced_bytes: 0,
            finished: false,
        };
        writer.write(&encode_header(self.data_id, number))?;
        Ok(writer)
    }

    /// Returns the numbers of the finished files, in ascending order. The result is empty if the subdirectory does not
    /// exist.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails.
    pub fn numbers(&self) -> Result<Vec<u64>, JournalError> {
        let names = match self.disk.list(&self.directory) {
            Err(error) if error.is_not_found() => Vec::new(),
            listed => listed?,
        };
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| self.number_of(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Opens the file `number` and checks its header, table and trailer. Does not check the chunks:
    /// [`ChunkedFileReader::read_chunk`] checks the chunk that it reads.
    ///
    /// # Errors
    /// [`JournalError::ChunkedFile`] if the file is damaged or belongs to another directory,
    /// [`JournalError::UnsupportedVersion`] if the file has another format version, [`JournalError::Disk`] if the file
    /// does not exist or the disk fails.
    pub fn open_number(&self, number: u64) -> Result<ChunkedFileReader, JournalError> {
        let path = self.path(number);
        let file = self.disk.open(&path, FileAccess::Read)?;
        ChunkedFileReader::open(file, self.data_id, number)
    }

    /// Opens the file `number` and checks all its bytes.
    ///
    /// # Errors
    /// Those of [`ChunkedFiles::open_number`] and [`ChunkedFileReader::verify`].
    pub fn open_checked(&self, number: u64) -> Result<ChunkedFileReader, JournalError> {
        let reader = self.open_number(number)?;
        reader.verify()?;
        Ok(reader)
    }

    /// Checks the files in descending order of their numbers, calls `read` for each undamaged file, and returns the
    /// first `Ok` result of `read`. Skips files that are damaged or unreadable: logs a warning and does not change
    /// them, because the caller can make their content again from the journal. Returns `None` if no file is usable.
    ///
    /// # Errors
    /// [`JournalError::UnsupportedVersion`] if a file has another format version, because the use of an older file
    /// would hide that a newer program wrote the directory. [`JournalError::Disk`] if the directory cannot be listed.
    /// Also the errors of `read`, except [`JournalError::ChunkedFile`] and [`JournalError::Disk`]: after these errors,
    /// the file counts as unusable.
    pub fn newest<T>(
        &self,
        mut read: impl FnMut(u64, &ChunkedFileReader) -> Result<T, JournalError>,
    ) -> Result<Option<T>, JournalError> {
        for number in self.numbers()?.into_iter().rev() {
            match self.open_checked(number).and_then(|reader| read(number, &reader)) {
                Ok(value) => return Ok(Some(value)),
                Err(error @ (JournalError::ChunkedFile { .. } | JournalError::Disk(_))) => {
                    let file = self.path(number);
                    tracing::warn!(file = %file.display(), %error, "cannot use this file; trying an older file");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Removes all files except the `keep` files with the highest numbers. Returns the number of removed files.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails.
    pub fn prune(&self, keep: usize) -> Result<usize, JournalError> {
        let numbers = self.numbers()?;
        let surplus = numbers.len().saturating_sub(keep);
        for number in numbers.into_iter().take(surplus) {
            self.disk.remove(&self.path(number))?;
        }
        if surplus > 0 {
            self.disk.sync_dir(&self.directory)?;
        }
        Ok(surplus)
    }

    /// Removes the file `number`. The caller uses this method to replace a damaged file.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails, or the directory is open for reading only.
    pub fn remove(&self, number: u64) -> Result<(), JournalError> {
        self.disk.remove(&self.path(number))?;
        Ok(self.disk.sync_dir(&self.directory)?)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(self.name(number))
    }

    fn name(&self, number: u64) -> String {
        file_name(&self.prefix, number, &self.suffix)
    }

    fn number_of(&self, name: &str) -> Option<u64> {
        file_number(&self.prefix, name, &self.suffix)
    }
}

fn file_name(prefix: &str, number: u64, suffix: &str) -> String {
    format!("{prefix}{number:0NUMBER_DIGITS$}.{suffix}")
}

/// Returns the number of the file `name` of a family. Returns `None` if the name is not a name of the family.
pub(super) fn file_number(prefix: &str, name: &str, suffix: &str) -> Option<u64> {
    let digits = name
        .strip_prefix(prefix)?
        .strip_suffix(suffix)?
        .strip_suffix('.')?;
    let number = digits.parse().ok()?;
    (file_name(prefix, number, suffix) == name).then_some(number)
}

// ===== impl ChunkedFileWriter =====

impl ChunkedFileWriter {
    /// Appends a chunk.
    ///
    /// # Errors
    /// [`JournalError::ChunkBound`] if the chunk is longer than [`CHUNK_BYTES_MAX`] or the file has [`CHUNKS_MAX`]
    /// chunks, [`JournalError::Disk`] if the disk is full or fails.
    pub fn write_chunk(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let refuse = |field, value: usize, value_max| JournalError::ChunkBound {
            path: self.path.clone(),
            field,
            value: value as u64,
            value_max: u64::from(value_max),
        };
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length <= CHUNK_BYTES_MAX)
            .ok_or_else(|| refuse("bytes of a chunk", bytes.len(), CHUNK_BYTES_MAX))?;
        if self.table.len() >= CHUNKS_MAX as usize {
            return Err(refuse("number of chunks", self.table.len() + 1, CHUNKS_MAX));
        }
        self.write(bytes)?;
        self.table.push(ChunkEntry {
            length,
            checksum: crc32c::crc32c(bytes),
        });
        Ok(())
    }

    /// Completes the file, makes it durable, and gives it its name. Returns the length of the file, in bytes.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk is full or fails. In that case, either no file has the final name, or the
    /// complete file has the final name.
    ///
    /// # Panics
    /// If the file is not as long as the header and all chunks together, because a reader would compute wrong offsets
    /// of chunks.
    pub fn finish(mut self) -> Result<u64, JournalError> {
        let chunk_bytes_total: u64 = self.table.iter().map(|entry| u64::from(entry.length)).sum();
        assert_eq!(
            self.offset,
            FRAME_BYTES as u64 + chunk_bytes_total,
            "the table must describe the chunks that were written"
        );
        let table: Vec<u8> = self.table.iter().flat_map(|entry| entry.encode()).collect();
        self.write(&table)?;

        let mut trailer = [0; FRAME_BYTES];
        #[expect(
            clippy::cast_possible_truncation,
            reason = "bounded by CHUNKS_MAX when chunks are written"
        )]
        let chunks = self.table.len() as u32;
        put::<0, 4, _>(&mut trailer, TRAILER_MAGIC);
        put::<4, 4, _>(&mut trailer, chunks.to_le_bytes());
        put::<8, 8, _>(&mut trailer, chunk_bytes_total.to_le_bytes());
        put::<16, 4, _>(&mut trailer, crc32c::crc32c(&table).to_le_bytes());
        put::<24, 32, _>(&mut trailer, *self.hasher.finalize().as_bytes());
        let checksum = checksum_before_last_field(&trailer);
        put::<60, 4, _>(&mut trailer, checksum.to_le_bytes());
        self.write(&trailer)?;

        self.file.sync_all()?;
        self.disk.rename(&self.unfinished_path, &self.path)?;
        self.finished = true;
        self.disk.sync_dir(&self.directory)?;
        Ok(self.offset)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.file.write_at(self.offset, bytes)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= SYNC_STEP_BYTES {
            self.file.sync_data()?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }
}

impl Drop for ChunkedFileWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Frees the disk space now. If the removal fails, the next call of `ChunkedFiles::open` removes the file.
            if let Err(error) = self.disk.remove(&self.unfinished_path) {
                tracing::debug!(%error, "could not remove an unfinished file");
            }
        }
    }
}

// ===== impl ChunkedFileReader =====

impl ChunkedFileReader {
    fn open(file: Arc<dyn DiskFile>, data_id: DataId, number: u64) -> Result<Self, JournalError> {
        let refuse = |defect| JournalError::ChunkedFile {
            path: file.path().to_path_buf(),
            defect,
        };
        let file_bytes = file.size_bytes()?;
        let frames_bytes = 2 * FRAME_BYTES as u64;
        let inner_bytes = file_bytes
            .checked_sub(frames_bytes)
            .ok_or_else(|| refuse(ChunkDefect::Trailer))?;
        let header = read_header(&*file, data_id, number)?;

        let trailer = read_frame(&*file, file_bytes - FRAME_BYTES as u64, ChunkDefect::Trailer)?;
        let whole = field::<0, 4, _>(&trailer) == TRAILER_MAGIC
            && u32::from_le_bytes(field::<60, 4, _>(&trailer)) == checksum_before_last_field(&trailer);
        if !whole {
            return Err(refuse(ChunkDefect::Trailer));
        }
        let chunks = u32::from_le_bytes(field::<4, 4, _>(&trailer));
        let chunk_bytes_total = u64::from_le_bytes(field::<8, 8, _>(&trailer));
        let table_bytes = u64::from(chunks) * ENTRY_BYTES as u64;
        if chunks > CHUNKS_MAX || chunk_bytes_total.checked_add(table_bytes) != Some(inner_bytes) {
            return Err(refuse(ChunkDefect::Trailer));
        }

        let mut table = vec![0; chunks as usize * ENTRY_BYTES];
        let table_offset = FRAME_BYTES as u64 + chunk_bytes_total;
        let bytes_read = file.read_at(table_offset, &mut table)?;
        let checksum = u32::from_le_bytes(field::<16, 4, _>(&trailer));
        let table = (bytes_read == table.len() && crc32c::crc32c(&table) == checksum)
            .then(|| place_chunks(&table))
            .flatten()
            .filter(|(_, end)| *end == table_offset)
            .map(|(table, _)| table)
            .ok_or_else(|| refuse(ChunkDefect::Table))?;
        Ok(ChunkedFileReader {
            file,
            header,
            table,
            chunk_bytes_total,
            hash: field::<24, 32, _>(&trailer),
            next: 0,
        })
    }

    /// Returns the number of chunks.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bounded by CHUNKS_MAX when the table was read"
    )]
    pub fn chunks(&self) -> u32 {
        self.table.len() as u32
    }

    /// Returns the length of all chunks together, in bytes.
    #[must_use]
    pub fn chunk_bytes_total(&self) -> u64 {
        self.chunk_bytes_total
    }

    /// Reads the chunk `index` and replaces the content of `into` by it. The first chunk has index 0. Several threads
    /// may read at the same time.
    ///
    /// # Errors
    /// [`JournalError::ChunkedFile`] if the chunk is damaged or does not exist, [`JournalError::Disk`] if the disk
    /// fails.
    pub fn read_chunk(&self, index: u32, into: &mut Vec<u8>) -> Result<(), JournalError> {
        let (offset, entry) = self
            .table
            .get(index as usize)
            .ok_or_else(|| self.refuse(ChunkDefect::NoChunk { index }))?;
        into.clear();
        into.resize(entry.length as usize, 0);
        let bytes_read = self.file.read_at(*offset, into)?;
        let is_whole = crc32c::crc32c(into) == entry.checksum || planted("ignore_chunk_crc");
        if bytes_read == into.len() && is_whole {
            Ok(())
        } else {
            Err(self.refuse(ChunkDefect::Chunk { index }))
        }
    }

    /// Reads the next chunk and replaces the content of `into` by it. The first call reads the first chunk. Returns
    /// `false`, and clears `into`, if all chunks have been read.
    ///
    /// # Errors
    /// Those of [`ChunkedFileReader::read_chunk`].
    pub fn next_chunk(&mut self, into: &mut Vec<u8>) -> Result<bool, JournalError> {
        if self.next >= self.chunks() {
            into.clear();
            return Ok(false);
        }
        self.read_chunk(self.next, into)?;
        self.next += 1;
        Ok(true)
    }

    /// Reads the whole file and checks every chunk and the hash over the file.
    ///
    /// # Errors
    /// Those of [`ChunkedFileReader::read_chunk`].
    pub fn verify(&self) -> Result<(), JournalError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.header);
        let mut bytes = Vec::new();
        for index in 0..self.chunks() {
            self.read_chunk(index, &mut bytes)?;
            hasher.update(&bytes);
        }
        for (_, entry) in &self.table {
            hasher.update(&entry.encode());
        }
        if *hasher.finalize().as_bytes() == self.hash || planted("ignore_chunk_crc") {
            Ok(())
        } else {
            Err(self.refuse(ChunkDefect::Hash))
        }
    }

    /// Makes the error for chunks that are undamaged, but do not contain what the caller `expected`.
    #[must_use]
    pub fn malformed(&self, expected: &'static str) -> JournalError {
        self.refuse(ChunkDefect::Content { expected })
    }

    fn refuse(&self, defect: ChunkDefect) -> JournalError {
        JournalError::ChunkedFile {
            path: self.file.path().to_path_buf(),
            defect,
        }
    }
}

// ===== impl ChunkEntry =====

impl ChunkEntry {
    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        put::<0, 4, _>(&mut bytes, self.length.to_le_bytes());
        put::<4, 4, _>(&mut bytes, self.checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        ChunkEntry {
            length: u32::from_le_bytes(field::<0, 4, _>(bytes)),
            checksum: u32::from_le_bytes(field::<4, 4, _>(bytes)),
        }
    }
}

// ===== frames =====

fn encode_header(data_id: DataId, number: u64) -> Frame {
    let mut header = [0; FRAME_BYTES];
    put::<0, 4, _>(&mut header, HEADER_MAGIC);
    put::<4, 2, _>(&mut header, CHUNK_FORMAT_VERSION.to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "64 fits")]
    put::<6, 2, _>(&mut header, (FRAME_BYTES as u16).to_le_bytes());
    put::<8, 8, _>(&mut header, number.to_le_bytes());
    put::<16, 16, _>(&mut header, *data_id.as_bytes());
    let checksum = checksum_before_last_field(&header);
    put::<60, 4, _>(&mut header, checksum.to_le_bytes());
    header
}

fn read_header(file: &dyn DiskFile, data_id: DataId, number: u64) -> Result<Frame, JournalError> {
    let path = || file.path().to_path_buf();
    let header = read_frame(file, 0, ChunkDefect::Header)?;
    let whole = field::<0, 4, _>(&header) == HEADER_MAGIC
        && u32::from_le_bytes(field::<60, 4, _>(&header)) == checksum_before_last_field(&header);
    if !whole {
        return Err(JournalError::ChunkedFile {
            path: path(),
            defect: ChunkDefect::Header,
        });
    }
    let found = u16::from_le_bytes(field::<4, 2, _>(&header));
    if found != CHUNK_FORMAT_VERSION {
        let supported = u32::from(CHUNK_FORMAT_VERSION);
        return Err(JournalError::UnsupportedVersion {
            path: path(),
            found: u32::from(found),
            supported,
        });
    }
    if header != encode_header(data_id, number) {
        return Err(JournalError::ChunkedFile {
            path: path(),
            defect: ChunkDefect::Foreign,
        });
    }
    Ok(header)
}

/// Reads the frame (the header or the trailer) at `offset`. If the file ends before the end of the frame, the error
/// states `defect`.
fn read_frame(file: &dyn DiskFile, offset: u64, defect: ChunkDefect) -> Result<Frame, JournalError> {
    let mut frame = [0; FRAME_BYTES];
    if file.read_at(offset, &mut frame)? == FRAME_BYTES {
        Ok(frame)
    } else {
        let path = file.path().to_path_buf();
        Err(JournalError::ChunkedFile { path, defect })
    }
}

/// Decodes a table. Returns each chunk with its offset in the file, and the offset at which the last chunk ends.
/// Returns `None` if a chunk is longer than [`CHUNK_BYTES_MAX`].
fn place_chunks(table: &[u8]) -> Option<(Vec<(u64, ChunkEntry)>, u64)> {
    let (entries, _) = table.as_chunks::<ENTRY_BYTES>();
    let mut offset = FRAME_BYTES as u64;
    let mut placed = Vec::with_capacity(entries.len());
    for entry in entries.iter().map(ChunkEntry::decode) {
        if entry.length > CHUNK_BYTES_MAX {
            return None;
        }
        placed.push((offset, entry));
        offset = offset.checked_add(u64::from(entry.length))?;
    }
    Some((placed, offset))
}
