//! What callers ask of EXEC, and what it answers.

use smallvec::SmallVec;

use crate::{
    batch::BatchItem,
    ledger::{
        AccountIndex, AccountSnapshot, Heading, NewAccount, Outcome, TransactionView, Transfer,
        transaction::put_transaction,
    },
    store::embedded::Candidates,
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
    /// Process these transactions in their order, each for itself.
    Transactions(TransactionBatch),
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
pub enum Reply {
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
    /// The ledger has as many accounts as it can number.
    Full,
}

/// Transactions in the ledger's own encoding, back to back in one buffer, each behind its length.
#[derive(Debug, Default)]
pub struct TransactionBatch {
    bytes: Vec<u8>,
    count: usize,
    transfers: usize,
}

/// Bytes of the length in front of a transaction.
const LENGTH_BYTES: usize = 4;

// ===== impl TransactionBatch =====

impl TransactionBatch {
    /// Room for about `transactions` short ones.
    #[must_use]
    pub fn with_capacity(transactions: usize) -> Self {
        TransactionBatch {
            bytes: Vec::with_capacity(transactions.saturating_mul(96)),
            count: 0,
            transfers: 0,
        }
    }

    /// Adds a transaction. Its bounds have been checked.
    pub fn push<'a>(
        &mut self,
        heading: &Heading<'_>,
        transfers: impl ExactSizeIterator<Item = Transfer<&'a str>>,
    ) {
        let length_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        self.transfers += transfers.len();
        put_transaction(&mut self.bytes, heading, transfers);
        let length = u32::try_from(self.bytes.len() - length_at - LENGTH_BYTES).unwrap_or(u32::MAX);
        if let Some(room) = self.bytes.get_mut(length_at..length_at + LENGTH_BYTES) {
            room.copy_from_slice(&length.to_le_bytes());
        }
        self.count += 1;
    }

    /// How many transactions there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The transactions in their order.
    pub fn iter(&self) -> impl Iterator<Item = TransactionView<'_, &str>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first_chunk::<LENGTH_BYTES>()?;
            let (encoded, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = tail;
            // `push` wrote it, so it can be parsed.
            TransactionView::parse(encoded).ok()
        })
    }
}

// ===== impl BatchItem for Command =====

impl BatchItem for Command {
    fn items(&self) -> usize {
        match self {
            Command::Transactions(batch) => batch.count,
            Command::CreateAccounts(accounts) => accounts.len(),
            Command::AccountIds(indexes) => indexes.len(),
            Command::Accounts { limit, .. } => *limit,
            Command::Account(_) | Command::Locate(_) | Command::CheckpointChunk(_) | Command::Probe => 1,
        }
    }

    fn bytes(&self) -> usize {
        let held = match self {
            Command::Transactions(batch) => batch.bytes.capacity(),
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
