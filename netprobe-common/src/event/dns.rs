//! The beginning of a DNS message.

use crate::{flow::FlowKey, limits::DNS_HEAD};

crate::wire! {
    /// The first bytes of a DNS message that a pod sent or received.
    ///
    /// Sources: `net:netif_receive_skb`, `net:net_dev_start_xmit`, for port 53 in a pod's namespace; TC classifiers there and
    /// at the node's end of a pod's link.
    pub struct DnsHead {
        /// Five-tuple at this moment.
        pub flow: FlowKey,
        /// Namespace inode number.
        pub netns: u32,
        /// Device.
        pub ifindex: u32,
        /// `PLACE_RECEIVE` or `PLACE_TRANSMIT`.
        pub place: u32,
        /// Payload bytes of the packet. Over TCP two bytes of length stand before the message.
        pub len: u32,
        /// Bytes of `data` in use; the others are zero.
        pub kept: u32,
        /// Packets of this flow seen here on this CPU so far: above the burst some are left out. 0 where none is.
        pub seen: u32,
        /// The payload's beginning.
        pub data: [u8; DNS_HEAD],
    }
}
