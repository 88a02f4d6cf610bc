//! `tally export`: writes accounts and transactions to a file, from a service or from the directory of a stopped one.
//!
//! [`service`] and [`directory`] read accounts and transactions, and pass them to a [`writer`]. The writer formats them ([`ndjson`],
//! [`rows`]) and writes them to the [`output`], which can be resumed after an interruption.
//!
//! `docs/export.md` describes the formats for users.

mod counts;
mod directory;
mod format;
mod io_failure;
mod ndjson;
mod output;
#[cfg(feature = "parquet")]
mod parquet;
mod range;
mod rows;
mod service;
mod writer;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use self::{counts::Counts, format::ExportFormat, range::Range, writer::Writer};
use super::{
    client_args::ClientArgs,
    exit::{block_on, finish},
    moment::{Ends, Moment, bound},
    output::named,
    statement::mixed_ends,
};
use crate::terminal::outln;

/// Options of `tally export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// Read this data directory instead of a service. No service may have the directory open.
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint")]
    data: Option<PathBuf>,
    /// The format. [default: that of the name of --output, otherwise ndjson]
    ///
    /// ndjson has accounts, updates and transactions in the JSON form of proto3, and `tally import` takes it. csv and parquet have a row
    /// for each transfer of each transaction.
    #[arg(long, env = "TALLY_EXPORT_FORMAT", value_enum)]
    format: Option<ExportFormat>,
    /// Write to this file instead of standard output. If the export is interrupted, the same command goes on where it stopped.
    #[arg(long, value_name = "FILE", env = "TALLY_EXPORT_OUTPUT")]
    output: Option<PathBuf>,
    /// Only what was committed from this sequence or this time on. A time is like 2026-01-31T12:00:00Z, or a date, which means its midnight
    /// in UTC.
    #[arg(long, value_name = "SEQUENCE|TIME", value_parser = bound)]
    from: Option<Moment>,
    /// Only what was committed before this sequence or this time.
    #[arg(long, value_name = "SEQUENCE|TIME", value_parser = bound)]
    to: Option<Moment>,
}

pub(super) fn run(args: &ExportArgs) -> ExitCode {
    let range = match Ends::of(args.from, args.to) {
        Some(ends) => Range {
            ends,
            is_open: args.to.is_none(),
        },
        None => return mixed_ends().report(),
    };
    let writer = match Writer::open(args.format(), args.output.as_deref(), &args.request()) {
        Ok(writer) => writer,
        Err(failure) => return failure.report(),
    };
    match &args.data {
        Some(data) => finish(directory::export(data, range, writer).map(|counts| print(args, counts))),
        None => block_on(async {
            let exported = service::export(&args.client, range, writer).await;
            finish(exported.map(|counts| print(args, counts)))
        }),
    }
}

/// Prints what was exported, unless the export itself is on standard output.
fn print(args: &ExportArgs, counts: Counts) {
    let Some(output) = &args.output else { return };
    outln!("{}", named("file", &output.display().to_string()));
    outln!("{}", named("accounts", &counts.accounts.to_string()));
    outln!("{}", named("updates", &counts.updates.to_string()));
    outln!("{}", named("transactions", &counts.transactions.to_string()));
    if counts.transactions > 0 {
        outln!("{}", named("last sequence", &counts.last_sequence.to_string()));
    }
}

// ===== impl ExportArgs =====

impl ExportArgs {
    fn format(&self) -> ExportFormat {
        if let Some(format) = self.format {
            return format;
        }
        let extension = self.output.as_deref().and_then(Path::extension);
        match extension.and_then(|extension| extension.to_str()) {
            Some("csv") => ExportFormat::Csv,
            Some("parquet") => ExportFormat::Parquet,
            Some(_) | None => ExportFormat::Ndjson,
        }
    }

    /// Describes the options that decide about the content of the file. An interrupted export can be resumed only with the same request.
    fn request(&self) -> String {
        let source = match &self.data {
            Some(data) => format!("--data {}", data.display()),
            None => format!("--endpoint {}", self.client.endpoint.join(",")),
        };
        let end = |option: &str, moment: Option<Moment>| match moment {
            Some(Moment::Sequence(sequence)) => format!(" {option} {sequence}"),
            Some(Moment::Time(time)) => format!(" {option} {time}"),
            None => String::new(),
        };
        let format = match self.format() {
            ExportFormat::Ndjson => "ndjson",
            ExportFormat::Csv => "csv",
            ExportFormat::Parquet => "parquet",
        };
        format!(
            "{source} --format {format}{}{}",
            end("--from", self.from),
            end("--to", self.to)
        )
    }
}
