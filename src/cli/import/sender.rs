//! Sends the parts of an import, one after the other.

use std::{path::Path, time::Duration};

use indicatif::ProgressBar;

use super::{
    accounts::AccountCreator,
    closed::ClosedAccounts,
    error::ImportError,
    rejects::Rejects,
    resumption::{Parts, Resumption, has_values},
    row::LineCounts,
    source::{Accounts, Batch, Content, Pending, ReadAhead, Update, read_ahead},
    summary::Summary,
    unrecorded::Unrecorded,
    waits::Waits,
};
use crate::{
    client::{CallError, Client},
    proto::TransactionResult,
};

/// The reason of the service for an update whose `etag` is not that of the account.
const ACCOUNT_CHANGED: &str = "ACCOUNT_CHANGED";
/// The reason of the service for an update of an account that is closed.
const ACCOUNT_CLOSED: &str = "ACCOUNT_CLOSED";

/// Sends the parts of an import: each part after the previous part was answered.
pub(super) struct Sender<'a> {
    client: Client,
    waits: Waits,
    give_up_after: Duration,
    /// Creates missing accounts, if the import is to create accounts.
    accounts: Option<AccountCreator>,
    /// The file of rejected transactions and its name, if the options ask for one.
    rejects: Option<(&'a Path, Rejects)>,
    unrecorded: Unrecorded,
    resumption: Resumption,
    closed: ClosedAccounts,
}

// ===== impl Sender =====

impl<'a> Sender<'a> {
    /// Makes a sender. A call ends after `give_up_after`.
    pub(super) fn new(client: Client, waits: Waits, give_up_after: Duration) -> Self {
        Sender {
            client,
            waits,
            give_up_after,
            accounts: None,
            rejects: None,
            unrecorded: Unrecorded::default(),
            resumption: Resumption::default(),
            closed: ClosedAccounts::default(),
        }
    }

    /// Creates missing accounts with `accounts`.
    pub(super) fn creating(self, accounts: Option<AccountCreator>) -> Self {
        Sender { accounts, ..self }
    }

    /// Writes rejected transactions to a file.
    pub(super) fn writing(self, rejects: Option<(&'a Path, Rejects)>) -> Self {
        Sender { rejects, ..self }
    }

    /// Sends all rows of `files`, at most `rows_max` with one call. Returns the line counts of the files.
    ///
    /// # Errors
    /// [`ImportError`].
    pub(super) async fn send_all(
        mut self,
        files: Vec<Pending>,
        rows_max: usize,
        summary: &mut Summary,
        progress: &ProgressBar,
    ) -> Result<LineCounts, ImportError> {
        let ReadAhead { parts, reader } = read_ahead(files, rows_max);
        let mut parts = Parts::new(parts);
        while let Some(part) = parts.next().await {
            let part = part?;
            match part.content {
                Content::Batch(batch) => {
                    self.closed.finish()?;
                    self.send_batch(&batch, summary).await?;
                }
                Content::Update(update) => self.send_update(*update, &mut parts, summary).await?,
                Content::Accounts(accounts) => self.send_accounts(accounts, summary).await?,
            }
            self.waits.answered();
            progress.set_position(part.bytes_read);
            progress.set_message(format!(
                "{} committed, {} replayed, {} rejected",
                summary.committed, summary.replayed, summary.rejected
            ));
        }
        self.closed.finish()?;
        reader.await.map_err(|_| ImportError::Reader)
    }

    /// Sends a batch, and counts its results and writes its rejections.
    async fn send_batch(&mut self, batch: &Batch, summary: &mut Summary) -> Result<(), ImportError> {
        let line = batch.rows.first().map_or(0, |row| row.line);
        let ids = batch.rows.iter().flat_map(|row| &row.transaction.transfers);
        let ids = ids.flat_map(|transfer| [&transfer.debit_account_id, &transfer.credit_account_id]);
        self.create_accounts(ids, &batch.file, line, summary).await?;
        let results = self.results(batch).await?;
        for result in &results {
            self.unrecorded.note(result);
        }
        let written = match &mut self.rejects {
            Some((_, rejects)) => rejects.write(batch, &results),
            None => Ok(()),
        };
        // The batch counts even if its rejections can't be written, because it was applied.
        summary.count(batch, results)?;
        if let (Err(source), Some((file, _))) = (written, &self.rejects) {
            // The summary must not say that all rejections are in the file.
            summary.rejects_file = None;
            return Err(ImportError::RejectsCut {
                file: file.to_path_buf(),
                source,
                transactions: summary.transactions,
                through: summary.answered_through.clone(),
            });
        }
        Ok(())
    }

    /// Sends the transactions of a batch, except those that must be held back. Returns one result for each transaction of the batch.
    async fn results(&self, batch: &Batch) -> Result<Vec<TransactionResult>, ImportError> {
        let held_back: Vec<_> = batch
            .rows
            .iter()
            .map(|row| self.unrecorded.hold_back(row))
            .collect();
        let rows = batch.rows.iter().zip(&held_back);
        let sent: Vec<_> = rows
            .filter(|(_, held_back)| held_back.is_none())
            .map(|(row, _)| row.transaction.clone())
            .collect();
        if sent.is_empty() {
            return Ok(held_back.into_iter().flatten().collect());
        }
        let call = self.client.process_transactions(sent);
        let answered: Result<_, CallError> = self.waits.answer(self.give_up_after, call).await;
        // The client has checked that each sent transaction has a result.
        let mut answered = answered
            .map_err(|source| ImportError::Process {
                file: batch.file.to_path_buf(),
                line: batch.rows.first().map_or(0, |row| row.line),
                source,
            })?
            .into_iter();
        let results = held_back
            .into_iter()
            .filter_map(|held_back| held_back.or_else(|| answered.next()));
        Ok(results.collect())
    }

    /// Creates accounts. Accounts that exist with the same content do not change.
    async fn send_accounts(&mut self, accounts: Accounts, summary: &mut Summary) -> Result<(), ImportError> {
        let Accounts { file, rows } = accounts;
        let line = rows.first().map_or(0, |row| row.line);
        let last = rows.last().map_or(0, |row| row.line);
        let count = rows.len() as u64;
        let accounts = rows.into_iter().map(|row| row.account).collect();
        let call = self.client.batch_create_accounts(accounts);
        let created: Result<_, CallError> = self.waits.answer(self.give_up_after, call).await;
        created.map_err(|source| ImportError::Accounts {
            file: file.to_path_buf(),
            line,
            source,
        })?;
        summary.count_accounts(&file, last, count);
        Ok(())
    }

    /// Sends an update, if no earlier import has applied it. `parts` are the parts after the update.
    async fn send_update(
        &mut self,
        update: Update,
        parts: &mut Parts,
        summary: &mut Summary,
    ) -> Result<(), ImportError> {
        let Update { file, row } = update;
        let line = row.line;
        let id = row.account_id().to_owned();
        let failed = |source| ImportError::Update {
            file: file.to_path_buf(),
            line,
            account_id: id.clone(),
            source,
        };
        if !self.resumption.is_over() {
            let ids = parts.next_ids().await;
            let call = self
                .resumption
                .has_applied(&self.client, &ids, summary.last_sequence);
            let answered = self.waits.answer(self.give_up_after, call).await;
            let has_applied = answered.map_err(failed)?;
            if has_applied {
                summary.count_update(&file, line, false);
                return Ok(());
            }
        }
        self.create_accounts([&id], &file, line, summary).await?;
        let has_etag = row
            .request
            .account
            .as_ref()
            .is_some_and(|account| !account.etag.is_empty());
        let wanted = row.request.clone();
        let call = self.client.update_account(row.request);
        let updated: Result<_, CallError> = self.waits.answer(self.give_up_after, call).await;
        match updated {
            Ok(account) => {
                let skipped = self.closed.accepted(&account, wanted)?;
                summary.count_skipped_updates(skipped);
                summary.count_update(&file, line, true);
            }
            // An earlier import may have applied this update, and then a later update of the same file that closes the
            // account.
            Err(error) if error.reason().as_deref() == Some(ACCOUNT_CLOSED) => {
                self.closed.refused(&id, wanted, failed(error))?;
            }
            // An earlier import, or an attempt whose answer was lost, may have applied the update. That changed the etag.
            Err(error) if has_etag && error.reason().as_deref() == Some(ACCOUNT_CHANGED) => {
                let call = self.client.get_account(&id);
                let found: Result<_, CallError> = self.waits.answer(self.give_up_after, call).await;
                let is_applied =
                    found.is_ok_and(|account| account.is_some_and(|account| has_values(&account, &wanted)));
                if !is_applied {
                    return Err(failed(error));
                }
                summary.count_update(&file, line, false);
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    }

    /// Creates those of the accounts `ids` that do not exist, if the import is to create accounts.
    async fn create_accounts<'b>(
        &mut self,
        ids: impl IntoIterator<Item = &'b String>,
        file: &Path,
        line: u64,
        summary: &mut Summary,
    ) -> Result<(), ImportError> {
        let Some(creator) = &mut self.accounts else {
            return Ok(());
        };
        let ensured = creator.ensure(&self.client, ids);
        let created = self.waits.answer(self.give_up_after, ensured).await;
        summary.accounts_created = creator.created();
        created.map_err(|source| ImportError::Accounts {
            file: file.to_path_buf(),
            line,
            source,
        })
    }
}
