//! Checks the protocol: an exhaustive exploration of small clusters with the real code, and tests of its parts.

// This condition is always true here. Without the attribute, clippy would not know that the helpers are test code.
#![cfg(test)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the clusters of the tests are small"
)]

mod acceptance;
mod append;
mod claim;
mod election;
mod model;
#[cfg(feature = "mutations")]
mod mutations;
mod properties;
mod reader;
mod support;
