//! NAT chooses addresses for connections.

use crate::flow::FlowKey;

/// A source, from a range that a rule gave: `nf_nat_setup_info` with `NF_NAT_MANIP_SRC`.
pub const NAT_SOURCE: u32 = 1;
/// A destination, likewise.
pub const NAT_DESTINATION: u32 = 2;
/// A source that masquerading took from the output device: `nf_nat_masquerade_ipv4`, `nf_nat_masquerade_ipv6`.
pub const NAT_MASQUERADE: u32 = 3;

crate::wire! {
    /// NAT chose an address for a connection, of which this packet is the first.
    ///
    /// Source: the end of `nf_nat_setup_info` (`net/netfilter/nf_nat_core.c`), and after it, where masquerading asked, of
    /// `nf_nat_masquerade_ipv4` or `_ipv6` (`nf_nat_masquerade.c`).
    pub struct NatChoice {
        /// The connection as its first packet came.
        pub original: FlowKey,
        /// What its answers look like, as NAT has it now.
        pub reply: FlowKey,
        /// First address of the range (`struct nf_nat_range2`), network byte order, IPv4 as `::ffff:a.b.c.d`; zero where the
        /// rule gave no addresses.
        pub low: [u8; 16],
        /// Last address, likewise.
        pub high: [u8; 16],
        /// First port of the range, host byte order; 0 where the rule gave none.
        pub low_port: u16,
        /// Last port, likewise.
        pub high_port: u16,
        /// `NAT_*`.
        pub by: u32,
        /// Namespace.
        pub netns: u32,
        /// The device that masquerading was asked for, else 0.
        pub out_ifindex: u32,
    }
}
