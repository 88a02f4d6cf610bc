//! The synchronisation types of the breaker. The files `gate.rs`, `window.rs`, `histogram.rs`, `inflight.rs`,
//! `slots.rs` and `writer.rs` import only `super::sync` and each other. The loom models in `tests/loom` compile these
//! files with loom's types instead of this file.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use crossbeam_utils::CachePadded;
