//! The requests of the simulated clients: accounts, transactions, and their encoding.

use std::{collections::BTreeMap, sync::Arc};

use tally::engine::{OwnedKey, TallyEngine, TransactionBatch};
use tally_ledger::{
    AccountSnapshot, AccountStatus, AccountUpdate, Amount, AmountRule, BalanceRule, EffectiveTime, Heading,
    Metadata, Names, NewAccount, Outcome, Phase, Side, Transfer, VelocityLimit,
};

use crate::{
    calls::{Answer, Kind, Leg, Note, Request, Transaction},
    config::Config,
    random::Random,
};

/// The transactions that were sent so far, from which repeated ids are taken.
#[derive(Debug, Default)]
pub(crate) struct Workload {
    sent: Vec<Transaction>,
    /// The places of holds in `sent`.
    holds: Vec<usize>,
    /// The places in `sent` of the holds, and of the other transactions, that clients know as committed.
    known_holds: Vec<usize>,
    known: Vec<usize>,
    /// The number of sent transactions that reverse the transaction with this id.
    reversals: BTreeMap<String, u64>,
    /// The newest revision of each account that a client has seen.
    revisions: BTreeMap<String, u64>,
}

/// The accounts of [`Workload::last_creation`].
const LAST_ACCOUNTS: [&str; 2] = ["last0", "last1"];

// ===== impl Workload =====

impl Workload {
    /// Chooses a transaction: a new one, or one whose id was used before, sometimes with other content.
    pub(crate) fn transaction(&mut self, config: &Config, random: &mut Random) -> Transaction {
        if !self.sent.is_empty() && random.percent(config.repeats) {
            // Prefers recent ids, because their blocks may still be in flight.
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
        let (kind, legs) = self.content(config, random);
        let transaction = Transaction {
            id: format!("{mark}{}", self.sent.len()),
            kind,
            legs,
            effective_time: random.percent(20).then(|| effective_time(random)),
            note: match random.below(10) {
                _ if large => Note::Long,
                0 => short_note(random),
                _ => Note::None,
            },
            wants_balances: random.percent(config.balances),
        };
        self.remember(transaction.clone());
        transaction
    }

    fn remember(&mut self, transaction: Transaction) {
        match &transaction.kind {
            Kind::Hold { .. } => self.holds.push(self.sent.len()),
            Kind::Reverse { target } => *self.reversals.entry(target.clone()).or_default() += 1,
            Kind::Move | Kind::Post { .. } | Kind::Void { .. } => {}
        }
        self.sent.push(transaction);
    }

    /// Chooses what a new transaction does.
    fn content(&self, config: &Config, random: &mut Random) -> (Kind, Vec<Leg>) {
        if random.percent(config.ends) {
            self.end_of_hold(config, random)
        } else if random.percent(config.holds) {
            let timeout = random
                .percent(config.timeouts)
                .then(|| 1_000_000 * random.within(&(1..config.timeout_ms + 1)));
            (Kind::Hold { timeout }, legs(config, random))
        } else if random.percent(config.reversals) {
            self.reversal(random)
        } else {
            (Kind::Move, legs(config, random))
        }
    }

    /// Chooses a transaction that posts or voids a hold: mostly a recent hold, sometimes a hold that has ended or does not exist.
    fn end_of_hold(&self, config: &Config, random: &mut Random) -> (Kind, Vec<Leg>) {
        let hold = self.some_hold(random);
        if random.percent(25) {
            return (Kind::Void { hold }, Vec::new());
        }
        let reserved = self.find(&hold).map_or(&[][..], |hold| hold.legs.as_slice());
        let legs = match random.below(20) {
            _ if reserved.is_empty() => Vec::new(),
            0..8 => Vec::new(),
            // These transfers have other accounts than the hold.
            8 => legs(config, random),
            _ => parts_of(reserved, random),
        };
        // A post without transfers posts the whole hold, so nothing remains to be kept.
        let keep_remaining = !legs.is_empty() && random.percent(50);
        let legs = legs.into_iter().map(exact).collect();
        (Kind::Post { hold, keep_remaining }, legs)
    }

    /// Chooses a transaction that reverses another one, or a part of it.
    fn reversal(&self, random: &mut Random) -> (Kind, Vec<Leg>) {
        let target = if random.percent(70) {
            self.recent_of(&self.known, random)
        } else {
            None
        };
        let target = target.unwrap_or_else(|| self.some_id(random));
        let mut moved = self.find(&target);
        // A post without transfers has moved the transfers of the hold.
        while let Some(Transaction {
            kind: Kind::Post { hold, .. },
            legs,
            ..
        }) = moved
            && legs.is_empty()
        {
            moved = self.find(hold);
        }
        let legs = match moved {
            Some(moved) if random.percent(50) && !moved.legs.is_empty() => {
                let swapped = moved.legs.iter().map(|leg| Leg {
                    debit: leg.credit.clone(),
                    credit: leg.debit.clone(),
                    ..leg.clone()
                });
                let swapped: Vec<Leg> = swapped.collect();
                parts_of(&swapped, random).into_iter().map(exact).collect()
            }
            Some(_) | None => Vec::new(),
        };
        (Kind::Reverse { target }, legs)
    }

    /// The transaction with this id. The id ends with its place in `sent`.
    fn find(&self, id: &str) -> Option<&Transaction> {
        self.sent.get(self.place(id)?)
    }

    fn place(&self, id: &str) -> Option<usize> {
        let place: usize = id
            .trim_start_matches(|letter: char| !letter.is_ascii_digit())
            .parse()
            .ok()?;
        let sent = self.sent.get(place)?;
        (sent.id == id).then_some(place)
    }

    /// The id of one of these transactions, mostly of a recent transaction.
    fn recent_of(&self, places: &[usize], random: &mut Random) -> Option<String> {
        if places.is_empty() {
            return None;
        }
        let recent = if random.percent(80) { 12 } else { usize::MAX };
        let back = random.below(places.len().min(recent));
        Some(self.sent[places[places.len() - 1 - back]].id.clone())
    }

    /// The id of a hold: mostly of a hold that a client knows as committed, sometimes an id that no hold has.
    pub(crate) fn some_hold(&self, random: &mut Random) -> String {
        let hold = match random.below(20) {
            0 => None,
            1..5 => self.recent_of(&self.holds, random),
            _ => self.recent_of(&self.known_holds, random),
        };
        hold.or_else(|| self.recent_of(&self.holds, random))
            .unwrap_or_else(|| self.some_id(random))
    }

    /// The keys, besides the ids, under which records may be found.
    pub(crate) fn keys(&self) -> impl Iterator<Item = OwnedKey> {
        let ends = self
            .holds
            .iter()
            .map(|place| OwnedKey::HoldEnd(self.sent[*place].id.clone()));
        let reversals = self.reversals.iter().flat_map(|(target, sent)| {
            (1..=sent + 1).map(|number| OwnedKey::Reversal(target.clone(), number))
        });
        ends.chain(reversals)
    }

    /// Notes what a client learns from the answer to a call with these transactions: which of them are committed, and the revisions of
    /// accounts.
    pub(crate) fn learn(&mut self, ids: &[String], answer: &Answer) {
        match answer {
            Answer::Account(Some(snapshot)) => self.see(snapshot),
            Answer::Updated(Ok(snapshot)) => self.see(snapshot),
            Answer::Outcomes(outcomes, _) => {
                for (id, outcome) in ids.iter().zip(outcomes) {
                    if let Outcome::Committed { replayed: false, .. } = outcome
                        && let Some(place) = self.place(id)
                    {
                        let known = match self.sent[place].kind {
                            Kind::Hold { .. } => &mut self.known_holds,
                            Kind::Move | Kind::Post { .. } | Kind::Void { .. } | Kind::Reverse { .. } => {
                                &mut self.known
                            }
                        };
                        known.push(place);
                    }
                }
            }
            Answer::Account(None)
            | Answer::Updated(Err(_))
            | Answer::Created(_)
            | Answer::Reused { .. }
            | Answer::Accounts(..)
            | Answer::Transaction(_)
            | Answer::Hold(_)
            | Answer::Holds(_) => {}
        }
    }

    fn see(&mut self, snapshot: &AccountSnapshot) {
        self.revisions
            .insert(snapshot.account.id.clone(), snapshot.revision);
    }

    /// Accounts that no other request names. A healthy service creates them.
    pub(crate) fn last_creation() -> Request {
        let accounts = LAST_ACCOUNTS.map(|id| NewAccount {
            id: id.to_owned(),
            ..unlimited_account()
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
            rule: AmountRule::Exact,
        };
        let transaction = Transaction::new("last", vec![leg]);
        self.remember(transaction.clone());
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
    match (random.below(8), &mut transaction.kind) {
        (0, _) => transaction.effective_time = Some(effective_time(random)),
        (1, _) => transaction.note = short_note(random),
        (2, Kind::Hold { timeout }) => *timeout = Some(timeout.map_or(1, |timeout| timeout + 1)),
        (2, Kind::Post { hold, .. } | Kind::Void { hold }) => hold.push('x'),
        (3, Kind::Post { keep_remaining, .. }) if !transaction.legs.is_empty() => {
            *keep_remaining = !*keep_remaining;
        }
        (2, Kind::Reverse { target }) => target.push('x'),
        // Another phase, which needs transfers.
        (4, Kind::Move) => transaction.kind = Kind::Hold { timeout: None },
        _ if !transaction.legs.is_empty() => {
            let leg = random.below(transaction.legs.len());
            transaction.legs[leg].amount += 1;
        }
        _ => transaction.note = short_note(random),
    }
}

/// The transfers with the same or smaller amounts, sometimes with greater amounts. Not all amounts are zero.
fn parts_of(legs: &[Leg], random: &mut Random) -> Vec<Leg> {
    let mut parts = legs.to_vec();
    for leg in &mut parts {
        leg.amount = match random.below(20) {
            0..3 => 0,
            3..8 => leg.amount,
            8 => leg.amount + 1,
            _ => u128::from(random.within(&(0..u64::try_from(leg.amount).unwrap() + 1))),
        };
    }
    if parts.iter().all(|leg| leg.amount == 0) {
        parts[0].amount = 1;
    }
    if random.percent(3) {
        parts.pop();
        if parts.iter().all(|leg| leg.amount == 0) {
            return legs.to_vec();
        }
    }
    parts
}

/// The transfer without an amount rule, which a transaction that names another one can't have.
fn exact(leg: Leg) -> Leg {
    Leg {
        rule: AmountRule::Exact,
        ..leg
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
                rule: if random.percent(config.clamps) {
                    CLAMPS[random.below(CLAMPS.len())]
                } else {
                    AmountRule::Exact
                },
            }
        })
        .collect()
}

const CLAMPS: [AmountRule; 3] = [
    AmountRule::UpToDebitAvailable,
    AmountRule::UpToCreditAvailable,
    AmountRule::UpToBothAvailable,
];

/// The id of an account.
pub(crate) fn account_id(number: u64) -> String {
    format!("a{number}")
}

/// The account with this number. Its content depends only on the number and on the configuration.
pub(crate) fn account(number: u64, config: &Config) -> NewAccount {
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
        velocity_limits: if number * 37 % 100 < config.limits {
            velocity_limits(number)
        } else {
            Vec::new()
        },
    }
}

/// An account that accepts every transfer.
fn unlimited_account() -> NewAccount {
    NewAccount {
        id: String::new(),
        asset: "EUR".to_owned(),
        rule: BalanceRule::Unlimited,
        overdraft_limit: Amount::ZERO,
        status: AccountStatus::Open,
        metadata: Metadata::new(),
        velocity_limits: Vec::new(),
    }
}

/// One or two limits, of every kind.
fn velocity_limits(choice: u64) -> Vec<VelocityLimit> {
    let second = 1_000_000_000;
    let limit = |choice: u64| VelocityLimit {
        side: if choice % 4 == 3 {
            Side::Credit
        } else {
            Side::Debit
        },
        window_nanos: second * [1, 5, 60][usize::try_from(choice % 3).unwrap()],
        max_count: 1 + choice % 6,
        max_amount: (choice % 2 == 1).then(|| Amount::from(100 * (1 + choice % 5))),
        single_amount_max: (choice % 5 == 4).then(|| Amount::from(80)),
    };
    (0..=choice % 2)
        .map(|number| limit(choice + 7 * number))
        .collect()
}

/// Chooses an update of an account, sometimes of one that does not exist.
pub(crate) fn account_update(workload: &Workload, config: &Config, random: &mut Random) -> AccountUpdate {
    let id = account_id(random.within(&(0..config.accounts + 1)));
    let seen = workload.revisions.get(&id).copied().unwrap_or(0);
    let mut update = AccountUpdate {
        expected_revision: random
            .percent(30)
            .then(|| if random.percent(80) { seen } else { seen + 1 }),
        id,
        ..AccountUpdate::default()
    };
    if random.percent(60) {
        update.status = Some(match random.below(20) {
            0..11 => AccountStatus::Open,
            11..15 => AccountStatus::DebitsFrozen,
            15..19 => AccountStatus::Frozen,
            _ => AccountStatus::Closed,
        });
    }
    if random.percent(30) {
        update.overdraft_limit = Some(Amount::from(100 * random.within(&(0..5))));
    }
    if config.limits > 0 && random.percent(30) {
        let choice = random.within(&(0..20));
        update.velocity_limits = Some(if choice == 0 {
            Vec::new()
        } else {
            velocity_limits(choice)
        });
    }
    if random.percent(20) || update.status.is_none() {
        let number = random.below(3).to_string();
        update.metadata = Some(Metadata::from([("updated".to_owned(), number)]));
    }
    update
}

/// An account with the same id as the account with this number, but with other content.
pub(crate) fn other_account(number: u64, config: &Config, random: &mut Random) -> NewAccount {
    let mut account = account(number, config);
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
        let (phase, names) = match &transaction.kind {
            Kind::Move => (Phase::Posted, Names::Nothing),
            Kind::Hold { .. } => (Phase::Pending, Names::Nothing),
            Kind::Post { hold, .. } => (Phase::PostPending, Names::Hold(hold.as_bytes())),
            Kind::Void { hold } => (Phase::VoidPending, Names::Hold(hold.as_bytes())),
            Kind::Reverse { target } => (Phase::Posted, Names::Reversed(target.as_bytes())),
        };
        let (keep_remaining, pending_timeout) = match transaction.kind {
            Kind::Post { keep_remaining, .. } => (keep_remaining, None),
            Kind::Hold { timeout } => (false, timeout),
            Kind::Move | Kind::Void { .. } | Kind::Reverse { .. } => (false, None),
        };
        let heading = Heading {
            id: transaction.id.as_bytes(),
            phase,
            effective_time: transaction.effective_time,
            metadata: &metadata,
            names,
            keep_remaining,
            pending_timeout,
        };
        let transfers: Vec<Transfer<&[u8]>> = transaction
            .legs
            .iter()
            .map(|leg| Transfer {
                debit: leg.debit.as_bytes(),
                credit: leg.credit.as_bytes(),
                amount: Amount::new(leg.amount),
                code: leg.code,
                rule: leg.rule,
            })
            .collect();
        batch.push(&heading, &transfers, transaction.wants_balances);
    }
    Arc::new(batch)
}
