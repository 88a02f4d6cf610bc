//! Calls to the allocator other than allocation.

// Links the C library that defines the function below, also into programs that have another global allocator.
use mimalloc as _;

unsafe extern "C" {
    /// Function of mimalloc. Frees unused memory of the calling thread's heap; with `force`, returns it to the system.
    safe fn mi_collect(force: bool);
}

/// Returns the memory that the calling thread has freed to the operating system. Takes milliseconds. Has no effect if mimalloc is
/// not the global allocator.
pub fn give_back() {
    mi_collect(true);
}
