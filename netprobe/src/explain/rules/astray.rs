//! Packets to a pod that leave by an uplink, though the pod is on this node or behind a tunnel of it: the route to it is
//! gone, or a policy rule comes before it. Part of `wrong-egress`.

use std::net::IpAddr;

use super::wrong_egress::{self, Exit};
use crate::{
    explain::{Case, Draft, expected::Expected, intent, tcp::FIRST_TIMEOUT_NS},
    facts::policy,
    model::{
        facts::{Link, NamespaceFacts, NamespaceKind, table_name},
        finding::Confidence,
        packet::{Place, What},
    },
};

/// Leading bits that a pod's address and a tunnel's share by more than chance: two octets of IPv4.
const MEANINGFUL_BITS: u32 = 16;

/// Which way the packet should have gone.
struct Way<'a> {
    /// The device that routing should name.
    link: &'a Link,
    /// Where the pod is, in words.
    place: String,
    /// Why the route is not there, and what helps.
    why: String,
    fix: Vec<String>,
}

pub(super) fn check<'a>(case: &Case<'a>, exit: &Exit<'a>) -> Option<Draft> {
    let target = exit.flow.dst.ip();
    let way = here(case, exit, target).or_else(|| behind_tunnel(case, exit, target))?;
    if way.link.name == exit.device || is_answered(case) {
        return None;
    }
    let device = way.link.name.clone();
    let lost = intent::lost_route(case, exit.node.inum, &exit.flow, None);
    let expected = Expected {
        device: device.clone(),
        gateway: None,
        why: format!("{target} {}", way.place),
        confidence: if lost.is_some() { Confidence::Stated } else { Confidence::Likely },
    };
    let claim = format!(
        "the packets of {} to {} leave this node by {}, though {target} {}: {}",
        case.sender(),
        case.whither(),
        exit.device,
        way.place,
        way.why
    );
    let mut draft = wrong_egress::draft(case, exit, &expected, claim).detail(format!("to {target}"));
    draft.since = lost.as_ref().map(|(text, _)| text.clone());
    if !is_lost(case) {
        draft.proven_ns = exit.step.sighting.packet.mono_ns + FIRST_TIMEOUT_NS;
    }
    for step in lost.map(|(_, command)| command).into_iter().chain(way.fix) {
        draft = draft.fix(step);
    }
    Some(draft.fix("restart the CNI's agent, which writes these routes, so that it stays"))
}

/// The pod with that address is on this node, at the other end of a veth.
fn here<'a>(case: &Case<'_>, exit: &Exit<'a>, target: IpAddr) -> Option<Way<'a>> {
    let node = exit.node;
    let pod = case.facts.namespaces.values().find(|n| n.kind == NamespaceKind::Pod && n.owns(target))?;
    let address = pod.addresses.iter().find(|a| a.net.addr() == target)?;
    let inner = pod.links.get(&address.ifindex).filter(|link| link.kind == "veth")?;
    let is_end = |l: &&Link| l.peer_netns == Some(pod.inum) && (l.index == inner.peer || inner.peer == 0);
    let end = node.links.values().find(is_end)?;
    let bridge = node.links.get(&end.master).filter(|master| master.kind == "bridge");
    let link = bridge.unwrap_or(end);
    let place = bridge.map_or_else(
        || format!("is on this node, behind {}", end.name),
        |bridge| format!("is on this node, behind {} of {}", end.name, bridge.name),
    );
    let ip = if target.is_ipv6() { "ip -6" } else { "ip" };
    let state = wrong_egress::device_state(node, &link.name, target.is_ipv6());
    let (why, fix) = if let Some(state) = state {
        (state, vec![format!("ip link set {} up", link.name)])
    } else if let Some((why, fix)) = overruled(exit, target, link) {
        (why, vec![fix])
    } else if bridge.is_some_and(|b| !node.addresses.iter().any(|a| a.ifindex == b.index && a.net.contains(&target))) {
        let why = format!("{} has no address in its network, and so no route leads there", link.name);
        (why, vec![format!("{ip} addr add ADDRESS/LENGTH dev {}  # the pods' gateway", link.name)])
    } else {
        let fix = format!("{ip} route add {target} dev {} scope link", link.name);
        ("no route leads there".to_owned(), vec![fix])
    };
    Some(Way { link, place, why, fix })
}

/// The main table has the route, and a policy rule leads to another before it is asked.
fn overruled(exit: &Exit<'_>, target: IpAddr, link: &Link) -> Option<(String, String)> {
    const MAIN: u32 = 254;
    let route = policy::lookup(exit.node, MAIN, target)?;
    if exit.route.table == MAIN || !route.next_hops.iter().any(|hop| hop.ifindex == link.index) {
        return None;
    }
    let rule = exit.node.rules.iter().find(|r| Some(r.preference) == exit.route.rule && r.table == exit.route.table)?;
    let why =
        format!("table main has the way there, but policy rule {} ({}) comes before it", rule.preference, rule.text());
    let ip = if target.is_ipv6() { "ip -6" } else { "ip" };
    let before = rule.preference.saturating_sub(1);
    Some((why, format!("{ip} rule add to {} lookup {} pref {before}", route.dst, table_name(MAIN))))
}

/// The pod is on another node, and a tunnel of this one is what carries its network; the packet left beside it.
fn behind_tunnel<'a>(case: &Case<'_>, exit: &Exit<'a>, target: IpAddr) -> Option<Way<'a>> {
    let pod = case.inventory.holder(target)?;
    if case.facts.namespaces.values().any(|n| n.owns(target)) {
        return None;
    }
    let node = exit.node;
    // Only the default route's traffic is astray: a route of its own for the pod's network is meant.
    let by_default = policy::lookup(node, exit.route.table, target).is_none_or(|route| route.dst.prefix_len() == 0);
    let is_tunnel = |link: &&Link| matches!(link.kind.as_str(), "vxlan" | "geneve" | "ipip" | "gre" | "sit");
    let near = |link: &&Link| nearness(node, link.index, target) >= MEANINGFUL_BITS;
    let taken = node.link(exit.device).map_or(0, |link| nearness(node, link.index, target));
    let mut tunnels = node.links.values().filter(is_tunnel).filter(near);
    let (link, another) = (tunnels.next()?, tunnels.next());
    if another.is_some() || !by_default || nearness(node, link.index, target) <= taken {
        return None;
    }
    let ip = if target.is_ipv6() { "ip -6" } else { "ip" };
    let name = &link.name;
    let place = format!("is pod {}/{} of another node, which {name} leads to", pod.namespace, pod.name);
    let (why, fix) = match wrong_egress::device_state(node, name, target.is_ipv6()) {
        Some(state) => (state, format!("ip link set {name} up")),
        None => ("no route leads there".to_owned(), format!("{ip} route show dev {name}  # the other nodes' pods")),
    };
    Some(Way { link, place, why, fix: vec![fix] })
}

/// Leading bits that an address shares with the nearest one of a device.
fn nearness(node: &NamespaceFacts, ifindex: u32, target: IpAddr) -> u32 {
    let bits = |ip: IpAddr| match (ip, target) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    };
    node.addresses.iter().filter(|a| a.ifindex == ifindex).map(|a| bits(a.net.addr())).max().unwrap_or(0)
}

/// The other end said something: some networks send a pod's packets out and in again on purpose.
fn is_answered(case: &Case<'_>) -> bool {
    case.hops().any(|(step, _, head)| !step.forward && !head.flags.rst())
}

/// Something says that it is lost: it was sent again, dropped, refused, or comes by again and again.
fn is_lost(case: &Case<'_>) -> bool {
    let leaves =
        case.hops().filter(|(s, place, head)| s.forward && *place == Place::Transmit && head.ttl < 32).take(1).count();
    leaves > 0
        || case.drops().next().is_some()
        || case
            .steps()
            .any(|s| matches!(s.sighting.packet.what, What::Retransmit { .. } | What::Hop { inner: Some(_), .. }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scene, asked_for, hop, lookup_via, retransmit, syn};
    use crate::model::{
        facts::Link,
        flow::Flow,
        packet::{Head, LookupRole, Place},
    };

    /// `shop/web-0` calls a pod of this node, and its packet leaves by `eth0`.
    fn scene() -> Scene {
        let mut scene = Scene::pod_to_db();
        let flow = Flow { dst: "10.9.0.30:3306".parse().expect("an address"), ..scene.journey.flow };
        scene.journey.flow = flow;
        let head = Head { flow: Some(flow), ..syn() };
        let pod2 = scene.facts.namespaces.values_mut().find(|n| n.owns(flow.dst.ip())).expect("the other pod");
        let inum = pod2.inum;
        let address = pod2.addresses.iter().find(|a| a.net.addr() == flow.dst.ip()).expect("its address").ifindex;
        pod2.links.entry(address).or_default().kind = "veth".to_owned();
        let end = Link {
            index: 9,
            name: "vpod2".to_owned(),
            kind: "veth".to_owned(),
            up: true,
            carrier: true,
            peer_netns: Some(inum),
            ..Link::default()
        };
        scene.node().links.insert(9, end);
        scene.step(1, hop(Place::Receive, head.clone()), "vpod1");
        scene.step(2, asked_for(flow, lookup_via(254, Scene::ETH0, "10.32.0.1", LookupRole::Input)), "");
        scene.step(3, hop(Place::Transmit, head), "eth0");
        scene.step(1_000, retransmit("SYN_SENT"), "");
        scene
    }

    fn claim(scene: &Scene) -> Option<String> {
        (super::wrong_egress::RULE.check)(&scene.case()).map(|draft| draft.claim)
    }

    #[test]
    fn a_pod_of_this_node_is_not_reached_by_an_uplink() {
        let scene = scene();
        assert_eq!(
            claim(&scene).expect("no route leads to it"),
            "the packets of shop/web-0 to 10.9.0.30:3306 leave this node by eth0, though 10.9.0.30 is on this node, behind \
             vpod2: no route leads there"
        );
    }

    #[test]
    fn a_pod_that_answers_is_reached() {
        let mut scene = scene();
        let flow = scene.journey.flow;
        let answer = Head { flow: Some(flow.reversed()), flags: crate::model::packet::TcpFlags(18), ..syn() };
        scene.back(4, hop(Place::Receive, answer), "eth0");
        assert_eq!(claim(&scene), None);
    }
}
