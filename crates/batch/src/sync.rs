//! The synchronisation primitives of the lock-free files. The loom models replace this file with loom's primitives, and so
//! check the same source files.

pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

pub(crate) use atomic_waker::AtomicWaker;
pub(crate) use crossbeam_queue::ArrayQueue;
pub(crate) use parking_lot::Mutex;
