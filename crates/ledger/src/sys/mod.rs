//! The only module of this crate that contains `unsafe` code.

#[expect(
    unsafe_code,
    reason = "the prefetch instruction is an intrinsic; its block has a SAFETY comment"
)]
pub(crate) mod prefetch;
