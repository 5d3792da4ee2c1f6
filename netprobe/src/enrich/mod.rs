//! `Packet` → `Sighting`: given a namespace and addresses, whose are they, or why is it unknown.

pub mod cgroup;
pub mod inventory;
pub mod kube;
pub mod names;
pub mod owned;
pub mod select;

use std::sync::Arc;

use names::Names;
use owned::Owned;

use crate::model::{
    facts::NodeFacts,
    flow::Flow,
    known::{Known, Why},
    packet::{Packet, Place, What},
    sighting::{Side, Sighting},
};

/// Names the packet's namespace, device and ends.
#[must_use]
pub fn sighting(packet: Packet, names: &Names, facts: &NodeFacts, owned: &Owned) -> Sighting {
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
    let flow = packet.what.ends();
    // Whose the source is: the address tells, or in the node's own namespace the socket.
    let end = |flow: &Flow| match names.address(flow.src.ip()) {
        Known::Yes(pod) => Known::Yes(pod),
        unknown if side == Side::Pod => unknown,
        unknown => owned.sender(flow, names).map_or(unknown, Known::Yes),
    };
    Sighting {
        side,
        device,
        namespace_of: names.namespace(packet.netns),
        source: flow.map_or_else(|| behind().unwrap_or_else(nobody), |f| end(&f)),
        destination: flow.map_or_else(nobody, |f| end(&f.reversed())),
        asker: if side == Side::Pod { None } else { owned.asker(&packet, names) },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        facts::{Link, NamespaceFacts},
        flow::Proto,
    };

    const NODE: u32 = 1;
    const POD: u32 = 2;

    /// A node whose device 7 leads to device 3 of a pod, and whose device 8 leads out.
    fn node() -> NodeFacts {
        let namespace = |inum, links: &[Link]| NamespaceFacts {
            inum,
            links: links.iter().map(|link| (link.index, link.clone())).collect(),
            ..NamespaceFacts::default()
        };
        let veth = Link { index: 7, name: "veth7".to_owned(), peer: 3, peer_netns: Some(POD), ..Link::default() };
        let uplink = Link { index: 8, name: "eth0".to_owned(), ..Link::default() };
        let inside = Link { index: 3, name: "eth0".to_owned(), ..Link::default() };
        let namespaces = [namespace(NODE, &[veth, uplink]), namespace(POD, &[inside])];
        NodeFacts {
            node: NODE,
            namespaces: namespaces.into_iter().map(|namespace| (namespace.inum, namespace)).collect(),
            ..NodeFacts::default()
        }
    }

    fn told(ifindex: u32, place: Place) -> (Side, u32, Option<Place>) {
        let end = |text: &str| text.parse().expect("an address with a port");
        let flow = Flow { proto: Proto::Udp, src: end("10.9.0.29:40000"), dst: end("10.96.0.10:53") };
        let what = What::Dns { flow, place, message: None, seen: 0 };
        let packet = Packet { mono_ns: 1, cpu: 0, pid: 1, netns: NODE, ifindex, what };
        let facts = node();
        let sighting = sighting(packet, &Names::build(&Default::default(), &facts), &facts, &Owned::default());
        let place = match sighting.packet.what {
            What::Dns { place, .. } => Some(place),
            _ => None,
        };
        (sighting.side, sighting.packet.ifindex, place)
    }

    #[test]
    fn a_message_at_the_nodes_end_of_a_link_is_told_as_the_pod_saw_it() {
        assert_eq!(told(7, Place::Receive), (Side::Pod, 3, Some(Place::Transmit)), "the pod sent it");
        assert_eq!(told(7, Place::Transmit), (Side::Pod, 3, Some(Place::Receive)), "the pod gets it");
        assert_eq!(told(8, Place::Transmit), (Side::Node, 8, Some(Place::Transmit)), "nobody is behind it");
    }
}
