//! Which addresses may be called. Pure.
//!
//! Whoever may write an `EventConsumer` chooses the URL, and the request comes from inside the cluster: without this, any
//! address that a pod can reach could be probed and posted to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// How far a request may reach without leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// The public internet alone: for a URL.
    Public,
    /// A Service of the cluster, whose address is private by nature. What belongs to the node and its network stays refused.
    Service,
}

/// Decides which addresses may be called.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) reach: Reach,
    /// Ranges that are allowed whatever they are.
    pub(crate) allowed: Vec<IpNet>,
}

/// Where clouds tell a machine its secrets, apart from what is link-local: AWS and Google by IPv6, Alibaba, Azure.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

impl Guard {
    /// Whether this address may be called.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let address = unwrapped(address);
        let by_nature = match self.reach {
            Reach::Public => is_public(address),
            Reach::Service => is_unicast_beyond_the_node(address),
        };
        (by_nature && !METADATA.contains(&address)) || self.allowed.iter().any(|range| range.contains(&address))
    }
}

/// The IPv4 address that an IPv6 address stands for, where it does: mapped, compatible, NAT64, 6to4.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        // Compatible and mapped; 6to4; NAT64.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x2002, high, low, ..] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            v4(high, low)
        }
        _ => address,
    }
}

/// Whether it is reachable for all, by the registries of special-purpose addresses. What is not assigned yet is not.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !is_of_a_network(v4) && !is_reserved(v4),
        IpAddr::V6(v6) => match v6.segments() {
            // Protocols (Teredo, ORCHID, benchmarks), and documentation.
            [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
            [first, ..] => first & 0xe000 == 0x2000,
        },
    }
}

/// This host, loopback, link-local (with the metadata of most clouds), private use, and what carriers share (100.64.0.0/10).
fn is_of_a_network(address: Ipv4Addr) -> bool {
    matches!(
        address.octets(),
        [0 | 10 | 127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..]
    )
}

/// Protocols, documentation, the relay of 6to4, benchmarks, multicast, reserved, broadcast.
fn is_reserved(address: Ipv4Addr) -> bool {
    matches!(
        address.octets(),
        [192, 0, 0 | 2, _]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [192, 88, 99, _]
            | [198, 18 | 19, ..]
            | [224..=255, ..]
    )
}

/// Whether it is one host, and neither this pod nor its link.
fn is_unicast_beyond_the_node(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !matches!(v4.octets(), [0 | 127 | 224..=255, ..] | [169, 254, ..]),
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => false,
            // Link-local, the old site-local, multicast.
            [first, ..] => !matches!(first, 0xfe80..=0xfeff | 0xff00..),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Addresses that nothing but an allow-list opens.
    const NEVER: [&str; 17] = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "169.254.1.1",
        "224.0.0.1",
        "239.1.1.1",
        "255.255.255.255",
        "240.0.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
    ];

    /// Addresses of a cluster's or a company's own network.
    const PRIVATE: [&str; 10] = [
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "fc00::1",
        "fd12:3456::1",
        "198.18.0.1",
    ];

    const DOCUMENTATION: [&str; 7] =
        ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1", "2001::1", "64:ff9b:1::1"];

    const PUBLIC: [&str; 8] = [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "172.32.0.1",
        "192.169.0.1",
        "2606:4700:4700::1111",
        "2a00:1450:4001:81b::200e",
    ];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn guard(reach: Reach, allowed: &[&str]) -> Guard {
        Guard { reach, allowed: allowed.iter().map(|range| range.parse().unwrap()).collect() }
    }

    /// The forms in which IPv6 can say an IPv4 address.
    fn disguises(address: Ipv4Addr) -> [IpAddr; 4] {
        let [a, b, c, d] = address.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        ]
        .map(IpAddr::V6)
    }

    #[test]
    fn a_url_reaches_public_addresses_and_no_others() {
        let guard = guard(Reach::Public, &[]);
        for address in NEVER.iter().chain(&PRIVATE).chain(&DOCUMENTATION) {
            assert!(!guard.allows(ip(address)), "{address}");
        }
        for address in PUBLIC {
            assert!(guard.allows(ip(address)), "{address}");
        }
    }

    #[test]
    fn a_service_reaches_private_addresses_but_not_the_node_and_its_metadata() {
        let guard = guard(Reach::Service, &[]);
        for address in PRIVATE.iter().chain(&PUBLIC) {
            assert!(guard.allows(ip(address)), "{address}");
        }
        for address in NEVER {
            assert!(!guard.allows(ip(address)), "{address}");
        }
    }

    #[test]
    fn only_what_the_administrator_allows_is_opened() {
        let guard = guard(Reach::Public, &["10.20.0.0/16", "fd12::/16", "127.0.0.0/8"]);
        for address in ["10.20.3.4", "::ffff:10.20.3.4", "fd12:3456::1", "127.0.0.1"] {
            assert!(guard.allows(ip(address)), "{address}");
        }
        for address in ["10.21.0.1", "::ffff:10.21.0.1", "fd13::1", "169.254.169.254", "::1"] {
            assert!(!guard.allows(ip(address)), "{address}");
        }
    }

    proptest! {
        #[test]
        fn an_ipv4_address_in_the_disguise_of_ipv6_is_judged_as_itself(bits: u32, range in 0_usize..8) {
            // Half of the address space is public: aim at what is not as well.
            let aims = [0_u32, 0x0a00_0000, 0x7f00_0000, 0xa9fe_0000, 0xac10_0000, 0xc0a8_0000, 0x6440_0000];
            let address = Ipv4Addr::from(aims.get(range).map_or(bits, |aim| aim | (bits & 0xffff)));
            // These two are addresses of IPv6 itself, and refused.
            prop_assume!(u32::from(address) > 1);
            for reach in [Reach::Public, Reach::Service] {
                let guard = guard(reach, &[]);
                for disguise in disguises(address) {
                    prop_assert_eq!(guard.allows(disguise), guard.allows(IpAddr::V4(address)), "{} {}", address, disguise);
                }
            }
        }
    }
}
