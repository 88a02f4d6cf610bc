//! How a subcommand ends: its exit code, and the message on standard error.

use std::process::ExitCode;

use crate::client::ConnectError;

// [`FAILED`] is the usual code of a failed check. The other codes are those of `sysexits.h`.

/// A check failed.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// An input file is malformed.
pub const DATA: u8 = 65;
/// The service can't be reached, or a call failed.
pub const UNAVAILABLE: u8 = 69;
/// The program has a bug.
pub const SOFTWARE: u8 = 70;
/// A file can't be read or written.
pub const IO: u8 = 74;
/// The configuration is wrong.
pub const CONFIG: u8 = 78;

/// Prints an error and its causes on standard error. Returns `code`.
#[expect(
    clippy::print_stderr,
    reason = "the command line reports errors on standard error"
)]
pub(crate) fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("tally: {}", with_causes(error));
    ExitCode::from(code)
}

/// Prints the error of a failed connection attempt. Returns the exit code.
pub(super) fn fail_to_connect(error: &ConnectError) -> ExitCode {
    fail(connect_code(error), error)
}

/// Returns the exit code for a failure to connect.
pub(super) const fn connect_code(error: &ConnectError) -> u8 {
    match error {
        ConnectError::Endpoint { .. } => USAGE,
        ConnectError::File { .. } | ConnectError::Tls { .. } => CONFIG,
        ConnectError::Unreachable { .. } => UNAVAILABLE,
    }
}

/// Returns the text of an error and its causes. Omits a cause that the text already contains, because many errors repeat the text
/// of their cause.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

/// Runs a future to completion on a single-threaded runtime.
pub(super) fn block_on<F: Future<Output = ExitCode>>(future: F) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => fail(SOFTWARE, &error),
    }
}
