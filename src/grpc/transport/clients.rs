//! Counts and limits what each client has open, such as connections or calls. A *place* is the right to have one
//! connection or one call open.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;

use crate::{
    security::client_of,
    telemetry::{Families, MetricSource},
};

/// A client: the callers whose places are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// All callers with this address, or from this network (see [`client_of`]).
    Address(IpAddr),
    /// All callers with a token of this name.
    Principal(Arc<str>),
}

/// Counts the places in use, in total and for each client. All clones share the same counts.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    each_max: usize,
    all_max: usize,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Calls of [`Clients::admit`] that found no free place.
    rejected: u64,
    /// The places of each client that has a place. So this map has at most `all` entries.
    each: HashMap<Client, usize>,
}

/// One place in use. Dropping this value frees the place.
#[derive(Debug)]
pub(crate) struct ClientPlace {
    clients: Clients,
    client: Client,
}

/// The metrics of the connections to the gRPC port. All values are 0 until the port is served. Clones share the values.
#[derive(Debug, Clone, Default)]
pub struct ConnectionMetrics(Arc<OnceLock<Clients>>);

// ===== impl Client =====

impl Client {
    /// Returns the client of a call. If the call has a token, the address does not matter: many tenants can use one proxy, and one tenant can
    /// have many addresses.
    pub(crate) fn of_call(address: IpAddr, principal: Option<Arc<str>>) -> Self {
        principal.map_or_else(|| address.into(), Client::Principal)
    }
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Client::Address(client_of(address))
    }
}

// ===== impl Clients =====

impl Clients {
    /// Allows at most `each_max` places for one client, and at most `all_max` places in total.
    pub(crate) fn new(each_max: usize, all_max: usize) -> Self {
        Clients {
            each_max,
            all_max,
            counts: Arc::default(),
        }
    }

    /// Takes a place for `client`, if one is free.
    pub(crate) fn admit(&self, client: impl Into<Client>) -> Option<ClientPlace> {
        let client = client.into();
        let mut counts = self.counts.lock();
        let own = counts.each.get(&client).copied().unwrap_or_default();
        if own >= self.each_max || counts.all >= self.all_max {
            counts.rejected += 1;
            return None;
        }
        counts.all += 1;
        counts.each.insert(client.clone(), own + 1);
        Some(ClientPlace {
            clients: self.clone(),
            client,
        })
    }
}

// ===== impl ConnectionMetrics =====

impl ConnectionMetrics {
    /// Shows the connections that `clients` counts. Call this method once; a second call has no effect.
    pub(crate) fn show(&self, clients: &Clients) {
        let _first = self.0.set(clients.clone());
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.get().map_or(0, |clients| clients.counts.lock().all)
    }

    /// Returns the largest allowed number of open connections.
    #[must_use]
    pub fn open_max(&self) -> usize {
        self.0.get().map_or(0, |clients| clients.all_max)
    }

    /// Returns the number of connections that were rejected because of a limit, since the process started.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.0.get().map_or(0, |clients| clients.counts.lock().rejected)
    }
}

impl MetricSource for ConnectionMetrics {
    fn collect(&self, families: &mut Families) {
        families.connections("grpc", self.open(), self.open_max());
        families.counter(
            "tally_connections_rejected_total",
            "Connections that the gRPC port rejected, because one client or all clients together had too many connections.",
            self.rejected() as f64,
        );
    }
}

// ===== impl ClientPlace =====

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut counts = self.clients.counts.lock();
        counts.all -= 1;
        if let Some(own) = counts.each.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                counts.each.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_client_and_an_ipv4_address_is_one_client() {
        let clients = Clients::new(2, 100);
        let admit = |address: &str| clients.admit(address.parse::<IpAddr>().unwrap());
        let _places = [admit("2001:db8:1:2::1"), admit("2001:db8:1:2:ffff::9")].map(Option::unwrap);
        assert!(
            admit("2001:db8:1:2:a:b:c:d").is_none(),
            "a third place of the same network"
        );
        let _other = admit("2001:db8:1:3::1").unwrap();
        // An IPv4 address, and the same address mapped into IPv6, are one client.
        let _both = [admit("192.0.2.1"), admit("::ffff:192.0.2.1")].map(Option::unwrap);
        assert!(admit("192.0.2.1").is_none());
        assert!(admit("192.0.2.2").is_some());
    }

    #[test]
    fn callers_with_tokens_count_by_the_name_of_the_token() {
        let clients = Clients::new(1, 100);
        let admit = |last: u8, name: Option<&str>| {
            let address = IpAddr::from([127, 0, 0, last]);
            clients.admit(Client::of_call(address, name.map(Arc::from)))
        };
        let _places = [admit(1, Some("a")), admit(1, Some("b")), admit(1, None)].map(Option::unwrap);
        assert!(
            admit(2, Some("a")).is_none(),
            "the same token from another address"
        );
        assert!(admit(1, None).is_none());
    }

    #[test]
    fn the_limits_hold_for_each_client_and_in_total_and_dropped_places_are_free() {
        let clients = Clients::new(2, 3);
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([127, 0, 0, last]));
        let places = [clients.admit(a).unwrap(), clients.admit(a).unwrap()];
        assert!(clients.admit(a).is_none(), "a third place of the same address");
        let last = clients.admit(b).unwrap();
        assert!(clients.admit(c).is_none(), "a fourth place in total");
        drop((places, last));
        let counts = clients.counts.lock();
        assert_eq!((counts.all, counts.each.len(), counts.rejected), (0, 0, 2));
    }
}
