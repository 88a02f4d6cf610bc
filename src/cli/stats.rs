//! `tally stats`: shows the statistics of a service.

use std::process::ExitCode;

use clap::Args;

use super::{
    circuit::text::circuit_text,
    client_args::{ClientArgs, TIMEOUT, within},
    clock::step_text,
    exit::{Failure, block_on, finish},
    output::{OutputFormat, json_document, named, percentiles},
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
    #[arg(short, long, env = "TALLY_OUTPUT", value_enum, default_value_t)]
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
    for (name, text) in figures(batches) {
        outln!("{}", named(name, &text));
    }
    if let Some(step) = batches.clock_held_step {
        let text = format!("{}; THE LEDGER DOES NOT FOLLOW (tally clock)", step_text(step));
        outln!("{}", named("clock", &text));
    }
    let mut times = table(&["since start", "p50", "p90", "p99", "p99.9", "max", "count"]);
    for (name, summary) in [
        ("queue wait", &batches.queue_wait),
        ("commit", &batches.commit),
        ("write + sync", &batches.sync),
    ] {
        times.add_row(latency_row(name, summary.as_ref()));
    }
    outln!("{times}");
}

/// Returns the figures of the queue, the journal and the ledger, with their names.
fn figures(batches: &GetBatchStatsResponse) -> [(&'static str, String); 8] {
    let ledger = batches.ledger.unwrap_or_default();
    let queue = format!(
        "{} of {} requests, {} of {}",
        number(batches.queue_depth),
        number(batches.queue_capacity),
        bytes(batches.queue_bytes),
        bytes(batches.queue_bytes_capacity)
    );
    let no_space = if ledger.disk_full {
        "; THE DISK IS FULL, so writes fail"
    } else {
        ""
    };
    let journal = format!(
        "{}, durable up to block {}{no_space}",
        bytes(ledger.journal_bytes),
        number(ledger.durable_block)
    );
    let since_start = format!(
        "{} committed, {} rejected, {} replayed",
        number(ledger.committed),
        number(ledger.rejected),
        number(ledger.replayed)
    );
    let accounts = format!(
        "{} ({} of memory)",
        number(ledger.accounts),
        bytes(ledger.account_bytes)
    );
    let ids = format!(
        "{} ({} of memory, {:.1} B each)",
        number(ledger.transaction_ids),
        bytes(ledger.transaction_id_bytes),
        ledger.bytes_per_transaction_id
    );
    let holds = format!(
        "{} outstanding ({} of memory), {} expired since start",
        number(ledger.holds),
        bytes(ledger.hold_bytes),
        number(ledger.holds_expired)
    );
    let not_executed = format!(
        "{} expired, {} cancelled, {} rejected because the queue was full; {} replies missing",
        number(batches.expired),
        number(batches.cancelled),
        number(batches.full),
        number(batches.replies_missing)
    );
    [
        ("queue", queue),
        ("journal", journal),
        ("last sequence", number(ledger.last_sequence)),
        ("since start", since_start),
        ("accounts", accounts),
        ("holds", holds),
        ("ids", ids),
        ("not executed", not_executed),
    ]
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
    use crate::proto::LedgerStats;

    #[test]
    fn the_figures_of_a_busy_service_fit_into_80_columns() {
        let many = 123_456_789;
        let batches = GetBatchStatsResponse {
            queue_depth: 16_384,
            queue_capacity: 16_384,
            queue_bytes: many,
            queue_bytes_capacity: many,
            expired: many,
            cancelled: many,
            full: many,
            replies_missing: many,
            ledger: Some(LedgerStats {
                last_sequence: many,
                journal_bytes: many,
                durable_block: many,
                disk_full: true,
                committed: many,
                rejected: many,
                replayed: many,
                accounts: many,
                transaction_ids: many,
                holds: many,
                hold_bytes: many,
                holds_expired: many,
                ..LedgerStats::default()
            }),
            ..GetBatchStatsResponse::default()
        };
        for (name, text) in figures(&batches) {
            for line in named(name, &text).lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn documents_are_members_of_one_object() {
        let text = object(&[("a", "{\n  \"x\": 1\n}".to_owned()), ("b", "{}".to_owned())]);
        assert_eq!(text, "{\n  \"a\": {\n    \"x\": 1\n  },\n  \"b\": {}\n}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["a"]["x"], 1);
    }
}
