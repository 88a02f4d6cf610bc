//! Holds, posts, voids, expiries and reversals in the reference ledger.

use tally_ledger::{
    AccountIndex, AccountStatus, Amount, AmountRule, Hold, Reason, Rejection, Side, Timestamp,
};

use super::{
    calls::{Kind, Leg, Moved, Recorded, Transaction},
    reference::{Changes, Effects, Reference},
};

/// A hold.
#[derive(Debug, Clone)]
pub(super) struct ReferenceHold {
    pub(super) state: HoldState,
    /// When the hold expires, if it does.
    pub(super) deadline: Option<Timestamp>,
    /// The amount that each transfer still reserves is in `remaining`.
    legs: Vec<Moved>,
    /// The position of the record that ended the hold, if it has ended.
    pub(super) ended_by: Option<u64>,
    /// The number of the block of its newest record.
    pub(super) newest_block: u64,
    /// Each version of what a read shows: the number of the record that made the version, and the hold if it is outstanding.
    history: Vec<(u64, Option<Hold>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldState {
    Pending,
    Posted,
    Voided,
    Expired,
}

/// A transaction that can be reversed.
#[derive(Debug, Clone)]
pub(super) struct Reversible {
    /// The amount of each transfer that can still be reversed is in `remaining`.
    legs: Vec<Moved>,
    /// The positions of the reversals, in order.
    pub(super) reversals: Vec<u64>,
}

/// The place in the order at which a transaction is decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    /// The time that the transaction gets, or would get if it were committed.
    pub(super) time: Timestamp,
    /// The number and the time of the block.
    pub(super) block: u64,
    pub(super) block_time: Timestamp,
}

// ===== impl Reference: transactions =====

impl<'a> Reference<'a> {
    /// Decides about the transaction of the next record.
    ///
    /// # Errors
    /// The rejection, if a rule forbids the transaction.
    pub(super) fn judge(&self, transaction: &Transaction, at: At) -> Result<Effects, Rejection> {
        self.find_accounts(&transaction.legs, self.records())?;
        match &transaction.kind {
            Kind::Move => self.judge_plain(transaction, false, at.time),
            Kind::Hold { .. } => self.judge_plain(transaction, true, at.time),
            Kind::Post { hold, .. } | Kind::Void { hold } => self.judge_end(transaction, hold, at),
            Kind::Reverse { target } => self.judge_reversal(transaction, target),
        }
    }

    /// The next record commits a transaction with these effects.
    pub(super) fn commit(&mut self, recorded: &'a Recorded, effects: Effects, at: At) {
        let transaction = &recorded.transaction;
        match &transaction.kind {
            Kind::Move => {
                self.count(&effects.moved, at.time);
                self.can_be_reversed(&transaction.id, &effects.moved);
            }
            Kind::Hold { timeout } => {
                self.count(&effects.moved, at.time);
                let deadline = timeout.and_then(|nanos| at.time.checked_add_nanos(nanos));
                self.add_hold(recorded, deadline, &effects.moved, at.block);
            }
            Kind::Post { hold, .. } => {
                self.can_be_reversed(&transaction.id, &effects.moved);
                self.change_hold(
                    hold,
                    HoldState::Posted,
                    &effects.moved,
                    (recorded.position, at.block),
                );
            }
            Kind::Void { hold } => {
                self.change_hold(
                    hold,
                    HoldState::Voided,
                    &effects.moved,
                    (recorded.position, at.block),
                );
            }
            Kind::Reverse { target } => self.reverse(target, transaction, &effects.moved, recorded.position),
        }
        self.set_columns(effects.columns);
        self.sequence += 1;
        self.recorded.insert(&transaction.id, self.next());
    }

    /// The next record rejects a transaction.
    pub(super) fn reject(&mut self, transaction: &'a Transaction) {
        self.recorded.insert(&transaction.id, self.next());
    }
}

// ===== impl Reference: holds =====

impl<'a> Reference<'a> {
    fn add_hold(&mut self, recorded: &'a Recorded, deadline: Option<Timestamp>, moved: &[Moved], block: u64) {
        let number = |id: &String| self.accounts().position(|account| account.new.id == *id);
        let index = |id: &String| {
            let number = number(id).and_then(|number| u32::try_from(number).ok());
            AccountIndex(number.unwrap_or(u32::MAX))
        };
        let Some(first) = moved.first() else {
            return;
        };
        let shown = Hold {
            place: recorded.position,
            newest: recorded.position,
            deadline,
            first: (index(&first.debit), index(&first.credit)),
            has_more: moved.len() > 1,
        };
        let hold = ReferenceHold {
            state: HoldState::Pending,
            deadline,
            legs: all_remaining(moved),
            ended_by: None,
            newest_block: block,
            history: vec![(self.next(), Some(shown))],
        };
        self.holds.insert(&recorded.transaction.id, hold);
        self.outstanding += 1;
    }

    fn judge_end(&self, transaction: &Transaction, id: &str, at: At) -> Result<Effects, Rejection> {
        let refused = |reason| Err(Rejection::new(reason, 0, Side::Debit));
        let Some(hold) = self.holds.get(id) else {
            return refused(Reason::PendingNotFound);
        };
        match hold.state {
            HoldState::Pending if hold.is_due(at.block_time) => return refused(Reason::PendingExpired),
            HoldState::Pending => {}
            HoldState::Posted => return refused(Reason::PendingAlreadyPosted),
            HoldState::Voided => return refused(Reason::PendingAlreadyVoided),
            HoldState::Expired => return refused(Reason::PendingExpired),
        }
        let sent = &transaction.legs;
        if !sent.is_empty() {
            same_accounts(sent, &hold.legs, Reason::PendingTransfersDiffer)?;
        }
        let (is_void, keeps) = match transaction.kind {
            Kind::Post { keep_remaining, .. } => (false, keep_remaining),
            Kind::Move | Kind::Hold { .. } | Kind::Void { .. } | Kind::Reverse { .. } => (true, false),
        };
        let mut moved = Vec::with_capacity(hold.legs.len());
        for (place, reserved) in (0..=u8::MAX).zip(&hold.legs) {
            let amount = match sent.get(usize::from(place)) {
                Some(sent) => sent.amount,
                None if is_void => 0,
                None => reserved.remaining,
            };
            let Some(rest) = reserved.remaining.checked_sub(amount) else {
                let available = Amount::new(reserved.remaining);
                let exceeded = Rejection::new(Reason::PendingAmountExceeded, place, Side::Debit);
                return Err(exceeded.with_available(available));
            };
            moved.push(Moved {
                amount,
                released: if keeps { 0 } else { rest },
                remaining: if keeps { rest } else { 0 },
                ..reserved.clone()
            });
        }
        for (place, moved) in (0..=u8::MAX).zip(&moved).filter(|(_, moved)| moved.amount > 0) {
            for (id, side) in [(&moved.debit, Side::Debit), (&moved.credit, Side::Credit)] {
                self.accepts_post(id)
                    .map_err(|reason| Rejection::new(reason, place, side))?;
            }
        }
        let columns = self.take_from_hold(&moved);
        Ok(Effects { moved, columns })
    }

    /// Whether a hold of the account can be posted.
    fn accepts_post(&self, id: &str) -> Result<(), Reason> {
        let version = self.account(id).and_then(|account| account.at(self.records()));
        match version.map(|version| version.terms.status) {
            Some(AccountStatus::Frozen) => Err(Reason::AccountFrozen),
            Some(AccountStatus::Closed) => Err(Reason::AccountClosed),
            Some(AccountStatus::Open | AccountStatus::DebitsFrozen) | None => Ok(()),
        }
    }

    /// The columns after the moved amounts are posted, and the released amounts are no longer pending.
    fn take_from_hold(&self, moved: &[Moved]) -> Changes {
        let mut changes = Changes::new();
        for moved in moved {
            for (id, side) in [(&moved.debit, Side::Debit), (&moved.credit, Side::Credit)] {
                let now = self.account(id).and_then(|account| account.at(self.records()));
                let Some(now) = now else {
                    continue;
                };
                let columns = changes.entry(id.clone()).or_insert(now.columns);
                let column = columns.side_mut(side);
                column.posted += moved.amount;
                column.pending -= moved.amount + moved.released;
            }
        }
        changes
    }

    /// The next record posts or releases a hold, completely or in part. When nothing remains, the hold gets the state `end`.
    fn change_hold(&mut self, id: &str, end: HoldState, moved: &[Moved], (position, block): (u64, u64)) {
        let next = self.next();
        let Some(hold) = self.holds.get_mut(id) else {
            return;
        };
        let shown = hold.history.last().and_then(|(_, shown)| *shown);
        hold.legs = moved.to_vec();
        hold.newest_block = block;
        let remains = moved.iter().any(|moved| moved.remaining > 0);
        if remains {
            let newest = |shown| Hold {
                newest: position,
                ..shown
            };
            hold.history.push((next, shown.map(newest)));
        } else {
            hold.state = end;
            hold.ended_by = Some(position);
            hold.history.push((next, None));
            self.outstanding -= 1;
        }
    }

    /// The next record says that a hold has expired. Returns the released amounts, or a description of what is wrong.
    pub(super) fn expire(&mut self, id: &str, position: u64, at: At) -> Result<Vec<Moved>, String> {
        let Some(hold) = self.holds.get(id) else {
            return Err("no hold has this id".to_owned());
        };
        if !hold.is_outstanding() {
            return Err(format!("the hold is {:?} already", hold.state));
        }
        if !hold.is_due(at.block_time) {
            return Err(match hold.deadline {
                Some(deadline) => format!(
                    "its deadline is {deadline}, but the block has the time {}",
                    at.block_time
                ),
                None => "it never expires".to_owned(),
            });
        }
        let released: Vec<Moved> = hold
            .legs
            .iter()
            .map(|leg| Moved {
                amount: 0,
                released: leg.remaining,
                remaining: 0,
                ..leg.clone()
            })
            .collect();
        self.set_columns(self.take_from_hold(&released));
        self.change_hold(id, HoldState::Expired, &released, (position, at.block));
        self.sequence += 1;
        Ok(released)
    }

    /// The outstanding holds after the records up to `after`, as a read shows them, in the order of their places.
    pub(super) fn holds_at(&self, after: u64) -> Vec<Hold> {
        let mut holds: Vec<Hold> = self.holds.values().filter_map(|hold| hold.at(after)).collect();
        holds.sort_unstable_by_key(|hold| hold.place);
        holds
    }

    /// The sum that outstanding holds reserve on one side of an account.
    pub(super) fn reserved(&self, id: &str, side: Side) -> u128 {
        let outstanding = self.holds.values().filter(|hold| hold.is_outstanding());
        let legs = outstanding.flat_map(|hold| &hold.legs);
        let of_account = legs.filter(|leg| match side {
            Side::Debit => leg.debit == id,
            Side::Credit => leg.credit == id,
        });
        of_account.map(|leg| leg.remaining).sum()
    }
}

impl ReferenceHold {
    pub(super) fn is_outstanding(&self) -> bool {
        self.state == HoldState::Pending
    }

    /// Whether the hold expires before the first transaction of a block with this time.
    pub(super) fn is_due(&self, block_time: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= block_time)
    }

    /// What a read shows after the records up to `after`.
    pub(super) fn at(&self, after: u64) -> Option<Hold> {
        let changes = self.history.partition_point(|(since, _)| *since <= after);
        self.history.get(changes.checked_sub(1)?)?.1
    }
}

// ===== impl Reference: reversals =====

impl<'a> Reference<'a> {
    fn can_be_reversed(&mut self, id: &'a str, moved: &[Moved]) {
        let reversible = Reversible {
            legs: all_remaining(moved),
            reversals: Vec::new(),
        };
        self.reversible.insert(id, reversible);
    }

    fn judge_reversal(&self, transaction: &Transaction, id: &str) -> Result<Effects, Rejection> {
        let refused = |reason| Err(Rejection::new(reason, 0, Side::Debit));
        if !self.recorded.contains_key(id) {
            return refused(Reason::ReversedNotFound);
        }
        let Some(target) = self.reversible.get(id) else {
            return refused(Reason::NotReversible);
        };
        if target.legs.iter().all(|leg| leg.remaining == 0) {
            return refused(Reason::AlreadyReversed);
        }
        let swapped: Vec<Moved> = target.legs.iter().map(swap).collect();
        let sent = &transaction.legs;
        if sent.is_empty() {
            let all: Vec<Leg> = swapped.iter().rev().map(rest_of).collect();
            return self.judge_legs(&all, false, self.records());
        }
        same_accounts(sent, &swapped, Reason::NotReversible)?;
        for (place, (sent, leg)) in (0..=u8::MAX).zip(sent.iter().zip(&swapped)) {
            if sent.amount > leg.remaining {
                let available = Amount::new(leg.remaining);
                let exceeded = Rejection::new(Reason::AlreadyReversed, place, Side::Debit);
                return Err(exceeded.with_available(available));
            }
        }
        let mut effects = self.judge_legs(sent, false, self.records())?;
        for (moved, leg) in effects.moved.iter_mut().zip(&swapped) {
            moved.remaining = leg.remaining - moved.amount;
        }
        Ok(effects)
    }

    fn reverse(&mut self, id: &str, transaction: &Transaction, moved: &[Moved], position: u64) {
        let Some(target) = self.reversible.get_mut(id) else {
            return;
        };
        let is_whole = transaction.legs.is_empty();
        for (place, leg) in target.legs.iter_mut().enumerate() {
            let rest = moved.get(place).map_or(0, |moved| moved.remaining);
            leg.remaining = if is_whole { 0 } else { rest };
        }
        target.reversals.push(position);
    }
}

/// Checks that the transfers have the same number as `legs`, and the same accounts in the same order.
fn same_accounts(sent: &[Leg], legs: &[Moved], reason: Reason) -> Result<(), Rejection> {
    if sent.len() != legs.len() {
        let place = u8::try_from(sent.len().min(legs.len())).unwrap_or(u8::MAX);
        return Err(Rejection::new(reason, place, Side::Debit));
    }
    for (place, (sent, leg)) in (0..=u8::MAX).zip(sent.iter().zip(legs)) {
        if sent.debit != leg.debit {
            return Err(Rejection::new(reason, place, Side::Debit));
        }
        if sent.credit != leg.credit {
            return Err(Rejection::new(reason, place, Side::Credit));
        }
    }
    Ok(())
}

fn swap(leg: &Moved) -> Moved {
    Moved {
        debit: leg.credit.clone(),
        credit: leg.debit.clone(),
        ..*leg
    }
}

/// A transfer of the whole remaining amount.
fn rest_of(leg: &Moved) -> Leg {
    Leg {
        debit: leg.debit.clone(),
        credit: leg.credit.clone(),
        amount: leg.remaining,
        code: 0,
        rule: AmountRule::Exact,
    }
}

/// Sets the remaining amounts to the moved amounts: a hold reserves all of them, or they can all be reversed.
fn all_remaining(moved: &[Moved]) -> Vec<Moved> {
    let all = moved.iter().map(|moved| Moved {
        amount: 0,
        released: 0,
        remaining: moved.amount,
        ..moved.clone()
    });
    all.collect()
}
