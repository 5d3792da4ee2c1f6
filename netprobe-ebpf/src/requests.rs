//! Who asks for changes of the network's configuration.

use aya_ebpf::{helpers::bpf_get_current_comm, macros::fentry, programs::FEntryContext};
use netprobe_common::event::NetlinkRequest;

use crate::{
    emit::{emit, now},
    follow,
    kernel::{has, offset, probe, skb::Skb},
};

/// Messages come in fours (`include/uapi/linux/rtnetlink.h`): new, delete, get, set.
const GET: u16 = 2;

/// `rtnetlink_rcv_msg(skb, nlh, extack)`.
#[fentry(function = "rtnetlink_rcv_msg")]
pub(crate) fn rtnetlink_rcv_msg(ctx: FEntryContext) -> Option<()> {
    if !has!(nlmsg_kind) || !has!(skb_cb) || !has!(netlink_port_id) {
        return None;
    }
    let kind: u16 = probe(ctx.arg(1), offset!(nlmsg_kind));
    if kind & 3 == GET {
        return None;
    }
    let skb = Skb::new(ctx.arg(0));
    let netns = skb.netns();
    if follow::role(netns) == 0 {
        return None;
    }
    let port_id = probe(skb.address(), offset!(skb_cb) + offset!(netlink_port_id));
    emit::<NetlinkRequest>(now(), |request| {
        request.netns = netns;
        request.port_id = port_id;
        request.kind = u32::from(kind);
        request._pad = 0;
        request.comm = bpf_get_current_comm().unwrap_or([0; 16]);
    });
    Some(())
}
