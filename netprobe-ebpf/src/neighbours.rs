//! Neighbour entries: ARP and NDP.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netprobe_common::{
    config::{NS_FOLLOWED, NS_NODE},
    event::{NEIGH_FAILED_TIMER, NEIGH_SEND, NEIGH_SEND_DEAD, NEIGH_UPDATE, Neighbour},
};

use crate::{
    emit::{emit, now},
    follow,
    kernel::{neighbour::Neigh, probe},
};

/// `NUD_FAILED` (`include/uapi/linux/neighbour.h`).
const NUD_FAILED: u8 = 0x20;

/// `neigh:neigh_update(n, lladdr, new, flags, nlmsg_pid)`.
#[btf_tracepoint(function = "neigh_update")]
pub(crate) fn neigh_update(ctx: BtfTracePointContext) -> Option<()> {
    let lladdr: u64 = ctx.arg(1);
    let mac: [u8; 6] = if lladdr == 0 { [0; 6] } else { probe(lladdr, 0) };
    let new_state = ctx.arg::<u64>(2) as u32 & 0xff;
    send(ctx.arg(0), NEIGH_UPDATE, new_state, mac, 0, ctx.arg::<u64>(4) as u32)
}

/// `neigh:neigh_timer_handler(n, err)`: only entries that have failed.
#[btf_tracepoint(function = "neigh_timer_handler")]
pub(crate) fn neigh_timer_handler(ctx: BtfTracePointContext) -> Option<()> {
    if Neigh::new(ctx.arg(0))?.state() & NUD_FAILED == 0 {
        return None;
    }
    send(ctx.arg(0), NEIGH_FAILED_TIMER, 0, [0; 6], ctx.arg::<u64>(1) as i32, 0)
}

/// `neigh:neigh_event_send_done(n, rc)`: a packet waits.
#[btf_tracepoint(function = "neigh_event_send_done")]
pub(crate) fn neigh_event_send_done(ctx: BtfTracePointContext) -> Option<()> {
    send(ctx.arg(0), NEIGH_SEND, 0, [0; 6], ctx.arg::<u64>(1) as i32, 0)
}

/// `neigh:neigh_event_send_dead(n, rc)`: a packet met an entry that is being removed.
#[btf_tracepoint(function = "neigh_event_send_dead")]
pub(crate) fn neigh_event_send_dead(ctx: BtfTracePointContext) -> Option<()> {
    send(ctx.arg(0), NEIGH_SEND_DEAD, 0, [0; 6], ctx.arg::<u64>(1) as i32, 0)
}

#[inline(always)]
fn send(neigh: *const u8, what: u32, new_state: u32, mac: [u8; 6], result: i32, port_id: u32) -> Option<()> {
    let neigh = Neigh::new(neigh)?;
    let at = neigh.at();
    let role = follow::role(at.netns);
    // Entries have no flow: the node's and the followed pods' are told, other pods' are not.
    if role & (NS_NODE | NS_FOLLOWED) == 0 {
        return None;
    }
    emit::<Neighbour>(now(), |record| {
        neigh.store(at, record);
        record.new_lladdr = [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0];
        record.what = what;
        record.new_state = new_state;
        record.result = result;
        record.port_id = port_id;
    });
    Some(())
}
