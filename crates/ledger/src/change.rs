//! What a leg of a record does to the balances of its accounts.

use super::{
    account::{Balances, Column},
    codec::Malformed,
    effects::{Leg, Legs, legs},
    money::Amount,
    record::Record,
    side::Side,
    transaction::Phase,
};

/// What a record with a sequence does to accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    legs: Legs,
    /// The phase of the transaction; `None` for an expiry.
    phase: Option<Phase>,
}

/// What a leg does to the columns of one of its accounts, on the side of the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Added to the posted column.
    pub posted: Amount,
    /// Added to the pending column.
    pub reserved: Amount,
    /// Taken from the pending column, because it is posted.
    pub unreserved: Amount,
    /// Taken from the pending column, because it is released.
    pub released: Amount,
}

// ===== impl Changes =====

impl Changes {
    /// Decodes what `record` does. `None` if the record has no sequence.
    ///
    /// # Errors
    /// [`Malformed`] if the transfers or the effects can't be decoded, or do not belong together.
    pub fn of(record: &Record<'_>) -> Result<Option<Self>, Malformed> {
        let mut decoded = Legs::new();
        let phase = match record {
            Record::Committed { transaction, effects } => {
                legs(transaction, *effects, &mut decoded)?;
                Some(transaction.phase())
            }
            Record::HoldExpired { legs, .. } => {
                decoded.clone_from(legs);
                None
            }
            Record::Rejected { .. } | Record::AccountCreated { .. } | Record::AccountUpdated { .. } => {
                return Ok(None);
            }
        };
        Ok(Some(Changes { legs: decoded, phase }))
    }

    /// The legs of the record.
    #[must_use]
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// The legs of the record, and what each of them does.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Leg, Change)> {
        self.legs.iter().map(|leg| (leg, self.change(leg)))
    }

    const fn change(&self, leg: &Leg) -> Change {
        match self.phase {
            Some(phase) => Change::of_transaction(phase, leg),
            None => Change::of_expiry(leg),
        }
    }
}

// ===== impl Change =====

impl Change {
    const NONE: Change = Change {
        posted: Amount::ZERO,
        reserved: Amount::ZERO,
        unreserved: Amount::ZERO,
        released: Amount::ZERO,
    };

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Change::NONE
    }

    /// What a leg of a committed transaction of this phase does.
    #[must_use]
    pub const fn of_transaction(phase: Phase, leg: &Leg) -> Self {
        match phase {
            Phase::Posted => Change {
                posted: leg.moved,
                ..Change::NONE
            },
            Phase::Pending => Change {
                reserved: leg.moved,
                ..Change::NONE
            },
            Phase::PostPending | Phase::VoidPending => Change {
                posted: leg.moved,
                unreserved: leg.moved,
                released: leg.released,
                ..Change::NONE
            },
        }
    }

    /// What a leg of an expired hold does.
    #[must_use]
    pub const fn of_expiry(leg: &Leg) -> Self {
        Change {
            released: leg.released,
            ..Change::NONE
        }
    }

    /// The balances after the change. `None` if a column would leave its range.
    #[must_use]
    pub fn apply(&self, before: &Balances, side: Side) -> Option<Balances> {
        let mut balances = *before;
        let posted = balances.column_mut(side, Column::Posted);
        *posted = posted.checked_add(self.posted)?;
        let pending = balances.column_mut(side, Column::Pending);
        *pending = pending
            .checked_add(self.reserved)?
            .checked_sub(self.unreserved)?
            .checked_sub(self.released)?;
        Some(balances)
    }

    /// The balances before the change. `None` if a column would leave its range.
    #[must_use]
    pub fn undo(&self, after: &Balances, side: Side) -> Option<Balances> {
        let mut balances = *after;
        let posted = balances.column_mut(side, Column::Posted);
        *posted = posted.checked_sub(self.posted)?;
        let pending = balances.column_mut(side, Column::Pending);
        *pending = pending
            .checked_add(self.released)?
            .checked_add(self.unreserved)?
            .checked_sub(self.reserved)?;
        Some(balances)
    }
}
