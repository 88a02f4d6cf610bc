//! The calls of the simulated clients, and their results.

use std::time::Duration;

use tally::engine::{CallKind, Detail, EngineError, LedgerFigures, OwnedKey};
use tally_ledger::{
    AccountField, AccountSnapshot, AccountTerms, AccountUpdate, AmountRule, Committed, EffectiveTime, Hold,
    Metadata, NewAccount, Outcome, Rejection, Timestamp, UpdateOutcome,
};

/// The number of a call. Numbers increase in the order in which calls begin.
pub(crate) type CallId = u64;

/// A transaction as a client sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) legs: Vec<Leg>,
    pub(crate) effective_time: Option<EffectiveTime>,
    pub(crate) note: Note,
    /// Whether the answer shows balances. This is not part of the content: it is never recorded.
    pub(crate) wants_balances: bool,
}

/// What a transaction does with its transfers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Posts them.
    Move,
    /// Reserves them.
    Hold {
        /// The time after which the hold expires, in nanoseconds.
        timeout: Option<u64>,
    },
    /// Posts a hold: completely if the transaction has no transfers, otherwise the amounts of the transfers.
    Post {
        /// The id of the hold.
        hold: String,
        keep_remaining: bool,
    },
    /// Voids a hold.
    Void {
        /// The id of the hold.
        hold: String,
    },
    /// Reverses a transaction: everything that is left if this transaction has no transfers, otherwise the amounts of the transfers.
    Reverse {
        /// The id of the transaction.
        target: String,
    },
}

/// The metadata of a transaction, in a form that is cheap to copy and to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// No metadata.
    None,
    /// A short text that contains this number.
    Short(u8),
    /// A long text, which depends on the id of the transaction.
    Long,
}

/// A transfer of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leg {
    /// The id of the debit account.
    pub(crate) debit: String,
    /// The id of the credit account.
    pub(crate) credit: String,
    pub(crate) amount: u128,
    pub(crate) code: u32,
    pub(crate) rule: AmountRule,
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Processes transactions, each independently of the others.
    Transactions(Vec<Transaction>),
    /// Creates all of these accounts, or none.
    CreateAccounts(Vec<NewAccount>),
    /// Creates all of these accounts except for those whose ids exist, or none.
    CreateMissing(Vec<NewAccount>),
    /// Updates an account.
    Update(AccountUpdate),
    /// Reads one account.
    Account(String),
    /// Reads up to `limit` accounts from the account with the number `from` on, in the order of creation.
    Accounts { from: u32, limit: usize },
    /// Reads a transaction by its id.
    Transaction(String),
    /// Reads the outstanding part of the hold with this id.
    Hold(String),
    /// Reads all outstanding holds.
    Holds,
}

/// A call of a client.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) request: Request,
    /// The circuit that guards the call; `None` for reads.
    pub(crate) kind: Option<CallKind>,
    /// If the call is a message of a stream: the number of the stream, and the number of the message in it from 0.
    pub(crate) message: Option<(u64, u64)>,
    /// The time until which the client waits, since the start of the simulation.
    pub(crate) deadline: Option<Duration>,
}

/// The result of a call.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// The outcomes of the transactions, in their order, and the details: moved amounts and balances.
    Outcomes(Vec<Outcome>, Vec<Detail>),
    /// All accounts of the request exist now. Contains all of them, in the order of the request; or only the created ones, if the
    /// request asked for missing accounts only.
    Created(Vec<AccountSnapshot>),
    /// An account with the id of the account at `place` exists with other content.
    Reused { place: usize, field: AccountField },
    /// The account, if it exists.
    Account(Option<AccountSnapshot>),
    /// Some accounts in the order of creation, and the number of the next account if there is one.
    Accounts(Vec<AccountSnapshot>, Option<u32>),
    /// The transaction, if it is recorded.
    Transaction(Option<Recorded>),
    /// The account after the update, or why it was not updated.
    Updated(Result<Box<AccountSnapshot>, UpdateOutcome>),
    /// The hold, if it is outstanding.
    Hold(Option<Hold>),
    /// The outstanding holds, in no particular order.
    Holds(Vec<Hold>),
}

/// A transaction as the journal recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) transaction: Transaction,
    /// `None` if the transaction was committed.
    pub(crate) rejection: Option<Rejection>,
    /// The sequence and the time of the transaction. For a rejected transaction, the sequence and the time that the
    /// next committed transaction of the block would get.
    pub(crate) place: Committed,
    /// Where the record is in the journal. Later records have greater positions.
    pub(crate) position: u64,
    /// The effects of the transaction, according to its record; empty if it was rejected.
    pub(crate) moved: Vec<Moved>,
}

/// The effect of a transfer on its two accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The id of the account that was debited.
    pub(crate) debit: String,
    /// The id of the account that was credited.
    pub(crate) credit: String,
    /// The amount that was posted, or reserved by a hold.
    pub(crate) amount: u128,
    /// The amount that a hold released without posting it.
    pub(crate) released: u128,
    /// The amount that a hold still reserves; after a reversal of single amounts, the amount that can still be reversed.
    pub(crate) remaining: u128,
}

/// A record of the journal. The first record has the number 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) entry: Entry,
    /// The number of the block that contains the record.
    pub(crate) block: u64,
    /// The time of this block.
    pub(crate) block_time: Timestamp,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// An account was created.
    Created { account: NewAccount, time: Timestamp },
    /// An account was updated.
    Updated {
        /// The id of the account.
        id: String,
        /// All of its new terms.
        terms: AccountTerms,
    },
    /// A transaction was committed or rejected.
    Transaction(Recorded),
    /// A hold expired.
    Expired {
        /// The id of the hold.
        hold: String,
        place: Committed,
        position: u64,
        moved: Vec<Moved>,
    },
}

/// What a client learns from a call.
pub(crate) type Reply = Result<Answer, EngineError>;

/// Everything that the service knows, read through its own calls after a start or at the end, while no other call is
/// unanswered.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Every record of the journal, in order, read from the disk without the service.
    pub(crate) log: Vec<Logged>,
    /// Every account, in the order of creation.
    pub(crate) accounts: Vec<AccountSnapshot>,
    /// The outstanding holds, in no particular order; `None` if they were not read.
    pub(crate) holds: Option<Vec<Hold>>,
    /// Where the service finds the records that ended holds and the reversals of transactions.
    pub(crate) found: Vec<(OwnedKey, Result<Option<u64>, EngineError>)>,
    /// What the service answered for each id that any client ever used, once per id, in no particular order.
    pub(crate) transactions: Vec<(String, Result<Option<Recorded>, EngineError>)>,
    /// The figures that the service reports about itself, if they were read.
    pub(crate) figures: Option<LedgerFigures>,
}

/// Length of the text of a long note, in bytes.
const LONG_BYTES: usize = 3000;
/// The metadata key of a note.
const NOTE_KEY: &str = "note";

// ===== impl Transaction =====

impl Transaction {
    /// Makes a transaction with only an id and transfers.
    pub(crate) fn new(id: impl Into<String>, legs: Vec<Leg>) -> Self {
        Transaction {
            id: id.into(),
            kind: Kind::Move,
            legs,
            effective_time: None,
            note: Note::None,
            wants_balances: false,
        }
    }

    /// The metadata of the transaction.
    pub(crate) fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        if let Some(text) = self.note.text(&self.id) {
            metadata.insert(NOTE_KEY.to_owned(), text);
        }
        metadata
    }
}

// ===== impl Kind =====

impl Kind {
    /// The id of the other transaction that the transaction names.
    pub(crate) fn names(&self) -> Option<&String> {
        match self {
            Kind::Move | Kind::Hold { .. } => None,
            Kind::Post { hold, .. } | Kind::Void { hold } => Some(hold),
            Kind::Reverse { target } => Some(target),
        }
    }
}

// ===== impl Logged =====

impl Logged {
    /// The transaction of the record.
    pub(crate) const fn transaction(&self) -> Option<&Recorded> {
        match &self.entry {
            Entry::Transaction(recorded) => Some(recorded),
            Entry::Created { .. } | Entry::Updated { .. } | Entry::Expired { .. } => None,
        }
    }

    /// The sequence and the time of the record, if it has a sequence.
    pub(crate) const fn committed(&self) -> Option<Committed> {
        match &self.entry {
            Entry::Transaction(Recorded {
                rejection: None,
                place,
                ..
            })
            | Entry::Expired { place, .. } => Some(*place),
            Entry::Transaction(_) | Entry::Created { .. } | Entry::Updated { .. } => None,
        }
    }

    /// The time of the record.
    pub(crate) const fn time(&self) -> Timestamp {
        match &self.entry {
            Entry::Transaction(Recorded { place, .. }) | Entry::Expired { place, .. } => place.time,
            Entry::Created { time, .. } => *time,
            Entry::Updated { .. } => self.block_time,
        }
    }
}

// ===== impl Note =====

impl Note {
    /// Reads the note of the transaction `id` from its metadata. `None` if no client has sent this metadata.
    pub(crate) fn from_metadata(id: &str, metadata: &Metadata) -> Option<Self> {
        let text = metadata.get(NOTE_KEY);
        let note = match text.map(|text| text.parse()) {
            None => Note::None,
            Some(Ok(number)) => Note::Short(number),
            Some(Err(_)) => Note::Long,
        };
        let is_same = metadata.len() == usize::from(text.is_some()) && note.text(id).as_ref() == text;
        is_same.then_some(note)
    }

    fn text(self, id: &str) -> Option<String> {
        match self {
            Note::None => None,
            Note::Short(number) => Some(number.to_string()),
            Note::Long => Some(id.repeat(LONG_BYTES / id.len())),
        }
    }
}
