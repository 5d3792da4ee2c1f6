//! What NAT chooses for connections, and from which range.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use netprobe_common::{
    event::{NAT_DESTINATION, NAT_MASQUERADE, NAT_SOURCE, NatChoice},
    flow::FlowKey,
};

use crate::{
    call::at_end,
    emit::{emit, now},
    follow,
    kernel::{
        conntrack::{self, TupleCopy},
        has,
        nat::Range,
        offset, probe,
    },
};

/// `NF_ACCEPT`.
const ACCEPT: i32 = 1;
/// `NF_NAT_MANIP_SRC`, the first of `enum nf_nat_manip_type`.
const SOURCE: u32 = 0;

/// Room for both directions of a connection, on each CPU, for each of the programs: one may interrupt another.
#[map]
static TUPLES: PerCpuArray<[FlowKey; 2]> = PerCpuArray::with_max_entries(3, 0);

at_end! {
    /// `nf_nat_setup_info(ct, range, maniptype)`.
    nf_nat_setup_info = "nf_nat_setup_info", nf_nat_setup_info_begins, nf_nat_setup_info_ends, 3, |of, verdict| {
        let by = if of(2) as u32 == SOURCE { NAT_SOURCE } else { NAT_DESTINATION };
        chosen(0, of(0), of(1), (by, 0), verdict)
    }
}

at_end! {
    /// `nf_nat_masquerade_ipv4(skb, hooknum, range, out)`.
    nf_nat_masquerade_ipv4 = "nf_nat_masquerade_ipv4", nf_nat_masquerade_ipv4_begins, nf_nat_masquerade_ipv4_ends, 4, |of, verdict| {
        chosen(1, conntrack::of(of(0)), of(2), (NAT_MASQUERADE, of(3)), verdict)
    }
}

at_end! {
    /// `nf_nat_masquerade_ipv6(skb, range, out)`.
    nf_nat_masquerade_ipv6 = "nf_nat_masquerade_ipv6", nf_nat_masquerade_ipv6_begins, nf_nat_masquerade_ipv6_ends, 3, |of, verdict| {
        chosen(2, conntrack::of(of(0)), of(1), (NAT_MASQUERADE, of(2)), verdict)
    }
}

/// Runs for every new connection, with NAT or without: the entry's status comes first.
#[inline(always)]
fn chosen(program: u32, entry: u64, range: u64, (by, device): (u32, u64), verdict: i32) -> Option<()> {
    let known = has!(ct_orig) && has!(ct_net) && has!(nat_low) && has!(nat_high);
    if verdict != ACCEPT || entry == 0 || !known {
        return None;
    }
    let bit = if by == NAT_DESTINATION { conntrack::DESTINATION_NAT } else { conntrack::SOURCE_NAT };
    if conntrack::status(entry) & bit == 0 {
        return None;
    }
    let net: u64 = probe(entry, offset!(ct_net));
    let netns: u32 = probe(net, offset!(net_inum));
    if follow::role(netns) == 0 {
        return None;
    }
    // SAFETY: a per-CPU entry of this program's own, which never runs twice at once on a CPU.
    let [original, reply] = unsafe { &mut *TUPLES.get_ptr_mut(program)? };
    let mut room: TupleCopy = [0; 5];
    conntrack::original(entry, &mut room, original);
    conntrack::reply(entry, &mut room, reply);
    if !follow::flow(original) && !follow::flow(reply) {
        return None;
    }
    let range = Range::new(range);
    emit::<NatChoice>(now(), |choice| {
        choice.original = original.copied();
        choice.reply = reply.copied();
        range.store(original.family, choice);
        choice.by = by;
        choice.netns = netns;
        choice.out_ifindex = if device == 0 { 0 } else { probe(device, offset!(dev_ifindex)) };
    });
    Some(())
}
