//! The calls of the simulated clients, and their results.

use std::time::Duration;

use tally::engine::{CallKind, EngineError};
use tally_ledger::{AccountField, AccountSnapshot, Committed, NewAccount, Outcome, Rejection};

/// The number of a call. Numbers increase in the order in which calls begin.
pub(crate) type CallId = u64;

/// A transaction as a client sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) id: String,
    pub(crate) legs: Vec<Leg>,
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
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Processes transactions, each independently of the others.
    Transactions(Vec<Transaction>),
    /// Creates all of these accounts, or none.
    CreateAccounts(Vec<NewAccount>),
    /// Reads one account.
    Account(String),
    /// Reads the first accounts in the order of creation, at most this many.
    Accounts(usize),
    /// Reads a transaction by its id.
    Transaction(String),
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
    /// The outcomes of the transactions, in their order.
    Outcomes(Vec<Outcome>),
    /// All accounts exist now, in the order of the request.
    Created(Vec<AccountSnapshot>),
    /// An account with the id of the account at `place` exists with other content.
    Reused { place: usize, field: AccountField },
    /// The account, if it exists.
    Account(Option<AccountSnapshot>),
    /// The accounts in the order of creation.
    Accounts(Vec<AccountSnapshot>),
    /// The transaction, if it is recorded.
    Transaction(Option<Recorded>),
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
}

/// What a client learns from a call.
pub(crate) type Reply = Result<Answer, EngineError>;

/// Everything that the service knows, read through its own calls after a start or at the end, while no other call is
/// unanswered.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Every account, in the order of creation.
    pub(crate) accounts: Vec<AccountSnapshot>,
    /// What the service answered for each id that any client ever used, once per id, in no particular order.
    pub(crate) transactions: Vec<(String, Result<Option<Recorded>, EngineError>)>,
}
