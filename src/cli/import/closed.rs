//! Handles updates of accounts that an earlier import of the same files has already closed.
//!
//! After the last transaction of a file, no transaction shows that an update was applied, so a repeated import sends the update again. If a
//! later update of the file closes the account, the service refuses the earlier update with `ACCOUNT_CLOSED`. The import then reads on: if the
//! later updates in the file close the account and set all the values that it now has, the refused update was applied before. Until the import
//! knows this, it sends no transaction.

use std::collections::HashMap;

use super::{error::ImportError, resumption::has_values};
use crate::proto::{Account, AccountStatus, UpdateAccountRequest};

/// Maximum number of accounts that wait for a later update. An account takes about 2 KiB.
const ACCOUNTS_MAX: usize = 100_000;

/// The updates that were refused because their accounts are closed, by account.
#[derive(Debug, Default)]
pub(super) struct ClosedAccounts(HashMap<String, Refused>);

/// The refused updates of an account.
#[derive(Debug)]
struct Refused {
    /// The values that the updates set together.
    values: UpdateAccountRequest,
    /// The error of the first refused update.
    error: ImportError,
    /// The position of this account in the order of the first refused updates.
    place: usize,
    count: u64,
}

// ===== impl ClosedAccounts =====

impl ClosedAccounts {
    /// Notes an update that was refused with this error, because its account is closed.
    ///
    /// # Errors
    /// The error, if too many accounts wait.
    pub(super) fn refused(
        &mut self,
        id: &str,
        update: UpdateAccountRequest,
        error: ImportError,
    ) -> Result<(), ImportError> {
        if let Some(refused) = self.0.get_mut(id) {
            merge(&mut refused.values, update);
            refused.count += 1;
            return Ok(());
        }
        if self.0.len() >= ACCOUNTS_MAX {
            return Err(error);
        }
        let refused = Refused {
            values: update,
            error,
            place: self.0.len(),
            count: 1,
        };
        self.0.insert(id.to_owned(), refused);
        Ok(())
    }

    /// Notes that the service has accepted an update. `account` is the account after the update. Returns the number of refused updates of
    /// the account, which are now known to be applied.
    ///
    /// # Errors
    /// The error of the first refused update of the account, if the account does not have the values that the updates of the file set.
    pub(super) fn accepted(
        &mut self,
        account: &Account,
        update: UpdateAccountRequest,
    ) -> Result<u64, ImportError> {
        let Some(mut refused) = self.0.remove(&account.id) else {
            return Ok(0);
        };
        merge(&mut refused.values, update);
        let is_closed = refused
            .values
            .account
            .as_ref()
            .is_some_and(|wanted| wanted.status() == AccountStatus::Closed);
        if is_closed && has_values(account, &refused.values) {
            Ok(refused.count)
        } else {
            Err(refused.error)
        }
    }

    /// Ends a sequence of updates.
    ///
    /// # Errors
    /// The error of the first refused update, if no later update has shown that it was applied before.
    pub(super) fn finish(&mut self) -> Result<(), ImportError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let refused = std::mem::take(&mut self.0).into_values();
        let first = refused.min_by_key(|refused| refused.place);
        first.map_or(Ok(()), |refused| Err(refused.error))
    }
}

/// Adds the values that a later update sets to `values`.
fn merge(values: &mut UpdateAccountRequest, later: UpdateAccountRequest) {
    let (Some(account), Some(new)) = (&mut values.account, later.account) else {
        return;
    };
    let mask = values.update_mask.get_or_insert_default();
    for path in later.update_mask.into_iter().flat_map(|mask| mask.paths) {
        match path.as_str() {
            "status" => account.status = new.status,
            "overdraft_limit" => account.overdraft_limit = new.overdraft_limit,
            "metadata" => account.metadata.clone_from(&new.metadata),
            "velocity_limits" => account.velocity_limits.clone_from(&new.velocity_limits),
            // The check of the line has found all unknown paths.
            _ => {}
        }
        if !mask.paths.contains(&path) {
            mask.paths.push(path);
        }
    }
}
