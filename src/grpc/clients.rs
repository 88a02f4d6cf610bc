//! How many connections each client has.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

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
    each: HashMap<IpAddr, usize>,
}

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
        let own = counts.each.get(&address).copied().unwrap_or_default();
        if own >= self.each_max || counts.all >= self.all_max {
            return None;
        }
        counts.all += 1;
        counts.each.insert(address, own + 1);
        Some(ClientPlace {
            clients: self.clone(),
            address,
        })
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut counts = self.clients.counts.lock();
        counts.all -= 1;
        if let Some(own) = counts.each.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                counts.each.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
