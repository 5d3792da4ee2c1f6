//! What is ours: the only reader of the filter. The cheapest test comes first.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use netprobe_common::{
    config::{Filter, MODE_ALL, MODE_DNS, NS_FOLLOWED, NS_SHARED, NetnsSlot, Owner, Receiving},
    event::Conntrack,
    filter,
    flow::{FlowKey, mapped_word, spread_words},
    limits::{ADDRESS_BITS_WORDS, ADDRESSES_MAX, FLOW_BITS_WORDS, FLOWS_MAX, NETNS_MAX, NETNS_SLOTS},
};

use crate::kernel::{
    CONFIG, config, conntrack,
    header::{Ends, Headers},
    skb::Skb,
};

/// The port of DNS.
pub(crate) const DNS: u16 = 53;

/// Namespaces by the low bits of their inode number: one load instead of a hash.
#[map]
static NETNS: Array<NetnsSlot> = Array::with_max_entries(NETNS_SLOTS, 0);
/// Namespaces that share a slot.
#[map]
static NETNS_SHARED: HashMap<u32, u32> = HashMap::with_max_entries(NETNS_MAX, 0);
/// Addresses of the pods we know.
#[map]
static ADDRESSES: HashMap<[u8; 16], Owner> = HashMap::with_max_entries(ADDRESSES_MAX, 0);
/// What `ADDRESS_BITS` holds.
type AddressBits = [u64; ADDRESS_BITS_WORDS as usize];
/// One bit per followed address, in front of `ADDRESSES`. Written by user space only.
#[map]
static ADDRESS_BITS: Array<AddressBits> = Array::with_max_entries(1, 0);
/// Translated forms of followed flows, in canonical direction.
#[map]
static FLOWS: LruHashMap<FlowKey, u8> = LruHashMap::with_max_entries(FLOWS_MAX, 0);
/// One byte per flow, in front of `FLOWS`: bytes, because plain stores of bytes cannot undo each
/// other.
#[map]
static FLOW_MARKS: Array<[u8; FLOW_BITS_WORDS as usize * 8]> = Array::with_max_entries(1, 0);
/// The node's devices behind which a followed pod is, `namespace << 32 | index`: what tells whose a frame without IP
/// addresses is.
#[map]
static PORTS: HashMap<u64, u32> = HashMap::with_max_entries(NETNS_MAX, 0);
/// 1 while anything followed is on its way; user space clears it when nothing was for a while.
#[map]
static IN_FLIGHT: Array<u32> = Array::with_max_entries(1, 0);
/// What each CPU is receiving.
#[map]
static RECEIVING: PerCpuArray<Receiving> = PerCpuArray::with_max_entries(1, 0);

/// `NS_*` bits of a namespace, 0 for those that are none of ours.
#[inline(always)]
pub(crate) fn role(inum: u32) -> u32 {
    let Some(slot) = NETNS.get(inum & (NETNS_SLOTS - 1)) else { return 0 };
    if slot.inum == inum {
        return slot.role;
    }
    if slot.role & NS_SHARED == 0 {
        return 0;
    }
    // SAFETY: the value is a plain number that user space replaces whole.
    unsafe { NETNS_SHARED.get(inum) }.copied().unwrap_or(0)
}

/// Whether everything in the namespaces we know is followed.
#[inline(always)]
pub(crate) fn all() -> bool {
    config!(mode) & MODE_ALL != 0
}

/// Whether anything followed is on its way.
#[inline(always)]
pub(crate) fn in_flight() -> bool {
    all() || IN_FLIGHT.get(0).is_some_and(|word| *word != 0)
}

#[inline(always)]
fn set_in_flight() {
    if let Some(word) = IN_FLIGHT.get_ptr_mut(0) {
        // SAFETY: the map has the entry, and a word that two CPUs set to 1 at once is 1.
        unsafe {
            if *word == 0 {
                *word = 1;
            }
        }
    }
}

/// Whether either address of `flow` is followed, or all are.
#[inline(always)]
pub(crate) fn has_followed_address(flow: &FlowKey) -> bool {
    all() || addresses(flow)
}

/// Whether either address of `flow` is followed.
#[inline(always)]
fn addresses(flow: &FlowKey) -> bool {
    let Some(bits) = ADDRESS_BITS.get(0) else { return false };
    let (src, dst) = flow.ends();
    address(bits, src, &flow.src) || address(bits, dst, &flow.dst)
}

#[inline(always)]
fn address(bits: &AddressBits, words: (u64, u64), ip: &[u8; 16]) -> bool {
    bit(bits, words) && owner(ip).is_some_and(|owner| owner.followed != 0)
}

/// Whether either IPv4 address, in network byte order, may be followed.
#[inline(always)]
pub(crate) fn may_have_ipv4(src: u32, dst: u32) -> bool {
    let Some(bits) = ADDRESS_BITS.get(0) else { return false };
    bit(bits, (0, mapped_word(src))) || bit(bits, (0, mapped_word(dst)))
}

#[inline(always)]
fn bit(bits: &AddressBits, words: (u64, u64)) -> bool {
    let bit = spread_words(words) % (ADDRESS_BITS_WORDS * 64);
    bits[(bit / 64) as usize] >> (bit % 64) & 1 != 0
}

/// Whose address it is, where we know.
#[inline(always)]
pub(crate) fn owner(ip: &[u8; 16]) -> Option<Owner> {
    // SAFETY: the value is two plain numbers that user space replaces whole.
    unsafe { ADDRESSES.get(ip) }.copied()
}

/// Where a flow's byte is in `FLOW_MARKS`: the same for both directions.
#[inline(always)]
fn mark_of(src: u32, dst: u32, sport: u16, dport: u16) -> u32 {
    let ports = (u32::from(sport) + u32::from(dport)).wrapping_mul(0x85eb_ca6b);
    (src.wrapping_add(dst) ^ ports) % (FLOW_BITS_WORDS * 8)
}

#[inline(always)]
fn flow_mark(key: &FlowKey) -> u32 {
    let (src, dst) = key.ends();
    mark_of(spread_words(src), spread_words(dst), key.sport, key.dport)
}

/// Whether the packet may be followed, by a glance: its addresses and ports against the tables of
/// bits and bytes. Says yes to every followed packet, and to few others.
#[inline(always)]
pub(crate) fn candidate(role: u32, skb: Skb, ip: u64) -> bool {
    all() || role & NS_FOLLOWED != 0 || is_receiving(skb) || glance(ip)
}

/// One copy of the header, two addresses, one flow. A function of its own, for its stack.
#[inline(never)]
fn glance(ip: u64) -> bool {
    let ends = Ends::read(ip);
    let Some(bits) = ADDRESS_BITS.get(0) else { return false };
    if ends.all || bit(bits, ends.src) || bit(bits, ends.dst) {
        return true;
    }
    let Some(marks) = FLOW_MARKS.get(0) else { return false };
    marks[mark_of(spread_words(ends.src), spread_words(ends.dst), ends.sport, ends.dport) as usize] != 0
}

/// Whether either address of `flow` may be followed: by its bit alone.
#[inline(always)]
pub(crate) fn may_have_address(flow: &FlowKey) -> bool {
    let Some(bits) = ADDRESS_BITS.get(0) else { return false };
    let (src, dst) = flow.ends();
    bit(bits, src) || bit(bits, dst)
}

/// Whether it is a translated form of a followed flow. A function of its own, as the two below
/// it: the key would not fit on a caller's stack.
#[inline(never)]
fn translated(flow: &FlowKey) -> bool {
    let key = flow.canonical();
    let Some(marks) = FLOW_MARKS.get(0) else { return false };
    if marks[flow_mark(&key) as usize] == 0 {
        return false;
    }
    // SAFETY: the value is not looked at.
    unsafe { FLOWS.get(key) }.is_some()
}

/// Follows a flow of a pod that shares the node's namespace, where it passes the user's filter. Says whether.
#[inline(always)]
pub(crate) fn adopt(headers: &Headers) -> bool {
    let adopts = passes(headers);
    if adopts {
        remember_flow(&headers.flow);
        set_in_flight();
    }
    adopts
}

/// Remembers both forms of a translated flow, so that its packets are known by either, also
/// where conntrack has not seen them yet.
#[inline(always)]
pub(crate) fn remember(ct: &Conntrack) {
    // Where everything is followed only a filter can lose sight of a form.
    if (all() && config!(filter_tests) == 0) || ct.entry == 0 || !conntrack::translates(ct) {
        return;
    }
    remember_flow(&conntrack::flow(&ct.reply));
    remember_flow(&conntrack::flow(&ct.original));
}

#[inline(never)]
fn remember_flow(flow: &FlowKey) {
    let key = flow.canonical();
    if let Some(marks) = FLOW_MARKS.get_ptr_mut(0) {
        // SAFETY: the index is below the array's length; a byte set twice is set.
        unsafe { (*marks)[flow_mark(&key) as usize] = 1 };
    }
    // A flow that finds no room is followed by its addresses alone.
    let _ = FLOWS.insert(key, 1, 0);
}

/// What this CPU is receiving.
#[inline(always)]
pub(crate) fn receiving() -> Option<*mut Receiving> {
    RECEIVING.get_ptr_mut(0)
}

/// Forgets the packet that this CPU is receiving, if it is this one: it ends here, and its address
/// will be given to another at once.
#[inline(always)]
pub(crate) fn received(skb: Skb) {
    if let Some(now) = receiving() {
        // SAFETY: a per-CPU entry; only this CPU writes it.
        let now = unsafe { &mut *now };
        if now.skb == skb.address() {
            now.followed = 0;
        }
    }
}

/// Whether the packet is followed: it is in a followed namespace, or has a followed address, or
/// is a followed packet in another dress; and passes the user's filter.
#[inline(always)]
pub(crate) fn packet(role: u32, skb: Skb, headers: &Headers) -> bool {
    packet_or(role, headers, || is_receiving(skb))
}

/// The same; `in_another_dress` tells a followed packet by what its headers do not say.
#[inline(always)]
pub(crate) fn packet_or(role: u32, headers: &Headers, in_another_dress: impl FnOnce() -> bool) -> bool {
    let flow = &headers.flow;
    let ours = all() || role & NS_FOLLOWED != 0 || addresses(flow);
    // A packet that fitted the filter may not fit it any more once its port is translated.
    let followed = (ours && passes(headers)) || translated(flow) || in_another_dress();
    if followed {
        set_in_flight();
    }
    followed
}

/// Whether it is a tunnel's packet that carries one of a followed address; and passes the user's filter.
#[inline(always)]
pub(crate) fn carried(headers: &Headers) -> bool {
    headers.carries() && has_followed_address(&headers.inner) && passes(headers)
}

/// Whether a packet is a followed pod's by the device it is on, whatever its addresses: a frame without any, or a source that
/// is not the pod's; and passes the user's filter.
#[inline(always)]
pub(crate) fn port(netns: u32, ifindex: u32, headers: &Headers) -> bool {
    passes(headers) && leads_to_pod(netns, ifindex)
}

/// Whether a followed pod is behind that device of the node.
#[inline(always)]
pub(crate) fn leads_to_pod(netns: u32, ifindex: u32) -> bool {
    let key = u64::from(netns) << 32 | u64::from(ifindex);
    // SAFETY: the value is not looked at.
    unsafe { PORTS.get(key) }.is_some()
}

/// Whether this CPU is receiving a followed packet, which came in by the device `iif`; or by any, where a look-up names none
/// (1 is `lo`, with which the reverse path is looked up).
#[inline(always)]
pub(crate) fn is_receiving_by(iif: u32) -> bool {
    let Some(now) = receiving() else { return false };
    // SAFETY: a per-CPU entry; only this CPU writes it.
    unsafe { (*now).followed != 0 && (iif <= 1 || (*now).ifindex == iif) }
}

/// Whether look-ups and sockets of `flow` are asked for at all.
#[inline(always)]
pub(crate) fn asked_for(flow: &FlowKey) -> bool {
    config!(mode) & MODE_DNS == 0 || flow.sport == DNS || flow.dport == DNS
}

/// Whether a question or a socket of `flow` is followed.
#[inline(always)]
pub(crate) fn flow(flow: &FlowKey) -> bool {
    asked_for(flow) && ends(flow)
}

/// The same, whatever its ports.
#[inline(always)]
pub(crate) fn ends(flow: &FlowKey) -> bool {
    let ours = all() || addresses(flow) || (in_flight() && translated(flow));
    if ours {
        set_in_flight();
    }
    ours
}

/// Whether it is the followed packet that this CPU is receiving: after translation or
/// encapsulation its headers do not tell any more.
#[inline(always)]
pub(crate) fn is_receiving(skb: Skb) -> bool {
    let Some(now) = receiving() else { return false };
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let now = unsafe { *now };
    now.followed != 0 && now.skb == skb.address()
}

/// The user's filter, in either direction: whoever asks for port 53 wants the answers too.
#[inline(always)]
fn passes(headers: &Headers) -> bool {
    let tests = config!(filter_tests);
    if tests == 0 {
        return true;
    }
    evaluate(headers, &headers.flow, false)
        || evaluate(headers, &headers.flow, true)
        || (headers.inner.family != 0 && evaluate(headers, &headers.inner, false))
}

/// The user's filter, as it is written: of a packet with these headers, as if its flow were `flow`.
#[inline(always)]
pub(crate) fn passes_as(headers: &Headers, flow: &FlowKey) -> bool {
    config!(filter_tests) == 0 || evaluate(headers, flow, false)
}

#[inline(always)]
fn evaluate(headers: &Headers, flow: &FlowKey, reversed: bool) -> bool {
    let (tests, clauses) = (config!(filter_tests), config!(filter_clauses));
    // Without this the compiler takes the zeros it sees for the filter, and reads none of it.
    let filter = core::hint::black_box(&raw const CONFIG.filter);
    // SAFETY: `CONFIG` is a live static, frozen before the program was loaded.
    let filter: &Filter = unsafe { &*filter };
    filter::passes(filter, (tests, clauses), flow, reversed, headers.traits(), |bits| headers.forget(bits))
}
