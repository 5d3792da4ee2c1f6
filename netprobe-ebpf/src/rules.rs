//! Policy rules (`ip rule`): which one led to the table that is asked.

use aya_ebpf::{
    macros::{fentry, kprobe, map},
    maps::PerCpuArray,
    programs::{FEntryContext, ProbeContext},
};
use netprobe_common::config::Ruling;

use crate::{
    call::argument,
    kernel::{has, rule::PolicyRule},
};

/// The rule that each CPU is following.
#[map]
static RULING: PerCpuArray<Ruling> = PerCpuArray::with_max_entries(1, 0);

/// `fib4_rule_action(rule, flp, flags, arg)`: the rule matches, and its table will be asked within.
#[fentry(function = "fib4_rule_action")]
pub(crate) fn fib4_rule_action(ctx: FEntryContext) {
    note(ctx.arg(0), ctx.arg(1));
}

/// The same by a kprobe.
#[kprobe]
pub(crate) fn fib4_rule_action_begins(ctx: ProbeContext) {
    note(argument(&ctx, 0), argument(&ctx, 1));
}

/// `fib6_rule_action(rule, flp, flags, arg)`.
#[fentry(function = "fib6_rule_action")]
pub(crate) fn fib6_rule_action(ctx: FEntryContext) {
    note(ctx.arg(0), ctx.arg(1));
}

/// The same by a kprobe.
#[kprobe]
pub(crate) fn fib6_rule_action_begins(ctx: ProbeContext) {
    note(argument(&ctx, 0), argument(&ctx, 1));
}

/// Two words: this runs for every look-up of the node. Who looks at them reads the rule.
#[inline(always)]
fn note(rule: u64, question: u64) {
    if let Some(now) = RULING.get_ptr_mut(0) {
        // SAFETY: a per-CPU entry; only this CPU writes it.
        unsafe { *now = Ruling { question, rule } };
    }
}

/// The rule that asks `table` this question, or none.
///
/// The address of the question is one on the stack, and comes again: so the rule must name the table, too, and is
/// forgotten once it was asked for.
#[inline(always)]
pub(crate) fn asking(question: u64, table: u32) -> PolicyRule {
    if !has!(fib_rule_action) {
        return PolicyRule::NONE;
    }
    let Some(now) = RULING.get_ptr_mut(0) else { return PolicyRule::NONE };
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let ruling = unsafe { *now };
    if ruling.question != question {
        return PolicyRule::NONE;
    }
    // SAFETY: as above.
    unsafe { (*now).question = 0 };
    let rule = PolicyRule::new(ruling.rule);
    if rule.looks_up(table) { rule } else { PolicyRule::NONE }
}
