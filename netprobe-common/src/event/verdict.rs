//! Netfilter's verdicts.

use crate::{flow::FlowKey, limits::VERDICT_NAME_BYTES};

/// It is not known who said so.
pub const VERDICT_UNKNOWN: u32 = 0;
/// A base chain of nftables (iptables-nft makes such, too): `nft_do_chain`.
pub const VERDICT_NFT: u32 = 1;
/// A table of x_tables (iptables-legacy): `ipt_do_table`, `ip6t_do_table`.
pub const VERDICT_XTABLES: u32 = 2;
/// Conntrack, which found the connection's place taken: `__nf_conntrack_confirm`.
pub const VERDICT_CONFIRM: u32 = 3;

crate::wire! {
    /// What conntrack had seen of one direction of a TCP connection (`struct ip_ct_tcp_state`), host order.
    pub struct TcpSeen {
        /// Sequence number behind the last byte sent.
        pub end: u32,
        /// The same, and the window that the other side last offered.
        pub max_end: u32,
        /// Largest window offered, bytes, scaled; 0 where this direction was not seen yet.
        pub max_window: u32,
    }

    /// Why conntrack called a segment INVALID: what it held against it.
    ///
    /// Source: the end of `nf_conntrack_tcp_packet` (`net/netfilter/nf_conntrack_proto_tcp.c`).
    pub struct Invalid {
        /// Of the connection's original direction, then of the reply's.
        pub seen: [TcpSeen; 2],
        /// All else is zero where this is: conntrack did not call it so, or it is not known.
        pub known: u8,
        /// The entry was in the table; else the segment would have been its first.
        pub confirmed: u8,
        /// `TCP_CONNTRACK_*`: the connection's state.
        pub state: u8,
        /// The segment is of the reply's direction.
        pub reply: u8,
    }

    /// A netfilter hook dropped a packet, of which [`SkbDrop`](super::SkbDrop) was sent just before on this CPU.
    ///
    /// Source: the end of `nf_hook_slow` (`net/netfilter/core.c`), and before it of the function that judged.
    pub struct Verdict {
        /// The packet as it was dropped.
        pub flow: FlowKey,
        /// Address of the `sk_buff`; it is freed.
        pub skb: u64,
        /// Namespace.
        pub netns: u32,
        /// `state->in`, or 0.
        pub in_ifindex: u32,
        /// `state->out`, or 0.
        pub out_ifindex: u32,
        /// What `nf_hook_slow` returned: a negative errno.
        pub err: i32,
        /// `VERDICT_*`: who said so.
        pub by: u32,
        /// `NFPROTO_*` of the hook.
        pub family: u8,
        /// Number of the hook in its family (`NF_INET_*`, `NF_NETDEV_*`).
        pub hook: u8,
        /// `NFPROTO_*` of the table, 0 where unknown.
        pub table_family: u8,
        /// Zero.
        pub _pad: u8,
        /// Name of the table, ended by a zero byte or cut; empty where unknown.
        pub table: [u8; VERDICT_NAME_BYTES],
        /// Name of the base chain (nftables), likewise.
        pub chain: [u8; VERDICT_NAME_BYTES],
        /// What conntrack had held against the packet.
        pub invalid: Invalid,
        /// Zero.
        pub _end: u32,
    }
}
