//! Fair shares: while several clients wait, no client gets more than its share of a batch.
//!
//! Requests are taken in the order of their arrival. Once a client has used its share of a batch, all its other queued
//! requests are held back for the next batch, so that the client's requests stay in their order. Small batches avoid
//! the cost of counting: the items of each client are counted only when the batch is large enough for one client to
//! exceed its share.

use std::collections::HashMap;

use super::caller::UNKNOWN;

/// The number of items of each client in the batch that is being formed.
#[derive(Debug)]
pub(super) struct Shares {
    percent: usize,
    /// Maximum number of items of one client in this batch.
    items_max: usize,
    /// Number of items in this batch.
    taken: usize,
    /// Whether `clients` is kept up to date.
    counting: bool,
    /// The share of each client. Has at most one entry for each request that was considered for this batch.
    clients: HashMap<u64, Share>,
    seen: Seen,
}

#[derive(Debug, Clone, Copy, Default)]
struct Share {
    items: usize,
    /// Whether a request of this client was skipped. If so, all later requests of the client are skipped, too, so they
    /// stay in their order.
    held: bool,
}

/// The clients whose requests were considered for this batch.
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

    /// Starts a new batch of up to `items_max` items.
    #[inline]
    pub(super) fn begin(&mut self, items_max: usize) {
        // The division comes first, because `items_max` may be as large as `usize::MAX`.
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

    /// Whether a request of `items` items fits into its client's share. The first request of a client always fits, and
    /// so does a request of an unknown client. `batch` returns the client and the number of items of each request in
    /// the batch.
    #[inline]
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

    /// Adds a request to the batch.
    #[inline]
    pub(super) fn took(&mut self, client: u64, items: usize) {
        self.taken = self.taken.saturating_add(items);
        if self.counting {
            self.clients.entry(client).or_default().items += items;
        }
    }

    /// Whether requests of more than one client were considered.
    #[inline]
    pub(super) fn is_contended(&self) -> bool {
        self.seen == Seen::Several
    }

    /// The largest share of one known client in the batch, in percent; `None` if no items were counted by client.
    #[inline]
    pub(super) fn largest_percent(&self) -> Option<u64> {
        let known = self.clients.iter().filter(|(client, _)| **client != UNKNOWN);
        let largest = known.map(|(_, share)| share.items).max()?;
        (self.counting && self.taken > 0).then(|| (largest.saturating_mul(100) / self.taken) as u64)
    }
}
