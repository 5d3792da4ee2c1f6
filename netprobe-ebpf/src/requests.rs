//! Who asks for changes of the network's configuration.

use aya_ebpf::{
    helpers::bpf_get_current_comm,
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use netprobe_common::event::NetlinkRequest;

use crate::{
    call::argument,
    emit::{emit, now},
    follow,
    kernel::{has, offset, probe},
};

/// Messages come in fours (`include/uapi/linux/rtnetlink.h`): new, delete, get, set.
const GET: u16 = 2;

/// `rtnetlink_rcv_msg(skb, nlh, extack)`.
#[fentry(function = "rtnetlink_rcv_msg")]
pub(crate) fn rtnetlink_rcv_msg(ctx: FEntryContext) -> Option<()> {
    asked(ctx.arg(0), ctx.arg(1))
}

/// The same by a kprobe.
#[kprobe]
pub(crate) fn rtnetlink_rcv_msg_begins(ctx: ProbeContext) -> Option<()> {
    asked(argument(&ctx, 0), argument(&ctx, 1))
}

#[inline(always)]
fn asked(skb: u64, message: u64) -> Option<()> {
    if !has!(nlmsg_kind) || !has!(skb_cb) || !has!(netlink_port_id) {
        return None;
    }
    let kind: u16 = probe(message, offset!(nlmsg_kind));
    if kind & 3 == GET {
        return None;
    }
    // A kprobe's arguments have no types, by which other programs read.
    let net: u64 = probe(probe(skb, offset!(skb_sk)), offset!(sk_net));
    let netns: u32 = probe(net, offset!(net_inum));
    if follow::role(netns) == 0 {
        return None;
    }
    let port_id = probe(skb, offset!(skb_cb) + offset!(netlink_port_id));
    emit::<NetlinkRequest>(now(), |request| {
        request.netns = netns;
        request.port_id = port_id;
        request.kind = u32::from(kind);
        request._pad = 0;
        request.comm = bpf_get_current_comm().unwrap_or([0; 16]);
    });
    Some(())
}
