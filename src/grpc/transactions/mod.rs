//! `tally.v1.TransactionService`: reads the bytes of a request into a batch for the engine, and writes the outcomes as
//! the answer.

mod collect;
mod decode;
mod encode;
pub(crate) mod service;
mod split;
mod stream;
mod wire;
