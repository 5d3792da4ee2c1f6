//! Which tc filter dropped a packet.
//!
//! The filter's function notes itself; the packet is freed in the same call, which asks for it.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use netprobe_common::config::Filtered;

use crate::{
    call::at_end,
    kernel::{has, offset, probe},
};

/// `TC_ACT_SHOT` (`include/uapi/linux/pkt_cls.h`).
const SHOT: i32 = 2;

/// The packet that a filter dropped last, on each CPU.
#[map]
static FILTERED: PerCpuArray<Filtered> = PerCpuArray::with_max_entries(1, 0);

at_end! {
    /// `cls_bpf_classify(skb, tp, res)`.
    cls_bpf_classify = "cls_bpf_classify", cls_bpf_classify_begins, cls_bpf_classify_ends, 3, |of, verdict| {
        classified(of(0), of(1), verdict)
    }
}

#[inline(always)]
fn classified(skb: u64, filter: u64, verdict: i32) -> Option<()> {
    if verdict != SHOT {
        return None;
    }
    let last = FILTERED.get_ptr_mut(0)?;
    // SAFETY: a per-CPU entry; only this CPU writes it.
    unsafe { *last = Filtered { skb, filter } };
    Some(())
}

/// Preference of the filter that dropped this packet, 0 where none did or it is not known.
#[inline(always)]
pub(crate) fn preference(skb: u64) -> u32 {
    if !has!(tcf_preference) {
        return 0;
    }
    let Some(last) = FILTERED.get_ptr_mut(0) else { return 0 };
    // SAFETY: a per-CPU entry; only this CPU writes it.
    let last = unsafe { &mut *last };
    if last.skb != skb {
        return 0;
    }
    // Its address will be another packet's.
    last.skb = 0;
    probe::<u32>(last.filter, offset!(tcf_preference)) >> 16
}
