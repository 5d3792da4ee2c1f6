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

    /// The flow whose five words these are, in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u64; 5]) -> Self {
        // SAFETY: five words are as long and as aligned as a flow, of which every bit pattern is valid.
        unsafe { core::mem::transmute(words) }
    }

    /// The last word: ports in host order, protocol, family and EtherType.
    #[inline(always)]
    #[must_use]
    pub const fn last_word(ports: (u16, u16), proto: u8, family: u8, ether_type: u16) -> u64 {
        let ([a, b], [c, d], [e, f]) = (ports.0.to_ne_bytes(), ports.1.to_ne_bytes(), ether_type.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, proto, family, e, f])
    }

    /// A copy, made by words. A compiler that is free to choose calls a function that copies bytes.
    #[inline(always)]
    #[must_use]
    pub fn copied(&self) -> Self {
        let from = (&raw const *self).cast::<u64>();
        // SAFETY: a flow is five aligned words.
        let word = |at: usize| unsafe { from.add(at).read_volatile() };
        Self::from_words([word(0), word(1), word(2), word(3), word(4)])
    }

    /// Writes all of it, by words likewise.
    #[inline(always)]
    pub fn put(&mut self, words: [u64; 5]) {
        let to = (&raw mut *self).cast::<u64>();
        let [a, b, c, d, e] = words;
        // SAFETY: a flow is five aligned words, and every bit pattern is valid.
        unsafe {
            to.write_volatile(a);
            to.add(1).write_volatile(b);
            to.add(2).write_volatile(c);
            to.add(3).write_volatile(d);
            to.add(4).write_volatile(e);
        }
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
        let [a, b, c, d, last] = *crate::wire::words_of::<Self, 5>(self);
        let swap = a > c || (a == c && (b > d || (b == d && self.sport > self.dport)));
        let ports = if swap { (self.dport, self.sport) } else { (self.sport, self.dport) };
        let last = Self::last_word(ports, last.to_ne_bytes()[4], last.to_ne_bytes()[5], 0);
        Self::from_words(if swap { [c, d, a, b, last] } else { [a, b, c, d, last] })
    }
}

/// An address as two words, in memory order.
#[inline(always)]
#[must_use]
pub const fn words(address: &[u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p]))
}

/// The second of the two words of an IPv4 address (its bytes in network order, as a number read from memory) as
/// [`mapped`] writes it; the first is 0.
#[inline(always)]
#[must_use]
pub const fn mapped_word(address: u32) -> u64 {
    let [a, b, c, d] = address.to_ne_bytes();
    u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])
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

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: FlowKey = FlowKey {
        src: mapped([10, 9, 0, 2]),
        dst: mapped([192, 0, 2, 7]),
        sport: 40_000,
        dport: 53,
        proto: 17,
        family: 4,
        ether_type: 0x0800,
    };

    #[test]
    fn words_are_the_fields_in_memory_order() {
        let word = |octets| mapped_word(u32::from_ne_bytes(octets));
        let last = FlowKey::last_word((40_000, 53), 17, 4, 0x0800);
        let words = [0, word([10, 9, 0, 2]), 0, word([192, 0, 2, 7]), last];
        assert_eq!(FlowKey::from_words(words), FLOW);
        let mut put = FlowKey::EMPTY;
        put.put(words);
        assert_eq!((put, FLOW.copied()), (FLOW, FLOW));
    }

    #[test]
    fn both_directions_have_one_canonical_form() {
        let form = FLOW.canonical();
        assert_eq!(form, FLOW.reversed().canonical());
        assert_eq!((form.proto, form.family, form.ether_type), (17, 4, 0));
        let ends = |flow: &FlowKey| (flow.src, flow.sport, flow.dst, flow.dport);
        assert!(ends(&form) == ends(&FLOW) || ends(&form) == ends(&FLOW.reversed()), "a port stays with its address");
        let same = FlowKey { dst: FLOW.src, ..FLOW };
        assert_eq!(same.canonical(), same.reversed().canonical(), "equal addresses are told apart by the ports");
    }
}
