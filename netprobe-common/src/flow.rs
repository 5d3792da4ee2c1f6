//! The five-tuple.

crate::wire! {
    /// Five-tuple of a packet, in the packet's own direction.
    ///
    /// For ICMP and ICMPv6 echo the ports hold the identifier (both); for other ICMP they are 0.
    pub struct FlowKey {
        /// Source address, network byte order; IPv4 as `::ffff:a.b.c.d`.
        pub src: [u8; 16],
        /// Destination address, likewise.
        pub dst: [u8; 16],
        /// Source port, host byte order.
        pub sport: u16,
        /// Destination port, host byte order.
        pub dport: u16,
        /// IP protocol number (`IPPROTO_*`).
        pub proto: u8,
        /// 4, 6, or 0 where the packet is not IP.
        pub family: u8,
        /// EtherType, host byte order; 0 where not known.
        pub ether_type: u16,
    }
}

impl FlowKey {
    /// No addresses, no ports.
    pub const EMPTY: Self = Self {
        src: [0; 16],
        dst: [0; 16],
        sport: 0,
        dport: 0,
        proto: 0,
        family: 0,
        ether_type: 0,
    };

    /// The same flow as the answer carries it.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            ..*self
        }
    }
}

/// The sixteen bytes of an IPv4 address (`octets` in network order) as the wire carries it.
#[must_use]
pub const fn mapped(octets: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, octets[0], octets[1], octets[2], octets[3],
    ]
}
