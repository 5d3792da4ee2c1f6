//! What each CPU is receiving: the one case in which an address tells which packet it is.

use hashbrown::HashMap;

use crate::model::{
    flow::{Flow, Proto},
    packet::{Head, Packet},
};

/// How long after a packet was received, or was last at a device, another at its address is still taken for it,
/// nanoseconds: forwarding takes microseconds, and 2 ms leave room for a preempted virtual CPU.
const IN_HAND_NS: u64 = 2_000_000;
/// The same where the kernel says itself that its CPU is receiving it: only what is left over from long ago is refused.
const RECEIVING_NS: u64 = 200_000_000;
/// Bytes of the smallest header that a tunnel puts before a packet: IPv4 without options.
const OUTER_HEADER_BYTES: u32 = 20;

/// A packet that a CPU has received and not yet passed on.
struct Held {
    skb: u64,
    netns: u32,
    ip_len: u32,
    seen_ns: u64,
    journey: u64,
}

/// The packet each CPU is receiving. An `sk_buff` address is reused within microseconds, but not
/// while its packet is being forwarded.
#[derive(Default)]
pub(super) struct Receiving(HashMap<u32, Held>);

impl Receiving {
    /// A device has received this packet of that journey.
    pub(super) fn note(&mut self, packet: &Packet, head: &Head, journey: u64) {
        let held = Held { skb: head.skb, netns: packet.netns, ip_len: head.ip_len, seen_ns: packet.mono_ns, journey };
        self.0.insert(packet.cpu, held);
    }

    /// A packet of that journey is at a device: if it is the one in hand, it still is.
    pub(super) fn still(&mut self, packet: &Packet, skb: u64, journey: u64) {
        if let Some(held) = self.0.get_mut(&packet.cpu)
            && (held.skb, held.netns, held.journey) == (skb, packet.netns, journey)
        {
            held.seen_ns = held.seen_ns.max(packet.mono_ns);
        }
    }

    /// The journey of the packet that this CPU was receiving, at that address, when it looked up a route for it.
    pub(super) fn journey(&self, at: &Packet, skb: u64) -> Option<u64> {
        self.held(at, skb, RECEIVING_NS).map(|held| held.journey)
    }

    /// The journey of the packet in hand, if it can be what `packet` carries inside: in the same
    /// namespace, in a protocol that carries packets, and with room for it.
    pub(super) fn inside(&self, packet: &Packet, head: &Head, flow: &Flow) -> Option<u64> {
        let held = self.held(packet, head.skb, IN_HAND_NS)?;
        let has_room = head.ip_len >= held.ip_len.saturating_add(OUTER_HEADER_BYTES);
        (held.netns == packet.netns && is_tunnel(flow) && has_room).then_some(held.journey)
    }

    fn held(&self, at: &Packet, skb: u64, limit_ns: u64) -> Option<&Held> {
        let held = self.0.get(&at.cpu)?;
        (held.skb == skb && skb != 0 && at.mono_ns.saturating_sub(held.seen_ns) <= limit_ns).then_some(held)
    }
}

/// IP in IP, 6in4, GRE, ESP, and UDP (VXLAN, Geneve).
const fn is_tunnel(flow: &Flow) -> bool {
    matches!(flow.proto, Proto::Udp | Proto::Other(4 | 41 | 47 | 50))
}
