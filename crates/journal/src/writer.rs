//! Appending to the journal.

use std::{sync::Arc, time::Duration};

use crate::{
    block::{BlockBuffer, BlockHash, BlockHeader, BlockMeta, DataId},
    chain_point::ChainPoint,
    clean_stop::{self, MarkerState},
    directory::DataDirectory,
    disk::DiskFile,
    error::JournalError,
    geometry::Geometry,
    prepare::SegmentPool,
    stopwatch::now,
};

/// Appends blocks, each durable before the next one is written. It belongs to one thread.
#[derive(Debug)]
pub struct JournalWriter {
    pool: Arc<SegmentPool>,
    data_id: DataId,
    geometry: Geometry,
    active_segment: u32,
    active: Arc<dyn DiskFile>,
    end: ChainPoint,
    marker: MarkerState,
    poisoned: bool,
}

/// What an append did. The block is durable.
#[derive(Debug, Clone, Copy)]
pub struct AppendReceipt {
    /// Where the journal stands now.
    pub end: ChainPoint,
    /// The number of the block.
    pub block_sequence: u64,
    /// Its hash.
    pub block_hash: BlockHash,
    /// Bytes written: header, body and padding.
    pub bytes_written: u64,
    /// How long the write took.
    pub write_duration: Duration,
    /// How long the sync took.
    pub sync_duration: Duration,
    /// Whether the block is the first of a segment: time to wake the [`super::SegmentPreparer`].
    pub segment_started: bool,
}

// ===== impl JournalWriter =====

impl JournalWriter {
    /// A writer that goes on at `end`, whose segment exists.
    ///
    /// The marker stays until the first append: a process that appends nothing leaves the stop as clean as it was.
    pub(super) fn new(
        directory: &DataDirectory,
        pool: Arc<SegmentPool>,
        end: ChainPoint,
        marker: MarkerState,
    ) -> Result<Self, JournalError> {
        let active_segment = end.position.segment();
        Ok(JournalWriter {
            active: pool.open_existing(active_segment)?,
            pool,
            data_id: directory.data_id(),
            geometry: directory.geometry(),
            active_segment,
            end,
            marker,
            poisoned: false,
        })
    }

    /// Appends a block and makes it durable: one write and one sync. `block` keeps its body.
    ///
    /// # Errors
    /// After any error the writer is poisoned: what is durable is unknown, and every further append is refused with
    /// [`JournalError::Poisoned`]. The sync is never tried again: a second one may succeed though the system has thrown
    /// the block away.
    ///
    /// # Panics
    /// When the block was placed elsewhere than at [`JournalWriter::end`]: records would be found where they are not.
    pub fn append(
        &mut self,
        meta: &BlockMeta,
        block: &mut BlockBuffer,
    ) -> Result<AppendReceipt, JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        // Taken back at the very end, so that neither an error nor a panic leaves a way on.
        self.poisoned = true;
        assert_eq!(
            meta.position, self.end.position,
            "the block was placed elsewhere than the journal ends"
        );
        let header = self.header(meta, block)?;
        if self.marker != MarkerState::Absent {
            clean_stop::remove(self.pool.disk(), self.pool.journal())?;
            self.marker = MarkerState::Absent;
        }
        let block_hash = block.seal(&header);
        let segment_started = meta.position.segment() != self.active_segment;
        if segment_started {
            self.active = self.pool.activate(meta.position.segment())?;
            self.active_segment = meta.position.segment();
        }

        let started = now();
        let offset = u64::from(meta.position.offset());
        let bytes_written =
            block.with_padding(|bytes| self.active.write_at(offset, bytes).map(|()| bytes.len() as u64))?;
        let written = now();
        self.active.sync_data()?;
        let sync_duration = written.elapsed();

        self.end = self.end.after(&header, block_hash, self.geometry);
        self.poisoned = false;
        Ok(AppendReceipt {
            end: self.end,
            block_sequence: header.block_sequence,
            block_hash,
            bytes_written,
            write_duration: written.saturating_duration_since(started),
            sync_duration,
            segment_started,
        })
    }

    /// Marks that the journal ends here, in order, and takes no more blocks: the next start then knows which block was
    /// durable last, and can tell damage to it from a write that a crash cut short.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`] when an append failed, or this was done before: what is durable may be unknown.
    /// [`JournalError::Disk`] when the disk refuses; then there is no marker, or a right one.
    pub fn finish(&mut self) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        self.poisoned = true;
        if self.marker != MarkerState::Here {
            clean_stop::write(self.pool.disk(), self.pool.journal(), self.data_id, &self.end)?;
            self.marker = MarkerState::Here;
        }
        Ok(())
    }

    /// Where the journal stands after the last durable block. A checkpoint of the state after that block stores it.
    #[must_use]
    pub fn end(&self) -> ChainPoint {
        self.end
    }

    /// Whether an append failed, or the journal is finished, so that no block is taken any more.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn header(&self, meta: &BlockMeta, block: &BlockBuffer) -> Result<BlockHeader, JournalError> {
        let block_bytes_max = self.geometry.block_bytes_max();
        let body_bytes = block.body_bytes();
        let too_large = JournalError::BlockTooLarge {
            body_bytes,
            block_bytes_max,
        };
        let body_bytes = u32::try_from(body_bytes)
            .ok()
            .filter(|bytes| *bytes <= block_bytes_max)
            .ok_or(too_large)?;
        Ok(BlockHeader {
            position: meta.position,
            block_sequence: self.end.block_sequence,
            first_entry: meta.first_entry,
            first_sequence: meta.first_sequence,
            base_time_ns: meta.base_time_ns,
            record_count: meta.record_count,
            body_bytes,
            data_id: self.data_id,
            previous_hash: self.end.previous_hash,
            body_crc: crc32c::crc32c(block.body()),
        })
    }
}
