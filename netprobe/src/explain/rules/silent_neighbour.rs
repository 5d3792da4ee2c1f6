//! Why a next hop does not answer ARP or NDP, where the node's own settings tell. Part of
//! `neighbour-unresolved`.

use std::net::IpAddr;

use crate::{
    explain::{Case, Drop, intent},
    model::{
        facts::{Address, Link, NamespaceFacts},
        flow::Flow,
        sighting::Side,
    },
};

/// What proves it, and what helps.
pub(super) struct Reason {
    pub(super) proof: String,
    pub(super) fix: String,
}

/// Why `next_hop` is silent; `None` where it is outside and nobody here knows.
pub(super) fn reason(case: &Case<'_>, drop: &Drop<'_>, next_hop: IpAddr) -> Option<Reason> {
    let packet = &drop.sighting().packet;
    let here = case.namespace(packet.netns)?;
    let link = here.links.get(&packet.ifindex)?;
    let is_pod = drop.sighting().side == Side::Pod;
    overlay(link, next_hop)
        .or_else(|| if is_pod { parent(case, link, next_hop) } else { None })
        .or_else(|| no_port(case, link, next_hop))
        .or_else(|| if is_pod { far_end(case, drop, link, next_hop) } else { None })
}

/// Nobody asks across an overlay: its agent writes the entries.
fn overlay(link: &Link, next_hop: IpAddr) -> Option<Reason> {
    let device = &link.name;
    (link.kind == "vxlan").then(|| Reason {
        proof: format!("{device} is an overlay: its entries come from the CNI's agent, nobody answers across it"),
        fix: format!(
            "restart the CNI's agent (flanneld, calico-node), or: {} neigh add {next_hop} lladdr MAC dev {device} nud permanent",
            command(next_hop)
        ),
    })
}

/// A macvlan or ipvlan device does not reach the host it is on.
fn parent(case: &Case<'_>, link: &Link, next_hop: IpAddr) -> Option<Reason> {
    let node = case.facts.node().filter(|n| n.owns(next_hop))?;
    let kind = match link.kind.as_str() {
        kind @ ("macvlan" | "ipvlan" | "macvtap" | "ipvtap") => kind,
        _ => return None,
    };
    let parent = node.links.get(&link.peer).map_or("its parent", |l| l.name.as_str());
    Some(Reason {
        proof: format!(
            "{next_hop} is the node's own address: a {kind} device never delivers frames to the host of its parent ({parent})"
        ),
        fix: format!(
            "by design: give the node a {kind} device of its own on {parent} and route the pod's address over it, or go \
             through the gateway"
        ),
    })
}

/// The pod behind that address is on the bridge's network, and its device is no port of the bridge.
fn no_port(case: &Case<'_>, link: &Link, next_hop: IpAddr) -> Option<Reason> {
    let node = case.facts.node()?;
    let bridge = bridge_of(node, link)?;
    let pod = case.facts.namespaces.values().find(|n| n.inum != node.inum && n.owns(next_hop))?;
    let port = node.links.values().find(|l| l.kind == "veth" && l.peer_netns == Some(pod.inum))?;
    (port.master != bridge.index).then(|| Reason {
        proof: format!("{}, behind which {next_hop} is, is no port of {}", port.name, bridge.name),
        fix: format!("ip link set {} master {}  # or recreate the pod", port.name, bridge.name),
    })
}

/// The bridge that the device is, or that the other end of a pod's device belongs to.
fn bridge_of<'a>(node: &'a NamespaceFacts, link: &'a Link) -> Option<&'a Link> {
    if link.kind == "bridge" {
        return Some(link);
    }
    let far = (link.peer_netns == Some(node.inum)).then(|| node.links.get(&link.peer))??;
    node.links.get(&far.master).filter(|l| l.kind == "bridge")
}

/// The pod's gateway is the node, and the node does not answer for it.
fn far_end(case: &Case<'_>, drop: &Drop<'_>, link: &Link, gateway: IpAddr) -> Option<Reason> {
    let node = case.facts.node()?;
    let is_destination = drop.head.flow.is_some_and(|flow| flow.dst.ip() == gateway);
    if is_destination {
        return None;
    }
    let pod = drop.sighting().packet.netns;
    let end = node.links.values().find(|l| l.peer_netns == Some(pod) && (l.index == link.peer || link.peer == 0))?;
    // ARP is answered for any address of the node, NDP only for those of the device that is asked.
    let answers =
        |a: &&Address| a.net.addr() == gateway && (gateway.is_ipv4() || [end.index, end.master].contains(&a.ifindex));
    if node.addresses.iter().any(|a| answers(&a)) {
        return None;
    }
    if end.master != 0 {
        return Some(Reason {
            proof: format!("no device of the node has the address {gateway}"),
            fix: format!(
                "{} addr add {gateway}/LENGTH dev BRIDGE  # the CNI's bridge has lost its address",
                command(gateway)
            ),
        });
    }
    if gateway.is_ipv6() {
        return Some(Reason {
            proof: format!("{}, at the other end, has not the address {gateway}", end.name),
            fix: format!("ip -6 addr add {gateway}/64 dev {}", end.name),
        });
    }
    proxy(case, node, end, gateway)
}

/// Proxy ARP answers only where it is on, and while the node has a route of its own to the address.
fn proxy(case: &Case<'_>, node: &NamespaceFacts, end: &Link, gateway: IpAddr) -> Option<Reason> {
    let name = format!("net.ipv4.conf.{}.proxy_arp", end.name);
    if node.sysctl(&name) == Some(0) {
        return Some(Reason {
            proof: format!("no address of the node is {gateway}, and {name} is 0: the node does not answer for it"),
            fix: format!("sysctl -w {name}=1"),
        });
    }
    for setting in ["net.ipv4.ip_forward".to_owned(), format!("net.ipv4.conf.{}.forwarding", end.name)] {
        if node.sysctl(&setting) == Some(0) {
            return Some(Reason {
                proof: format!("{setting} is 0, and a node that does not forward answers ARP for none but itself"),
                fix: format!("sysctl -w {setting}=1"),
            });
        }
    }
    let asked = Flow { src: case.journey.flow.src, dst: (gateway, 0).into(), ..case.journey.flow };
    if let Some(rule) = intent::refusing_rule(node, &asked, Some(&end.name), 0) {
        return Some(Reason {
            proof: format!(
                "the node answers ARP for {gateway} only while it has a route to it, and policy rule {} ({}) refuses it",
                rule.preference,
                rule.text()
            ),
            fix: format!("ip rule del pref {}  # find who installed it", rule.preference),
        });
    }
    (!intent::has_route_in(node, &asked, Some(&end.name))).then(|| Reason {
        proof: format!("the node answers ARP for {gateway} only while it has a route to it, and it has none"),
        fix: "restore the node's default route (main, or the pods' table): then proxy ARP answers again".to_owned(),
    })
}

const fn command(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "ip -6" } else { "ip" }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, drop_of, in_pod, syn};
    use super::*;

    fn told(scene: &mut Scene, next_hop: &str) -> Option<String> {
        scene.step(3_000, in_pod(drop_of(syn(), "NEIGH_FAILED", "neigh_invalidate", &[])), "eth0");
        let case = scene.case();
        let drop = case.drops().next().expect("there is a drop");
        reason(&case, &drop, next_hop.parse().expect("an address")).map(|reason| reason.proof)
    }

    #[test]
    fn proxy_arp_that_is_off_is_told() {
        let mut scene = Scene::pod_to_db();
        scene.node().sysctls.insert("net.ipv4.conf.vpod1.proxy_arp".to_owned(), "0".to_owned());
        let proof = told(&mut scene, "169.254.1.1").expect("it is off");
        assert!(proof.contains("net.ipv4.conf.vpod1.proxy_arp is 0"), "{proof}");
    }

    #[test]
    fn forwarding_that_is_off_and_a_rule_that_refuses_silence_proxy_arp() {
        let mut off = Scene::pod_to_db();
        off.node().sysctls.insert("net.ipv4.ip_forward".to_owned(), "0".to_owned());
        let proof = told(&mut off, "169.254.1.1").expect("it is off");
        assert!(proof.starts_with("net.ipv4.ip_forward is 0"), "{proof}");
        let mut refused = Scene::pod_to_db();
        let mut rule = refused.node().rules.iter().find(|r| r.table == 2).expect("a pod's rule").clone();
        (rule.preference, rule.action) = (900, crate::model::facts::RuleAction::Blackhole);
        refused.node().rules.push(rule);
        let proof = told(&mut refused, "169.254.1.1").expect("the rule refuses");
        assert!(proof.contains("policy rule 900 ("), "{proof}");
    }

    #[test]
    fn a_macvlan_pod_does_not_reach_its_host() {
        let mut scene = Scene::pod_to_db();
        let eth0 = scene.pod().links.get_mut(&2).expect("eth0");
        (eth0.kind, eth0.peer) = ("macvlan".to_owned(), Scene::ETH0);
        let proof = told(&mut scene, "10.32.0.10").expect("it is the parent's host");
        assert!(proof.ends_with("never delivers frames to the host of its parent (eth0)"), "{proof}");
    }

    #[test]
    fn nothing_is_made_up_about_a_gateway_that_the_node_answers_for() {
        let mut scene = Scene::pod_to_db();
        scene.node().sysctls.insert("net.ipv4.conf.vpod1.proxy_arp".to_owned(), "1".to_owned());
        assert_eq!(told(&mut scene, "169.254.1.1"), None);
    }
}
