//! `tally stats`: shows the statistics of a service. `tally circuit` uses its table of a circuit.

use std::process::ExitCode;

use clap::Args;

use super::{
    client_args::ClientArgs,
    exit::{self, block_on, fail},
    output::{OutputFormat, micros, percentiles, print_json, rejected_calls, state_name},
};
use crate::{
    proto::{
        CircuitStats, GetBatchStatsRequest, GetBatchStatsResponse, GetCircuitStatsRequest,
        GetCircuitStatsResponse, LatencySummary,
    },
    terminal::table,
};

/// Options of `tally stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// How to print the statistics.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(super) fn stats(args: &StatsArgs) -> ExitCode {
    block_on(async {
        let mut client = match args.client.connect_to_engine().await {
            Ok(client) => client,
            Err(code) => return code,
        };
        let circuits = client.get_circuit_stats(GetCircuitStatsRequest {}).await;
        let batches = client.get_batch_stats(GetBatchStatsRequest {}).await;
        match (circuits, batches) {
            (Ok(circuits), Ok(batches)) => {
                print_stats(&circuits.into_inner(), &batches.into_inner(), args.output)
            }
            (Err(status), _) | (_, Err(status)) => fail(exit::UNAVAILABLE, &status),
        }
    })
}

#[expect(clippy::print_stdout, reason = "the command's result")]
fn print_stats(
    circuits: &GetCircuitStatsResponse,
    batches: &GetBatchStatsResponse,
    output: OutputFormat,
) -> ExitCode {
    if output == OutputFormat::Json {
        let code = print_json("GetCircuitStatsResponse", circuits);
        return if code == ExitCode::SUCCESS {
            print_json("GetBatchStatsResponse", batches)
        } else {
            code
        };
    }
    for circuit in &circuits.circuits {
        print_circuit(circuit);
    }
    let ledger = batches.ledger.unwrap_or_default();
    println!(
        "queue         {} of {}",
        batches.queue_depth, batches.queue_capacity
    );
    println!(
        "blocks        durable up to block {}, journal of {} bytes",
        ledger.durable_block, ledger.journal_bytes
    );
    println!(
        "transactions  last sequence {}; since the service started: {} committed, {} rejected, {} replayed",
        ledger.last_sequence, ledger.committed, ledger.rejected, ledger.replayed
    );
    println!(
        "accounts      {} ({} bytes)",
        ledger.accounts, ledger.account_bytes
    );
    println!(
        "ids           {} ({} bytes, {:.1} bytes each)",
        ledger.transaction_ids, ledger.transaction_id_bytes, ledger.bytes_per_transaction_id
    );
    println!(
        "not executed  {} expired, {} cancelled, {} rejected because the queue was full; {} replies missing",
        batches.expired, batches.cancelled, batches.full, batches.replies_missing
    );
    let mut times = table(&["", "p50", "p90", "p99", "p99.9", "max", "count"]);
    for (name, summary) in [
        ("queue wait", &batches.queue_wait),
        ("commit", &batches.commit),
        ("write + sync", &batches.sync),
    ] {
        times.add_row(latency_row(name, summary.as_ref()));
    }
    println!("{times}");
    ExitCode::SUCCESS
}

/// Prints a circuit as text: first its state, then its window and counts, then its history.
#[expect(clippy::print_stdout, reason = "the command's result")]
pub(super) fn print_circuit(circuit: &CircuitStats) {
    println!(
        "circuit       {} {} (mode {}), generation {}",
        circuit.key,
        state_name(circuit.effective_state()),
        circuit.mode().as_str_name().trim_start_matches("CIRCUIT_MODE_"),
        circuit.generation
    );
    let window = circuit.window.unwrap_or_default();
    let totals = circuit.totals.unwrap_or_default();
    let settings = circuit.settings.clone().unwrap_or_default();
    println!(
        "  slow        calls of {} or more ({})",
        micros(settings.slow_threshold),
        settings.slow_threshold_source
    );
    println!(
        "  window      {} calls in {} blocks, {:.1} % slow, {:.1} % failed; {} in flight, {} overdue",
        window.calls,
        window.batches,
        window.slow_rate * 100.0,
        window.failure_rate * 100.0,
        circuit.in_flight,
        circuit.overdue_in_flight
    );
    println!(
        "  calls       {} admitted, {} rejected; opened {} times",
        totals.admitted,
        rejected_calls(&totals),
        totals.opens
    );
    for change in &circuit.history {
        println!(
            "  {}  {} to {}: {} ({:.1} % slow, {:.1} % failed, {} overdue)",
            change.time.unwrap_or_default(),
            state_name(change.from()),
            state_name(change.to()),
            change.reason,
            change.slow_rate * 100.0,
            change.failure_rate * 100.0,
            change.overdue
        );
    }
}

fn latency_row(name: &str, summary: Option<&LatencySummary>) -> Vec<String> {
    let count = summary.map_or(0, |summary| summary.count);
    let mut row = vec![name.to_owned()];
    row.extend(percentiles(summary));
    row.push(count.to_string());
    row
}
