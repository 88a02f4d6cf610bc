//! A naive reference ledger, written to be easy to read. It shares no code with the ledger of the service. It keeps the state of every
//! account and every hold after each record, so that a read can be compared with any moment of the past.

use std::collections::{BTreeMap, HashMap};

use tally_ledger::{
    AccountStatus, AccountTerms, Amount, AmountRule, BalanceRule, Balances, NewAccount, Reason, Rejection,
    Side, Timestamp,
};

use super::{
    calls::{Kind, Leg, Moved, Transaction},
    holds::{ReferenceHold, Reversible},
    velocity::Counters,
};

/// The ledger after some records.
#[derive(Debug, Clone)]
pub(super) struct Reference<'a> {
    accounts: Vec<ReferenceAccount<'a>>,
    numbers: HashMap<&'a str, usize>,
    /// All holds that there ever were, by their ids.
    pub(super) holds: HashMap<&'a str, ReferenceHold>,
    /// The transactions that can be reversed, by their ids.
    pub(super) reversible: HashMap<&'a str, Reversible>,
    /// The recorded transaction ids, each with the number of its record.
    pub(super) recorded: HashMap<&'a str, u64>,
    /// The number of outstanding holds.
    pub(super) outstanding: usize,
    /// The number of outstanding holds before the first record, and after each.
    outstanding_after: Vec<usize>,
    /// Maximum number of outstanding holds.
    holds_max: usize,
    /// The number of records with a sequence.
    pub(super) sequence: u64,
}

/// An account of the reference ledger.
#[derive(Debug, Clone)]
pub(super) struct ReferenceAccount<'a> {
    pub(super) new: &'a NewAccount,
    pub(super) created: Timestamp,
    /// All versions of the account. The first version is that of its creation.
    history: Vec<Version>,
    /// The counts of the velocity limits.
    pub(super) counters: Counters,
}

/// An account after a record that changed it.
#[derive(Debug, Clone)]
pub(super) struct Version {
    /// The number of the record.
    pub(super) since: u64,
    pub(super) columns: Columns,
    pub(super) terms: AccountTerms,
    /// The number of the record of the last update; 0 if there was none.
    pub(super) revision: u64,
}

/// The four columns of an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) debits: Column,
    pub(super) credits: Column,
}

/// The amounts on one side of an account: posted, and reserved by holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) posted: u128,
    pub(super) pending: u128,
}

/// The effects of a transaction that no rule forbids: the amount that each transfer moves, and the columns of the accounts afterwards.
#[derive(Debug, Clone)]
pub(super) struct Effects {
    pub(super) moved: Vec<Moved>,
    pub(super) columns: Changes,
}

/// The columns of the accounts that a transaction changes, after the transaction.
pub(super) type Changes = BTreeMap<String, Columns>;

// ===== impl Reference =====

impl<'a> Reference<'a> {
    /// Makes a ledger without records, which refuses more than `holds_max` outstanding holds.
    pub(super) fn new(holds_max: usize) -> Self {
        Reference {
            accounts: Vec::new(),
            numbers: HashMap::new(),
            holds: HashMap::new(),
            reversible: HashMap::new(),
            recorded: HashMap::new(),
            outstanding: 0,
            outstanding_after: vec![0],
            holds_max,
            sequence: 0,
        }
    }

    /// The number of the last record.
    pub(super) fn records(&self) -> u64 {
        self.outstanding_after.len() as u64 - 1
    }

    /// The number of the next record.
    pub(super) fn next(&self) -> u64 {
        self.outstanding_after.len() as u64
    }

    /// Ends the next record: it becomes the last record.
    pub(super) fn end_record(&mut self) {
        self.outstanding_after.push(self.outstanding);
    }

    /// All accounts, in the order of creation.
    pub(super) fn accounts(&self) -> impl Iterator<Item = &ReferenceAccount<'a>> {
        self.accounts.iter()
    }

    pub(super) fn account(&self, id: &str) -> Option<&ReferenceAccount<'a>> {
        self.accounts.get(*self.numbers.get(id)?)
    }

    fn account_mut(&mut self, id: &str) -> Option<&mut ReferenceAccount<'a>> {
        self.accounts.get_mut(*self.numbers.get(id)?)
    }

    /// The account after the records up to `after`; `None` if it did not exist.
    fn version(&self, id: &str, after: u64) -> Option<(&'a NewAccount, &Version)> {
        let account = self.account(id)?;
        Some((account.new, account.at(after)?))
    }

    /// Creates an account in the next record.
    pub(super) fn create(&mut self, new: &'a NewAccount, created: Timestamp) {
        let version = Version {
            since: self.next(),
            columns: Columns::default(),
            terms: terms_of(new),
            revision: 0,
        };
        self.numbers.insert(&new.id, self.accounts.len());
        self.accounts.push(ReferenceAccount {
            new,
            created,
            history: vec![version],
            counters: Counters::new(&new.velocity_limits),
        });
    }

    /// Updates an account in the next record. Returns whether the account exists.
    pub(super) fn update(&mut self, id: &str, terms: &AccountTerms) -> bool {
        let next = self.next();
        let Some(account) = self.account_mut(id) else {
            return false;
        };
        account.counters.change(&terms.velocity_limits);
        account.change(next, |version| {
            version.terms = terms.clone();
            version.revision = next;
        });
        true
    }

    /// Changes the columns of accounts in the next record.
    pub(super) fn set_columns(&mut self, changes: Changes) {
        let next = self.next();
        for (id, columns) in changes {
            if let Some(account) = self.account_mut(&id) {
                account.change(next, |version| version.columns = columns);
            }
        }
    }

    /// Counts the moved amounts against the velocity limits of the accounts.
    pub(super) fn count(&mut self, moved: &[Moved], time: Timestamp) {
        for Moved {
            debit,
            credit,
            amount,
            ..
        } in moved
        {
            for (id, side) in [(debit, Side::Debit), (credit, Side::Credit)] {
                if let Some(account) = self.account_mut(id) {
                    account.counters.count(side, *amount, time);
                }
            }
        }
    }

    /// Judges a transaction that comes after the records up to `after`. Returns its rejection if the service does not
    /// record this rejection; `None` if the service records the outcome.
    pub(super) fn unrecorded(&self, transaction: &Transaction, after: u64) -> Option<Rejection> {
        if let Err(rejection) = self.find_accounts(&transaction.legs, after) {
            return Some(rejection);
        }
        let is_hold = match transaction.kind {
            Kind::Move => false,
            Kind::Hold { .. } => true,
            Kind::Post { .. } | Kind::Void { .. } | Kind::Reverse { .. } => return None,
        };
        if is_hold && self.is_full(after) {
            return Some(HOLDS_FULL);
        }
        let rejection = self.judge_legs(&transaction.legs, is_hold, after).err()?;
        (!super::history::is_recorded(rejection)).then_some(rejection)
    }

    /// Decides whether the next record can be the commit, at `time`, of a transaction that names no other transaction.
    ///
    /// # Errors
    /// The rejection, if a rule forbids the transaction.
    pub(super) fn judge_plain(
        &self,
        transaction: &Transaction,
        is_hold: bool,
        time: Timestamp,
    ) -> Result<Effects, Rejection> {
        let after = self.records();
        if is_hold && self.is_full(after) {
            return Err(HOLDS_FULL);
        }
        let effects = self.judge_legs(&transaction.legs, is_hold, after)?;
        self.check_velocity(&effects.moved, time)?;
        Ok(effects)
    }

    fn is_full(&self, after: u64) -> bool {
        let place = usize::try_from(after).ok();
        let outstanding = place.and_then(|place| self.outstanding_after.get(place));
        outstanding.is_some_and(|outstanding| *outstanding >= self.holds_max)
    }

    /// Checks that all accounts of the legs existed after the records up to `after`.
    ///
    /// # Errors
    /// The rejection because of the first account that did not exist.
    pub(super) fn find_accounts(&self, legs: &[Leg], after: u64) -> Result<(), Rejection> {
        for (place, leg) in (0..=u8::MAX).zip(legs) {
            for (id, side) in [(&leg.debit, Side::Debit), (&leg.credit, Side::Credit)] {
                if self.version(id, after).is_none() {
                    return Err(Rejection::new(Reason::AccountNotFound, place, side));
                }
            }
        }
        Ok(())
    }

    /// Decides whether a transaction can make these transfers after the records up to `after`. All their accounts must exist.
    ///
    /// # Errors
    /// The rejection, if a rule forbids a transfer.
    pub(super) fn judge_legs(&self, legs: &[Leg], is_hold: bool, after: u64) -> Result<Effects, Rejection> {
        let mut effects = Effects {
            moved: Vec::with_capacity(legs.len()),
            columns: Changes::new(),
        };
        for (place, leg) in (0..=u8::MAX).zip(legs) {
            let amount = self
                .judge_leg(leg, is_hold, after, &mut effects.columns)
                .map_err(|refused| refused.at(place))?;
            effects.moved.push(Moved {
                debit: leg.debit.clone(),
                credit: leg.credit.clone(),
                amount,
                released: 0,
                remaining: 0,
            });
        }
        Ok(effects)
    }

    /// Applies a transfer to `changes`. Checks the rules in the order of their precedence. Returns the amount that is moved.
    fn judge_leg(
        &self,
        leg: &Leg,
        is_hold: bool,
        after: u64,
        changes: &mut Changes,
    ) -> Result<u128, Refused> {
        let because = |reason, side| {
            Err(Refused {
                reason,
                side,
                available: 0,
            })
        };
        let mut amount = leg.amount;
        // A part of a reversal may be zero.
        if amount == 0 {
            return Ok(0);
        }
        let (Some((debtor, debtor_now)), Some((creditor, creditor_now))) =
            (self.version(&leg.debit, after), self.version(&leg.credit, after))
        else {
            return because(Reason::AccountNotFound, Side::Debit);
        };
        if leg.debit == leg.credit {
            return because(Reason::SameAccount, Side::Credit);
        }
        if debtor.asset != creditor.asset {
            return because(Reason::AssetMismatch, Side::Credit);
        }
        let sides = [
            (&leg.debit, debtor, debtor_now, Side::Debit),
            (&leg.credit, creditor, creditor_now, Side::Credit),
        ];
        for (_, _, now, side) in sides {
            match now.terms.status {
                AccountStatus::Open => {}
                AccountStatus::DebitsFrozen if side == Side::Credit => {}
                AccountStatus::Frozen | AccountStatus::DebitsFrozen => {
                    return because(Reason::AccountFrozen, side);
                }
                AccountStatus::Closed => return because(Reason::AccountClosed, side),
            }
        }
        let mut columns_of = |id: &String, now: &Version| *changes.entry(id.clone()).or_insert(now.columns);
        for (id, account, now, side) in sides {
            let room = room(account.rule, &now.terms, columns_of(id, now), side);
            if is_clamped(leg.rule, side)
                && let Some(room) = room
            {
                amount = amount.min(room);
                if amount == 0 {
                    return because(Reason::NothingAvailable, side);
                }
            }
        }
        for (id, account, now, side) in sides {
            let columns = changes.entry(id.clone()).or_insert(now.columns);
            let room = room(account.rule, &now.terms, *columns, side);
            let own = columns.side_mut(side);
            if own.total().checked_add(amount).is_none() {
                return because(Reason::BalanceOverflow, side);
            }
            if let Some(available) = room.filter(|room| amount > *room) {
                return Err(Refused {
                    reason: Reason::InsufficientFunds,
                    side,
                    available,
                });
            }
            if is_hold {
                own.pending += amount;
            } else {
                own.posted += amount;
            }
        }
        Ok(amount)
    }

    /// Checks the velocity limits, which count the moved amounts.
    fn check_velocity(&self, moved: &[Moved], time: Timestamp) -> Result<(), Rejection> {
        // The transfers of the same transaction count, too.
        let mut counters: HashMap<&str, Counters> = HashMap::new();
        for (place, moved) in (0..=u8::MAX).zip(moved) {
            for (id, side) in [(&moved.debit, Side::Debit), (&moved.credit, Side::Credit)] {
                let Some(account) = self.account(id) else {
                    continue;
                };
                let counters = counters.entry(id).or_insert_with(|| account.counters.clone());
                counters
                    .check(side, moved.amount, time)
                    .map_err(|exceeded| Rejection::velocity(place, side, &exceeded))?;
                counters.count(side, moved.amount, time);
            }
        }
        Ok(())
    }
}

/// A refused transfer, without its place in the transaction.
#[derive(Debug, Clone, Copy)]
struct Refused {
    reason: Reason,
    side: Side,
    available: u128,
}

const HOLDS_FULL: Rejection = Rejection::new(Reason::HoldsFull, 0, Side::Debit);

impl Refused {
    const fn at(self, place: u8) -> Rejection {
        Rejection::new(self.reason, place, self.side).with_available(Amount::new(self.available))
    }
}

/// Whether a transfer moves at most what the account on this side has available.
fn is_clamped(rule: AmountRule, side: Side) -> bool {
    match rule {
        AmountRule::Exact => false,
        AmountRule::UpToDebitAvailable => side == Side::Debit,
        AmountRule::UpToCreditAvailable => side == Side::Credit,
        AmountRule::UpToBothAvailable => true,
    }
}

/// The amount that one side still accepts. `None` if the rule does not bound the side.
fn room(rule: BalanceRule, terms: &AccountTerms, columns: Columns, side: Side) -> Option<u128> {
    let limit = terms.overdraft_limit.minor_units();
    // A pending amount counts against its own side only.
    let (own, other) = match (rule, side) {
        (BalanceRule::CreditBalance, Side::Debit) => (columns.debits.total(), columns.credits.posted),
        (BalanceRule::DebitBalance, Side::Credit) => (columns.credits.total(), columns.debits.posted),
        (BalanceRule::Unlimited | BalanceRule::CreditBalance | BalanceRule::DebitBalance, _) => {
            return None;
        }
    };
    Some(if own <= other {
        // A side has at most 2^128 - 1, so the room is limited to that.
        (other - own).saturating_add(limit).min(u128::MAX - own)
    } else {
        limit.saturating_sub(own - other)
    })
}

/// The terms with which an account is created.
fn terms_of(new: &NewAccount) -> AccountTerms {
    AccountTerms {
        status: new.status,
        overdraft_limit: new.overdraft_limit,
        metadata: new.metadata.clone(),
        velocity_limits: new.velocity_limits.clone(),
    }
}

// ===== impl ReferenceAccount =====

impl ReferenceAccount<'_> {
    /// The number of the record that created the account.
    pub(super) fn created_by(&self) -> u64 {
        self.history.first().map_or(0, |version| version.since)
    }

    /// The account after the records up to `after`; `None` if it did not exist.
    pub(super) fn at(&self, after: u64) -> Option<&Version> {
        let changes = self.history.partition_point(|version| version.since <= after);
        self.history.get(changes.checked_sub(1)?)
    }

    /// The first moment from `from` on at which `fits` accepts the account.
    pub(super) fn first_from(&self, from: u64, fits: impl Fn(&Version) -> bool) -> Option<u64> {
        let changes = self.history.partition_point(|version| version.since <= from);
        let mut later = self.history.iter().skip(changes.saturating_sub(1));
        let found = later.find(|version| fits(version))?;
        Some(found.since.max(from))
    }

    fn change(&mut self, next: u64, change: impl FnOnce(&mut Version)) {
        let Some(last) = self.history.last() else {
            return;
        };
        let mut version = Version {
            since: next,
            ..last.clone()
        };
        change(&mut version);
        self.history.push(version);
    }

    /// The available amount that a read shows.
    pub(super) fn available(&self, version: &Version) -> Option<Amount> {
        let side = match self.new.rule {
            BalanceRule::Unlimited => return None,
            BalanceRule::CreditBalance => Side::Debit,
            BalanceRule::DebitBalance => Side::Credit,
        };
        room(self.new.rule, &version.terms, version.columns, side).map(Amount::new)
    }

    /// The account as a read shows it.
    pub(super) fn shown(&self, version: &Version) -> NewAccount {
        let AccountTerms {
            status,
            overdraft_limit,
            metadata,
            velocity_limits,
        } = version.terms.clone();
        NewAccount {
            status,
            overdraft_limit,
            metadata,
            velocity_limits,
            ..self.new.clone()
        }
    }
}

// ===== impl Columns, Column =====

impl Columns {
    pub(super) const fn side_mut(&mut self, side: Side) -> &mut Column {
        match side {
            Side::Debit => &mut self.debits,
            Side::Credit => &mut self.credits,
        }
    }

    /// The columns as a read shows them.
    pub(super) const fn balances(&self) -> Balances {
        Balances {
            debits_pending: Amount::new(self.debits.pending),
            debits_posted: Amount::new(self.debits.posted),
            credits_pending: Amount::new(self.credits.pending),
            credits_posted: Amount::new(self.credits.posted),
        }
    }

    /// Whether an account with these columns can be closed.
    pub(super) const fn is_settled(&self) -> bool {
        self.debits.posted == self.credits.posted && self.debits.pending == 0 && self.credits.pending == 0
    }
}

impl Column {
    /// The sum of the posted and the reserved amount, which fits 128 bits.
    pub(super) const fn total(self) -> u128 {
        self.posted.saturating_add(self.pending)
    }
}
