//! The only place of this crate with `unsafe` code.

#[expect(
    unsafe_code,
    reason = "the prefetch instruction is an intrinsic; its block carries its SAFETY note"
)]
pub(crate) mod prefetch;
