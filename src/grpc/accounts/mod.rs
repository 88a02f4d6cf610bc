//! `tally.v1.AccountService`: creates and reads accounts.

pub(super) mod decode;
mod encode;
pub(super) mod holds;
mod pages;
pub(crate) mod service;
