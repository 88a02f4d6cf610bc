//! Who is one client.

use std::net::{IpAddr, Ipv6Addr};

/// The network part of an IPv6 address: 64 bits (RFC 4291, 2.5.1).
const NETWORK: u128 = !(u64::MAX as u128);

/// The client behind an address, for all limits of one client: an address of IPv4, a network of IPv6. Whoever has one address of
/// such a network has all 2^64 of them.
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
    fn a_network_of_ipv6_is_one_client_and_an_address_of_ipv4_another() {
        let client = |address: &str| client_of(address.parse().unwrap());
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff:a:b:9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        // However the socket tells it.
        assert_eq!(client("192.0.2.1"), client("::ffff:192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }
}
