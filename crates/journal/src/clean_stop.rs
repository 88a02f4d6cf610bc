//! The marker of a clean stop: a file that states where the journal ended when its process stopped cleanly.
//!
//! Without the marker, recovery cannot distinguish a damaged last block from a write that a crash interrupted, and
//! removes the block. With the marker, recovery knows the last durable block, and returns an error if that block is
//! missing.
//!
//! The file `journal/CLEAN`, little endian:
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | magic `TLYS` |
//! | 4 | 2 | format version |
//! | 6 | 2 | zero |
//! | 8 | 16 | id of the data directory |
//! | 24 | 56 | the [`ChainPoint`] at which the journal ended |
//! | 80 | 44 | zero |
//! | 124 | 4 | CRC-32C of the first 124 bytes |
//!
//! The marker is written under a temporary name and renamed after its bytes are durable. The next process removes the
//! marker durably before its first append. So a marker always names the end of an undamaged
//! journal, unless somebody mixed the files of different copies of the data directory.

use std::{fmt, path::Path};

use crate::{
    block::DataId,
    chain_point::{CHAIN_POINT_BYTES, ChainPoint},
    directory::MARKER_FILE,
    disk::{Disk, DiskError, FileAccess, remove_if_present},
    error::JournalError,
    layout::{checksum_before_last_field, field, put},
    unfinished::{UNFINISHED_SUFFIX, create_unfinished},
};

/// The content of the marker file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CleanStop {
    /// The marker does not exist: the last process crashed or still runs, or the journal is new.
    NoMarker,
    /// The journal ended at this point, and all blocks before this point are durable.
    At(ChainPoint),
    /// The marker exists but cannot be read or is damaged. The stop was clean nevertheless, because a marker exists
    /// only after a clean stop.
    Unreadable,
}

impl fmt::Display for CleanStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CleanStop::NoMarker => f.write_str("absent"),
            CleanStop::At(end) => write!(f, "block {} ends at {}", end.last_block_sequence(), end.position),
            CleanStop::Unreadable => f.write_str("unreadable"),
        }
    }
}

/// Whether the marker of a clean stop exists, and whether it names the end of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkerState {
    /// The marker does not exist.
    Absent,
    /// The marker names the end of the journal.
    Here,
    /// The marker names another point, or cannot be read.
    Elsewhere,
}

const MARKER_BYTES: usize = 128;
const MAGIC: [u8; 4] = *b"TLYS";
const VERSION: u16 = 1;

type MarkerBytes = [u8; MARKER_BYTES];

// ===== impl CleanStop =====

impl CleanStop {
    /// Reads the marker in the directory `journal` of the data directory `data_id`. If the file exists but can't be
    /// read, returns [`CleanStop::Unreadable`] and logs a warning, because the blocks can be read without the marker.
    ///
    /// # Errors
    /// If the file can't be opened, because it is then unknown whether the marker exists. A retry can succeed.
    pub(super) fn read(disk: &dyn Disk, journal: &Path, data_id: DataId) -> Result<Self, JournalError> {
        let path = journal.join(MARKER_FILE);
        let mut bytes = [0; MARKER_BYTES];
        let file = match disk.open(&path, FileAccess::Read) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(CleanStop::NoMarker),
            // If it is unknown whether the marker exists, recovery can't tell whether a damaged last block was
            // durable.
            Err(error) => return Err(error.into()),
        };
        match file.read_at(0, &mut bytes) {
            Err(error) => tracing::warn!(%error, "could not read the marker of the last clean stop"),
            Ok(_) => {
                if let Some(end) = decode(&bytes, data_id) {
                    return Ok(CleanStop::At(end));
                }
                tracing::warn!(
                    file = %path.display(),
                    "the marker of the last clean stop is damaged, or belongs to another data directory or version"
                );
            }
        }
        Ok(CleanStop::Unreadable)
    }

    /// Returns whether the marker exists, readable or not.
    pub(super) fn is_marked(&self) -> bool {
        *self != CleanStop::NoMarker
    }
}

/// Writes the marker, durably, for a journal that ends at `end`. All blocks before `end` must be durable.
pub(super) fn write(
    disk: &dyn Disk,
    journal: &Path,
    data_id: DataId,
    end: &ChainPoint,
) -> Result<(), JournalError> {
    let unfinished = journal.join(format!("{MARKER_FILE}{UNFINISHED_SUFFIX}"));
    let file = create_unfinished(disk, &unfinished)?;
    file.write_at(0, &encode(data_id, end))?;
    file.sync_all()?;
    disk.rename(&unfinished, &journal.join(MARKER_FILE))?;
    Ok(disk.sync_dir(journal)?)
}

/// Removes the marker, durably.
pub(super) fn remove(disk: &dyn Disk, journal: &Path) -> Result<(), DiskError> {
    remove_if_present(disk, &journal.join(MARKER_FILE))?;
    disk.sync_dir(journal)
}

fn encode(data_id: DataId, end: &ChainPoint) -> MarkerBytes {
    let mut bytes = [0; MARKER_BYTES];
    put::<0, 4, _>(&mut bytes, MAGIC);
    put::<4, 2, _>(&mut bytes, VERSION.to_le_bytes());
    put::<8, 16, _>(&mut bytes, *data_id.as_bytes());
    put::<24, CHAIN_POINT_BYTES, _>(&mut bytes, end.to_bytes());
    let checksum = checksum_before_last_field(&bytes);
    put::<124, 4, _>(&mut bytes, checksum.to_le_bytes());
    bytes
}

/// Decodes the point in `bytes`. Returns `None` if the marker is damaged or belongs to another directory or version.
fn decode(bytes: &MarkerBytes, data_id: DataId) -> Option<ChainPoint> {
    let end = ChainPoint::from_bytes(&field::<24, CHAIN_POINT_BYTES, _>(bytes));
    // `data_id` and `end` determine all bytes of a marker, so this comparison checks the checksum and every field.
    (encode(data_id, &end) == *bytes).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockHash, Position};

    #[test]
    fn a_marker_decodes_and_every_changed_bit_is_detected() {
        let data_id = DataId::from_bytes([3; 16]);
        let end = ChainPoint {
            position: Position::new(2, 4096),
            block_sequence: 77,
            previous_hash: BlockHash([9; 32]),
            previous_position: Position::new(2, 1024),
        };
        let bytes = encode(data_id, &end);
        assert_eq!(decode(&bytes, data_id), Some(end));
        assert_eq!(decode(&bytes, DataId::from_bytes([4; 16])), None);
        for bit in 0..MARKER_BYTES * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&changed, data_id), None, "bit {bit}");
        }
    }
}
