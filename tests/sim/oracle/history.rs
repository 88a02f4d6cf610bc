//! The calls of the clients and their answers, in the order in which they happened.

use std::collections::{BTreeMap, HashMap};

use tally::engine::{EngineError, StoreFault};
use tally_batch::BatchError;
use tally_ledger::{NewAccount, Outcome, Timestamp};

use super::{
    Violation,
    calls::{Answer, Call, CallId, Entry, Recorded, Reply, Request, Transaction},
    content::transaction_difference,
    records::SeenRecord,
    times::Now,
    violation,
};

/// A point in real time: the number of an event.
pub(super) type Tick = u64;

/// The end of time: later than every event.
pub(super) const NEVER: Tick = Tick::MAX;

/// A call and what is known about its end.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    pub(super) id: CallId,
    pub(super) call: Call,
    pub(super) begun: Tick,
    /// The clocks when the call began.
    pub(super) begun_at: Now,
    /// The time of the ledger clock when the call began, if no other call could be executed from then on.
    pub(super) alone_since: Option<Timestamp>,
    /// The clocks when the call was answered.
    pub(super) answered_at: Option<Now>,
    /// The answer. `None` if the call has no answer, or its client has left.
    pub(super) reply: Option<Reply>,
    /// When the call was answered or abandoned.
    pub(super) ended: Tick,
    /// The call takes effect before this tick, or never.
    pub(super) until: Tick,
}

/// Something that happened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Began(CallId),
    Answered(CallId),
    /// The process died. Everything that it had answered must be durable.
    Died,
    /// The state was examined. The journal had this number of records.
    Examined {
        records: u64,
    },
}

/// One transaction or account of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Attempt {
    pub(super) call: CallId,
    pub(super) place: usize,
}

/// What an attempt can have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// The answer says that the attempt made the record.
    Certain,
    /// The outcome is unknown.
    Possible,
    /// The attempt did not make the record.
    Impossible(&'static str),
}

/// All calls, in the order of their beginning.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    pub(super) calls: BTreeMap<CallId, Invocation>,
    pub(super) events: Vec<Event>,
    /// The attempts to process a transaction with this id.
    pub(super) attempts: HashMap<String, Vec<Attempt>>,
    /// The attempts to create an account with this id.
    pub(super) creations: HashMap<String, Vec<Attempt>>,
    /// The attempts to update an account with this id.
    pub(super) updates: HashMap<String, Vec<Attempt>>,
    /// The calls of each stream, by the number of the message.
    pub(super) streams: BTreeMap<u64, BTreeMap<u64, CallId>>,
    /// The first message of each stream that certainly closed the stream.
    closed: HashMap<u64, u64>,
    /// When a client saw for the first time that the transaction is recorded.
    pub(super) transactions_known: HashMap<String, Tick>,
    /// When a client saw for the first time that the account exists.
    pub(super) accounts_known: HashMap<String, Tick>,
    /// The number of calls that can be executed now or later.
    pub(super) open: usize,
}

// ===== impl History =====

impl History {
    /// The tick of the next event.
    pub(super) fn now(&self) -> Tick {
        self.events.len() as Tick
    }

    pub(super) fn begin(&mut self, id: CallId, call: &Call, now: Now) {
        let begun = self.now();
        self.events.push(Event::Began(id));
        if let Some((stream, message)) = call.message {
            self.streams.entry(stream).or_default().insert(message, id);
        }
        for (place, transaction) in transactions_of(call).iter().enumerate() {
            let attempts = self.attempts.entry(transaction.id.clone()).or_default();
            attempts.push(Attempt { call: id, place });
        }
        for (place, account) in accounts_of(call).iter().enumerate() {
            let creations = self.creations.entry(account.id.clone()).or_default();
            creations.push(Attempt { call: id, place });
        }
        if let Request::Update(update) = &call.request {
            let updates = self.updates.entry(update.id.clone()).or_default();
            updates.push(Attempt { call: id, place: 0 });
        }
        let invocation = Invocation {
            id,
            call: call.clone(),
            begun,
            begun_at: now,
            alone_since: now.ledger.filter(|_| self.open == 0),
            answered_at: None,
            reply: None,
            ended: NEVER,
            until: NEVER,
        };
        self.calls.insert(id, invocation);
        self.open += 1;
    }

    /// Stores the answer to a call.
    ///
    /// # Errors
    /// A violation if the call can't get an answer any more, which is a mistake of the simulator.
    pub(super) fn answer(
        &mut self,
        id: CallId,
        reply: &Reply,
        clocks: Now,
    ) -> Result<&Invocation, Violation> {
        let now = self.now();
        self.events.push(Event::Answered(id));
        let Some(invocation) = self.calls.get_mut(&id) else {
            return violation("simulator", format!("call {id} was answered, but it never began"));
        };
        if invocation.ended != NEVER {
            return violation(
                "simulator",
                format!("call {id} was answered, but it had ended before"),
            );
        }
        invocation.ended = now;
        invocation.answered_at = Some(clocks);
        if !may_execute_later(reply) {
            invocation.until = now;
            self.open -= 1;
        }
        invocation.reply = Some(reply.clone());
        if let Some((stream, message)) = invocation.call.message
            && closes_stream(reply)
        {
            let closed = self.closed.entry(stream).or_insert(message);
            *closed = message.min(*closed);
        }
        note_known(
            invocation,
            now,
            &mut self.transactions_known,
            &mut self.accounts_known,
        );
        Ok(invocation)
    }

    pub(super) fn abandon(&mut self, id: CallId) {
        let now = self.now();
        if let Some(invocation) = self.calls.get_mut(&id)
            && invocation.ended == NEVER
        {
            invocation.ended = now;
        }
    }

    pub(super) fn die(&mut self) {
        let now = self.now();
        self.events.push(Event::Died);
        self.open = 0;
        for invocation in self.calls.values_mut() {
            invocation.ended = invocation.ended.min(now);
            invocation.until = invocation.until.min(now);
        }
    }

    /// Notes that an examination has found these records.
    pub(super) fn note_examined(&mut self, now: Tick, records: &[SeenRecord]) {
        for record in records {
            match &record.logged.entry {
                Entry::Transaction(recorded) => {
                    let id = recorded.transaction.id.clone();
                    self.transactions_known.entry(id).or_insert(now);
                }
                Entry::Created { account, .. } => {
                    self.accounts_known.entry(account.id.clone()).or_insert(now);
                }
                Entry::Updated { .. } | Entry::Expired { .. } => {}
            }
        }
    }

    /// Whether the answer to an attempt says that it has created its account.
    pub(super) fn has_created(&self, attempt: Attempt) -> bool {
        self.calls.get(&attempt.call).is_some_and(|invocation| {
            let Some(Ok(Answer::Created(created))) = &invocation.reply else {
                return false;
            };
            if !invocation.skips_existing() {
                return false;
            }
            let sent = invocation.accounts().get(attempt.place);
            sent.is_some_and(|sent| created.iter().any(|created| created.account.id == sent.id))
        })
    }

    /// The transaction of an attempt.
    pub(super) fn transaction(&self, attempt: Attempt) -> Option<&Transaction> {
        transactions_of(&self.calls.get(&attempt.call)?.call).get(attempt.place)
    }

    /// The outcome in the answer to an attempt.
    pub(super) fn outcome(&self, attempt: Attempt) -> Option<Outcome> {
        match self.calls.get(&attempt.call)?.reply.as_ref()? {
            Ok(Answer::Outcomes(outcomes, _)) => outcomes.get(attempt.place).copied(),
            _ => None,
        }
    }

    /// The message that closed the stream of this call before the call.
    fn closed_before(&self, invocation: &Invocation) -> bool {
        invocation
            .call
            .message
            .is_some_and(|(stream, message)| self.closed.get(&stream).is_some_and(|closed| *closed < message))
    }

    /// Whether an attempt can have made the record of its transaction. At the tick `absent`, the record did not exist
    /// yet.
    pub(super) fn effect(&self, attempt: Attempt, recorded: &Recorded, absent: Tick) -> Effect {
        let (Some(invocation), Some(sent)) = (self.calls.get(&attempt.call), self.transaction(attempt))
        else {
            return Effect::Impossible("unknown call");
        };
        if transaction_difference(sent, &recorded.transaction).is_some() {
            return Effect::Impossible("other content");
        }
        if let Some(outcome) = self.outcome(attempt) {
            return match outcome {
                Outcome::Committed { replayed: false, .. } => Effect::Certain,
                Outcome::Rejected {
                    rejection,
                    replayed: false,
                } if is_recorded(rejection) => Effect::Certain,
                Outcome::Committed { .. } | Outcome::Rejected { .. } | Outcome::Reused { .. } => {
                    Effect::Impossible("answered, but not as the first")
                }
            };
        }
        let known = self.transactions_known.get(&sent.id);
        self.unanswered_effect(invocation, absent, known.copied())
    }

    /// The possible effect of a call without a usable answer. At the tick `absent`, the record did not exist yet. At
    /// the tick `known`, a client saw it for the first time.
    pub(super) fn unanswered_effect(
        &self,
        invocation: &Invocation,
        absent: Tick,
        known: Option<Tick>,
    ) -> Effect {
        if let Some(Err(error)) = &invocation.reply
            && error.is_not_executed()
        {
            Effect::Impossible("answered as not executed")
        } else if self.closed_before(invocation) {
            Effect::Impossible("an earlier message of its stream was not executed")
        } else if invocation.until <= absent {
            Effect::Impossible("ended before, and without effect")
        } else if known.is_some_and(|known| known < invocation.begun) {
            Effect::Impossible("began later")
        } else {
            Effect::Possible
        }
    }

    /// Describes attempts for a violation.
    pub(super) fn describe(&self, attempts: &[(Attempt, Effect)]) -> String {
        let texts: Vec<String> = attempts
            .iter()
            .map(|(Attempt { call, place }, effect)| match effect {
                Effect::Certain => format!("call {call} place {place} (it says that it made the record)"),
                Effect::Possible => format!("call {call} place {place} (unknown)"),
                Effect::Impossible(why) => {
                    let error = match self.calls.get(call).and_then(|call| call.reply.as_ref()) {
                        Some(Err(error)) => format!(": {error}"),
                        Some(Ok(_)) | None => String::new(),
                    };
                    format!("call {call} place {place} ({why}{error})")
                }
            })
            .collect();
        if texts.is_empty() {
            "none".to_owned()
        } else {
            texts.join(", ")
        }
    }
}

// ===== impl Invocation =====

impl Invocation {
    /// The transactions of the call.
    pub(super) fn transactions(&self) -> &[Transaction] {
        transactions_of(&self.call)
    }

    /// The accounts that the call creates.
    pub(super) fn accounts(&self) -> &[NewAccount] {
        accounts_of(&self.call)
    }

    /// Whether the call leaves out accounts whose ids exist.
    pub(super) const fn skips_existing(&self) -> bool {
        matches!(self.call.request, Request::CreateMissing(_))
    }

    /// Whether an earlier account of the request has the same id as the account at `place`.
    pub(super) fn is_repeated(&self, place: usize) -> bool {
        let accounts = self.accounts();
        let earlier = accounts.get(..place).unwrap_or_default();
        accounts
            .get(place)
            .is_some_and(|sent| earlier.iter().any(|earlier| earlier.id == sent.id))
    }
}

fn transactions_of(call: &Call) -> &[Transaction] {
    match &call.request {
        Request::Transactions(transactions) => transactions,
        Request::CreateAccounts(_)
        | Request::CreateMissing(_)
        | Request::Update(_)
        | Request::Account(_)
        | Request::Accounts { .. }
        | Request::Transaction(_)
        | Request::Hold(_)
        | Request::Holds => &[],
    }
}

fn accounts_of(call: &Call) -> &[NewAccount] {
    match &call.request {
        Request::CreateAccounts(accounts) | Request::CreateMissing(accounts) => accounts,
        Request::Transactions(_)
        | Request::Update(_)
        | Request::Account(_)
        | Request::Accounts { .. }
        | Request::Transaction(_)
        | Request::Hold(_)
        | Request::Holds => &[],
    }
}

/// Whether a call with this answer can be executed after the answer.
const fn may_execute_later(reply: &Reply) -> bool {
    matches!(reply, Err(EngineError::Batch(BatchError::ExpiredInExecution)))
}

/// Whether a message with this answer closes its stream: no later message of the stream is executed. A message also
/// closes its stream if its record could not be read, or if only a part of it had space on the disk.
fn closes_stream(reply: &Reply) -> bool {
    match reply {
        Ok(_) => false,
        Err(error) => {
            error.is_not_executed()
                || matches!(
                    error,
                    EngineError::Store(
                        StoreFault::ReadFailed | StoreFault::Damaged { .. } | StoreFault::DiskFull { .. }
                    )
                )
        }
    }
}

/// Whether a rejection is recorded under the id of its transaction.
pub(super) const fn is_recorded(rejection: tally_ledger::Rejection) -> bool {
    use tally_ledger::Reason;
    match rejection.reason {
        Reason::AccountNotFound
        | Reason::SameAccount
        | Reason::AssetMismatch
        | Reason::HoldsFull
        | Reason::MemoryLimit => false,
        Reason::AccountFrozen
        | Reason::AccountClosed
        | Reason::InsufficientFunds
        | Reason::BalanceOverflow
        | Reason::NothingAvailable
        | Reason::VelocityLimit
        | Reason::PendingNotFound
        | Reason::PendingAlreadyPosted
        | Reason::PendingAlreadyVoided
        | Reason::PendingExpired
        | Reason::PendingAmountExceeded
        | Reason::PendingTransfersDiffer
        | Reason::ReversedNotFound
        | Reason::NotReversible
        | Reason::AlreadyReversed => true,
    }
}

/// Notes the transactions and accounts that the answer shows.
fn note_known(
    invocation: &Invocation,
    now: Tick,
    transactions: &mut HashMap<String, Tick>,
    accounts: &mut HashMap<String, Tick>,
) {
    let mut account_exists = |id: &str| {
        if !accounts.contains_key(id) {
            accounts.insert(id.to_owned(), now);
        }
    };
    let Some(Ok(answer)) = &invocation.reply else {
        return;
    };
    match answer {
        Answer::Outcomes(outcomes, _) => {
            for (sent, outcome) in invocation.transactions().iter().zip(outcomes) {
                let known = match outcome {
                    Outcome::Committed { .. } | Outcome::Reused { .. } => true,
                    Outcome::Rejected { rejection, .. } => is_recorded(*rejection),
                };
                if known {
                    transactions.entry(sent.id.clone()).or_insert(now);
                }
            }
        }
        Answer::Created(_) => {
            for sent in invocation.accounts() {
                account_exists(&sent.id);
            }
        }
        Answer::Accounts(snapshots, _) => {
            for snapshot in snapshots {
                account_exists(&snapshot.account.id);
            }
        }
        Answer::Account(snapshot) => {
            if let Some(snapshot) = snapshot {
                account_exists(&snapshot.account.id);
            }
        }
        Answer::Transaction(recorded) => {
            if let Some(recorded) = recorded {
                transactions.entry(recorded.transaction.id.clone()).or_insert(now);
            }
        }
        Answer::Updated(Ok(snapshot)) => account_exists(&snapshot.account.id),
        // These answers depend on the moment, so they do not show that something exists for ever.
        Answer::Updated(Err(_)) | Answer::Reused { .. } | Answer::Hold(_) | Answer::Holds(_) => {}
    }
}
