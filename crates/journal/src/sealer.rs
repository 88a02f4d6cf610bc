//! Seals blocks: writes the header in front of the body, and computes the point of the hash chain after the block.

use crate::{
    block::{BlockBuffer, BlockHeader, BlockMeta, DataId},
    chain_point::ChainPoint,
    error::JournalError,
    geometry::Geometry,
    raw_block::parse_block,
    stamp::BlockStamp,
};

/// Continues the hash chain from a point, without writing: seals blocks in memory. A replicated log sends the
/// [bytes](BlockBuffer::sealed_bytes) of a sealed block, and [appends](crate::JournalWriter::append_sealed) them to the journal later.
#[derive(Debug, Clone)]
pub struct BlockSealer {
    data_id: DataId,
    geometry: Geometry,
    end: ChainPoint,
}

// ===== impl BlockSealer =====

impl BlockSealer {
    /// Makes a sealer that continues the chain of the directory `data_id` at `end`.
    #[must_use]
    pub const fn new(data_id: DataId, geometry: Geometry, end: ChainPoint) -> Self {
        BlockSealer {
            data_id,
            geometry,
            end,
        }
    }

    /// Returns the point after the block that was sealed last.
    #[must_use]
    pub const fn end(&self) -> ChainPoint {
        self.end
    }

    /// Seals the body in `block` as the next block: writes the header into the buffer. Returns the point after the block.
    ///
    /// # Errors
    /// [`JournalError::BlockTooLarge`] if the body is too long. In this case, nothing has changed.
    ///
    /// # Panics
    /// If the position in `meta` is not [`BlockSealer::end`], because readers would not find the records at their
    /// positions, or if `stamp` contradicts itself or `meta`, because readers would not accept the block.
    pub fn seal(
        &mut self,
        meta: &BlockMeta,
        stamp: BlockStamp,
        block: &mut BlockBuffer,
    ) -> Result<ChainPoint, JournalError> {
        self.seal_with_header(meta, stamp, block).map(|(_, next)| next)
    }

    /// Does the same as [`BlockSealer::seal`], and also returns the header of the block.
    ///
    /// # Errors
    /// As [`BlockSealer::seal`].
    ///
    /// # Panics
    /// As [`BlockSealer::seal`].
    pub fn seal_with_header(
        &mut self,
        meta: &BlockMeta,
        stamp: BlockStamp,
        block: &mut BlockBuffer,
    ) -> Result<(BlockHeader, ChainPoint), JournalError> {
        let (header, next) = self.seal_next(meta, stamp, block)?;
        self.end = next;
        Ok((header, next))
    }

    /// Does the same as [`BlockSealer::seal`], but the sealer stays at the same point. The caller calls [`BlockSealer::advance`] after
    /// it has written the block.
    pub(super) fn seal_next(
        &self,
        meta: &BlockMeta,
        stamp: BlockStamp,
        block: &mut BlockBuffer,
    ) -> Result<(BlockHeader, ChainPoint), JournalError> {
        let header = self.header(meta, stamp, block)?;
        // At another position, the block would overwrite another block, or recovery would never find it.
        assert_eq!(
            header.position, self.end.position,
            "the position of the block must be the end of the journal"
        );
        let hash = block.seal(&header);
        Ok((header, self.end.after(&header, hash, self.geometry)))
    }

    /// Checks that `bytes` are the next block, sealed. Returns its header, and the point after it.
    ///
    /// # Panics
    /// If `bytes` are not an undamaged block that follows the last one.
    pub(super) fn check_next(&self, bytes: &[u8]) -> (BlockHeader, ChainPoint) {
        let (header, hash) = match parse_block(bytes, self.data_id, self.geometry) {
            Ok(parsed) => parsed,
            Err(defect) => panic!("the block to append must be undamaged: {defect}"),
        };
        assert!(
            !header.kind.is_only_in_log(),
            "a block of the kind {} is never appended to a journal",
            header.kind
        );
        (header, self.end.after(&header, hash, self.geometry))
    }

    pub(super) const fn advance(&mut self, next: ChainPoint) {
        self.end = next;
    }

    fn header(
        &self,
        meta: &BlockMeta,
        stamp: BlockStamp,
        block: &BlockBuffer,
    ) -> Result<BlockHeader, JournalError> {
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
            term: stamp.term,
            writer: stamp.writer,
            kind: stamp.kind,
        })
    }
}
