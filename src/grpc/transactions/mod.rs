//! `tally.v1.TransactionService`: from the bytes of a request to the engine's batch, and from the outcomes to the answer.

mod collect;
mod decode;
mod encode;
pub(crate) mod service;
mod split;
mod stream;
mod wire;
