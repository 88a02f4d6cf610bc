//! Output of results: formats and formatting functions that the subcommands share.

use std::process::ExitCode;

use clap::ValueEnum;
use prost::Message;

use super::exit::{self, Failure, fail};
use crate::{
    json,
    proto::{CircuitMode, CircuitState, CircuitTotals, LatencySummary},
    terminal::{outln, units::proto_time},
};

/// The format of a printed result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Returns message `name` of package `tally.v1` as an indented JSON document.
pub(super) fn json_document<M: Message>(name: &str, message: &M) -> Result<String, Failure> {
    json::to_json(name, message).map_err(|error| Failure::new(exit::SOFTWARE, &error))
}

/// Returns message `name` of package `tally.v1` as a JSON document on one line.
pub(super) fn json_line<M: Message>(name: &str, message: &M) -> Result<String, Failure> {
    json::to_json_line(name, message).map_err(|error| Failure::new(exit::SOFTWARE, &error))
}

/// Prints `text` on standard output, or its error on standard error. Returns the exit code.
pub(super) fn print_or_fail<E: std::error::Error>(text: Result<String, E>) -> ExitCode {
    match text {
        Ok(text) => {
            outln!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(exit::SOFTWARE, &error),
    }
}

/// Width of the names in a list of named values, in characters.
const NAME_WIDTH: usize = 14;
/// Width of a line, in characters, if its parts allow it.
const LINE_WIDTH: usize = 80;

/// Returns `name` and `text` side by side. Text beyond [`LINE_WIDTH`] continues on the next line, after a comma or a semicolon.
pub(super) fn named(name: &str, text: &str) -> String {
    let mut lines = vec![format!("{name:<NAME_WIDTH$}")];
    let mut clause = String::new();
    for word in text.split_inclusive(' ') {
        clause.push_str(word);
        if word.ends_with(", ") || word.ends_with("; ") {
            put(&mut lines, &std::mem::take(&mut clause));
        }
    }
    put(&mut lines, &clause);
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

/// Adds a part of a text to the last line, or to a new line if the last line has no room for it.
fn put(lines: &mut Vec<String>, part: &str) {
    let width = |text: &str| text.trim_end().chars().count();
    if let Some(last) = lines.last_mut() {
        let has_text = last.chars().count() > NAME_WIDTH;
        if !has_text || last.chars().count() + width(part) <= LINE_WIDTH {
            return last.push_str(part);
        }
    }
    lines.push(format!("{:NAME_WIDTH$}{part}", ""));
}

/// Returns p50, p90, p99, p99.9 and the maximum as text. Each is `-` if nothing was measured.
pub(super) fn percentiles(summary: Option<&LatencySummary>) -> [String; 5] {
    if summary.is_none_or(|summary| summary.count == 0) {
        return std::array::from_fn(|_| "-".to_owned());
    }
    let LatencySummary {
        p50,
        p90,
        p99,
        p999,
        max,
        ..
    } = summary.copied().unwrap_or_default();
    [p50, p90, p99, p999, max].map(proto_time)
}

/// Returns the short name of a circuit state, for example `HALF_OPEN`.
pub(super) fn state_name(state: CircuitState) -> &'static str {
    state.as_str_name().trim_start_matches("CIRCUIT_STATE_")
}

/// Returns the short name of a mode of a circuit, for example `METRICS_ONLY`.
pub(super) fn mode_name(mode: CircuitMode) -> &'static str {
    mode.as_str_name().trim_start_matches("CIRCUIT_MODE_")
}

/// Returns the number of calls that a circuit rejected.
pub(super) const fn rejected_calls(totals: &CircuitTotals) -> i64 {
    totals.rejected_open + totals.rejected_half_open + totals.rejected_ramp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_continues_after_a_comma() {
        assert_eq!(named("queue", "1,234 of 5, 6 B"), "queue         1,234 of 5, 6 B");
        let part = "1,234,567 transactions committed since start";
        assert_eq!(
            named("counts", &format!("{part}, {part}; {part}")),
            format!("counts        {part},\n              {part};\n              {part}")
        );
    }
}
