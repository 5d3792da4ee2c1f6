//! The beginning of DNS messages, as the pod sends and receives them.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel, bpf_skb_load_bytes},
    programs::TcContext,
};
use netprobe_common::{
    config::{NS_POD, PLACE_RECEIVE, PLACE_TRANSMIT, PlaceKey, Receiving},
    event::{DnsHead, Hop},
    limits::DNS_HEAD,
};

use crate::{
    emit::{count_place, emit, emit_classified, now},
    follow::{self, DNS},
    kernel::{classified::Classified, device::At, header::Headers, port, skb::Skb},
    path::{is_telling, place_hop},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of a DNS header: less is no message (RFC 1035, 4.1.1).
const HEADER: u32 = 12;

/// Where a packet was seen, and the how many-th of its flow it was.
pub(crate) struct Seen {
    pub(crate) at: At,
    pub(crate) place: u32,
    pub(crate) seen: u64,
}

/// Sends the message's beginning, if the packet carries one. A function of its own, for its stack.
#[inline(always)]
pub(crate) fn send(skb: Skb, headers: &Headers, ip: u64, seen: &Seen) {
    if !is_message(headers) {
        return;
    }
    let payload = ip + u64::from(headers.ip_len - headers.payload_len);
    let linear = skb.linear_end().saturating_sub(payload);
    emit::<DnsHead>(now(), |record| {
        record.flow = headers.flow.copied();
        record.netns = seen.at.netns;
        record.ifindex = seen.at.ifindex;
        record.place = seen.place;
        record.len = headers.payload_len;
        record.seen = seen.seen as u32;
        record.kept = copy(&mut record.data, payload, linear.min(u64::from(headers.payload_len)) as u32);
    });
}

/// Whether it carries a DNS message.
#[inline(always)]
fn is_message(headers: &Headers) -> bool {
    let flow = &headers.flow;
    let is_dns = (flow.sport == DNS || flow.dport == DNS) && (flow.proto == UDP || flow.proto == TCP);
    is_dns && headers.payload_len >= HEADER && headers.payload_len <= headers.ip_len
}

/// A packet at a classifier of a run that is about DNS. What is neither of port 53 nor what became of such a packet ends
/// here, before anything of it is copied.
#[inline(always)]
pub(crate) fn look(ctx: &TcContext, egress: bool) -> Option<()> {
    let skb = ctx.skb.skb;
    let receiving = follow::receiving()?;
    // SAFETY: a per-CPU entry that classifiers at ingress write, none of which interrupts another; and the context, whose
    // load the verifier rewrites.
    let (receiving, came_in_by) = unsafe { (&mut *receiving, (*skb).ingress_ifindex) };
    let mut same = false;
    if receiving.followed != 0 {
        if egress {
            // Its address alone is no identity. The packet received last is still the one at that address if it came in by
            // the same device: another one would have taken its place here.
            same = receiving.skb == skb as u64 && receiving.ifindex == came_in_by;
        } else {
            receiving.followed = 0;
        }
    }
    if !same && !port::may_have(skb, DNS) {
        return None;
    }
    let packet = Classified::new(ctx, egress)?;
    let headers = packet.headers()?;
    // One after the other and not one within the other, for the stack.
    let netns = followed_in(&packet, headers, receiving, same);
    if netns == 0 {
        return None;
    }
    hop(&packet, headers, netns);
    send_message(&packet, headers);
    Some(())
}

/// The packet's namespace, if it is followed; else 0. A function of its own, for its stack.
#[inline(never)]
fn followed_in(packet: &Classified<'_>, headers: &Headers, receiving: &mut Receiving, same: bool) -> u32 {
    let netns = packet.netns();
    let role = follow::role(netns);
    if role == 0 || !follow::packet_or(role, headers, || same && receiving.netns == netns) {
        return 0;
    }
    if !packet.egress {
        receiving.skb = packet.address();
        (receiving.netns, receiving.ifindex, receiving.followed) = (netns, packet.ifindex(), 1);
    }
    netns
}

/// Sends the message, where the packet carries one and a pod is at one end of the link.
#[inline(always)]
pub(crate) fn send_message(packet: &Classified<'_>, headers: &Headers) {
    if is_message(headers) {
        at_a_pod(packet, headers);
    }
}

/// A function of its own, for its stack.
#[inline(never)]
fn at_a_pod(packet: &Classified<'_>, headers: &Headers) {
    let netns = packet.netns();
    if follow::role(netns) & NS_POD != 0 || follow::leads_to_pod(netns, packet.ifindex()) {
        message(packet, headers, netns);
    }
}

/// Where a classifier is. At egress the packet is on its way into the device's queue.
#[inline(always)]
const fn place(packet: &Classified<'_>) -> u32 {
    if packet.egress { PLACE_TRANSMIT } else { PLACE_RECEIVE }
}

/// Sends the packet as one that crosses a device: not every one of a flow. A function of its own, for its stack.
#[inline(never)]
fn hop(packet: &Classified<'_>, headers: &Headers, netns: u32) {
    let place = place(packet);
    let key = PlaceKey { flow: headers.flow.copied(), netns, ifindex: packet.ifindex(), place, detail: 0 };
    let (seen, wanted) = count_place(&key, packet.len(), is_telling(headers));
    if !wanted {
        return;
    }
    emit_classified::<Hop>(now(), |hop| {
        packet.store(headers, netns, &mut hop.head);
        packet.store_conntrack(&mut hop.ct);
        place_hop(hop, headers, place, seen);
        hop.location = 0;
    });
}

/// Sends the beginning of a DNS message, wherever its bytes lie: every one. A function of its own, for its stack.
#[inline(never)]
fn message(packet: &Classified<'_>, headers: &Headers, netns: u32) {
    let at = packet.link_header() + headers.ip_len.wrapping_sub(headers.payload_len);
    emit_classified::<DnsHead>(now(), |record| {
        record.flow = headers.flow.copied();
        record.netns = netns;
        record.ifindex = packet.ifindex();
        record.place = place(packet);
        record.len = headers.payload_len;
        record.seen = 0;
        record.kept = load(&mut record.data, packet, at, headers.payload_len);
    });
}

/// Copies up to `len` bytes of a packet, zeroes behind them, and says how many.
#[inline(always)]
fn load(to: &mut [u8; DNS_HEAD], packet: &Classified<'_>, at: u32, len: u32) -> u32 {
    let len = if len > DNS_HEAD as u32 { DNS_HEAD as u32 } else { len };
    // Older verifiers know of a length that it is not 0 only where it is one more than something.
    let less = core::hint::black_box(len.wrapping_sub(1));
    // SAFETY: as in `copy`; the context is valid for the program's run.
    let failed = unsafe {
        bpf_probe_read_kernel(to.as_mut_ptr().cast(), DNS_HEAD as u32, core::ptr::null());
        if less < DNS_HEAD as u32 {
            bpf_skb_load_bytes(packet.context().skb.skb.cast(), at, to.as_mut_ptr().cast(), less + 1)
        } else {
            -1
        }
    };
    if failed == 0 { len } else { 0 }
}

/// Copies up to `len` bytes from a kernel address, zeroes behind them, and says how many.
#[inline(always)]
fn copy(to: &mut [u8; DNS_HEAD], from: u64, len: u32) -> u32 {
    let len = if len > DNS_HEAD as u32 { DNS_HEAD as u32 } else { len };
    // SAFETY: the buffer is a whole array of the size given, and `len` is not above it. Reading from address 0 fails,
    // and a read that fails leaves zeroes: that clears the buffer in one call.
    unsafe {
        bpf_probe_read_kernel(to.as_mut_ptr().cast(), DNS_HEAD as u32, core::ptr::null());
        bpf_probe_read_kernel(to.as_mut_ptr().cast(), len, from as *const _);
    }
    len
}
