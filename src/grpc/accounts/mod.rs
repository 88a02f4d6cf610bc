//! `tally.v1.AccountService`.

mod decode;
mod encode;
pub(crate) mod service;
