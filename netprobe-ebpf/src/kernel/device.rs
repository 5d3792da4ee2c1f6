//! `struct net_device` and `struct net`.

use super::{offset, probe, typed};
use aya_ebpf::helpers::{bpf_get_current_task_btf, generated::bpf_get_current_task};

/// A place of a packet.
#[derive(Clone, Copy)]
pub(crate) struct At {
    /// Inode number of the namespace; 0 where it is unknown.
    pub(crate) netns: u32,
    /// Index of the device; 0 where there is none.
    pub(crate) ifindex: u32,
}

impl At {
    /// Where the device at an address is. Reads are checked when they happen, which costs more than a checked pointer; but the
    /// verifier has nothing to go through: for what happens seldom.
    #[inline(always)]
    pub(crate) fn of_device(address: u64) -> Self {
        if address as i64 >= 0 {
            return Self { netns: 0, ifindex: 0 };
        }
        Self { netns: inum_at(probe(address, offset!(dev_net))), ifindex: probe(address, offset!(dev_ifindex)) }
    }
}

/// A checked pointer to a `struct net_device`.
#[derive(Clone, Copy)]
pub(crate) struct Device(*const u8);

impl Device {
    /// Wraps a typed pointer; none where it is null, or no kernel address: in UDP's receive queue
    /// the field holds a scratch word, and reading through that would fault and be repaired for
    /// every packet.
    #[inline(always)]
    pub(crate) fn new(pointer: *const u8) -> Option<Self> {
        if pointer.is_null() || pointer as i64 >= 0 { None } else { Some(Self(pointer)) }
    }

    /// Namespace and index.
    #[inline(always)]
    pub(crate) fn at(self) -> At {
        At { netns: self.netns(), ifindex: self.ifindex() }
    }

    /// Interface index.
    #[inline(always)]
    pub(crate) fn ifindex(self) -> u32 {
        typed(self.0, offset!(dev_ifindex))
    }

    /// Inode number of its namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        inum(typed(self.0, offset!(dev_net)))
    }
}

/// Inode number of a `struct net`, 0 for null.
#[inline(always)]
pub(crate) fn inum(net: *const u8) -> u32 {
    if net.is_null() { 0 } else { typed(net, offset!(net_inum)) }
}

/// Inode number of the `struct net` at an address, 0 for null. For what happens seldom.
#[inline(always)]
pub(crate) fn inum_at(net: u64) -> u32 {
    if net == 0 { 0 } else { probe(net, offset!(net_inum)) }
}

/// What [`task_netns`] tells, for what happens seldom.
#[inline(always)]
pub(crate) fn task_netns_seldom() -> u32 {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let proxy: u64 = probe(task, offset!(task_nsproxy));
    if proxy == 0 { 0 } else { inum_at(probe(proxy, offset!(nsproxy_net))) }
}

/// Inode number of the current task's network namespace; 0 where it has none (any more).
#[inline(always)]
pub(crate) fn task_netns() -> u32 {
    // SAFETY: the helper has no preconditions and returns a typed pointer.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    if task.is_null() {
        return 0;
    }
    let proxy: *const u8 = typed(task, offset!(task_nsproxy));
    if proxy.is_null() {
        return 0;
    }
    inum(typed(proxy, offset!(nsproxy_net)))
}
