//! Route look-ups: the kernel's own decision.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use netprobe_common::{
    config::{MODE_DNS, NS_FOLLOWED, PLACE_LOOKUP, PlaceKey, Receiving},
    event::RouteLookup,
    flow::FlowKey,
};

use crate::{
    cgroups::{self, Held},
    drops::stack,
    emit::{count_place, emit, now},
    follow,
    kernel::{
        config,
        device::{Device, inum, task_netns, task_netns_seldom},
        route::{NextHop, Question, fib6_result, fib6_table_id},
        rule::PolicyRule,
    },
    rules,
};

/// What is known of a look-up so far, for either program. Not on the stack, which before Linux 6.13 has no room for the key;
/// and what the verifier does not follow, as it does registers and the stack, it need not go through for every way that
/// leads here: that took half the time of loading all programs.
#[map]
static LOOKUPS: PerCpuArray<Lookup> = PerCpuArray::with_max_entries(2, 0);

/// `fib:fib_table_lookup(tb_id, flp, nhc, err)`. On a miss no argument tells the namespace, but the policy rule does.
#[btf_tracepoint(function = "fib_table_lookup")]
pub(crate) fn fib_table_lookup(ctx: BtfTracePointContext) -> Option<()> {
    let (flow, hop): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(2));
    if flow.is_null() {
        return None;
    }
    let question = Question::V4(flow);
    if rests(question) {
        return None;
    }
    let mut asked = question.addresses();
    let table = ctx.arg::<u64>(0) as u32;
    let rule = rules::asking(flow as u64, table);
    // By a checked pointer, here, where few ways lead: it is read of every packet of a followed pod.
    let device = NextHop::checked_device(hop);
    let exact = || if rule.is_known() { rule.netns() } else { device.map_or(0, Device::netns) };
    let lookup = lookup(question, &mut asked, rule, exact)?;
    question.complete(&mut asked);
    let ifindex = device.map_or(0, Device::ifindex);
    let answer = Answer { table, err: ctx.arg::<u64>(3) as i32, ifindex, hop: NextHop::new(hop as u64) };
    send(&ctx, question, &asked, lookup, &answer)
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
    let question = Question::V6(flow);
    if rests(question) {
        return None;
    }
    let mut asked = question.addresses();
    let table = fib6_table_id(ctx.arg(2));
    let lookup = lookup(question, &mut asked, rules::asking(flow as u64, table), || exact)?;
    question.complete(&mut asked);
    let (hop, err) = fib6_result(net, result);
    send(&ctx, question, &asked, lookup, &Answer { table, err, ifindex: hop.ifindex(), hop })
}

/// Where a look-up happened, and for whom.
struct Lookup {
    /// The row it is counted in.
    key: PlaceKey,
    /// What the CPU is receiving.
    receiving: Receiving,
    /// Whose process asks, or the flow is, where that pod shares the node's namespace; nobody's otherwise.
    held: Held,
    /// The policy rule that led to the table, or none.
    rule: PolicyRule,
    /// Namespace as the kernel tells it, or 0.
    exact: u32,
    /// Namespace of the current task; 0 where nobody has asked yet.
    task: u32,
    /// 1: it may be about the packet being received.
    of_packet: u32,
}

/// What a table answered.
struct Answer {
    table: u32,
    err: i32,
    /// The next hop's device; 0 where there is none.
    ifindex: u32,
    hop: NextHop,
}

/// Whether it is not worth another look: nothing followed is on its way, and it asks for a packet
/// that came in and has none of our addresses. Where DNS is what the run is about: it is neither for such a packet that came
/// in, nor for one to be sent.
#[inline(always)]
fn rests(question: Question) -> bool {
    if config!(mode) & MODE_DNS != 0 {
        let iif = question.iif();
        return !follow::is_receiving_by(iif) && (iif > 1 || !question.names_port(follow::DNS));
    }
    if question.iif() <= 1 || follow::in_flight() {
        return false;
    }
    match question.ipv4() {
        Some((src, dst)) => !follow::may_have_ipv4(src, dst),
        None => !follow::may_have_address(&question.addresses()),
    }
}

/// Where the look-up happened, if it is followed. Cheapest test first: who asks, for whom.
#[inline(always)]
fn lookup(
    question: Question,
    asked: &mut FlowKey,
    rule: PolicyRule,
    exact: impl FnOnce() -> u32,
) -> Option<&'static mut Lookup> {
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let receiving = unsafe { *follow::receiving()? };
    let iif = question.iif();
    // The reverse-path look-up of a received packet asks with `lo` as its input.
    let of_packet = receiving.followed != 0 && (receiving.ifindex == iif || iif <= 1);
    let task = if iif <= 1 { task_netns() } else { 0 };
    let role = if task == 0 { 0 } else { follow::role(task) };
    // A process that is about to send.
    let held = if iif <= 1 && cgroups::shared(role) {
        question.complete(asked);
        cgroups::of_question(asked).unwrap_or(Held::NOBODY)
    } else {
        Held::NOBODY
    };
    if !of_packet && role & NS_FOLLOWED == 0 && !held.is_known() && !follow::ends(asked) {
        return None;
    }
    let exact = exact();
    // Of another namespace, whose device has the same number.
    let of_packet = of_packet && (exact == 0 || exact == receiving.netns);
    let task = if task == 0 && exact == 0 { task_netns_seldom() } else { task };
    // A miss has no namespace of its own: it happened where the packet is, or where the task is.
    let ours = if exact != 0 {
        follow::role(exact) != 0
    } else {
        follow::role(receiving.netns) != 0 || follow::role(task) != 0
    };
    if !ours {
        return None;
    }
    let lookup = LOOKUPS.get_ptr_mut(u32::from(question.ipv4().is_none()))?;
    // SAFETY: a per-CPU entry of this program's own, which never runs twice at once on a CPU.
    let lookup = unsafe { &mut *lookup };
    lookup.receiving = receiving;
    lookup.held = held;
    lookup.rule = rule;
    lookup.exact = exact;
    lookup.task = task;
    lookup.of_packet = u32::from(of_packet);
    // The compiler is to read what it has just written.
    Some(core::hint::black_box(lookup))
}

#[inline(always)]
fn send(
    ctx: &BtfTracePointContext,
    question: Question,
    asked: &FlowKey,
    lookup: &mut Lookup,
    answer: &Answer,
) -> Option<()> {
    if lookup.of_packet == 0 && !follow::asked_for(asked) {
        return None;
    }
    let key = &mut lookup.key;
    key.flow = asked.copied();
    key.netns = if lookup.exact != 0 { lookup.exact } else { lookup.task };
    key.ifindex = answer.ifindex;
    key.place = PLACE_LOOKUP;
    key.detail = answer.table << 8 | (answer.err as u32 & 0xff);
    let (_, wanted) = count_place(key, 0, false);
    if !wanted {
        return None;
    }
    if lookup.held.is_known() {
        cgroups::tell(asked, lookup.held, lookup.task);
    }
    emit::<RouteLookup>(now(), |record| {
        record.flow = asked.copied();
        record.skb = if lookup.of_packet != 0 { lookup.receiving.skb } else { 0 };
        answer.hop.store_gateway(&mut record.gateway);
        record.netns = lookup.exact;
        record.netns_receive = lookup.receiving.netns;
        record.netns_task = if lookup.task == 0 { task_netns_seldom() } else { lookup.task };
        record.table = answer.table;
        record.err = answer.err;
        record.in_ifindex = question.iif();
        record.oif = question.oif();
        record.out_ifindex = answer.ifindex;
        record.mark = question.mark();
        record.has_rule = u32::from(lookup.rule.is_known());
        record.rule = lookup.rule.preference();
        record.stack_len = stack(ctx, &mut record.stack);
    });
    Some(())
}
