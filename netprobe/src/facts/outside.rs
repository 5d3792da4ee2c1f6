//! Which of the namespaces linked into the node are pods, and which are the world outside.
//!
//! On a machine with hardware NICs every linked namespace is a pod. Test benches, labs and nested nodes put a veth
//! where the NIC would be and a namespace where the wire would end. Such a namespace is **outside** if
//!
//! 1. it holds the gateway of one of the node's routes, or
//! 2. the node's end of a veth into it carries a route with a gateway (an uplink), or
//! 3. it forwards, shares a subnet with the node on the node's end of that veth, and has no default route back
//!    through the node. This catches an uplink whose routes are gone, which is the fault we look for. The
//!    default route tells it from a pod: pods inherit `ip_forward` from the host, so that alone says nothing.
//!
//! A namespace that holds an address of a pod in the inventory is a pod whatever else holds. One known as outside stays
//! outside: its routes may be deleted later.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::facts::{Link, NamespaceFacts};

/// Whether `other`, which is linked into `node`, is the world outside.
pub(super) fn is_outside(node: &NamespaceFacts, other: &NamespaceFacts, pod_addresses: &[IpAddr]) -> bool {
    if pod_addresses.iter().any(|ip| other.owns(*ip)) {
        return false;
    }
    let gateways = || node.routes.iter().flat_map(|route| &route.next_hops).filter_map(|hop| hop.gateway);
    if gateways().filter(|ip| !is_link_local(*ip)).any(|ip| other.owns(ip)) {
        return true;
    }
    let uplinks = node.uplinks();
    let ends: Vec<u32> = near_ends(node, other).map(|near| near.index).collect();
    if ends.iter().any(|index| uplinks.contains(index)) {
        return true;
    }
    forwards(other) && shares_subnet(node, &ends, other) && !leaves_by(other, node.inum)
}

/// The node's ends of the veths between the two. The parent of a pod's macvlan is none of them.
fn near_ends<'a>(node: &'a NamespaceFacts, other: &'a NamespaceFacts) -> impl Iterator<Item = &'a Link> {
    node.links.values().filter(|near| near.peer_netns == Some(other.inum))
}

fn forwards(namespace: &NamespaceFacts) -> bool {
    ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"].iter().any(|name| namespace.sysctl(name) == Some(1))
}

fn shares_subnet(node: &NamespaceFacts, ends: &[u32], other: &NamespaceFacts) -> bool {
    let subnets = node.addresses.iter().filter(|a| ends.contains(&a.ifindex)).map(|a| a.net).filter(is_subnet);
    subnets.into_iter().any(|net| other.addresses.iter().any(|a| net.contains(&a.net.addr())))
}

fn is_subnet(net: &IpNet) -> bool {
    net.prefix_len() < net.max_prefix_len() && !is_link_local(net.addr())
}

/// 169.254/16 and fe80::/10 are used on many links at once and say nothing about who is at the other end.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Its default route is over a link into that namespace.
fn leaves_by(namespace: &NamespaceFacts, into: u32) -> bool {
    let defaults = namespace.routes.iter().filter(|route| route.dst.prefix_len() == 0);
    defaults
        .flat_map(|route| &route.next_hops)
        .filter_map(|hop| namespace.links.get(&hop.ifindex))
        .any(|link| link.peer_netns == Some(into))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::facts::{Address, NextHop, Route, RouteKind};

    const NODE: u32 = 1;
    const OTHER: u32 = 2;

    fn linked(inum: u32, peer_netns: u32, address: &str) -> NamespaceFacts {
        let mut facts = NamespaceFacts { inum, ..NamespaceFacts::default() };
        facts.links.insert(7, Link { index: 7, peer: 7, peer_netns: Some(peer_netns), ..Link::default() });
        facts.addresses.push(Address { ifindex: 7, net: address.parse().unwrap() });
        facts
    }

    fn default_via(gateway: &str) -> Route {
        Route {
            table: 254,
            dst: "0.0.0.0/0".parse().unwrap(),
            kind: RouteKind::Unicast,
            next_hops: vec![NextHop { gateway: Some(gateway.parse().unwrap()), ifindex: 7 }],
            priority: 0,
            prefsrc: None,
            protocol: "boot".to_owned(),
        }
    }

    fn forwarding(mut facts: NamespaceFacts) -> NamespaceFacts {
        facts.sysctls.insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
        facts
    }

    #[test]
    fn a_namespace_behind_a_device_with_a_gateway_is_outside() {
        let mut node = linked(NODE, OTHER, "10.0.0.10/24");
        node.routes.push(default_via("10.0.0.1"));
        assert!(is_outside(&node, &linked(OTHER, NODE, "10.0.0.2/24"), &[]), "a switch before the gateway");
        assert!(is_outside(&node, &linked(OTHER, NODE, "10.0.0.1/24"), &[]), "the gateway");
    }

    #[test]
    fn an_uplink_whose_routes_are_gone_is_still_outside() {
        let node = linked(NODE, OTHER, "10.0.0.10/24");
        assert!(is_outside(&node, &forwarding(linked(OTHER, NODE, "10.0.0.1/24")), &[]));
    }

    #[test]
    fn a_pod_that_inherited_forwarding_is_a_pod() {
        let node = linked(NODE, OTHER, "10.1.0.1/24");
        let mut pod = forwarding(linked(OTHER, NODE, "10.1.0.2/24"));
        pod.routes.push(default_via("10.1.0.1"));
        assert!(!is_outside(&node, &pod, &[]));
    }

    #[test]
    fn a_pod_with_a_host_route_and_no_default_route_is_a_pod() {
        let node = linked(NODE, OTHER, "169.254.1.1/32");
        assert!(!is_outside(&node, &forwarding(linked(OTHER, NODE, "10.1.0.2/32")), &[]));
    }

    #[test]
    fn a_macvlan_pod_on_an_uplink_is_a_pod() {
        let mut node = linked(NODE, OTHER, "10.0.0.10/24");
        node.routes.push(default_via("10.0.0.1"));
        node.links.get_mut(&7).unwrap().peer_netns = None;
        assert!(!is_outside(&node, &forwarding(linked(OTHER, NODE, "10.0.0.77/24")), &[]));
    }

    #[test]
    fn the_inventory_has_the_last_word() {
        let mut node = linked(NODE, OTHER, "10.0.0.10/24");
        node.routes.push(default_via("10.0.0.1"));
        assert!(!is_outside(&node, &linked(OTHER, NODE, "10.0.0.1/24"), &["10.0.0.1".parse().unwrap()]));
    }
}
