//! Prefetching: EXEC asks the CPU to load memory into its cache before it needs the memory.

use tally_batch::Claimed;
use tally_ledger::Tags;

use super::{command::Command, pending::EngineReply, transaction_batch::TransactionBatch};
use crate::store::embedded::JournaledLedger;

/// EXEC prefetches the accounts of a transaction while it executes the transaction that is this many places earlier. It
/// prefetches the entries of the hash indexes of ids twice as early, because the entries name the accounts. One access
/// to main memory takes about as long as EXEC needs for this many transactions. Within a batch, EXEC prefetches for
/// this many transactions at a time.
const PREFETCH_DISTANCE: usize = 8;

/// Prefetches the memory that the first commands need, before any of them is executed.
pub(super) fn first(book: &JournaledLedger, commands: &[Claimed<Command, EngineReply>]) {
    for tags in commands.iter().take(2 * PREFETCH_DISTANCE).filter_map(first_tags) {
        book.prefetch_names(tags);
    }
    for tags in commands.iter().take(PREFETCH_DISTANCE).filter_map(first_tags) {
        book.prefetch_accounts(tags);
    }
}

/// Prefetches memory for `commands`, which are the commands after the one that EXEC is about to execute.
/// [`within`] does the same for the transactions of a batch.
pub(super) fn behind(book: &JournaledLedger, commands: &[Claimed<Command, EngineReply>]) {
    let tags = |distance: usize| commands.get(distance - 1).and_then(first_tags);
    if let Some(tags) = tags(2 * PREFETCH_DISTANCE) {
        book.prefetch_names(tags);
    }
    if let Some(tags) = tags(PREFETCH_DISTANCE) {
        book.prefetch_accounts(tags);
    }
}

/// Prefetches the memory that later transactions of the batch need, before the transaction at `place` is executed.
/// The entries of the hash indexes of ids come first, and then the accounts that these entries name. One call
/// prefetches for [`PREFETCH_DISTANCE`] transactions, because a CPU translates several addresses at a time only if
/// their loads are close together in the program.
pub(super) fn within(book: &JournaledLedger, batch: &TransactionBatch, place: usize) {
    if !place.is_multiple_of(PREFETCH_DISTANCE) {
        return;
    }
    // At place 0, only the memory of the first transaction was prefetched so far, by `first` or
    // `behind`.
    let from = |distance: usize| if place == 0 { 1 } else { place + distance };
    let names = from(2 * PREFETCH_DISTANCE)..place + 3 * PREFETCH_DISTANCE;
    for tags in names.map_while(|place| batch.tags(place)) {
        book.prefetch_names(tags);
    }
    let accounts = from(PREFETCH_DISTANCE)..place + 2 * PREFETCH_DISTANCE;
    for tags in accounts.map_while(|place| batch.tags(place)) {
        book.prefetch_accounts(tags);
    }
}

/// Returns the hashes of the ids in the first transaction of a command. Prefetching for later commands matters only for
/// commands with a single transaction, so the hashes of the other transactions are not needed.
fn first_tags(command: &Claimed<Command, EngineReply>) -> Option<Tags<'_>> {
    if let Command::Transactions(batch, _) = &command.item {
        batch.tags(0)
    } else {
        None
    }
}
