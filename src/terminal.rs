//! Tables and progress bars of the command line and the benchmark.

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};

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
