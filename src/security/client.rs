//! Decides which addresses count as one client. The limits for each client use this decision.

use std::net::{IpAddr, Ipv6Addr};

/// Mask of the network part of an IPv6 address: the upper 64 bits (RFC 4291, 2.5.1).
const NETWORK: u128 = !(u64::MAX as u128);

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
