//! Returns unused memory of the allocator mimalloc to the operating system.

// This import links the C library that defines `mi_collect`, even into programs with another global allocator.
use mimalloc as _;

unsafe extern "C" {
    /// A function of mimalloc. Frees unused memory of the calling thread's heap. If `force` is true, returns this
    /// memory to the operating system.
    safe fn mi_collect(force: bool);
}

/// Returns memory to the operating system that the calling thread has freed. Takes a few milliseconds. Has no effect if
/// mimalloc is not the global allocator.
pub fn give_back() {
    mi_collect(true);
}
