//! `tally stats`: shows the statistics of a service.

use std::process::ExitCode;

use clap::Args;

use super::{
    circuit::text::circuit_text,
    client_args::{ClientArgs, TIMEOUT, within},
    exit::{Failure, block_on, finish},
    output::{OutputFormat, json_document, percentiles},
};
use crate::{
    proto::{
        GetBatchStatsRequest, GetBatchStatsResponse, GetCircuitStatsRequest, GetCircuitStatsResponse,
        LatencySummary,
    },
    terminal::{
        outln, table,
        units::{bytes, number},
    },
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

pub(super) fn run(args: &StatsArgs) -> ExitCode {
    block_on(async { finish(stats(args).await) })
}

async fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let mut engine = args.client.connect().await?;
    let circuits = engine
        .client
        .get_circuit_stats(within(TIMEOUT, GetCircuitStatsRequest {}))
        .await
        .map_err(|status| engine.failure(&status))?
        .into_inner();
    let batches = engine
        .client
        .get_batch_stats(within(TIMEOUT, GetBatchStatsRequest {}))
        .await
        .map_err(|status| engine.failure(&status))?
        .into_inner();
    match args.output {
        OutputFormat::Table => print_table(&circuits, &batches),
        OutputFormat::Json => {
            let circuits = json_document("GetCircuitStatsResponse", &circuits)?;
            let batches = json_document("GetBatchStatsResponse", &batches)?;
            outln!("{}", object(&[("circuits", circuits), ("batches", batches)]));
        }
    }
    Ok(())
}

/// Returns a JSON object with these members. Each value is an indented JSON document.
fn object(members: &[(&str, String)]) -> String {
    let member =
        |(name, document): &(&str, String)| format!("  \"{name}\": {}", document.replace('\n', "\n  "));
    let members: Vec<String> = members.iter().map(member).collect();
    format!("{{\n{}\n}}", members.join(",\n"))
}

fn print_table(circuits: &GetCircuitStatsResponse, batches: &GetBatchStatsResponse) {
    for circuit in &circuits.circuits {
        outln!("{}", circuit_text(circuit));
    }
    let ledger = batches.ledger.unwrap_or_default();
    outln!(
        "queue         {} of {} requests, {} of {}",
        number(batches.queue_depth),
        number(batches.queue_capacity),
        bytes(batches.queue_bytes),
        bytes(batches.queue_bytes_capacity)
    );
    outln!(
        "journal       {}, durable up to block {}",
        bytes(ledger.journal_bytes),
        number(ledger.durable_block)
    );
    outln!(
        "transactions  last sequence {}; since the service started: {} committed, {} rejected, {} replayed",
        number(ledger.last_sequence),
        number(ledger.committed),
        number(ledger.rejected),
        number(ledger.replayed)
    );
    outln!(
        "accounts      {} ({} of memory)",
        number(ledger.accounts),
        bytes(ledger.account_bytes)
    );
    outln!(
        "ids           {} ({} of memory, {:.1} B each)",
        number(ledger.transaction_ids),
        bytes(ledger.transaction_id_bytes),
        ledger.bytes_per_transaction_id
    );
    outln!(
        "not executed  {} expired, {} cancelled, {} rejected because the queue was full; {} replies missing",
        number(batches.expired),
        number(batches.cancelled),
        number(batches.full),
        number(batches.replies_missing)
    );
    let mut times = table(&["since the start", "p50", "p90", "p99", "p99.9", "max", "count"]);
    for (name, summary) in [
        ("queue wait", &batches.queue_wait),
        ("commit", &batches.commit),
        ("write + sync", &batches.sync),
    ] {
        times.add_row(latency_row(name, summary.as_ref()));
    }
    outln!("{times}");
}

fn latency_row(name: &str, summary: Option<&LatencySummary>) -> Vec<String> {
    let count = summary.map_or(0, |summary| summary.count);
    let mut row = vec![name.to_owned()];
    row.extend(percentiles(summary));
    row.push(number(count));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_members_of_one_object() {
        let text = object(&[("a", "{\n  \"x\": 1\n}".to_owned()), ("b", "{}".to_owned())]);
        assert_eq!(text, "{\n  \"a\": {\n    \"x\": 1\n  },\n  \"b\": {}\n}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["a"]["x"], 1);
    }
}
