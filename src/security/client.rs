//! The client to which an address belongs.

use std::net::{IpAddr, Ipv6Addr};

/// The network part of an IPv6 address: 64 bits (RFC 4291, 2.5.1).
const NETWORK: u128 = !(u64::MAX as u128);

/// Returns the client of an address, for all limits by client: the IPv4 address itself, or the network of an IPv6 address. A host
/// with one address of an IPv6 network can usually use all 2^64 of them.
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
        // The same address, mapped into IPv6.
        assert_eq!(client("192.0.2.1"), client("::ffff:192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }
}
