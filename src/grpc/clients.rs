//! How many connections each client has, and how many bytes of requests that have not arrived to their ends.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::MESSAGE_BYTES_MAX;

/// Counts the connections, all of them and those of each address.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    each_max: usize,
    all_max: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// As many entries as there are addresses with connections, and of those there are at most `all`.
    each: HashMap<IpAddr, Client>,
    /// Of all clients.
    unfinished: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Client {
    connections: usize,
    unfinished: Arc<AtomicUsize>,
}

/// Counts the bytes of requests that have not arrived to their ends: of one client, and of all.
#[derive(Debug, Clone)]
pub(super) struct Unfinished {
    own: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

/// Bytes that unfinished requests of one client hold at most: four of the longest messages, or hundreds of usual ones.
pub(super) const UNFINISHED_OWN_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;
/// Bytes that unfinished requests of all clients hold at most.
pub(super) const UNFINISHED_ALL_BYTES_MAX: usize = 4 * UNFINISHED_OWN_BYTES_MAX;

/// A place for one connection; given back when it is dropped.
#[derive(Debug)]
pub(super) struct ClientPlace {
    clients: Clients,
    address: IpAddr,
}

// ===== impl Clients =====

impl Clients {
    /// At most `each_max` connections of an address, and `all_max` in all.
    pub(super) fn new(each_max: usize, all_max: usize) -> Self {
        Clients {
            each_max,
            all_max,
            counts: Arc::default(),
        }
    }

    /// A place for one more connection from `address`, if there is one.
    pub(super) fn admit(&self, address: IpAddr) -> Option<ClientPlace> {
        let mut counts = self.counts.lock();
        let own = counts.each.get(&address).map_or(0, |client| client.connections);
        if own >= self.each_max || counts.all >= self.all_max {
            return None;
        }
        counts.all += 1;
        counts.each.entry(address).or_default().connections += 1;
        Some(ClientPlace {
            clients: self.clone(),
            address,
        })
    }
}

// ===== impl ClientPlace =====

impl ClientPlace {
    /// The count of its client's unfinished requests.
    pub(super) fn unfinished(&self) -> Unfinished {
        let mut counts = self.clients.counts.lock();
        let all = Arc::clone(&counts.unfinished);
        let client = counts.each.entry(self.address).or_default();
        Unfinished {
            own: Arc::clone(&client.unfinished),
            all,
        }
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut counts = self.clients.counts.lock();
        counts.all -= 1;
        if let Some(client) = counts.each.get_mut(&self.address) {
            client.connections -= 1;
            if client.connections == 0 {
                counts.each.remove(&self.address);
            }
        }
    }
}

// ===== impl Unfinished =====

impl Unfinished {
    /// Counts `bytes` more, unless that were too many.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        let within = |count: &AtomicUsize, max| {
            let before = count.fetch_add(bytes, Ordering::Relaxed);
            before.saturating_add(bytes) <= max
        };
        let held = within(&self.own, UNFINISHED_OWN_BYTES_MAX) & within(&self.all, UNFINISHED_ALL_BYTES_MAX);
        if !held {
            self.release(bytes);
        }
        held
    }

    /// Counts `bytes` less, which were held.
    pub(super) fn release(&self, bytes: usize) {
        self.own.fetch_sub(bytes, Ordering::Relaxed);
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_requests_have_a_bound_for_each_client_and_one_for_all() {
        let clients = Clients::new(2, 100);
        let address = |last| IpAddr::from([127, 0, 0, last]);
        let places: Vec<_> = (0..6).map(|last| clients.admit(address(last)).unwrap()).collect();
        let second = clients.admit(address(0)).unwrap().unfinished();
        let counts: Vec<_> = places.iter().map(ClientPlace::unfinished).collect();
        assert!(counts[0].hold(UNFINISHED_OWN_BYTES_MAX - 1));
        // Another connection of the same client.
        assert!(!second.hold(2));
        assert!(second.hold(1));
        // Another client, until all are too many.
        for count in &counts[1..4] {
            assert!(count.hold(UNFINISHED_OWN_BYTES_MAX));
        }
        assert!(!counts[4].hold(1));
        second.release(1);
        assert!(counts[4].hold(1));
        assert!(!counts[5].hold(1));
    }

    #[test]
    fn each_address_has_its_own_places_and_gives_them_back() {
        let clients = Clients::new(2, 3);
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([127, 0, 0, last]));
        let places = [clients.admit(a).unwrap(), clients.admit(a).unwrap()];
        assert!(clients.admit(a).is_none(), "two of an address");
        let last = clients.admit(b).unwrap();
        assert!(clients.admit(c).is_none(), "three in all");
        drop((places, last));
        let counts = clients.counts.lock();
        assert_eq!((counts.all, counts.each.len()), (0, 0));
    }
}
