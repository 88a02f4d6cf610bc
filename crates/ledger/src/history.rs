//! Walks through the [chain](super::chain) of an account, from its newest record back.
//!
//! The walk itself reads nothing: its caller reads the record at the place that the walk names, and passes it in. The caller begins with
//! the [`History`] of the account.

use smallvec::SmallVec;

use super::{
    account::{AccountIndex, Balances},
    chain::{Link, linked_accounts},
    change::{Change, Changes},
    codec::Malformed,
    machine::Ledger,
    record::{FramedRecord, Record},
    side::Side,
};

/// Where the chain of an account begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The account.
    pub account: AccountIndex,
    /// The newest record of the account, and the balances after it.
    pub newest: Step,
    /// The place of the record of the account's last update, if it was ever updated.
    pub last_update: Option<u64>,
    /// The places of the account's newest waypoints, by height. No place is greater than the place before it in this list.
    waypoints: SmallVec<[u64; 4]>,
}

/// A record of an account's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The place of the record.
    pub place: u64,
    /// The balances of the account after the record. `None` if the walk has jumped to the record. In this case, the record is a
    /// waypoint, which states the balances.
    pub balances: Option<Balances>,
}

/// A record of an account's chain, which the caller has read.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The place of the record.
    pub place: u64,
    /// The balances of the account after the record.
    pub balances: Balances,
    /// The parts of the record that change the account, in order. A leg that changes nothing has no row.
    pub rows: Rows,
    /// The account's previous record. `None` if this record created the account.
    previous: Option<Step>,
    link: Option<Link>,
    is_update: bool,
}

/// What a record says about the account's last update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastUpdate {
    /// The last update is the record at this place.
    At(u64),
    /// Neither this record nor an earlier one updated the account.
    Never,
    /// This record does not say. The caller must look at the account's previous record.
    AskPrevious,
}

/// One side of a leg that changes an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The index of the leg in its record.
    pub leg: usize,
    /// The side of the account.
    pub side: Side,
    /// The account on the other side.
    pub counterparty: AccountIndex,
    /// What the leg does to the columns of this side.
    pub change: Change,
    /// The balances of the account after this row.
    pub balances: Balances,
}

/// The rows of a record.
pub type Rows = SmallVec<[Row; 1]>;

const NOT_LINKED: Malformed = Malformed {
    what: "a record of the account's history",
};

// ===== impl Ledger =====

impl Ledger {
    /// Returns where the chain of an account begins, or `None` if no account has this number.
    #[must_use]
    pub fn history(&self, account: AccountIndex) -> Option<History> {
        let accounts = self.accounts();
        let found = accounts.get(account)?;
        Some(History {
            account,
            newest: Step {
                place: found.head,
                balances: Some(found.balances),
            },
            last_update: accounts.last_update(account),
            waypoints: accounts.waypoints(account),
        })
    }
}

// ===== impl History =====

impl History {
    /// Returns the record from which a search for the newest record before `bound` begins. `bound` is a place. If the returned record is
    /// before `bound`, it is the result of the search.
    #[must_use]
    pub fn search(&self, bound: u64) -> Step {
        // The last waypoint in the list that is not before the bound is the nearest to the bound.
        let waypoint = self.waypoints.iter().rfind(|place| **place >= bound);
        match waypoint {
            Some(place) if self.newest.place >= bound => Step {
                place: *place,
                balances: None,
            },
            Some(_) | None => self.newest,
        }
    }

    /// Decodes a record of the chain, which the caller has read at the place that `step` names.
    ///
    /// # Errors
    /// [`Malformed`] if the record is not part of the account's chain, or contradicts the balances.
    pub fn entry(&self, step: Step, framed: &FramedRecord<'_>) -> Result<Entry, Malformed> {
        match &framed.record {
            Record::AccountCreated { index, .. } if *index == self.account => Ok(Entry {
                place: step.place,
                balances: Balances::default(),
                rows: Rows::new(),
                previous: None,
                link: None,
                is_update: false,
            }),
            Record::AccountUpdated { index, .. } => {
                let link = self.link(&[*index], framed)?;
                let mut entry = self.with_link(step, Rows::new(), link)?;
                entry.is_update = true;
                Ok(entry)
            }
            Record::Committed { .. }
            | Record::HoldExpired { .. }
            | Record::AccountCreated { .. }
            | Record::Rejected { .. } => {
                let changes = Changes::of(&framed.record)?.ok_or(NOT_LINKED)?;
                let link = self.link(&linked_accounts(changes.legs()), framed)?;
                self.with_link(step, self.rows(&changes), link)
            }
        }
    }

    fn link(&self, accounts: &[AccountIndex], framed: &FramedRecord<'_>) -> Result<Link, Malformed> {
        let mut links = accounts.iter().zip(framed.links.iter());
        let found = links.find(|(account, _)| **account == self.account);
        found.ok_or(NOT_LINKED)?.1
    }

    /// The rows of a record, whose balances are not known yet.
    fn rows(&self, changes: &Changes) -> Rows {
        let mut rows = Rows::new();
        let changes = changes.iter().enumerate();
        for (number, (leg, change)) in changes.filter(|(_, (_, change))| !change.is_nothing()) {
            let sides = [
                (leg.debit, Side::Debit, leg.credit),
                (leg.credit, Side::Credit, leg.debit),
            ];
            for (account, side, counterparty) in sides {
                if account == self.account {
                    rows.push(Row {
                        leg: number,
                        side,
                        counterparty,
                        change,
                        balances: Balances::default(),
                    });
                }
            }
        }
        rows
    }

    fn with_link(&self, step: Step, mut rows: Rows, link: Link) -> Result<Entry, Malformed> {
        let stated = link.waypoint.as_ref().map(|waypoint| waypoint.balances);
        let balances = step.balances.or(stated).ok_or(NOT_LINKED)?;
        if stated.is_some_and(|stated| stated != balances) {
            return Err(Malformed {
                what: "the balances that follow from later records",
            });
        }
        let mut before = balances;
        for row in rows.iter_mut().rev() {
            row.balances = before;
            before = row.change.undo(&before, row.side).ok_or(Malformed {
                what: "amounts that the account had",
            })?;
        }
        let previous = step
            .place
            .checked_sub(link.distance)
            .filter(|place| *place < step.place);
        Ok(Entry {
            place: step.place,
            balances,
            rows,
            previous: Some(Step {
                place: previous.ok_or(NOT_LINKED)?,
                balances: Some(before),
            }),
            link: Some(link),
            is_update: false,
        })
    }
}

// ===== impl Entry =====

impl Entry {
    /// The account's previous record. `None` if this record created the account.
    #[must_use]
    pub const fn previous(&self) -> Option<Step> {
        self.previous
    }

    /// Where the account was last updated, up to this record. Only the records of updates, waypoints and the account's creation contain
    /// this place. So a walk back finds the place after about [`WAYPOINT_SPACING`](super::chain::WAYPOINT_SPACING) records, however many
    /// updates the account has.
    #[must_use]
    pub fn last_update(&self) -> LastUpdate {
        if self.is_update {
            return LastUpdate::At(self.place);
        }
        let Some(link) = &self.link else {
            return LastUpdate::Never;
        };
        match link.waypoint.as_ref().map(|waypoint| waypoint.update) {
            None => LastUpdate::AskPrevious,
            Some(0) => LastUpdate::Never,
            // A damaged distance may lead to a place before the journal. No update is there, so the caller finds the damage.
            Some(distance) => LastUpdate::At(self.place.saturating_sub(distance)),
        }
    }

    /// Whether the record is a waypoint.
    #[must_use]
    pub fn is_waypoint(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.waypoint.is_some())
    }

    /// The next record of a search for the newest record before `bound`. The search jumps as far as possible, but not past the oldest
    /// record that is not before `bound`. `None` if this record created the account.
    #[must_use]
    pub fn towards(&self, bound: u64) -> Option<Step> {
        let waypoint = self.link.as_ref().and_then(|link| link.waypoint.as_ref());
        let pointers = waypoint.map_or(&[][..], |waypoint| &waypoint.pointers);
        let places = pointers
            .iter()
            .filter(|distance| **distance > 0)
            .filter_map(|distance| self.place.checked_sub(*distance))
            .rev();
        let mut within = places.filter(|place| *place >= bound);
        // The last pointer leads back farthest.
        match within.next() {
            Some(place) => Some(Step {
                place,
                balances: None,
            }),
            None => self.previous,
        }
    }
}
