//! System calls that the standard library does not offer. This is the only module of the crate with `unsafe` code.
//!
//! Every function is a thin, safe wrapper. It owns the buffers that it passes to the kernel, returns a failed call as an
//! [`std::io::Error`] with its errno, and makes no decisions.

#[expect(
    unsafe_code,
    reason = "std has no safe interface for resource limits and free disk space; each block has a SAFETY note"
)]
pub mod limits;
#[expect(
    unsafe_code,
    reason = "the allocator's C function has no safe interface; the declaration marks it as safe"
)]
pub mod memory;
#[expect(
    unsafe_code,
    reason = "registering a descriptor with tokio is an unsafe call; the block has a SAFETY note"
)]
pub mod stdout;
#[expect(
    unsafe_code,
    reason = "registering a descriptor with tokio is an unsafe call; the block has a SAFETY note"
)]
pub mod timer;
