//! `tally.v1.EngineService`: reports on the circuits, the batches, the threads, the clock and the replica, changes
//! circuits, confirms steps of the clock, and lets a leader resign.

pub(crate) mod batch_stats;
pub(crate) mod circuit;
mod circuit_change;
mod clock;
pub(crate) mod replica;
pub(crate) mod service;
pub(crate) mod topology;
pub(crate) mod values;
mod watch;
