//! The synchronisation types of the breaker, in one place, so that a test target can replace them by loom's.
//!
//! `gate.rs`, `window.rs`, `histogram.rs`, `inflight.rs`, `slots.rs` and `writer.rs` import only `super::sync` and each
//! other. `tests/loom` compiles the same files with loom's atomics.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use crossbeam_utils::CachePadded;
