//! How a subcommand ends: its exit code, and one line on standard error that says what failed and what to do.

use std::{process::ExitCode, time::Duration};

use tonic::{Code, Status};

use super::given::is_given;
use crate::{
    client::{ClientConfig, ConnectError},
    terminal::{errln, without_error_numbers},
};

/// A check failed: the service is not serving, the data is not sound, or transactions were rejected.
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
/// The service does not accept the token, or the role of the token is too low.
pub const NO_PERMISSION: u8 = 77;
/// The configuration is wrong: a setting, a certificate, a key, or a file with a token.
pub const CONFIG: u8 = 78;

/// SIGHUP ended the subcommand: its terminal was closed.
pub const HUNG_UP: u8 = 129;
/// SIGINT (Ctrl-C) ended the subcommand before its work was complete.
pub const INTERRUPTED: u8 = 130;
/// SIGTERM ended the subcommand before its work was complete.
pub const TERMINATED: u8 = 143;

/// Every exit code with its name and its meaning, for `--help` and for `docs/cli.md`. [`FAILED`] is the usual code of a
/// failed check. The codes from 64 to 78 are those of `sysexits.h`. The codes above 128 are 128 plus the number of the
/// signal, as in shells.
pub const CODES: [(u8, &str, &str); 12] = [
    (
        0,
        "success",
        "The subcommand did its work. For serve: a signal stopped the service.",
    ),
    (
        FAILED,
        "failed",
        "A check failed: not serving, data not sound, transactions rejected.",
    ),
    (USAGE, "usage", "The command line is wrong."),
    (DATA, "data", "An input file is malformed."),
    (
        UNAVAILABLE,
        "unavailable",
        "The service can't be reached, or a call failed. For serve: a port or the clock can't be used.",
    ),
    (SOFTWARE, "software", "The program has a bug."),
    (IO, "io", "A file can't be read or written."),
    (
        NO_PERMISSION,
        "no permission",
        "The token is missing or not valid, or its role is too low.",
    ),
    (
        CONFIG,
        "config",
        "The configuration is wrong: a setting, a certificate, a key, a token file.",
    ),
    (
        HUNG_UP,
        "hung up",
        "SIGHUP ended the subcommand: its terminal was closed.",
    ),
    (
        INTERRUPTED,
        "interrupted",
        "SIGINT (Ctrl-C) ended the subcommand before its work was complete.",
    ),
    (
        TERMINATED,
        "terminated",
        "SIGTERM ended the subcommand before its work was complete.",
    ),
];

/// Why a subcommand failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The exit code.
    code: u8,
    /// One line that says what failed and what to do.
    message: String,
}

// ===== impl Failure =====

impl Failure {
    /// Creates a failure with the text of an error and its causes.
    pub(super) fn new(code: u8, error: &dyn std::error::Error) -> Self {
        Failure::with_message(code, with_causes(error))
    }

    /// Creates a failure with this text. Omits the numbers of errors of the operating system.
    pub(super) fn with_message(code: u8, message: String) -> Self {
        Failure {
            code,
            message: without_error_numbers(message),
        }
    }

    /// Creates the failure of a call to the service of `config` that was sent with this timeout.
    pub(super) fn call(config: &ClientConfig, status: &Status, timeout: Duration) -> Self {
        Failure::with_message(call_code(status), config.explain_within(status, timeout))
    }

    /// Returns the text.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Prints the text on standard error. Returns the exit code.
    pub(super) fn report(&self) -> ExitCode {
        errln!("tally: {}", self.message);
        ExitCode::from(self.code)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Failure::new(connect_code(&error), &error)
    }
}

/// Returns the exit code of a finished subcommand. Prints the failure, if there is one.
pub(super) fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints an error and its causes on standard error. Returns `code`.
pub(crate) fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    Failure::new(code, error).report()
}

/// Prints that standard output can't be written. Returns the exit code.
#[must_use]
pub fn unwritten(error: &std::io::Error) -> ExitCode {
    Failure::with_message(
        IO,
        format!("the result can't be written to standard output: {error}"),
    )
    .report()
}

/// Returns the exit code for a failure to connect.
pub(super) fn connect_code(error: &ConnectError) -> u8 {
    match error {
        ConnectError::Endpoint { .. }
        | ConnectError::EndpointCount { .. }
        | ConnectError::MixedEndpoints { .. }
        | ConnectError::Host { .. } => option_code(&["--endpoint"]),
        ConnectError::ServerName { .. } => option_code(&["--server-name"]),
        ConnectError::WithoutTls { option, .. } => option_code(&[option, "--endpoint"]),
        ConnectError::File { .. } | ConnectError::Certificates(_) | ConnectError::TokenFile { .. } => CONFIG,
        ConnectError::Unreachable { .. } => UNAVAILABLE,
    }
}

/// Returns the exit code for wrong values of these options: [`USAGE`] if one of them is on the command line, and [`CONFIG`] if the
/// values come from environment variables.
pub(super) fn option_code(options: &[&str]) -> u8 {
    if options.iter().any(|option| is_given(option)) {
        USAGE
    } else {
        CONFIG
    }
}

/// Returns the exit code for a failed call.
pub(super) fn call_code(status: &Status) -> u8 {
    match status.code() {
        Code::InvalidArgument | Code::NotFound => USAGE,
        Code::Unauthenticated | Code::PermissionDenied => NO_PERMISSION,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => UNAVAILABLE,
    }
}

/// Returns the list of exit codes for `tally --help`.
pub(super) fn codes_help() -> String {
    let mut text = "Exit codes:".to_owned();
    for (code, _, meaning) in CODES {
        text.push_str(&format!("\n  {code:<3} {meaning}"));
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once_in_ascending_order() {
        let codes = CODES.map(|(code, _, _)| code);
        let mut sorted = codes;
        sorted.sort_unstable();
        assert_eq!(codes, sorted);
        for code in [
            HUNG_UP,
            INTERRUPTED,
            TERMINATED,
            FAILED,
            USAGE,
            DATA,
            UNAVAILABLE,
            SOFTWARE,
            IO,
            NO_PERMISSION,
            CONFIG,
        ] {
            assert_eq!(
                codes.iter().filter(|listed| **listed == code).count(),
                1,
                "{code}"
            );
        }
    }
}
