//! Helpers for the tests of several packages. This package is not a part of the service, and is not published.

#[expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "this is test code; a failure here is a failed test"
)]
pub mod explore;
pub mod sys;
pub mod words;
