//! What several kinds of tests share.

pub(crate) mod in_process;
pub(crate) mod operators;
pub(crate) mod server;
pub(crate) mod sim_disk;
pub(crate) mod sys;
