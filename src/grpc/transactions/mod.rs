//! `tally.v1.TransactionService`: reads the bytes of a request into a batch for the engine, and writes the outcomes as
//! the answer.

mod answer_memory;
mod collect;
pub(super) mod decode;
mod encode;
pub(super) mod lookup;
pub(crate) mod service;
pub(super) mod split;
mod stream;
pub(super) mod wire;
