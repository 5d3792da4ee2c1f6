//! Who dropped a packet in a netfilter hook.
//!
//! The function that judges notes itself, and its table or chain; the hook's end sends the record, if the packet was a
//! followed one. In between the packet is freed: before 6.7 by the hook, since then by nftables itself.

use aya_ebpf::{
    macros::{fexit, map},
    maps::PerCpuArray,
    programs::FExitContext,
};
use netprobe_common::{
    config::{Dropped, Judged, Refused},
    event::{Invalid, VERDICT_CONFIRM, VERDICT_NFT, VERDICT_UNKNOWN, VERDICT_XTABLES, Verdict},
    flow::FlowKey,
    wire,
};

use crate::{
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

/// `nf_hook_slow(skb, state, entries, index)`, which returns 1, 0 or a negative errno.
#[fexit(function = "nf_hook_slow")]
pub(crate) fn nf_hook_slow(ctx: FExitContext) -> Option<()> {
    ended(ctx.arg(0), ctx.arg(1), ctx.arg::<u64>(4) as i32)
}

/// `nft_do_chain(pkt, priv)`: a base chain.
#[fexit(function = "nft_do_chain")]
pub(crate) fn nft_do_chain(ctx: FExitContext) -> Option<()> {
    if !drops(ctx.arg::<u64>(2) as u32) {
        return None;
    }
    judged(hook::nft_skb(ctx.arg(0)), ctx.arg(1), VERDICT_NFT)
}

/// `ipt_do_table(priv, skb, state)`, Linux >= 5.16.
#[fexit(function = "ipt_do_table")]
pub(crate) fn ipt_do_table(ctx: FExitContext) -> Option<()> {
    table(ctx.arg(0), ctx.arg(1), ctx.arg::<u64>(3) as u32)
}

/// `ip6t_do_table(priv, skb, state)`, Linux >= 5.16.
#[fexit(function = "ip6t_do_table")]
pub(crate) fn ip6t_do_table(ctx: FExitContext) -> Option<()> {
    table(ctx.arg(0), ctx.arg(1), ctx.arg::<u64>(3) as u32)
}

/// `__nf_conntrack_confirm(skb)`: another packet of the connection was faster, or the connection has no place.
#[fexit(function = "__nf_conntrack_confirm")]
pub(crate) fn __nf_conntrack_confirm(ctx: FExitContext) -> Option<()> {
    if !drops(ctx.arg::<u64>(1) as u32) {
        return None;
    }
    judged(ctx.arg(0), 0, VERDICT_CONFIRM)
}

/// `nf_conntrack_tcp_packet(ct, skb, dataoff, ctinfo, state)`: what it held against a segment is kept until a rule drops it.
#[fexit(function = "nf_conntrack_tcp_packet")]
pub(crate) fn nf_conntrack_tcp_packet(ctx: FExitContext) -> Option<()> {
    if ctx.arg::<u64>(5) as i32 != INVALID {
        return None;
    }
    let last = REFUSED.get_ptr_mut(0)?;
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let last = unsafe { &mut *last };
    last.skb = ctx.arg(1);
    conntrack::store_tcp(ctx.arg(0), ctx.arg::<u64>(3) as u32, &mut last.invalid);
    Some(())
}

#[inline(always)]
fn table(table: u64, skb: u64, verdict: u32) -> Option<()> {
    if !drops(verdict) {
        return None;
    }
    judged(skb, table, VERDICT_XTABLES)
}

/// Whether a verdict ends the packet: stolen packets with an errno are dropped ones that are freed already.
#[inline(always)]
const fn drops(verdict: u32) -> bool {
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
