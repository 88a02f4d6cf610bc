//! `tally.v1.EngineService`: reports on the circuits, the batches and the threads, and changes circuits.

pub(crate) mod batch_stats;
pub(crate) mod circuit;
pub(crate) mod circuit_change;
pub(crate) mod service;
pub(crate) mod topology;
mod values;
mod watch;
