//! `struct nf_conn`, from `skb->_nfct`.

use netprobe_common::{
    event::{Conntrack, Tuple},
    flow::FlowKey,
    wire,
};

use super::{has, offset, probe, probe_into};

/// Low bits of `_nfct` are `enum ip_conntrack_info` (`NFCT_INFOMASK`).
const INFO_MASK: u64 = 7;
/// `IPS_SRC_NAT | IPS_DST_NAT`.
const NAT_BITS: u32 = 0x30;
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

/// The entry translates addresses or ports.
#[inline(always)]
pub(crate) fn translates(ct: &Conntrack) -> bool {
    ct.status & NAT_BITS != 0
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
