//! The devices at which TC classifiers look.

use std::{collections::BTreeSet, str::FromStr};

use anyhow::{Result, bail};

use crate::{model::facts::NodeFacts, probe::classifiers::Device, render::escape};

/// Kinds of link of which every packet passes another link of the node too.
const PASSED_TWICE: [&str; 3] = ["bridge", "bond_slave", "dummy"];

/// A device that the user names: `eth0`, or `pod:eth0` and `node:eth0` where both have one of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName {
    /// The pod's own device, or one of the node; either where it is not said.
    in_pod: Option<bool>,
    name: String,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (in_pod, name) = match text.split_once(':') {
            Some(("pod", name)) => (Some(true), name),
            Some(("node", name)) => (Some(false), name),
            Some(_) => return Err("write NAME, pod:NAME or node:NAME".to_owned()),
            None => (None, text),
        };
        // `IFNAMSIZ` with its final zero is 16 (include/uapi/linux/if.h).
        if name.is_empty() || name.len() > 15 {
            return Err("a device's name has 1 to 15 characters".to_owned());
        }
        Ok(Self { in_pod, name: name.to_owned() })
    }
}

impl DeviceName {
    fn fits(&self, device: &Device, node: u32) -> bool {
        device.name == self.name && self.in_pod.is_none_or(|in_pod| in_pod == (device.netns != node))
    }
}

/// Whether a device is among those that the user named; all are where none is named.
pub(super) fn is_named(names: &[DeviceName], device: &Device, node: u32) -> bool {
    names.is_empty() || names.iter().any(|name| name.fits(device, node))
}

/// Refuses names that no device has.
pub(super) fn must_exist(names: &[DeviceName], devices: &[(Device, bool)], node: u32) -> Result<()> {
    for name in names {
        if devices.iter().any(|(device, _)| name.fits(device, node)) {
            continue;
        }
        let side = |device: &Device| if device.netns == node { "node" } else { "pod" };
        let known: BTreeSet<String> =
            devices.iter().map(|(device, _)| format!("{}:{}", side(device), escape(&device.name))).collect();
        let known: Vec<String> = known.into_iter().take(8).collect();
        bail!(
            "none of the followed packets' devices is called `{}`: they are {}",
            escape(&name.name),
            known.join(", ")
        );
    }
    Ok(())
}

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

/// The node's ways out alone.
pub(super) fn uplinks(facts: &NodeFacts) -> BTreeSet<Device> {
    let mut devices = wanted(facts, Some(&BTreeSet::new()));
    devices.retain(|device| device.netns == facts.node && facts.behind(device.ifindex).is_none());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn device(netns: u32, name: &str) -> Device {
        Device { netns, ifindex: 2, name: name.to_owned() }
    }

    #[test]
    fn a_name_may_say_whose_device_it_is() {
        let named = |text: &str| vec![text.parse::<DeviceName>().expect("a name")];
        let (pod, node) = (device(7, "eth0"), device(1, "eth0"));
        assert!(is_named(&[], &pod, 1) && is_named(&named("eth0"), &pod, 1) && is_named(&named("eth0"), &node, 1));
        assert!(is_named(&named("pod:eth0"), &pod, 1) && !is_named(&named("pod:eth0"), &node, 1));
        assert!(is_named(&named("node:eth0"), &node, 1) && !is_named(&named("node:eth0"), &pod, 1));
        assert!(!is_named(&named("eth1"), &pod, 1));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "host:eth0", "pod:", "a-name-of-16-byte"] {
            assert!(text.parse::<DeviceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_that_no_device_has_is_refused_with_those_there_are() {
        let devices = [(device(7, "eth0"), false), (device(1, "veth1"), false)];
        let names = ["eth1".parse::<DeviceName>().expect("a name")];
        let error = must_exist(&names, &devices, 1).expect_err("none is called so").to_string();
        assert!(error.contains("`eth1`") && error.contains("node:veth1, pod:eth0"), "{error}");
        assert!(must_exist(&[], &devices, 1).is_ok());
    }
}
