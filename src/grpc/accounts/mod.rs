//! `tally.v1.AccountService`: creates and reads accounts.

pub(super) mod decode;
mod encode;
mod holds;
mod pages;
pub(crate) mod service;
