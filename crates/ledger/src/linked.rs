//! Transactions that name another transaction: they post or void a hold, or reverse a transaction. Also the expiry of holds.

use smallvec::SmallVec;

use super::{
    account::{AccountIndex, Column},
    codec::Malformed,
    effects::{self, Leg, Legs},
    holds::Hold,
    keys::RecordKey,
    log::{Committed, TransactionLog, append},
    machine::{Ledger, Request},
    money::Amount,
    mutation::planted,
    record::{NewRecord, Record},
    reject::{Reason, Rejection},
    side::Side,
    transaction::{AmountRule, Names, Phase, Transfer},
    transfers::{self, index_of},
};

/// The outcome of a transaction: it was applied, or nothing has changed.
type Done = Result<Committed, Rejection>;

// ===== impl Ledger: holds =====

impl Ledger {
    /// Posts or voids the hold with this id.
    ///
    /// # Errors
    /// The error of the log, if a record can't be read. In this case, nothing has changed.
    pub(super) fn end_hold<L: TransactionLog>(
        &mut self,
        request: &Request<'_, '_>,
        id: &[u8],
        log: &mut L,
    ) -> Result<Done, L::Error> {
        let hold = match self.find_hold(id, log)? {
            Ok(hold) => hold,
            Err(reason) => return refused(reason),
        };
        let is_due = hold.deadline.is_some_and(|deadline| deadline <= log.block_time());
        if is_due && !planted("post_when_due") {
            self.expire(&hold, id, log);
            return refused(Reason::PendingExpired);
        }
        if let Err(rejection) = self.check_post(request) {
            return Ok(Err(rejection));
        }
        if let Err(rejection) = check_legs(request, self.legs.len()) {
            return Ok(Err(rejection));
        }
        Ok(Ok(self.apply_to_hold(request, &hold, id, log)))
    }

    /// Returns the outstanding hold with this id, and fills `legs` with what the hold reserves. If no outstanding hold has this id,
    /// returns the reason.
    ///
    /// # Errors
    /// The error of the log, if a record can't be read.
    fn find_hold<L: TransactionLog>(
        &mut self,
        id: &[u8],
        log: &mut L,
    ) -> Result<Result<Hold, Reason>, L::Error> {
        let hold = match log.find_record(RecordKey::Transaction(id))? {
            Some(found) if is_hold(&found.record) => {
                let hold = self.holds.get(found.place);
                if hold.is_some_and(|hold| hold.newest == hold.place) {
                    decode_reserved(&found.record, true, &mut self.legs);
                }
                hold
            }
            Some(_) | None => return Ok(Err(Reason::PendingNotFound)),
        };
        let Some(hold) = hold else {
            return Ok(Err(how_it_ended(id, log)?));
        };
        if hold.newest != hold.place {
            self.read_reserved(&hold, log)?;
        }
        Ok(Ok(hold))
    }

    /// Fills `legs` with what an outstanding hold reserves.
    ///
    /// # Errors
    /// The error of the log, if the record can't be read.
    fn read_reserved<L: TransactionLog>(&mut self, hold: &Hold, log: &mut L) -> Result<(), L::Error> {
        let newest = log.record_at(hold.newest)?;
        decode_reserved(&newest.record, hold.newest == hold.place, &mut self.legs);
        Ok(())
    }

    /// Finds out what each leg posts, releases and keeps. On entry, `legs` contain what the hold reserves.
    fn check_post(&mut self, request: &Request<'_, '_>) -> Result<(), Rejection> {
        let transaction = request.transaction;
        let is_void = transaction.phase() == Phase::VoidPending;
        let keeps = transaction.keep_remaining() && !planted("lose_remainder");
        let sent = &self.transfers;
        if !sent.is_empty() {
            check_same_accounts(sent, &self.legs)?;
        }
        for (place, leg) in self.legs.iter_mut().enumerate() {
            let reserved = leg.remaining;
            let posted = match sent.get(place) {
                Some(sent) => sent.amount,
                None => {
                    (leg.moved, leg.released) = if is_void {
                        (Amount::ZERO, reserved)
                    } else {
                        (reserved, Amount::ZERO)
                    };
                    leg.remaining = Amount::ZERO;
                    continue;
                }
            };
            let Some(rest) = reserved.checked_sub(posted) else {
                let rejection = Rejection::new(Reason::PendingAmountExceeded, index_of(place), Side::Debit);
                return Err(rejection.with_available(reserved));
            };
            (leg.moved, leg.released, leg.remaining) = if keeps {
                (posted, Amount::ZERO, rest)
            } else {
                (posted, rest, Amount::ZERO)
            };
        }
        for (place, leg) in self.legs.iter().enumerate() {
            if leg.moved.is_zero() {
                continue;
            }
            for (index, side) in [(leg.debit, Side::Debit), (leg.credit, Side::Credit)] {
                if let Err(reason) = self.accounts.found(index).accepts_posting() {
                    return Err(Rejection::new(reason, index_of(place), side));
                }
            }
        }
        Ok(())
    }

    /// Applies `legs` to the accounts and to the hold, and appends the record.
    fn apply_to_hold<L: TransactionLog>(
        &mut self,
        request: &Request<'_, '_>,
        hold: &Hold,
        id: &[u8],
        log: &mut L,
    ) -> Committed {
        let place = log.next_place();
        self.move_from_hold(place);
        let is_over = self.legs.iter().all(|leg| leg.remaining.is_zero());
        let other = is_over.then_some(RecordKey::HoldEnd(id));
        let committed = self.append_derived(request, hold.place, other, log);
        if is_over && !planted("post_twice") {
            self.holds.remove(hold.place);
        } else {
            self.holds.advance(hold.place, place);
        }
        committed
    }

    /// Moves what `legs` post from the pending to the posted columns, and takes what they release from the pending columns. `place`
    /// is the place of the record of this change.
    fn move_from_hold(&mut self, place: u64) {
        for leg in &self.legs {
            for (index, side) in [(leg.debit, Side::Debit), (leg.credit, Side::Credit)] {
                let account = self.accounts.found_mut(index);
                let posted = account.balances.column_mut(side, Column::Posted);
                let Some(sum) = posted.checked_add(leg.moved) else {
                    panic!(
                        "account number {} has {posted} posted, and {} of a hold do not fit",
                        index.0, leg.moved
                    );
                };
                *posted = sum;
                let pending = account.balances.column_mut(side, Column::Pending);
                let rest = pending.checked_sub(leg.moved);
                let Some(rest) = rest.and_then(|rest| rest.checked_sub(leg.released)) else {
                    panic!(
                        "account number {} has {pending} pending, less than the {} and {} of a hold",
                        index.0, leg.moved, leg.released
                    );
                };
                *pending = rest;
            }
        }
        let sides = self.legs.iter().flat_map(|leg| [leg.debit, leg.credit]);
        let count = 2 * self.legs.len();
        self.accounts.link_all((sides, count), place, &mut self.links);
    }

    /// Ends holds whose time has come by the time of the open block, the earliest deadline first; at most `limit`, and as long as
    /// `has_room` says that the log has room for a record. Returns how many it has ended.
    ///
    /// # Errors
    /// The error of the log, if the record of the next hold can't be read. In this case, the earlier holds have ended. The caller
    /// decides whether to try again or to [suspend its expiry](super::holds::HoldTable::suspend_expiry).
    pub fn expire_due<L: TransactionLog>(
        &mut self,
        limit: usize,
        log: &mut L,
        has_room: impl Fn(&L) -> bool,
    ) -> Result<usize, L::Error> {
        let mut expired = 0;
        while let Some(hold) = self.holds.next_to_expire() {
            let early = u64::from(planted("expire_early")) * 1_000_000_000;
            let is_due = hold
                .deadline
                .is_some_and(|deadline| deadline.as_nanos() <= log.block_time().as_nanos() + early);
            if !is_due || expired >= limit || !has_room(log) {
                break;
            }
            self.read_reserved(&hold, log)?;
            let found = log.record_at(hold.place)?;
            let Some((transaction, None)) = found.record.transaction() else {
                panic!("the record at place {} is not that of a hold", hold.place);
            };
            let id = SmallVec::<[u8; 64]>::from_slice(transaction.id_bytes());
            self.expire(&hold, &id, log);
            expired += 1;
        }
        Ok(expired)
    }

    /// Releases what a hold reserves, which is in `legs`.
    fn expire<L: TransactionLog>(&mut self, hold: &Hold, id: &[u8], log: &mut L) {
        for leg in &mut self.legs {
            *leg = Leg {
                released: leg.remaining,
                ..Leg::new(leg.debit, leg.credit)
            };
        }
        self.move_from_hold(log.next_place());
        let record = NewRecord::HoldExpired {
            hold_id: id,
            hold: hold.place,
            legs: &self.legs,
        };
        append(log, None, Some(RecordKey::HoldEnd(id)), record, &self.links);
        self.legs.clear();
        self.holds.remove(hold.place);
    }
}

/// Checks that the caller has memory for an answer with this many legs. If the transaction has transfers, the caller has already
/// counted them.
fn check_legs(request: &Request<'_, '_>, legs: usize) -> Result<(), Rejection> {
    if request.transaction.transfer_count() == 0 && legs > request.legs_max {
        return Err(Rejection::memory_limit(legs));
    }
    Ok(())
}

/// The rejection of a transaction because of the transaction that it names, and not because of one of its transfers.
const fn refused<E>(reason: Reason) -> Result<Done, E> {
    Ok(Err(Rejection::new(reason, 0, Side::Debit)))
}

/// Whether the record is that of a committed hold.
fn is_hold(record: &Record<'_>) -> bool {
    matches!(record.transaction(), Some((transaction, None)) if transaction.phase() == Phase::Pending)
}

/// Returns the reason that says how a hold ended that is no longer outstanding.
fn how_it_ended<L: TransactionLog>(id: &[u8], log: &mut L) -> Result<Reason, L::Error> {
    let Some(end) = log.find_record(RecordKey::HoldEnd(id))? else {
        panic!(
            "hold {:?} is not outstanding, but no record has ended it",
            String::from_utf8_lossy(id)
        );
    };
    let phase = end
        .record
        .transaction()
        .map(|(transaction, _)| transaction.phase());
    Ok(match phase {
        None => Reason::PendingExpired,
        Some(Phase::VoidPending) => Reason::PendingAlreadyVoided,
        Some(Phase::Posted | Phase::Pending | Phase::PostPending) => Reason::PendingAlreadyPosted,
    })
}

/// Checks that transfers have the accounts of the legs of a hold.
fn check_same_accounts(sent: &[Transfer<AccountIndex>], legs: &[Leg]) -> Result<(), Rejection> {
    let differs = |place, side| Err(Rejection::new(Reason::PendingTransfersDiffer, place, side));
    if sent.len() != legs.len() {
        let place = sent.len().min(legs.len()).min(usize::from(u8::MAX));
        return differs(index_of(place), Side::Debit);
    }
    for (place, (sent, leg)) in sent.iter().zip(legs).enumerate() {
        if sent.debit != leg.debit {
            return differs(index_of(place), Side::Debit);
        }
        if sent.credit != leg.credit {
            return differs(index_of(place), Side::Credit);
        }
    }
    Ok(())
}

/// Decodes what an outstanding hold still reserves, into [`Leg::remaining`]. `record` is the newest record of the hold; `is_own` is
/// true if `record` is the record that made the hold.
fn decode_reserved(record: &Record<'_>, is_own: bool, legs: &mut Legs) {
    decode_legs(record, legs);
    if is_own {
        for leg in legs {
            leg.remaining = leg.moved;
        }
    }
}

/// Decodes the legs of a committed transaction.
///
/// # Panics
/// If the record is not that of a committed transaction, or its legs can't be decoded, although its checksum is right.
fn decode_legs(record: &Record<'_>, legs: &mut Legs) {
    let decoded = match record {
        Record::Committed { transaction, effects } => effects::legs(transaction, *effects, legs),
        Record::HoldExpired { .. }
        | Record::Rejected { .. }
        | Record::AccountCreated { .. }
        | Record::AccountUpdated { .. } => Err(Malformed {
            what: "a committed transaction",
        }),
    };
    if let Err(error) = decoded {
        panic!("a record was not encoded correctly: {error}");
    }
}

// ===== impl Ledger: reversals =====

impl Ledger {
    /// Reverses the transaction with this id, or parts of it.
    ///
    /// # Errors
    /// The error of the log, if a record can't be read. In this case, nothing has changed.
    pub(super) fn reverse<L: TransactionLog>(
        &mut self,
        request: &Request<'_, '_>,
        id: &[u8],
        log: &mut L,
    ) -> Result<Done, L::Error> {
        let mut target = Legs::new();
        match log.find_record(RecordKey::Transaction(id))? {
            None => return refused(Reason::ReversedNotFound),
            Some(found) if !is_reversible(&found.record) => return refused(Reason::NotReversible),
            Some(found) => decode_legs(&found.record, &mut target),
        }
        let count = reversals(id, log)?;
        set_reversible(&mut target, id, count, log)?;
        if target.iter().all(|leg| leg.remaining.is_zero()) {
            return refused(Reason::AlreadyReversed);
        }
        if let Err(rejection) = self.check_reversal(&mut target) {
            return Ok(Err(rejection));
        }
        if let Err(rejection) = check_legs(request, target.len()) {
            return Ok(Err(rejection));
        }
        let applied = transfers::apply(&mut self.accounts, &mut self.transfers, Column::Posted, None);
        Ok(applied.map(|()| {
            self.link_transfers(log.next_place());
            self.legs = self.transfers.iter().map(Leg::of_transfer).collect();
            if request.transaction.transfer_count() > 0 {
                for (leg, target) in self.legs.iter_mut().zip(&target) {
                    leg.remaining = target.remaining;
                }
            }
            let number = count + 1;
            let other = (!planted("reverse_twice")).then_some(RecordKey::Reversal(id, number));
            self.append_derived(request, number, other, log)
        }))
    }

    /// Fills `transfers` with the amounts that the reversal moves, and sets the amount of each leg of the target that is left to
    /// reverse.
    fn check_reversal(&mut self, target: &mut Legs) -> Result<(), Rejection> {
        let refused = |reason, place, side| Rejection::new(reason, place, side);
        let sent = &mut self.transfers;
        if sent.is_empty() {
            sent.extend(target.iter().rev().map(|leg| swapped(leg, leg.remaining)));
            return Ok(());
        }
        if sent.len() != target.len() {
            let place = index_of(sent.len().min(target.len()).min(usize::from(u8::MAX)));
            return Err(refused(Reason::NotReversible, place, Side::Debit));
        }
        for (place, (sent, leg)) in (0_u8..=u8::MAX).zip(sent.iter().zip(target.iter())) {
            if sent.debit != leg.credit {
                return Err(refused(Reason::NotReversible, place, Side::Debit));
            }
            if sent.credit != leg.debit {
                return Err(refused(Reason::NotReversible, place, Side::Credit));
            }
        }
        for (place, (sent, leg)) in (0_u8..=u8::MAX).zip(sent.iter().zip(target.iter_mut())) {
            let Some(rest) = leg.remaining.checked_sub(sent.amount) else {
                return Err(
                    refused(Reason::AlreadyReversed, place, Side::Debit).with_available(leg.remaining)
                );
            };
            leg.remaining = rest;
        }
        Ok(())
    }
}

/// Whether the record is that of a committed transaction that can be reversed.
fn is_reversible(record: &Record<'_>) -> bool {
    match record.transaction() {
        Some((transaction, None)) => match transaction.phase() {
            Phase::Posted => transaction.names() == Names::Nothing,
            Phase::PostPending => true,
            Phase::Pending | Phase::VoidPending => false,
        },
        Some((_, Some(_))) | None => false,
    }
}

/// Returns how often a transaction was reversed. The reversals are numbered from 1 without gaps. So the number is found with a
/// logarithmic number of lookups.
fn reversals<L: TransactionLog>(id: &[u8], log: &mut L) -> Result<u64, L::Error> {
    let mut exists = |number| Ok(log.find_record(RecordKey::Reversal(id, number))?.is_some());
    let (mut count, mut step) = (0, 1);
    while exists(count + step)? {
        count += step;
        step *= 2;
    }
    while step > 1 {
        step /= 2;
        if exists(count + step)? {
            count += step;
        }
    }
    Ok(count)
}

/// Sets the amount of each leg that is left to reverse after the first `count` reversals.
fn set_reversible<L: TransactionLog>(
    target: &mut Legs,
    id: &[u8],
    count: u64,
    log: &mut L,
) -> Result<(), L::Error> {
    for leg in target.iter_mut() {
        leg.released = Amount::ZERO;
        leg.remaining = leg.moved;
    }
    if count == 0 {
        return Ok(());
    }
    let Some(newest) = log.find_record(RecordKey::Reversal(id, count))? else {
        panic!("a reversal was found before, but is no longer in the log");
    };
    let is_partial = newest
        .record
        .transaction()
        .is_some_and(|(transaction, _)| transaction.transfer_count() > 0);
    let mut reversed = Legs::new();
    decode_legs(&newest.record, &mut reversed);
    assert_eq!(
        reversed.len(),
        target.len(),
        "a reversal must have as many legs as its target"
    );
    for (leg, reversed) in target.iter_mut().zip(&reversed) {
        // A reversal without transfers has reversed all that was left.
        leg.remaining = if is_partial {
            reversed.remaining
        } else {
            Amount::ZERO
        };
    }
    Ok(())
}

const fn swapped(leg: &Leg, amount: Amount) -> Transfer<AccountIndex> {
    Transfer {
        debit: leg.credit,
        credit: leg.debit,
        amount,
        code: 0,
        rule: AmountRule::Exact,
    }
}
