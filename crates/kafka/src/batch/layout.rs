//! The lengths, offsets and constants of the format.

/// Bytes before and including the length of a batch.
pub(super) const PREFIX_BYTES: usize = 12;
/// Bytes of a batch without records.
pub(super) const HEADER_BYTES: usize = 61;
/// Bytes before the part that the CRC covers.
pub(super) const CRC_START: usize = 21;
/// The format version.
pub(super) const MAGIC: i8 = 2;
/// The smallest record: seven fields of one byte each.
pub(super) const RECORD_BYTES_MIN: usize = 7;
/// The producer id, epoch and sequence of a batch whose producer is not idempotent.
pub(super) const NO_PRODUCER: i8 = -1;
