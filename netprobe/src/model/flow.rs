//! Addresses and five-tuples on the host side: past `decode` nobody sees a byte order.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// IP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Proto {
    /// ICMP.
    Icmp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMPv6.
    Icmpv6,
    /// Any other, by its number.
    Other(u8),
}

impl Proto {
    /// From the number in the IP header (`IPPROTO_*`).
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            58 => Self::Icmpv6,
            other => Self::Other(other),
        }
    }

    /// The number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmpv6 => 58,
            Self::Other(number) => number,
        }
    }

    /// ICMP or ICMPv6.
    #[must_use]
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::Icmp | Self::Icmpv6)
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.write_str("icmp"),
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmpv6 => f.write_str("icmp6"),
            Self::Other(number) => write!(f, "proto {number}"),
        }
    }
}

/// Five-tuple in a packet's own direction. ICMP echo carries its identifier as both ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Flow {
    /// IP protocol.
    pub proto: Proto,
    /// Sender.
    pub src: SocketAddr,
    /// Addressee.
    pub dst: SocketAddr,
}

/// No protocol at all: IANA keeps 255 free for ever.
const FRAMES: u8 = 255;

impl Flow {
    /// What stands for the frames of one `EtherType` at one device, which have no addresses.
    #[must_use]
    pub fn of_frames(ether_type: u16, netns: u32, ifindex: u32) -> Self {
        let nowhere = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let place = Ipv6Addr::from(u128::from(netns) << 32 | u128::from(ifindex));
        Self { proto: Proto::Other(FRAMES), src: nowhere(ether_type), dst: SocketAddr::new(place.into(), 0) }
    }

    /// It stands for frames: their `EtherType`.
    #[must_use]
    pub fn frames(&self) -> Option<u16> {
        (self.proto == Proto::Other(FRAMES) && self.src.ip().is_unspecified()).then(|| self.src.port())
    }

    /// The flow as the answer carries it.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { proto: self.proto, src: self.dst, dst: self.src }
    }

    /// One value for both directions.
    #[must_use]
    pub fn canonical(&self) -> Self {
        if self.src <= self.dst { *self } else { self.reversed() }
    }

    /// The protocol has ports (TCP, UDP, SCTP, ...).
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        matches!(self.proto, Proto::Tcp | Proto::Udp | Proto::Other(132 | 136))
    }

    /// An IPv6 flow.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.dst.is_ipv6()
    }

    /// `address:port` of the sender, or its address where there are no ports.
    #[must_use]
    pub fn source(&self) -> String {
        self.end(self.src)
    }

    /// `address:port` of the addressee, or its address where there are no ports.
    #[must_use]
    pub fn destination(&self) -> String {
        self.end(self.dst)
    }

    fn end(&self, end: SocketAddr) -> String {
        if self.has_ports() { end.to_string() } else { end.ip().to_string() }
    }
}

impl fmt::Display for Flow {
    /// `10.0.0.1:5555 -> 10.0.0.2:80 tcp`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.source(), self.destination(), self.proto)
    }
}

/// An address from the sixteen bytes of the wire, v4-mapped shown as IPv4.
#[must_use]
pub fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}
