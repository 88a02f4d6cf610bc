//! How EXEC creates and updates accounts.

use std::collections::HashSet;

use tally_batch::FlushReason;
use tally_ledger::{AccountOutcome, AccountUpdate, NewAccount, UpdateOutcome};

use super::{DISK_FULL, Exec};
use crate::engine::{
    command::{Command, CommandReply, CreatedAccounts, Existing, account_bytes_max},
    reads,
    suspended::{Executed, Halt, Rest},
};

// ===== impl Exec =====

impl Exec {
    pub(super) fn update_account(&mut self, update: Box<AccountUpdate>) -> Executed {
        if !self.book.has_room(1)
            && let Err(halt) = self.next_block(FlushReason::Bytes)
        {
            return match halt {
                Halt::Fault(fault) => Executed::Done(Err(fault)),
                Halt::Blocked(until) => Executed::Blocked(Rest::Whole(Command::UpdateAccount(update)), until),
            };
        }
        if !self.has_space() {
            return Executed::Done(Err(DISK_FULL));
        }
        let updated = match self.book.update_account(*update) {
            UpdateOutcome::Updated(index) => Ok(Box::new(reads::snapshot(&self.book, index))),
            refused @ (UpdateOutcome::NotFound
            | UpdateOutcome::ChangedSince
            | UpdateOutcome::Closed
            | UpdateOutcome::NotEmpty
            | UpdateOutcome::Unlimited) => Err(refused),
        };
        Executed::Done(Ok(CommandReply::UpdateAccount(updated)))
    }

    pub(super) fn create_accounts(&mut self, mut accounts: Vec<NewAccount>, existing: Existing) -> Executed {
        if existing == Existing::Skip {
            let known = self.book.ledger().accounts();
            let mut seen = HashSet::with_capacity(accounts.len());
            accounts.retain(|account| known.find(&account.id).is_none() && seen.insert(account.id.clone()));
        }
        // All accounts must be in one block. So after a crash, either all of them exist or none of them.
        let bytes = accounts.iter().map(account_bytes_max).sum();
        if !self.book.has_room_for_bytes(bytes)
            && let Err(halt) = self.next_block(FlushReason::Bytes)
        {
            return match halt {
                Halt::Fault(fault) => Executed::Done(Err(fault)),
                Halt::Blocked(until) => {
                    Executed::Blocked(Rest::Whole(Command::CreateAccounts(accounts, existing)), until)
                }
            };
        }
        if !self.has_space() {
            let known = self.book.ledger().accounts();
            if accounts.iter().any(|account| known.find(&account.id).is_none()) {
                return Executed::Done(Err(DISK_FULL));
            }
        }
        let created = match self.book.create_accounts(accounts) {
            AccountOutcome::Created(indexes) => CreatedAccounts::All(
                indexes
                    .into_iter()
                    .map(|index| reads::snapshot(&self.book, index))
                    .collect(),
            ),
            AccountOutcome::Reused { place, field } => CreatedAccounts::Reused { place, field },
            AccountOutcome::Full(full) => CreatedAccounts::Full(full),
        };
        Executed::Done(Ok(CommandReply::CreateAccounts(created)))
    }
}
