//! The resume point: where a replica continues to read the log after a start.
//!
//! The file `replica/<block>.resume` of the data directory states which block was accepted last, and at which offset the log is read
//! next. The file is written after the journal is durable up to this block. So the journal contains this block, and perhaps later
//! ones. A start reads the log from this offset, and skips the blocks that the journal has.

use std::path::Path;

use tally_journal::{ChunkedFiles, DataDirectory, Disk, FileFamily, Genesis, JournalError};

use super::port::TopicId;
use crate::mutation::planted;

/// The files of this kind in a data directory.
pub const FAMILY: FileFamily = FileFamily {
    subdirectory: "replica",
    prefix: "",
    suffix: ".resume",
};

/// Number of resume points that a directory keeps. The older one is used if the newer one is damaged.
const KEEP: usize = 2;
/// Length of an encoded [`ResumePoint`], in bytes.
const RESUME_BYTES: usize = 16 + 8 + 4 + 8 + 32 + 8 + 4;
/// The encoding of an epoch that is not known. Epochs are never negative.
const NO_EPOCH: i32 = -1;

/// Where a replica continues to read the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumePoint {
    /// The identity of the topic.
    pub topic_id: TopicId,
    /// The offset of the record with the last accepted block. The replica reads this record again, to check that it is unchanged, and
    /// then the next records.
    pub offset: u64,
    /// The epoch of the broker that took this record, if the replica has learned it.
    pub epoch: Option<i32>,
    /// The number of the last accepted block; 0 if the replica has accepted only the first record of the log.
    pub block: u64,
    /// The hash of the last accepted block.
    pub hash: [u8; 32],
    /// The term of the last accepted block.
    pub term: u64,
    /// The writer of the last accepted block.
    pub writer: u32,
}

/// The resume points of a data directory.
#[derive(Debug)]
pub struct ResumeFiles(ChunkedFiles);

// ===== impl ResumeFiles =====

impl ResumeFiles {
    /// Opens the resume points of a data directory.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails.
    pub fn open(directory: &DataDirectory) -> Result<Self, JournalError> {
        let FileFamily {
            subdirectory,
            prefix,
            suffix,
        } = FAMILY;
        ChunkedFiles::open(directory, subdirectory, prefix, suffix).map(ResumeFiles)
    }

    /// Returns whether the data directory at `path` has files of resume points, damaged ones included. Takes no lock.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails.
    pub fn are_in(disk: &dyn Disk, path: &Path) -> Result<bool, JournalError> {
        match disk.list(&path.join(FAMILY.subdirectory)) {
            Ok(names) => Ok(names.iter().any(|name| name.ends_with(FAMILY.suffix))),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a resume point, durably, and removes old ones.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails.
    pub fn write(&self, point: &ResumePoint) -> Result<(), JournalError> {
        let mut point = *point;
        if planted("resume_too_low") {
            point.offset = point.offset.saturating_sub(1);
        }
        if planted("resume_too_high") {
            point.offset += 1;
        }
        let mut file = self.0.create(point.block)?;
        file.write_chunk(&point.encode())?;
        file.finish()?;
        self.0.prune(KEEP)?;
        Ok(())
    }

    /// Removes all resume points, and writes `point`, durably. Used for a new topic, because the files of an older topic can have
    /// greater numbers.
    ///
    /// # Errors
    /// [`JournalError::Disk`] if the disk fails.
    pub fn replace(&self, point: &ResumePoint) -> Result<(), JournalError> {
        self.0.prune(0)?;
        self.write(point)
    }

    /// Reads the newest resume point. Returns `None` if no resume point can be read.
    ///
    /// # Errors
    /// [`JournalError`] if the disk fails, or another version of the program wrote the files.
    pub fn newest(&self) -> Result<Option<ResumePoint>, JournalError> {
        self.0.newest(|number, reader| {
            let mut bytes = Vec::new();
            reader.read_chunk(0, &mut bytes)?;
            ResumePoint::decode(&bytes)
                .filter(|point| point.block == number)
                .ok_or_else(|| reader.malformed("a resume point"))
        })
    }
}

// ===== impl ResumePoint =====

impl ResumePoint {
    /// Returns the point after the first record of a log.
    #[must_use]
    pub fn beginning(topic_id: TopicId, genesis: &Genesis) -> Self {
        ResumePoint {
            topic_id,
            offset: 0,
            epoch: None,
            block: 0,
            hash: genesis.start().previous_hash.0,
            term: 0,
            writer: 0,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RESUME_BYTES);
        bytes.extend(self.topic_id);
        bytes.extend(self.offset.to_le_bytes());
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => NO_EPOCH,
        };
        bytes.extend(epoch.to_le_bytes());
        bytes.extend(self.block.to_le_bytes());
        bytes.extend(self.hash);
        bytes.extend(self.term.to_le_bytes());
        bytes.extend(self.writer.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (topic_id, bytes) = bytes.split_first_chunk::<16>()?;
        let (offset, bytes) = bytes.split_first_chunk::<8>()?;
        let (epoch, bytes) = bytes.split_first_chunk::<4>()?;
        let epoch = i32::from_le_bytes(*epoch);
        let (block, bytes) = bytes.split_first_chunk::<8>()?;
        let (hash, bytes) = bytes.split_first_chunk::<32>()?;
        let (term, bytes) = bytes.split_first_chunk::<8>()?;
        let (writer, bytes) = bytes.split_first_chunk::<4>()?;
        bytes.is_empty().then_some(ResumePoint {
            topic_id: *topic_id,
            offset: u64::from_le_bytes(*offset),
            epoch: (epoch != NO_EPOCH).then_some(epoch),
            block: u64::from_le_bytes(*block),
            hash: *hash,
            term: u64::from_le_bytes(*term),
            writer: u32::from_le_bytes(*writer),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_point_decodes_from_its_bytes_and_from_no_others() {
        let point = ResumePoint {
            topic_id: [7; 16],
            offset: 1 << 40,
            epoch: Some(3),
            block: 12,
            hash: [3; 32],
            term: 9,
            writer: 4_000_000_000,
        };
        let bytes = point.encode();
        assert_eq!(bytes.len(), RESUME_BYTES);
        assert_eq!(ResumePoint::decode(&bytes), Some(point));
        let unknown = ResumePoint { epoch: None, ..point };
        assert_eq!(ResumePoint::decode(&unknown.encode()), Some(unknown));
        assert_eq!(ResumePoint::decode(&bytes[1..]), None);
        assert_eq!(ResumePoint::decode(&[bytes, vec![0]].concat()), None);
    }
}
