//! `Packet` → `Sighting`: given a namespace and addresses, whose are they, or why is it unknown.

pub mod cgroup;
pub mod inventory;
pub mod names;
pub mod select;

use std::sync::Arc;

use names::Names;

use crate::model::{
    facts::NodeFacts,
    known::{Known, Why},
    packet::{Packet, Place, What},
    sighting::{Side, Sighting},
};

/// Names the packet's namespace, device and ends.
#[must_use]
pub fn sighting(packet: Packet, names: &Names, facts: &NodeFacts) -> Sighting {
    let packet = as_pod_saw(packet, facts);
    let side = match packet.netns {
        0 => Side::Unknown,
        inum if inum == facts.node => Side::Node,
        _ => Side::Pod,
    };
    let device = match facts.namespaces.get(&packet.netns) {
        Some(namespace) if packet.ifindex != 0 => Arc::from(namespace.device(packet.ifindex)),
        _ => Arc::from(""),
    };
    let nobody = || Known::No(Why::Outside);
    // A frame without addresses is that of the pod behind the device.
    let behind = || {
        let link = facts.namespaces.get(&packet.netns)?.links.get(&packet.ifindex)?;
        link.peer_netns.filter(|inum| *inum != facts.node).map(|inum| names.namespace(inum))
    };
    let flow = packet.what.flow();
    Sighting {
        side,
        device,
        namespace_of: names.namespace(packet.netns),
        source: flow.map_or_else(|| behind().unwrap_or_else(nobody), |f| names.address(f.src.ip())),
        destination: flow.map_or_else(nobody, |f| names.address(f.dst.ip())),
        packet,
    }
}

/// A DNS message that crossed the node's end of a pod's link is told as it crossed the pod's own end: what comes in here has
/// left there.
fn as_pod_saw(mut packet: Packet, facts: &NodeFacts) -> Packet {
    let What::Dns { place, .. } = &mut packet.what else { return packet };
    if packet.netns == facts.node
        && let Some((inum, end)) = facts.behind(packet.ifindex)
    {
        (packet.netns, packet.ifindex) = (inum, end);
        *place = if *place == Place::Receive { Place::Transmit } else { Place::Receive };
    }
    packet
}
