//! What the tests of this crate share with those of the service, which include this file.

pub(crate) mod privileges;
pub(crate) mod tree;
