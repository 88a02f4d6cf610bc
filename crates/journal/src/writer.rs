//! Appends blocks to the journal.

use std::{sync::Arc, time::Duration};

use crate::{
    block::{BlockBuffer, BlockHash, BlockHeader, BlockMeta, DataId},
    chain_point::ChainPoint,
    clean_stop::{self, MarkerState},
    directory::DataDirectory,
    disk::{DiskError, DiskFile},
    error::JournalError,
    geometry::block_span_bytes,
    mutation::planted,
    prepare::SegmentPool,
    sealer::BlockSealer,
    segment_file::segment_after,
    stamp::BlockStamp,
    stopwatch::now,
};

/// Appends blocks. Each block is durable before the next block is written. One thread owns the writer.
#[derive(Debug)]
pub struct JournalWriter {
    pool: Arc<SegmentPool>,
    data_id: DataId,
    active_segment: u32,
    active: Arc<dyn DiskFile>,
    /// The end of this sealer is the end of the durable blocks.
    sealer: BlockSealer,
    marker: MarkerState,
    poisoned: bool,
    /// The copy of a sealed block with its padding. The memory is reused for each block.
    padded: Vec<u8>,
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
            active_segment,
            sealer: BlockSealer::new(directory.data_id(), directory.geometry(), end),
            marker,
            poisoned: false,
            padded: Vec::new(),
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
        let (header, next) = self.sealer.seal_next(meta, BlockStamp::default(), block)?;
        block.with_padding(|bytes| self.write(&header, next, bytes))
    }

    /// Appends a block that was sealed before, and makes it durable with one write and one sync. `bytes` are its header and its body.
    /// The caller has checked that the block is undamaged and follows the last one.
    ///
    /// # Errors
    /// As [`JournalWriter::append`].
    ///
    /// # Panics
    /// If the block is damaged, or does not follow the last block. A panic also poisons the writer.
    pub fn append_sealed(&mut self, bytes: &[u8]) -> Result<AppendReceipt, JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned);
        }
        self.poisoned = true;
        let (header, next) = self.sealer.check_next(bytes);
        let mut padded = std::mem::take(&mut self.padded);
        padded.clear();
        padded.extend_from_slice(bytes);
        padded.resize(block_span_bytes(header.body_bytes) as usize, 0);
        let written = self.write(&header, next, &padded);
        self.padded = padded;
        written
    }

    /// Writes the block with this `header` to the end of the journal, and syncs it. `bytes` are the padded block, and `next` is the
    /// point after it. The caller has set [`JournalWriter::poisoned`].
    fn write(
        &mut self,
        header: &BlockHeader,
        next: ChainPoint,
        bytes: &[u8],
    ) -> Result<AppendReceipt, JournalError> {
        self.check_segment(header);
        if self.marker != MarkerState::Absent && !planted("keep_clean_marker") {
            clean_stop::remove(self.pool.disk(), self.pool.journal())?;
            self.marker = MarkerState::Absent;
        }
        if planted("answer_before_sync") {
            self.active.sync_data()?;
        }
        let segment_started = header.position.segment() != self.active_segment;
        if segment_started {
            self.active = self.pool.activate(header.position.segment())?;
            self.active_segment = header.position.segment();
        }

        let span_bytes = block_span_bytes(header.body_bytes);
        assert_eq!(
            bytes.len(),
            span_bytes as usize,
            "the written bytes must be as long as the space that was computed for the block"
        );
        let offset = u64::from(header.position.offset());
        let started = now();
        let result = self.active.write_at(offset, bytes);
        if !planted("ignore_write_error") {
            result?;
        }
        let written = now();
        self.sync()?;
        let sync_duration = written.elapsed();

        self.sealer.advance(next);
        self.poisoned = false;
        Ok(AppendReceipt {
            end: next,
            block_sequence: header.block_sequence,
            block_hash: next.previous_hash,
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
            let end = self.sealer.end();
            clean_stop::write(self.pool.disk(), self.pool.journal(), self.data_id, &end)?;
            self.marker = MarkerState::Here;
        }
        Ok(())
    }

    /// Returns the point after the last durable block. A checkpoint of the state after that block stores this point.
    #[must_use]
    pub fn end(&self) -> ChainPoint {
        self.sealer.end()
    }

    /// Returns whether the writer accepts no more blocks, because an append failed or the journal is finished.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
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

    /// Asserts that the block is in the active segment, or is the first block of the next segment.
    fn check_segment(&self, header: &BlockHeader) {
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
