//! The repair before appends: removes what a crash left after the end of the journal.

use crate::{
    block::BlockBuffer, directory::DataDirectory, disk::FileAccess, error::JournalError,
    reader::JournalReader, scan::Tail, segment_file::segment_name,
};

/// Makes the journal on disk durably equal to what the scan found.
///
/// Unless the last process stopped cleanly, this writes the last block again, unchanged. If the sync of that block failed,
/// the block may exist only in the memory of the system, and only a new write makes a new sync write it to disk. A crash
/// during this write does no harm: every sector gets the bytes that it already has.
pub(super) fn repair(
    directory: &DataDirectory,
    reader: &JournalReader,
    tail: &Tail,
) -> Result<(), JournalError> {
    let disk = directory.disk();
    let journal = directory.journal_path();
    let end = tail.end;
    let open = |segment| disk.open(&journal.join(segment_name(segment)), FileAccess::ReadWrite);
    if let Some(torn) = tail.torn {
        tracing::warn!(
            position = %end.position,
            block_sequence = end.block_sequence,
            remains_bytes = torn.remains_bytes,
            defect = %torn.defect,
            "the last block is incomplete and is removed: a crash interrupted its write, and no client received a reply for \
             it. After a crash, damage to the last acknowledged block looks the same"
        );
        let file = open(end.position.segment())?;
        file.write_at(
            u64::from(end.position.offset()),
            &vec![0; torn.remains_bytes as usize],
        )?;
        file.sync_data()?;
    }
    for number in &tail.surplus_segments {
        disk.remove(&journal.join(segment_name(*number)))?;
    }
    if end.block_sequence > 1 {
        let position = end.previous_position;
        let file = open(position.segment())?;
        if !tail.clean {
            let mut body = Vec::new();
            let header = reader.read_block(position, &mut body)?;
            let mut block = BlockBuffer::with_capacity(body.len());
            block.push(&body);
            if block.seal(&header) != end.previous_hash {
                return Err(reader.chain_broken(&end));
            }
            block.with_padding(|bytes| file.write_at(u64::from(position.offset()), bytes))?;
        }
        file.sync_all()?;
    }
    Ok(disk.sync_dir(&journal)?)
}
