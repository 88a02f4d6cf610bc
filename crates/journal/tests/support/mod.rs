//! Support code that the tests of this crate and the tests of the service share. The tests of the service include these
//! files by path.

#[allow(
    dead_code,
    reason = "the tests of this crate and of the service each use a part of it"
)]
pub(crate) mod sim_disk;
