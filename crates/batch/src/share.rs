//! Fair shares: no client has more than its part of a batch while others wait.
//!
//! Requests are taken in the order in which they came. Once a client has had its part of a batch, what it has queued
//! beyond that is held back for the next one, all of it, so that a client's own requests stay in their order. A client
//! whose parts are small pays nothing for this: nothing is counted until a batch is large enough for one to exceed it.

use std::collections::HashMap;

use super::caller::UNKNOWN;

/// Who has had how much of a batch.
#[derive(Debug)]
pub(super) struct Shares {
    percent: usize,
    /// Most items of one client in this batch.
    items_max: usize,
    /// Items in this batch.
    taken: usize,
    /// Whether `clients` is kept.
    counting: bool,
    /// Items by client, for as long as a client may have more. At most one entry for each request of a batch.
    clients: HashMap<u64, Share>,
    seen: Seen,
}

#[derive(Debug, Clone, Copy, Default)]
struct Share {
    items: usize,
    /// One of its requests has been passed over: all behind it are, so that they stay in their order.
    held: bool,
}

/// Whose requests have been looked at for this batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nobody,
    Only(u64),
    Several,
}

// ===== impl Shares =====

impl Shares {
    pub(super) fn new(percent: u8) -> Self {
        Shares {
            percent: usize::from(percent),
            items_max: 0,
            taken: 0,
            counting: false,
            clients: HashMap::new(),
            seen: Seen::Nobody,
        }
    }

    /// A new batch of at most about `items_max` items.
    pub(super) fn begin(&mut self, items_max: usize) {
        // Divided first: `items_max` may be as large as it gets.
        self.items_max = if self.percent >= 100 {
            usize::MAX
        } else {
            (items_max / 100 * self.percent + items_max % 100 * self.percent / 100).max(1)
        };
        self.taken = 0;
        self.counting = false;
        self.clients.clear();
        self.seen = Seen::Nobody;
    }

    /// Whether a request of so many items fits into its client's share; a client's first always does. `batch` are the
    /// clients and items of the batch so far.
    pub(super) fn admits(
        &mut self,
        client: u64,
        items: usize,
        batch: impl Iterator<Item = (u64, usize)>,
    ) -> bool {
        self.seen = match self.seen {
            Seen::Nobody => Seen::Only(client),
            Seen::Only(only) if only == client => self.seen,
            Seen::Only(_) | Seen::Several => Seen::Several,
        };
        let all_fits = !self.counting && self.taken.saturating_add(items) <= self.items_max;
        if all_fits || client == UNKNOWN {
            return true;
        }
        if !self.counting {
            self.counting = true;
            for (client, items) in batch {
                self.clients.entry(client).or_default().items += items;
            }
        }
        let share = self.clients.entry(client).or_default();
        share.held |= share.items > 0 && share.items.saturating_add(items) > self.items_max;
        !share.held
    }

    /// A request was taken.
    pub(super) fn took(&mut self, client: u64, items: usize) {
        self.taken = self.taken.saturating_add(items);
        if self.counting {
            self.clients.entry(client).or_default().items += items;
        }
    }

    /// Whether more than one client has been seen.
    pub(super) fn is_contended(&self) -> bool {
        self.seen == Seen::Several
    }

    /// The largest part of the batch that one known client has had, in percent; `None` if nothing was counted.
    pub(super) fn largest_percent(&self) -> Option<u64> {
        let known = self.clients.iter().filter(|(client, _)| **client != UNKNOWN);
        let largest = known.map(|(_, share)| share.items).max()?;
        (self.counting && self.taken > 0).then(|| (largest.saturating_mul(100) / self.taken) as u64)
    }
}
