//! The synchronisation primitives of this module, in one place, so that the loom models replace them with loom's and
//! check the very same sources.

pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

pub(crate) use atomic_waker::AtomicWaker;
pub(crate) use crossbeam_queue::ArrayQueue;
pub(crate) use parking_lot::Mutex;
