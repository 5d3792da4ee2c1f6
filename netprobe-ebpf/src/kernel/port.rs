//! A packet's port, by a glance: what a classifier tests before it copies anything.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::generated::bpf_skb_load_bytes_relative,
};

use super::header::ETH_P_IP;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const IPV6: u16 = 0x86dd;
/// Bytes of an IPv6 header.
const IPV6_HEADER: u32 = 40;
/// A fragment's offset: only the first one, with 0, has ports (RFC 791, 3.1).
const OFFSET: u16 = 0x1fff;

/// Whether a packet at a classifier may have `port` at either end, or be an error about one that has. Says yes to all of
/// these, and to few others: those with IPv4 options or IPv6 extension headers.
#[inline(always)]
pub(crate) fn may_have(skb: *mut __sk_buff, port: u16) -> bool {
    // SAFETY: `skb` is a classifier's context, valid for its run; the verifier rewrites the load.
    let protocol = unsafe { (*skb).protocol } as u16;
    match u16::from_be(protocol) {
        ETH_P_IP => may_have_ipv4(skb, port),
        IPV6 => may_have_ipv6(skb, port),
        _ => false,
    }
}

#[inline(always)]
fn may_have_ipv4(skb: *mut __sk_buff, port: u16) -> bool {
    // A header without options, and the first words behind it.
    let Some(b) = load::<24>(skb, 0) else { return false };
    if b[0] != 0x45 {
        return true;
    }
    u16::from_be_bytes([b[6], b[7]]) & OFFSET == 0 && says(b[9], [b[20], b[21], b[22], b[23]], port)
}

#[inline(always)]
fn may_have_ipv6(skb: *mut __sk_buff, port: u16) -> bool {
    let Some([.., next, _]) = load::<8>(skb, 0) else { return false };
    match next {
        TCP | UDP | ICMPV6 => load::<4>(skb, IPV6_HEADER).is_some_and(|first| says(next, first, port)),
        // Hop-by-hop, routing, fragment, destination options.
        0 | 43 | 44 | 60 => true,
        _ => false,
    }
}

/// What the first four bytes behind the IP header say.
#[inline(always)]
fn says(protocol: u8, first: [u8; 4], port: u16) -> bool {
    let of = |a, b| u16::from_be_bytes([a, b]) == port;
    match protocol {
        TCP | UDP => of(first[0], first[1]) || of(first[2], first[3]),
        ICMP => matches!(first[0], 3 | 4 | 5 | 11 | 12),
        ICMPV6 => matches!(first[0], 1..=4),
        _ => false,
    }
}

/// Bytes of the packet from its network header on, whatever link-layer header the device has; `None` where it ends before,
/// or its headers do not lie in one piece.
#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper writes all of `bytes`, also where it fails; the context is valid for the program's run.
    unsafe {
        let to = bytes.as_mut_ptr().cast();
        let failed = bpf_skb_load_bytes_relative(skb.cast(), offset, to, N as u32, BPF_HDR_START_NET);
        (failed == 0).then(|| bytes.assume_init())
    }
}
