//! `tally.v1.AccountService`: creates and reads accounts.

pub(super) mod decode;
pub(super) mod encode;
pub(super) mod holds;
mod pages;
pub(crate) mod service;
