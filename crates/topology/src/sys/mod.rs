//! The only place of this crate that talks to the kernel below the standard library.
//!
//! Every function here is a thin, safe wrapper: it owns the buffers that it lends to the kernel, turns a failed call
//! into an [`std::io::Error`] with its errno, and decides nothing. Policy lives in the modules above.

#[expect(
    unsafe_code,
    reason = "affinity, scheduling class and capabilities have no safe interface in std; each block carries its SAFETY note"
)]
pub mod affinity;
pub mod proc;
