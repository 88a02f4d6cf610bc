//! Links the records of an account to its [chain](super::chain).

use std::collections::HashSet;

use super::{
    account::AccountIndex,
    chain::{Due, Link, LinkBuffer, Pointers, WAYPOINT_SPACING, WAYPOINTS_OF_RECORD_MAX},
    table::AccountTable,
};

// ===== impl AccountTable =====

impl AccountTable {
    /// Links the record at `place` to the previous records of these accounts, in the order in which they first occur. The accounts must
    /// have the balances that they have after the record. `count` is the number of accounts, with repetitions.
    ///
    /// # Panics
    /// If an account was changed by a later record.
    #[inline]
    pub(crate) fn link_all(
        &mut self,
        (accounts, count): (impl Iterator<Item = AccountIndex> + Clone, usize),
        place: u64,
        links: &mut LinkBuffer,
    ) {
        let due = if count > WAYPOINTS_OF_RECORD_MAX {
            self.due(accounts.clone())
        } else {
            Due::default()
        };
        links.begin(due);
        for index in accounts {
            self.link(index, place, links);
        }
    }

    /// Chooses which of the accounts of the next record get a waypoint.
    fn due(&self, accounts: impl Iterator<Item = AccountIndex>) -> Due {
        let (mut seen, mut due) = (HashSet::new(), Vec::new());
        for index in accounts {
            let since = self.found(index).since_waypoint.saturating_add(1);
            if since >= WAYPOINT_SPACING && seen.insert(index) {
                due.push(since);
            }
        }
        Due::most_overdue(due)
    }

    /// Links the record at `place` to the account's previous record, unless an earlier leg of the record did so. The account must have
    /// the balances that it has after the record.
    ///
    /// # Panics
    /// If the account was changed by a later record.
    #[inline]
    pub(crate) fn link(&mut self, index: AccountIndex, place: u64, links: &mut LinkBuffer) {
        let account = self.found_mut(index);
        if account.head == place {
            return;
        }
        let Some(distance) = place.checked_sub(account.head) else {
            panic!(
                "account number {} has already been changed by the record at place {}, but the new record is at place {place}",
                index.0, account.head
            );
        };
        account.head = place;
        account.since_waypoint = account.since_waypoint.saturating_add(1);
        if links.takes_waypoint(account.since_waypoint) {
            account.since_waypoint = 0;
            let balances = account.balances;
            let last_update = self.last_update(index);
            let waypoint = self.waypoints.next(index, place, balances, last_update);
            links.push_waypoint(distance, &waypoint);
        } else {
            links.push(distance);
        }
    }

    /// Applies the link of a record at `place` again. If the record is an update of the account, call this before the update. Returns `false`
    /// if the account's previous record is not where the link says.
    pub(crate) fn replay_link(&mut self, index: AccountIndex, place: u64, link: &Link) -> bool {
        let account = self.found_mut(index);
        if place.checked_sub(link.distance) != Some(account.head) {
            return false;
        }
        account.head = place;
        match &link.waypoint {
            None => account.since_waypoint = account.since_waypoint.saturating_add(1),
            Some(waypoint) => {
                account.since_waypoint = 0;
                let balances = account.balances;
                let last_update = self.last_update(index);
                return self.waypoints.next(index, place, balances, last_update) == *waypoint;
            }
        }
        true
    }

    /// The places of the account's newest waypoints, by height.
    #[must_use]
    pub fn waypoints(&self, index: AccountIndex) -> Pointers {
        self.waypoints.heads(index)
    }

    /// The place of the record of the account's last update, or `None` if the account was never updated.
    #[must_use]
    pub fn last_update(&self, index: AccountIndex) -> Option<u64> {
        Some(self.extras(index)?.updated.as_ref()?.place)
    }
}
