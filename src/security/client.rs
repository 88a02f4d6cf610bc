//! Decides which calls come from one client. The limits for each client use this decision.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// Mask of the network part of an IPv6 address: the upper 64 bits (RFC 4291, 2.5.1).
const NETWORK: u128 = !(u64::MAX as u128);

/// Whose calls are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Client {
    /// All callers with this address, or from this network (see [`client_of`]).
    Address(IpAddr),
    /// All callers with a token of this name.
    Principal(Arc<str>),
    /// All callers of the operators' port. They need not wait for the calls of the gRPC port from the same address.
    Operators,
}

// ===== impl Client =====

impl Client {
    /// Returns the client of a call. With a token, the address does not matter: many tenants can come through one proxy, and one tenant can
    /// have many addresses.
    #[must_use]
    pub fn of_call(address: IpAddr, principal: Option<Arc<str>>) -> Self {
        principal.map_or_else(|| address.into(), Client::Principal)
    }
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Client::Address(client_of(address))
    }
}

/// Returns the client to which an address belongs. All limits by client use this value. The client is the IPv4 address
/// itself, or the 64-bit network of an IPv6 address: a host in an IPv6 network can usually use all 2^64 addresses of
/// this network.
#[must_use]
pub fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & NETWORK).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_client_and_each_ipv4_address_is_one_client() {
        let client = |address: &str| client_of(address.parse().unwrap());
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff:a:b:9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        // The second address is the first address, written as an IPv6 address.
        assert_eq!(client("192.0.2.1"), client("::ffff:192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }
}
