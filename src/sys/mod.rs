//! The only place of the crate that talks to the kernel below the standard library.
//!
//! Every function here is a thin, safe door: it owns the buffers that it lends to the kernel, turns a
//! failed call into an [`std::io::Error`] with its errno, and decides nothing.

#[expect(
    unsafe_code,
    reason = "limits and room on disks have no safe interface in std; each block carries its SAFETY note"
)]
pub mod limits;
#[expect(
    unsafe_code,
    reason = "the allocator's own functions have no safe interface; the declaration says why it is safe"
)]
pub mod memory;
#[expect(
    unsafe_code,
    reason = "a descriptor is registered with tokio by an unsafe call; the block carries its SAFETY note"
)]
pub mod timer;
