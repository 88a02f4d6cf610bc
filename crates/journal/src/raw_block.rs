//! Checks the bytes of a block that comes from elsewhere, such as a replicated log.

use thiserror::Error;

use crate::{
    block::{BlockHash, BlockHeader, DataId, HEADER_BYTES, HeaderDefect},
    geometry::Geometry,
};

/// Why bytes are not a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RawBlockDefect {
    /// There are fewer bytes than a header has.
    #[error("{0} bytes are too few for a header")]
    Short(usize),
    /// The header is damaged, or belongs to another directory.
    #[error(transparent)]
    Header(#[from] HeaderDefect),
    /// The number of bytes does not agree with the header.
    #[error("the block has {found} bytes, but its header states {stated}")]
    Length {
        /// Number of bytes.
        found: usize,
        /// Length of the header, plus the length of the body that the header states, in bytes.
        stated: usize,
    },
    /// The body does not have the checksum that the header states.
    #[error("the checksum of the body is wrong")]
    BodyChecksum,
}

/// Checks `bytes`, the header and the body of a block without padding: lengths, checksums, version, kind, the directory `data_id`,
/// and the bounds of position, number and length. Returns the header and the hash of the block. The bounds ensure that another block
/// can follow a block of a journal: its number and its position alone do not make [`crate::ChainPoint::after`] panic.
///
/// The caller checks whether the block is the next one of its chain.
///
/// # Errors
/// [`RawBlockDefect`]; never panics.
pub fn parse_block(
    bytes: &[u8],
    data_id: DataId,
    geometry: Geometry,
) -> Result<(BlockHeader, BlockHash), RawBlockDefect> {
    let (header, body) = bytes
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(RawBlockDefect::Short(bytes.len()))?;
    let header = BlockHeader::decode(header)?;
    header.check_place(data_id, header.position, geometry.block_bytes_max())?;
    if !geometry.may_hold_block(header.position) || header.position.segment() == u32::MAX {
        return Err(HeaderDefect::Misplaced(header.position).into());
    }
    // A record that occurs only in a replicated log is not in the chain, so any number is allowed.
    if !header.kind.is_only_in_log() && matches!(header.block_sequence, 0 | u64::MAX) {
        return Err(HeaderDefect::Number(header.block_sequence).into());
    }
    if body.len() != header.body_bytes as usize {
        return Err(RawBlockDefect::Length {
            found: bytes.len(),
            stated: HEADER_BYTES + header.body_bytes as usize,
        });
    }
    if !header.is_body(body) {
        return Err(RawBlockDefect::BodyChecksum);
    }
    Ok((header, BlockHash::of_block(bytes)))
}
