//! Packets as they are, for a capture. Their records are of several lengths, so they are not among `events!`.

use super::Payload;
use crate::flow::FlowKey;

crate::wire! {
    /// A packet at a TC classifier; [`Captured::kept`] bytes of it follow in the record, and [`Forms`] are its end.
    ///
    /// Source: `struct __sk_buff` and the `struct sk_buff` behind it.
    pub struct Captured {
        /// Address of the `sk_buff`: ties it to a [`CapturedDrop`], for a moment.
        pub skb: u64,
        /// Namespace inode number of the device.
        pub netns: u32,
        /// Device.
        pub ifindex: u32,
        /// `skb->len`, with the link-layer header: the packet's own length, before segmentation by the device.
        pub len: u32,
        /// Bytes of the packet in this record.
        pub kept: u32,
        /// `CAPTURED_*` bits.
        pub how: u32,
        /// VLAN tag that the kernel keeps beside the packet: protocol and tag control information, as
        /// `protocol << 16 | tci`, host order; 0 where there is none.
        pub vlan: u32,
    }

    /// What a packet's flow is, and would be with or without NAT.
    pub struct Forms {
        /// Five-tuple here.
        pub flow: FlowKey,
        /// The other form that NAT gives the packet, in the same direction; family 0 where it is not translated, or that
        /// is not known here yet.
        pub other: FlowKey,
    }

    /// A followed packet was dropped.
    ///
    /// Source: `skb:kfree_skb`.
    pub struct CapturedDrop {
        /// Five-tuple at that moment.
        pub flow: FlowKey,
        /// Address of the `sk_buff`.
        pub skb: u64,
        /// Instruction address that freed the packet.
        pub location: u64,
        /// Namespace inode number, 0 where not known.
        pub netns: u32,
        /// Device, or 0.
        pub ifindex: u32,
        /// `enum skb_drop_reason` of the running kernel.
        pub reason: u32,
        /// Zero.
        pub _pad: u32,
    }
}

/// The packet leaves by the device; else it comes in.
pub const CAPTURED_EGRESS: u32 = 1;
/// [`Forms::other`] is what NAT makes of it: it is seen before.
pub const CAPTURED_BEFORE_NAT: u32 = 2;
/// [`Forms::other`] is what it was: it is seen after NAT.
pub const CAPTURED_AFTER_NAT: u32 = 4;
/// The record ends in [`Forms`]; else those bytes mean nothing.
pub const CAPTURED_FORMS: u32 = 8;

impl Payload for Captured {
    const KIND: u32 = 30;
}

impl Payload for CapturedDrop {
    const KIND: u32 = 31;
}

impl Captured {
    /// It came in by the device.
    #[must_use]
    pub const fn is_ingress(&self) -> bool {
        self.how & CAPTURED_EGRESS == 0
    }
}
