//! The marker of a clean stop: where the journal ended when its process stopped in order.
//!
//! Without the marker, a damaged last block looks like the remains of a write that a crash cut short, and a start clears
//! it. With the marker, a start knows which block was durable last, and refuses a journal that has lost it.
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
//! | 124 | 4 | CRC-32C of the 124 bytes before |
//!
//! The marker gets its name when its bytes are durable, and it is removed, durably, before the first append of the next
//! process. So a journal that goes on behind its marker was put together from different copies.

use std::path::Path;

use crate::{
    block::DataId,
    chain_point::{CHAIN_POINT_BYTES, ChainPoint},
    directory::{UNFINISHED_SUFFIX, create_unfinished},
    disk::{Disk, DiskError, FileAccess},
    error::JournalError,
    layout::{checksum_before_last_field, field, put},
};

/// What is known of the last stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CleanStop {
    /// There is no marker: the last process crashed, is the first one, or is still running.
    Unmarked,
    /// The journal ended here, and everything before is durable.
    At(ChainPoint),
    /// There is a marker, but what it says is lost. The stop was clean all the same: the marker has its name only since
    /// its bytes were durable.
    Unreadable,
}

/// Whether there is a marker of a clean stop, as the writer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkerState {
    /// There is none.
    Absent,
    /// It marks the end of the journal.
    Here,
    /// It marks another place, or can't be read.
    Elsewhere,
}

const MARKER_FILE: &str = "CLEAN";
const MARKER_BYTES: usize = 128;
const MAGIC: [u8; 4] = *b"TLYS";
const VERSION: u16 = 1;

type MarkerBytes = [u8; MARKER_BYTES];

// ===== impl CleanStop =====

impl CleanStop {
    /// Reads the marker in the directory `journal` of the data directory `data_id`. An error of the disk is reported as
    /// [`CleanStop::Unreadable`], with a warning: the journal can be read without the marker.
    pub(super) fn read(disk: &dyn Disk, journal: &Path, data_id: DataId) -> Self {
        let path = journal.join(MARKER_FILE);
        let mut bytes = [0; MARKER_BYTES];
        let read = disk
            .open(&path, FileAccess::Read)
            .and_then(|file| file.read_at(0, &mut bytes));
        match read {
            Err(error) if error.is_not_found() => CleanStop::Unmarked,
            Err(error) => {
                tracing::warn!(%error, "the marker of the last clean stop could not be read");
                CleanStop::Unreadable
            }
            Ok(_) => decode(&bytes, data_id).map_or_else(
                || {
                    tracing::warn!(
                        file = %path.display(),
                        "the marker of the last clean stop is damaged, or of another data directory or version"
                    );
                    CleanStop::Unreadable
                },
                CleanStop::At,
            ),
        }
    }

    /// Whether there is a marker, readable or not.
    pub(super) fn is_marked(&self) -> bool {
        *self != CleanStop::Unmarked
    }
}

/// Marks that the journal ended at `end`, durably. Everything before `end` must be durable.
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
    match disk.remove(&journal.join(MARKER_FILE)) {
        Err(error) if !error.is_not_found() => return Err(error),
        Ok(()) | Err(_) => {}
    }
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

/// The point in `bytes`, if they are a whole marker of this directory.
fn decode(bytes: &MarkerBytes, data_id: DataId) -> Option<ChainPoint> {
    let end = ChainPoint::from_bytes(&field::<24, CHAIN_POINT_BYTES, _>(bytes));
    // Everything follows from the two values, so comparing the bytes checks the checksum and all other fields at once.
    (encode(data_id, &end) == *bytes).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockHash, Position};

    #[test]
    fn a_marker_comes_back_and_every_changed_bit_is_noticed() {
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
