//! The beginning of DNS messages, as the pod sends and receives them.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_skb_load_bytes};
use netprobe_common::{
    config::{PLACE_RECEIVE, PLACE_TRANSMIT, TC_DNS},
    event::DnsHead,
    limits::DNS_HEAD,
};

use crate::{
    emit::{emit, now},
    kernel::{classified::Classified, config, device::Device, header::Headers, skb::Skb},
};

const PORT: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of a DNS header: less is no message (RFC 1035, 4.1.1).
const HEADER: u32 = 12;

/// Where a packet was seen, and the how many-th of its flow it was.
pub(crate) struct Seen {
    pub(crate) netns: u32,
    pub(crate) place: u32,
    pub(crate) seen: u64,
}

/// Sends the message's beginning, if the packet carries one. A function of its own, for its stack.
#[inline(always)]
pub(crate) fn send(skb: Skb, headers: &Headers, ip: u64, at: &Seen) {
    let flow = &headers.flow;
    let is_dns = (flow.sport == PORT || flow.dport == PORT) && (flow.proto == UDP || flow.proto == TCP);
    let by_classifier = config!(tc) & TC_DNS != 0 && flow.proto == TCP;
    if !is_dns || by_classifier || headers.payload_len < HEADER || headers.payload_len > headers.ip_len {
        return;
    }
    let payload = ip + u64::from(headers.ip_len - headers.payload_len);
    let linear = skb.linear_end().saturating_sub(payload);
    emit::<DnsHead>(now(), |record| {
        record.flow = *flow;
        record.netns = at.netns;
        record.ifindex = skb.device().map_or(0, Device::ifindex);
        record.place = at.place;
        record.len = headers.payload_len;
        record.seen = at.seen as u32;
        record.kept = copy(&mut record.data, payload, linear.min(u64::from(headers.payload_len)) as u32);
    });
}

/// Sends the beginning of a DNS message over TCP, wherever its bytes lie. A function of its own, for its stack.
#[inline(never)]
pub(crate) fn classified(packet: &Classified<'_>, headers: &Headers) {
    let flow = &headers.flow;
    let is_dns = flow.proto == TCP && (flow.sport == PORT || flow.dport == PORT);
    if !is_dns || headers.payload_len < HEADER || headers.payload_len > headers.ip_len {
        return;
    }
    let at = packet.link_header() + (headers.ip_len - headers.payload_len);
    emit::<DnsHead>(now(), |record| {
        record.flow = *flow;
        record.netns = packet.netns();
        record.ifindex = packet.ifindex();
        record.place = if packet.egress { PLACE_TRANSMIT } else { PLACE_RECEIVE };
        record.len = headers.payload_len;
        record.seen = 0;
        record.kept = load(&mut record.data, packet, at, headers.payload_len);
    });
}

/// Copies up to `len` bytes of a packet, zeroes behind them, and says how many.
#[inline(always)]
fn load(to: &mut [u8; DNS_HEAD], packet: &Classified<'_>, at: u32, len: u32) -> u32 {
    let len = if len > DNS_HEAD as u32 { DNS_HEAD as u32 } else { len };
    if len == 0 {
        return 0;
    }
    // SAFETY: as in `copy`; the context is valid for the program's run.
    let failed = unsafe {
        bpf_probe_read_kernel(to.as_mut_ptr().cast(), DNS_HEAD as u32, core::ptr::null());
        bpf_skb_load_bytes(packet.context().skb.skb.cast(), at, to.as_mut_ptr().cast(), len)
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
