//! Output of results: formats and formatting functions that the subcommands share.

use std::process::ExitCode;

use clap::ValueEnum;
use prost::Message;

use super::exit::{self, fail};
use crate::{
    json,
    proto::{CircuitState, CircuitTotals, LatencySummary},
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

/// Prints message `name` of package `tally.v1` in its JSON form. Returns the exit code.
pub(super) fn print_json<M: Message>(name: &str, message: &M) -> ExitCode {
    print_or_fail(json::to_json(name, message))
}

/// Prints `text` on standard output, or its error on standard error. Returns the exit code.
#[expect(clippy::print_stdout, reason = "the command's result")]
pub(super) fn print_or_fail<E: std::error::Error>(text: Result<String, E>) -> ExitCode {
    match text {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(exit::SOFTWARE, &error),
    }
}

/// Returns p50, p90, p99, p99.9 and the maximum as text.
pub(super) fn percentiles(summary: Option<&LatencySummary>) -> [String; 5] {
    let LatencySummary {
        p50,
        p90,
        p99,
        p999,
        max,
        ..
    } = summary.copied().unwrap_or_default();
    [p50, p90, p99, p999, max].map(micros)
}

/// Returns a duration in microseconds, with one decimal.
pub(super) fn micros(duration: Option<prost_types::Duration>) -> String {
    let duration = duration.unwrap_or_default();
    let nanos = duration
        .seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(duration.nanos.into());
    format!("{}.{} µs", nanos / 1000, nanos % 1000 / 100)
}

/// Returns the short name of a circuit state, for example `HALF_OPEN`.
pub(super) fn state_name(state: CircuitState) -> &'static str {
    state.as_str_name().trim_start_matches("CIRCUIT_STATE_")
}

/// Returns the number of calls that a circuit rejected.
pub(super) const fn rejected_calls(totals: &CircuitTotals) -> i64 {
    totals.rejected_open + totals.rejected_half_open + totals.rejected_ramp
}
