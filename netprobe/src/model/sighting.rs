//! A packet event, and whose it was.

use std::sync::Arc;

use serde::Serialize;

use super::{identity::Pod, known::Known, packet::Packet};

/// Which side of the veth: the node's namespace or a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The node's own namespace.
    Node,
    /// A pod's namespace.
    Pod,
    /// Neither device nor socket nor task told.
    Unknown,
}

/// `Packet`, with names.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// What the kernel said.
    pub packet: Packet,
    /// Node or pod.
    pub side: Side,
    /// Device name, empty where there is none.
    pub device: Arc<str>,
    /// The pod whose namespace it is, or why there is none.
    pub namespace_of: Known<Arc<Pod>>,
    /// The pod that owns the flow's source address.
    pub source: Known<Arc<Pod>>,
    /// The pod that owns the flow's destination address.
    pub destination: Known<Arc<Pod>>,
    /// The pod without a namespace of its own whose process looked a route up; it counts where no packet came of it.
    pub asker: Option<Arc<Pod>>,
}
