//! The table of flows that the TC classifiers count: per device and direction, exact.

use crate::flow::FlowKey;

/// The packet left by the device (TC egress); else it came in by it (TC ingress).
pub const COUNTED_EGRESS: u32 = 1;
/// The flow is the original tuple of the packet's conntrack entry; else it is the packet's own.
pub const COUNTED_CONNTRACK: u32 = 2;
/// The packet went in the direction of the entry's reply.
pub const COUNTED_REPLY: u32 = 4;

crate::wire! {
    /// Whose row: a flow at one device, in one direction.
    pub struct FlowCountKey {
        /// Original tuple of the conntrack entry, where there is one; else the packet's own five-tuple.
        pub flow: FlowKey,
        /// Address of the `struct net_device`: what tells devices of two namespaces apart at one read.
        pub device: u64,
        /// Interface index.
        pub ifindex: u32,
        /// `COUNTED_*` bits.
        pub how: u32,
    }

    /// What was counted since the row was made.
    pub struct FlowCount {
        /// Packets on the wire: one `sk_buff` of segmentation offload counts as the segments it is cut into.
        pub packets: u64,
        /// Their bytes with link-layer header, as they are on the wire.
        pub bytes: u64,
        /// First packet, `CLOCK_MONOTONIC` nanoseconds.
        pub first_ns: u64,
        /// Last packet, `CLOCK_MONOTONIC_COARSE` nanoseconds: a tick or two early, so it may lie before `first_ns`.
        pub last_ns: u64,
        /// The kernel's tick at which `last_ns` was read.
        pub tick: u64,
        /// First packet with SYN, likewise; 0 for none.
        pub syn_ns: u64,
        /// Reply tuple of the conntrack entry when the row was made; family 0 where there was none.
        pub reply: FlowKey,
        /// Inode number of the device's namespace.
        pub netns: u32,
        /// Status of the conntrack entry (`IPS_*` bits) when the row was made.
        pub status: u32,
        /// TCP: the sequence number after the last byte sent.
        pub next_seq: u32,
        /// TCP segments that were sent again: they carried bytes that had passed before, or that were missing for long.
        pub retransmits: u32,
        /// TCP flags seen, all together.
        pub flags: u32,
        /// Conntrack zone.
        pub zone: u32,
        /// TCP: what was missing when what comes after it had passed, from this sequence number on.
        pub hole_from: u32,
        /// TCP: up to this one; equal where nothing is missing.
        pub hole_to: u32,
        /// Since when, `CLOCK_MONOTONIC` nanoseconds.
        pub hole_ns: u64,
        /// Number of the cgroup (version 2) of the socket that sent the packets, at egress; 0 where there is none.
        pub cgroup: u64,
    }
}
