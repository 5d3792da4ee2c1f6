//! Packets crossing devices, and arriving.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::{
    config::{
        NS_FOLLOWED, NS_POD, NS_SHARED_BY_PODS, PLACE_CONSUME, PLACE_QUEUE, PLACE_RECEIVE, PLACE_TRANSMIT, PlaceKey,
    },
    event::Hop,
};

use crate::{
    cgroups::{self, Held},
    dns,
    emit::{Open, count_place, now},
    follow,
    kernel::{
        config,
        device::{At, Device},
        header::{Headers, Slot},
        skb::Skb,
    },
};

/// SYN, FIN and RST: they begin and end connections, so none is left to chance.
const TELLING_FLAGS: u8 = 0x07;
/// ACK: only then the window means something.
const ACK: u8 = 0x10;

const SYN: u8 = 0x02;
const SYN_OR_ACK: u8 = 0x12;

/// `net:netif_receive_skb(skb)`.
#[btf_tracepoint(function = "netif_receive_skb")]
pub(crate) fn netif_receive_skb(ctx: BtfTracePointContext) -> Option<()> {
    let skb = Skb::new(ctx.arg(0));
    let device = skb.device()?;
    let netns = device.netns();
    let role = follow::role(netns);
    if role == 0 {
        // It went on into a namespace that is none of ours.
        if follow::in_flight() {
            follow::received(skb);
        }
        return None;
    }
    let receiving = follow::receiving()?;
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let receiving = unsafe { &mut *receiving };
    receiving.skb = skb.address();
    receiving.netns = netns;
    receiving.ifindex = device.ifindex();
    receiving.followed = 0;
    if role & (NS_FOLLOWED | NS_SHARED_BY_PODS) == 0 && !follow::in_flight() {
        return None;
    }
    let ip = skb.data();
    if !cgroups::shared(role) && !follow::candidate(role, skb, ip) {
        return None;
    }
    let headers = skb.headers(Slot::Receive, ip)?;
    let held = if cgroups::shared(role) { cgroups::of_flow(&headers.flow) } else { None };
    if !follow::packet_or(role, headers, || is_receiving_or(skb, held, headers)) {
        return None;
    }
    receiving.followed = 1;
    if let Some(held) = held {
        cgroups::tell(&headers.flow, held, netns);
    }
    send(skb, headers, role, ip, &Place { device, place: PLACE_RECEIVE, location: 0 });
    Some(())
}

/// A followed packet in another dress, or a packet of a pod that shares the node's namespace.
#[inline(always)]
fn is_receiving_or(skb: Skb, held: Option<Held>, headers: &Headers) -> bool {
    follow::is_receiving(skb) || (held.is_some() && follow::adopt(headers))
}

/// `net:net_dev_queue(skb)`.
#[btf_tracepoint(function = "net_dev_queue")]
pub(crate) fn net_dev_queue(ctx: BtfTracePointContext) -> Option<()> {
    leaving(Skb::new(ctx.arg(0)), PLACE_QUEUE, Slot::Queue)
}

/// `net:net_dev_start_xmit(skb, dev)`.
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub(crate) fn net_dev_start_xmit(ctx: BtfTracePointContext) -> Option<()> {
    leaving(Skb::new(ctx.arg(0)), PLACE_TRANSMIT, Slot::Transmit)
}

#[inline(always)]
fn leaving(skb: Skb, place: u32, slot: Slot) -> Option<()> {
    let device = skb.device()?;
    let role = follow::role(device.netns());
    if role == 0 || (role & (NS_FOLLOWED | NS_SHARED_BY_PODS) == 0 && !follow::in_flight()) {
        return None;
    }
    let ip = skb.network();
    if !cgroups::shared(role) && !follow::candidate(role, skb, ip) {
        return None;
    }
    let headers = skb.headers(slot, ip)?;
    let held = if cgroups::shared(role) { cgroups::of(skb, &headers.flow) } else { None };
    if follow::packet_or(role, headers, || is_receiving_or(skb, held, headers)) {
        if let Some(held) = held {
            cgroups::tell(&headers.flow, held, device.netns());
        }
        send(skb, headers, role, ip, &Place { device, place, location: 0 });
    }
    Some(())
}

/// `skb:consume_skb(skb[, location])`: a packet ended its way well, or a SYN met a full queue.
#[btf_tracepoint(function = "consume_skb")]
pub(crate) fn consume_skb(ctx: BtfTracePointContext) -> Option<()> {
    if !follow::in_flight() {
        return None;
    }
    let skb = Skb::new(ctx.arg(0));
    let device = skb.device();
    let role = device.map_or(0, |device| follow::role(device.netns()));
    let (Some(device), true) = (device, role != 0) else {
        follow::received(skb);
        return None;
    };
    let ip = skb.network();
    if !follow::candidate(role, skb, ip) {
        return None;
    }
    let headers = skb.headers(Slot::Consume, ip)?;
    // A packet that ends its way well has nothing to tell, but for the SYN that a full queue ignores.
    if headers.flags & SYN_OR_ACK == SYN && follow::packet(role, skb, headers) {
        let location = if config!(has_consume_location) != 0 { ctx.arg(1) } else { 0 };
        send(skb, headers, role, ip, &Place { device, place: PLACE_CONSUME, location });
    }
    follow::received(skb);
    Some(())
}

/// Where a packet is.
struct Place {
    device: Device,
    place: u32,
    /// Instruction address that freed it, where it was freed.
    location: u64,
}

#[inline(always)]
fn send(skb: Skb, headers: &Headers, role: u32, ip: u64, at: &Place) {
    let Place { device, place, location } = *at;
    let at = device.at();
    let At { netns, ifindex } = at;
    let key = PlaceKey { flow: headers.flow.copied(), netns, ifindex, place, detail: 0 };
    let (seen, wanted) = count_place(&key, skb.len(), is_telling(headers) && place != PLACE_CONSUME);
    if wanted {
        // Not `emit` with a closure: that would become a function without a result, and leave an address of the stack in r0,
        // which the verifier refuses.
        if let Some(mut open) = Open::<Hop>::begin(now()) {
            let hop = open.payload();
            skb.store(headers, at, &mut hop.head);
            skb.store_conntrack(&mut hop.ct);
            place_hop(hop, headers, place, seen);
            hop.location = location;
            open.send();
        }
    }
    if wanted && role & NS_POD != 0 && (place == PLACE_RECEIVE || place == PLACE_TRANSMIT) {
        dns::send(skb, headers, ip, &dns::Seen { at, place, seen });
    }
}

/// Writes what a hop is beside its packet, whose conntrack entry it has already.
#[inline(always)]
pub(crate) fn place_hop(hop: &mut Hop, headers: &Headers, place: u32, seen: u64) {
    hop.place = place;
    hop.has_inner = u32::from(headers.inner.family != 0);
    hop.seen = seen;
    hop.inner = headers.inner.copied();
    follow::remember(&hop.ct);
}

/// Whether a packet is rare and says much.
#[inline(always)]
pub(crate) fn is_telling(headers: &Headers) -> bool {
    // A closed window stops the sender: as rare as it is telling.
    let closed = headers.flags & ACK != 0 && headers.window == 0;
    headers.flags & TELLING_FLAGS != 0 || closed
}
