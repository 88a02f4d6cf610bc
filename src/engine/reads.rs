//! The commands of EXEC that write no record.

use tally_ledger::{AccountIndex, AccountSnapshot};

use super::{
    command::{AccountHistory, Command, CommandReply, PAGE_ACCOUNTS_MAX, PAGE_HOLD_SLOTS},
    counters::EngineCounters,
    fault::StoreFault,
};
use crate::store::embedded::{JournaledLedger, checkpoint::put_chunk};

/// Executes a command that writes no record.
///
/// # Errors
/// [`StoreFault::ReadFailed`] if a record on the disk names an account that does not exist.
pub(super) fn read(
    book: &JournaledLedger,
    command: Command,
    counters: &EngineCounters,
) -> Result<CommandReply, StoreFault> {
    match command {
        Command::Account(id) => Ok(CommandReply::Account(book.ledger().account(&id).map(Box::new))),
        Command::History(id) => Ok(CommandReply::History(history(book, &id))),
        Command::Accounts { from, limit } => Ok(accounts(book, from, limit)),
        Command::Locate(key) => Ok(CommandReply::Located(book.candidates(key.borrow()))),
        Command::Hold(position) => Ok(CommandReply::Hold(book.ledger().holds().get(position.as_u64()))),
        Command::Holds(from) => {
            let (holds, next) = book.ledger().holds().page(from, PAGE_HOLD_SLOTS);
            Ok(CommandReply::Holds { holds, next })
        }
        Command::AccountIds(indexes) => {
            let ids = indexes.iter().map(|index| account_id(book, *index, counters));
            Ok(CommandReply::AccountIds(ids.collect::<Result<_, _>>()?))
        }
        Command::ReadPoint => Ok(CommandReply::ReadPoint),
        Command::CheckpointChunk(from) => {
            let mut bytes = Vec::new();
            let next = put_chunk(book.ledger(), from, &mut bytes);
            Ok(CommandReply::CheckpointChunk { bytes, next })
        }
        Command::Transactions(..)
        | Command::CreateAccounts(..)
        | Command::UpdateAccount(_)
        | Command::Probe
        | Command::Follow(_)
        | Command::Lead
        | Command::StopLeading(..) => {
            unreachable!("the command is not a read")
        }
    }
}

fn history(book: &JournaledLedger, id: &str) -> Option<Box<AccountHistory>> {
    let accounts = book.ledger().accounts();
    let index = accounts.find(id)?;
    Some(Box::new(AccountHistory {
        now: accounts.snapshot(index)?,
        created: accounts.as_created(index)?,
        history: book.ledger().history(index)?,
        next_sequence: book.order().next_sequence,
        as_of_max: book.settled_time(),
    }))
}

fn accounts(book: &JournaledLedger, from: AccountIndex, limit: usize) -> CommandReply {
    let mut indexes = book.ledger().accounts().indexes_from(from);
    let limit = limit.min(PAGE_ACCOUNTS_MAX);
    let accounts = indexes
        .by_ref()
        .take(limit)
        .map(|index| snapshot(book, index))
        .collect();
    CommandReply::Accounts {
        accounts,
        next: indexes.next(),
    }
}

/// Returns the state of the account with this index, which the ledger has returned before.
///
/// # Panics
/// If the ledger has no such account.
pub(super) fn snapshot(book: &JournaledLedger, index: AccountIndex) -> AccountSnapshot {
    let Some(snapshot) = book.ledger().accounts().snapshot(index) else {
        panic!("account {index:?} was created, but the ledger does not have it");
    };
    snapshot
}

/// Returns the id of an account whose index comes from a record on the disk.
///
/// # Errors
/// [`StoreFault::ReadFailed`] if the ledger has no such account. In this case, the record is damaged, although its
/// checksum is right.
fn account_id(
    book: &JournaledLedger,
    index: AccountIndex,
    counters: &EngineCounters,
) -> Result<String, StoreFault> {
    let Some(id) = book.ledger().accounts().id(index) else {
        if let Some(omitted) = counters.read_errors.admit(tokio::time::Instant::now()) {
            let account = index.0;
            tracing::error!(account, omitted, "a record names an account that does not exist");
        }
        return Err(StoreFault::ReadFailed);
    };
    Ok(id.to_owned())
}
