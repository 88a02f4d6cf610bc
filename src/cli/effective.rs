//! Prints the settings that are in force.

use std::{convert::Infallible, process::ExitCode};

use super::output::print_or_fail;
use crate::{config::Setting, terminal::table};

/// Prints a table of settings on standard output. Returns the exit code.
pub(super) fn print(settings: &[Setting]) -> ExitCode {
    let mut rows = table(&["setting", "value", "origin"]);
    for Setting { key, value, origin } in settings {
        let value = value.as_deref().unwrap_or("not set");
        rows.add_row([key.as_str(), value, &origin.to_string()]);
    }
    print_or_fail(Ok::<_, Infallible>(rows.to_string()))
}
