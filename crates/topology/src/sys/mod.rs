//! System calls that the standard library does not offer, and files in `/proc`. The only module of this crate with
//! `unsafe` code.
//!
//! Every function here is a thin, safe wrapper. It owns the buffers that it passes to the kernel, returns a failed call
//! as an [`std::io::Error`] with its errno, and makes no decisions.

#[expect(
    unsafe_code,
    reason = "affinity, scheduling class and capabilities have no safe interface in std; each block carries its SAFETY note"
)]
pub mod affinity;
pub mod proc;
