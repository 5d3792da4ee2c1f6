//! Who talks to whom by which device, and how much: what `flows` and `nat` show.

use std::{fmt, net::SocketAddr, sync::Arc};

use serde::Serialize;

use super::{
    flow::{Flow, Proto},
    identity::Pod,
    sighting::Side,
};

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Packets on the wire: what segmentation offload joins is counted as the segments it becomes.
    pub packets: u64,
    /// Bytes on the wire, with link-layer headers.
    pub bytes: u64,
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Both directions, as the pod (or the node) sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amounts {
    /// From it.
    pub out: Amount,
    /// To it.
    #[serde(rename = "in")]
    pub into: Amount,
}

impl std::ops::AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        self.out += other.out;
        self.into += other.into;
    }
}

/// A pod's (or the node's own) traffic at one device, since start: exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Whose; none for the node's own.
    pub pod: Option<Arc<Pod>>,
    /// The pod's namespace is gone: nothing is added but what came late for it.
    pub is_ended: bool,
    /// Where the device is.
    pub side: Side,
    /// Its name.
    pub device: String,
    /// It leads out of the node; else it is the pod's own link.
    pub is_uplink: bool,
    /// How much.
    pub amounts: Amounts,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Both sides have spoken.
    Open,
    /// One side has ended it.
    Closing,
    /// Both sides have ended it.
    Closed,
    /// A reset ended it.
    Reset,
    /// Nothing came back.
    Unanswered,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Unanswered => "unanswered",
        })
    }
}

/// What NAT made of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// When it was seen first, `CLOCK_MONOTONIC` nanoseconds.
    pub first_ns: u64,
    /// The pod that opened it, or that serves it; none for the node's own.
    pub pod: Option<Arc<Pod>>,
    /// The pod's namespace is gone.
    pub is_ended: bool,
    /// As its opener sends it.
    pub before: Flow,
    /// As its server gets it.
    pub after: Flow,
    /// Hook that changed the destination (`PREROUTING`, `OUTPUT`), where it was changed.
    pub dnat: Option<&'static str>,
    /// Hook that changed the source (`POSTROUTING`), where it was changed.
    pub snat: Option<&'static str>,
    /// The node's device that has the new source address; none where no device has it.
    pub snat_device: Option<String>,
    /// Name of what was addressed (a service), where known.
    pub service: Option<String>,
    /// Devices by which its packets left the node.
    pub devices: Vec<String>,
}

/// What names a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NameSource {
    /// It is a pod's address.
    Pod,
    /// It is a service's address.
    Service,
    /// It is a node's address.
    Node,
    /// A DNS server gave the address to this pod, for this name.
    Dns,
}

/// A peer's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    /// The name: `shop/web-0`, `shop/db (service)`, `s3.example.com`. Of the cluster's or of DNS's making: not escaped.
    pub text: String,
    /// What it is from.
    pub source: NameSource,
}

/// All connections between a pod (or the node) and one peer's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLine {
    /// Whose; none for the node's own.
    pub pod: Option<Arc<Pod>>,
    /// The pod's namespace is gone.
    pub is_ended: bool,
    /// Protocol.
    pub proto: Proto,
    /// The other end: with the port that was addressed, or port 0 where the peer opened it.
    pub peer: SocketAddr,
    /// The pod's own port, where the peer opened the connections; 0 else.
    pub served_port: u16,
    /// The pod opened them.
    pub initiated: bool,
    /// Name of the peer, where known.
    pub name: Option<PeerName>,
    /// Devices by which the pod's packets left the node; empty: they stayed on it.
    pub devices: Vec<String>,
    /// How many connections.
    pub connections: u64,
    /// How much, at the pod's own link; at the uplink for the node's own.
    pub amounts: Amounts,
    /// Median of the times from SYN to SYN-ACK, nanoseconds.
    pub handshake_ns: Option<u64>,
    /// TCP segments sent again by either side.
    pub retransmits: u64,
    /// What became of them, and how many.
    pub states: Vec<(State, u64)>,
    /// What NAT made of the last one.
    pub nat: Option<Arc<Translation>>,
    /// First and last packet, `CLOCK_MONOTONIC` nanoseconds.
    pub first_ns: u64,
    /// Last.
    pub last_ns: u64,
}

/// All at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowTable {
    /// `CLOCK_MONOTONIC` nanoseconds when it was read.
    pub mono_ns: u64,
    /// When counting began, likewise.
    pub since_ns: u64,
    /// Traffic by pod and device, in the order in which it is to be shown.
    pub devices: Vec<DeviceRow>,
    /// Connections by pod and peer, likewise.
    pub lines: Vec<FlowLine>,
    /// Peers that found no room in `lines`; their traffic is in `devices`.
    pub more: u64,
}

/// What NAT makes alike: connections of one pod to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatLine {
    /// The last one.
    pub last: Arc<Translation>,
    /// How many.
    pub connections: u64,
}

/// All translations at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatTable {
    /// `CLOCK_MONOTONIC` nanoseconds when it was read.
    pub mono_ns: u64,
    /// When counting began, likewise.
    pub since_ns: u64,
    /// In the order in which they are to be shown.
    pub lines: Vec<NatLine>,
    /// Connections that found no room in `lines`.
    pub more: u64,
}
