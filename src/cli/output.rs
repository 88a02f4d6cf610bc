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
