//! Packets the kernel freed without delivering them, and the ICMP errors it sent about them.

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_get_stack, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use netprobe_common::{
    config::{DropKey, Owner, TC_CAPTURE},
    event::{IcmpSend, SkbDrop},
    flow::FlowKey,
};

use crate::{
    capture::{self, Dropped},
    cgroups::{self, Held},
    emit::{count_drop, emit, now},
    filters, follow,
    kernel::{
        config,
        device::At,
        header::{Headers, Slot},
        skb::Skb,
    },
    netfilter,
};

/// `skb:kfree_skb(skb, location, reason[, rx_sk])`, Linux >= 5.17.
#[btf_tracepoint(function = "kfree_skb")]
pub(crate) fn kfree_skb(ctx: BtfTracePointContext) -> Option<()> {
    let reason: u32 = if config!(has_drop_reason) != 0 { ctx.arg::<u64>(2) as u32 } else { 0 };
    if reason < config!(first_drop_reason) {
        return None;
    }
    let skb = Skb::new(ctx.arg(0));
    let at = skb.at();
    let At { netns, ifindex } = at;
    let role = follow::role(netns);
    if role == 0 {
        return None;
    }
    let headers = skb.headers(Slot::Drop, skb.network())?;
    let vni = Headers::look_inside(Slot::Drop, skb.network());
    if config!(tc) & TC_CAPTURE != 0 {
        let at = Dropped { skb: skb.address(), location: ctx.arg(1), netns, ifindex, reason };
        capture::dropped(role, headers, &at);
        return None;
    }
    let held = if cgroups::shared(role) { cgroups::of(skb, &headers.flow) } else { None };
    let ours = follow::packet_or(role, headers, || follow::is_receiving(skb) || adopted(held, headers))
        || follow::port(netns, ifindex, headers)
        || follow::carried(headers);
    follow::received(skb);
    if !ours {
        return None;
    }
    let location = ctx.arg(1);
    let owner = owner(&headers.flow).or_else(|| owner(&headers.inner));
    let owner = match (owner, held) {
        (Some(owner), _) => owner.owner,
        (None, Some(held)) => cgroups::number(held),
        (None, None) => 0,
    };
    let key = DropKey { location, netns, ifindex, reason, owner };
    let (seen, wanted) = count_drop(&key, skb.len());
    if !wanted {
        return None;
    }
    if let Some(held) = held {
        cgroups::tell(&headers.flow, held, netns);
    }
    netfilter::dropped(skb.address(), &headers.flow);
    emit::<SkbDrop>(now(), |drop| {
        skb.store(headers, at, &mut drop.head);
        skb.store_conntrack(&mut drop.ct);
        drop.location = location;
        drop.seen = seen;
        drop.reason = reason;
        drop.stack_len = stack(&ctx, &mut drop.stack);
        drop.carried = if headers.carries() { headers.inner.copied() } else { FlowKey::EMPTY };
        drop.vni = vni;
        drop.filter = filters::preference(skb.address());
    });
    Some(())
}

/// Whose packet it is, where we know: its sender's, else its addressee's.
#[inline(always)]
fn owner(flow: &FlowKey) -> Option<Owner> {
    follow::owner(&flow.src).or_else(|| follow::owner(&flow.dst))
}

/// Whether it is a packet of a pod that shares the node's namespace, and passes the user's filter.
#[inline(always)]
fn adopted(held: Option<Held>, headers: &Headers) -> bool {
    held.is_some() && follow::adopt(headers)
}

/// `icmp:icmp_send(skb, type, code)`.
#[btf_tracepoint(function = "icmp_send")]
pub(crate) fn icmp_send(ctx: BtfTracePointContext) -> Option<()> {
    let skb = Skb::new(ctx.arg(0));
    let at = skb.at();
    let role = follow::role(at.netns);
    if role == 0 {
        return None;
    }
    let headers = skb.headers(Slot::Icmp, skb.network())?;
    if !follow::packet(role, skb, headers) {
        return None;
    }
    emit::<IcmpSend>(now(), |icmp| {
        skb.store(headers, at, &mut icmp.head);
        skb.store_conntrack(&mut icmp.ct);
        icmp.icmp_type = ctx.arg::<u64>(1) as u32;
        icmp.icmp_code = ctx.arg::<u64>(2) as u32;
        icmp.stack_len = stack(&ctx, &mut icmp.stack);
        icmp._pad = 0;
    });
    Some(())
}

/// Writes the kernel call stack, innermost first, and says how many words of it are in use.
#[inline(always)]
pub(crate) fn stack<const N: usize>(ctx: &BtfTracePointContext, to: &mut [u64; N]) -> u32 {
    // SAFETY: the buffer is a whole array of the size given.
    let bytes = unsafe { bpf_get_stack(ctx.as_ptr(), to.as_mut_ptr().cast(), size_of::<[u64; N]>() as u32, 0) };
    if bytes > 0 { (bytes / 8) as u32 } else { 0 }
}
