//! Packets that ended badly.

use super::{Conntrack, PacketHead};
use crate::{flow::FlowKey, limits::DROP_STACK};

crate::wire! {
    /// The kernel freed a packet it did not deliver.
    ///
    /// Source: `skb:kfree_skb` (`include/trace/events/skb.h`), Linux >= 5.17; earlier kernels
    /// have the tracepoint without a reason.
    pub struct SkbDrop {
        /// The packet at the moment it was dropped.
        pub head: PacketHead,
        /// Its conntrack entry.
        pub ct: Conntrack,
        /// Instruction address that freed the packet; `kallsyms` names it.
        pub location: u64,
        /// Drops of this row of the drop table so far on this CPU, this one included.
        pub seen: u64,
        /// `enum skb_drop_reason` of the running kernel. The numbers move between releases:
        /// resolve them from BTF, never from a constant.
        pub reason: u32,
        /// Return addresses in `stack` that are in use.
        pub stack_len: u32,
        /// Preference of the tc filter of kind bpf that dropped it, 0 where none did or it is not known
        /// (`struct tcf_proto`, `prio`, its upper half). Source: the end of `cls_bpf_classify`.
        pub filter: u32,
        /// Number of the tunnel's network (VNI), host order, of what is in `carried`; 0 where the tunnel has none.
        pub vni: u32,
        /// Kernel return addresses, innermost first.
        pub stack: [u64; DROP_STACK],
        /// The packet inside, where it is a tunnel's (VXLAN, Geneve, IPIP, GRE); family 0 where it is none.
        pub carried: FlowKey,
    }

    /// The kernel is about to send an ICMP error (IPv4).
    ///
    /// Source: `icmp:icmp_send` (skb, type, code), Linux >= 6.10; there is no ICMPv6 counterpart.
    pub struct IcmpSend {
        /// The packet that the error is about.
        pub head: PacketHead,
        /// Its conntrack entry.
        pub ct: Conntrack,
        /// ICMP type.
        pub icmp_type: u32,
        /// ICMP code.
        pub icmp_code: u32,
        /// Return addresses in `stack` that are in use.
        pub stack_len: u32,
        /// Zero.
        pub _pad: u32,
        /// Kernel return addresses, innermost first.
        pub stack: [u64; DROP_STACK],
    }
}
