//! What several kinds of tests share.

pub(crate) mod sim_disk;
