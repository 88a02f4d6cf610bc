//! `tally.v1.AccountService`: creates and reads accounts.

pub(super) mod decode;
mod encode;
pub(crate) mod service;
