//! `struct nf_conn`, from `skb->_nfct`.

use netprobe_common::{
    config::READ_AS,
    event::{Conntrack, Invalid, TcpSeen, Tuple},
    flow::{FlowKey, mapped_word},
    wire,
};

use super::{config, has, offset, probe, probe_into, typed};

/// Low bits of `_nfct` are `enum ip_conntrack_info` (`NFCT_INFOMASK`).
const INFO_MASK: u64 = 7;
/// `IPS_SRC_NAT`, `IPS_DST_NAT`: the source, or the destination, is another one than it was.
pub(crate) const SOURCE_NAT: u32 = 0x10;
pub(crate) const DESTINATION_NAT: u32 = 0x20;
const NAT_BITS: u32 = SOURCE_NAT | DESTINATION_NAT;
/// `IPS_CONFIRMED`.
const CONFIRMED: u32 = 8;
/// `IP_CT_IS_REPLY`, the first of `enum ip_conntrack_info` that are of the reply's direction.
const IS_REPLY: u32 = 3;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Writes the entry behind `nfct` into a record; all zero where there is none.
#[inline(always)]
pub(crate) fn store(nfct: u64, to: &mut Conntrack) {
    let entry = nfct & !INFO_MASK;
    to._pad = 0;
    to.entry = entry;
    to.info = (nfct & INFO_MASK) as u32;
    if entry == 0 || !has!(ct_orig) {
        to.original = wire::zeroed();
        to.reply = wire::zeroed();
        to.status = 0;
        to.zone = 0;
        return;
    }
    to.status = probe::<u64>(entry, offset!(ct_status)) as u32;
    to.zone = if has!(ct_zone) { u32::from(probe::<u16>(entry, offset!(ct_zone))) } else { 0 };
    tuple(entry + offset!(ct_orig) as u64, &mut to.original);
    tuple(entry + offset!(ct_reply) as u64, &mut to.reply);
}

/// Bytes of a `struct nf_conntrack_tuple` that are copied at once; it has 40 on the kernels seen.
const TUPLE_BYTES: usize = 40;

/// Room for a copy of a tuple.
pub(crate) type TupleCopy = [u64; TUPLE_BYTES / 8];

/// Writes the entry's original tuple: read in one copy, or without any where a classifier may.
#[inline(always)]
pub(crate) fn original(entry: u64, room: &mut TupleCopy, to: &mut FlowKey) {
    if config!(nf_conn) != 0 {
        typed_tuple(read_as(entry, config!(nf_conn)), offset!(ct_orig), to);
    } else {
        copy_tuple(entry + offset!(ct_orig) as u64, room, to);
    }
}

/// Calls `bpf_rdonly_cast`: what it returns is `address`, as a pointer that the verifier knows to be of the struct of that BTF
/// number. A fault reads as zero.
#[inline(always)]
fn read_as(address: u64, id: u32) -> *const u8 {
    // SAFETY: as in `classified::kernel_ctx`; the address is not looked at before the pointer is used.
    unsafe {
        let call: unsafe extern "C" fn(u64, u32) -> *const u8 = core::mem::transmute(READ_AS as usize);
        call(address, id)
    }
}

/// Writes the tuple at `at` in the entry.
#[inline(always)]
fn typed_tuple(entry: *const u8, at: usize, to: &mut FlowKey) {
    let proto: u8 = typed(entry, at + offset!(tuple_proto));
    let sport = u16::from_be(typed(entry, at + offset!(tuple_sport)));
    let dport =
        if proto == ICMP || proto == ICMPV6 { sport } else { u16::from_be(typed(entry, at + offset!(tuple_dport))) };
    let (src, dst) = (at + offset!(tuple_src), at + offset!(tuple_dst));
    let last = |family| FlowKey::last_word((sport, dport), proto, family, 0);
    if typed::<u16>(entry, at + offset!(tuple_l3num)) == 2 {
        to.put([0, mapped_word(typed(entry, src)), 0, mapped_word(typed(entry, dst)), last(4)]);
    } else {
        let long = |at: usize| u64::from(typed::<u32>(entry, at)) | u64::from(typed::<u32>(entry, at + 4)) << 32;
        to.put([long(src), long(src + 8), long(dst), long(dst + 8), last(6)]);
    }
}

/// Writes the entry's reply tuple, read in one copy.
#[inline(always)]
pub(crate) fn reply(entry: u64, room: &mut TupleCopy, to: &mut FlowKey) {
    copy_tuple(entry + offset!(ct_reply) as u64, room, to);
}

/// The entry of the packet at `skb`, 0 where it has none.
#[inline(always)]
pub(crate) fn of(skb: u64) -> u64 {
    if has!(skb_nfct) { probe::<u64>(skb, offset!(skb_nfct)) & !INFO_MASK } else { 0 }
}

/// The entry's `IPS_*` bits.
#[inline(always)]
pub(crate) fn status(entry: u64) -> u32 {
    probe::<u64>(entry, offset!(ct_status)) as u32
}

/// The entry's zone.
#[inline(always)]
pub(crate) fn zone(entry: u64) -> u32 {
    if has!(ct_zone) { u32::from(probe::<u16>(entry, offset!(ct_zone))) } else { 0 }
}

#[inline(always)]
fn copy_tuple(address: u64, room: &mut TupleCopy, to: &mut FlowKey) {
    probe_into(room, address, 0);
    let at = core::ptr::from_ref(room).cast::<u8>();
    // The offsets are constants for the verifier, which checks them against the room.
    let read = |offset: usize| {
        let offset = if offset > TUPLE_BYTES - 2 { TUPLE_BYTES - 2 } else { offset };
        // SAFETY: two bytes at `offset` lie within the room; tuples have their fields at even offsets.
        unsafe { at.add(offset).cast::<u16>().read() }
    };
    let proto = read(offset!(tuple_proto)) as u8;
    let sport = u16::from_be(read(offset!(tuple_sport)));
    let dport = if proto == ICMP || proto == ICMPV6 { sport } else { u16::from_be(read(offset!(tuple_dport))) };
    let last = |family| FlowKey::last_word((sport, dport), proto, family, 0);
    let word = |offset: usize| u32::from(read(offset)) | u32::from(read(offset + 2)) << 16;
    let long = |offset: usize| u64::from(word(offset)) | u64::from(word(offset + 4)) << 32;
    let (src, dst) = (offset!(tuple_src), offset!(tuple_dst));
    if read(offset!(tuple_l3num)) == 2 {
        to.put([0, mapped_word(word(src)), 0, mapped_word(word(dst)), last(4)]);
    } else {
        to.put([long(src), long(src + 8), long(dst), long(dst + 8), last(6)]);
    }
}

#[inline(always)]
fn tuple(address: u64, to: &mut Tuple) {
    to._pad = 0;
    let l3: u16 = probe(address, offset!(tuple_l3num));
    to.proto = probe(address, offset!(tuple_proto));
    if l3 == 2 {
        to.family = 4;
        to.src = netprobe_common::flow::mapped(probe(address, offset!(tuple_src)));
        to.dst = netprobe_common::flow::mapped(probe(address, offset!(tuple_dst)));
    } else {
        to.family = 6;
        probe_into(&raw mut to.src, address, offset!(tuple_src));
        probe_into(&raw mut to.dst, address, offset!(tuple_dst));
    }
    to.sport = u16::from_be(probe(address, offset!(tuple_sport)));
    // For ICMP the second half is type and code, not a port: the identifier names both ends.
    to.dport = if to.proto == ICMP || to.proto == ICMPV6 {
        to.sport
    } else {
        u16::from_be(probe(address, offset!(tuple_dport)))
    };
}

/// Writes what the entry at `entry` has seen of its TCP connection.
#[inline(always)]
pub(crate) fn store_tcp(entry: u64, info: u32, to: &mut Invalid) {
    to.known = u8::from(has!(ct_tcp_sent) && has!(ct_tcp_answered) && has!(ct_tcp_state));
    if to.known == 0 {
        return;
    }
    to.confirmed = u8::from(status(entry) & CONFIRMED != 0);
    to.state = probe(entry, offset!(ct_tcp_state));
    to.reply = u8::from(info >= IS_REPLY);
    seen(entry + offset!(ct_tcp_sent) as u64, &mut to.seen[0]);
    seen(entry + offset!(ct_tcp_answered) as u64, &mut to.seen[1]);
}

#[inline(always)]
fn seen(address: u64, to: &mut TcpSeen) {
    to.end = probe(address, offset!(tcp_seen_end));
    to.max_end = probe(address, offset!(tcp_seen_max_end));
    to.max_window = probe(address, offset!(tcp_seen_max_window));
}

/// The entry translates addresses or ports.
#[inline(always)]
pub(crate) fn translates(ct: &Conntrack) -> bool {
    is_nat(ct.status)
}

/// The entry with this status translates addresses or ports.
#[inline(always)]
pub(crate) const fn is_nat(status: u32) -> bool {
    status & NAT_BITS != 0
}

/// A tuple as a flow.
#[inline(always)]
pub(crate) fn flow(tuple: &Tuple) -> FlowKey {
    FlowKey {
        src: tuple.src,
        dst: tuple.dst,
        sport: tuple.sport,
        dport: tuple.dport,
        proto: tuple.proto,
        family: tuple.family,
        ether_type: 0,
    }
}
