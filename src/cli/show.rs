//! `tally stats`, and what it has in common with `tally topology`.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use prost::Message;

use super::{ClientArgs, OutputFormat, block_on, exit, fail};
use crate::{
    client::Connection,
    json,
    proto::{
        CircuitStats, GetBatchStatsRequest, GetBatchStatsResponse, GetCircuitStatsRequest,
        GetCircuitStatsResponse, LatencySummary, engine_service_client::EngineServiceClient,
    },
};

/// Options of `tally stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(super) fn stats(args: &StatsArgs) -> ExitCode {
    block_on(async {
        let mut client = match connect(&args.client).await {
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

/// How long an answer may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn connect(client: &ClientArgs) -> Result<EngineServiceClient<Connection>, ExitCode> {
    client.connect(TIMEOUT).await.map(EngineServiceClient::new)
}

#[expect(clippy::print_stdout, reason = "the command's result")]
pub(super) fn print_json<M: Message>(name: &str, message: &M) -> ExitCode {
    match json::to_json(name, message) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(exit::SOFTWARE, &error),
    }
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
        "blocks        durable up to {}, {} bytes of journal",
        ledger.durable_block, ledger.journal_bytes
    );
    println!(
        "transactions  last sequence {}; since the start: {} committed, {} refused, {} replayed",
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
        "not executed  {} expired, {} cancelled, {} refused by a full queue; {} replies missing",
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

/// A circuit, with what an operator looks at first on top.
#[expect(clippy::print_stdout, reason = "the command's result")]
pub(super) fn print_circuit(circuit: &CircuitStats) {
    let name = |text: &str| {
        text.trim_start_matches("CIRCUIT_STATE_")
            .trim_start_matches("CIRCUIT_MODE_")
            .to_owned()
    };
    println!(
        "circuit       {} {} (mode {}), generation {}",
        circuit.key,
        name(circuit.effective_state().as_str_name()),
        name(circuit.mode().as_str_name()),
        circuit.generation
    );
    let window = circuit.window.unwrap_or_default();
    let totals = circuit.totals.unwrap_or_default();
    let settings = circuit.settings.clone().unwrap_or_default();
    println!(
        "  slow        from {} ({})",
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
        "  calls       {} admitted, {} refused, opened {} times",
        totals.admitted,
        totals.rejected_open + totals.rejected_half_open + totals.rejected_ramp,
        totals.opens
    );
    for change in &circuit.history {
        println!(
            "  {}  {} to {}: {} ({:.1} % slow, {:.1} % failed, {} overdue)",
            change.time.unwrap_or_default(),
            name(change.from().as_str_name()),
            name(change.to().as_str_name()),
            change.reason,
            change.slow_rate * 100.0,
            change.failure_rate * 100.0,
            change.overdue
        );
    }
}

/// In microseconds: a tenth is as much as anybody wants to read.
fn micros(duration: Option<prost_types::Duration>) -> String {
    let duration = duration.unwrap_or_default();
    let nanos = duration
        .seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(duration.nanos.into());
    format!("{}.{} µs", nanos / 1000, nanos % 1000 / 100)
}

fn latency_row(name: &str, summary: Option<&LatencySummary>) -> Vec<String> {
    let count = summary.map_or(0, |summary| summary.count);
    let mut row = vec![name.to_owned()];
    row.extend(percentiles(summary));
    row.push(count.to_string());
    row
}

/// p50, p90, p99, p99.9 and the maximum, as text.
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

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(header.iter().copied());
    table
}
