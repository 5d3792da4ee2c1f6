//! Route look-ups: the kernel's own decision.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::{
    config::{NS_FOLLOWED, PLACE_LOOKUP, PlaceKey},
    event::RouteLookup,
};

use crate::{
    drops::stack,
    emit::{count_place, emit, now},
    follow,
    kernel::{
        device::{inum, task_netns},
        route::{NextHop, Question, fib6_result, fib6_table_id, flowi4, flowi6},
    },
};

/// `fib:fib_table_lookup(tb_id, flp, nhc, err)`. On a miss no argument tells the namespace.
#[btf_tracepoint(function = "fib_table_lookup")]
pub(crate) fn fib_table_lookup(ctx: BtfTracePointContext) -> Option<()> {
    let flow: *const u8 = ctx.arg(1);
    if flow.is_null() {
        return None;
    }
    let hop = NextHop::read(ctx.arg(2));
    let exact = hop.netns;
    lookup(&ctx, ctx.arg::<u64>(0) as u32, &flowi4(flow), exact, &hop, ctx.arg::<u64>(3) as i32)
}

/// `fib6:fib6_table_lookup(net, res, table, flp)`.
#[btf_tracepoint(function = "fib6_table_lookup")]
pub(crate) fn fib6_table_lookup(ctx: BtfTracePointContext) -> Option<()> {
    let (net, result, flow): (*const u8, *const u8, *const u8) = (ctx.arg(0), ctx.arg(1), ctx.arg(3));
    if net.is_null() || result.is_null() || flow.is_null() {
        return None;
    }
    let exact = inum(net);
    if follow::role(exact) == 0 {
        return None;
    }
    let (hop, err) = fib6_result(net, result);
    lookup(&ctx, fib6_table_id(ctx.arg(2)), &flowi6(flow), exact, &hop, err)
}

#[inline(always)]
fn lookup(
    ctx: &BtfTracePointContext,
    table: u32,
    question: &Question,
    exact: u32,
    hop: &NextHop,
    err: i32,
) -> Option<()> {
    if exact != 0 && follow::role(exact) == 0 {
        return None;
    }
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let receiving = unsafe { *follow::receiving()? };
    let task = task_netns();
    // The reverse-path look-up of a received packet asks with `lo` as its input.
    let of_packet = receiving.followed != 0 && (receiving.ifindex == question.iif || question.iif <= 1);
    let of_task = follow::role(task) & NS_FOLLOWED != 0 && question.iif <= 1;
    if !of_packet && !of_task && !follow::flow(&question.flow) {
        return None;
    }
    // A miss has no namespace of its own: it happened where the packet is, or where the task is.
    if exact == 0 && follow::role(receiving.netns) == 0 && follow::role(task) == 0 {
        return None;
    }
    let now_ns = now();
    let key = PlaceKey {
        flow: question.flow,
        netns: if exact != 0 { exact } else { task },
        ifindex: hop.ifindex,
        place: PLACE_LOOKUP,
        detail: table << 8 | (err as u32 & 0xff),
    };
    let (_, wanted) = count_place(&key, 0, now_ns, false);
    if !wanted {
        return None;
    }
    emit::<RouteLookup>(now_ns, |record| {
        record.flow = question.flow;
        record.skb = if of_packet { receiving.skb } else { 0 };
        record.gateway = hop.gateway;
        record.netns = exact;
        record.netns_receive = receiving.netns;
        record.netns_task = task;
        record.table = table;
        record.err = err;
        record.in_ifindex = question.iif;
        record.oif = question.oif;
        record.out_ifindex = hop.ifindex;
        record.mark = question.mark;
        record.stack_len = stack(ctx, &mut record.stack);
    });
    Some(())
}
