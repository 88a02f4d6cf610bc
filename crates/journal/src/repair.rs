//! Clearing away what a crash left behind the end of the journal.

use crate::{
    directory::DataDirectory,
    disk::FileAccess,
    error::{CorruptionKind, JournalError},
    geometry::block_span_bytes,
    scan::{ChainScanner, Tail},
    segment_file::segment_name,
    window::SegmentWindow,
};

/// Makes the journal on disk what `tail` says it is, durably.
///
/// Unless the last process stopped in order, the last block is written once more, as it is: if its sync had failed, it
/// may be in the system's memory only, and nothing but a new write makes a new sync write it. Sectors get the bytes that
/// they have, so a crash here does no harm.
pub(super) fn repair(directory: &DataDirectory, tail: Tail) -> Result<(), JournalError> {
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
            FileAccess::ReadWrite,
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
        let scanner = ChainScanner::new(&**disk, directory.path(), directory.format());
        let header = scanner.read_header(&mut window, position)?.map_err(|defect| {
            scanner.corrupt(
                position,
                end.last_block_sequence(),
                CorruptionKind::NoBlock { defect },
            )
        })?;
        let block = window.view(position.offset(), block_span_bytes(header.body_bytes))?;
        let file = disk.open(
            &journal.join(segment_name(position.segment())),
            FileAccess::ReadWrite,
        )?;
        if !tail.clean {
            file.write_at(u64::from(position.offset()), block)?;
        }
        file.sync_all()?;
    }
    Ok(disk.sync_dir(&journal)?)
}
