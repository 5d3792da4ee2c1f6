//! A row of the table of counted flows, in host types.

use netprobe_common::counted::{COUNTED_CONNTRACK, COUNTED_EGRESS, COUNTED_REPLY, FlowCount, FlowCountKey};

use super::head::{any_flow, flow};
use crate::model::counted::{Counted, Tracked};

/// Reads a row.
#[must_use]
pub fn counted(key: &FlowCountKey, row: &FlowCount) -> Counted {
    let tracked = (key.how & COUNTED_CONNTRACK != 0).then(|| Tracked {
        is_reply: key.how & COUNTED_REPLY != 0,
        reply: any_flow(&row.reply),
        status: row.status,
    });
    Counted {
        netns: row.netns,
        ifindex: key.ifindex,
        device: key.device,
        egress: key.how & COUNTED_EGRESS != 0,
        flow: flow(&key.flow),
        ether_type: key.flow.ether_type,
        tracked,
        packets: row.packets,
        bytes: row.bytes,
        first_ns: row.first_ns,
        // Of a clock that is a little behind.
        last_ns: row.last_ns.max(row.first_ns),
        syn_ns: (row.syn_ns != 0).then_some(row.syn_ns),
        retransmits: row.retransmits,
        flags: row.flags,
        cgroup: row.cgroup,
    }
}
