//! The devices at which TC classifiers look.

use std::collections::BTreeSet;

use crate::{model::facts::NodeFacts, probe::classifiers::Device};

/// Kinds of link of which every packet passes another link of the node too.
const PASSED_TWICE: [&str; 3] = ["bridge", "bond_slave", "dummy"];

/// Of the followed pods (of all, where `namespaces` is none) the node's ends of their links, or their own devices where the
/// node has no end; and the node's ways out.
pub(super) fn wanted(facts: &NodeFacts, namespaces: Option<&BTreeSet<u32>>) -> BTreeSet<Device> {
    let follows = |inum: u32| namespaces.is_none_or(|wanted| wanted.contains(&inum));
    let mut devices = BTreeSet::new();
    let mut linked = BTreeSet::new();
    let Some(node) = facts.node() else { return devices };
    for link in node.links.values().filter(|link| link.name != "lo" && !PASSED_TWICE.contains(&link.kind.as_str())) {
        if let Some((inum, end)) = facts.behind(link.index) {
            linked.insert((inum, end));
            if !follows(inum) {
                continue;
            }
        }
        // A bond's members carry what the bond carries.
        let of_bond =
            node.links.get(&link.master).is_some_and(|master| matches!(master.kind.as_str(), "bond" | "team"));
        if !of_bond {
            devices.insert(Device { netns: node.inum, ifindex: link.index, name: link.name.clone() });
        }
    }
    for pod in facts.namespaces.values().filter(|ns| ns.inum != node.inum && follows(ns.inum)) {
        let own = pod.links.values().filter(|link| link.name != "lo" && !linked.contains(&(pod.inum, link.index)));
        devices.extend(own.map(|link| Device { netns: pod.inum, ifindex: link.index, name: link.name.clone() }));
    }
    devices
}

/// The followed pods' own devices: where the pod itself sees its packets.
fn own(facts: &NodeFacts, namespaces: Option<&BTreeSet<u32>>) -> BTreeSet<Device> {
    let follows = |inum: u32| inum != facts.node && namespaces.is_none_or(|wanted| wanted.contains(&inum));
    let pods = facts.namespaces.values().filter(|ns| follows(ns.inum));
    let links = pods.flat_map(|pod| pod.links.values().map(|link| (pod.inum, link)));
    let links = links.filter(|(_, link)| link.name != "lo");
    links.map(|(netns, link)| Device { netns, ifindex: link.index, name: link.name.clone() }).collect()
}

/// The same, and the followed pods' own devices: where the pod itself sees its packets. With each whether others' packets
/// cross it too.
pub(super) fn wanted_inside(facts: &NodeFacts, namespaces: Option<&BTreeSet<u32>>) -> Vec<(Device, bool)> {
    let mut devices = wanted(facts, namespaces);
    let follows = |inum: u32| inum != facts.node && namespaces.is_none_or(|wanted| wanted.contains(&inum));
    devices.extend(own(facts, namespaces));
    let is_shared = |device: &Device| {
        let link =
            facts.node().filter(|node| node.inum == device.netns).and_then(|node| node.links.get(&device.ifindex));
        link.is_some_and(|link| !link.peer_netns.is_some_and(follows))
    };
    devices.into_iter().map(|device| (is_shared(&device), device)).map(|(shared, device)| (device, shared)).collect()
}
