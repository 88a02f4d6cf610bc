//! `tally.v1.EngineService`: reports on the circuits, the batches, the threads and the clock, changes circuits, and
//! confirms steps of the clock.

pub(crate) mod batch_stats;
pub(crate) mod circuit;
mod circuit_change;
mod clock;
pub(crate) mod service;
pub(crate) mod topology;
pub(crate) mod values;
mod watch;
