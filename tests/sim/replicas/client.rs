//! The clients of a run with replicas: one call at a time, repeated elsewhere if its outcome is unknown.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tally::engine::{CallKind, CreatedAccounts, EngineError, Existing, OwnedKey, Processed, TallyEngine};
use tally_ledger::{AccountSnapshot, AccountStatus, Amount, AmountRule, BalanceRule, Metadata, NewAccount};
use tokio::time::Instant;

use super::{
    alarm::{Alarm, Bell},
    history::ReadFloor,
};
use crate::{
    calls::{Kind, Leg, Note, Transaction},
    clients::reader,
    random::Random,
    workload::encode,
};

/// The number of accounts.
pub(crate) const ACCOUNTS: u64 = 6;

/// A client.
pub(crate) struct Client {
    pub(crate) flight: Option<Flight>,
    pub(crate) rests_until: Instant,
    /// A transaction whose outcome the client does not know yet.
    pub(crate) unsettled: Option<Transaction>,
}

/// A call without an answer.
pub(crate) struct Flight {
    pub(crate) node: usize,
    pub(crate) what: What,
    pub(crate) gives_up_at: Instant,
    future: Pin<Box<dyn Future<Output = Answer>>>,
    alarm: Arc<Alarm>,
}

/// What a client has asked for.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Accounts,
    Transaction(Transaction),
    Read {
        account: String,
        floor: ReadFloor,
    },
    /// Reads a transaction that was committed with an answer.
    Record {
        id: String,
        is_of_leader: bool,
    },
}

/// The answer to a call.
pub(crate) enum Answer {
    Accounts(Result<CreatedAccounts, EngineError>),
    Transaction(Result<Processed, EngineError>),
    Read(Result<Option<Box<AccountSnapshot>>, EngineError>),
    /// Whether the transaction was found.
    Record(Result<bool, EngineError>),
}

// ===== impl Flight =====

impl Flight {
    /// Calls a replica.
    pub(crate) fn begin(
        engine: &TallyEngine,
        node: usize,
        what: What,
        gives_up_at: Instant,
        bell: &Arc<Bell>,
    ) -> Self {
        let engine = engine.clone();
        let asked = what.clone();
        let future: Pin<Box<dyn Future<Output = Answer>>> = Box::pin(async move {
            match asked {
                What::Accounts => {
                    let accounts = (0..ACCOUNTS).map(account).collect();
                    Answer::Accounts(engine.create_accounts(accounts, Existing::Compare, None).await)
                }
                What::Transaction(transaction) => {
                    let batch = encode(&engine, &[transaction]);
                    Answer::Transaction(engine.process(CallKind::Unary, &batch, None).await)
                }
                What::Read { account, .. } => Answer::Read(engine.account(account, None).await),
                What::Record { id, .. } => {
                    let found = engine.record(OwnedKey::Transaction(id), &reader(), None).await;
                    Answer::Record(found.map(|found| found.is_some()))
                }
            }
        });
        Flight {
            node,
            what,
            gives_up_at,
            future,
            alarm: Alarm::raised(bell),
        }
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.alarm.is_raised()
    }

    pub(crate) fn poll(&mut self) -> Poll<Answer> {
        let waker = self.alarm.lower();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

/// The id of an account.
pub(crate) fn account_id(number: u64) -> String {
    format!("a{number}")
}

/// The account with this number. Some accept every transfer, and some reject what they do not have.
fn account(number: u64) -> NewAccount {
    NewAccount {
        id: account_id(number),
        asset: "EUR".to_owned(),
        rule: if number.is_multiple_of(3) {
            BalanceRule::CreditBalance
        } else {
            BalanceRule::Unlimited
        },
        overdraft_limit: Amount::new(100),
        status: AccountStatus::Open,
        metadata: Metadata::default(),
        velocity_limits: Vec::new(),
    }
}

/// A new transaction.
pub(crate) fn transaction(number: u64, random: &mut Random) -> Transaction {
    let legs = (0..1 + random.below(3)).map(|_| {
        let debit = random.within(&(0..ACCOUNTS));
        let credit = (debit + random.within(&(1..ACCOUNTS))) % ACCOUNTS;
        Leg {
            debit: account_id(debit),
            credit: account_id(credit),
            amount: u128::from(random.within(&(1..60))),
            code: 1,
            rule: AmountRule::Exact,
        }
    });
    Transaction {
        id: format!("t{number}"),
        kind: Kind::Move,
        legs: legs.collect(),
        effective_time: None,
        note: if random.percent(10) {
            Note::Long
        } else {
            Note::None
        },
        wants_balances: false,
    }
}
