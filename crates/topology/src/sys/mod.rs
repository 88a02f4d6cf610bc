//! The only module of this crate that calls the kernel below the standard library.
//!
//! Every function here is a thin, safe wrapper. It owns the buffers that it passes to the kernel, and turns a failed
//! call into an [`std::io::Error`] with its errno. The decisions are made in the modules above.

#[expect(
    unsafe_code,
    reason = "affinity, scheduling class and capabilities have no safe interface in std; each block carries its SAFETY note"
)]
pub mod affinity;
pub mod proc;
