//! Who dropped a packet in a netfilter hook.
//!
//! The function that judges notes itself, and its table or chain; the hook's end sends the record, if the packet was a
//! followed one. In between the packet is freed: before 6.7 by the hook, since then by nftables itself.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use netprobe_common::{
    config::{Dropped, Judged, Refused},
    event::{Invalid, VERDICT_CONFIRM, VERDICT_NFT, VERDICT_UNKNOWN, VERDICT_XTABLES, Verdict},
    flow::FlowKey,
    wire,
};

use crate::{
    call::at_end,
    emit::{emit, now},
    kernel::{
        conntrack, has,
        hook::{self, HookState},
    },
};

/// `-NF_ACCEPT`: conntrack takes the segment for INVALID, and lets it pass without an entry.
const INVALID: i32 = -1;
/// `NF_DROP` and `NF_STOLEN` (`include/uapi/linux/netfilter.h`).
const DROP: u32 = 0;
const STOLEN: u32 = 2;

/// Who judged last, on each CPU.
#[map]
static JUDGED: PerCpuArray<Judged> = PerCpuArray::with_max_entries(1, 0);
/// The segment that conntrack called INVALID last, on each CPU.
#[map]
static REFUSED: PerCpuArray<Refused> = PerCpuArray::with_max_entries(1, 0);
/// The followed packet that was dropped last, on each CPU.
#[map]
static DROPPED: PerCpuArray<Dropped> = PerCpuArray::with_max_entries(1, 0);

/// Keeps a dropped packet of which a record was sent, for the hook's end.
#[inline(always)]
pub(crate) fn dropped(skb: u64, flow: &FlowKey) {
    if has!(hook_number) {
        keep(skb, flow);
    }
}

/// A function of its own, for its stack.
#[inline(never)]
fn keep(skb: u64, flow: &FlowKey) {
    if let Some(last) = DROPPED.get_ptr_mut(0) {
        // SAFETY: a per-CPU entry; only this CPU writes it.
        unsafe {
            (*last).skb = skb;
            (*last).flow = *flow;
        }
    }
}

at_end! {
    /// `nf_hook_slow(skb, state, entries, index)`, which returns 1, 0 or a negative errno.
    nf_hook_slow = "nf_hook_slow", nf_hook_slow_begins, nf_hook_slow_ends, 4, |of, err| ended(of(0), of(1), err)
}

at_end! {
    /// `nft_do_chain(pkt, priv)`: a base chain.
    nft_do_chain = "nft_do_chain", nft_do_chain_begins, nft_do_chain_ends, 2, |of, verdict| chain(of(0), of(1), verdict)
}

at_end! {
    /// `ipt_do_table(priv, skb, state)`, Linux >= 5.16.
    ipt_do_table = "ipt_do_table", ipt_do_table_begins, ipt_do_table_ends, 3, |of, verdict| table(of(0), of(1), verdict)
}

at_end! {
    /// `ip6t_do_table(priv, skb, state)`, Linux >= 5.16.
    ip6t_do_table = "ip6t_do_table", ip6t_do_table_begins, ip6t_do_table_ends, 3, |of, verdict| table(of(0), of(1), verdict)
}

at_end! {
    /// `__nf_conntrack_confirm(skb)`: another packet of the connection was faster, or the connection has no place.
    __nf_conntrack_confirm = "__nf_conntrack_confirm", __nf_conntrack_confirm_begins, __nf_conntrack_confirm_ends, 1, |of, verdict| {
        confirm(of(0), verdict)
    }
}

at_end! {
    /// `nf_conntrack_tcp_packet(ct, skb, dataoff, ctinfo, state)`: what it held against a segment is kept until a rule
    /// drops it.
    nf_conntrack_tcp_packet = "nf_conntrack_tcp_packet", nf_conntrack_tcp_packet_begins, nf_conntrack_tcp_packet_ends, 5, |of, verdict| {
        tracked(of(0), of(1), of(3) as u32, verdict)
    }
}

#[inline(always)]
fn chain(pkt: u64, chain: u64, verdict: i32) -> Option<()> {
    if !drops(verdict) {
        return None;
    }
    judged(hook::nft_skb(pkt), chain, VERDICT_NFT)
}

#[inline(always)]
fn confirm(skb: u64, verdict: i32) -> Option<()> {
    if !drops(verdict) {
        return None;
    }
    judged(skb, 0, VERDICT_CONFIRM)
}

#[inline(always)]
fn tracked(entry: u64, skb: u64, info: u32, verdict: i32) -> Option<()> {
    if verdict != INVALID {
        return None;
    }
    let last = REFUSED.get_ptr_mut(0)?;
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let last = unsafe { &mut *last };
    last.skb = skb;
    conntrack::store_tcp(entry, info, &mut last.invalid);
    Some(())
}

#[inline(always)]
fn table(table: u64, skb: u64, verdict: i32) -> Option<()> {
    if !drops(verdict) {
        return None;
    }
    judged(skb, table, VERDICT_XTABLES)
}

/// Whether a verdict ends the packet: stolen packets with an errno are dropped ones that are freed already.
#[inline(always)]
const fn drops(verdict: i32) -> bool {
    let verdict = verdict as u32;
    match verdict & 0xff {
        DROP => true,
        STOLEN => verdict >> 16 != 0,
        _ => false,
    }
}

#[inline(always)]
fn judged(skb: u64, object: u64, by: u32) -> Option<()> {
    let last = JUDGED.get_ptr_mut(0)?;
    // SAFETY: a per-CPU entry; only this CPU writes it.
    unsafe { *last = Judged { skb, object, by, _pad: 0 } };
    Some(())
}

/// Sends who dropped the packet, if it is the followed one that was dropped last.
#[inline(always)]
fn ended(skb: u64, state: u64, err: i32) -> Option<()> {
    if err >= 0 {
        return None;
    }
    let dropped = DROPPED.get_ptr_mut(0)?;
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let dropped = unsafe { &mut *dropped };
    if dropped.skb != skb {
        return None;
    }
    // Its address will be another packet's.
    dropped.skb = 0;
    let judged = JUDGED.get_ptr_mut(0)?;
    // SAFETY: as above.
    let judged = unsafe { &mut *judged };
    let known = judged.skb == skb;
    judged.skb = 0;
    let refused = refused(skb);
    let state = HookState::new(state);
    emit::<Verdict>(now(), |verdict| {
        verdict.flow = dropped.flow;
        verdict.skb = skb;
        verdict.netns = state.netns();
        verdict.in_ifindex = state.input();
        verdict.out_ifindex = state.output();
        verdict.err = err;
        verdict.by = if known { judged.by } else { VERDICT_UNKNOWN };
        verdict.family = state.family();
        verdict.hook = state.hook();
        verdict.table_family = 0;
        verdict._pad = 0;
        verdict._end = 0;
        verdict.invalid = refused;
        verdict.table[0] = 0;
        verdict.chain[0] = 0;
        if known && judged.by == VERDICT_NFT {
            hook::store_chain(judged.object, verdict);
        } else if known && judged.by == VERDICT_XTABLES {
            hook::store_table(judged.object, verdict);
        }
    });
    Some(())
}

/// What conntrack held against this packet, all zero where nothing.
#[inline(always)]
fn refused(skb: u64) -> Invalid {
    let Some(last) = REFUSED.get_ptr_mut(0) else { return wire::zeroed() };
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let last = unsafe { &mut *last };
    if last.skb != skb {
        return wire::zeroed();
    }
    last.skb = 0;
    last.invalid
}
