//! What the simulated clients ask for: accounts, transactions, and their encoding.

use std::sync::Arc;

use tally::engine::{TallyEngine, TransactionBatch};
use tally_ledger::{
    AccountStatus, Amount, AmountRule, BalanceRule, EffectiveTime, Heading, Metadata, Names, NewAccount,
    Phase, Transfer,
};

use crate::{
    calls::{Leg, Note, Request, Transaction},
    config::Config,
    random::Random,
};

/// The transactions that were sent so far, from which repeated ids are taken.
#[derive(Debug, Default)]
pub(crate) struct Workload {
    sent: Vec<Transaction>,
}

/// The accounts of [`Workload::last_creation`].
const LAST_ACCOUNTS: [&str; 2] = ["last0", "last1"];

// ===== impl Workload =====

impl Workload {
    /// Chooses a transaction: a new one, or one whose id was used before, sometimes with other content.
    pub(crate) fn transaction(&mut self, config: &Config, random: &mut Random) -> Transaction {
        if !self.sent.is_empty() && random.percent(config.repeats) {
            // Recent ids are the more interesting ones, because their blocks may still be in flight.
            let recent = self
                .sent
                .len()
                .min(if random.percent(70) { 16 } else { usize::MAX });
            let place = self.sent.len() - 1 - random.below(recent);
            let mut transaction = self.sent[place].clone();
            if random.percent(config.changes) {
                change(&mut transaction, random);
            }
            return transaction;
        }
        let large = random.percent(config.large);
        let mark = if large { "large" } else { "t" };
        let transaction = Transaction {
            id: format!("{mark}{}", self.sent.len()),
            legs: legs(config, random),
            effective_time: random.percent(20).then(|| effective_time(random)),
            note: match random.below(10) {
                _ if large => Note::Long,
                0 => short_note(random),
                _ => Note::None,
            },
        };
        self.sent.push(transaction.clone());
        transaction
    }

    /// Accounts that no other request names. A healthy service creates them.
    pub(crate) fn last_creation() -> Request {
        let accounts = LAST_ACCOUNTS.map(|id| NewAccount {
            id: id.to_owned(),
            ..account(0)
        });
        Request::CreateAccounts(accounts.to_vec())
    }

    /// A transaction between the accounts of [`Workload::last_creation`]. A healthy service commits it.
    pub(crate) fn last_transaction(&mut self) -> Request {
        let [debit, credit] = LAST_ACCOUNTS.map(str::to_owned);
        let leg = Leg {
            debit,
            credit,
            amount: 1,
            code: 0,
        };
        let transaction = Transaction::new("last", vec![leg]);
        self.sent.push(transaction.clone());
        Request::Transactions(vec![transaction])
    }

    /// Every id that was used.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &String> {
        self.sent.iter().map(|transaction| &transaction.id)
    }

    /// An id that was used, or one that never will be.
    pub(crate) fn some_id(&self, random: &mut Random) -> String {
        if self.sent.is_empty() || random.percent(5) {
            return "nobody".to_owned();
        }
        self.sent[random.below(self.sent.len())].id.clone()
    }
}

/// Changes a part of the content.
fn change(transaction: &mut Transaction, random: &mut Random) {
    match random.below(6) {
        0 => transaction.effective_time = Some(effective_time(random)),
        1 => transaction.note = short_note(random),
        _ => {
            let leg = random.below(transaction.legs.len());
            transaction.legs[leg].amount += 1;
        }
    }
}

fn effective_time(random: &mut Random) -> EffectiveTime {
    EffectiveTime {
        seconds: i64::try_from(random.below(1000)).unwrap() - 500,
        nanos: u32::try_from(random.below(1_000_000_000)).unwrap(),
    }
}

fn short_note(random: &mut Random) -> Note {
    Note::Short(u8::try_from(random.below(3)).unwrap())
}

fn legs(config: &Config, random: &mut Random) -> Vec<Leg> {
    let count = random.within(&(1..config.legs_max + 1));
    let amount = |random: &mut Random| {
        if random.percent(config.greedy) {
            u128::from(random.within(&(1000..100_000)))
        } else {
            u128::from(random.within(&(1..100)))
        }
    };
    (0..count)
        .map(|_| {
            let debit = random.within(&(0..config.accounts));
            let other = random.within(&(1..config.accounts));
            // The two accounts are the same only rarely.
            let credit = if random.percent(2) {
                debit
            } else {
                (debit + other) % config.accounts
            };
            Leg {
                debit: account_id(debit),
                credit: account_id(credit),
                amount: amount(random),
                code: u32::try_from(random.within(&(0..4))).unwrap(),
            }
        })
        .collect()
}

/// The id of an account.
pub(crate) fn account_id(number: u64) -> String {
    format!("a{number}")
}

/// The account with this number. Its content depends only on the number.
pub(crate) fn account(number: u64) -> NewAccount {
    NewAccount {
        id: account_id(number),
        asset: if number % 7 == 6 { "USD" } else { "EUR" }.to_owned(),
        rule: match number % 3 {
            0 => BalanceRule::Unlimited,
            1 => BalanceRule::CreditBalance,
            _ => BalanceRule::DebitBalance,
        },
        overdraft_limit: Amount::new(u128::from(number % 5) * 100),
        status: match number % 11 {
            9 => AccountStatus::Frozen,
            10 => AccountStatus::Closed,
            _ => AccountStatus::Open,
        },
        metadata: if number % 4 == 3 {
            Metadata::from([("number".to_owned(), number.to_string())])
        } else {
            Metadata::new()
        },
        velocity_limits: Vec::new(),
    }
}

/// An account with the same id as the account with this number, but with other content.
pub(crate) fn other_account(number: u64, random: &mut Random) -> NewAccount {
    let mut account = account(number);
    match random.below(3) {
        0 => "other".clone_into(&mut account.asset),
        1 => drop(account.metadata.insert("other".to_owned(), String::new())),
        _ => account.overdraft_limit = Amount::new(77),
    }
    account
}

/// Encodes transactions for the engine.
pub(crate) fn encode(engine: &TallyEngine, transactions: &[Transaction]) -> Arc<TransactionBatch> {
    let mut batch = engine.batch(256 * transactions.len());
    for transaction in transactions {
        let metadata = transaction.metadata();
        let heading = Heading {
            id: transaction.id.as_bytes(),
            phase: Phase::Posted,
            effective_time: transaction.effective_time,
            metadata: &metadata,
            names: Names::Nothing,
            keep_remaining: false,
            pending_timeout: None,
        };
        let transfers: Vec<Transfer<&[u8]>> = transaction
            .legs
            .iter()
            .map(|leg| Transfer {
                debit: leg.debit.as_bytes(),
                credit: leg.credit.as_bytes(),
                amount: Amount::new(leg.amount),
                code: leg.code,
                rule: AmountRule::Exact,
            })
            .collect();
        batch.push(&heading, &transfers, false);
    }
    Arc::new(batch)
}
