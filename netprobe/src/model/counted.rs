//! Flows as the TC classifiers counted them: one row per device and direction.

use serde::{Deserialize, Serialize};

use super::flow::Flow;

/// A conntrack entry, as a packet carried it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tracked {
    /// The packets went in the direction of the reply.
    pub is_reply: bool,
    /// The reply tuple.
    pub reply: Flow,
    /// `IPS_*` bits.
    pub status: u32,
}

/// A flow at a device, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Inode number of the device's namespace.
    pub netns: u32,
    /// Interface index.
    pub ifindex: u32,
    /// Address of the kernel's device: an index is given again, and means another device then.
    pub device: u64,
    /// The packets left by the device; else they came in by it.
    pub egress: bool,
    /// Original tuple of the conntrack entry, where there is one, else the packets' own five-tuple. `None`: no IP.
    pub flow: Option<Flow>,
    /// `EtherType` of frames that are no IP.
    pub ether_type: u16,
    /// The entry.
    pub tracked: Option<Tracked>,
    /// Packets on the wire.
    pub packets: u64,
    /// Their bytes, with link-layer headers.
    pub bytes: u64,
    /// First packet, `CLOCK_MONOTONIC` nanoseconds.
    pub first_ns: u64,
    /// Last packet, likewise.
    pub last_ns: u64,
    /// First SYN, likewise.
    pub syn_ns: Option<u64>,
    /// TCP segments that carried bytes sent before.
    pub retransmits: u32,
    /// TCP flags seen, all together.
    pub flags: u32,
    /// Number of the cgroup (version 2) of the socket that sent the first packet, at egress; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cgroup: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The kernel's rows at one moment, as a recording keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedRows {
    /// `CLOCK_MONOTONIC` nanoseconds when they were read.
    pub mono_ns: u64,
    /// The user was shown them.
    pub shown: bool,
    /// Rows that go on.
    pub rows: Vec<Counted>,
    /// Rows that were taken out of the kernel's table, with their last counts.
    pub over: Vec<Counted>,
    /// They were taken out though they may go on: their pod, its address or its device goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}
