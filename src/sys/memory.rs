//! The allocator, where it is asked for more than memory.

// So that its library is there for the function below, whoever links this crate.
use mimalloc as _;

unsafe extern "C" {
    /// Of mimalloc. Frees what the calling thread's heap holds and does not use; with `force`, for the system as well.
    safe fn mi_collect(force: bool);
}

/// Gives the system what the allocator keeps of memory that the calling thread has freed. It takes milliseconds. Without
/// mimalloc as the global allocator it does nothing.
pub fn give_back() {
    mi_collect(true);
}
