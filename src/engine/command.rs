//! The commands that EXEC executes, and its replies.

use std::{collections::VecDeque, sync::Arc};

use smallvec::SmallVec;
use tally_batch::BatchItem;
use tally_journal::{BlockKind, Position};
use tally_ledger::{
    AccountField, AccountIndex, AccountSnapshot, AccountUpdate, Amount, Balances, Heading, History, Hold,
    Metadata, Names, NewAccount, Outcome, RecordKey, TableFull, Tags, Timestamp, TransactionView, Transfer,
    UpdateOutcome, codec::Reader, tag_index::tag, transaction::put_transaction,
};

use super::fault::StoreFault;
use crate::{
    store::embedded::{AcceptedBlock, Candidates, LedgerEnd, checkpoint::ChunkStart},
    telemetry::TraceLink,
};

/// Maximum number of transactions in one request.
pub const TRANSACTIONS_MAX: usize = 8192;
/// Maximum number of accounts in one request. One block contains all accounts of a request, even if they are larger
/// than a block usually is.
pub const CREATE_ACCOUNTS_MAX: usize = 1000;
/// Maximum number of accounts in a page.
pub const PAGE_ACCOUNTS_MAX: usize = 1000;
/// Number of slots of the table of holds that one command reads.
pub const PAGE_HOLD_SLOTS: usize = 1024;

/// The memory for what the answer says about a transaction without transfers is held for this many legs before the execution, because
/// only the execution finds out their number. Most transactions have fewer. For more legs, the execution asks for more memory, see
/// [`MemoryCharge::hold_legs`].
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
    /// Reads an account, and where its history begins.
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
    /// Encodes a chunk of a checkpoint. EXEC chooses how much.
    CheckpointChunk(ChunkStart),
    /// Commits the open block, even if it is empty.
    Probe,
    /// Applies these blocks, which the replicated log has accepted, and appends them to the local journal. Only a replica that follows
    /// executes this command.
    Follow(VecDeque<AcceptedBlock>),
    /// Makes this replica the leader: its claim is the last block that was applied. From now on EXEC executes commands that write.
    Lead,
    /// Commits the open block, and then a control block with which this replica stops to be the leader: a resignation, or the end of the
    /// log. From now on the replica follows.
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
    /// A chunk of a checkpoint.
    CheckpointChunk {
        /// The encoded accounts or holds.
        bytes: Vec<u8>,
        /// The start of the next chunk, if there is one.
        next: Option<ChunkStart>,
    },
    /// The block that was open is durable.
    Probed,
    /// The blocks were applied, and the journal is durable up to this point; or a block does not fit this ledger, and this is why.
    Followed(Result<Box<LedgerEnd>, String>),
    /// This replica leads from this point on.
    Leading,
    /// The last block of this leader is durable. This is the point after it.
    StoppedLeading(Box<LedgerEnd>),
}

/// An account, and where its history begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountHistory {
    /// The account as it is.
    pub now: AccountSnapshot,
    /// The account as it was created.
    pub created: NewAccount,
    /// Where the history begins.
    pub history: History,
    /// The sequence after the newest one of which the account and its history know.
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
    /// The ids of the accounts, and where their histories begin.
    pub accounts: Vec<(Box<str>, History)>,
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

/// Transactions in the ledger's encoding, back to back in one buffer, with the hashes of their transaction ids and
/// account ids. In this type, the *place* of a transaction is its index in the batch, from 0.
#[derive(Debug)]
pub struct TransactionBatch {
    bytes: Vec<u8>,
    entries: SmallVec<[Entry; 1]>,
    /// The hashes of the account ids of all transactions. The two hashes of a unary call with one transfer need no
    /// allocation.
    account_tags: SmallVec<[u64; 2]>,
    /// The key of the hash function.
    seed: u64,
    /// The charge to the memory budget for the batch. The batch holds the charge until the batch is dropped, also if
    /// the caller disconnects earlier.
    charge: Option<Box<dyn MemoryCharge>>,
    /// The name of the client's token, if it has one.
    principal: Option<Arc<str>>,
}

/// A charge to a memory budget. Dropping the charge returns the memory to the budget.
pub trait MemoryCharge: std::fmt::Debug + Send + Sync {
    /// Holds more memory, for what the answer says about a transaction with this many legs, if the budget allows it. The charge
    /// includes the memory for [`LEGS_CHARGED`] legs. `with_balances` says whether the answer shows the balances of their accounts.
    /// EXEC calls this method, so it must not wait.
    #[must_use]
    fn hold_legs(&self, legs: usize, with_balances: bool) -> bool;
}

/// The ends of the parts of one transaction in the buffers of its batch. Each part begins where the same part of the
/// previous transaction ends.
#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes_end: u32,
    tags_end: u32,
    id_tag: u64,
    /// The hash of the id of the transaction that this one names.
    named_tag: Option<u64>,
    return_balances: bool,
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
            // Whoever answers has to read them before, so this is a bug.
            BalancesAfter::Past(_) => Some(StoreFault::ReadFailed),
            BalancesAfter::Unread(fault) => Some(*fault),
        }
    }

    /// Leaves out the accounts whose ids `keep` does not accept.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        match self {
            BalancesAfter::Known(balances) => balances.retain(|(id, _)| keep(id)),
            BalancesAfter::Past(past) => past.accounts.retain(|(id, _)| keep(id)),
            BalancesAfter::Unread(_) => {}
        }
    }

    /// Whether nothing is to be shown.
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

// ===== impl TransactionBatch =====

impl TransactionBatch {
    /// Makes an empty batch, with room for `bytes` bytes of encoded transactions. `seed` is the key of the hash
    /// function.
    #[must_use]
    pub(super) fn new(seed: u64, bytes: usize) -> Self {
        TransactionBatch {
            bytes: Vec::with_capacity(bytes),
            entries: SmallVec::new(),
            account_tags: SmallVec::new(),
            seed,
            charge: None,
            principal: None,
        }
    }

    /// Sets the name that the records of the transactions will show.
    pub fn set_principal(&mut self, principal: Option<Arc<str>>) {
        self.principal = principal;
    }

    /// The name that the records of the transactions will show.
    #[must_use]
    pub fn principal(&self) -> Option<&[u8]> {
        self.principal.as_ref().map(|name| name.as_bytes())
    }

    /// Whether the response of the transaction at `place` shows the balances after it.
    #[inline]
    #[must_use]
    pub fn returns_balances(&self, place: usize) -> bool {
        self.entries.get(place).is_some_and(|entry| entry.return_balances)
    }

    /// Holds the memory for the answer about the transaction at `place`, which has this many legs. A batch without a charge belongs to
    /// no budget.
    pub(super) fn hold_legs(&self, place: usize, legs: usize) -> bool {
        let with_balances = self.returns_balances(place);
        let charge = self.charge.as_ref();
        charge.is_none_or(|charge| charge.hold_legs(legs, with_balances))
    }

    /// Keeps `charge` until the batch is dropped.
    pub fn hold_charge(&mut self, charge: Box<dyn MemoryCharge>) {
        self.charge = Some(charge);
    }

    /// Adds a transaction. The caller must have checked the bounds of the transaction, and that the batch
    /// [is not full](TransactionBatch::is_full).
    ///
    /// # Panics
    /// If the batch grows beyond 4 GiB. The bounds prevent this.
    pub fn push(&mut self, heading: &Heading<'_>, transfers: &[Transfer<&[u8]>], return_balances: bool) {
        put_transaction(&mut self.bytes, heading, transfers.iter().copied());
        for transfer in transfers {
            self.account_tags.push(tag(transfer.debit, self.seed));
            self.account_tags.push(tag(transfer.credit, self.seed));
        }
        // A batch has at most 8192 transactions of at most 35 KiB each, which is less than 2^32 bytes in total.
        let (Ok(bytes_end), Ok(tags_end)) = (
            u32::try_from(self.bytes.len()),
            u32::try_from(self.account_tags.len()),
        ) else {
            panic!(
                "a batch of transactions has outgrown its bounds: {} bytes",
                self.bytes.len()
            );
        };
        self.entries.push(Entry {
            bytes_end,
            tags_end,
            id_tag: tag(heading.id, self.seed),
            named_tag: match heading.names {
                Names::Nothing => None,
                Names::Hold(id) | Names::Reversed(id) => Some(tag(id, self.seed)),
            },
            return_balances,
        });
    }

    /// The number of transactions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the batch has no transaction.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the batch has [`TRANSACTIONS_MAX`] transactions.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= TRANSACTIONS_MAX
    }

    /// Returns the hashes of the ids in the transaction at `place`; `None` if there is no such transaction.
    #[inline]
    #[must_use]
    pub fn tags(&self, place: usize) -> Option<Tags<'_>> {
        let entry = self.entries.get(place)?;
        let from = self.before(place).map_or(0, |before| before.tags_end);
        Some(Tags {
            id: entry.id_tag,
            named: entry.named_tag,
            accounts: self.account_tags.get(from as usize..entry.tags_end as usize)?,
        })
    }

    /// Returns the transaction at `place`; `None` if there is no such transaction.
    ///
    /// # Panics
    /// If the transaction can't be decoded. That is a bug, because [`TransactionBatch::push`] has encoded it.
    #[inline]
    #[must_use]
    pub fn get(&self, place: usize) -> Option<TransactionView<'_, &[u8]>> {
        match TransactionView::parse(self.encoded(place)?) {
            Ok(transaction) => Some(transaction),
            Err(error) => panic!("transaction {place} of a batch can't be decoded: {error}"),
        }
    }

    /// Returns the id of the transaction at `place`; `None` if there is no such transaction.
    #[must_use]
    pub fn id_bytes(&self, place: usize) -> Option<&[u8]> {
        Reader::new(self.encoded(place)?).short_bytes().ok()
    }

    /// Returns the bytes of the transaction at `place`; `None` if there is no such transaction.
    #[inline]
    fn encoded(&self, place: usize) -> Option<&[u8]> {
        let entry = self.entries.get(place)?;
        let from = self.before(place).map_or(0, |before| before.bytes_end);
        self.bytes.get(from as usize..entry.bytes_end as usize)
    }

    /// Returns the transaction at `place` and the hashes of its ids.
    ///
    /// # Panics
    /// If there is no such transaction.
    #[inline]
    pub(super) fn transaction(&self, place: usize) -> (TransactionView<'_, &[u8]>, Tags<'_>) {
        let (Some(transaction), Some(tags)) = (self.get(place), self.tags(place)) else {
            panic!(
                "a batch of {} transactions has no transaction {place}",
                self.len()
            );
        };
        (transaction, tags)
    }

    /// Returns the entry of the transaction before `place`; `None` for the first transaction.
    #[inline]
    fn before(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place.checked_sub(1)?)
    }

    /// Returns the bytes of memory that the batch holds, including spare capacity.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.account_tags.capacity() * 8
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
            | Command::CheckpointChunk(_)
            | Command::Follow(_)
            | Command::Lead => false,
        }
    }

    /// Whether the answer shows the ledger to a caller: see [`CommandReply::shows_ledger`].
    pub(super) const fn shows_ledger(&self) -> bool {
        !matches!(
            self,
            Command::CheckpointChunk(_) | Command::Follow(_) | Command::Lead | Command::StopLeading(..)
        )
    }
}

// ===== impl CommandReply =====

impl CommandReply {
    /// Whether the reply shows the ledger to a caller. A leader may give such a reply only when the log proves that it was still the
    /// leader.
    pub(super) const fn shows_ledger(&self) -> bool {
        !matches!(
            self,
            CommandReply::CheckpointChunk { .. }
                | CommandReply::Followed(_)
                | CommandReply::Leading
                | CommandReply::StoppedLeading(_)
        )
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
