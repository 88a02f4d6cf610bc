//! Helpers shared with the tests of the service, which include this file.

pub(crate) mod privileges;
pub(crate) mod tree;
