//! Appends blocks to the journal.

use std::{sync::Arc, time::Duration};

use crate::{
    block::{BlockBuffer, BlockHash, BlockHeader, BlockMeta, DataId},
    chain_point::ChainPoint,
    clean_stop::{self, MarkerState},
    directory::DataDirectory,
    disk::{DiskError, DiskFile},
    error::JournalError,
    geometry::{Geometry, block_span_bytes},
    mutation::planted,
    prepare::SegmentPool,
    segment_file::segment_after,
    stopwatch::now,
};

/// Appends blocks. Each block is durable before the next block is written. One thread owns the writer.
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

/// The result of an append. The block is durable.
#[derive(Debug, Clone, Copy)]
pub struct AppendReceipt {
    /// The end of the journal after the append.
    pub end: ChainPoint,
    /// The sequence of the block.
    pub block_sequence: u64,
    /// The hash of the block.
    pub block_hash: BlockHash,
    /// Length of the header, the body and the padding together, in bytes.
    pub bytes_written: u64,
    /// Duration of the write.
    pub write_duration: Duration,
    /// Duration of the sync.
    pub sync_duration: Duration,
    /// Whether the block is the first of a segment. If so, the [`crate::SegmentPreparer`] must prepare the next
    /// segment.
    pub segment_started: bool,
}

// ===== impl JournalWriter =====

impl JournalWriter {
    /// Makes a writer that continues at `end`. `active_segment` must exist. It is the segment of `end`, or the segment
    /// before it if `end` is the start of a segment.
    ///
    /// The marker of a clean stop stays until the first append. So the marker stays valid if the process appends
    /// nothing.
    pub(super) fn new(
        directory: &DataDirectory,
        pool: Arc<SegmentPool>,
        active_segment: u32,
        end: ChainPoint,
        marker: MarkerState,
    ) -> Result<Self, JournalError> {
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

    /// Appends a block and makes it durable with one write and one sync. `block` keeps its body.
    ///
    /// # Errors
    /// After any error the writer is poisoned: it is unknown which blocks are durable, and every later append fails
    /// with [`JournalError::Poisoned`]. The writer never repeats a failed sync, because a second sync may succeed
    /// although the operating system has discarded the block.
    ///
    /// # Panics
    /// If the position in `meta` is not [`JournalWriter::end`], because readers would not find the records at their
    /// positions. A panic also poisons the writer.
    pub fn append(
        &mut self,
        meta: &BlockMeta,
        block: &mut BlockBuffer,
    ) -> Result<AppendReceipt, JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        // The field is set before the work and reset only after success, so the writer stays poisoned after an error
        // or a panic.
        self.poisoned = true;
        let header = self.header(meta, block)?;
        self.check_follows_end(&header);
        if self.marker != MarkerState::Absent && !planted("keep_clean_marker") {
            clean_stop::remove(self.pool.disk(), self.pool.journal())?;
            self.marker = MarkerState::Absent;
        }
        let block_hash = block.seal(&header);
        let next = self.end.after(&header, block_hash, self.geometry);
        if planted("answer_before_sync") {
            self.active.sync_data()?;
        }
        let segment_started = header.position.segment() != self.active_segment;
        if segment_started {
            self.active = self.pool.activate(header.position.segment())?;
            self.active_segment = header.position.segment();
        }

        let span_bytes = block_span_bytes(header.body_bytes);
        let offset = u64::from(header.position.offset());
        let started = now();
        let result = block.with_padding(|bytes| {
            assert_eq!(
                bytes.len(),
                span_bytes as usize,
                "the written bytes must be as long as the space that was computed for the block"
            );
            self.active.write_at(offset, bytes)
        });
        if !planted("ignore_write_error") {
            result?;
        }
        let written = now();
        self.sync()?;
        let sync_duration = written.elapsed();

        self.end = next;
        self.poisoned = false;
        Ok(AppendReceipt {
            end: next,
            block_sequence: header.block_sequence,
            block_hash,
            bytes_written: u64::from(span_bytes),
            write_duration: written.saturating_duration_since(started),
            sync_duration,
            segment_started,
        })
    }

    /// Writes the marker of a clean stop and accepts no more blocks. The marker names the last durable block, so that
    /// the next start can distinguish damage to this block from a write that a crash interrupted.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`] if an append failed, because it is then unknown which blocks are durable, or if
    /// `finish` was called before. [`JournalError::Disk`] if the disk fails. In that case, the marker either does
    /// not exist or is correct.
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

    /// Returns the point after the last durable block. A checkpoint of the state after that block stores this point.
    #[must_use]
    pub fn end(&self) -> ChainPoint {
        self.end
    }

    /// Returns whether the writer accepts no more blocks, because an append failed or the journal is finished.
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

    /// Makes the block that was written last durable.
    fn sync(&self) -> Result<(), DiskError> {
        if planted("skip_fsync") || planted("answer_before_sync") {
            return Ok(());
        }
        match self.active.sync_data() {
            Err(_) if planted("retry_failed_fsync") => self.active.sync_data(),
            synced => synced,
        }
    }

    /// Asserts that the block's position is directly after the last durable block. At another position, the block would
    /// overwrite another block, or recovery would never find it.
    fn check_follows_end(&self, header: &BlockHeader) {
        assert_eq!(
            header.position, self.end.position,
            "the position of the block must be the end of the journal"
        );
        let segment = header.position.segment();
        assert!(
            segment == self.active_segment
                || (segment == segment_after(self.active_segment) && header.position.offset() == 0),
            "the block at {} must be in segment {} or at the start of the next segment",
            header.position,
            self.active_segment
        );
    }
}
