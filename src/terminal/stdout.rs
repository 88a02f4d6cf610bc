//! Writes to standard output and standard error without the panics of `println!` and `eprintln!`.

use std::{
    fmt,
    io::{self, Write},
    sync::OnceLock,
};

/// The first failure of a write to standard output.
static FAILURE: OnceLock<io::Error> = OnceLock::new();

/// Writes `text` to standard output. After a write has failed, this and all later texts are discarded, and [`stdout_failure`]
/// returns the error. A write fails if the reader has closed the pipe (`tally stats | head -3`), or if the disk is full.
pub fn write_stdout(text: fmt::Arguments<'_>) {
    if FAILURE.get().is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        FAILURE.get_or_init(|| error);
    }
}

/// Returns the first failure of [`write_stdout`]. The kind is `BrokenPipe` if the reader has closed the pipe.
#[must_use]
pub fn stdout_failure() -> Option<&'static io::Error> {
    FAILURE.get()
}

/// Writes `text` to standard error. Ignores a failure, because there is nowhere to report it.
pub fn write_stderr(text: fmt::Arguments<'_>) {
    let _ignored = io::stderr().lock().write_fmt(text);
}
