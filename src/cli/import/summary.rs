//! The result of an import.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use prost::Message;
use serde::Serialize;
use thiserror::Error;
use tokio::time::Instant;

use super::{row::LineCounts, source::Batch};
use crate::{
    json,
    proto::{ProcessTransactionResponse, TransactionResult, transaction_result},
    terminal::units,
};

/// Maximum number of rejected transactions that the summary shows.
const EXAMPLES_MAX: usize = 5;
/// Maximum number of reasons that are counted separately. The API has about a dozen reasons.
const REASONS_MAX: usize = 64;
/// Name under which all further reasons are counted.
pub(super) const OTHER: &str = "OTHER";

/// The result of an import, or its state so far.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub(super) struct Summary {
    /// Lines of the files: headers, blank lines, transactions, accounts and updates. This count and the next two are `None` unless all files
    /// were read to their ends.
    pub(super) lines: Option<u64>,
    /// Header lines.
    pub(super) header_lines: Option<u64>,
    /// Blank lines.
    pub(super) blank_lines: Option<u64>,
    /// Transactions that were answered, and those that were not sent.
    pub(super) transactions: u64,
    /// Committed by this import.
    pub(super) committed: u64,
    /// Committed before this import, with the same id and content.
    pub(super) replayed: u64,
    /// Rejected by the service during this import or before, or not sent.
    pub(super) rejected: u64,
    /// Number of rejected transactions by reason.
    pub(super) rejected_by_reason: BTreeMap<String, u64>,
    /// The first rejected transactions.
    pub(super) rejected_examples: Vec<Example>,
    /// The last answered row; `None` before the first answer. All earlier rows, in the order of the files, were
    /// answered, too.
    pub(super) answered_through: Option<Place>,
    /// The file of rejected transactions, if there is one.
    pub(super) rejects_file: Option<String>,
    /// Created accounts.
    pub(super) accounts_created: u64,
    /// Accounts of the files. They exist now.
    pub(super) accounts: u64,
    /// Updates of accounts that the service has applied during this import.
    pub(super) updates_applied: u64,
    /// Updates of accounts that an earlier import had applied.
    pub(super) updates_skipped: u64,
    /// The highest sequence of the committed and replayed transactions; `None` if there are none.
    pub(super) last_sequence: Option<i64>,
    /// Duration of the import, in seconds.
    pub(super) elapsed_seconds: f64,
    /// Answered transactions per second.
    pub(super) transactions_per_second: f64,
    /// When the import began to read the files.
    #[serde(skip)]
    started: Option<Instant>,
}

/// A row of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    /// The file.
    pub(super) file: String,
    /// The line, from 1.
    pub(super) line: u64,
}

/// An answer with the id of another transaction.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line}: transaction {sent:?} was answered with the id {answered:?}")]
pub(super) struct WrongAnswer {
    /// The line, from 1.
    line: u64,
    /// The id that was sent.
    sent: String,
    /// The id in the answer.
    answered: String,
}

/// A rejected transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Example {
    /// The file.
    pub(super) file: String,
    /// The line, from 1.
    pub(super) line: u64,
    /// The transaction.
    pub(super) transaction_id: String,
    /// The reason, for programs.
    pub(super) reason: String,
    /// The reason, for people.
    pub(super) message: String,
}

// ===== impl Place =====

impl Place {
    fn new(file: &Path, line: u64) -> Self {
        Place {
            file: file.display().to_string(),
            line,
        }
    }
}

// ===== impl Summary =====

impl Summary {
    /// Counts the answers to a batch, one for each row.
    ///
    /// # Errors
    /// [`WrongAnswer`]. The answers before the wrong answer are counted.
    pub(super) fn count(
        &mut self,
        batch: &Batch,
        results: Vec<TransactionResult>,
    ) -> Result<(), WrongAnswer> {
        for (row, result) in batch.rows.iter().zip(results) {
            let sent = &row.transaction.transaction_id;
            if result.transaction_id != *sent {
                return Err(WrongAnswer {
                    line: row.line,
                    sent: sent.clone(),
                    answered: result.transaction_id,
                });
            }
            self.transactions += 1;
            match result.outcome {
                Some(transaction_result::Outcome::Committed(committed)) => self.count_committed(&committed),
                Some(transaction_result::Outcome::Error(status)) => {
                    let reason = reason_of(&status);
                    self.count_rejected(batch, row.line, result.transaction_id, reason, status.message);
                }
                None => {
                    let message = "the answer has no outcome".to_owned();
                    self.count_rejected(batch, row.line, result.transaction_id, OTHER.to_owned(), message);
                }
            }
        }
        self.answered_through = batch.rows.last().map(|row| Place::new(&batch.file, row.line));
        Ok(())
    }

    /// Counts an update, which the service has applied during this import, or before.
    pub(super) fn count_update(&mut self, file: &Path, line: u64, is_new: bool) {
        if is_new {
            self.updates_applied += 1;
        } else {
            self.updates_skipped += 1;
        }
        self.answered_through = Some(Place::new(file, line));
    }

    /// Counts updates that an earlier import has applied.
    pub(super) const fn count_skipped_updates(&mut self, count: u64) {
        self.updates_skipped += count;
    }

    /// Counts accounts of a file, which exist now. `line` is the line of the last of them.
    pub(super) fn count_accounts(&mut self, file: &Path, line: u64, count: u64) {
        self.accounts += count;
        self.answered_through = Some(Place::new(file, line));
    }

    /// Returns the number of counted updates.
    pub(super) const fn updates(&self) -> u64 {
        self.updates_applied + self.updates_skipped
    }

    /// Returns whether any row was counted.
    pub(super) const fn has_answers(&self) -> bool {
        self.transactions + self.updates() + self.accounts > 0
    }

    /// Stores the line counts, and returns whether every row was answered and counted exactly once.
    pub(super) const fn settle(&mut self, read: LineCounts) -> bool {
        self.lines = Some(read.lines());
        self.header_lines = Some(read.headers);
        self.blank_lines = Some(read.blank);
        read.rows == self.transactions + self.updates() + self.accounts
            && self.transactions == self.committed + self.replayed + self.rejected
    }

    fn count_committed(&mut self, committed: &ProcessTransactionResponse) {
        let count = if committed.replayed {
            &mut self.replayed
        } else {
            &mut self.committed
        };
        *count += 1;
        self.last_sequence = self.last_sequence.max(Some(committed.sequence));
    }

    fn count_rejected(
        &mut self,
        batch: &Batch,
        line: u64,
        transaction_id: String,
        reason: String,
        message: String,
    ) {
        self.rejected += 1;
        if self.rejected_examples.len() < EXAMPLES_MAX {
            let file = batch.file.display().to_string();
            let reason = reason.clone();
            self.rejected_examples.push(Example {
                file,
                line,
                transaction_id,
                reason,
                message,
            });
        }
        let room =
            self.rejected_by_reason.len() < REASONS_MAX || self.rejected_by_reason.contains_key(&reason);
        *self
            .rejected_by_reason
            .entry(if room { reason } else { OTHER.to_owned() })
            .or_default() += 1;
    }

    /// Notes that the import begins to read the files.
    pub(super) fn start(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Returns whether [`Summary::start`] was called. Before that, the import has no connection and has sent nothing.
    pub(super) fn is_started(&self) -> bool {
        self.started.is_some()
    }

    /// Stores the duration of the import: the time since [`Summary::start`].
    pub(super) fn finish(&mut self) {
        self.set_elapsed(self.started.map_or(Duration::ZERO, |started| started.elapsed()));
    }

    fn set_elapsed(&mut self, elapsed: Duration) {
        self.elapsed_seconds = elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate that is shown to people")]
        let transactions = self.transactions as f64;
        // A whole number, as in the table.
        self.transactions_per_second = if self.elapsed_seconds > 0.0 {
            (transactions / self.elapsed_seconds).round()
        } else {
            0.0
        };
    }

    /// Writes the summary as JSON.
    ///
    /// # Errors
    /// The errors of `out`.
    pub(super) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", json::to_pretty(self)?)
    }

    /// Writes the summary as a table.
    ///
    /// # Errors
    /// The errors of `out`.
    pub(super) fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        let mut rows = vec![
            ("committed".to_owned(), self.committed.to_string()),
            ("replayed".to_owned(), self.replayed.to_string()),
            ("rejected".to_owned(), self.rejected.to_string()),
        ];
        rows.extend(
            self.rejected_by_reason
                .iter()
                .map(|(reason, count)| (format!("  {reason}"), count.to_string())),
        );
        if let Some(blank @ 1..) = self.blank_lines {
            rows.push(("blank lines".to_owned(), blank.to_string()));
        }
        rows.push(("accounts created".to_owned(), self.accounts_created.to_string()));
        if self.accounts > 0 {
            rows.push(("accounts".to_owned(), self.accounts.to_string()));
        }
        if self.updates() > 0 {
            rows.push(("updates applied".to_owned(), self.updates_applied.to_string()));
            rows.push(("updates skipped".to_owned(), self.updates_skipped.to_string()));
        }
        let last_sequence = self
            .last_sequence
            .map_or_else(|| "-".to_owned(), |sequence| sequence.to_string());
        rows.push(("last sequence".to_owned(), last_sequence));
        let elapsed = Duration::try_from_secs_f64(self.elapsed_seconds).unwrap_or_default();
        rows.push(("elapsed".to_owned(), units::time(elapsed)));
        let rate = units::whole_number(self.transactions_per_second);
        rows.push(("rate".to_owned(), format!("{rate} transactions/s")));
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, value) in rows {
            writeln!(out, "{name:width$}  {value}")?;
        }
        if !self.rejected_examples.is_empty() {
            writeln!(out, "\nthe first rejected:")?;
        }
        for Example {
            file,
            line,
            transaction_id,
            reason,
            message,
        } in &self.rejected_examples
        {
            writeln!(out, "{file}:{line}: {transaction_id}: {reason}: {message}")?;
        }
        if let (Some(file), 1..) = (&self.rejects_file, self.rejected) {
            writeln!(out, "\nall rejected transactions are in {file}")?;
        }
        if self.rejected_by_reason.contains_key("ACCOUNT_NOT_FOUND") {
            writeln!(
                out,
                "\nto create missing accounts, import again with --create-accounts; committed transactions are not applied again"
            )?;
        }
        Ok(())
    }
}

/// Returns the reason in the status's `google.rpc.ErrorInfo`, or the number of the status code if there is no `ErrorInfo`.
pub(super) fn reason_of(status: &tonic_types::Status) -> String {
    error_info(status).map_or_else(|| format!("CODE_{}", status.code), |info| info.reason)
}

/// Returns the status's `google.rpc.ErrorInfo`, if it has one.
pub(super) fn error_info(status: &tonic_types::Status) -> Option<tonic_types::pb::ErrorInfo> {
    let mut details = status.details.iter();
    let info = details.find(|detail| detail.type_url.ends_with("/google.rpc.ErrorInfo"))?;
    tonic_types::pb::ErrorInfo::decode(info.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::{super::row::Row, *};
    use crate::proto::ProcessTransactionRequest;

    fn committed(sequence: i64, replayed: bool) -> TransactionResult {
        let committed = ProcessTransactionResponse {
            sequence,
            replayed,
            ..ProcessTransactionResponse::default()
        };
        TransactionResult {
            transaction_id: "t".to_owned(),
            outcome: Some(transaction_result::Outcome::Committed(committed)),
        }
    }

    fn rejected(reason: &str) -> TransactionResult {
        let details = ErrorDetails::with_error_info(reason, "tally.v1", []);
        let status = tonic::Status::with_error_details(tonic::Code::FailedPrecondition, "no", details);
        let error = tonic_types::Status::decode(status.details()).unwrap();
        TransactionResult {
            transaction_id: "t".to_owned(),
            outcome: Some(transaction_result::Outcome::Error(error)),
        }
    }

    fn batch(rows: u64) -> Batch {
        let row = |line| Row {
            line,
            transaction: ProcessTransactionRequest {
                transaction_id: "t".to_owned(),
                ..ProcessTransactionRequest::default()
            },
        };
        Batch {
            file: Path::new("a.csv").into(),
            rows: (2..2 + rows).map(row).collect(),
        }
    }

    #[test]
    fn answers_are_counted_by_outcome() {
        let mut summary = Summary::default();
        let results = vec![
            committed(7, false),
            committed(3, true),
            rejected("INSUFFICIENT_FUNDS"),
        ];
        summary.count(&batch(3), results).unwrap();
        let silent = TransactionResult {
            transaction_id: "t".to_owned(),
            outcome: None,
        };
        let plain = tonic_types::Status {
            code: 13,
            message: String::new(),
            details: Vec::new(),
        };
        let plain = TransactionResult {
            outcome: Some(transaction_result::Outcome::Error(plain)),
            ..silent.clone()
        };
        summary.count(&batch(2), vec![silent, plain]).unwrap();
        summary.set_elapsed(Duration::from_secs(2));
        assert_eq!(
            (
                summary.transactions,
                summary.committed,
                summary.replayed,
                summary.rejected
            ),
            (5, 1, 1, 3)
        );
        assert_eq!(
            (summary.last_sequence, summary.transactions_per_second),
            (Some(7), 3.0)
        );
        let reasons: Vec<_> = summary
            .rejected_by_reason
            .iter()
            .map(|(reason, count)| (reason.as_str(), *count))
            .collect();
        assert_eq!(reasons, [("CODE_13", 1), ("INSUFFICIENT_FUNDS", 1), ("OTHER", 1)]);
        let through = summary.answered_through.clone().unwrap();
        assert_eq!((through.file.as_str(), through.line), ("a.csv", 3));
        assert_eq!(
            (
                summary.rejected_examples[0].line,
                summary.rejected_examples[0].reason.as_str()
            ),
            (4, "INSUFFICIENT_FUNDS")
        );
    }

    #[test]
    fn every_row_must_be_answered_once() {
        let mut summary = Summary::default();
        let rows = |rows| LineCounts {
            headers: 1,
            blank: 2,
            rows,
        };
        assert!(!summary.settle(rows(1)), "a row was not answered");
        summary.count(&batch(1), vec![committed(1, false)]).unwrap();
        assert!(summary.settle(rows(1)));
        assert_eq!(
            (summary.lines, summary.header_lines, summary.blank_lines),
            (Some(4), Some(1), Some(2))
        );
        assert!(!summary.settle(rows(0)), "an answer has no row");
        summary.count_update(Path::new("b"), 9, true);
        summary.count_update(Path::new("b"), 10, false);
        assert!(summary.settle(rows(3)) && !summary.settle(rows(2)));
        assert_eq!((summary.updates_applied, summary.updates_skipped), (1, 1));
        assert_eq!(summary.answered_through.as_ref().unwrap().line, 10);
        // An answer is missing.
        summary.count(&batch(2), vec![committed(2, false)]).unwrap();
        assert!(!summary.settle(rows(5)));
        let other = TransactionResult {
            transaction_id: "u".to_owned(),
            ..committed(3, false)
        };
        let wrong = summary.count(&batch(1), vec![other]).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "line 2: transaction \"t\" was answered with the id \"u\""
        );
        assert_eq!(summary.transactions, 2);
    }

    #[test]
    fn examples_and_reasons_are_bounded() {
        let mut summary = Summary::default();
        let results = (0..100)
            .map(|number| rejected(&format!("REASON_{number}")))
            .collect();
        summary.count(&batch(100), results).unwrap();
        assert_eq!(summary.rejected_examples.len(), EXAMPLES_MAX);
        assert_eq!(summary.rejected_by_reason.len(), REASONS_MAX + 1);
        assert_eq!(summary.rejected_by_reason.values().sum::<u64>(), 100);
        assert_eq!(summary.rejected_by_reason[OTHER], 36);
    }

    #[test]
    fn table_and_json_contain_counts_reasons_and_advice() {
        let mut summary = Summary {
            accounts_created: 9,
            rejects_file: Some("rejects.ndjson".to_owned()),
            ..Summary::default()
        };
        summary
            .count(&batch(1), vec![rejected("ACCOUNT_NOT_FOUND")])
            .unwrap();
        let mut table = Vec::new();
        summary.write_table(&mut table).unwrap();
        let table = String::from_utf8(table).unwrap();
        for words in [
            "committed",
            "  ACCOUNT_NOT_FOUND",
            "a.csv:2: t: ACCOUNT_NOT_FOUND: no",
            "--create-accounts",
            "all rejected transactions are in rejects.ndjson",
        ] {
            assert!(table.contains(words), "{words:?} is not in\n{table}");
        }
        let mut json = Vec::new();
        summary.write_json(&mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        // Unknown values are null, not 0: the files were not read to their ends, and no transaction was committed.
        for unknown in ["lines", "header_lines", "blank_lines", "last_sequence"] {
            assert!(json[unknown].is_null(), "{unknown} in {json}");
        }
        assert_eq!(
            (
                &json["accounts_created"],
                &json["rejected_by_reason"]["ACCOUNT_NOT_FOUND"]
            ),
            (&9.into(), &1.into())
        );
    }
}
