//! Text for people and scripts at a terminal: standard output and standard error, numbers with units, tables, progress bars.

mod stdout;
mod system_errors;
pub mod units;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};

pub use self::{
    stdout::{stdout_failure, write_stderr, write_stdout},
    system_errors::{file_advice, without_error_numbers},
};

/// Prints a line on standard output. Takes the arguments of `println!`, but does not panic: see [`write_stdout`].
macro_rules! outln {
    ($($argument:tt)*) => {
        $crate::terminal::write_stdout(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}

/// Prints a line on standard error. Takes the arguments of `eprintln!`, but does not panic: see [`write_stderr`].
macro_rules! errln {
    ($($argument:tt)*) => {
        $crate::terminal::write_stderr(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}

pub(crate) use {errln, outln};

/// Returns an empty table with this header.
#[must_use]
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(header.iter().copied());
    table
}

/// Returns a progress bar for `length` steps on standard error. It is visible only on a terminal. `columns` are the columns after
/// the bar, as a template of `indicatif`.
#[must_use]
pub fn progress_bar(length: u64, columns: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{bar:40}} {columns}  {{eta}} left"));
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
