//! Places for connections of operators. The newest connection always gets one, so that nobody can keep a probe out by
//! holding connections open: the oldest connection of the address that has the most of them goes.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The connections that are open.
#[derive(Debug, Clone)]
pub(super) struct Places {
    all_max: usize,
    of_peer_max: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    admitted: u64,
    /// The oldest first, at most [`Places::all_max`] of them.
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    peer: IpAddr,
    evicted: CancellationToken,
}

/// The place of one connection; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    number: u64,
    evicted: CancellationToken,
}

// ===== impl Places =====

impl Places {
    /// At most `all_max` connections, and `of_peer_max` of an address.
    pub(super) fn new(all_max: usize, of_peer_max: usize) -> Self {
        Places {
            all_max,
            of_peer_max,
            table: Arc::default(),
        }
    }

    /// A place for one more connection from `peer`. Another connection may have to go for it.
    pub(super) fn admit(&self, peer: IpAddr) -> Place {
        let mut table = self.table.lock();
        let own = table.open.values().filter(|open| open.peer == peer).count();
        if own >= self.of_peer_max {
            table.evict(peer);
        } else if table.open.len() >= self.all_max {
            table.evict_of_greediest();
        }
        let number = table.admitted;
        table.admitted += 1;
        let evicted = CancellationToken::new();
        let open = Open {
            peer,
            evicted: evicted.clone(),
        };
        table.open.insert(number, open);
        Place {
            places: self.clone(),
            number,
            evicted,
        }
    }

    /// Has a connection closed, for want of something else than places.
    pub(super) fn evict_one(&self) {
        self.table.lock().evict_of_greediest();
    }
}

// ===== impl Table =====

impl Table {
    /// Has the oldest connection of the address with the most of them closed.
    fn evict_of_greediest(&mut self) {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for open in self.open.values() {
            *counts.entry(open.peer).or_default() += 1;
        }
        let most = counts.values().max().copied().unwrap_or_default();
        // The oldest of all that are of such an address.
        let victim = self
            .open
            .values()
            .map(|open| open.peer)
            .find(|peer| counts.get(peer) == Some(&most));
        if let Some(peer) = victim {
            self.evict(peer);
        }
    }

    /// Has the oldest connection of `peer` closed.
    fn evict(&mut self, peer: IpAddr) {
        let oldest = self.open.iter().find(|(_, open)| open.peer == peer);
        let oldest = oldest.map(|(number, _)| *number);
        if let Some(open) = oldest.and_then(|number| self.open.remove(&number)) {
            open.evicted.cancel();
        }
    }
}

// ===== impl Place =====

impl Place {
    /// Waits until the place is needed for another connection.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_newest_gets_a_place_and_the_oldest_of_the_greediest_goes() {
        let places = Places::new(4, 3);
        let probe = places.admit(peer(1));
        let mut crowd: Vec<_> = (0..3).map(|_| places.admit(peer(2))).collect();
        let gone = |place: &Place| place.evicted.is_cancelled();
        // One too many of an address: its own oldest goes.
        crowd.push(places.admit(peer(2)));
        assert_eq!(
            crowd.iter().map(gone).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        // One too many of all, from a third address: the oldest connection is the probe's, which stays.
        let third = places.admit(peer(3));
        assert_eq!(
            crowd.iter().map(gone).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert!(!gone(&probe) && !gone(&third));
        // All are of one each but one.
        places.evict_one();
        assert!(gone(&crowd[2]) && !gone(&crowd[3]) && !gone(&probe));
        drop((probe, crowd, third));
        assert!(places.table.lock().open.is_empty());
    }

    #[test]
    fn of_addresses_that_have_as_many_the_oldest_connection_goes() {
        let places = Places::new(2, 2);
        let (first, second) = (places.admit(peer(1)), places.admit(peer(2)));
        let third = places.admit(peer(3));
        let gone = [&first, &second, &third].map(|place| place.evicted.is_cancelled());
        assert_eq!(gone, [true, false, false]);
        // Dropped late, an evicted place takes nobody else's.
        drop(first);
        assert_eq!(places.table.lock().open.len(), 2);
    }
}
