//! The five-tuple.

crate::wire! {
    /// Five-tuple of a packet, in the packet's own direction.
    ///
    /// For ICMP and ICMPv6 echo the ports hold the identifier (both); for other ICMP they are 0.
    /// Aligned so that the programs copy and compare addresses by words, not by bytes: BPF has no
    /// unaligned access.
    #[repr(align(8))]
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
    pub const EMPTY: Self = Self { src: [0; 16], dst: [0; 16], sport: 0, dport: 0, proto: 0, family: 0, ether_type: 0 };

    /// The same flow as the answer carries it.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ..*self }
    }

    /// Source and destination address, each as two words in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn ends(&self) -> ((u64, u64), (u64, u64)) {
        let [a, b, c, d, _] = *crate::wire::words_of::<Self, 5>(self);
        ((a, b), (c, d))
    }

    /// One value for both directions: the end with the smaller address and port first.
    #[inline(always)]
    #[must_use]
    pub fn canonical(&self) -> Self {
        let (src, dst) = self.ends();
        let swap = src.0 > dst.0 || (src.0 == dst.0 && (src.1 > dst.1 || (src.1 == dst.1 && self.sport > self.dport)));
        let ordered = if swap { self.reversed() } else { *self };
        Self { ether_type: 0, ..ordered }
    }
}

/// An address as two words, in memory order.
#[inline(always)]
#[must_use]
pub const fn words(address: &[u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p]))
}

/// A number that spreads addresses over a table: the last bits of it are as good as the first.
#[inline(always)]
#[must_use]
pub const fn spread(address: &[u8; 16]) -> u32 {
    spread_words(words(address))
}

/// The same of an address as two words.
#[inline(always)]
#[must_use]
pub const fn spread_words((high, low): (u64, u64)) -> u32 {
    let mixed = (high ^ low.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

/// The sixteen bytes of an IPv4 address (`octets` in network order) as the wire carries it.
#[must_use]
pub const fn mapped(octets: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, octets[0], octets[1], octets[2], octets[3]]
}
