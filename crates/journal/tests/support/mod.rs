//! Test support that the tests of this crate and of the service share. The service includes these files by path.

#[allow(dead_code, reason = "the tests of the service use the rest")]
pub(crate) mod sim_disk;
