//! Formats and writes the accounts and transactions that a source reads.

use std::{collections::HashMap, path::Path};

use indicatif::ProgressBar;

#[cfg(feature = "parquet")]
use super::parquet::ParquetFile;
use super::{
    counts::Counts,
    format::ExportFormat,
    ndjson::{account_line, transaction_line, update_line},
    output::{Note, Output},
    rows::{HEADER, rows},
};
use crate::{
    cli::exit::{self, Failure},
    proto::{Account, Transaction, transaction::Outcome},
    terminal::progress_bar,
};

/// The progress bar moves after this number of transactions.
const PROGRESS_STEP: u64 = 256;

/// Writes an export.
#[derive(Debug)]
pub(super) struct Writer {
    sink: Sink,
    /// The assets of accounts by their ids, if the format needs them.
    assets: HashMap<String, String>,
    counts: Counts,
    /// The place of the source at which the export began or was resumed.
    place: String,
    progress: ProgressBar,
}

#[derive(Debug)]
enum Sink {
    Ndjson(Output),
    Csv(Output),
    #[cfg(feature = "parquet")]
    Parquet(Box<ParquetFile>),
}

// ===== impl Writer =====

impl Writer {
    /// Opens the output of a new or interrupted export.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) fn open(format: ExportFormat, path: Option<&Path>, request: &str) -> Result<Self, Failure> {
        let sink = match format {
            ExportFormat::Ndjson => Sink::Ndjson(Output::open(path, request)?),
            ExportFormat::Csv => Sink::Csv(Output::open(path, request)?),
            ExportFormat::Parquet => parquet_sink(path)?,
        };
        let Note { place, counts, .. } = sink.note();
        let mut writer = Writer {
            sink,
            assets: HashMap::new(),
            counts,
            place,
            // The length is set when it is known.
            progress: progress_bar(0, "{percent:>3} %  {msg}"),
        };
        if writer.place.is_empty()
            && let Sink::Csv(output) = &mut writer.sink
        {
            output.write(HEADER)?;
        }
        Ok(writer)
    }

    /// Returns the place at which an interrupted export is resumed; empty for a new export.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Returns whether nobody reads the output any more.
    pub(super) fn is_closed(&self) -> bool {
        match &self.sink {
            Sink::Ndjson(output) | Sink::Csv(output) => output.is_closed(),
            #[cfg(feature = "parquet")]
            Sink::Parquet(_) => false,
        }
    }

    /// Sets the length of the progress bar.
    pub(super) fn set_length(&self, length: u64) {
        self.progress.set_length(length);
    }

    /// Moves the progress bar, after every [`PROGRESS_STEP`] transactions.
    pub(super) fn set_position(&self, position: u64) {
        if !self.counts.transactions.is_multiple_of(PROGRESS_STEP) {
            return;
        }
        self.progress.set_position(position);
        self.progress
            .set_message(format!("{} transactions", self.counts.transactions));
    }

    /// Notes an account that later rows can name.
    pub(super) fn note_account(&mut self, account: &Account) {
        match &self.sink {
            Sink::Ndjson(_) => {}
            Sink::Csv(_) => {
                self.assets.insert(account.id.clone(), account.asset.clone());
            }
            #[cfg(feature = "parquet")]
            Sink::Parquet(_) => {
                self.assets.insert(account.id.clone(), account.asset.clone());
            }
        }
    }

    /// Writes the creation of an account, if the format has accounts.
    ///
    /// # Errors
    /// [`Failure`] if the output can't be written.
    pub(super) fn account(&mut self, account: &Account) -> Result<(), Failure> {
        if let Sink::Ndjson(output) = &mut self.sink {
            output.write(&account_line(account)?)?;
            self.counts.accounts += 1;
        }
        Ok(())
    }

    /// Writes an update of the fields of `mask`, if the format has updates.
    ///
    /// # Errors
    /// [`Failure`] if the output can't be written.
    pub(super) fn update(&mut self, account: &Account, mask: &str) -> Result<(), Failure> {
        if let Sink::Ndjson(output) = &mut self.sink {
            output.write(&update_line(account, mask)?)?;
            self.counts.updates += 1;
        }
        Ok(())
    }

    /// Writes a transaction.
    ///
    /// # Errors
    /// [`Failure`] if the output can't be written.
    pub(super) fn transaction(&mut self, transaction: &Transaction) -> Result<(), Failure> {
        self.counts.transactions += 1;
        if let Some(Outcome::Committed(committed)) = &transaction.outcome {
            self.counts.last_sequence = committed.sequence;
        }
        let assets = &self.assets;
        let effects = rows(transaction, |id| assets.get(id).map(String::as_str));
        match &mut self.sink {
            Sink::Ndjson(output) => output.write(&transaction_line(transaction)?),
            Sink::Csv(output) => {
                let mut lines = String::new();
                effects.for_each(|row| row.put_csv(&mut lines));
                output.write(&lines)
            }
            #[cfg(feature = "parquet")]
            Sink::Parquet(file) => file.write(effects),
        }
    }

    /// Writes the note from time to time. `place` returns where the source continues.
    ///
    /// # Errors
    /// [`Failure`] if the output can't be written.
    pub(super) fn settle(&mut self, place: impl FnOnce() -> String) -> Result<(), Failure> {
        match &mut self.sink {
            Sink::Ndjson(output) | Sink::Csv(output) => output.settle(self.counts, place),
            #[cfg(feature = "parquet")]
            Sink::Parquet(_) => Ok(()),
        }
    }

    /// Completes the output. Returns what was written.
    ///
    /// # Errors
    /// [`Failure`] if the output can't be written.
    pub(super) fn finish(self) -> Result<Counts, Failure> {
        self.progress.finish_and_clear();
        match self.sink {
            Sink::Ndjson(output) | Sink::Csv(output) => output.finish()?,
            #[cfg(feature = "parquet")]
            Sink::Parquet(file) => file.finish()?,
        }
        Ok(self.counts)
    }
}

// ===== impl Sink =====

impl Sink {
    fn note(&self) -> Note {
        match self {
            Sink::Ndjson(output) | Sink::Csv(output) => output.note(),
            #[cfg(feature = "parquet")]
            Sink::Parquet(_) => Note::default(),
        }
    }
}

#[cfg(feature = "parquet")]
fn parquet_sink(path: Option<&Path>) -> Result<Sink, Failure> {
    let Some(path) = path else {
        let message = "Parquet can't be written to standard output: name a file with --output";
        return Err(Failure::with_message(exit::USAGE, message.to_owned()));
    };
    Ok(Sink::Parquet(Box::new(ParquetFile::create(path)?)))
}

#[cfg(not(feature = "parquet"))]
fn parquet_sink(_path: Option<&Path>) -> Result<Sink, Failure> {
    let message = "this build can't write Parquet: use --format csv, or a build with the feature parquet (docs/export.md)";
    Err(Failure::with_message(exit::USAGE, message.to_owned()))
}
