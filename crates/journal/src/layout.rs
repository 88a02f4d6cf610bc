//! Reads and writes fields at fixed offsets of headers and trailers. The compiler checks that each field is inside the
//! array.

/// Returns the `N` bytes at offset `AT` of `bytes`, which are `L` bytes long.
#[expect(
    clippy::indexing_slicing,
    reason = "the const assertion proves that every index is in range"
)]
pub(super) fn field<const AT: usize, const N: usize, const L: usize>(bytes: &[u8; L]) -> [u8; N] {
    const { assert!(AT + N <= L) };
    std::array::from_fn(|index| bytes[AT + index])
}

/// Writes the `N` bytes of `value` at offset `AT` of `bytes`, which are `L` bytes long.
pub(super) fn put<const AT: usize, const N: usize, const L: usize>(bytes: &mut [u8; L], value: [u8; N]) {
    const { assert!(AT + N <= L) };
    bytes[AT..AT + N].copy_from_slice(&value);
}

/// Returns the CRC-32C of all bytes except the last four. Headers and trailers store this checksum in their last four
/// bytes.
pub(super) fn checksum_before_last_field<const L: usize>(bytes: &[u8; L]) -> u32 {
    const { assert!(L > CHECKSUM_BYTES) };
    let (covered, _) = bytes.split_at(L - CHECKSUM_BYTES);
    crc32c::crc32c(covered)
}

/// Length of a CRC-32C, in bytes.
pub(super) const CHECKSUM_BYTES: usize = 4;

/// Writes `bytes` in lower-case hexadecimal.
pub(super) fn write_hex(f: &mut std::fmt::Formatter<'_>, bytes: &[u8]) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
