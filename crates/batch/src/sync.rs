//! The synchronisation primitives that `pool`, `ring`, `slot` and `waker_list` use. The loom models compile these four
//! files with loom's primitives instead of this file, so the models check the same source text.

pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

pub(crate) use atomic_waker::AtomicWaker;
pub(crate) use crossbeam_queue::ArrayQueue;
pub(crate) use parking_lot::Mutex;
