//! `tally.v1.AccountService`: creates and reads accounts.

pub(super) mod decode;
pub(super) mod encode;
mod holds;
mod pages;
pub(crate) mod service;
