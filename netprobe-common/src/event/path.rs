//! A packet at a place: device crossings, and what every packet event has in common.

use crate::flow::FlowKey;

crate::wire! {
    /// What is read of a packet wherever it is seen.
    pub struct PacketHead {
        /// Five-tuple at this moment.
        pub flow: FlowKey,
        /// Address of the `sk_buff`. The slab reuses it within microseconds: never an identity alone.
        pub skb: u64,
        /// Namespace inode number; 0 where neither device nor socket tells.
        pub netns: u32,
        /// Device (`skb->dev`), or 0.
        pub ifindex: u32,
        /// Device it came in by (`skb->skb_iif`), or 0. Reset when it crosses into a namespace.
        pub in_ifindex: u32,
        /// `skb->mark`.
        pub mark: u32,
        /// `skb->hash`: survives NAT, so it names the flow, not the packet. 0 where not computed.
        pub hash: u32,
        /// `skb->len`: bytes from the network header on where the stack is past the link layer.
        pub len: u32,
        /// TCP sequence number, host order.
        pub tcp_seq: u32,
        /// TCP acknowledgement number, host order.
        pub tcp_ack: u32,
        /// TCP window field, unscaled, host order.
        pub tcp_window: u16,
        /// IP fragment offset and flags, host order (IPv4 only).
        pub frag: u16,
        /// TCP flags byte.
        pub tcp_flags: u8,
        /// TTL or hop limit.
        pub ttl: u8,
        /// ICMP or ICMPv6 type.
        pub icmp_type: u8,
        /// ICMP or ICMPv6 code.
        pub icmp_code: u8,
        /// Payload bytes after the TCP or UDP header, as the IP length says.
        pub payload_len: u32,
        /// IP total length (IPv4) or payload length + 40 (IPv6), host order.
        pub ip_len: u32,
    }

    /// One direction of a conntrack entry.
    pub struct Tuple {
        /// Source address, v4-mapped, network order.
        pub src: [u8; 16],
        /// Destination address.
        pub dst: [u8; 16],
        /// Source port or ICMP identifier, host order.
        pub sport: u16,
        /// Destination port, host order.
        pub dport: u16,
        /// IP protocol number.
        pub proto: u8,
        /// 4 or 6; 0 where there is no entry.
        pub family: u8,
        /// Zero.
        pub _pad: u16,
    }

    /// The packet's own conntrack entry (`skb->_nfct`).
    pub struct Conntrack {
        /// The direction of the first packet, before translation.
        pub original: Tuple,
        /// What an answer must carry to match.
        pub reply: Tuple,
        /// Address of the `nf_conn`, 0 where the packet has none: connection id inside one namespace.
        pub entry: u64,
        /// `enum ip_conntrack_status` bits.
        pub status: u32,
        /// Low bits of `_nfct`: `enum ip_conntrack_info`.
        pub info: u32,
        /// Conntrack zone.
        pub zone: u32,
        /// Zero.
        pub _pad: u32,
    }

    /// A packet crossed a device, or was consumed.
    ///
    /// Sources: `net:netif_receive_skb`, `net:net_dev_queue`, `net:net_dev_start_xmit`, `skb:consume_skb`; TC classifiers.
    pub struct Hop {
        /// The packet.
        pub head: PacketHead,
        /// Its conntrack entry. None yet at receive: conntrack runs after it.
        pub ct: Conntrack,
        /// `config::PLACE_*`.
        pub place: u32,
        /// The flow that an ICMP error is about follows in `inner`.
        pub has_inner: u32,
        /// Packets of this flow seen at this place so far on this CPU, this one included; those
        /// that were not sent as records too.
        pub seen: u64,
        /// For ICMP errors: the flow of the packet that caused it.
        pub inner: FlowKey,
        /// `consume_skb`: instruction address; else 0.
        pub location: u64,
    }
}
