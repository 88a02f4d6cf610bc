//! What the tests of this crate share with those of the service, which include this file.

#[allow(dead_code, reason = "the tests of the service use the rest")]
pub(crate) mod sim_disk;
