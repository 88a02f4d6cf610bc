//! The commands that EXEC executes, and its replies.

use std::{collections::VecDeque, sync::Arc};

use smallvec::SmallVec;
use tally_batch::BatchItem;
use tally_journal::{BlockKind, Position};
use tally_ledger::{
    AccountField, AccountIndex, AccountSnapshot, AccountUpdate, Amount, Balances, History, Hold, Metadata,
    NewAccount, Outcome, RecordKey, TableFull, Timestamp, UpdateOutcome, history::Step,
};

use super::{fault::StoreFault, transaction_batch::TransactionBatch};
use crate::{
    store::embedded::{AcceptedBlock, Candidates, LedgerEnd, checkpoint::ChunkStart},
    telemetry::TraceLink,
};

/// Maximum number of accounts in one request. One block contains all accounts of a request, even if they are larger
/// than a block usually is.
pub const CREATE_ACCOUNTS_MAX: usize = 1000;
/// Maximum number of accounts in a page.
pub const PAGE_ACCOUNTS_MAX: usize = 1000;
/// Number of slots of the table of holds that one command reads.
pub const PAGE_HOLD_SLOTS: usize = 1024;

/// Before the execution, memory for the answer about a transaction without transfers is held for this number of legs, because only the
/// execution finds out how many legs there are. Most transactions have fewer. For more legs, the execution asks for more memory, see
/// [`MemoryCharge::hold_legs`](super::MemoryCharge::hold_legs).
pub const LEGS_CHARGED: usize = 4;

/// The outcomes of a request's transactions, in order. The single outcome of a unary call needs no allocation.
pub type Outcomes = SmallVec<[Outcome; 1]>;

/// A command for EXEC.
#[derive(Debug)]
pub enum Command {
    /// Processes these transactions in order, each independently of the others. The batch is shared with the caller, who needs
    /// the ids for the response.
    Transactions(Arc<TransactionBatch>, Option<TraceLink>),
    /// Creates all of these accounts, or none.
    CreateAccounts(Vec<NewAccount>, Existing),
    /// Updates an account.
    UpdateAccount(Box<AccountUpdate>),
    /// Reads an account.
    Account(String),
    /// Reads an account, and the place where its history begins.
    History(String),
    /// Reads a page of accounts, in the order of their creation.
    Accounts {
        /// The first account.
        from: AccountIndex,
        /// Maximum number of accounts.
        limit: usize,
    },
    /// Returns the positions in the journal where the record with this key may be.
    Locate(OwnedKey),
    /// Reads the hold whose record is at this position, if it is outstanding.
    Hold(Position),
    /// Reads the outstanding holds in [`PAGE_HOLD_SLOTS`] slots of the table of holds, from this slot on.
    Holds(u32),
    /// Reads the ids of these accounts.
    AccountIds(Vec<AccountIndex>),
    /// Reads nothing. The answer proves that this replica led after the command was given, because the answer waits for a block, as that of every read does.
    ReadPoint,
    /// Encodes a chunk of a checkpoint. EXEC chooses how much.
    CheckpointChunk(ChunkStart),
    /// Commits the open block, even if it is empty.
    Probe,
    /// Applies these blocks, which the replicated log has accepted, and appends them to the local journal. Only a replica that follows
    /// executes this command.
    Follow(VecDeque<AcceptedBlock>),
    /// Makes this replica the leader: its claim is the last block that was applied. From now on EXEC executes commands that write.
    Lead,
    /// Commits the open block, and then a control block that ends the leadership of this replica: a resignation, or the end of the log.
    /// From now on the replica follows.
    StopLeading(BlockKind, Vec<u8>),
}

/// The reply to a [`Command`].
#[derive(Debug)]
pub enum CommandReply {
    /// The outcome of each transaction.
    Transactions(Processed),
    /// Whether the accounts were created.
    CreateAccounts(CreatedAccounts),
    /// The account after the update, or why it was not updated.
    UpdateAccount(Result<Box<AccountSnapshot>, UpdateOutcome>),
    /// The account, if it exists.
    Account(Option<Box<AccountSnapshot>>),
    /// The account and its history, if it exists.
    History(Option<Box<AccountHistory>>),
    /// A page of accounts.
    Accounts {
        /// The accounts.
        accounts: Vec<AccountSnapshot>,
        /// The first account of the next page, if there is one.
        next: Option<AccountIndex>,
    },
    /// The positions in the journal where the record may be.
    Located(Candidates),
    /// The hold, if it is outstanding.
    Hold(Option<Hold>),
    /// The holds, and the next slot if there is one.
    Holds {
        /// The holds.
        holds: Vec<Hold>,
        /// The first slot of the next page, if there is one.
        next: Option<u32>,
    },
    /// The ids, in the order of the command.
    AccountIds(Vec<String>),
    /// Everything that was acknowledged before the command was given is durable here.
    ReadPoint,
    /// A chunk of a checkpoint.
    CheckpointChunk {
        /// The encoded accounts or holds.
        bytes: Vec<u8>,
        /// The start of the next chunk, if there is one.
        next: Option<ChunkStart>,
    },
    /// The block that was open is durable.
    Probed,
    /// `Ok`: the blocks were applied, and the journal is durable up to this point. `Err`: the reason why a block does not fit this
    /// ledger.
    Followed(Result<Box<LedgerEnd>, String>),
    /// This replica leads from this point on.
    Leading,
    /// The last block of this leader is durable. The value is the point after this block.
    StoppedLeading(Box<LedgerEnd>),
}

/// An account, and where its history begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountHistory {
    /// The current state of the account.
    pub now: AccountSnapshot,
    /// The account as it was created.
    pub created: NewAccount,
    /// Where the history begins.
    pub history: History,
    /// The sequence after the newest sequence that `now` and `history` include.
    pub next_sequence: u64,
    /// The newest time whose state can't change any more: no later record gets this time or an earlier one.
    pub as_of_max: Timestamp,
}

/// The outcomes of a request's transactions.
#[derive(Debug, Default)]
pub struct Processed {
    /// The outcome of each transaction, in order.
    pub outcomes: Outcomes,
    /// The details of some committed transactions, in the order of their places.
    pub details: Vec<Detail>,
}

/// The amounts that a transaction has moved, in the order of its transfers. Most transactions have one.
pub type MovedAmounts = SmallVec<[Amount; 1]>;

/// What the response says about a committed transaction besides its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// The place of the transaction in the request, from 0.
    pub place: usize,
    /// What each transfer has moved, if this does not follow from the request: with amount rules, for posts, and for reversals.
    pub moved: MovedAmounts,
    /// The balances of the accounts that the transaction touched, after it.
    pub balances: BalancesAfter,
}

/// The balances of the accounts that a transaction touched, each account once, after the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BalancesAfter {
    /// The balances; none if the request does not ask for them.
    Known(Vec<(Box<str>, Balances)>),
    /// The transaction was recorded before the request, so its balances must be read from the journal
    /// ([`TallyEngine::read_past_balances`](super::TallyEngine::read_past_balances)).
    Past(Box<PastBalances>),
    /// The balances could not be read.
    Unread(StoreFault),
}

/// Where the balances after a transaction of the past are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastBalances {
    /// The positions where the record of the transaction may be.
    pub candidates: Candidates,
    /// The accounts.
    pub accounts: Vec<PastAccount>,
}

/// An account whose balances after a transaction of the past are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastAccount {
    /// The id.
    pub id: Box<str>,
    /// The number.
    pub index: AccountIndex,
    /// The newest record of the account, and the balances after it. The transaction may still be this record.
    pub newest: Step,
}

/// A [`RecordKey`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedKey {
    /// See [`RecordKey::Transaction`].
    Transaction(String),
    /// See [`RecordKey::HoldEnd`].
    HoldEnd(String),
    /// See [`RecordKey::Reversal`].
    Reversal(String, u64),
}

/// What happens to an account of a request to create accounts if its id exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// The contents are compared. If they differ, no account is created.
    Compare,
    /// The account is left out of the request.
    Skip,
}

/// The result of a request to create accounts.
#[derive(Debug)]
pub enum CreatedAccounts {
    /// All accounts exist now. With [`Existing::Skip`], these are the accounts that did not exist before.
    All(Vec<AccountSnapshot>),
    /// An account with one of the ids exists, but with other content. No account was created.
    Reused {
        /// The index of that account in the request, from 0.
        place: usize,
        /// The first field that differs.
        field: AccountField,
    },
    /// The ledger has no room for all accounts of the request. No account was created.
    Full(TableFull),
}

// ===== impl BalancesAfter =====

impl BalancesAfter {
    /// The balances that are known.
    #[must_use]
    pub fn known(&self) -> &[(Box<str>, Balances)] {
        match self {
            BalancesAfter::Known(balances) => balances,
            BalancesAfter::Past(_) | BalancesAfter::Unread(_) => &[],
        }
    }

    /// Why the balances are not known.
    #[must_use]
    pub const fn fault(&self) -> Option<StoreFault> {
        match self {
            BalancesAfter::Known(_) => None,
            // The code that answers must read these balances before, so this is a bug.
            BalancesAfter::Past(_) => Some(StoreFault::ReadFailed),
            BalancesAfter::Unread(fault) => Some(*fault),
        }
    }

    /// Leaves out the accounts whose ids `keep` does not accept.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        match self {
            BalancesAfter::Known(balances) => balances.retain(|(id, _)| keep(id)),
            BalancesAfter::Past(past) => past.accounts.retain(|account| keep(&account.id)),
            BalancesAfter::Unread(_) => {}
        }
    }

    /// Whether there is no balance to show, and no fault.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, BalancesAfter::Known(balances) if balances.is_empty())
    }
}

impl Default for BalancesAfter {
    fn default() -> Self {
        BalancesAfter::Known(Vec::new())
    }
}

// ===== impl OwnedKey =====

impl OwnedKey {
    /// Borrows the key.
    #[must_use]
    pub fn borrow(&self) -> RecordKey<'_> {
        match self {
            OwnedKey::Transaction(id) => RecordKey::Transaction(id.as_bytes()),
            OwnedKey::HoldEnd(id) => RecordKey::HoldEnd(id.as_bytes()),
            OwnedKey::Reversal(id, number) => RecordKey::Reversal(id.as_bytes(), *number),
        }
    }

    const fn len(&self) -> usize {
        match self {
            OwnedKey::Transaction(id) | OwnedKey::HoldEnd(id) | OwnedKey::Reversal(id, _) => id.len(),
        }
    }
}

// ===== impl Command =====

impl Command {
    /// Whether the command may write a block. Only a leader executes such a command.
    pub(super) const fn writes(&self) -> bool {
        match self {
            Command::Transactions(..)
            | Command::CreateAccounts(..)
            | Command::UpdateAccount(_)
            | Command::Probe
            | Command::StopLeading(..) => true,
            Command::Account(_)
            | Command::History(_)
            | Command::Accounts { .. }
            | Command::Locate(_)
            | Command::Hold(_)
            | Command::Holds(_)
            | Command::AccountIds(_)
            | Command::ReadPoint
            | Command::CheckpointChunk(_)
            | Command::Follow(_)
            | Command::Lead => false,
        }
    }

    /// Whether the answer shows the ledger to a caller: see [`CommandReply::shows_ledger`].
    pub(super) const fn shows_ledger(&self) -> bool {
        !matches!(
            self,
            Command::AccountIds(_)
                | Command::CheckpointChunk(_)
                | Command::Follow(_)
                | Command::Lead
                | Command::StopLeading(..)
        )
    }
}

// ===== impl CommandReply =====

impl CommandReply {
    /// Whether the reply shows the ledger to a caller. A leader may give such a reply only when the log proves that it was still the
    /// leader. The ids of accounts never change, and whoever asks for them has found the accounts in an earlier reply or in a durable
    /// record.
    pub(super) const fn shows_ledger(&self) -> bool {
        !matches!(
            self,
            CommandReply::AccountIds(_)
                | CommandReply::CheckpointChunk { .. }
                | CommandReply::Followed(_)
                | CommandReply::Leading
                | CommandReply::StoppedLeading(_)
        )
    }

    /// Whether the log can have effects that the reply shows, although it has not got the block for which the reply waits. The transactions of
    /// a batch can be in several blocks, and a replayed transaction is in an earlier block. The records of any other command are in one block.
    pub(super) fn may_be_in_earlier_block(&self) -> bool {
        let CommandReply::Transactions(processed) = self else {
            return false;
        };
        match processed.outcomes.as_slice() {
            [Outcome::Committed { replayed, .. }] => *replayed,
            [Outcome::Rejected { .. } | Outcome::Reused { .. }] | [] => false,
            [..] => true,
        }
    }
}

// ===== impl BatchItem for Command =====

impl BatchItem for Command {
    fn items(&self) -> usize {
        match self {
            Command::Transactions(batch, _) => batch.len(),
            Command::CreateAccounts(accounts, _) => accounts.len(),
            Command::AccountIds(indexes) => indexes.len(),
            Command::Accounts { limit, .. } => *limit,
            Command::UpdateAccount(_)
            | Command::Account(_)
            | Command::History(_)
            | Command::Locate(_)
            | Command::Hold(_)
            | Command::ReadPoint
            | Command::CheckpointChunk(_)
            | Command::Probe
            | Command::Lead
            | Command::StopLeading(..) => 1,
            Command::Follow(blocks) => blocks.len(),
            // Each hold takes about a tenth of the memory and of the time of an account.
            Command::Holds(_) => PAGE_HOLD_SLOTS / 10,
        }
    }

    fn bytes(&self) -> usize {
        let held = match self {
            Command::Transactions(batch, _) => batch.memory_bytes(),
            Command::CreateAccounts(accounts, _) => accounts.iter().map(account_bytes_max).sum(),
            Command::AccountIds(indexes) => size_of_val(indexes.as_slice()),
            Command::UpdateAccount(update) => update_bytes_max(update),
            Command::Account(id) | Command::History(id) => id.len(),
            Command::Locate(key) => key.len(),
            Command::Accounts { .. }
            | Command::Hold(_)
            | Command::Holds(_)
            | Command::ReadPoint
            | Command::CheckpointChunk(_)
            | Command::Probe
            | Command::Lead => 0,
            Command::StopLeading(_, body) => body.len(),
            Command::Follow(blocks) => blocks.iter().map(AcceptedBlock::len).sum(),
        };
        held + size_of::<Command>()
    }
}

/// Returns an upper bound of the bytes that the record of an account takes in the journal.
pub(super) fn account_bytes_max(account: &NewAccount) -> usize {
    account.id.len()
        + account.asset.len()
        + metadata_bytes_max(&account.metadata)
        + account.velocity_limits.len() * LIMIT_BYTES_MAX
        + 64
}

/// Returns an upper bound of the bytes that the record of an update takes in the journal, if it sets everything.
fn update_bytes_max(update: &AccountUpdate) -> usize {
    let limits = update.velocity_limits.as_ref().map_or(0, Vec::len);
    update.id.len()
        + update.metadata.as_ref().map_or(0, metadata_bytes_max)
        + limits * LIMIT_BYTES_MAX
        + size_of::<AccountUpdate>()
}

/// Upper bound of the length of an encoded velocity limit, in bytes.
const LIMIT_BYTES_MAX: usize = 64;

fn metadata_bytes_max(metadata: &Metadata) -> usize {
    let entries = metadata.iter().map(|(key, value)| key.len() + value.len() + 4);
    entries.sum()
}
