//! Repairs a journal after a crash and before the first append: removes the remains of an incomplete write.

use crate::{
    block::BlockBuffer, directory::DataDirectory, disk::FileAccess, error::JournalError, mutation::planted,
    reader::JournalReader, scan::Tail, segment_file::segment_name,
};

/// Makes the journal on disk end durably where the scan found its end.
///
/// Unless the last process stopped cleanly, this function also writes the last block again, with the same bytes. The
/// reason: if the last process failed to sync that block, the block may exist only in the page cache of the operating
/// system, and the system does not write it to disk unless it is written again. A crash during this write does no harm,
/// because every sector gets the bytes that it already has.
pub(super) fn repair(
    directory: &DataDirectory,
    reader: &JournalReader,
    tail: &Tail,
) -> Result<(), JournalError> {
    let disk = directory.disk();
    let journal = directory.journal_path();
    let end = tail.end;
    let open = |segment| disk.open(&journal.join(segment_name(segment)), FileAccess::ReadWrite);
    if let Some(torn) = tail.torn.filter(|_| !planted("keep_torn_remains")) {
        tracing::warn!(
            position = %end.position,
            block_sequence = end.block_sequence,
            remains_bytes = torn.remains_bytes,
            defect = %torn.defect,
            "removed the incomplete last block: a crash interrupted its write, and no client received a reply for it. If an \
             acknowledged last block was damaged during the crash, it looks the same"
        );
        let file = open(end.position.segment())?;
        file.write_at(
            u64::from(end.position.offset()),
            &vec![0; torn.remains_bytes as usize],
        )?;
        file.sync_data()?;
    }
    if end.block_sequence > 1 {
        let position = end.previous_position;
        let file = open(position.segment())?;
        if !tail.clean && !planted("trust_page_cache_at_start") {
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
