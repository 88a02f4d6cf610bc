//! `tally.v1.AccountService`: creates and reads accounts.

mod decode;
mod encode;
pub(crate) mod service;
