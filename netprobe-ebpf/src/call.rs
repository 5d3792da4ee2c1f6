//! Kernel functions by kprobes, where the kernel takes no fentry (arm64 before 6.4 has no direct calls of trampolines).
//!
//! A kprobe sees a function's arguments and a kretprobe what it returned: the stack pointer, which is the same at both,
//! ties them together. No two calls that are under way have the same one.

use aya_ebpf::{
    macros::map,
    maps::LruHashMap,
    programs::{ProbeContext, RetProbeContext},
};
use netprobe_common::{config::Call, limits::CALLS};

/// Calls under way, by the stack pointer at their beginning. A return that is missed leaves its call here until it is the
/// oldest.
#[map]
static UNDER_WAY: LruHashMap<u64, Call> = LruHashMap::with_max_entries(CALLS, 0);

/// Argument `n` of the function that begins.
#[inline(always)]
pub(crate) fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    ctx.arg(n).unwrap_or(0)
}

/// A function begins: keeps its arguments.
#[inline(always)]
pub(crate) fn begins(ctx: &ProbeContext) {
    let call = Call { arguments: [argument(ctx, 0), argument(ctx, 1), argument(ctx, 2), argument(ctx, 3)] };
    // A table that refuses costs this call's detail, no more.
    let _ = UNDER_WAY.insert(begun_at(ctx.regs), call, 0);
}

/// A function ends: its arguments, and what it returned.
#[inline(always)]
pub(crate) fn ends(ctx: &RetProbeContext) -> Option<([u64; 4], i32)> {
    let at = ended_at(ctx.regs);
    // SAFETY: the value is copied at once; nobody else writes this key, which is this stack's.
    let call = unsafe { UNDER_WAY.get(at) }?;
    let arguments = call.arguments;
    let _ = UNDER_WAY.remove(at);
    Some((arguments, ctx.ret::<u64>() as i32))
}

type Registers = *mut aya_ebpf::bindings::pt_regs;

/// The stack pointer of a function that begins.
#[inline(always)]
fn begun_at(regs: Registers) -> u64 {
    // SAFETY: the kernel's registers, which the verifier lets programs of this kind read.
    #[cfg(bpf_target_arch = "x86_64")]
    return unsafe { (*regs).rsp };
    #[cfg(bpf_target_arch = "aarch64")]
    return unsafe { (*regs).sp };
    #[cfg(not(any(bpf_target_arch = "x86_64", bpf_target_arch = "aarch64")))]
    return regs as u64;
}

/// What [`begun_at`] was, when the function has ended: on x86 the return took its address off the stack.
#[inline(always)]
fn ended_at(regs: Registers) -> u64 {
    let above = if cfg!(bpf_target_arch = "x86_64") { 8 } else { 0 };
    begun_at(regs).wrapping_sub(above)
}

/// A program at the end of a kernel function by fexit, and the two kprobes that do the same; `$work` gets the function's
/// arguments by `$arguments` and what it returned.
macro_rules! at_end {
    ($(#[$doc:meta])* $function:ident = $name:tt, $begins:ident, $ends:ident, $result:literal, |$arguments:ident, $returned:ident| $work:expr) => {
        $(#[$doc])*
        #[aya_ebpf::macros::fexit(function = $name)]
        pub(crate) fn $function(ctx: aya_ebpf::programs::FExitContext) -> Option<()> {
            let $returned = ctx.arg::<u64>($result) as i32;
            let $arguments = |n: usize| ctx.arg::<u64>(n);
            $work
        }

        /// Keeps the arguments for the end.
        #[aya_ebpf::macros::kprobe]
        pub(crate) fn $begins(ctx: aya_ebpf::programs::ProbeContext) {
            $crate::call::begins(&ctx);
        }

        /// The same by a kretprobe.
        #[aya_ebpf::macros::kretprobe]
        pub(crate) fn $ends(ctx: aya_ebpf::programs::RetProbeContext) -> Option<()> {
            let (kept, $returned) = $crate::call::ends(&ctx)?;
            let $arguments = |n: usize| kept[n & 3];
            $work
        }
    };
}
pub(crate) use at_end;
