//! Whose a packet of the node is, where pods share the node's namespace: by the cgroup of its socket.
//!
//! User space names the cgroups. A flow is tied to one by the first of its packets that has a socket, or by the socket that
//! waits at its destination; from then on it is known by its addresses and ports. Nothing of this is looked at where no such
//! pod is followed.

use aya_ebpf::{
    helpers::generated::bpf_get_current_cgroup_id,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use netprobe_common::{
    config::{Listening, NS_SHARED_BY_PODS},
    event::{FlowOwner, OWNER_LISTENER, OWNER_SOCKET, OWNER_TASK},
    flow::FlowKey,
    limits::{CGROUPS_MAX, LISTENING_MAX, OWNED_MAX},
};

use crate::{
    emit::{emit, now},
    kernel::{skb::Skb, sock::Sock},
};

/// The followed cgroups, each with the number of its pod.
#[map]
static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(CGROUPS_MAX, 0);
/// Where sockets of theirs wait, each with its cgroup.
#[map]
static LISTENING: HashMap<Listening, u64> = HashMap::with_max_entries(LISTENING_MAX, 0);
/// Flows that were told, their owner's end as the source, with the cgroup.
#[map]
static OWNED: LruHashMap<FlowKey, u64> = LruHashMap::with_max_entries(OWNED_MAX, 0);

/// Whose a flow is.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    /// Its cgroup.
    cgroup: u64,
    /// 1: the owner's end is the flow's destination.
    arrives: u32,
    /// `OWNER_*`; 0 where it was told before.
    how: u32,
}

impl Held {
    /// Nobody's that is followed.
    pub(crate) const NOBODY: Self = Self { cgroup: 0, arrives: 0, how: 0 };

    /// It is somebody's.
    #[inline(always)]
    pub(crate) const fn is_known(self) -> bool {
        self.cgroup != 0
    }
}

/// Whether pods without a namespace of their own are followed there.
#[inline(always)]
pub(crate) const fn shared(role: u32) -> bool {
    role & NS_SHARED_BY_PODS != 0
}

/// The number of the followed pod whose cgroup that is.
#[inline(always)]
fn pod(cgroup: u64) -> Option<u32> {
    if cgroup == 0 {
        return None;
    }
    // SAFETY: the value is a plain number that user space replaces whole.
    unsafe { CGROUPS.get(cgroup) }.copied()
}

/// Whether the socket belongs to a followed pod.
#[inline(always)]
pub(crate) fn of_socket(sock: Sock) -> Option<Held> {
    let cgroup = sock.cgroup();
    pod(cgroup).map(|_| Held { cgroup, arrives: 0, how: OWNER_SOCKET })
}

/// Whether the packet of that flow has a socket that belongs to a followed pod.
#[inline(always)]
pub(crate) fn of_packet(skb: Skb, flow: &FlowKey) -> Option<Held> {
    let sock = skb.socket()?;
    let held = of_socket(sock)?;
    let local = sock.local_port();
    Some(Held { arrives: u32::from(flow.dport == local && flow.sport != local), ..held })
}

/// Whether the packet is a followed pod's: by its socket, or by what is known of its flow.
#[inline(always)]
pub(crate) fn of(skb: Skb, flow: &FlowKey) -> Option<Held> {
    of_packet(skb, flow).or_else(|| of_flow(flow))
}

/// Whether the current process belongs to a followed pod.
#[inline(always)]
fn of_task() -> Option<Held> {
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    pod(cgroup).map(|_| Held { cgroup, arrives: 0, how: OWNER_TASK })
}

/// Whether a route is looked up for a followed pod: for a flow of its, or by a process of its.
#[inline(always)]
pub(crate) fn of_question(asked: &FlowKey) -> Option<Held> {
    of_flow(asked).or_else(of_task)
}

/// Whether the flow is known as a followed pod's, or one of its sockets waits for it.
#[inline(always)]
pub(crate) fn of_flow(flow: &FlowKey) -> Option<Held> {
    let held = known(flow);
    if held.is_known() { Some(held) } else { None }
}

/// A function of its own, for its stack.
#[inline(never)]
fn known(flow: &FlowKey) -> Held {
    let mut key = flow.copied();
    key.ether_type = 0;
    // SAFETY: the values are plain numbers.
    if let Some(cgroup) = unsafe { OWNED.get(key) } {
        return Held { cgroup: *cgroup, ..Held::NOBODY };
    }
    let key = key.reversed();
    // SAFETY: as above.
    if let Some(cgroup) = unsafe { OWNED.get(key) } {
        return Held { cgroup: *cgroup, arrives: 1, how: 0 };
    }
    match waits(&flow.dst, flow.dport, flow.proto) {
        0 => Held { cgroup: waits(&flow.src, flow.sport, flow.proto), arrives: 0, how: OWNER_LISTENER },
        cgroup => Held { cgroup, arrives: 1, how: OWNER_LISTENER },
    }
}

/// The cgroup whose socket waits there, or 0.
#[inline(always)]
fn waits(address: &[u8; 16], port: u16, proto: u8) -> u64 {
    let at = Listening { address: *address, port, proto: u16::from(proto), _pad: 0 };
    // SAFETY: the value is a plain number.
    unsafe { LISTENING.get(at) }.copied().unwrap_or(0)
}

/// The number of the pod.
#[inline(always)]
pub(crate) fn number(held: Held) -> u32 {
    pod(held.cgroup).unwrap_or(0)
}

/// Tells whose the flow is, where that was not told before.
#[inline(never)]
pub(crate) fn tell(flow: &FlowKey, held: Held, netns: u32) {
    if held.how == 0 || flow.family == 0 {
        return;
    }
    let mut key = if held.arrives != 0 { flow.reversed() } else { flow.copied() };
    key.ether_type = 0;
    // What the running process asks for is not yet a flow: its port may still be missing.
    if held.how != OWNER_TASK {
        // SAFETY: the value is a plain number.
        if unsafe { OWNED.get(key) }.is_some_and(|cgroup| *cgroup == held.cgroup) {
            return;
        }
        // One that finds no room is told again.
        let _ = OWNED.insert(key, held.cgroup, 0);
    }
    emit::<FlowOwner>(now(), |record| {
        record.flow = key.copied();
        record.cgroup = held.cgroup;
        record.netns = netns;
        record.how = held.how;
    });
}
