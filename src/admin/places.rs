//! Limits the number of connections of the operators' port: every open connection occupies a place.
//!
//! There are three tables of places. A new connection is in the first table until its first bytes arrive. Then a health probe gets a place in
//! the second table, and every other connection in the third. So other requests never take the place of a probe, however many they are, and
//! even if they come from the address of the probe.
//!
//! A new connection always gets a place, so that nobody can block health probes by holding connections open. If all places are
//! occupied, the oldest connection of the client with the most connections is closed. The gRPC server does the opposite: it rejects
//! the newest connection and keeps the open connections, which may have calls in flight. Therefore the two servers share only the
//! function [`client_of`](crate::security::client_of).

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::telemetry::{Families, MetricSource};

/// Maximum number of connections at the same time that have sent a request, without health probes. For a further connection, an older
/// connection is closed.
const CONNECTIONS_MAX: usize = 64;
/// Maximum number of such connections of one client. For a further connection, the client's oldest connection is closed.
const CONNECTIONS_OF_CLIENT_MAX: usize = 16;
/// The same maximum for health probes, in total and for one client. A probe has its place only for one request.
const PROBES_MAX: usize = 64;
const PROBES_OF_CLIENT_MAX: usize = 16;
/// The same maximum for connections that have not sent anything yet.
const ARRIVING_MAX: usize = 128;
const ARRIVING_OF_CLIENT_MAX: usize = 64;

/// The open connections of the operators' port. Clones share them.
#[derive(Debug, Clone)]
pub struct AdminConnections {
    pub(super) arriving: Places,
    pub(super) probes: Places,
    pub(super) others: Places,
}

/// The open connections. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    all_max: usize,
    of_client_max: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    admitted: u64,
    /// The connections by age, the oldest first. At most [`Places::all_max`] entries.
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    client: IpAddr,
    evicted: CancellationToken,
}

/// The place of one connection. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    number: u64,
    evicted: CancellationToken,
}

// ===== impl AdminConnections =====

impl Default for AdminConnections {
    fn default() -> Self {
        AdminConnections {
            arriving: Places::new(ARRIVING_MAX, ARRIVING_OF_CLIENT_MAX),
            probes: Places::new(PROBES_MAX, PROBES_OF_CLIENT_MAX),
            others: Places::new(CONNECTIONS_MAX, CONNECTIONS_OF_CLIENT_MAX),
        }
    }
}

impl AdminConnections {
    /// Returns the number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        let tables = [&self.arriving, &self.probes, &self.others];
        tables.map(|places| places.table.lock().open.len()).iter().sum()
    }

    /// Evicts one connection to free another resource, such as a file descriptor.
    pub(super) fn evict_one(&self) {
        // Health probes are short, so the end of a probe would free little.
        if !self.arriving.evict_one() {
            self.others.evict_one();
        }
    }
}

impl MetricSource for AdminConnections {
    fn collect(&self, families: &mut Families) {
        families.connections("admin", self.open(), CONNECTIONS_MAX + PROBES_MAX + ARRIVING_MAX);
    }
}

// ===== impl Places =====

impl Places {
    /// Creates places for at most `all_max` connections, and for at most `of_client_max` connections of one client.
    pub(super) fn new(all_max: usize, of_client_max: usize) -> Self {
        Places {
            all_max,
            of_client_max,
            table: Arc::default(),
        }
    }

    /// Gives a place to a new connection of `client`. This may evict another connection.
    pub(super) fn admit(&self, client: IpAddr) -> Place {
        let mut table = self.table.lock();
        let own = table.open.values().filter(|open| open.client == client).count();
        if own >= self.of_client_max {
            table.evict(client);
        } else if table.open.len() >= self.all_max {
            table.evict_from_largest();
        }
        let number = table.admitted;
        table.admitted += 1;
        let evicted = CancellationToken::new();
        let open = Open {
            client,
            evicted: evicted.clone(),
        };
        table.open.insert(number, open);
        Place {
            places: self.clone(),
            number,
            evicted,
        }
    }

    /// Evicts one connection. Returns `false` if there is none.
    fn evict_one(&self) -> bool {
        let mut table = self.table.lock();
        let is_empty = table.open.is_empty();
        table.evict_from_largest();
        !is_empty
    }
}

// ===== impl Table =====

impl Table {
    /// Evicts the oldest connection of the client with the most connections. If several clients have the same number, evicts the
    /// oldest connection of all of these.
    fn evict_from_largest(&mut self) {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for open in self.open.values() {
            *counts.entry(open.client).or_default() += 1;
        }
        let most = counts.values().max().copied().unwrap_or_default();
        let largest = self
            .open
            .values()
            .map(|open| open.client)
            .find(|client| counts.get(client) == Some(&most));
        if let Some(client) = largest {
            self.evict(client);
        }
    }

    /// Evicts the oldest connection of `client`.
    fn evict(&mut self, client: IpAddr) {
        let oldest = self.open.iter().find(|(_, open)| open.client == client);
        let oldest = oldest.map(|(number, _)| *number);
        if let Some(open) = oldest.and_then(|number| self.open.remove(&number)) {
            open.evicted.cancel();
        }
    }
}

// ===== impl Place =====

impl Place {
    /// Waits until the connection is evicted.
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

    fn client(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_newest_gets_a_place_and_the_oldest_of_the_largest_client_is_evicted() {
        let places = Places::new(4, 3);
        let probe = places.admit(client(1));
        let mut crowd: Vec<_> = (0..3).map(|_| places.admit(client(2))).collect();
        let evicted = |place: &Place| place.evicted.is_cancelled();
        // A connection above the limit of one client evicts the oldest connection of this client.
        crowd.push(places.admit(client(2)));
        assert_eq!(
            crowd.iter().map(evicted).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        // A connection above the limit of all clients evicts the oldest connection of the largest client. The connection of the
        // probe is older and stays.
        let third = places.admit(client(3));
        assert_eq!(
            crowd.iter().map(evicted).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert!(!evicted(&probe) && !evicted(&third));
        // The client with the crowd has two connections, the other clients have one each.
        assert!(places.evict_one());
        assert!(evicted(&crowd[2]) && !evicted(&crowd[3]) && !evicted(&probe));
        drop((probe, crowd, third));
        assert!(places.table.lock().open.is_empty());
        assert!(!places.evict_one());
    }

    #[test]
    fn of_clients_with_equally_many_the_oldest_connection_is_evicted() {
        let places = Places::new(2, 2);
        let (first, second) = (places.admit(client(1)), places.admit(client(2)));
        let third = places.admit(client(3));
        let evicted = [&first, &second, &third].map(|place| place.evicted.is_cancelled());
        assert_eq!(evicted, [true, false, false]);
        // Dropping a place after its eviction frees no other place.
        drop(first);
        assert_eq!(places.table.lock().open.len(), 2);
    }
}
