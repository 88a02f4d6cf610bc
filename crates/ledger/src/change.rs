//! What a leg of a record does to the balances of its accounts.

use super::{
    account::{Balances, Column},
    effects::Leg,
    money::Amount,
    side::Side,
    transaction::Phase,
};

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

// ===== impl Change =====

impl Change {
    const NONE: Change = Change {
        posted: Amount::ZERO,
        reserved: Amount::ZERO,
        unreserved: Amount::ZERO,
        released: Amount::ZERO,
    };

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
