//! The version of the binary.

/// The commit of this build, from `build.rs`.
pub const COMMIT: &str = env!("TALLY_COMMIT");
/// The version and the commit of this build.
pub const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TALLY_COMMIT"), ")");
