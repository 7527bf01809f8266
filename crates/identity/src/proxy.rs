//! What a trusted proxy says of its client.

use std::net::IpAddr;

/// A block of addresses, `10.0.0.0/8`; an address alone is a block of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(ipnet::IpNet);

impl Network {
    /// Reads a block.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let alone = || text.parse::<IpAddr>().ok().map(ipnet::IpNet::from);
        text.parse().ok().or_else(alone).map(Self)
    }

    /// Whether an address lies in it. IPv4 addresses in IPv6 clothes are what they are.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// The client behind trusted proxies: the rightmost address of `X-Forwarded-For` that is none of theirs. What stands
/// left of it, anybody may have written.
#[must_use]
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &[Network],
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.holds(address));
    let mut client = peer;
    let mut hops = forwarded.rev().flat_map(|field| field.rsplit(','));
    while is_trusted(client) {
        match hops.next().map(hop) {
            Some(Some(address)) => client = address,
            // Nobody further is named, or something that is no address: the last one known is the answer.
            _ => break,
        }
    }
    client
}

/// An address, with or without a port.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.trim_start_matches('[').trim_end_matches(']');
    let found =
        alone.parse().ok().or_else(|| text.parse().ok().map(|socket: std::net::SocketAddr| socket.ip()));
    found.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "::1", "fd00::/8"].map(|text| Network::parse(text).unwrap());
        client_address(peer.parse().unwrap(), forwarded.iter().copied(), &trusted).to_string()
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "who is not trusted says nothing");
        assert_eq!(client("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 198.51.100.7, 10.2.2.2"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "198.51.100.7:4711", "10.2.2.2"]), "198.51.100.7");
        assert_eq!(client("::1", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(client("::ffff:10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["1.2.3.4, unknown, 10.3.3.3"]), "10.3.3.3");
        assert_eq!(client("10.0.0.1", &["10.0.0.9"]), "10.0.0.9");
    }

    #[test]
    fn networks_are_read() {
        for bad in ["", "10.0.0.0/33", "x", "10.0.0"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
        assert!(Network::parse("127.0.0.1").unwrap().holds("::ffff:127.0.0.1".parse().unwrap()));
    }
}
