//! Links the records of an account to its [chain](super::chain).

use super::{
    account::AccountIndex,
    chain::{Link, LinkBuffer, Pointers, WAYPOINT_SPACING},
    table::AccountTable,
};

// ===== impl AccountTable =====

impl AccountTable {
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
        if account.since_waypoint < WAYPOINT_SPACING || !links.has_room() {
            links.push(distance);
        } else {
            account.since_waypoint = 0;
            let balances = account.balances;
            let waypoint = self.waypoints.next(index, place, balances);
            links.push_waypoint(distance, &waypoint);
        }
    }

    /// Applies the link of a record at `place` again. Returns `false` if the account's previous record is not where the link says.
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
                let is_same = account.balances == waypoint.balances;
                return is_same && self.waypoints.next(index, place, waypoint.balances) == *waypoint;
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
