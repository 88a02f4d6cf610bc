//! Fixed places of fields in fixed-size headers and trailers, checked when the program is compiled.

/// The `N` bytes that stand at `AT`.
#[expect(
    clippy::indexing_slicing,
    reason = "the const assertion proves every index to be in range"
)]
pub(super) fn field<const AT: usize, const N: usize, const L: usize>(bytes: &[u8; L]) -> [u8; N] {
    const { assert!(AT + N <= L) };
    std::array::from_fn(|index| bytes[AT + index])
}

/// Puts `value` at `AT`.
pub(super) fn put<const AT: usize, const N: usize, const L: usize>(bytes: &mut [u8; L], value: [u8; N]) {
    const { assert!(AT + N <= L) };
    bytes[AT..AT + N].copy_from_slice(&value);
}

/// The CRC-32C of everything before the last four bytes, where headers and trailers keep it.
pub(super) fn checksum_before_last_field<const L: usize>(bytes: &[u8; L]) -> u32 {
    const { assert!(L > CHECKSUM_BYTES) };
    let (covered, _) = bytes.split_at(L - CHECKSUM_BYTES);
    crc32c::crc32c(covered)
}

/// Bytes of a CRC-32C.
pub(super) const CHECKSUM_BYTES: usize = 4;

/// `bytes` in lower-case hexadecimal.
pub(super) fn write_hex(f: &mut std::fmt::Formatter<'_>, bytes: &[u8]) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
