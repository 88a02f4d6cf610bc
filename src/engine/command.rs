//! What callers ask of EXEC, and what it answers.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{
    batch::BatchItem,
    ledger::{
        AccountIndex, AccountSnapshot, Heading, NewAccount, Outcome, TableFull, Tags, TransactionView,
        Transfer, tag_index::tag, transaction::put_transaction,
    },
    store::embedded::Candidates,
    telemetry::TraceLink,
};

/// Most transactions of one request.
pub const TRANSACTIONS_MAX: usize = 8192;
/// Most accounts of one request: they are created in one block, whatever they hold.
pub const CREATE_ACCOUNTS_MAX: usize = 1000;
/// Most accounts of a page.
pub const PAGE_ACCOUNTS_MAX: usize = 1000;

/// An outcome for each transaction of a request; the lone one of a unary call is kept without an allocation.
pub type Outcomes = SmallVec<[Outcome; 1]>;

/// What callers ask of EXEC.
#[derive(Debug)]
pub enum Command {
    /// Process these transactions in their order, each for itself. Shared with the caller, who needs their ids to answer.
    Transactions(Arc<TransactionBatch>, Option<TraceLink>),
    /// Create these accounts, all or none.
    CreateAccounts(Vec<NewAccount>),
    /// Read an account.
    Account(String),
    /// Read up to so many accounts in the order of their creation.
    Accounts {
        /// The first.
        from: AccountIndex,
        /// At most so many.
        limit: usize,
    },
    /// Find where a transaction's record may be.
    Locate(String),
    /// Name these accounts.
    AccountIds(Vec<AccountIndex>),
    /// Copy some accounts for a checkpoint.
    CheckpointChunk(AccountIndex),
    /// Commit, with whatever else there is to commit; an empty block if there is nothing.
    Probe,
}

/// What EXEC answers, by the kind of command.
#[derive(Debug)]
pub enum CommandReply {
    /// An outcome for each transaction.
    Transactions(Outcomes),
    /// What became of the accounts.
    CreateAccounts(CreatedAccounts),
    /// The account, if there is one.
    Account(Option<Box<AccountSnapshot>>),
    /// A page of accounts.
    Accounts {
        /// The accounts.
        accounts: Vec<AccountSnapshot>,
        /// The first of the next page, if there is one.
        next: Option<AccountIndex>,
    },
    /// Where to look.
    Located(Candidates),
    /// The names, in the order asked for.
    AccountIds(Vec<String>),
    /// Encoded accounts.
    CheckpointChunk {
        /// The accounts.
        bytes: Vec<u8>,
        /// The next one to copy, if there is one.
        next: Option<AccountIndex>,
    },
    /// Everything up to here is durable.
    Probed,
}

/// What became of a request to create accounts.
#[derive(Debug)]
pub enum CreatedAccounts {
    /// All are there.
    All(Vec<AccountSnapshot>),
    /// One exists with other content. None was created.
    Reused {
        /// Its place in the request.
        place: usize,
    },
    /// The ledger has no room for all of them. None was created.
    Full(TableFull),
}

/// Transactions in the ledger's own encoding, back to back in one buffer, with the hashes of their names.
#[derive(Debug)]
pub struct TransactionBatch {
    bytes: Vec<u8>,
    entries: SmallVec<[Entry; 1]>,
    /// Of the accounts of all transactions; for the lone one of a unary call, mostly without an allocation.
    account_tags: SmallVec<[u64; 2]>,
    seed: u64,
    /// What pays for its memory: given back with it, also if its caller has left long before.
    payment: Option<Box<dyn Payment>>,
}

/// What pays for memory that is held, and is dropped with it.
pub trait Payment: std::fmt::Debug + Send + Sync {}

/// One transaction of a batch: where its parts end, which begin where those of the one before end.
#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes_end: u32,
    tags_end: u32,
    id_tag: u64,
}

// ===== impl TransactionBatch =====

impl TransactionBatch {
    /// Room for so many `bytes` without growing. `seed` keys the hash of names, see [`super::TallyEngine::batch`].
    #[must_use]
    pub(super) fn new(seed: u64, bytes: usize) -> Self {
        TransactionBatch {
            bytes: Vec::with_capacity(bytes),
            entries: SmallVec::new(),
            account_tags: SmallVec::new(),
            seed,
            payment: None,
        }
    }

    /// Holds `payment` as long as it lives.
    pub fn pay(&mut self, payment: Box<dyn Payment>) {
        self.payment = Some(payment);
    }

    /// Adds a transaction. Its bounds have been checked, and [`TransactionBatch::is_full`] is false.
    pub fn push(&mut self, heading: &Heading<'_>, transfers: &[Transfer<&[u8]>]) {
        put_transaction(&mut self.bytes, heading, transfers.iter().copied());
        for transfer in transfers {
            self.account_tags.push(tag(transfer.debit, self.seed));
            self.account_tags.push(tag(transfer.credit, self.seed));
        }
        // 8192 transactions of at most 35 KiB.
        let end = |length| u32::try_from(length).unwrap_or(u32::MAX);
        self.entries.push(Entry {
            bytes_end: end(self.bytes.len()),
            tags_end: end(self.account_tags.len()),
            id_tag: tag(heading.id, self.seed),
        });
    }

    /// How many transactions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there are [`TRANSACTIONS_MAX`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= TRANSACTIONS_MAX
    }

    /// The hashes of a transaction's names.
    #[must_use]
    pub fn tags(&self, place: usize) -> Option<Tags<'_>> {
        let entry = self.entries.get(place)?;
        let from = self.before(place).map_or(0, |before| before.tags_end);
        Some(Tags {
            id: entry.id_tag,
            accounts: self.account_tags.get(from as usize..entry.tags_end as usize)?,
        })
    }

    /// A transaction.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<TransactionView<'_, &[u8]>> {
        let entry = self.entries.get(place)?;
        let from = self.before(place).map_or(0, |before| before.bytes_end);
        let encoded = self.bytes.get(from as usize..entry.bytes_end as usize)?;
        // `push` wrote it, so it can be parsed.
        TransactionView::parse(encoded).ok()
    }

    fn before(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place.checked_sub(1)?)
    }

    /// Bytes of memory that it holds, with the room that it has to grow.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.account_tags.capacity() * 8
    }
}

// ===== impl BatchItem for Command =====

impl BatchItem for Command {
    fn items(&self) -> usize {
        match self {
            Command::Transactions(batch, _) => batch.len(),
            Command::CreateAccounts(accounts) => accounts.len(),
            Command::AccountIds(indexes) => indexes.len(),
            Command::Accounts { limit, .. } => *limit,
            Command::Account(_) | Command::Locate(_) | Command::CheckpointChunk(_) | Command::Probe => 1,
        }
    }

    fn bytes(&self) -> usize {
        let held = match self {
            Command::Transactions(batch, _) => batch.memory_bytes(),
            Command::CreateAccounts(accounts) => accounts.iter().map(account_bytes_max).sum(),
            Command::AccountIds(indexes) => size_of_val(indexes.as_slice()),
            Command::Account(id) | Command::Locate(id) => id.len(),
            Command::Accounts { .. } | Command::CheckpointChunk(_) | Command::Probe => 0,
        };
        held + size_of::<Command>()
    }
}

/// No less than what the account takes in the journal.
pub(super) fn account_bytes_max(account: &NewAccount) -> usize {
    let metadata: usize = account
        .metadata
        .iter()
        .map(|(key, value)| key.len() + value.len() + 4)
        .sum();
    account.id.len() + account.asset.len() + metadata + 64
}
