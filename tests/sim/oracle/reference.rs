//! A naive reference ledger, written for reading. It shares no code with the ledger of the service. It keeps the columns
//! of every account at every sequence, so that a read can be compared with any moment of the past.

use std::collections::{BTreeMap, HashMap};

use tally_ledger::{
    AccountSnapshot, AccountStatus, Amount, BalanceRule, NewAccount, Reason, Rejection, Side, Timestamp,
};

use super::{calls::Leg, window::Window};

/// All accounts, with their columns after each committed transaction.
#[derive(Debug, Clone, Default)]
pub(super) struct Reference<'a> {
    accounts: HashMap<&'a str, ReferenceAccount<'a>>,
    /// The number of committed transactions.
    committed: u64,
}

/// An account of the reference ledger.
#[derive(Debug, Clone)]
pub(super) struct ReferenceAccount<'a> {
    pub(super) new: &'a NewAccount,
    pub(super) created: Timestamp,
    /// The columns, each time that they changed. The first element has the sequence 0 and no amounts.
    history: Vec<Columns>,
}

/// The sums of the posted debits and credits of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Columns {
    /// The sequence of the transaction that made these sums.
    since: u64,
    pub(super) debits: u128,
    pub(super) credits: u128,
}

/// The columns of the accounts that a transaction changes, after the transaction.
type Changes<'a> = BTreeMap<&'a str, Columns>;

// ===== impl Reference =====

impl<'a> Reference<'a> {
    /// Adds the next account in the order of creation.
    pub(super) fn create(&mut self, snapshot: &'a AccountSnapshot) {
        let account = ReferenceAccount {
            new: &snapshot.account,
            created: snapshot.create_time,
            history: vec![Columns {
                since: 0,
                debits: 0,
                credits: 0,
            }],
        };
        self.accounts.insert(&snapshot.account.id, account);
    }

    pub(super) fn account(&self, id: &str) -> Option<&ReferenceAccount<'a>> {
        self.accounts.get(id)
    }

    pub(super) const fn committed(&self) -> u64 {
        self.committed
    }

    /// Commits the next transaction.
    ///
    /// # Errors
    /// The rejection, if a rule forbids the transaction.
    pub(super) fn commit(&mut self, legs: &[Leg]) -> Result<(), Rejection> {
        let changes = self.judge(legs, self.committed)?;
        self.committed += 1;
        for (id, columns) in changes {
            if let Some(account) = self.accounts.get_mut(id) {
                account.history.push(Columns {
                    since: self.committed,
                    ..columns
                });
            }
        }
        Ok(())
    }

    /// Decides about a transaction after the transactions up to the sequence `after`. All accounts count as existing.
    ///
    /// # Errors
    /// The rejection, if a rule forbids the transaction.
    pub(super) fn judge<'t>(&self, legs: &'t [Leg], after: u64) -> Result<Changes<'t>, Rejection> {
        for (place, leg) in (0..=u8::MAX).zip(legs) {
            for (id, side) in [(&leg.debit, Side::Debit), (&leg.credit, Side::Credit)] {
                if !self.accounts.contains_key(id.as_str()) {
                    return Err(Rejection::new(Reason::AccountNotFound, place, side));
                }
            }
        }
        let mut changes = Changes::new();
        for (place, leg) in (0..=u8::MAX).zip(legs) {
            self.judge_leg(leg, place, after, &mut changes)?;
        }
        Ok(changes)
    }

    /// Applies the leg to `changes`. The rules are in the order of precedence.
    fn judge_leg<'t>(
        &self,
        leg: &'t Leg,
        place: u8,
        after: u64,
        changes: &mut Changes<'t>,
    ) -> Result<(), Rejection> {
        let because = |reason, side| Rejection::new(reason, place, side);
        let (Some(debtor), Some(creditor)) = (self.account(&leg.debit), self.account(&leg.credit)) else {
            return Ok(());
        };
        if leg.debit == leg.credit {
            return Err(because(Reason::SameAccount, Side::Credit));
        }
        if debtor.new.asset != creditor.new.asset {
            return Err(because(Reason::AssetMismatch, Side::Credit));
        }
        for (account, side) in [(debtor, Side::Debit), (creditor, Side::Credit)] {
            match account.new.status {
                AccountStatus::Open => {}
                AccountStatus::DebitsFrozen if side == Side::Credit => {}
                AccountStatus::Frozen | AccountStatus::DebitsFrozen => {
                    return Err(because(Reason::AccountFrozen, side));
                }
                AccountStatus::Closed => return Err(because(Reason::AccountClosed, side)),
            }
        }
        for (id, account, side) in [
            (&leg.debit, debtor, Side::Debit),
            (&leg.credit, creditor, Side::Credit),
        ] {
            let columns = changes.entry(id).or_insert_with(|| account.at(after));
            let room = account.room(*columns, side);
            let own = match side {
                Side::Debit => &mut columns.debits,
                Side::Credit => &mut columns.credits,
            };
            let Some(sum) = own.checked_add(leg.amount) else {
                return Err(because(Reason::BalanceOverflow, side));
            };
            if room.is_some_and(|room| leg.amount > room) {
                let available = Amount::new(room.unwrap_or(0));
                return Err(because(Reason::InsufficientFunds, side).with_available(available));
            }
            *own = sum;
        }
        Ok(())
    }
}

// ===== impl ReferenceAccount =====

impl ReferenceAccount<'_> {
    /// The columns after the transactions up to the sequence `after`.
    pub(super) fn at(&self, after: u64) -> Columns {
        let changes = self.history.partition_point(|columns| columns.since <= after);
        let last = changes.checked_sub(1).and_then(|last| self.history.get(last));
        last.copied().unwrap_or(Columns {
            since: 0,
            debits: 0,
            credits: 0,
        })
    }

    /// The sequences after which the account has these sums. `None` if it never has.
    pub(super) fn when(&self, debits: u128, credits: u128) -> Option<Window> {
        // No amount is zero and sums only grow, so the account has the same sums only once.
        let found = self
            .history
            .partition_point(|columns| (columns.debits, columns.credits) < (debits, credits));
        let columns = self.history.get(found)?;
        if (columns.debits, columns.credits) != (debits, credits) {
            return None;
        }
        let next = self.history.get(found + 1);
        Some(Window {
            from: columns.since,
            to: next.map_or(u64::MAX, |next| next.since - 1),
        })
    }

    /// What one side still accepts. `None` if the rule does not bound the side.
    fn room(&self, columns: Columns, side: Side) -> Option<u128> {
        let limit = self.new.overdraft_limit.minor_units();
        let (own, other) = match (self.new.rule, side) {
            (BalanceRule::CreditBalance, Side::Debit) => (columns.debits, columns.credits),
            (BalanceRule::DebitBalance, Side::Credit) => (columns.credits, columns.debits),
            (BalanceRule::Unlimited | BalanceRule::CreditBalance | BalanceRule::DebitBalance, _) => {
                return None;
            }
        };
        Some(if own <= other {
            // A column has at most 2^128 - 1, so more room than up to there has no meaning.
            (other - own).saturating_add(limit).min(u128::MAX - own)
        } else {
            limit.saturating_sub(own - other)
        })
    }
}
