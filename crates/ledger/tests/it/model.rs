//! A second, simple implementation of the ledger's rules, written for reading. The model keeps everything in maps by
//! name, computes everything anew for each transaction, and works on a copy where a rejection must change nothing.

use std::collections::BTreeMap;

use tally_ledger::{
    velocity::{Exceeded, Maximum, SLICES},
    *,
};

use super::content::{Content, Other};

/// The sums of one account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) posted: Sides,
    pub(super) pending: Sides,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sides {
    pub(super) debits: u128,
    pub(super) credits: u128,
}

/// What a transaction did with the accounts of one transfer. See [`Leg`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelLeg {
    pub(super) debit: String,
    pub(super) credit: String,
    pub(super) moved: u128,
    pub(super) released: u128,
    pub(super) remaining: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldState {
    Pending,
    Posted,
    Voided,
    Expired,
}

#[derive(Debug, Clone)]
pub(super) struct ModelHold {
    pub(super) state: HoldState,
    pub(super) sequence: u64,
    pub(super) deadline: Option<Timestamp>,
    /// The `remaining` of each leg is what the hold still reserves.
    pub(super) legs: Vec<ModelLeg>,
}

/// A transfer that a velocity limit counts.
#[derive(Debug, Clone, Copy)]
struct Counted {
    time: u64,
    amount: u128,
}

#[derive(Debug, Clone)]
struct Recorded {
    content: Content,
    outcome: Result<Committed, Rejection>,
    legs: Vec<ModelLeg>,
}

/// The sequence and the time that a transaction gets, and the time of its block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) next: Committed,
    pub(super) block_time: Timestamp,
}

/// A second, simple implementation of the ledger's rules.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// The accounts as they are now.
    pub(super) accounts: BTreeMap<String, NewAccount>,
    /// The accounts as they were created.
    created: BTreeMap<String, NewAccount>,
    /// The number of the record of the last update of an account that was updated.
    pub(super) revisions: BTreeMap<String, u64>,
    pub(super) columns: BTreeMap<String, Columns>,
    /// What the velocity limits of an account have counted, for each limit.
    counted: BTreeMap<String, Vec<Vec<Counted>>>,
    recorded: BTreeMap<String, Recorded>,
    pub(super) holds: BTreeMap<String, ModelHold>,
    /// The legs of each transaction that can be reversed. The `remaining` of each leg is what is left to reverse.
    pub(super) reversible: BTreeMap<String, Vec<ModelLeg>>,
    holds_max: usize,
    /// The number of records with a sequence.
    pub(super) sequence: u64,
}

// ===== transactions =====

impl Model {
    pub(super) fn new(holds_max: usize) -> Self {
        Model {
            holds_max,
            ..Model::default()
        }
    }

    /// Processes a transaction. Returns the outcome, and the legs if the transaction was committed.
    pub(super) fn process(&mut self, content: &Content, now: Now) -> (Outcome, Vec<ModelLeg>) {
        if let Some(recorded) = self.recorded.get(&content.id) {
            if let Some(field) = content.first_difference(&recorded.content) {
                return (Outcome::Reused { field }, Vec::new());
            }
            return (outcome(recorded.outcome, true), recorded.legs.clone());
        }
        if let Err(rejection) = self.find_accounts(&content.transfers) {
            return (outcome(Err(rejection), false), Vec::new());
        }
        let done = match &content.other {
            Other::Nothing => self.move_or_reserve(content, now),
            Other::Hold(id) => self.end_hold(content, id, now.block_time),
            Other::Reversed(id) => self.reverse(content, id),
        };
        let (legs, result) = match done {
            Ok(legs) => {
                self.sequence += 1;
                assert_eq!(now.next.sequence, self.sequence);
                (legs, Ok(now.next))
            }
            Err(rejection) => (Vec::new(), Err(rejection)),
        };
        let is_recorded = match result {
            Ok(_) => true,
            Err(rejection) => is_recorded(rejection.reason),
        };
        if is_recorded {
            let recorded = Recorded {
                content: content.clone(),
                outcome: result,
                legs: legs.clone(),
            };
            self.recorded.insert(content.id.clone(), recorded);
        }
        (outcome(result, false), legs)
    }

    fn find_accounts(&self, transfers: &[Transfer<String>]) -> Result<(), Rejection> {
        for (place, transfer) in (0..=u8::MAX).zip(transfers) {
            for (name, side) in [(&transfer.debit, Side::Debit), (&transfer.credit, Side::Credit)] {
                if !self.accounts.contains_key(name) {
                    return Err(Rejection::new(Reason::AccountNotFound, place, side));
                }
            }
        }
        Ok(())
    }

    fn move_or_reserve(&mut self, content: &Content, now: Now) -> Result<Vec<ModelLeg>, Rejection> {
        let is_hold = content.phase == Phase::Pending;
        if is_hold && self.outstanding().count() >= self.holds_max {
            return Err(Rejection::new(Reason::HoldsFull, 0, Side::Debit));
        }
        let legs = self.move_all(&content.transfers, is_hold, Some(now.next.time))?;
        if is_hold {
            let timeout = content.pending_timeout;
            let hold = ModelHold {
                state: HoldState::Pending,
                sequence: now.next.sequence,
                deadline: timeout.and_then(|nanos| now.next.time.checked_add_nanos(nanos)),
                legs: all_remaining(&legs),
            };
            self.holds.insert(content.id.clone(), hold);
        } else {
            self.reversible.insert(content.id.clone(), all_remaining(&legs));
        }
        Ok(legs)
    }

    /// Applies all transfers, or changes nothing.
    fn move_all(
        &mut self,
        transfers: &[Transfer<String>],
        is_pending: bool,
        velocity_time: Option<Timestamp>,
    ) -> Result<Vec<ModelLeg>, Rejection> {
        let before = self.columns.clone();
        let mut legs = Vec::new();
        for (place, transfer) in (0..=u8::MAX).zip(transfers) {
            match self.move_one(transfer, place, is_pending) {
                Ok(moved) => legs.push(ModelLeg {
                    debit: transfer.debit.clone(),
                    credit: transfer.credit.clone(),
                    moved,
                    released: 0,
                    remaining: 0,
                }),
                Err(rejection) => {
                    self.columns = before;
                    return Err(rejection);
                }
            }
        }
        if let Some(time) = velocity_time
            && let Err(rejection) = self.count_all(&legs, time.as_nanos())
        {
            self.columns = before;
            return Err(rejection);
        }
        Ok(legs)
    }

    /// Applies one transfer. Returns the amount that was moved.
    fn move_one(
        &mut self,
        transfer: &Transfer<String>,
        place: u8,
        is_pending: bool,
    ) -> Result<u128, Rejection> {
        let refused = |reason, side| Err(Rejection::new(reason, place, side));
        let (debit, credit) = (&transfer.debit, &transfer.credit);
        let mut amount = transfer.amount.minor_units();
        if amount == 0 {
            return Ok(0);
        }
        if debit == credit {
            return refused(Reason::SameAccount, Side::Credit);
        }
        if self.accounts[debit].asset != self.accounts[credit].asset {
            return refused(Reason::AssetMismatch, Side::Credit);
        }
        match self.accounts[debit].status {
            AccountStatus::Open => {}
            AccountStatus::Frozen | AccountStatus::DebitsFrozen => {
                return refused(Reason::AccountFrozen, Side::Debit);
            }
            AccountStatus::Closed => return refused(Reason::AccountClosed, Side::Debit),
        }
        match self.accounts[credit].status {
            AccountStatus::Open | AccountStatus::DebitsFrozen => {}
            AccountStatus::Frozen => return refused(Reason::AccountFrozen, Side::Credit),
            AccountStatus::Closed => return refused(Reason::AccountClosed, Side::Credit),
        }
        let (of_debit, of_credit) = match transfer.rule {
            AmountRule::Exact => (false, false),
            AmountRule::UpToDebitAvailable => (true, false),
            AmountRule::UpToCreditAvailable => (false, true),
            AmountRule::UpToBothAvailable => (true, true),
        };
        for (is_bound, name, side) in [(of_debit, debit, Side::Debit), (of_credit, credit, Side::Credit)] {
            if is_bound && let Some(available) = self.available(name, side) {
                amount = amount.min(available);
                if amount == 0 {
                    return refused(Reason::NothingAvailable, side);
                }
            }
        }
        for (name, side) in [(debit, Side::Debit), (credit, Side::Credit)] {
            let available = self.available(name, side);
            let columns = self.columns.get_mut(name).unwrap();
            if columns.total(side).checked_add(amount).is_none() {
                return refused(Reason::BalanceOverflow, side);
            }
            if let Some(available) = available.filter(|available| *available < amount) {
                let rejection = Rejection::new(Reason::InsufficientFunds, place, side);
                return Err(rejection.with_available(Amount::new(available)));
            }
            let kind = if is_pending {
                &mut columns.pending
            } else {
                &mut columns.posted
            };
            *kind.side_mut(side) += amount;
        }
        Ok(amount)
    }

    /// What the balance rule still allows on one side of an account; `None` if it does not bound this side. It is never
    /// more than what the columns can hold.
    pub(super) fn available(&self, name: &str, side: Side) -> Option<u128> {
        let account = &self.accounts[name];
        match (account.rule, side) {
            (BalanceRule::CreditBalance, Side::Debit) | (BalanceRule::DebitBalance, Side::Credit) => {}
            _ => return None,
        }
        let limit = account.overdraft_limit.minor_units();
        let columns = self.columns[name];
        let (own, other) = (columns.total(side), columns.posted.side(side.other()));
        let allowed = if own >= other {
            limit.saturating_sub(own - other)
        } else {
            limit.saturating_add(other - own)
        };
        Some(allowed.min(u128::MAX - own))
    }
}

// ===== holds =====

impl Model {
    /// The holds that still reserve something.
    pub(super) fn outstanding(&self) -> impl Iterator<Item = (&String, &ModelHold)> {
        let all = self.holds.iter();
        all.filter(|(_, hold)| hold.state == HoldState::Pending)
    }

    /// Ends the holds whose time has come, the earliest first, at most `limit`. Returns how many.
    pub(super) fn expire_due(&mut self, block_time: Timestamp, limit: usize) -> usize {
        let is_due = |hold: &ModelHold| hold.deadline.is_some_and(|deadline| deadline <= block_time);
        let due = self.outstanding().filter(|(_, hold)| is_due(hold));
        let mut due: Vec<_> = due
            .map(|(id, hold)| (hold.deadline, hold.sequence, id.clone()))
            .collect();
        due.sort();
        due.truncate(limit);
        for (_, _, id) in &due {
            self.expire(id);
        }
        due.len()
    }

    fn expire(&mut self, id: &str) {
        self.sequence += 1;
        let hold = self.holds.get_mut(id).unwrap();
        hold.state = HoldState::Expired;
        for leg in hold.legs.clone() {
            self.move_from_hold(&leg.debit, Side::Debit, 0, leg.remaining);
            self.move_from_hold(&leg.credit, Side::Credit, 0, leg.remaining);
        }
    }

    fn move_from_hold(&mut self, name: &str, side: Side, posted: u128, released: u128) {
        let columns = self.columns.get_mut(name).unwrap();
        *columns.posted.side_mut(side) += posted;
        *columns.pending.side_mut(side) -= posted + released;
    }

    fn end_hold(
        &mut self,
        content: &Content,
        id: &str,
        block_time: Timestamp,
    ) -> Result<Vec<ModelLeg>, Rejection> {
        let refused = |reason| Err(Rejection::new(reason, 0, Side::Debit));
        let Some(hold) = self.holds.get(id).cloned() else {
            return refused(Reason::PendingNotFound);
        };
        match hold.state {
            HoldState::Pending => {}
            HoldState::Posted => return refused(Reason::PendingAlreadyPosted),
            HoldState::Voided => return refused(Reason::PendingAlreadyVoided),
            HoldState::Expired => return refused(Reason::PendingExpired),
        }
        if hold.deadline.is_some_and(|deadline| deadline <= block_time) {
            self.expire(id);
            return refused(Reason::PendingExpired);
        }
        let legs = self.legs_of_post(content, &hold)?;
        for leg in &legs {
            self.move_from_hold(&leg.debit, Side::Debit, leg.moved, leg.released);
            self.move_from_hold(&leg.credit, Side::Credit, leg.moved, leg.released);
        }
        let hold = self.holds.get_mut(id).unwrap();
        hold.legs.clone_from(&legs);
        if content.phase == Phase::VoidPending {
            hold.state = HoldState::Voided;
        } else {
            if legs.iter().all(|leg| leg.remaining == 0) {
                hold.state = HoldState::Posted;
            }
            self.reversible.insert(content.id.clone(), all_remaining(&legs));
        }
        Ok(legs)
    }

    /// What a transaction posts, releases and keeps of a hold.
    fn legs_of_post(&self, content: &Content, hold: &ModelHold) -> Result<Vec<ModelLeg>, Rejection> {
        let sent = &content.transfers;
        if !sent.is_empty() {
            check_accounts(sent, &hold.legs, Reason::PendingTransfersDiffer)?;
        }
        let mut legs = Vec::new();
        for (place, reserved) in (0..=u8::MAX).zip(&hold.legs) {
            let reserved_amount = reserved.remaining;
            let moved = if content.phase == Phase::VoidPending {
                0
            } else if sent.is_empty() {
                reserved_amount
            } else {
                sent[usize::from(place)].amount.minor_units()
            };
            if moved > reserved_amount {
                let rejection = Rejection::new(Reason::PendingAmountExceeded, place, Side::Debit);
                return Err(rejection.with_available(Amount::new(reserved_amount)));
            }
            let rest = reserved_amount - moved;
            let (released, remaining) = if content.keep_remaining {
                (0, rest)
            } else {
                (rest, 0)
            };
            legs.push(ModelLeg {
                moved,
                released,
                remaining,
                ..reserved.clone()
            });
        }
        for (place, leg) in (0..=u8::MAX).zip(&legs).filter(|(_, leg)| leg.moved > 0) {
            for (name, side) in [(&leg.debit, Side::Debit), (&leg.credit, Side::Credit)] {
                match self.accounts[name].status {
                    AccountStatus::Open | AccountStatus::DebitsFrozen => {}
                    AccountStatus::Frozen => return Err(Rejection::new(Reason::AccountFrozen, place, side)),
                    AccountStatus::Closed => return Err(Rejection::new(Reason::AccountClosed, place, side)),
                }
            }
        }
        Ok(legs)
    }
}

/// Checks that transfers have the accounts of `legs`, in the same order.
fn check_accounts(sent: &[Transfer<String>], legs: &[ModelLeg], reason: Reason) -> Result<(), Rejection> {
    if sent.len() != legs.len() {
        let place = sent.len().min(legs.len()).min(255);
        return Err(Rejection::new(reason, u8::try_from(place).unwrap(), Side::Debit));
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

// ===== reversals =====

impl Model {
    fn reverse(&mut self, content: &Content, id: &str) -> Result<Vec<ModelLeg>, Rejection> {
        let refused = |reason| Err(Rejection::new(reason, 0, Side::Debit));
        if !self.recorded.contains_key(id) {
            return refused(Reason::ReversedNotFound);
        }
        let Some(target) = self.reversible.get(id) else {
            return refused(Reason::NotReversible);
        };
        if target.iter().all(|leg| leg.remaining == 0) {
            return refused(Reason::AlreadyReversed);
        }
        let mut swapped: Vec<ModelLeg> = target.iter().map(swap).collect();
        let sent = &content.transfers;
        if sent.is_empty() {
            swapped.reverse();
            let all: Vec<_> = swapped.iter().map(all_of).collect();
            let legs = self.move_all(&all, false, None)?;
            for leg in self.reversible.get_mut(id).unwrap() {
                leg.remaining = 0;
            }
            return Ok(legs);
        }
        check_accounts(sent, &swapped, Reason::NotReversible)?;
        for (place, (transfer, leg)) in (0..=u8::MAX).zip(sent.iter().zip(&swapped)) {
            if transfer.amount.minor_units() > leg.remaining {
                let rejection = Rejection::new(Reason::AlreadyReversed, place, Side::Debit);
                return Err(rejection.with_available(Amount::new(leg.remaining)));
            }
        }
        let mut legs = self.move_all(sent, false, None)?;
        let target = self.reversible.get_mut(id).unwrap();
        for (leg, target) in legs.iter_mut().zip(target) {
            target.remaining -= leg.moved;
            leg.remaining = target.remaining;
        }
        Ok(legs)
    }
}

fn swap(leg: &ModelLeg) -> ModelLeg {
    ModelLeg {
        debit: leg.credit.clone(),
        credit: leg.debit.clone(),
        ..*leg
    }
}

fn all_of(leg: &ModelLeg) -> Transfer<String> {
    super::content::transfer(&leg.debit, &leg.credit, leg.remaining)
}

/// Returns the legs with `remaining` set to the whole moved amount: nothing was posted, released or reversed yet.
fn all_remaining(legs: &[ModelLeg]) -> Vec<ModelLeg> {
    let all = legs.iter().map(|leg| ModelLeg {
        remaining: leg.moved,
        released: 0,
        ..leg.clone()
    });
    all.collect()
}

// ===== velocity limits =====

impl Model {
    /// Counts the transfers against the velocity limits, or changes nothing.
    fn count_all(&mut self, legs: &[ModelLeg], time: u64) -> Result<(), Rejection> {
        let names = legs.iter().flat_map(|leg| [&leg.debit, &leg.credit]);
        if names
            .into_iter()
            .all(|name| self.accounts[name].velocity_limits.is_empty())
        {
            return Ok(());
        }
        let before = self.counted.clone();
        for (place, leg) in (0..=u8::MAX).zip(legs) {
            for (name, side) in [(&leg.debit, Side::Debit), (&leg.credit, Side::Credit)] {
                if let Err(exceeded) = self.check_velocity(name, side, leg.moved, time) {
                    self.counted = before;
                    return Err(Rejection::velocity(place, side, &exceeded));
                }
                let limits = &self.accounts[name].velocity_limits;
                for (limit, counted) in limits.iter().zip(self.counted.get_mut(name).unwrap()) {
                    if limit.side == side && has_window(limit) {
                        // Without a maximum amount, the amount does not count.
                        let amount = limit.max_amount.map_or(0, |_| leg.moved);
                        counted.push(Counted { time, amount });
                    }
                }
            }
        }
        Ok(())
    }

    fn check_velocity(&self, name: &str, side: Side, amount: u128, time: u64) -> Result<(), Exceeded> {
        let limits = &self.accounts[name].velocity_limits;
        for (number, (limit, counted)) in (0..).zip(limits.iter().zip(&self.counted[name])) {
            if limit.side != side {
                continue;
            }
            let exceeded = |maximum, used, room_at| Exceeded {
                limit: number,
                maximum,
                used,
                room_at,
            };
            if limit
                .single_amount_max
                .is_some_and(|max| amount > max.minor_units())
            {
                return Err(exceeded(Maximum::Single, 0, None));
            }
            if !has_window(limit) {
                continue;
            }
            let used_at = |time: u64| used(limit, counted, time);
            let has_room = |(count, sum)| count_fits(limit, count) && amount_fits(limit, sum, amount);
            let (count, sum) = used_at(time);
            if has_room((count, sum)) {
                continue;
            }
            // The limit gets room only when a slice with transfers leaves the window.
            let slice = limit.window_nanos.div_ceil(SLICES - 1);
            let ends = counted
                .iter()
                .map(|counted| (counted.time / slice + SLICES) * slice);
            let room_at = ends.filter(|end| *end > time).find(|end| has_room(used_at(*end)));
            let room_at = room_at.map(Timestamp::from_nanos);
            return Err(if count_fits(limit, count) {
                exceeded(Maximum::Amount, sum, room_at)
            } else {
                exceeded(Maximum::Count, u128::from(count), room_at)
            });
        }
        Ok(())
    }
}

/// Whether the limit has a window. A limit of single amounts needs none.
const fn has_window(limit: &VelocityLimit) -> bool {
    limit.max_count > 0 || limit.max_amount.is_some()
}

/// The number and the amount of the transfers in the window at `time`.
fn used(limit: &VelocityLimit, counted: &[Counted], time: u64) -> (u64, u128) {
    let slice = limit.window_nanos.div_ceil(SLICES - 1);
    let in_window = counted
        .iter()
        .filter(|counted| counted.time / slice + SLICES > time / slice);
    in_window.fold((0, 0), |(count, sum), counted| (count + 1, sum + counted.amount))
}

const fn count_fits(limit: &VelocityLimit, count: u64) -> bool {
    limit.max_count == 0 || count < limit.max_count
}

fn amount_fits(limit: &VelocityLimit, sum: u128, amount: u128) -> bool {
    limit.max_amount.is_none_or(|max| {
        let sum = sum.checked_add(amount);
        sum.is_some_and(|sum| sum <= max.minor_units())
    })
}

// ===== accounts =====

impl Model {
    /// The account as it was created.
    pub(super) fn created(&self, id: &str) -> Option<&NewAccount> {
        self.created.get(id)
    }

    /// Creates all accounts. If one exists with different content, creates none and returns its index.
    pub(super) fn create(&mut self, new: &[NewAccount]) -> Result<(), usize> {
        let mut missing: BTreeMap<&String, &NewAccount> = BTreeMap::new();
        let mut in_order = Vec::new();
        for (place, account) in new.iter().enumerate() {
            let existing = self
                .created
                .get(&account.id)
                .or(missing.get(&account.id).copied());
            match existing {
                Some(existing) if existing != account => return Err(place),
                Some(_) => {}
                None => {
                    missing.insert(&account.id, account);
                    in_order.push(account);
                }
            }
        }
        for account in in_order {
            let id = || account.id.clone();
            self.created.insert(id(), account.clone());
            self.accounts.insert(id(), account.clone());
            self.columns.insert(id(), Columns::default());
            self.counted
                .insert(id(), vec![Vec::new(); account.velocity_limits.len()]);
        }
        Ok(())
    }

    /// The number of the record of the last update of an account; 0 if it was never updated.
    pub(super) fn revision(&self, id: &str) -> u64 {
        self.revisions.get(id).copied().unwrap_or(0)
    }

    /// Updates an account. A record of it gets the number `entry`. The index in the outcome is always 0.
    pub(super) fn update(&mut self, update: &AccountUpdate, entry: u64) -> UpdateOutcome {
        let updated = UpdateOutcome::Updated(AccountIndex(0));
        let Some(before) = self.accounts.get(&update.id).cloned() else {
            return UpdateOutcome::NotFound;
        };
        if update
            .expected_revision
            .is_some_and(|expected| expected != self.revision(&update.id))
        {
            return UpdateOutcome::ChangedSince;
        }
        let mut after = before.clone();
        let AccountUpdate {
            status,
            overdraft_limit,
            metadata,
            velocity_limits,
            ..
        } = update.clone();
        if let Some(status) = status {
            after.status = status;
        }
        if let Some(overdraft_limit) = overdraft_limit {
            after.overdraft_limit = overdraft_limit;
        }
        if let Some(velocity_limits) = velocity_limits {
            after.velocity_limits = velocity_limits;
        }
        if before.status == AccountStatus::Closed && after != before {
            return UpdateOutcome::Closed;
        }
        if let Some(metadata) = metadata {
            after.metadata = metadata;
        }
        if after.rule == BalanceRule::Unlimited && !after.overdraft_limit.is_zero() {
            return UpdateOutcome::Unlimited;
        }
        let columns = self.columns[&update.id];
        let is_empty = columns.posted.debits == columns.posted.credits && columns.pending == Sides::default();
        if after.status == AccountStatus::Closed && before.status != AccountStatus::Closed && !is_empty {
            return UpdateOutcome::NotEmpty;
        }
        if after != before {
            self.revisions.insert(update.id.clone(), entry);
            self.keep_counted(&before, &after);
            self.accounts.insert(update.id.clone(), after);
        }
        updated
    }

    /// A limit with the same side and window as before keeps what it has counted.
    fn keep_counted(&mut self, before: &NewAccount, after: &NewAccount) {
        let counted = self.counted.remove(&before.id).unwrap();
        let mut old: Vec<_> = before.velocity_limits.iter().zip(counted).collect();
        let mut kept = Vec::new();
        for limit in &after.velocity_limits {
            let same = |old: &(&VelocityLimit, Vec<Counted>)| {
                old.0.side == limit.side && old.0.window_nanos == limit.window_nanos
            };
            let place = old.iter().position(same);
            kept.push(place.map_or_else(Vec::new, |place| old.remove(place).1));
        }
        self.counted.insert(before.id.clone(), kept);
    }
}

// ===== impl Columns, Sides =====

impl Columns {
    /// Posted and pending, which never exceed 2^128 - 1 together.
    pub(super) fn total(&self, side: Side) -> u128 {
        let sum = self.posted.side(side).checked_add(self.pending.side(side));
        sum.expect("the total of a side does not overflow")
    }

    pub(super) fn balances(&self) -> Balances {
        Balances {
            debits_pending: Amount::new(self.pending.debits),
            debits_posted: Amount::new(self.posted.debits),
            credits_pending: Amount::new(self.pending.credits),
            credits_posted: Amount::new(self.posted.credits),
        }
    }
}

impl Sides {
    const fn side(&self, side: Side) -> u128 {
        match side {
            Side::Debit => self.debits,
            Side::Credit => self.credits,
        }
    }

    const fn side_mut(&mut self, side: Side) -> &mut u128 {
        match side {
            Side::Debit => &mut self.debits,
            Side::Credit => &mut self.credits,
        }
    }
}

const fn outcome(result: Result<Committed, Rejection>, replayed: bool) -> Outcome {
    match result {
        Ok(committed) => Outcome::Committed { committed, replayed },
        Err(rejection) => Outcome::Rejected { rejection, replayed },
    }
}

/// Whether a rejection is recorded, so that every retry gets the same rejection.
pub(super) const fn is_recorded(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::AccountNotFound
            | Reason::SameAccount
            | Reason::AssetMismatch
            | Reason::HoldsFull
            | Reason::MemoryLimit
    )
}
